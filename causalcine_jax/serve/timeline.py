"""A take's timeline and story, from the chunks that were kept."""

from dataclasses import replace

from causalcine_jax.film.story_edits import next_seed
from causalcine_jax.serve.parts import ChunkInfo, MadeShot, QueuedShot
from causalcine_jax.serve.project import Project
from causalcine_jax.serve.server_messages import SessionState, Status
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


def session_state(project: Project, status: Status, event_id: str | None) -> SessionState:
    """All that there is of a session, as clients are told."""
    return SessionState(
        event_id=event_id,
        status=status,
        global_caption=project.story.global_caption,
        seed=project.story.seed,
        take_id=project.take_id,
        takes=project.infos(),
        shots=made_shots(project, project.take_id),
        chunks=tuple(project.line(project.take_id)),
        beginning=project.beginning,
        queue=project.queue,
    )


def unused_seed(project: Project, shot: QueuedShot) -> int:
    """The seed of a retake for which none is given: the next that no take has for this shot."""
    takes = project.takes.values()
    asked = [take.shots.get(shot.shot_id) for take in takes]
    waiting = [each for take in takes for each in take.waiting if each.shot_id == shot.shot_id]
    film_seed = project.story.seed
    own = lambda each: film_seed if each.seed is None else each.seed
    used = {own(each) for each in (shot, *asked, *waiting) if each}
    seed = next_seed(own(shot))
    while seed in used:
        seed = next_seed(seed)
    return seed


def story_of(project: Project, take_id: str) -> Story:
    """The story that makes a take again: each shot as long as it was made."""
    shots = tuple(
        Shot(shot.caption, chunks=shot.chunks, id=shot.shot_id, seed=shot.seed)
        for shot in made_shots(project, take_id)
    )
    return replace(project.story, shots=shots)
