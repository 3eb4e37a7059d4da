"""Directs a desk's session by lines of text, for `causalcine direct`.

    lines --(a thread)--> messages to the server      messages from it --> lines to the terminal

A line is the next shot; `6: Mia waves.` makes it six chunks long. A line that begins with / is one
of COMMANDS. At the end of the lines the film is finished, and saved.
"""

import contextlib
import threading
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from causalcine_jax.errors import DataError, UsageError, nearest
from causalcine_jax.film.story_edits import shot_of_line
from causalcine_jax.serve.client import Address, DeskClient
from causalcine_jax.serve.parts import TAKE_FILES
from causalcine_jax.serve.server_messages import OVER
from causalcine_jax.utils.atomic_file import atomic_file
from causalcine_jax.utils.output import remove_files

COMMANDS = {
    "cut": "[CAPTION]: cut at the next chunk, to that shot or to the first queued one",
    "retake": "SHOT [CAPTION]: film a shot again, as a new take",
    "branch": "SHOT: go on from the beginning of a shot with others, as a new take",
    "take": "TAKE: go on with another take, such as t1",
    "pause": "make no more chunks",
    "go": "go on after /pause",
    "save": "write film.mp4, film.json, story.yaml and contact_sheet.png to --out",
    "help": "this list",
}
DONE = (*OVER, "paused")  # statuses in which no chunk is being made
QUIET = 1.0  # seconds without a message, after which a film with nothing queued is finished


class Terminal:
    """One session: `run` directs it to the end of the lines."""

    def __init__(self, desk: DeskClient, address: Address, out: Path, tell: Callable[[str], None]):
        self._desk, self._address, self._out, self._tell = desk, address, out, tell
        self._session, self._take, self._status = "", "", ""
        self._film_s = 0.0
        self._shots: tuple[str, ...] = ()  # of the take, those that have begun, in order
        self._open: set[str] = set()  # events that were sent and not answered
        self._lock, self._events = threading.Lock(), 0
        self._captions: dict[str, str] = {}
        self.chunks = 0

    def run(self, lines: Iterable[str], chunks: int, **start: Any) -> None:
        """Directs the session of `start`. `DataError` if it fails."""
        self._desk.start(pace="free", **start)
        while not self._session:
            self._hear(*self._desk.receive())
        finished = threading.Event()

        def read() -> None:
            try:
                for line in lines:
                    if line.strip():
                        self.obey(line.strip(), chunks)
            finally:
                finished.set()

        threading.Thread(target=read, daemon=True).start()
        while True:
            try:
                self._hear(*self._desk.receive(QUIET))
            except TimeoutError:
                if finished.is_set() and not self._open and self._status in DONE:
                    break
        if self.chunks == 0:
            raise UsageError("no film: write one caption per line of the input")
        self.save()
        with contextlib.suppress(DataError):  # it may have ended by itself
            self._desk.stop()

    def obey(self, line: str, chunks: int) -> None:
        """Does what a line says; tells why where it cannot."""
        try:
            if line.startswith("/"):
                word, _, rest = line[1:].partition(" ")
                if word not in COMMANDS:
                    raise UsageError(f"unknown command /{word}, {nearest(word, COMMANDS)}")
                getattr(self, f"_do_{word}")(rest.strip(), chunks)
            else:
                caption, length = shot_of_line(line, chunks)
                self._send(caption, self._desk.shot, caption, chunks=length)
        except ValidationError as error:
            fault = error.errors()[0]
            self._tell(f"error: {'.'.join(map(str, fault['loc']))}: {fault['msg']}")
        except (UsageError, DataError) as error:
            self._tell(f"error: {error}")

    def save(self) -> None:
        """Writes the take's files to `out`. `DataError` if that fails."""
        remove_files(self._out, ("film.json",))  # no record may be left beside another film
        for name in TAKE_FILES:
            url = self._address.file(self._session, self._take, name)
            request = urllib.request.Request(url, headers=self._address.headers)
            try:
                with (
                    urllib.request.urlopen(request) as answer,
                    atomic_file(self._out / name) as partial,
                ):
                    partial.write_bytes(answer.read())
            except OSError as error:
                raise DataError(f"{name} cannot be fetched: {error}") from error
        self._tell(f"{self._out / TAKE_FILES[0]}: take {self._take}; film.json makes it again")

    # --- commands ---

    def _do_cut(self, caption: str, chunks: int) -> None:
        if not caption:
            return self._desk.cut()
        caption, length = shot_of_line(caption, chunks)
        self._send(caption, self._desk.cut, caption, chunks=length)

    def _do_retake(self, rest: str, chunks: int) -> None:
        number, _, caption = rest.partition(" ")
        said = {"caption": caption.strip()} if caption.strip() else {}
        self._send("", self._desk.retake, self._shot_id(number), **said)

    def _do_branch(self, rest: str, chunks: int) -> None:
        self._send("", self._desk.branch, self._shot_id(rest))

    def _do_take(self, rest: str, chunks: int) -> None:
        self._send("", self._desk.open_take, rest)

    def _do_pause(self, rest: str, chunks: int) -> None:
        self._desk.pause()

    def _do_go(self, rest: str, chunks: int) -> None:
        self._desk.resume()

    def _do_save(self, rest: str, chunks: int) -> None:
        self.save()

    def _do_help(self, rest: str, chunks: int) -> None:
        for word, what in COMMANDS.items():
            self._tell(f"/{word} {what}")

    def _shot_id(self, said: str) -> str:
        """A shot's id, from its number in the film (from 1) or the id itself."""
        if said.isdecimal() and 1 <= int(said) <= len(self._shots):
            return self._shots[int(said) - 1]
        if said in self._shots:
            return said
        if not self._shots:
            raise UsageError("no shot has begun yet")
        raise UsageError(f"there is no shot {said!r}: name one of 1 to {len(self._shots)}")

    def _send(self, said: str, order: Callable[..., None], *given: Any, **fields: Any) -> None:
        """Sends an order and awaits its answer; not where it fails and nothing was sent.

        said  the caption that is told again when the shot begins
        """
        with self._lock:
            self._events += 1
            event = f"line-{self._events}"
            self._open.add(event)
            self._captions[event] = said
        try:
            order(*given, event_id=event, **fields)
        except Exception:
            with self._lock:
                self._open.discard(event)
            raise

    # --- what the server says ---

    def _hear(self, message: Any, media: bytes | None) -> None:
        answered = getattr(message, "event_id", None)
        with self._lock:
            self._open.discard(answered)
        if (heard := getattr(self, f"_hear_{message.type.replace('.', '_')}", None)) is not None:
            heard(message)

    def _hear_session_started(self, message: Any) -> None:
        self._session, self._film_s = message.session_id, message.limits.film_s
        if not message.resumed:
            self._tell(f"resume with --resume {message.resume_token}")

    def _hear_session_queued(self, message: Any) -> None:
        self._tell(f"the desk is full ({message.reason}): place {message.position} in the queue")

    def _hear_session_state(self, message: Any) -> None:
        self._take, self._status = message.take_id, message.status
        self._shots = tuple(shot.shot_id for shot in message.shots)
        self.chunks = len(message.chunks)

    def _hear_session_status(self, message: Any) -> None:
        self._status = message.status
        if message.status == "limit":
            self._tell(f"the film is as long as it may be, {self._film_s:g} s")

    def _hear_session_done(self, message: Any) -> None:
        raise DataError(f"the session ended ({message.reason}): {message.message}")

    def _hear_shot_applied(self, message: Any) -> None:
        if message.shot_id not in self._shots:
            self._shots = (*self._shots, message.shot_id)
        caption = self._captions.get(message.event_id or "", "")
        number = self._shots.index(message.shot_id) + 1
        self._tell(f"shot {number} ({message.shot_id}) begins at {message.time_s:.2f} s  {caption}")

    def _hear_take_begun(self, message: Any) -> None:
        self._take = message.take.take_id
        self._shots = tuple(shot.shot_id for shot in message.shots)
        self.chunks = message.next_chunk
        self._tell(f"take {self._take} goes on at {message.time_s:.2f} s")

    def _hear_media_chunk(self, message: Any) -> None:
        self.chunks = message.chunk + 1
        self._tell(f"chunk {message.chunk + 1}  {message.shot_id}")

    def _hear_error(self, message: Any) -> None:
        where = f"{message.field}: " if message.field else ""
        self._tell(f"error: {where}{message.message}")
        if message.code in ("full", "bad_token") or not self._session:
            raise DataError(message.message)
