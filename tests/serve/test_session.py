"""A session on the mock: shots, receipts, media, retakes, branches, several directors."""

import io
import json
import threading
import time
from dataclasses import replace

import av
import numpy as np
import pytest

from causalcine_jax.errors import DataError
from causalcine_jax.serve.mock import MockDirector, MockEngine
from causalcine_jax.serve.parts import MOST_SHOTS
from causalcine_jax.serve.playback import DRY, MARGIN
from causalcine_jax.serve.project import Project
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.publish import LATELY
from causalcine_jax.story import read_story


def begun(served, *shots, **start):
    one = served.connect(**{"seed": 1, **start})
    started = one.until("session.started")
    for number, (caption, chunks) in enumerate(shots):
        one.shot(caption, chunks, event_id=f"e{number}")
    return one, started


def held_back(monkeypatch, of, name):
    """Makes a method wait. Returns two events: it was called, and it may go on."""
    called, goes_on, method = threading.Event(), threading.Event(), getattr(of, name)

    def waiting(self, *given, **options):
        called.set()
        assert goes_on.wait(20)
        return method(self, *given, **options)

    monkeypatch.setattr(of, name, waiting)
    return called, goes_on


def frames(header, media):
    with av.open(io.BytesIO(header + media)) as film:
        return [(round(f.time * 16), f.to_ndarray(format="rgb24")) for f in film.decode(video=0)]


def test_every_shot_has_two_receipts_and_its_chunks_come_in_order(serve_desk):
    served = serve_desk()
    one, started = begun(served, ("Mia waves.", 2), ("Otto sleeps.", 3))
    assert started.model.name == "mock" and started.limits.lead_chunks == 2
    chunks = one.chunks(5)
    assert [(c.chunk, c.shot_id, c.is_cut, c.first_frame, c.frames) for c in chunks] == [
        (0, "s1", False, 0, 9), (1, "s1", False, 9, 12), (2, "s2", True, 21, 12),
        (3, "s2", False, 33, 12), (4, "s2", False, 45, 12),
    ]  # fmt: skip
    receipts = [
        (m.type, m.event_id, m.shot_id)
        for m in one.seen
        if m.type in ("shot.received", "shot.applied")
    ]
    assert sorted(receipts) == [
        ("shot.applied", "e0", "s1"), ("shot.applied", "e1", "s2"),
        ("shot.received", "e0", "s1"), ("shot.received", "e1", "s2"),
    ]  # fmt: skip
    applied = [m for m in one.seen if m.type == "shot.applied"][1]
    assert (applied.chunk, applied.frame, applied.time_s) == (2, 21, 21 / 16)
    assert set(chunks[4].timings) == {"denoise", "wait", "encode"}
    assert chunks[4].retrieved and all(
        r.frame < 21 and r.shot_id == "s1" and 0 < r.share <= 1 for r in chunks[4].retrieved
    )


def test_a_chunk_plays_alone_at_its_place_in_the_film(serve_desk):
    served = serve_desk()
    one, started = begun(served, ("Mia waves.", 3))
    one.chunks(3)
    path = f"/v1/sessions/{started.session_id}"
    header = served.get(f"{path}/header.mp4").content
    media = served.get(f"{path}/takes/t1/chunks/2").content
    assert media == one.media["t1", 2]
    shown = frames(header, media)
    assert [number for number, _ in shown] == list(range(21, 33))
    assert all(image.std() > 20 for _, image in shown)
    jpeg = served.get(f"{path}/takes/t1/frames/30")
    assert jpeg.headers["content-type"] == "image/jpeg" and jpeg.content[:2] == b"\xff\xd8"
    assert served.get(f"{path}/takes/t1/frames/33").status_code == 404
    assert served.get(f"{path}/takes/t1/chunks/3").status_code == 404


def test_who_watches_hears_of_pause_and_resume(serve_desk):
    served = serve_desk()
    one, started = begun(served)
    viewer = served.connect("session.watch", watch_token=started.watch_token)
    one.say("session.pause", event_id="p")
    viewer.until("session.status", status="paused")
    one.say("session.resume", event_id="r")
    assert one.until("session.status", event_id="r").status == "starved"  # no shot was asked for
    viewer.until("session.status", status="starved")


def test_queued_shots_are_changed_moved_and_removed(serve_desk):
    served = serve_desk()
    one, _ = begun(served)
    one.say("session.pause", event_id="p")
    one.until("session.status", event_id="p")
    for caption in "ABC":
        one.shot(caption, 2)
    one.say("shot.append", shot={"caption": "D", "seconds": 2.2}, before="s1")
    one.say("shot.update", shot_id="s2", caption="B2", chunks=1)
    one.say("shot.remove", shot_id="s3")
    one.say("shot.reorder", event_id="last", shot_ids=["s2", "s4", "s1"])
    queue = one.until("queue", event_id="last").shots
    assert [(s.shot_id, s.caption, s.chunks) for s in queue] == [
        ("s2", "B2", 1), ("s4", "D", 3), ("s1", "A", 2),
    ]  # fmt: skip
    one.say("session.resume")
    assert [c.shot_id for c in one.chunks(6)] == ["s2", "s4", "s4", "s4", "s1", "s1"]


def test_a_cut_ends_the_shot_that_is_being_filmed(serve_desk):
    served = serve_desk(MockEngine(0.05))
    one, _ = begun(served, ("Mia waves.", 50), ("Otto sleeps.", 1))
    one.chunks(2)
    one.say("shot.cut_now", event_id="cut", shot={"caption": "Mia jumps.", "chunks": 2})
    applied = one.until("shot.applied", event_id="cut")
    assert applied.shot_id == "s3" and 2 <= applied.chunk <= 5
    assert [c.shot_id for c in one.chunks(3)] == ["s3", "s3", "s2"]


def test_a_cut_to_a_shot_that_is_removed_again_changes_nothing(serve_desk):
    served = serve_desk(MockEngine(0.05))
    one, _ = begun(served, ("Mia waves.", 6), ("Otto sleeps.", 1))
    one.chunks(1)
    one.say("session.pause")
    one.say("shot.cut_now")
    one.say("shot.remove", shot_id="s9")  # is refused, and changes nothing
    assert one.until("error").code == "unknown_shot"
    (session,) = served.desk.sessions.values()
    assert session.cut
    one.say("shot.remove", shot_id="s2")
    one.say("session.resume")
    assert [c.shot_id for c in one.chunks(5)] == ["s1"] * 5


def test_a_retake_may_queue_more_shots_than_a_client_and_they_can_be_moved(serve_desk):
    one, _ = begun(serve_desk(), ("Mia waves.", 1), ("Otto sleeps.", 1))
    one.chunks(2)
    one.say("session.pause")
    for _ in range(MOST_SHOTS):
        one.shot("Mia waves.")
    one.say("retake", shot_id="s1", event_id="again")
    one.until("take.begun", event_id="again")
    ids = [shot.shot_id for shot in one.until("queue").shots]
    assert len(ids) == MOST_SHOTS + 2 and ids[:2] == ["s1", "s2"]
    one.say("shot.reorder", shot_ids=ids[::-1], event_id="moved")
    assert [shot.shot_id for shot in one.until("queue", event_id="moved").shots] == ids[::-1]


def test_what_is_ordered_while_a_retake_is_prepared_is_kept(serve_desk, monkeypatch):
    preparing, prepared = held_back(monkeypatch, MockDirector, "branch")
    one, _ = begun(serve_desk(), ("Mia waves.", 1), ("Otto sleeps.", 1))
    one.chunks(2)
    one.say("retake", shot_id="s2")
    assert preparing.wait(20)
    one.shot("Mia jumps.", 1, event_id="third")
    one.until("shot.received", event_id="third")
    prepared.set()
    one.until("take.begun")
    assert [c.shot_id for c in one.chunks(2)] == ["s2", "s3"]


def test_a_retake_is_a_new_take_and_the_old_one_stays(serve_desk):
    served = serve_desk()
    one, started = begun(served, ("Mia waves.", 2), ("Otto sleeps.", 2), ("Mia jumps.", 1))
    one.chunks(5)
    one.say("retake", shot_id="s2", event_id="again")
    begun_ = one.until("take.begun")
    assert (begun_.take.take_id, begun_.take.parent, begun_.take.first_chunk) == ("t2", "t1", 2)
    assert (begun_.frame, [s.shot_id for s in begun_.shots]) == (21, ["s1"])
    assert [(c.take_id, c.shot_id) for c in one.chunks(3)] == [
        ("t2", "s2"), ("t2", "s2"), ("t2", "s3"),
    ]  # fmt: skip
    assert one.media["t2", 2] != one.media["t1", 2] and one.media["t2", 4] == one.media["t1", 4]
    path = f"/v1/sessions/{started.session_id}/takes"
    for take in ("t1", "t2"):
        for chunk in range(5):
            of = take if chunk >= 2 else "t1"
            assert served.get(f"{path}/{take}/chunks/{chunk}").content == one.media[of, chunk]
    one.say("retake", shot_id="s1", caption="Mia sits.", seed=9, event_id="other")
    applied = one.until("shot.applied", event_id="other")
    assert (applied.take_id, applied.chunk) == ("t3", 0)
    one.chunks(5)
    one.say("snapshot")
    state = one.until("session.state")
    assert [(s.caption, s.seed) for s in state.shots] == [
        ("Mia sits.", 9), ("Otto sleeps.", 2), ("Mia jumps.", None),
    ]  # fmt: skip


def test_a_retake_from_an_older_take_gets_a_seed_that_no_take_has(serve_desk):
    one, _ = begun(serve_desk(), ("Mia waves.", 1))
    one.chunks(1)
    one.say("retake", shot_id="s1")
    one.until("media.chunk", take_id="t2")
    one.say("take.open", take_id="t1")
    one.until("take.begun", replay=True)
    one.say("retake", shot_id="s1")
    one.until("media.chunk", take_id="t3")
    assert len({one.media[take, 0] for take in ("t1", "t2", "t3")}) == 3


def test_shots_queued_for_a_take_are_there_when_it_is_opened_again(serve_desk):
    served = serve_desk()
    one, _ = begun(served, ("Mia waves.", 1), ("Otto sleeps.", 1), ("Mia jumps.", 1))
    one.chunks(3)
    one.say("session.pause")
    one.say("retake", shot_id="s2", caption="Otto runs.")
    one.until("take.begun")
    one.shot("The end.")
    one.say("take.open", take_id="t1", event_id="older")
    one.until("take.begun", event_id="older")
    one.say("snapshot", event_id="then")
    assert [s.shot_id for s in one.until("session.state", event_id="then").queue] == ["s4"]
    one.say("shot.remove", shot_id="s4", event_id="gone")
    one.until("queue", event_id="gone")
    served.close()  # what waits is kept on disk
    token = next(m.resume_token for m in one.seen if m.type == "session.started")
    one = serve_desk().connect(resume_token=token)
    one.say("session.pause")
    one.say("take.open", take_id="t2", event_id="back")
    one.until("take.begun", event_id="back")
    one.say("snapshot", event_id="now")
    queue = one.until("session.state", event_id="now").queue
    assert [(s.shot_id, s.caption) for s in queue] == [("s2", "Otto runs."), ("s3", "Mia jumps.")]
    one.say("session.resume")
    assert [chunk.shot_id for chunk in one.chunks(2)] == ["s2", "s3"]


def test_a_shot_whose_first_chunk_is_made_is_told_and_can_be_made_longer(serve_desk, monkeypatch):
    one, _ = begun(serve_desk(), ("Mia waves.", 1))
    one.chunks(1)
    making, made = held_back(monkeypatch, MockDirector, "__next__")
    one.shot("Otto sleeps.", 1, event_id="e")
    one.until("shot.received", event_id="e")
    assert making.wait(20)
    one.say("snapshot", event_id="now")
    state = one.until("session.state", event_id="now")
    assert state.beginning.shot_id == "s2" and not state.queue
    assert [shot.shot_id for shot in state.shots] == ["s1"]
    one.say("shot.update", shot_id="s1", chunks=5, event_id="before")
    assert one.until("error", event_id="before").code == "unknown_shot"
    one.say("shot.update", shot_id="s2", chunks=3, event_id="longer")
    assert one.until("shot.changed", event_id="longer").asked_chunks == 3
    assert one.until("queue", event_id="longer").beginning.chunks == 3
    made.set()
    assert [chunk.shot_id for chunk in one.chunks(3)] == ["s2"] * 3
    one.say("snapshot", event_id="after")
    assert one.until("session.state", event_id="after").beginning is None


def test_a_branch_goes_on_with_other_shots_and_back_to_the_first_take(serve_desk):
    served = serve_desk()
    one, _ = begun(served, ("Mia waves.", 2), ("Otto sleeps.", 2))
    one.chunks(4)
    one.say("branch", shot_id="s2")
    one.until("take.begun")
    one.shot("Otto runs.", 1)
    assert [(c.take_id, c.chunk, c.shot_id) for c in one.chunks(1)] == [("t2", 2, "s3")]
    one.say("take.open", take_id="t1", event_id="back")
    back = one.until("take.begun", event_id="back")
    assert back.replay and (back.next_chunk, [s.shot_id for s in back.shots]) == (4, ["s1", "s2"])
    one.shot("The end.", 1)
    assert [(c.take_id, c.chunk) for c in one.chunks(1)] == [("t1", 4)]


def test_while_a_take_is_opened_its_files_are_refused(serve_desk, monkeypatch):
    served = serve_desk()
    one, started = begun(served, ("Mia waves.", 1))
    one.chunks(1)
    opening, opened = held_back(monkeypatch, MockEngine, "resume")
    one.say("take.open", take_id="t1")
    assert opening.wait(20)
    path = f"/v1/sessions/{started.session_id}/takes/t1/film.json"
    answer = served.get(path)
    one.say("shot.update", shot_id="s1", chunks=3, event_id="longer")  # of the take that is seen
    assert one.until("shot.changed", event_id="longer").take_id == "t1"
    opened.set()
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "another take is being opened"
    one.until("take.begun")
    assert served.get(path).status_code == 200


def test_a_take_is_saved_as_a_film_with_its_story(serve_desk, tmp_path):
    served = serve_desk()
    one, started = begun(served, ("Mia waves.", 2), ("Otto sleeps.", 3), global_caption="G.")
    one.chunks(3)
    one.say("branch", shot_id="s2")
    one.until("take.begun")
    one.shot("Otto runs.", 1)
    one.until("media.chunk", take_id="t2")
    path = f"/v1/sessions/{started.session_id}/takes/t2"
    answer = served.get(f"{path}/film.mp4")
    assert "attachment" in answer.headers["content-disposition"]
    with av.open(io.BytesIO(answer.content)) as film:
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(shown) == 33
    ((_, first), *_) = frames(served.get(f"/v1/sessions/{started.session_id}/header.mp4").content,
                              one.media["t2", 2])  # fmt: skip
    assert np.array_equal(shown[21], first)
    record = served.get(f"{path}/film.json").json()
    assert record["resolved"]["cut_frames"] == [21] and record["take"]["parent"] == "t1"
    assert len(record["frames_sha256"]) == 64
    (tmp_path / "story.yaml").write_bytes(served.get(f"{path}/story.yaml").content)
    story = read_story(tmp_path / "story.yaml")
    assert [(s.caption, s.chunks) for s in story.shots] == [("Mia waves.", 2), ("Otto runs.", 1)]
    assert (story.global_caption, story.seed) == ("G.", 1)
    assert served.get(f"{path}/contact_sheet.png").content[:4] == b"\x89PNG"
    again = served.connect(record=record)
    assert again.until("session.started").seed == 1
    assert [c.shot_id for c in again.chunks(3)] == ["s1", "s1", "s2"]
    assert again.media["t1", 1] == one.media["t1", 1]


def test_generation_stays_at_most_two_chunks_ahead_of_playback(serve_desk):
    served = serve_desk()
    one, _ = begun(served, ("Mia waves.", 9), pace="playback")
    one.say("playback.report", position_s=0.0)
    one.until("session.status", status="ahead")
    made = [m.chunk for m in one.seen if m.type == "media.chunk"]
    assert len(made) <= 3
    one.say("playback.report", position_s=2.0, playing=True)
    assert one.until("media.chunk", chunk=4)


def test_clients_are_told_of_another_length_of_the_shot_being_filmed(serve_desk):
    served = serve_desk(MockEngine(0.05))
    one, _ = begun(served, ("Mia waves.", 50))
    one.chunks(1)
    one.say("shot.update", shot_id="s1", chunks=6, event_id="longer")
    told = one.until("shot.changed", event_id="longer")
    assert (told.shot_id, told.asked_chunks) == ("s1", 6)
    one.say("shot.cut_now", shot={"caption": "Otto runs."})
    cut = one.until("shot.changed")
    assert one.until("shot.applied", shot_id="s2").chunk == cut.asked_chunks < 6


def test_a_shot_that_was_cut_stays_short_when_the_next_is_filmed_again(serve_desk):
    served = serve_desk(MockEngine(0.05))
    one, _ = begun(served, ("Mia waves.", 50))
    one.chunks(2)
    one.say("shot.cut_now", shot={"caption": "Otto runs.", "chunks": 2})
    second = one.until("shot.applied", shot_id="s2")
    one.chunks(2)
    one.say("retake", shot_id="s2")
    assert one.until("take.begun").next_chunk == second.chunk
    assert one.until("shot.applied", shot_id="s2").chunk == second.chunk
    assert [c.shot_id for c in one.chunks(2)] == ["s2", "s2"]


def test_the_next_chunk_begins_just_in_time_and_earlier_for_a_player_far_away(serve_desk):
    served = serve_desk()
    one, _ = begun(served, ("Mia waves.", 9), pace="playback")
    session = next(iter(served.desk.sessions.values()))
    assert session.lead == 1.5  # nobody knows yet how long a chunk takes
    assert len(one.chunks(2)) == 2
    one.say("session.pause", event_id="p")
    one.until("session.status", event_id="p")
    while not session.publisher.idle:
        time.sleep(0.01)
    last = session.publisher._lately[-1]
    session.publisher._lately.extend([replace(last, spent=0.1)] * LATELY)
    fast = session.lead
    assert fast == pytest.approx(0.1 + MARGIN)
    time.sleep(0.2)
    # It went back to what it no longer has: this says nothing of how far away it is.
    one.say("playback.report", position_s=0.0, buffered_s=0.0, playing=True)
    one.say("ping", event_id="back")
    one.until("pong", event_id="back")
    assert session.lead == fast
    # Its player still stands at what was sent.
    position_s = last.info.time_s - DRY / 2
    one.say("playback.report", position_s=position_s, buffered_s=0.0, playing=True)
    one.say("ping", event_id="end")
    one.until("pong", event_id="end")
    assert fast + 0.1 < session.lead <= 1.5


def test_one_slow_chunk_does_not_delay_the_orders_after_it(serve_desk):
    served = serve_desk()
    one, _ = begun(served, ("Mia waves.", 1))
    one.until("session.status", status="starved")
    (session,) = served.desk.sessions.values()
    publisher, last = session.publisher, session.publisher._lately[-1]

    def after(*spent):
        publisher._lately.clear()
        publisher._lately.extend(replace(last, spent=each) for each in spent)
        return publisher.chunk_seconds

    assert after() == float("inf")
    assert after(0.4, 0.9) == 0.9
    assert after(0.4, 0.9, 0.5) == 0.5
    assert after(0.4, 0.9, 0.5, 0.8) == 0.8


def test_a_retake_of_evicted_history_takes_a_turn_per_chunk(serve_desk, monkeypatch):
    def evicted(director, shot, stepwise=False):
        other = branch(director, shot)
        assert stepwise
        other.next_chunk = 0
        return other

    branch = MockDirector.branch
    monkeypatch.setattr(MockDirector, "branch", evicted)
    served = serve_desk()
    one, _ = begun(served, ("Mia waves.", 5), ("Otto sleeps.", 2))
    one.chunks(7)
    turns, turn = [], served.desk.resources.worker.turn
    monkeypatch.setattr(
        served.desk.resources.worker, "turn", lambda *asked: turns.append(1) or turn(*asked)
    )
    one.say("retake", shot_id="s2")
    assert one.until("take.begun").next_chunk == 5
    assert len(turns) >= 6  # back, and each of the five chunks
    assert [chunk.chunk for chunk in one.chunks(2)] == [5, 6]


def test_a_long_film_does_not_keep_the_device_from_another(serve_desk):
    served = serve_desk(MockEngine(0.05))
    long, _ = begun(served, ("Mia waves.", 200))
    long.chunks(1)
    short, _ = begun(served, ("Otto sleeps.", 5))
    assert [c.chunk for c in short.chunks(5)] == list(range(5))
    long.say("snapshot", event_id="now")
    assert 2 <= len(long.until("session.state", event_id="now").chunks) < 200


@pytest.mark.parametrize("on_empty, status", [("wait", "starved"), ("hold", None)])
def test_an_empty_queue_waits_or_holds_the_last_shot(on_empty, status, serve_desk):
    served = serve_desk(film_s=6.0)
    one, _ = begun(served, ("Mia waves.", 1), on_empty=on_empty)
    if status:
        one.until("session.status", status=status)
        assert [m.chunk for m in one.seen if m.type == "media.chunk"] in ([], [0])
    else:
        assert [c.shot_id for c in one.chunks(9)] == ["s1"] * 9  # six seconds are the limit
        one.until("session.status", status="limit")


def test_eight_directors_share_the_device_and_nobody_sees_anothers_film(serve_desk):
    served = serve_desk(sessions=8)
    all_ = [begun(served, (f"Film {n}.", 4))[0] for n in range(8)]
    viewers = []
    for one in all_[:2]:
        token = next(m for m in one.seen if m.type == "session.started").watch_token
        viewers += [served.connect("session.watch", watch_token=token) for _ in range(5)]
    for one in all_:
        one.chunks(4)
        one.shot("The end.")
    for number, one in enumerate(all_):
        one.until("media.chunk", chunk=4)
        one.say("snapshot", event_id="all")
        shots = one.until("session.state", event_id="all").shots
        assert [s.caption for s in shots] == [f"Film {number}.", "The end."]
    for number, viewer in enumerate(viewers):
        assert viewer.until("media.chunk", chunk=4)
        of = all_[number // 5]
        assert viewer.media["t1", 4] == of.media["t1", 4]
    assert len({one.media["t1", 3] for one in all_}) == 8


@pytest.mark.parametrize("at", [0, 2])
def test_a_disk_that_refuses_a_chunk_ends_the_session(serve_desk, monkeypatch, at):
    def full(project, info, *chunk):
        if info.chunk == at:
            raise DataError("the disk is full")
        return add(project, info, *chunk)

    add = Project.add_chunk
    monkeypatch.setattr(Project, "add_chunk", full)
    served = serve_desk(MockEngine(0.0))
    one, _ = begun(served, ("Mia waves.", 20))
    done = one.until("session.done")
    assert done.reason == "failed" and "the disk is full" in done.message
    assert freed(served.desk)


def freed(desk) -> bool:
    """Whether the desk soon has no session, and no room is reserved."""
    end = time.monotonic() + 5
    while (desk.sessions or desk.admission.open) and time.monotonic() < end:
        time.sleep(0.01)
    return not desk.sessions and desk.admission.open == 0


def test_turns_that_wait_are_few_and_keep_to_the_limits(serve_desk):
    served = serve_desk(MockEngine(0.05), takes=3)
    one, _ = begun(served, ("Mia waves.", 2))
    one.chunks(1)
    for _ in range(30):
        one.say("branch", shot_id="s1")
        one.say("take.open", take_id="t1")
    codes = [one.until("error").code for _ in range(40)]
    assert "too_many" in codes and {*codes} <= {"too_many", "limit", "unknown_shot"}
    (session,) = served.desk.sessions.values()
    assert len(session.project.takes) <= 3


def test_a_session_that_cannot_be_kept_frees_its_place(serve_desk, monkeypatch):
    save, calls = Project.save, []

    def second_fails(project):
        calls.append(1)
        if len(calls) == 2:
            raise DataError("the disk is full")
        save(project)

    served = serve_desk()
    monkeypatch.setattr(Project, "save", second_fails)
    served.connect(seed=1)
    end = time.monotonic() + 5
    while len(calls) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(calls) == 2 and freed(served.desk)


@pytest.mark.parametrize("wrong", [{}, [], {"secret_sha256": 5}, {"secret_sha256": "é"}, 7])
def test_a_damaged_session_has_no_token(wrong, tmp_path):
    project, token = Project.create(tmp_path, read_story("examples/demo.yaml"), {})
    project.save()
    file = project.folder / "session.json"
    told = json.loads(file.read_text())
    assert Project.open(tmp_path, token).session_id == project.session_id
    file.write_text(json.dumps({**told, **wrong} if wrong and isinstance(wrong, dict) else wrong))
    with pytest.raises(Refused, match="no session has this resume token"):
        Project.open(tmp_path, token)
