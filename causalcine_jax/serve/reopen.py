"""Opens a take again from its folder, after a restart or another take.

The director makes the chunks that were kept once more, from their latents, one a turn. So their
frames are hashed again. Chunks that a crash left without media are made after that, as all others.
"""

from causalcine_jax.film_folder.record import FramesHash
from causalcine_jax.serve.engine import FilmDirector
from causalcine_jax.serve.project import Project
from causalcine_jax.serve.resources import DeskResources


async def reopened(resources: DeskResources, project: Project, take_id: str) -> FilmDirector:
    """The director of a take of the project, after its last chunk that has media."""
    folder, user = project.folder_of(take_id), project.session_id
    director = await resources.worker.turn(user, lambda: resources.engine.resume(folder))
    digest, digests = FramesHash(), []
    for _ in project.line(take_id):
        await resources.worker.turn(user, lambda: digest.add(next(director).frames))
        digests.append(digest.copy())
    project.give_digests(take_id, digests)
    return director


def go_to_take(project: Project, take_id: str, director: FilmDirector) -> None:
    """Makes a take the current one; after a restart it is that already.

    A shot may be queued and have begun in this take. After a crash the film goes on with it. Else
    it was queued for the take that is left, and waits with that until it is opened again.
    """
    left, opened = project.take, project.known(take_id)
    begun = {shot.id for shot in director.resolved.shots}
    back = tuple(shot for shot in opened.waiting if shot.shot_id not in begun)
    apart = begun | {shot.shot_id for shot in back}
    stay = tuple(shot for shot in project.queue if shot.shot_id not in apart)
    gone = tuple(shot for shot in project.queue if shot.shot_id in apart)
    if opened is not left:
        left.waiting = gone
        project.save_take()
    else:
        made = {chunk.shot_id for chunk in project.line(take_id)}
        for shot in gone:
            if shot.shot_id in begun and shot.shot_id not in made:
                project.beginning = shot
    project.take_id, opened.waiting, project.queue = take_id, (), (*back, *stay)
    project.save()
    project.save_take()
