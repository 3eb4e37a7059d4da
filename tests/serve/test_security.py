"""Who is let in, and what a hostile or broken client gets."""

import json

import httpx2
import pytest
from served_desk import BEARER, TOKEN, DeskSocket, socket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from causalcine_jax.serve.limits import MESSAGE_BYTES


def closed(client):
    """Reads to the end; the code with which the server closed."""
    with pytest.raises(ConnectionClosed) as ended:
        while True:
            client.read()
    return ended.value.rcvd.code


@pytest.mark.parametrize("token", ["", "another-token-for-tests"])
def test_without_the_token_there_is_only_health(serve_desk, token):
    served = serve_desk()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx2.Client(base_url=served.url, headers=headers) as client:
        for path in ("/", "/v1/schema", "/metrics", "/v1/sessions/x/header.mp4", "/v1/videos"):
            assert client.get(path).status_code == 401, path
        assert client.get(f"/?token={token}").status_code == 401
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json().keys() == {"status"}
    with pytest.raises(InvalidStatus), socket(served.host, headers):
        pass


def test_the_printed_address_gives_a_cookie_that_scripts_cannot_read(serve_desk):
    served = serve_desk()
    with httpx2.Client(base_url=served.url) as client:
        answer = client.get(f"/?token={TOKEN}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        page = client.get("/")
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_cookies_of_other_apps_on_the_host_do_not_hide_the_token(serve_desk):
    served = serve_desk()
    with httpx2.Client(base_url=served.url) as client:
        own = client.get(f"/?token={TOKEN}").headers["set-cookie"].partition(";")[0]
        strange = 'other={"a": 1}; list[0]=x; half="y; (c)=1'
        for cookies in (f"{strange}; {own}", f"{own}; {strange}"):
            client.cookies.clear()
            assert client.get("/", headers={"Cookie": cookies}).status_code == 200


def test_other_hosts_and_origins_are_refused(serve_desk):
    served = serve_desk()
    assert served.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert served.get("/", headers={"Host": "localhost:1"}).status_code == 200
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with pytest.raises(InvalidStatus), socket(served.host, {**BEARER, **headers}):
            pass
    with socket(served.host, {**BEARER, "Origin": served.url}) as mine:
        client = DeskSocket(mine)
        client.say("ping", event_id="p")
        assert client.read().type == "pong"


def test_paths_stay_in_the_film(serve_desk):
    served = serve_desk()
    client = served.connect()
    started = client.until("session.started")
    client.shot("Mia waves.")
    client.chunks(1)
    path = f"/v1/sessions/{started.session_id}/takes"
    for bad in (
        "t1/session.json",
        "..%2F..%2Fsession.json",
        "t1/..%2F..%2Fsession.json",
        "t9/film.mp4",
    ):
        assert served.get(f"{path}/{bad}").status_code == 404, bad
    assert served.get(f"/v1/sessions/{'0' * 32}/takes/t1/film.mp4").status_code == 404
    assert served.get("/..%2Fsession.py").status_code == 404


def test_malformed_messages_are_answered_and_change_nothing(serve_desk):
    served = serve_desk()
    client = served.connect()
    client.until("session.started")
    for bad in ("{", "[]", '{"type": "shot.append"}', '{"type": "nonsense", "event_id": "e"}'):
        client.socket.send(bad)
        assert client.until("error").code == "bad_message"
    client.socket.send('{"type": "nonsense", "event_id": "\\ud800"}')
    assert client.until("error").event_id is None
    client.socket.send(b"\x00")
    assert client.until("error").message.startswith("messages to the server are text")
    client.say("shot.remove", shot_id="s7", event_id="e1")
    error = client.until("error")
    assert (error.code, error.event_id, error.field) == ("unknown_shot", "e1", "shot_id")
    client.say("retake", shot_id="s7")
    assert client.until("error").code == "unknown_shot"
    client.shot("refuseme")
    assert client.until("error").field == "shot.caption"
    client.shot("Mia waves.")
    assert client.chunks(1)[0].shot_id == "s1"


def test_a_first_message_must_begin_a_session(serve_desk):
    served = serve_desk(first_s=0.3)
    client = served.connect(begin=None)
    client.shot("Mia waves.")
    assert client.read().code == "not_started"
    assert closed(served.connect(begin=None)) == 1008


def test_large_messages_and_floods_close_the_socket(serve_desk):
    served = serve_desk(rate=20.0)
    client = served.connect()
    client.until("session.started")
    client.socket.send(json.dumps({"type": "ping", "event_id": "x" * MESSAGE_BYTES}))
    assert closed(client) == 1009
    flood = served.connect()
    with pytest.raises(ConnectionClosed):
        for _ in range(200):
            flood.say("ping")
        closed_with = closed(flood)
        assert closed_with == 1008
        raise ConnectionClosed(None, None)


def test_large_bodies_are_refused(serve_desk):
    served = serve_desk()
    with httpx2.Client(base_url=served.url, headers=BEARER) as client:
        answer = client.post("/v1/schema", content=b" " * (MESSAGE_BYTES + 1))
    assert answer.status_code == 413


def test_a_viewer_sees_the_film_and_cannot_direct_it(serve_desk):
    served = serve_desk(viewers=1)
    client = served.connect()
    started = client.until("session.started")
    client.shot("Mia waves.", 2)
    client.chunks(2)
    viewer = served.connect("session.watch", watch_token=started.watch_token)
    seen = viewer.until("session.started")
    assert seen.resume_token is None and not seen.directs
    assert [c.chunk for c in viewer.until("session.state").chunks] == [0, 1]
    viewer.shot("Otto sleeps.")
    assert viewer.until("error").code == "read_only"
    client.shot("Otto sleeps.")
    assert viewer.until("media.chunk").shot_id == "s2"
    other = served.connect("session.watch", watch_token=started.watch_token)
    assert other.until("error").code == "full" and closed(other) == 1013
    false = served.connect("session.watch", watch_token=started.watch_token[:-1] + "x")
    assert false.until("error").code == "bad_token"


def test_a_malformed_host_or_origin_is_refused(serve_desk):
    served = serve_desk()
    assert served.get("/", headers={"Host": "[::1"}).status_code == 421
    with pytest.raises(InvalidStatus), socket(served.host, {**BEARER, "Origin": "http://[::1"}):
        pass
