"""Captions by a server that speaks OpenAI's chat protocol.

    request -> POST /chat/completions -> JSON in the answer's text -> captions

Several requests run at once, each window as soon as another is answered. A server that is busy or
restarts is asked again, later and later. One that fails for good is asked no more in this run.
"""

import base64
import email.utils
import itertools
import json
import os
import random
import re
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from causalcine_jax.data.video.captioner import (
    CAPTIONER_FAILED,
    LONGEST_LINE,
    Answer,
    Captioner,
    CaptionerOptions,
    Request,
    judged,
)
from causalcine_jax.data.video.captions import from_json
from causalcine_jax.errors import UsageError, printable, shown
from causalcine_jax.utils.plain_data import parse_plain, read_text

KEY = "CAUSALCINE_CAPTIONER_KEY"  # the environment variable with a server's key
SERVER_TIMEOUT = 300.0  # seconds
MOST_FAILURES = 8  # one after another, and the server is asked no more
TRIES = 8  # of a request
FIRST_WAIT, LONGEST_WAIT = 2.0, 60.0  # seconds between them
LONGEST_ASKED_WAIT = 600.0  # seconds, where the server names them
BUSY = (408, 425, 429)  # and 5xx: HTTP codes of which a later try may do better
LONGEST_REASON = 500  # characters
ASK = (
    "You see pictures of {count} consecutive shots of a film, in order. Answer with JSON alone: "
    '{"global": "...", "shots": ["...", ...]}. "global" describes what all shots share: people, '
    'place, light, style. "shots" holds {count} texts, one per shot: framing, camera, who is seen '
    "and what happens. Write about 60 words each, and describe people anew in every shot."
)


def read_prompt(file: Path) -> str:
    """The prompt in a file. `UsageError` where it is empty."""
    if not (prompt := read_text(file).strip()):
        raise UsageError(f"--captioner-prompt {file}: is empty")
    return prompt


def read_request(text: str) -> Mapping[str, Any]:
    """Fields of a request, written as JSON. `UsageError` where they are none."""
    data = parse_plain(text, "--captioner-request", as_json=True)
    if not isinstance(data, Mapping):
        raise UsageError(
            f'--captioner-request must be fields such as {{"max_tokens": 2000}}, not {shown(data)}'
        )
    return data


def by_server(url: str, model: str, options: CaptionerOptions = CaptionerOptions()) -> Captioner:
    """A captioner that asks `model` of the server at `url`, such as http://localhost:8000/v1.

    The environment variable KEY holds the server's key, if it needs one.
    """
    if not re.match(r"https?://", url):
        raise UsageError(f"--captioner-url must begin with http:// or https://, not {shown(url)}")

    def answers(requests: Iterable[Request]) -> Iterator[Answer]:
        server, waiting = _Server(url, model, options), iter(requests)
        threads = ThreadPoolExecutor(options.at_once)
        running: set[Future[Answer]] = set()
        try:
            while True:
                # Some wait for a thread, so that none idles while pictures are read.
                for request in itertools.islice(waiting, 2 * options.at_once - len(running)):
                    running.add(threads.submit(server.answer, request))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    yield each.result()
        finally:
            server.stopping.set()
            threads.shutdown(cancel_futures=True)

    return answers


class _Failed(Exception):
    """The server gave no answer.

    later  whether a later try may do better
    wait   seconds until then, as the server says
    """

    def __init__(self, reason: str, later: bool = False, wait: float | None = None):
        super().__init__(reason)
        self.later, self.wait = later, wait


class _Server:
    """What requests to one server share: whether it answers, and whether to go on."""

    def __init__(self, url: str, model: str, options: CaptionerOptions):
        self.stopping = threading.Event()
        self._url, self._model, self._options = url.rstrip("/"), model, options
        self._answered = False  # at least once
        self._failures = 0  # one after another

    def answer(self, request: Request) -> Answer:
        if self._failures >= MOST_FAILURES:
            return request.id, (CAPTIONER_FAILED, "the server failed too often before it")
        try:
            text = self._text(request)
        except (_Failed, ValueError, LookupError, TypeError, AttributeError) as error:
            self._failures += 1
            reason = printable(f"{self._url} failed: {error}")[:LONGEST_REASON]
            return request.id, (CAPTIONER_FAILED, reason)
        self._answered, self._failures = True, 0
        try:
            data = from_json(_json_in(text), "the server's answer")
        except UsageError as error:
            return request.id, (CAPTIONER_FAILED, str(error))
        return request.id, judged(data, len(request.shots))

    def _text(self, request: Request) -> str:
        """What the model wrote, after several tries where that may help."""
        body = self._body(request)
        for attempt in itertools.count():
            try:
                return self._post(body)
            except _Failed as failed:
                if not failed.later or attempt + 1 >= TRIES:
                    raise
                pause = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0)
                if self.stopping.wait(pause if failed.wait is None else failed.wait):
                    raise
        raise AssertionError

    def _post(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        asked = urllib.request.Request(f"{self._url}/chat/completions", body, headers)
        try:
            timeout = self._options.timeout or SERVER_TIMEOUT
            with urllib.request.urlopen(asked, timeout=timeout) as answer:
                choice = json.loads(answer.read(LONGEST_LINE))["choices"][0]
        except HTTPError as error:
            raise _refused(error) from None
        except (OSError, HTTPException) as error:
            late = isinstance(getattr(error, "reason", error), TimeoutError)
            # A server that never answered may be one that is not there.
            raise _Failed(str(error) or type(error).__name__, self._answered and not late) from None
        text = choice["message"].get("content")
        if not isinstance(text, str):
            ended = f" (finish_reason {choice.get('finish_reason')})"
            raise _Failed(f"an answer without text{ended}: {shown(choice['message'])}")
        return text

    def _body(self, request: Request) -> bytes:
        count = str(len(request.shots))
        prompt = (self._options.prompt or ASK).replace("{count}", count)
        parts: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        for number, images in enumerate(request.images, start=1):
            parts.append({"type": "text", "text": f"Shot {number}:"})
            for image in images:
                data = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
                parts.append({"type": "image_url", "image_url": {"url": data}})
        fields = {
            "model": self._model,
            "messages": [{"role": "user", "content": parts}],
            "temperature": 0,
            **self._options.request,
        }
        return json.dumps({k: v for k, v in fields.items() if v is not None}).encode()


def _refused(error: HTTPError) -> _Failed:
    try:
        said = " ".join(error.read(LONGEST_REASON).decode("utf-8", "replace").split())
    except (OSError, HTTPException):
        said = ""
    reason = f"HTTP {error.code} {error.reason}" + (f": {said}" if said else "")
    return _Failed(reason, error.code in BUSY or error.code >= 500, _wait(error.headers))


def _wait(headers: Message) -> float | None:
    """The seconds of Retry-After, which is a number or a date."""
    told = headers.get("Retry-After", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), LONGEST_ASKED_WAIT) if seconds == seconds else None


def _json_in(text: str) -> str:
    """The JSON object in a model's answer, which may stand in a code block."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    return found[0] if found else text
