"""Captions written by another program, or by a server that speaks OpenAI's chat protocol.

    windows -> requests: the shots' times, and pictures of each
            -> answers: {"id", "global", "shots"}

A program reads requests as JSON lines on its standard input, and writes answers as JSON lines on
its standard output, in any order. What cannot be used is a reason, and its window is asked again at
the next run.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import shlex
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from causalcine_jax.data.video.captions import Captions, from_json, parse
from causalcine_jax.data.video.filters import Reason
from causalcine_jax.errors import DataError, UsageError, printable, shown

KEY = "CAUSALCINE_CAPTIONER_KEY"  # the environment variable with a server's key
LONGEST_LINE = 1 << 20  # characters of an answer
TIMEOUT = 300  # seconds of one answer of a server
AT_ONCE = 4  # requests to a server
MOST_FAILURES = 8  # one after another, and the server is asked no more
ASK = (
    "You see pictures of {count} consecutive shots of a film, in order. Answer with JSON alone: "
    '{{"global": "...", "shots": ["...", ...]}}. "global" describes what all shots share: people, '
    'place, light, style. "shots" holds {count} texts, one per shot: framing, camera, who is seen '
    "and what happens. Write about 60 words each, and describe people anew in every shot."
)


@dataclass(frozen=True)
class Request:
    """What is asked about one window.

    video   its file
    shots   start and end of each shot in the video, in seconds
    images  JPEG pictures of every shot
    """

    id: str
    video: Path
    shots: tuple[tuple[float, float], ...]
    images: list[list[bytes]]


Answer = tuple[str, Captions | Reason]
Captioner = Callable[[Iterable[Request]], Iterator[Answer]]


def by_command(command: str) -> Captioner:
    """A captioner that runs `command` once for all windows.

    Raises:
      UsageError: there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--captioner {shown(command)}: {error}") from None
    if not words:
        raise UsageError("--captioner needs a command")

    def answers(requests: Iterable[Request]) -> Iterator[Answer]:
        with tempfile.TemporaryDirectory(prefix="causalcine-") as pictures:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    encoding="utf-8",
                    errors="replace",
                )
            except OSError as error:
                raise UsageError(
                    f"--captioner {shown(words[0])} cannot be run: {error.strerror or error}"
                ) from None
            told = _Writer(process, requests, Path(pictures))
            try:
                yield from _answers(process, told)
                told.join()
                code = process.wait()
            finally:
                process.kill()
                process.wait()
                told.join()
        if told.error is not None:
            raise told.error
        for window in list(told.asked):
            said = f"; it ended with exit code {code}" if code else ""
            yield window, ("captioner failed", f"the captioner gave no answer{said}")

    return answers


class _Writer(threading.Thread):
    """Writes requests while answers are read, so that neither side waits for the other.

    asked  the number of shots of every window without an answer
    error  why not all were written, if it is not the captioner's fault
    """

    def __init__(self, process, requests: Iterable[Request], pictures: Path):
        super().__init__(daemon=True)
        self.asked: dict[str, int] = {}
        self.error: Exception | None = None
        self._process, self._requests, self._pictures = process, requests, pictures
        self.start()

    def run(self) -> None:
        try:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                for request in self._requests:
                    self.asked[request.id] = len(request.shots)
                    stdin.write(json.dumps(self._as_json(request)) + "\n")
                    stdin.flush()
        except OSError as error:
            self.error = DataError(f"cannot write pictures for the captioner: {error}")

    def answered(self, window: str) -> int:
        """Returns the number of its shots, and removes its pictures."""
        for file in self._pictures.glob(f"{window}-*.jpg"):
            file.unlink(missing_ok=True)
        return self.asked.pop(window)

    def _as_json(self, request: Request) -> dict[str, Any]:
        shots = []
        for number, (times, images) in enumerate(zip(request.shots, request.images)):
            files = []
            for place, image in enumerate(images):
                file = self._pictures / f"{request.id}-{number}-{place}.jpg"
                file.write_bytes(image)
                files.append(str(file))
            shots.append({"start": times[0], "end": times[1], "images": files})
        return {"id": request.id, "video": str(request.video), "shots": shots}


def _answers(process, told: _Writer) -> Iterator[Answer]:
    while line := process.stdout.readline(LONGEST_LINE):
        if not line.strip():
            continue
        try:
            data = from_json(line, "an answer of the captioner")
            window = data.get("id") if isinstance(data, dict) else None
            if not isinstance(window, str) or window not in told.asked:
                continue
        except UsageError:
            continue  # a note to the user, or rubbish; its window stays unanswered
        yield window, _judged(data, told.answered(window))


def _judged(data: Any, shots: int) -> Captions | Reason:
    try:
        found = parse(data, "the captioner's answer")
    except UsageError as error:
        return "captioner failed", str(error)
    if len(found.shots) != shots:
        return "captioner failed", f"it described {len(found.shots)} shots of {shots}"
    return found


def by_server(url: str, model: str) -> Captioner:
    """A captioner that asks `model` of the server at `url`, such as http://localhost:8000/v1.

    The environment variable KEY holds the server's key, if it needs one.
    """
    if not re.match(r"https?://", url):
        raise UsageError(f"--captioner-url must begin with http:// or https://, not {shown(url)}")
    failures = {"in a row": 0}

    def one(request: Request) -> Answer:
        if failures["in a row"] >= MOST_FAILURES:
            return request.id, ("captioner failed", "the server failed too often before it")
        try:
            content = _ask(url.rstrip("/"), model, request)
            failures["in a row"] = 0
            return request.id, _judged(
                from_json(_json_in(content), "the server's answer"), len(request.shots)
            )
        except UsageError as error:
            return request.id, ("captioner failed", str(error))
        except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
            failures["in a row"] += 1
            reason = printable(f"{url} failed: {error}")[:300]
            return request.id, ("captioner failed", reason)

    def answers(requests: Iterable[Request]) -> Iterator[Answer]:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            waiting = iter(requests)
            while batch := list(itertools.islice(waiting, AT_ONCE)):
                yield from threads.map(one, batch)

    return answers


def _ask(url: str, model: str, request: Request) -> str:
    parts: list[dict[str, Any]] = [{"type": "text", "text": ASK.format(count=len(request.shots))}]
    for number, images in enumerate(request.images, start=1):
        parts.append({"type": "text", "text": f"Shot {number}:"})
        for image in images:
            data = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
            parts.append({"type": "image_url", "image_url": {"url": data}})
    body = {"model": model, "messages": [{"role": "user", "content": parts}], "temperature": 0}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    asked = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
        return json.loads(answer.read(LONGEST_LINE))["choices"][0]["message"]["content"]


def _json_in(text: str) -> str:
    """The JSON object in a model's answer, which may stand in a code block."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    return found[0] if found else text
