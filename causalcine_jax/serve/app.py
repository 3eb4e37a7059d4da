"""The desk as an ASGI app: the page, the socket, and a film's media by HTTP."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.limits import MESSAGE_BYTES
from causalcine_jax.serve.protocol import Refused, json_schema
from causalcine_jax.serve.security import Guard
from causalcine_jax.serve.socket import stream

PAGE = Path(__file__).parent / "page"


def desk_app(desk: Desk, token: str, hosts: tuple[str, ...] = ()) -> ASGIApp:
    """The app; its lifespan ends the desk's sessions.

    hosts  names that it answers to, beside localhost
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await desk.close()

    async def socket(websocket: WebSocket) -> None:
        await stream(desk, websocket)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def schema(request: Request) -> Response:
        return JSONResponse(json_schema())

    async def header(request: Request) -> Response:
        project = desk.project(request.path_params["session"])
        return FileResponse(project.header, media_type="video/mp4")

    async def chunk(request: Request) -> Response:
        at = request.path_params
        file = desk.project(at["session"]).media(at["take"], at["chunk"])
        return FileResponse(file, media_type="video/mp4")

    async def refused(request: Request, error: Refused) -> Response:
        missing = error.error.code in ("unknown_take", "not_started")
        told = {"error": error.error.model_dump(exclude_none=True)}
        return JSONResponse(told, 404 if missing else 400)

    of_session = "/v1/sessions/{session}"
    app = Starlette(
        routes=[
            WebSocketRoute("/v1/stream", socket),
            Route("/healthz", health),
            Route("/v1/schema", schema),
            Route(f"{of_session}/header.mp4", header),
            Route(f"{of_session}/takes/{{take}}/chunks/{{chunk:int}}", chunk),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        exception_handlers={Refused: refused},
        lifespan=lifespan,
    )
    return Guard(app, token, hosts, MESSAGE_BYTES)
