"""Films cut to a few chunks from a shot's start on, and the captions of such parts."""

import itertools
import re

import numpy as np

from causalcine_jax.data.film_parts import FilmParts
from causalcine_jax.storyworld import (
    COLOURS,
    NAMES,
    WorldConfig,
    part_of,
    retold,
    sample_story,
)

SHOTS = np.array([0, 0, 1, 2, 2, 3], np.int32)
RECORD = {
    "latents": np.arange(18, dtype=np.float32).reshape(18, 1, 1, 1),
    "token_ids": np.arange(1, 5, dtype=np.int32)[:, None],
    "shot_of_chunk": SHOTS,
    "index": np.int64(7),
}


def parts(chunks: int, count: int = 200) -> list[dict]:
    cut, rng = FilmParts(chunks, 3), np.random.default_rng(0)
    return [cut(RECORD, rng) for _ in range(count)]


def test_a_part_begins_with_any_shot_that_leaves_room_for_it():
    for chunks, starts in ((1, [0, 2, 3, 5]), (3, [0, 2, 3]), (6, [0])):
        found = [int(part["first_chunk"]) for part in parts(chunks)]
        assert sorted(set(found)) == starts
        assert min(found.count(start) for start in starts) > 200 / len(starts) / 2


def test_a_part_has_its_own_frames_and_prompts():
    for chunks, part in itertools.product((1, 2, 3), range(20)):
        cut = parts(chunks, 20)[part]
        first = int(cut["first_chunk"])
        assert cut["latents"].ravel().tolist() == list(range(3 * first, 3 * (first + chunks)))
        assert len(cut["token_ids"]) == min(chunks, 4)
        told = cut["token_ids"][cut["shot_of_chunk"], 0]
        assert told.tolist() == (SHOTS[first : first + chunks] + 1).tolist()
        assert cut["index"] == 7


def test_a_part_is_told_as_a_film_of_its_own():
    story = sample_story(3, 1, WorldConfig.montage())
    for first in [shot.start_chunk for shot in story.shots[:-2]]:
        part = part_of(story, first, 2)
        assert part.shots[0].start_chunk == 0
        assert sum(shot.chunks for shot in part.shots) == 2
        assert [shot.cast for shot in part.shots] == [
            shot.cast for shot in story.shots if first <= shot.start_chunk < first + 2
        ]
        for seed in range(20):
            other = retold(part, np.random.default_rng(seed))
            seen = set(other.shots[0].cast)
            named = set(re.findall(r"\w+", other.shots[0].caption.lower()))
            colours = {other.cast[who].colour for who in seen}
            assert named & set(COLOURS) == (colours if other.told else set())
            assert {n for n in NAMES if n.lower() in named} == {other.cast[w].name for w in seen}
