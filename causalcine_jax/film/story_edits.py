"""Changes that a director makes to a story, each of which returns the new one; and its lines."""

import re
from dataclasses import replace

from causalcine_jax.errors import UsageError, raise_faults
from causalcine_jax.story import Shot, Story
from causalcine_jax.story_schema import MAX_SEED, duration_faults


def shot_of_line(line: str, chunks: int) -> tuple[str, int]:
    """Caption and chunks of a line that directs: `Mia waves.`, or `6: Mia waves.` for six.

    `10:30, Mia waves.` begins with a time of day, and is a caption.
    """
    length = re.match(r"(\d{1,18})\s*:(?!\d\d\b)", line)
    if length is None:
        return line.strip(), chunks
    return line[length.end() :].strip(), int(length[1])


def with_shot(story: Story, shot: Shot) -> Story:
    """With one more shot, after all others."""
    return replace(story, shots=(*story.shots, shot))


def extended(story: Story, chunks: int, chunk_frames: int) -> Story:
    """With the last shot longer by so many chunks. `UsageError` if there is no shot."""
    if not story.shots:
        raise UsageError("a film without shots has nothing to extend: add a shot first")
    raise_faults("extend", duration_faults(None, chunks, "extend"))
    longer = story.resolve(chunk_frames).shots[-1].chunks + chunks
    last = replace(story.shots[-1], chunks=longer, seconds=None)
    return replace(story, shots=(*story.shots[:-1], last))


def next_seed(seed: int) -> int:
    """The seed of a retake for which none is given."""
    return (seed + 1) % (MAX_SEED + 1)


def retaken(story: Story, number: int, caption: str | None, seed: int | None) -> Story:
    """With another caption or seed of the shot at `number`; without both, with the next seed."""
    old = story.shots[number]
    if seed is None and caption is None:
        seed = next_seed(story.seed if old.seed is None else old.seed)
    new = replace(
        old,
        caption=old.caption if caption is None else caption,
        seed=old.seed if seed is None else seed,
    )
    return replace(story, shots=(*story.shots[:number], new, *story.shots[number + 1 :]))
