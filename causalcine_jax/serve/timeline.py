"""A take's timeline and story, from the chunks that were kept."""

from dataclasses import replace

from causalcine_jax.serve.parts import ChunkInfo, MadeShot
from causalcine_jax.serve.project import Project
from causalcine_jax.story import Shot, Story


def made_shots(project: Project, take_id: str) -> tuple[MadeShot, ...]:
    """A take's shots that have begun."""
    made: dict[str, list[ChunkInfo]] = {}
    for chunk in project.line(take_id):
        made.setdefault(chunk.shot_id, []).append(chunk)
    asked = project.known(take_id).shots
    return tuple(
        MadeShot(
            shot_id=shot_id,
            caption=asked[shot_id].caption,
            first_chunk=chunks[0].chunk,
            chunks=len(chunks),
            first_frame=chunks[0].first_frame,
            frames=sum(chunk.frames for chunk in chunks),
            time_s=chunks[0].time_s,
            seconds=sum(chunk.seconds for chunk in chunks),
            asked_chunks=asked[shot_id].chunks,
            seed=asked[shot_id].seed,
        )
        for shot_id, chunks in made.items()
    )


def story_of(project: Project, take_id: str) -> Story:
    """The story that makes a take again: each shot as long as it was made."""
    shots = tuple(
        Shot(shot.caption, chunks=shot.chunks, id=shot.shot_id, seed=shot.seed)
        for shot in made_shots(project, take_id)
    )
    return replace(project.story, shots=shots)
