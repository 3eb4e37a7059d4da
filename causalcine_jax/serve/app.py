"""The desk as an ASGI app: the page, the socket, and a film's media by HTTP."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from causalcine_jax.errors import DataError, UsageError, printable
from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.films import film_routes
from causalcine_jax.serve.job_routes import job_routes
from causalcine_jax.serve.jobs import Jobs
from causalcine_jax.serve.limits import MESSAGE_BYTES
from causalcine_jax.serve.protocol import Refused, json_schema
from causalcine_jax.serve.security import Guard
from causalcine_jax.serve.socket import stream

log = logging.getLogger("causalcine.desk")
# Of refusals; others are 400.
STATUS = {"unknown_take": 404, "not_started": 404, "full": 429, "too_many": 429}
PAGE = Path(__file__).parent / "page"


def desk_app(
    desk: Desk, token: str, hosts: tuple[str, ...] = (), videos: str = "videos"
) -> ASGIApp:
    """The app; its lifespan ends the desk's sessions.

    hosts   names that it answers to, beside localhost
    videos  folder of its jobs among the projects, which no other server may use
    """

    jobs = Jobs(desk, videos)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        warming = asyncio.create_task(desk.warm_up())
        jobs.go_on()
        yield
        warming.cancel()
        await desk.close()

    async def socket(websocket: WebSocket) -> None:
        await stream(desk, websocket)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        told = {"status": "ready" if desk.ready else "warming up"}
        return JSONResponse(told, 200 if desk.ready else 503)

    async def schema(request: Request) -> Response:
        return JSONResponse(json_schema())

    async def model(request: Request) -> Response:
        return JSONResponse(desk.resources.engine.info.model_dump())

    async def refused(request: Request, error: Refused) -> Response:
        told, wait = error.error, error.error.retry_after_s
        headers = {} if wait is None else {"Retry-After": f"{wait:.0f}"}
        status = STATUS.get(told.code, 400)
        return JSONResponse({"error": told.model_dump(exclude_none=True)}, status, headers)

    async def failed(request: Request, error: DataError) -> Response:
        log.warning("%s: %s", request.url.path, error)
        told = {"code": "failed", "message": printable(str(error))}
        return JSONResponse({"error": told}, 500)

    async def unusable(request: Request, error: UsageError) -> Response:
        return JSONResponse({"error": {"code": "refused", "message": printable(str(error))}}, 400)

    # Starlette's type has only handlers that take any Exception.
    handlers: dict[type[Exception], Any] = {
        Refused: refused,
        DataError: failed,
        UsageError: unusable,
    }
    app = Starlette(
        routes=[
            WebSocketRoute("/v1/stream", socket),
            Route("/healthz", health),
            Route("/readyz", ready),
            Route("/v1/schema", schema),
            Route("/v1/model", model),
            *film_routes(desk),
            *job_routes(desk, jobs),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    return Guard(app, token, hosts, MESSAGE_BYTES)
