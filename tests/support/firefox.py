"""Firefox without a window. It speaks WebDriver BiDi over a websocket, so no driver is needed."""

import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from websockets.sync.client import connect

SECONDS = 60  # in which it starts and answers, on a busy machine
FIREFOX = shutil.which("firefox") or shutil.which("firefox-esr")


@contextlib.contextmanager
def firefox():
    """Its one page, with what desk_page.py needs of Playwright's."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [FIREFOX, "--headless", "--remote-debugging-port", "0", "--profile", profile]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **quiet) as process:
            try:
                with connect(f"{address(Path(profile))}/session", max_size=None) as socket:
                    yield FirefoxPage(socket)
            finally:
                process.terminate()


def address(profile):
    told, end = profile / "WebDriverBiDiServer.json", time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return "ws://{ws_host}:{ws_port}".format(**json.loads(told.read_text("utf-8")))
        time.sleep(0.05)
    raise TimeoutError("Firefox did not start")


class FirefoxPage:
    def __init__(self, socket):
        self._socket, self._ids = socket, itertools.count()
        self._order("session.new", capabilities={})
        self._page = self._order("browsingContext.getTree")["contexts"][0]["context"]

    def goto(self, url):
        self._order("browsingContext.navigate", context=self._page, url=url, wait="complete")

    def evaluate(self, script, _=None):
        asked = {"expression": script, "target": {"context": self._page}, "awaitPromise": False}
        told = self._order("script.evaluate", **asked)
        return told["result"].get("value")  # told has no result where the script threw

    def wait_for_timeout(self, milliseconds):
        time.sleep(milliseconds / 1000)

    def _order(self, method, **params):
        sent = next(self._ids)
        self._socket.send(json.dumps({"id": sent, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv(SECONDS))).get("id") != sent:
            pass
        return answer["result"]
