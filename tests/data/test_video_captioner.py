"""Captioners that answer well, badly, slowly or not at all."""

import http.server
import json
import sys
import threading
import time
from pathlib import Path

import pytest
from video_files import shot_pictures, write_video

from causalcine_jax.commands.prepare import summary
from causalcine_jax.data.video import captioner, captioner_server
from causalcine_jax.data.video import scan as scanning
from causalcine_jax.data.video.captioner import CaptionerOptions, Request, by_command
from causalcine_jax.data.video.captioner_server import by_server, read_prompt, read_request
from causalcine_jax.data.video.captioning import Film, SourceVideo, captioned
from causalcine_jax.data.video.captions import Captions, Cuts
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.manifest import Manifest
from causalcine_jax.data.video.windows import Piece, Window
from causalcine_jax.errors import UsageError

REQUESTS = [
    Request(f"w{n}", Path("film.mp4"), ((0.0, 1.0), (1.0, 2.5)), [[b"jpeg"], [b"jpeg"]])
    for n in range(6)
]
WRITER = """
import json, os, sys
for number, line in enumerate(sys.stdin):
    asked = json.loads(line)
    good = {"id": asked["id"], "global": "W", "shots": ["a", "b"]}
    assert all(os.path.exists(image) for shot in asked["shots"] for image in shot["images"])
    bad = [good | {"shots": ["a"]}, good | {"id": "w99"}, good | {"shots": [3, 4]}]
    lines = [json.dumps(good), "warming up ...", *map(json.dumps, bad)]
    print(lines[number % 5], flush=True)
    if number == 5:
        sys.exit(7)
"""


def test_a_command_that_answers_rubbish_loses_only_those(tmp_path):
    (tmp_path / "captioner.py").write_text(WRITER)
    answers = dict(by_command(f"{sys.executable} {tmp_path / 'captioner.py'}")(iter(REQUESTS)))
    good = Captions("W", ("a", "b"))
    assert answers["w0"] == answers["w5"] == good and set(answers) == {f"w{n}" for n in range(6)}
    assert "no answer; it ended with exit code 7" in answers["w1"][1]
    assert "described 1 shots of 2" in answers["w2"][1] and "must be text" in answers["w4"][1]


def test_a_command_that_is_not_there_or_dies_at_once():
    with pytest.raises(UsageError, match="cannot be run"):
        by_command("no-such-program --x")
    ended = dict(by_command(f"{sys.executable} -c 'raise SystemExit(3)'")(iter(REQUESTS)))
    assert ended and all("exit code 3" in reason for _, reason in ended.values())


GOOD = Captions("W", ("a", "b"))


def many(count: int) -> list[Request]:
    return [
        Request(f"w{n:04}", Path("film.mp4"), ((0.0, 1.0),), [[b"jpeg", b"jpeg"]])
        for n in range(count)
    ]


def program(folder: Path, text: str) -> str:
    """A command that starts at once: what hangs is told from what starts by seconds of silence."""
    (folder / "captioner.py").write_text("import json, os, sys, time\n" + text)
    return f"{sys.executable} -I -S {folder / 'captioner.py'} {folder / 'notes'}"


ANSWER = "print(json.dumps({'id': row['id'], 'shots': ['a'] * len(row['shots'])}), flush=True)\n"


def test_a_command_that_reads_all_its_input_first_is_handed_rounds(tmp_path, monkeypatch):
    """Of `ahead` windows; their pictures alone are on the disk."""
    monkeypatch.setattr(captioner, "FIRST_ANSWER", 0.1)
    command = program(
        tmp_path,
        "rows = [json.loads(line) for line in sys.stdin]\n"
        "folder = os.path.dirname(os.path.dirname(rows[0]['shots'][0]['images'][0]))\n"
        "open(sys.argv[1], 'a').write(f'{len(rows)} {len(os.listdir(folder))}, ')\n"
        "for row in rows:\n    " + ANSWER,
    )
    answers = dict(by_command(command, CaptionerOptions(ahead=64))(iter(many(150))))
    assert answers == {request.id: Captions("", ("a",)) for request in many(150)}
    assert (tmp_path / "notes").read_text() == "64 64, 64 64, 22 22, "


def test_a_command_that_answers_in_batches_is_started_once(tmp_path):
    """Though some windows stay unanswered for ever, which may fill the room that is left."""
    command = program(
        tmp_path,
        "import itertools\n"
        "open(sys.argv[1], 'a').write('x')\n"
        "while rows := list(itertools.islice(sys.stdin, 48)):\n"
        "    for row in map(json.loads, rows[:-1]):\n        " + ANSWER,
    )
    answers = dict(by_command(command, CaptionerOptions(ahead=64))(iter(many(200))))
    assert len(answers) == 200 and (tmp_path / "notes").read_text() == "x"
    assert sum(isinstance(answer, tuple) for answer in answers.values()) == 5


def test_a_command_that_hangs_is_ended_and_its_answers_are_kept(tmp_path):
    command = program(
        tmp_path,
        "for number, line in enumerate(sys.stdin):\n"
        "    row = json.loads(line)\n"
        "    if number == 2:\n        time.sleep(60)\n"
        "    " + ANSWER,
    )
    answers = dict(by_command(command, CaptionerOptions(timeout=2))(iter(many(4))))
    assert [isinstance(answers[request.id], Captions) for request in many(4)] == [1, 1, 0, 0]
    assert "it wrote nothing for 2 s (--captioner-timeout)" in answers["w0002"][1]


def test_a_command_that_never_answers_half_of_its_windows_gets_the_others(tmp_path):
    """What it never answers may not stop it: its input ends, and it begins anew."""
    command = program(
        tmp_path,
        "for line in sys.stdin:\n"
        "    row = json.loads(line)\n"
        "    if int(row['id'][1:]) % 2:\n        " + ANSWER,
    )
    answers = dict(by_command(command, CaptionerOptions(ahead=64, timeout=4))(iter(many(140))))
    assert len(answers) == 140
    assert sum(isinstance(answer, Captions) for answer in answers.values()) == 70


class Server:
    """A server of the chat protocol: `replies` are codes, headers and bodies, then good answers."""

    def __init__(self, *replies: tuple[int, dict[str, str], str], seconds: float = 0.0):
        self.asked: list[tuple[str, str | None, dict]] = []
        self.at_once = self.most_at_once = 0
        waiting, lock = list(replies), threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler):
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                with lock:
                    self.asked.append((handler.path, handler.headers["Authorization"], body))
                    self.at_once += 1
                    self.most_at_once = max(self.most_at_once, self.at_once)
                    code, headers, text = waiting.pop(0) if waiting else (200, {}, "")
                time.sleep(seconds)
                if code == 200:
                    shots = sum(p.get("text", "").startswith("Shot ") for p in parts_of(body))
                    told = json.dumps({"global": "W", "shots": ["a", "b"][:shots]})
                    content = f"Here:\n```json\n{told}\n```"
                    text = json.dumps({"choices": [{"message": {"content": content}}]})
                with lock:
                    self.at_once -= 1
                if not code:
                    return  # as if it ended
                handler.send_response(code)
                for name, value in headers.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(text.encode())

            def log_message(handler, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def parts_of(body: dict) -> list[dict]:
    return body["messages"][0]["content"]


def test_a_server_is_asked_with_pictures_and_its_key(monkeypatch):
    monkeypatch.setenv("CAUSALCINE_CAPTIONER_KEY", "secret")
    with Server((400, {}, '{"error": "temperature must be 1"}')) as server:
        ask = by_server(server.url, "model-a", CaptionerOptions(at_once=1))
        answers = dict(ask(iter(REQUESTS[:3])))
    assert answers["w1"] == answers["w2"] == GOOD and len(server.asked) == 3
    assert "HTTP 400 Bad Request: " in answers["w0"][1]
    assert "temperature must be 1" in answers["w0"][1]
    path, key, body = server.asked[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "model-a")
    assert body["temperature"] == 0
    assert '{"global": "...", "shots": ["...", ...]}' in parts_of(body)[0]["text"]
    images = [part for part in parts_of(body) if part["type"] == "image_url"]
    assert len(images) == 2 and images[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_a_busy_server_is_asked_again_when_it_says(monkeypatch):
    monkeypatch.setattr(captioner_server, "FIRST_WAIT", 0.01)
    busy = (429, {"Retry-After": "0.2"}, "slow down"), (503, {}, "loading"), (500, {}, "oh")
    begun = time.monotonic()
    with Server(*busy) as server:
        answers = dict(by_server(server.url, "m", CaptionerOptions(at_once=1))(iter(REQUESTS[:2])))
    assert answers == {"w0": GOOD, "w1": GOOD} and len(server.asked) == 5
    assert time.monotonic() - begun >= 0.2


def test_a_server_that_ends_is_asked_again_if_it_has_answered_before(monkeypatch):
    monkeypatch.setattr(captioner_server, "FIRST_WAIT", 0.01)
    ended, options = (0, {}, ""), CaptionerOptions(at_once=1)
    with Server((200, {}, ""), ended, ended) as server:
        answers = dict(by_server(server.url, "m", options)(iter(REQUESTS[:2])))
    assert answers == {"w0": GOOD, "w1": GOOD} and len(server.asked) == 4
    with Server(ended) as server:
        answers = dict(by_server(server.url, "m", options)(iter(REQUESTS[:2])))
    assert answers["w0"][0] == "captioner failed" and answers["w1"] == GOOD


def test_a_server_is_given_up_after_failures_in_a_row(monkeypatch):
    monkeypatch.setattr(captioner_server, "TRIES", 2)
    monkeypatch.setattr(captioner_server, "FIRST_WAIT", 0.01)
    with Server(*[(503, {}, "down")] * 100) as server:
        answers = dict(by_server(server.url, "m", CaptionerOptions(at_once=1))(iter(many(20))))
    assert len(answers) == 20 and len(server.asked) == 16
    assert "HTTP 503 Service Unavailable: down" in answers["w0000"][1]
    assert "failed too often" in answers["w0019"][1]
    gone = dict(by_server(server.url, "m")(iter(many(1))))
    assert "refused" in gone["w0000"][1]


def test_a_server_has_as_many_requests_as_asked_for():
    with Server(seconds=0.3) as server:
        answers = dict(by_server(server.url, "m", CaptionerOptions(at_once=6))(iter(many(12))))
    assert set(answers.values()) == {Captions("W", ("a",))} and server.most_at_once == 6


def test_the_prompt_and_the_fields_of_a_request_may_be_others(tmp_path):
    (tmp_path / "prompt.txt").write_text("Describe {count} shots as {json}.\n")
    options = CaptionerOptions(
        prompt=read_prompt(tmp_path / "prompt.txt"),
        request=read_request('{"temperature": null, "max_tokens": 9}'),
    )
    with Server() as server:
        list(by_server(server.url, "m", options)(iter(REQUESTS[:1])))
    body = server.asked[0][2]
    assert parts_of(body)[0]["text"] == "Describe 2 shots as {json}."
    assert "temperature" not in body and body["max_tokens"] == 9
    with pytest.raises(UsageError, match="must be fields"):
        read_request("[1]")
    with pytest.raises(
        UsageError,
        match=r"at_once must be at least 1 and at most 4096, not 0; .*ahead .* 64, not 3",
    ):
        CaptionerOptions(at_once=0, ahead=3)
    with pytest.raises(UsageError, match="may not hold messages, model"):
        CaptionerOptions(request={"model": "x", "messages": []})
    with pytest.raises(UsageError, match="need captioner_url"):
        PrepareConfig(tmp_path / "v", tmp_path / "out", tmp_path, captioning=options)


@pytest.mark.parametrize("images, each", [(None, 3), (6, 3), (5, 2), (2, 1), (1, 1)])
def test_pictures_of_a_window_have_a_bound(images, each, tmp_path):
    video = write_video(tmp_path / "a.mp4", shot_pictures([20, 20])[0])
    scan = scanning.scan(video, None, Cuts((0, 20)))
    pieces = (Piece(0, 0, 9, 1), Piece(1, 20, 32, 1))
    film = Film(SourceVideo(video, "a.mp4", {"sha256": "0"}, None, scan), Window("0", pieces))
    asked = []

    def captioner(requests):
        asked.extend(requests)
        return iter([])

    list(captioned([film], captioner, "", Manifest(tmp_path / "c.jsonl"), (16, 32), images))
    assert [len(shot) for shot in asked[0].images] == [each, each]


def test_the_command_warns_of_a_captioner_that_failed():
    counted = ("videos", "files", "video_seconds", "shots", "films", "black_bars")
    numbers = dict.fromkeys(counted, 1)
    numbers |= {"windows": 9, "rejects": {"captions": {"captioner failed": 8}}}
    assert "WARNING: the captioner failed for 8 of 9 windows" in summary(numbers)
    assert "WARNING" not in summary(numbers | {"rejects": {}})


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"timeout": 1e300}, "captioner_timeout must be at least 0.001 and at most 1000000"),
        ({"timeout": 0.0}, "captioner_timeout must be at least"),
        ({"at_once": 10**9}, "captioner_at_once must be at least 1 and at most 4096"),
        ({"ahead": 3}, "captioner_ahead must be at least 64"),
        ({"images": 0}, "captioner_images must be at least 1"),
    ],
)
def test_options_that_cannot_be(options, fault):
    with pytest.raises(UsageError, match=fault):
        CaptionerOptions(**options)
