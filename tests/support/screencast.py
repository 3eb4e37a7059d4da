"""What a page shows: a picture, and a moving picture of what it shows over time."""

import base64
import io
from pathlib import Path

from PIL import Image

PER_SECOND = 6  # pictures of the moving picture, which shows fewer than the page does


def still(page, path: Path) -> None:
    """Writes a WebP of the page as it is now."""
    Image.open(io.BytesIO(page.screenshot())).save(path, quality=85, method=6)


class Screencast:
    """Chromium's own screencast of `page`, from now on: a picture whenever the page changes.

    Playwright's recording of videos needs a build of ffmpeg that distributions do not have.
    Pictures come while Playwright waits, so hold it with page.wait_for_timeout.
    """

    def __init__(self, page):
        self._shown: list[tuple[float, bytes]] = []  # time in seconds, JPEG
        self._chromium = page.context.new_cdp_session(page)
        self._chromium.on("Page.screencastFrame", self._came)
        self._chromium.send("Page.startScreencast", {"format": "jpeg", "quality": 95})

    def _came(self, frame: dict) -> None:
        self._shown.append((frame["metadata"]["timestamp"], base64.b64decode(frame["data"])))
        self._chromium.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})

    def save(self, path: Path, width: int) -> None:
        """Stops, and writes an animated WebP `width` pixels wide."""
        self._chromium.send("Page.stopScreencast")
        times = [time - self._shown[0][0] for time, _ in self._shown]
        pictures, at = [], 0
        for number in range(int(times[-1] * PER_SECOND) + 1):
            while at + 1 < len(times) and times[at + 1] <= number / PER_SECOND:
                at += 1
            picture = Image.open(io.BytesIO(self._shown[at][1])).convert("RGB")
            height = round(picture.height * width / picture.width)
            pictures.append(picture.resize((width, height), Image.Resampling.LANCZOS))
        each = round(1000 / PER_SECOND)  # milliseconds
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=each, loop=0, quality=70
        )
