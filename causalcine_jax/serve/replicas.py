"""Desks as Ray Serve applications, which need the extra [ray]: the replicas, and redirects to them.

    GET /  ->  Redirect  ->  /0/ or /1/ ...: a desk per replica, an application of its own

A film lives in one replica's memory: its page, socket and media must all reach that replica. Ray
Serve keeps no browser at a replica, but it routes by prefix: the prefix is the affinity. `Redirect`
sends each caller to a replica, also from the prefix of one that is gone.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import serve
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from causalcine_jax.errors import UsageError
from causalcine_jax.serve.app import desk_app
from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.limits import MESSAGE_BYTES, SessionLimits
from causalcine_jax.serve.security import Guard
from causalcine_jax.utils.compiler import tune_compiler

REDIRECT, REPLICA = "redirect", "desk-{}"
NUMBER = re.compile(REPLICA.format(r"(\d+)"))
COOKIE = "causalcine_replica"
ANSWERS_S = 5.0  # that a replica has to say how many films it has
REQUESTS = 64  # at once, beside sockets
CHECKED_S = 2.0  # how often Ray Serve looks whether a replica is alive
METHODS = ["GET", "HEAD", "POST", "DELETE"]


@dataclass(frozen=True)
class Shared:
    """What all replicas have in common; `hosts` as in `desk_app`."""

    make_desk: Callable[[], Desk]
    token: str
    hosts: tuple[str, ...]


class Replica:
    """A desk, with the films of its directors."""

    def __init__(self, shared: Shared, number: int):
        tune_compiler()
        self._shared, self._number = shared, number
        self._desk = shared.make_desk()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        shared = self._shared
        return desk_app(self._desk, shared.token, shared.hosts, f"videos/{self._number}")

    async def films(self) -> dict[str, Any] | None:
        """What `chosen` reads. None if this replica takes no films any more."""
        desk, admission = self._desk, self._desk.admission
        if admission.closed:
            return None
        films = admission.open + admission.waiting
        return {"ready": desk.ready, "films": films, "sessions": list(desk.sessions)}

    async def drain(self) -> None:
        """Ends all films here after their current chunk."""
        await self._desk.drain()


class Redirect:
    """Redirects whoever comes to a replica."""

    def __init__(self, shared: Shared):
        self._shared = shared
        self._handles: dict[int, Any] = {}

    def __serve_build_asgi_app__(self) -> ASGIApp:
        async def http(request: Request) -> Response:
            return await self._redirect(request)

        async def socket(websocket: WebSocket) -> None:
            await websocket.send_denial_response(await self._redirect(websocket))

        all_paths = "/{path:path}"
        app = Starlette(
            routes=[Route(all_paths, http, methods=METHODS), WebSocketRoute(all_paths, socket)]
        )
        return Guard(app, self._shared.token, self._shared.hosts, MESSAGE_BYTES)

    async def _redirect(self, request: HTTPConnection) -> Response:
        path = re.sub(r"^/\d+(?=/|$)", "", request.url.path) or "/"
        replicas = await self._replicas()
        if not replicas:
            body = {"error": {"message": "no replica takes films now"}}
            return JSONResponse(body, 503, {"Retry-After": "5"})
        session = re.match(r"/v1/sessions/([^/]+)/", path)
        number = chosen(replicas, session and session[1], request.cookies.get(COOKIE))
        query = f"?{request.url.query}" if request.url.query else ""
        answer = RedirectResponse(URL(f"/{number}{path}{query}"), 307)
        lifetime = int(SessionLimits().lifetime_s)
        answer.set_cookie(COOKIE, str(number), lifetime, httponly=True, samesite="strict")
        return answer

    async def _replicas(self) -> dict[int, dict[str, Any]]:
        """What each replica that takes films says of itself."""
        numbers = await asyncio.to_thread(running)
        answers = await asyncio.gather(*map(self._films, numbers))
        return {number: films for number, films in zip(numbers, answers) if films is not None}

    async def _films(self, number: int) -> dict[str, Any] | None:
        with contextlib.suppress(Exception):  # it is gone, or cannot answer: no film goes there
            if number not in self._handles:
                handle = await asyncio.to_thread(serve.get_app_handle, REPLICA.format(number))
                self._handles[number] = handle
            async with asyncio.timeout(ANSWERS_S):
                return await self._handles[number].films.remote()
        return None


def chosen(replicas: dict[int, dict[str, Any]], session: str | None, last: str | None) -> int:
    """The replica that has the session, else the browser's last, else the one with fewest films."""
    for number, told in replicas.items():
        if session in told["sessions"]:
            return number
    for number in replicas:
        if str(number) == last:
            return number
    return min(replicas, key=lambda each: (not replicas[each]["ready"], replicas[each]["films"]))


def running() -> list[int]:
    """The numbers of the replicas that run."""
    applications = serve.status().applications
    found = ((NUMBER.fullmatch(name), told.status) for name, told in applications.items())
    return sorted(int(match[1]) for match, status in found if match and status == "RUNNING")


def listen(host: str, port: int) -> None:
    """Starts Ray Serve, with a proxy on every host that has a replica, if it does not run yet."""
    serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})


def deploy(shared: Shared, count: int, devices: dict[str, int], sockets: int) -> None:
    """Starts `Redirect` and the replicas 0 ... count - 1, where they do not run yet.

    devices  that each replica takes: CPU, GPU and others that Ray counts
    sockets  of one replica, at most
    """
    there = serve.status().applications
    at_once = sockets + SessionLimits().waiting + REQUESTS
    others = {name: each for name, each in devices.items() if each and name not in ("CPU", "GPU")}
    actor = {"num_cpus": devices["CPU"], "num_gpus": devices["GPU"], "resources": others}
    desk = _deployment(Replica).options(
        max_ongoing_requests=at_once, ray_actor_options=actor, health_check_period_s=CHECKED_S
    )
    redirect = _deployment(Redirect).options(
        max_ongoing_requests=REQUESTS, ray_actor_options={"num_cpus": 0}
    )
    targets = [
        serve.RunTarget(desk.bind(shared, number), REPLICA.format(number), f"/{number}")
        for number in range(count)
    ]
    targets.append(serve.RunTarget(redirect.bind(shared), REDIRECT, "/"))
    if missing := [target for target in targets if target.name not in there]:
        serve.run_many(missing)


def _deployment(of: type) -> Any:
    return serve.deployment(serve.ingress()(of))


def drain(number: int) -> None:
    """Ends a replica's films, which go on at others, and then the replica."""
    if number not in (known := running()):
        told = ", ".join(map(str, known)) or "none"
        raise UsageError(f"--drain {number}: no such replica runs; these do: {told}")
    name = REPLICA.format(number)
    serve.get_app_handle(name).drain.remote().result()
    serve.delete(name)
