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
    # A crash leaves a shot both in the queue and in the film when it had just begun.
    begun = {shot.id for shot in director.resolved.shots}
    project.queue = tuple(shot for shot in project.queue if shot.shot_id not in begun)
    project.save()
    return director
