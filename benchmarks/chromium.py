"""Chromium driven by Playwright, for what is measured, tested and drawn in a browser."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FIX = "make desk-test installs it"


def chromium_path() -> str | None:
    """The environment's CHROMIUM, else what the distribution has."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def missing_browser() -> str | None:
    """What a browser lacks here, with the fix; None where one can be opened."""
    if importlib.util.find_spec("playwright") is None:
        return f"needs Playwright: {FIX}"
    return None if chromium_path() else f"needs Chromium: {FIX}"


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A Chromium without a window, as Playwright's Browser. No event loop may run meanwhile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers run as root, where Chromium's sandbox cannot start.
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
