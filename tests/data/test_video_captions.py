"""Captions in other projects' formats, and captioners that answer well, badly or not at all."""

import http.server
import json
import sys
import threading
from pathlib import Path

import pytest

from causalcine_jax.data.video.captioner import Request, by_command, by_server
from causalcine_jax.data.video.captions import Captions, Cuts, parse
from causalcine_jax.data.video.sidecars import read
from causalcine_jax.errors import UsageError

FORMATS = {
    "HoloCine": (
        {"global_caption": "W", "shot_captions": ["a", "b"], "shot_cut_frames": [37]},
        Captions("W", ("a", "b"), Cuts((0, 37.0))),
    ),
    "HoloCine, tagged": (
        {"caption": "[global caption] W [per shot caption] a [shot cut] b"},
        Captions("W", ("a", "b")),
    ),
    "ShotStream": ({"global_caption": "W", "shot1": "a", "shot2": "b"}, Captions("W", ("a", "b"))),
    "MultiShotMaster": ({"global_caption": "W", "shot0": "a"}, Captions("W", ("a",))),
    "LongLive 1": (
        {"prompts": ["a", "b"], "switch_frame_indices": "12"},
        Captions("", ("a", "b"), Cuts((0, 45 / 16), "seconds")),
    ),
    "our story": (
        {"schema": "causalcine/story@1", "global": "W", "shots": [
            {"caption": "a", "seconds": 3}, {"caption": "b", "seconds": 2}]},
        Captions("W", ("a", "b"), Cuts((0, 3.0), "seconds")),
    ),
    "our film.json": (
        {
            "story": {"global": "W", "shots": [{"caption": "a"}, {"caption": "b"}]},
            "resolved": {"cut_frames": [21]},
        },
        Captions("W", ("a", "b"), Cuts((0, 21.0))),
    ),
    "plain": (
        {"caption": "a  man\nwaves", "license": "CC-BY"},
        Captions("a man waves", licence="CC-BY"),
    ),
    "a list": (["a", "b"], Captions("", ("a", "b"))),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name, tmp_path):
    data, expected = FORMATS[name]
    file = tmp_path / "film.json"
    file.write_text(json.dumps(data))
    assert read(file) == expected


@pytest.mark.parametrize(
    "data, fault",
    [
        ({}, "holds no captions"),
        (3, "holds no captions, but 3"),
        ({"shot_captions": "a"}, "must be a list"),
        ({"shot_captions": [1]}, "a caption must be text, not 1"),
        ({"shot_captions": ["a"], "shot_cut_frames": [9]}, "1 captions of .* for 2"),
        ({"shot_captions": ["a", "b"], "shot_cut_frames": ["x"]}, "must be numbers"),
        ({"shot_captions": ["a", "b", "c"], "shot_cut_frames": [9, 3]}, "must ascend"),
        ({"caption": "a" * 30_000}, "30,000 characters"),
    ],
)  # fmt: skip
def test_bad_captions_are_named(data, fault):
    with pytest.raises(UsageError, match=fault):
        parse(data, "film.json")


def test_captions_find_their_shots_by_time():
    told = Captions("W", ("a", "b"), Cuts((0, 50), "frames"))  # of 100 frames in 4 seconds
    at = lambda first, stop: told.at(first, stop, 4.0, 100)
    assert [at(0, 1.9), at(1.5, 2.2), at(1.8, 2.6), at(3, 4)] == ["a", "a", "b", "b"]


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
        list(by_command("no-such-program --x")(iter(REQUESTS)))
    ended = dict(by_command(f"{sys.executable} -c 'raise SystemExit(3)'")(iter(REQUESTS)))
    assert ended and all("exit code 3" in reason for _, reason in ended.values())


def test_a_server_is_asked_with_pictures_and_its_key(monkeypatch):
    monkeypatch.setenv("CAUSALCINE_CAPTIONER_KEY", "secret")
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            if len(asked) == 2:
                return self.send_error(500)
            text = 'Here:\n```json\n{"global": "W", "shots": ["a", "b"]}\n```'
            answer = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(200)
            self.end_headers()
            return self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("causalcine_jax.data.video.captioner.AT_ONCE", 1)
    ask = by_server(f"http://127.0.0.1:{server.server_port}/v1", "model-a")
    answers = dict(ask(iter(REQUESTS[:3])))
    server.shutdown()
    server.server_close()
    assert answers["w0"] == answers["w2"] == Captions("W", ("a", "b"))
    assert "500" in answers["w1"][1]
    path, key, body = asked[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "model-a")
    images = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    assert len(images) == 2 and images[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_a_film_that_began_with_a_picture_has_its_caption_too(tmp_path):
    data = {
        "story": {"global": "W", "shots": [{"caption": "b"}]},
        "start": {"file": "a.png", "caption": "a", "sha256": "0", "chunks": 1},
        "resolved": {"cut_frames": [21]},
    }
    (tmp_path / "film.json").write_text(json.dumps(data))
    assert read(tmp_path / "film.json") == Captions("W", ("a", "b"), Cuts((0, 21.0)))
