"""How long the desk's page takes in Chromium, from opening it to its first frame on the screen."""

import time
from statistics import median
from typing import Any

from benchmarks.chromium import chromium
from causalcine_jax.errors import DataError

OPENINGS = 5
PLAYED_S = 1.0  # before the page is loaded again
MOST_MS = 60_000  # for anything to appear
BEGIN = "text=Film an example"
# Times are the browser's own: ms since the page was asked for.
MOMENTS = """
  const moments = (window.moments = {});
  const ask = HTMLVideoElement.prototype.requestVideoFrameCallback;
  HTMLVideoElement.prototype.requestVideoFrameCallback = function (shown) {
    return ask.call(this, (now, frame) => {
      moments.first_frame_s ??= frame.expectedDisplayTime / 1000;
      shown(now, frame);
    });
  };
  const Real = WebSocket;
  window.WebSocket = class extends Real {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", ({ data }) => {
        if (typeof data === "string" && JSON.parse(data).type === "media.chunk")
          moments.media_s ??= performance.now() / 1000;
      });
    }
  };
  addEventListener("click", () => (moments.begun_s ??= performance.now() / 1000), true);
"""


def opened_pages(url: str, openings: int = OPENINGS) -> dict[str, Any]:
    """Opens the page in new contexts, without anything cached, and films the example; reloads it.

    One opening before is not counted, so that browser and server are warm.

    Returns medians in seconds from opening the page: `begun_s` to the click that begins the film,
    `media_s` to its first chunk, `first_frame_s` to the first frame on the screen. `reload_s` is
    the same for a page that is loaded again, and goes on with its film.
    """
    with chromium() as browser:
        version, first = browser.version, _opened(browser, url)
        warm = [_opened(browser, url) for _ in range(openings)]
    frames = [each["first_frame_s"] for each in warm]
    return {
        "browser": f"Chromium {version}",
        "openings": openings,
        **{name: median(each[name] for each in warm) for name in warm[0]},
        "first_frame_longest_s": max(frames),
        "first_opening_s": first["first_frame_s"],
    }


def _opened(browser: Any, url: str) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(MOST_MS)
    context.add_init_script(MOMENTS)
    page = context.new_page()
    try:
        page.goto(url)
        page.click(BEGIN)
        found = _moments(page)
        _until(page, f"document.querySelector('video.film').currentTime > {PLAYED_S}")
        page.reload()
        found["reload_s"] = _moments(page)["first_frame_s"]
        page.click("text=New film")  # ends it: the next opening has the device alone
        page.wait_for_selector(BEGIN)
    finally:
        context.close()
    return found


def _moments(page: Any) -> dict[str, float]:
    _until(page, "moments.first_frame_s")
    found = page.evaluate("moments")
    return {name: found[name] for name in ("begun_s", "media_s", "first_frame_s") if name in found}


def _until(page: Any, condition: str) -> None:
    """Asks again and again: the page's content policy forbids Playwright's wait_for_function."""
    end = time.monotonic() + MOST_MS / 1000
    while not page.evaluate(condition):
        if time.monotonic() > end:
            raise DataError(f"the page did not come to: {condition}")
        page.wait_for_timeout(20)
