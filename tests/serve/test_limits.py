"""What a session may not do, and how it is told: with the field at fault and the rule."""

import ast
import asyncio
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from served_desk import BEARER

from causalcine_jax import serve
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.serve.mock import MockDirector, MockEngine
from causalcine_jax.serve.orders import MOST_TURNS
from causalcine_jax.serve.project import Project
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.rate import ClientRates, Rate
from causalcine_jax.serve.room import most_chunks


def film(served, **start):
    client = served.connect(seed=1, **start)
    client.until("session.started")
    return client


def test_a_rate_has_a_burst_then_waits_and_then_refuses():
    now = [0.0]
    rate = Rate(10.0, lambda: now[0])
    assert [rate.count() for _ in range(20)] == [0.0] * 20
    assert rate.count() == pytest.approx(0.1)  # it would have to wait, so it did not count
    assert [rate.count(0.25) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    now[0] = 0.3
    assert rate.count() == 0.0
    now[0] = 99.0
    assert [rate.count() for _ in range(21)][19:] == pytest.approx([0.0, 0.1])


def test_each_film_of_an_address_has_a_rate_of_its_own():
    async def refused(session):
        request = SimpleNamespace(
            client=SimpleNamespace(host="::1"), path_params={"session": session}
        )
        answers = await asyncio.gather(
            *(rates.turn(request) for _ in range(100)), return_exceptions=True
        )
        return sum(isinstance(answer, Refused) for answer in answers)

    # 40 at once, and 40 more within two seconds.
    rates = ClientRates(20.0)
    assert 15 <= asyncio.run(refused("a")) <= 20
    assert 15 <= asyncio.run(refused("b")) <= 20


def test_what_costs_work_by_http_is_limited(serve_desk):
    served = serve_desk(rate=0.1)  # not one in two seconds
    for path in ("frames/0", "film.mp4"):
        refused = served.get(f"/v1/sessions/x/takes/t1/{path}")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
        assert refused.json()["error"]["code"] == "too_many"
    for path in ("/v1/stories:validate", "/v1/videos"):
        assert httpx2.post(f"{served.url}{path}", content="{}", headers=BEARER).status_code == 429
    assert served.get("/v1/model").status_code == served.get("/v1/videos").status_code == 200


def test_every_refusal_in_the_source_names_its_field():
    files = Path(serve.__path__[0]).glob("*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    named = lambda node: getattr(node.func, "id", "")
    calls = [node for node in nodes if isinstance(node, ast.Call) and named(node) == "Refused"]
    assert len(calls) > 30
    assert all(len(call.args) == 3 for call in calls)


def test_orders_beyond_the_limits_are_refused_with_field_and_rule(serve_desk):
    served = serve_desk(MockEngine(0.2), takes=1)
    one = film(served)
    one.shot("Mia waves.", 9)
    one.chunks(1)
    one.say("branch", shot_id="s1", event_id="take")
    refused = one.until("error", event_id="take")
    assert (refused.code, refused.field) == ("limit", "type")
    assert "at most 1 takes" in refused.message
    for _ in range(MOST_TURNS + 9):
        one.say("take.open", take_id="t1")
    refused = one.until("error")
    assert (refused.code, refused.field, refused.retryable) == ("too_many", "type", True)
    assert f"at most {MOST_TURNS}" in refused.message


def test_a_shot_that_the_director_refuses_names_the_shot(serve_desk, monkeypatch):
    def full(*_, **__):
        raise UsageError("the film outgrows its pool")

    one = film(serve_desk())
    monkeypatch.setattr(MockDirector, "add_shot", full)
    one.shot("Mia waves.", event_id="e")
    refused = one.until("error", event_id="e")
    assert (refused.code, refused.field) == ("refused", "shot")
    assert refused.message == "the film outgrows its pool"


def test_what_the_disk_refuses_may_be_asked_again(serve_desk, monkeypatch):
    def full(project):
        raise DataError("the disk is full")

    one = film(serve_desk())
    monkeypatch.setattr(Project, "save", full)
    one.shot("Mia waves.", event_id="e")
    refused = one.until("error", event_id="e")
    assert (refused.field, refused.retryable) == ("type", True)


@pytest.mark.parametrize(
    "film_s, chunks", [(0.1, 1), (9 / 16, 1), (0.6, 2), (3.0, 5), (600.0, 801)]
)
def test_a_take_ends_with_the_chunk_that_reaches_its_longest_time(film_s, chunks):
    # Chunks of 12 frames at 16 a second; the first has 9.
    model = SimpleNamespace(fps=16, chunk_frames=12, first_chunk_frames=9)
    assert most_chunks(film_s, model) == chunks


def test_a_shot_that_no_longer_fits_is_refused_with_the_seconds_that_are_left(serve_desk):
    served = serve_desk(film_s=3.0)  # five chunks
    one = film(served)
    one.say("session.pause")
    one.shot("Mia waves.", 2)
    one.shot("Otto sleeps.", 4, event_id="long")
    refused = one.until("error", event_id="long")
    assert (refused.code, refused.field) == ("limit", "shot.chunks")
    assert refused.message == "3 s, and 2.25 s are left of the 3 s that a film may have"
    one.say("shot.append", shot={"caption": "Otto sleeps.", "seconds": 2.25}, event_id="fits")
    one.until("shot.received", event_id="fits")
    one.say("shot.update", shot_id="s1", chunks=3, event_id="longer")
    refused = one.until("error", event_id="longer")
    assert (refused.code, refused.field) == ("limit", "chunks")
    one.say("shot.update", shot_id="s1", chunks=1, event_id="shorter")
    one.until("queue", event_id="shorter")
    one.say("session.resume")
    assert [chunk.shot_id for chunk in one.chunks(4)] == ["s1", "s2", "s2", "s2"]


def test_a_cut_leaves_room_for_its_shot(serve_desk):
    served = serve_desk(MockEngine(0.05), film_s=30.0)
    one = film(served)
    one.shot("Mia waves.", 40)
    one.chunks(1)
    one.shot("Otto sleeps.", 20, event_id="after")
    assert one.until("error", event_id="after").field == "shot.chunks"
    shot = {"caption": "Otto sleeps.", "chunks": 20}
    one.say("shot.cut_now", shot=shot, event_id="now")
    assert one.until("shot.applied", event_id="now")


def test_at_its_longest_time_a_film_is_whole_and_goes_on_from_earlier_shots(serve_desk):
    served = serve_desk(film_s=3.0)
    one = film(served, on_empty="hold")
    one.shot("Mia waves.", 2)
    one.chunks(5)
    one.until("session.status", status="limit")
    one.shot("Otto sleeps.", event_id="late")
    refused = one.until("error", event_id="late")
    assert refused.code == "limit" and refused.message.startswith("nothing is left of the 3 s")
    one.say("snapshot", event_id="s")
    (shot,) = one.until("session.state", event_id="s").shots
    assert shot.chunks == shot.asked_chunks == 5
    one.say("branch", shot_id="s1")
    one.until("take.begun")
    one.shot("Otto sleeps.", 2)
    assert [chunk.take_id for chunk in one.chunks(2)] == ["t2", "t2"]


def test_a_shot_that_outlasts_the_film_is_cut_at_its_end(serve_desk):
    # A queue is kept over takes, and one of them may be too long for it.
    served = serve_desk(film_s=3.0)
    one = film(served)
    (session,) = served.desk.sessions.values()
    one.say("session.pause", event_id="p")
    one.until("session.status", event_id="p")
    one.shot("Mia waves.", 5)
    one.until("shot.received")
    (shot,) = session.project.queue
    session.project.queue = (shot.model_copy(update={"chunks": 9}), *session.project.queue[1:])
    one.say("session.resume")
    one.chunks(5)
    one.until("session.status", status="limit")
    (changed,) = (message for message in one.seen if message.type == "shot.changed")
    assert changed.asked_chunks == 5
