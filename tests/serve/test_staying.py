"""What stays: sessions through lost sockets and a killed server, others through a slow client."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest
from repository import ROOT
from served_desk import TOKEN, DeskSocket, socket

from causalcine_jax.serve.admission import Admission
from causalcine_jax.serve.limits import SessionLimits
from causalcine_jax.serve.mock import POOL_BYTES, MockEngine
from causalcine_jax.serve.outbox import Outbox
from causalcine_jax.serve.parts import ChunkInfo
from causalcine_jax.serve.playback import MARGIN, MOST_MARGIN, Playback
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.server_messages import MediaChunk, Pong
from causalcine_jax.serve.worker import Worker
from causalcine_jax.story import Story


def test_a_lost_socket_is_resumed_where_the_film_is(serve_desk):
    served = serve_desk(MockEngine(0.02))
    with socket(served.host) as lost:
        client = DeskSocket(lost)
        client.say("session.start", seed=1, pace="free")
        token = client.until("session.started").resume_token
        client.shot("Mia waves.", 3)
        client.shot("Otto sleeps.", 2)
        client.chunks(2)
    again = served.connect(resume_token=token)
    assert again.until("session.started").resumed
    kept = [c.chunk for c in again.until("session.state").chunks]
    rest = [c.chunk for c in again.chunks(5 - len(kept))]
    assert kept + rest == [0, 1, 2, 3, 4]
    third = served.connect(resume_token=token)
    assert again.until("session.done").reason == "replaced"
    third.shot("The end.")
    assert third.chunks(1)[0].chunk == 5


def test_a_film_that_is_just_being_left_is_opened_again(serve_desk):
    served = serve_desk(MockEngine(0.5))
    client = served.connect()
    token = client.until("session.started").resume_token
    client.shot("Mia waves.", 3)
    client.chunks(1)
    client.say("session.stop")  # it ends after the chunk that is being made
    again = served.connect(resume_token=token)
    assert again.until("session.started").resumed
    again.shot("Otto sleeps.")
    assert again.chunks(1)[0].chunk >= 1


def test_only_its_token_opens_a_session(serve_desk):
    served = serve_desk()
    token = served.connect().until("session.started").resume_token
    for false in (token[:-1] + ("a" if token[-1] != "a" else "b"), "f" * 32 + "-x", "x"):
        assert served.connect(resume_token=false).until("error").code == "bad_token"


def test_a_session_without_a_client_ends_and_its_film_stays(serve_desk):
    served = serve_desk(idle_s=0.2)
    with socket(served.host) as lost:
        client = DeskSocket(lost)
        client.say("session.start", pace="free")
        token = client.until("session.started").resume_token
        client.shot("Mia waves.", 2)
        client.chunks(2)
    while served.desk.sessions:
        threading.Event().wait(0.05)
    again = served.connect(resume_token=token)
    assert [c.chunk for c in again.until("session.state").chunks] == [0, 1]
    again.shot("Otto sleeps.")
    assert again.chunks(1)[0].chunk == 2


def test_a_full_desk_tells_the_position_and_admits_in_order(serve_desk):
    served = serve_desk(sessions=1, waiting=1)
    first = served.connect()
    first.until("session.started")
    second = served.connect()
    assert second.until("session.queued").position == 1
    error = served.connect().until("error")
    assert (error.code, error.retryable) == ("full", True) and error.retry_after_s > 0
    first.say("session.stop")
    assert first.until("session.done").reason == "stopped"
    second.until("session.started")
    second.shot("Mia waves.")
    second.chunks(1)


def test_who_leaves_while_waiting_loses_the_place(serve_desk):
    served = serve_desk(sessions=1)
    first = served.connect()
    first.until("session.started")
    with socket(served.host) as lost:
        waiting = DeskSocket(lost)
        waiting.say("session.start")
        assert waiting.until("session.queued").position == 1
        third = served.connect()
        assert third.until("session.queued").position == 2
    assert third.until("session.queued").position == 1
    first.say("session.stop")
    third.until("session.started")


def test_history_that_fits_nowhere_is_refused_with_its_size(serve_desk):
    served = serve_desk(MockEngine(room_bytes=POOL_BYTES - 1))
    error = served.connect().until("error")
    assert (error.code, error.field) == ("limit", "story.video")
    assert f"{POOL_BYTES:,} bytes" in error.message


def test_a_failing_session_ends_with_its_film_and_harms_no_other(serve_desk, monkeypatch):
    served = serve_desk()
    sound, broken = served.connect(seed=1), served.connect(seed=2)
    sound.until("session.started")
    token = broken.until("session.started").resume_token
    broken.shot("Mia waves.")
    broken.chunks(1)
    sick = served.desk.sessions[token.partition("-")[0]].director
    monkeypatch.setattr(type(sick), "__next__", _sick(sick, type(sick).__next__))
    broken.shot("Otto sleeps.")
    done = broken.until("session.done")
    assert (done.reason, done.message) == ("failed", "ZeroDivisionError")
    sound.shot("Mia waves.", 2)
    assert [c.chunk for c in sound.chunks(2)] == [0, 1]
    monkeypatch.undo()
    again = served.connect(resume_token=token)
    assert [c.chunk for c in again.until("session.state").chunks] == [0]
    assert again.chunks(1)[0].shot_id == "s2"


def _sick(director, well):
    return lambda self: 1 / 0 if self is director else well(self)


def test_servers_that_share_a_folder_hand_a_film_over(serve_desk):
    one, other = serve_desk(), serve_desk()
    client = one.connect()
    token = client.until("session.started").resume_token
    client.shot("Mia waves.", 2)
    client.chunks(2)
    refused = other.connect(resume_token=token).until("error")
    assert refused.code == "full" and "another server has this film open" in refused.message
    one.close()
    again = other.connect(resume_token=token)
    assert [c.chunk for c in again.until("session.state").chunks] == [0, 1]
    again.shot("Otto sleeps.")
    assert again.chunks(1)[0].chunk == 2


def test_who_waits_while_a_server_stops_is_refused():
    async def scene():
        admission = Admission(MockEngine(), SessionLimits(sessions=1))
        tell = lambda message: None
        key = await admission.admitted(Story(()), tell)
        waiting = asyncio.create_task(admission.admitted(Story(()), tell))
        await asyncio.sleep(0)
        assert admission.waiting == 1
        admission.close()
        for asked in (waiting, admission.admitted(Story(()), tell)):
            with pytest.raises(Refused, match="this server stops"):
                await asked
        admission.release(key)
        assert admission.open == admission.waiting == 0

    asyncio.run(scene())


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_server_goes_on_where_it_was(after, tmp_path):
    def serve():
        flags = ("--mock", "--port", "0", "--token", TOKEN, "--projects", tmp_path)
        server = subprocess.Popen(
            [sys.executable, "-m", "causalcine_jax", "serve", *map(str, flags)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        return server, server.stdout.readline().split("/")[2]

    server, host = serve()
    with socket(host) as first:
        client = DeskSocket(first)
        client.say("session.start", seed=1, pace="free")
        token = client.until("session.started").resume_token
        client.shot("Mia waves.", 3)
        client.shot("Otto sleeps.", 3)
        client.chunks(after)
        server.send_signal(signal.SIGKILL)
        server.wait()
    server, host = serve()
    try:
        with socket(host) as second:
            again = DeskSocket(second)
            again.say("session.start", resume_token=token)
            kept = [(c.chunk, c.shot_id) for c in again.until("session.state").chunks]
            rest = [(c.chunk, c.shot_id) for c in again.chunks(6 - len(kept))]
        shots = ["s1"] * 3 + ["s2"] * 3
        assert kept + rest == list(enumerate(shots))
    finally:
        server.terminate()
        server.wait()


def chunk(number):
    info = ChunkInfo(
        take_id="t1", chunk=number, first_frame=0, frames=1, time_s=0, seconds=1, shot_id="s1",
        is_cut=False,
    )  # fmt: skip
    return MediaChunk(**info.model_dump())


def test_a_slow_client_is_told_what_was_dropped():
    sent = []

    async def send(data):
        sent.append(data)

    async def scene():
        outbox = Outbox(most_media=25)
        for number in range(5):
            outbox.put(chunk(number), b"x" * 10)
        outbox.put(Pong())
        outbox.close()
        await outbox.send_all(send, send)

    asyncio.run(scene())
    texts = [data for data in sent if isinstance(data, str)]
    assert [i for i in range(5) if any(f'"chunk":{i},' in text for text in texts)] == [0, 1]
    assert '"chunks":[2,3,4]' in texts[-1] and any('"pong"' in text for text in texts)


def test_a_client_that_does_not_read_delays_nobody(serve_desk):
    served = serve_desk()
    started = served.connect()
    token = started.until("session.started").watch_token
    with socket(served.host, max_queue=1, close_timeout=0.1) as stuck:
        DeskSocket(stuck).say("session.watch", watch_token=token)
        started.shot("Mia waves.", 10)
        assert [c.chunk for c in started.chunks(10)] == list(range(10))


def test_turns_go_to_who_used_the_device_least():
    order = []

    async def scene():
        worker, busy = Worker(), threading.Event()

        def work(who, seconds):
            order.append(who)
            threading.Event().wait(seconds)

        first = asyncio.create_task(worker.turn("a", lambda: busy.wait(5)))
        await asyncio.sleep(0.05)
        turns = [worker.turn("a", lambda: work("a", 0)) for _ in range(2)]
        turns += [worker.turn("b", lambda: work("b", 0)) for _ in range(2)]
        waiting = asyncio.gather(*turns)
        await asyncio.sleep(0.05)
        busy.set()
        await first
        await waiting
        with pytest.raises(ZeroDivisionError):
            await worker.turn("a", lambda: 1 / 0)
        worker.close()

    asyncio.run(scene())
    assert order == ["b", "b", "a", "a"]


def test_who_uses_the_device_counts_with_those_who_wait():
    async def scene():
        worker, began, goes_on = Worker(), threading.Event(), threading.Event()

        def work():
            began.set()
            goes_on.wait(20)

        turns = [asyncio.create_task(worker.turn(who, work)) for who in "aab"]
        await asyncio.to_thread(began.wait, 20)
        users = worker.users
        goes_on.set()
        await asyncio.gather(*turns)
        await asyncio.to_thread(worker.close)
        return users, worker.users

    assert asyncio.run(scene()) == ({"a", "b"}, set())


def test_who_comes_back_does_not_take_the_device_for_itself():
    order = []

    async def scene():
        worker = Worker()

        def turns(who, seconds):
            def work():
                order.append(who)
                threading.Event().wait(seconds)

            return [worker.turn(who, work) for _ in range(4)]

        await worker.turn("b", lambda: None)  # and then b is idle, while a uses the device
        await asyncio.gather(*turns("a", 0.02))
        order.clear()
        await asyncio.gather(*turns("a", 0.02), *turns("b", 0.05))
        worker.close()

    asyncio.run(scene())
    assert "a" in order[:3] and "b" in order[:3]


def test_without_reports_playback_runs_with_the_clock_up_to_what_is_made():
    now = [0.0]
    playback = Playback(lambda: now[0])
    now[0] = 2.0
    assert playback.position(made_s=1.5) == 1.5
    now[0] = 2.5
    assert playback.position(made_s=10.0) == 2.0
    playback.report(7.0)
    now[0] = 4.0
    assert playback.position(made_s=10.0) == 7.0
    playback.report(7.0, playing=True)
    now[0] = 5.5
    assert playback.position(made_s=10.0) == 8.5
    now[0] = 9.0
    assert playback.position(made_s=10.0) == 10.0


def test_a_player_that_was_paused_stays_so_when_it_falls_silent_until_it_leaves():
    now = [0.0]
    playback = Playback(lambda: now[0])
    playback.report(5.0)
    now[0] = 60.0  # a hidden tab reports once a minute
    assert playback.position(made_s=100.0) == 5.0
    playback.left(100.0)
    now[0] = 62.0
    assert playback.position(made_s=100.0) == 7.0  # those who watch go on


def test_a_new_director_who_does_not_report_is_at_the_films_end():
    now = [0.0]
    playback = Playback(lambda: now[0])
    playback.report(5.0)
    playback.joined(30.0)
    now[0] = 2.0
    assert playback.position(made_s=30.0) == 5.0  # it may report yet
    now[0] = 4.0
    assert playback.position(made_s=31.0) == 30.0
    now[0] = 4.5
    assert playback.position(made_s=31.0) == 30.5
    playback.joined(31.0)
    playback.report(8.0)
    now[0] = 60.0
    assert playback.position(made_s=31.0) == 8.0


def test_a_margin_doubles_where_media_came_too_late_and_falls_again():
    playback = Playback(lambda: 0.0)
    assert playback.lead(0.4) == 0.4 + MARGIN
    playback.report(1.0, playing=True, late_s=MARGIN)
    assert playback.margin == MARGIN
    playback.report(1.0, playing=True, late_s=1.1 * MARGIN)
    assert playback.margin == 2 * MARGIN
    playback.ease()
    assert MARGIN < playback.margin < 2 * MARGIN
    for _ in range(100):
        playback.ease()
    assert playback.margin == MARGIN
    for _ in range(9):
        playback.report(1.0, playing=True, late_s=99.0)
    assert playback.margin == MOST_MARGIN


def test_a_torn_line_costs_no_later_chunk(serve_desk):
    served = serve_desk(MockEngine(0.02))
    with socket(served.host) as lost:
        client = DeskSocket(lost)
        client.say("session.start", seed=1, pace="free")
        started = client.until("session.started")
        client.shot("Mia waves.", 2)
        client.chunks(2)
    (session,) = served.desk.sessions.values()
    lines = session.project.folder_of("t1") / "chunks.jsonl"
    served.close()
    with open(lines, "ab") as file:
        file.write(b'{"chunk": 2, "sh')
    for made in (2, 3):
        served = serve_desk(MockEngine(0.02))
        client = served.connect(resume_token=started.resume_token)
        assert len(client.until("session.state").chunks) == made
        client.shot("Otto sleeps.")
        client.chunks(1)
        served.close()


def test_those_behind_one_that_leaves_the_queue_are_admitted():
    async def scene():
        engine = MockEngine()
        needed = {"A": 6, "B": 8, "C": 2}
        engine.room_bytes, engine.pool_bytes = 10, lambda story, _: needed[story.global_caption]
        admission = Admission(engine, SessionLimits(sessions=3))
        ask = lambda name: admission.admitted(Story((), global_caption=name), lambda message: None)
        await ask("A")
        large, small = (asyncio.create_task(ask(name)) for name in "BC")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert admission.waiting == 2
        large.cancel()
        await asyncio.wait_for(small, 5)
        assert admission.open == 2 and admission.waiting == 0

    asyncio.run(scene())
