"""The desk's page in a real browser, and what a director does with it."""

import json
import time

MOST_MS = 60_000  # for anything to appear, on a busy machine
CHUNK = 0.75
BEACH, FOREST = "Mia walks left on the beach.", "Otto waves in the forest."
TIME = "document.querySelector('video.film').currentTime"
QUEUED = "[...document.querySelectorAll('.queued .shot')].map((shot) => shot.dataset.shot)"
MADE = "[...document.querySelectorAll('.made .shot')].map((shot) => shot.dataset.shot)"
HEAD = "Number(document.querySelector('.playhead').ariaValueMax)"
FOCUS = "document.activeElement.id || document.activeElement.className"
COLOUR = """() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  context.drawImage(document.querySelector("video.film"), 0, 0, 8, 8, 0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""
SOCKETS = """
  const Real = WebSocket;
  window.sockets = [];
  window.WebSocket = class extends Real {
    constructor(...given) { super(...given); sockets.push(this); }
  };
"""


def begin(page, *captions, chunks=None):
    page.fill("#global", "A gentle tale about Mia the fox and Otto the bear.")
    page.click("text=Begin")
    for _ in range(abs((chunks or 4) - 4)):
        page.click(".prompt [aria-label=Longer]" if chunks > 4 else ".prompt [aria-label=Shorter]")
    for caption in captions:
        type_shot(page, caption)


def type_shot(page, caption, key="Enter"):
    page.fill("#prompt", caption)
    page.press("#prompt", key)


def until(page, condition, given=None):
    """Asks again and again: the page's content policy forbids Playwright's wait_for_function."""
    end = time.monotonic() + MOST_MS / 1000
    while not page.evaluate(condition, given):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def played(page, seconds):
    until(page, f"{TIME} > {seconds}")


def paused_at(page, seconds):
    """The colour of the picture at that time. The playhead stays there."""
    played(page, seconds)
    page.evaluate(f"document.querySelector('video.film').pause(); {TIME} = {seconds}")
    until(page, "!document.querySelector('video.film').seeking")
    page.wait_for_timeout(300)  # the frame's way onto the element
    return page.evaluate(COLOUR)


def apart(one, other):
    return max(abs(a - b) for a, b in zip(one, other)) > 12


def told(page, **message):
    """The page is told this, as if by its server."""
    page.evaluate("message => sockets.at(-1).onmessage({data: message})", json.dumps(message))


def order(page, key, selector="body"):
    page.evaluate("document.activeElement.blur()")
    page.press(selector, key)
