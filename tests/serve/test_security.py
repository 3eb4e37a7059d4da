"""Who is let in, and what a hostile or broken client gets."""

import json

import httpx2
import pytest
from desk_house import BEARER, TOKEN, Talk, socket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from causalcine_jax.serve.limits import MESSAGE_BYTES


def closed(talk):
    """Reads to the end; the code with which the server closed."""
    with pytest.raises(ConnectionClosed) as ended:
        while True:
            talk.read()
    return ended.value.rcvd.code


@pytest.mark.parametrize("token", ["", "another-token-for-tests"])
def test_without_the_token_there_is_only_health(house, token):
    home = house()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx2.Client(base_url=home.url, headers=headers) as client:
        for path in ("/", "/v1/schema", "/metrics", "/v1/sessions/x/header.mp4", "/v1/videos"):
            assert client.get(path).status_code == 401, path
        assert client.get(f"/?token={token}").status_code == 401
        assert client.get("/healthz").json() == {"status": "ok"}
    with pytest.raises(InvalidStatus), socket(home.host, headers):
        pass


def test_the_printed_address_gives_a_cookie_that_scripts_cannot_read(house):
    home = house()
    with httpx2.Client(base_url=home.url) as client:
        answer = client.get(f"/?token={TOKEN}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        page = client.get("/")
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_other_hosts_and_origins_are_refused(house):
    home = house()
    assert home.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert home.get("/", headers={"Host": "localhost:1"}).status_code == 200
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with pytest.raises(InvalidStatus), socket(home.host, {**BEARER, **headers}):
            pass
    with socket(home.host, {**BEARER, "Origin": home.url}) as mine:
        talk = Talk(mine)
        talk.say("ping", event_id="p")
        assert talk.read().type == "pong"


def test_paths_stay_in_the_film(house):
    home = house()
    talk = home.talk()
    started = talk.until("session.started")
    talk.shot("Mia waves.")
    talk.chunks(1)
    path = f"/v1/sessions/{started.session_id}/takes"
    for bad in (
        "t1/session.json",
        "..%2F..%2Fsession.json",
        "t1/..%2F..%2Fsession.json",
        "t9/film.mp4",
    ):
        assert home.get(f"{path}/{bad}").status_code == 404, bad
    assert home.get(f"/v1/sessions/{'0' * 32}/takes/t1/film.mp4").status_code == 404
    assert home.get("/..%2Fsession.py").status_code == 404


def test_malformed_messages_are_answered_and_change_nothing(house):
    home = house()
    talk = home.talk()
    talk.until("session.started")
    for bad in ("{", "[]", '{"type": "shot.append"}', '{"type": "nonsense", "event_id": "e"}'):
        talk.socket.send(bad)
        assert talk.until("error").code == "bad_message"
    talk.socket.send(b"\x00")
    assert talk.until("error").message.startswith("messages to the server are text")
    talk.say("shot.remove", shot_id="s7", event_id="e1")
    error = talk.until("error")
    assert (error.code, error.event_id, error.field) == ("unknown_shot", "e1", "shot_id")
    talk.say("retake", shot_id="s7")
    assert talk.until("error").code == "unknown_shot"
    talk.shot("refuseme")
    assert talk.until("error").field == "shot.caption"
    talk.shot("Mia waves.")
    assert talk.chunks(1)[0].shot_id == "s1"


def test_a_first_message_must_begin_a_session(house):
    home = house(first_s=0.3)
    talk = home.talk(begin=None)
    talk.shot("Mia waves.")
    assert talk.read().code == "not_started"
    assert closed(home.talk(begin=None)) == 1008


def test_large_messages_and_floods_close_the_socket(house):
    home = house(rate=20.0)
    talk = home.talk()
    talk.until("session.started")
    talk.socket.send(json.dumps({"type": "ping", "event_id": "x" * MESSAGE_BYTES}))
    assert closed(talk) == 1009
    flood = home.talk()
    with pytest.raises(ConnectionClosed):
        for _ in range(200):
            flood.say("ping")
        closed_with = closed(flood)
        assert closed_with == 1008
        raise ConnectionClosed(None, None)


def test_large_bodies_are_refused(house):
    home = house()
    with httpx2.Client(base_url=home.url, headers=BEARER) as client:
        answer = client.post("/v1/schema", content=b" " * (MESSAGE_BYTES + 1))
    assert answer.status_code == 413


def test_a_viewer_sees_the_film_and_cannot_direct_it(house):
    home = house(viewers=1)
    talk = home.talk()
    started = talk.until("session.started")
    talk.shot("Mia waves.", 2)
    talk.chunks(2)
    viewer = home.talk("session.watch", watch_token=started.watch_token)
    seen = viewer.until("session.started")
    assert seen.resume_token is None and not seen.directs
    assert [c.chunk for c in viewer.until("session.state").chunks] == [0, 1]
    viewer.shot("Otto sleeps.")
    assert viewer.until("error").code == "read_only"
    talk.shot("Otto sleeps.")
    assert viewer.until("media.chunk").shot_id == "s2"
    other = home.talk("session.watch", watch_token=started.watch_token)
    assert other.until("error").code == "full" and closed(other) == 1013
    false = home.talk("session.watch", watch_token=started.watch_token[:-1] + "x")
    assert false.until("error").code == "bad_token"


def test_a_malformed_host_or_origin_is_refused(house):
    home = house()
    assert home.get("/", headers={"Host": "[::1"}).status_code == 421
    with pytest.raises(InvalidStatus), socket(home.host, {**BEARER, "Origin": "http://[::1"}):
        pass
