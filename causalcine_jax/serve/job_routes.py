"""Jobs, stories to check, and metrics by HTTP."""

import asyncio
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from causalcine_jax.errors import UsageError
from causalcine_jax.film_folder.record import resolved_dict
from causalcine_jax.serve.desk import Desk, check_shots
from causalcine_jax.serve.engine import Engine
from causalcine_jax.serve.jobs import Jobs, NewVideo
from causalcine_jax.serve.protocol import Refused, refusal
from causalcine_jax.story import Story
from causalcine_jax.story_schema import story_faults
from causalcine_jax.utils.plain_data import parse_plain


def job_routes(desk: Desk, jobs: Jobs) -> list[Route]:
    async def create(request: Request) -> Response:
        await desk.requests.turn(request)
        try:
            asked = NewVideo.model_validate_json(await request.body())
        except ValidationError as error:
            raise refusal(error) from None
        return JSONResponse(jobs.begin(asked).as_video())

    async def every(request: Request) -> Response:
        newest = sorted(jobs.all.values(), key=lambda job: job.created_at, reverse=True)
        return JSONResponse({"object": "list", "data": [job.as_video() for job in newest]})

    async def one(request: Request) -> Response:
        return JSONResponse(jobs.known(request.path_params["id"]).as_video())

    async def content(request: Request) -> Response:
        path = jobs.content(request.path_params["id"])
        name = f"{request.path_params['id']}.mp4"
        return FileResponse(path, media_type="video/mp4", filename=name)

    async def delete(request: Request) -> Response:
        job_id = request.path_params["id"]
        await jobs.delete(job_id)
        return JSONResponse({"id": job_id, "object": "video.deleted", "deleted": True})

    async def validate(request: Request) -> Response:
        await desk.requests.turn(request)
        # A hostile story takes seconds, in which no film may wait.
        body, engine = await request.body(), desk.resources.engine
        return await asyncio.to_thread(lambda: JSONResponse(_validated(engine, body)))

    async def metrics(request: Request) -> Response:
        return Response(desk.measured(), media_type="text/plain; version=0.0.4")

    return [
        Route("/v1/videos", create, methods=["POST"]),
        Route("/v1/videos", every),
        Route("/v1/videos/{id}", one),
        Route("/v1/videos/{id}", delete, methods=["DELETE"]),
        Route("/v1/videos/{id}/content", content),
        Route("/v1/stories:validate", validate, methods=["POST"]),
        Route("/metrics", metrics),
    ]


def _validated(engine: Engine, body: bytes) -> dict[str, Any]:
    """Whether the text is a story that this model can film, its faults, and what becomes of it."""
    told = _story(body)
    try:
        check_shots(told)
        if faults := story_faults(told):
            return {"valid": False, "faults": faults}
        story = Story.from_dict(told)
        resolved = story.resolve(engine.info.latent_frames)
        engine.check([(f"shot '{shot.id}'", shot.prompt) for shot in resolved.shots], story)
    except UsageError as error:
        return {"valid": False, "faults": [str(error)]}
    shown = {"story": story.to_dict(), "resolved": resolved_dict(resolved)}
    return {"valid": True, "faults": [], **shown}


def _story(body: bytes) -> dict[str, Any]:
    """The mapping in YAML or JSON. `Refused` if it is neither."""
    try:
        text = body.decode("utf-8-sig")
        told = parse_plain(text, "the story", as_json=text.lstrip().startswith("{"))
    except UnicodeDecodeError:
        raise Refused("bad_message", "the story is not text in UTF-8", "story") from None
    except UsageError as error:
        raise Refused("bad_message", str(error), "story") from None
    if not isinstance(told, dict):
        raise Refused("bad_message", "a story is a mapping in YAML or JSON", "story")
    return told
