"""The desk's page in Chromium: seconds until the director sees it. Needs Playwright too."""

import os
import re
import shutil
import time
from statistics import median
from typing import Any

from causalcine_jax.errors import DataError

SHOTS = 8
MOST_MS = 60_000
SHOWN = "document.querySelector('video.film')?.getVideoPlaybackQuality().totalVideoFrames > 0"
STATUS = "document.querySelector('.doing')?.dataset.status"
METERS = "[...document.querySelectorAll('.meters div')].map((each) => each.innerText)"
# As desk_page.py of the tests: named by the environment, or the distribution's.
NAMES = ("chromium", "chromium-browser", "google-chrome")


def in_browser(url: str, captions: list[str]) -> dict[str, Any]:
    """Opens the page, films an example, then types shots for a player that waits for them.

    first_frame_s  from opening the page, by one who was here before, to the first frame
    lag_s          from a chunk's arrival at the page to the screen, the median
    answer_s       from Enter to the new shot's first frame, where no shot was queued, the median
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise DataError('page needs Playwright: pip install -e ".[browser]"') from error
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        raise DataError("page needs Chromium: install the distribution's, or set CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            context = browser.new_context()
            context.set_default_timeout(MOST_MS)
            _first_frame(context.new_page(), url)
            page = context.new_page()  # another tab, which begins a film of its own
            first = _first_frame(page, url.split("?")[0])  # the address that a cookie opens
            lags, answers = [], []
            for number in range(SHOTS):
                _until(page, f"{STATUS} === 'starved'")
                page.wait_for_timeout(800)  # until the player has shown everything
                page.fill("#prompt", captions[number % len(captions)])
                before = _told(page)
                page.press("#prompt", "Enter")
                told = before
                while told == before:
                    page.wait_for_timeout(20)
                    told = _told(page)
                lags.append(told["lag"])
                answers.append(told["last order"])
        finally:
            browser.close()
    return {
        "first_frame_s": first,
        "lag_s": median(lags),
        "lag_longest_s": max(lags),
        "answer_s": median(answers),
        "answer_longest_s": max(answers),
    }


def _first_frame(page: Any, url: str) -> float:
    begun = time.monotonic()
    page.goto(url)
    page.click("text=Film an example")
    _until(page, SHOWN)
    return time.monotonic() - begun


def _until(page: Any, condition: str) -> None:
    end = time.monotonic() + MOST_MS / 1000
    while not page.evaluate(condition):
        if time.monotonic() > end:
            raise DataError(f"the page never came to {condition}")
        page.wait_for_timeout(10)


def _told(page: Any) -> dict[str, float]:
    """The page's own stopwatch: lag and last order in seconds."""
    told = {}
    for text in page.evaluate(METERS):
        if found := re.match(r"(lag|last order)\s+([\d.]+) (ms|s)$", text.strip()):
            name, value, unit = found.groups()
            told[name] = float(value) / (1000 if unit == "ms" else 1)
    return told
