"""The Python clients, and a terminal's lines."""

import asyncio
import threading

import av
import pytest
from served_desk import TOKEN

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.serve.client import Address, AsyncDeskClient, DeskClient
from causalcine_jax.serve.mock import MockEngine
from causalcine_jax.serve.terminal import Terminal
from causalcine_jax.story import read_story


def url_of(served, token=TOKEN):
    return f"{served.url}/?token={token}"


def test_a_film_is_directed_from_python(serve_desk):
    served = serve_desk()
    with DeskClient.open(url_of(served)) as desk:
        desk.start(global_caption="G.", seed=3, pace="free")
        desk.shot("Mia waves.", chunks=2, event_id="first")
        media, order = [], []
        for message, data in desk:
            order.append(message.type)
            if message.type == "media.chunk":
                media.append(data)
                desk.stop() if len(media) == 2 else desk.ping()
    assert order[0] == "session.started" and order[-1] == "session.done" and "pong" in order
    assert all(data[4:8] == b"moof" for data in media)


def test_a_film_is_directed_from_asyncio(serve_desk):
    served = serve_desk()

    async def scene():
        async with AsyncDeskClient.open(url_of(served)) as desk:
            await desk.start(pace="free")
            await desk.shot("Mia waves.", seconds=1.5)
            async for message, _ in desk:
                if message.type == "media.chunk" and message.chunk == 1:
                    await desk.stop()
            return message.reason

    assert asyncio.run(scene()) == "stopped"


def test_a_wrong_address_says_what_is_wrong(serve_desk):
    served = serve_desk()
    with pytest.raises(UsageError, match="as printed"), DeskClient.open(served.url):
        pass
    with (
        pytest.raises(DataError, match="no desk answers"),
        DeskClient.open(url_of(served, "wrong")),
    ):
        pass


def directed(served, out, lines, told):
    with DeskClient.open(url_of(served)) as desk:
        terminal = Terminal(desk, Address.of(url_of(served)), out, told)
        terminal.run(lines, 1, seed=1, global_caption="G.")
        return terminal


def test_lines_make_a_film_with_a_retake_and_a_branch(serve_desk, tmp_path):
    served, told, came = serve_desk(MockEngine(0.02)), [], threading.Condition()

    def tell(line):
        with came:
            told.append(line)
            came.notify_all()

    def after(beginning, times=1):
        """Waits for so many lines that begin so."""
        there = lambda: sum(line.startswith(beginning) for line in told) >= times
        with came:
            assert came.wait_for(there, 20), told

    def lines():
        yield "2: Mia waves.\n"
        yield "\n"
        yield "Otto sleeps.\n"
        yield "refuseme\n"
        yield "/retrake 1\n"
        after("chunk 3")
        yield "/retake 2 Otto jumps.\n"
        after("take t2")
        after("shot 2 (s2)", times=2)
        yield "/branch 7\n"
        yield "/branch 2\n"
        after("take t3")
        yield "2: Mia runs.\n"

    directed(served, tmp_path, lines(), tell)
    errors = [line for line in told if line.startswith("error")]
    assert {e.split(",")[0] for e in errors} == {
        "error: unknown command /retrake",
        "error: shot.caption: the model does not know 'refuseme' in the shot",
        "error: there is no shot '7': name one of 1 to 2",
    }
    story = read_story(tmp_path / "story.yaml")
    assert [(s.caption, s.chunks) for s in story.shots] == [("Mia waves.", 2), ("Mia runs.", 2)]
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 45
    assert (tmp_path / "film.json").is_file() and (tmp_path / "contact_sheet.png").is_file()


def test_a_line_that_is_not_sent_does_not_keep_the_film_open(serve_desk, tmp_path):
    told = []
    lines = ("Mia waves.", "0: Mia waves.", "6:", "x" * 2001, "/cut 0: A", "/take", "/take a b")
    directed(serve_desk(), tmp_path, lines, told.append)
    assert sum(line.startswith("error") for line in told) == len(lines) - 1
    assert (tmp_path / "film.mp4").is_file()


def test_a_film_begun_on_the_page_is_made_at_once_when_the_terminal_resumes_it(
    serve_desk, tmp_path
):
    served = serve_desk(idle_s=60.0)
    page = served.connect(pace="playback", on_empty="wait")
    token = page.until("session.started").resume_token
    page.shot("Mia waves.", 20)
    page.say("playback.report", position_s=0.0)
    page.until("session.status", status="ahead")
    with DeskClient.open(url_of(served)) as desk:
        terminal = Terminal(desk, Address.of(url_of(served)), tmp_path, lambda line: None)
        terminal.run([], 1, resume_token=token)
    assert terminal.chunks == 20


def test_without_a_shot_there_is_no_film(serve_desk, tmp_path):
    with pytest.raises(UsageError, match="write one caption per line"):
        directed(serve_desk(), tmp_path, ["\n", "/pause\n"], lambda line: None)
    assert not list(tmp_path.glob("film.*"))


@pytest.mark.parametrize(
    "url",
    ["http://[::1:80/?token=x", "http://a:99999/?token=x", "http://a:b/?token=x", "x", "http://a"],
)
def test_an_address_that_is_none_is_one_line(url):
    with pytest.raises(UsageError, match="must be http://HOST:PORT"):
        Address.of(url)
