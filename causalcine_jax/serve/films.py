"""A session's films by HTTP: media of single chunks, single frames, a take's files."""

import asyncio

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.export import frame_file, take_files
from causalcine_jax.serve.parts import TAKE_FILES
from causalcine_jax.serve.protocol import Refused

SESSION, TAKE = "/v1/sessions/{session}", "/v1/sessions/{session}/takes/{take}"
KEPT = {"Cache-Control": "private, max-age=3600"}  # what never changes


def film_routes(desk: Desk) -> list[Route]:
    async def header(request: Request) -> Response:
        project = desk.session(request.path_params["session"]).project
        if not project.header.is_file():
            raise Refused("unknown_take", "the film has no chunk yet", "session")
        return FileResponse(project.header, media_type="video/mp4", headers=KEPT)

    async def chunk(request: Request) -> Response:
        at = request.path_params
        file = desk.session(at["session"]).project.media(at["take"], at["chunk"])
        return FileResponse(file, media_type="video/mp4", headers=KEPT)

    async def frame(request: Request) -> Response:
        await desk.requests.turn(request)
        at = request.path_params
        project = desk.session(at["session"]).project
        for info in project.line(at["take"]):
            if 0 <= (place := at["frame"] - info.first_frame) < info.frames:
                media = project.media(at["take"], info.chunk)
                data = await asyncio.to_thread(frame_file, project.header, media, place)
                return Response(data, media_type="image/jpeg", headers=KEPT)
        raise Refused("unknown_take", f"{at['take']} has no frame {at['frame']}", "frame")

    async def file(request: Request) -> Response:
        await desk.requests.turn(request)
        at, engine = request.path_params, desk.resources.engine
        if at["file"] not in TAKE_FILES:
            raise Refused("unknown_take", f"a take has the files {', '.join(TAKE_FILES)}", "file")
        session = desk.session(at["session"])
        latents = session.model.latent_frames
        async with session.exporting:
            files = take_files(session.project, at["take"], session.head, latents)
            recorded_settings = await asyncio.to_thread(engine.record, session.director)
            path = await asyncio.to_thread(files.write, at["file"], recorded_settings)
            # Read here: the next request writes the file again.
            data = await asyncio.to_thread(path.read_bytes)
        name = f"{at['take']}-{at['file']}"
        attached = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(data, media_type=MEDIA_TYPES[path.suffix], headers=attached)

    return [
        Route(f"{SESSION}/header.mp4", header),
        Route(f"{TAKE}/chunks/{{chunk:int}}", chunk),
        Route(f"{TAKE}/frames/{{frame:int}}", frame),
        Route(f"{TAKE}/{{file}}", file),
    ]


MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".png": "image/png",
}
