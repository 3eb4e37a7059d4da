"""Films as jobs, stories that are checked, and metrics."""

import asyncio
import io
import time
from concurrent.futures import ThreadPoolExecutor

import av
import httpx2
import pytest
from served_desk import BEARER

from causalcine_jax.errors import DataError
from causalcine_jax.serve.export import TakeFiles
from causalcine_jax.serve.jobs import Job, _Client
from causalcine_jax.serve.mock import MockEngine
from causalcine_jax.serve.parts import MOST_SHOTS, QueuedShot
from causalcine_jax.serve.server_messages import SessionState

STORY = {
    "schema": "causalcine/story@1",
    "global": "G.",
    "shots": [{"caption": "Mia waves.", "chunks": 2}, {"caption": "Otto sleeps.", "seconds": 0.8}],
}


@pytest.fixture
def api(serve_desk):
    """Serves a desk, and opens a client of it."""
    with httpx2.Client(headers=BEARER) as client:

        def open(*engine, **limits):
            client.base_url = serve_desk(*engine, **limits).url
            return client

        yield open


def finished(client, job):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        told = client.get(f"/v1/videos/{job['id']}").json()
        if told["status"] in ("completed", "failed"):
            return told
        time.sleep(0.02)
    raise TimeoutError(told)


def test_a_job_films_a_story_and_is_deleted(api, tmp_path):
    client = api()
    job = client.post("/v1/videos", json={"story": STORY, "seed": 3}).json()
    assert (job["object"], job["status"], job["prompt"]) == ("video", "queued", "Mia waves.")
    told = finished(client, job)
    assert (told["status"], told["progress"], told["error"]) == ("completed", 100, None)
    film = client.get(f"/v1/videos/{job['id']}/content")
    with av.open(io.BytesIO(film.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 33
    assert [j["id"] for j in client.get("/v1/videos").json()["data"]] == [job["id"]]
    assert client.delete(f"/v1/videos/{job['id']}").json()["deleted"]
    assert client.get(f"/v1/videos/{job['id']}").status_code == 404
    assert not [file for file in (tmp_path / "films").rglob("*") if file.is_file()]
    samples = client.get("/metrics").text.splitlines()
    assert "causalcine_chunks_total 3.0" in samples and "causalcine_frames_total 33.0" in samples
    assert 'causalcine_chunk_seconds_count{stage="encode"} 3.0' in samples


def test_a_prompt_as_openais_clients_send_it(api):
    client = api()
    asked = {"model": "mock", "prompt": "Mia waves.", "seconds": "1.5", "size": "64x48"}
    job = client.post("/v1/videos", json=asked).json()
    assert finished(client, job)["status"] == "completed"
    with av.open(io.BytesIO(client.get(f"/v1/videos/{job['id']}/content").content)) as film:
        frames = [(frame.width, frame.height) for frame in film.decode(video=0)]
    assert frames == [(256, 192)] * 21


@pytest.mark.parametrize(
    "body, field, said",
    [
        ({}, None, "give a prompt or a story"),
        ({"prompt": "A", "sizes": "1x1"}, "sizes", "Extra inputs"),
        ({"prompt": "A", "seconds": "long"}, "seconds", "above 0"),
        ({"prompt": "A", "size": "33x48"}, "story", "multiple of 16"),
        ({"prompt": "A", "model": "other"}, "model", "is mock"),
        ({"prompt": "refuseme"}, "story", "does not know"),
        ({"story": {"schema": "causalcine/story@1", "shots": []}}, "story", "at least one shot"),
    ],
)
def test_a_job_that_cannot_be_made_is_refused_at_once(body, field, said, api):
    answer = api().post("/v1/videos", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and said in error["message"]
    assert error.get("field") == field


def test_too_many_jobs_are_told_when_to_come_back(api):
    client = api(MockEngine(0.2), sessions=1, waiting=1)
    ask = lambda: client.post("/v1/videos", json={"story": STORY})
    jobs = [ask() for _ in range(2)]
    end = time.monotonic() + 5
    while (full := ask()).status_code != 429 and time.monotonic() < end:
        jobs.append(full)
    assert int(full.headers["Retry-After"]) > 0
    for job in jobs:
        client.delete(f"/v1/videos/{job.json()['id']}")


def test_a_story_is_checked_without_filming_it(api):
    client = api()
    check = lambda story: client.post("/v1/stories:validate", json=story).json()
    told = check(STORY)
    assert told["valid"] and told["resolved"]["cut_frames"] == [21]
    wrong = check({**STORY, "shots": [{"caption": "", "chunks": 0}], "sed": 1})
    assert not wrong["valid"] and len(wrong["faults"]) == 3
    unknown = check({**STORY, "global": "refuseme"})
    assert not unknown["valid"] and "refuseme" in unknown["faults"][0]
    assert client.post("/v1/stories:validate", content=b"{").status_code == 400
    many = check({**STORY, "shots": STORY["shots"] * MOST_SHOTS})
    assert many["faults"] == [f"story: at most {MOST_SHOTS} shots, not {2 * MOST_SHOTS}"]


def test_a_hostile_story_is_refused_before_it_costs_much(api):
    shot = "{caption: &c " + "a" * 15_000 + "}"
    aliases = "\n".join(["- *s"] * 9_000)
    story = f"schema: causalcine/story@1\nshots:\n- &s {shot}\n{aliases}"
    began = time.process_time()
    told = api().post("/v1/stories:validate", content=story.encode()).json()
    assert "at most 64 shots" in told["faults"][0]
    assert time.process_time() - began < 10


def test_a_story_is_checked_off_the_event_loop(api, monkeypatch):
    def check(*_):
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()

    monkeypatch.setattr(MockEngine, "check", check)
    assert api().post("/v1/stories:validate", json=STORY).json()["valid"]


def test_finished_jobs_are_found_again_after_a_restart(serve_desk):
    first = serve_desk()
    with httpx2.Client(base_url=first.url, headers=BEARER) as client:
        job = client.post("/v1/videos", json={"story": STORY}).json()
        finished(client, job)
    second = serve_desk()
    assert second.get(f"/v1/videos/{job['id']}").json()["status"] == "completed"
    assert second.get(f"/v1/videos/{job['id']}/content").headers["content-type"] == "video/mp4"


def test_jobs_that_a_stop_left_open_are_filmed_on(serve_desk, tmp_path):
    long = {**STORY, "shots": [{"caption": "Mia waves.", "chunks": 8}, *STORY["shots"]]}
    first = serve_desk(MockEngine(0.2), sessions=1)
    with httpx2.Client(base_url=first.url, headers=BEARER) as client:
        begun, waits = (client.post("/v1/videos", json={"story": long}).json() for _ in range(2))
        end = time.monotonic() + 20
        while not client.get(f"/v1/videos/{begun['id']}").json()["progress"]:
            assert time.monotonic() < end
    first.close()
    second = serve_desk(sessions=1)
    with httpx2.Client(base_url=second.url, headers=BEARER) as client:
        for job in (begun, waits):
            told = finished(client, job)
            assert (told["status"], told["error"]) == ("completed", None) and "start" not in told
            film = client.get(f"/v1/videos/{job['id']}/content")
            with av.open(io.BytesIO(film.content)) as container:
                assert sum(1 for _ in container.decode(video=0)) == 129
    assert "resume_token" not in (tmp_path / f"films/videos/{begun['id']}.json").read_text()


def test_a_film_that_was_whole_when_its_server_was_killed_is_a_finished_job():
    async def scene():
        client = _Client(Job("video_0", "mock", 0, "A"))
        shot = QueuedShot(shot_id="s1", caption="A", chunks=1, seconds=1.0)
        fields = {"status": "starved", "global_caption": "", "seed": 0, "take_id": "t1"}
        told = SessionState(**fields, takes=(), shots=(), chunks=(), queue=(), beginning=shot)
        client.put(told)
        assert not client.done.is_set()  # the shot that had just begun is not made yet
        client.put(told.model_copy(update={"beginning": None}))
        assert client.done.is_set()

    asyncio.run(scene())


def test_a_job_may_take_longer_than_a_session_may_be_old(api):
    client = api(MockEngine(0.1), lifetime_s=0.2)
    job = client.post("/v1/videos", json={"story": STORY}).json()
    assert finished(client, job)["status"] == "completed"


def test_a_job_deleted_twice_is_unknown_the_second_time(api):
    client = api(MockEngine(0.2))
    job = client.post("/v1/videos", json={"story": STORY}).json()
    with ThreadPoolExecutor(2) as two:
        gone = [two.submit(client.delete, f"/v1/videos/{job['id']}") for _ in range(2)]
    codes = sorted(each.result().status_code for each in gone)
    assert codes[0] in (200, 204) and codes[1] == 404


def test_a_film_that_cannot_be_written_is_told_and_can_be_deleted(api, monkeypatch):
    def fails(*_):
        raise DataError("the disk is full (film.mp4): make room")

    monkeypatch.setattr(TakeFiles, "write", fails)
    client = api()
    job = client.post("/v1/videos", json={"story": STORY}).json()
    told = finished(client, job)
    assert told["status"] == "failed" and "disk is full" in told["error"]["message"]
    assert client.delete(f"/v1/videos/{job['id']}").status_code == 200
    assert client.get(f"/v1/videos/{job['id']}").status_code == 404
