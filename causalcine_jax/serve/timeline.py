"""A take's timeline: the shots that have begun, from the chunks that were kept."""

from causalcine_jax.serve.parts import ChunkInfo, MadeShot
from causalcine_jax.serve.project import Project
from causalcine_jax.story import Shot, Story


def made_shots(project: Project, story: Story) -> tuple[MadeShot, ...]:
    """The current take's shots that have begun.

    story  the director's, which has them under their ids
    """
    take, made = project.take, {}
    for chunk in project.line(take.take_id):
        made.setdefault(chunk.shot_id, []).append(chunk)
    told = {shot.id: shot for shot in story.shots}
    return tuple(
        _made_shot(told[shot_id], chunks, take.asked.get(shot_id, len(chunks)))
        for shot_id, chunks in made.items()
        if shot_id in told
    )


def _made_shot(shot: Shot, chunks: list[ChunkInfo], asked: int) -> MadeShot:
    return MadeShot(
        shot_id=shot.id,
        caption=shot.caption,
        first_chunk=chunks[0].chunk,
        chunks=len(chunks),
        first_frame=chunks[0].first_frame,
        frames=sum(chunk.frames for chunk in chunks),
        time_s=chunks[0].time_s,
        seconds=sum(chunk.seconds for chunk in chunks),
        asked_chunks=asked,
        seed=shot.seed,
    )
