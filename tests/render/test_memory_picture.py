"""memory.png: whose frames memory brought back, as shares by shot, and which of them are shown."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from causalcine_jax.render import memory_picture as picture
from causalcine_jax.render.memory_picture import MemoryPicture, shot_shares, shown_frames
from causalcine_jax.render.typography import PAPER, shot_colour
from causalcine_jax.story import Shot, Story

STORY = Story(
    tuple(Shot(f"Shot {n}.", chunks=chunks, id=f"s{n}") for n, chunks in ((1, 2), (2, 2), (3, 4)))
).resolve()  # latent frames 0-5, 6-11 and 12-23


def test_a_shots_share_is_over_all_layers():
    votes = Counter({0: 6, 5: 1, 6: 2, 20: 1})
    assert shot_shares(votes, STORY) == {0: 0.7, 1: 0.2, 2: 0.1}


@pytest.mark.parametrize(
    "votes, frames",
    [
        # A shot that no layer prefers a frame of is shown all the same: three of ten votes.
        ({0: 1, 2: 1, 4: 1, 7: 3, 8: 2, 9: 2}, [0, 2, 7, 8, 9]),
        # Of one shot, the frames that most layers agree on.
        ({0: 1, 1: 6, 2: 5, 3: 4, 4: 3, 5: 2}, [1, 2, 3, 4, 5]),
        # Fewer frames than places; places that a shot cannot fill go to the others.
        ({3: 6, 4: 6, 5: 6}, [3, 4, 5]),
        ({0: 18, 6: 2, 7: 1, 8: 2, 9: 1, 10: 2}, [0, 6, 7, 8, 10]),
        ({0: 1, 6: 9, 7: 9, 8: 9, 9: 9, 10: 9}, [6, 7, 8, 9, 10]),
    ],
)
def test_of_each_shot_as_many_frames_are_shown_as_its_share(votes, frames):
    assert shown_frames(Counter(votes), STORY) == frames


def test_the_bar_has_the_shots_colours_in_their_shares(tmp_path):
    pages = MemoryPicture()
    for chunk in range(STORY.chunks):
        retrieved = np.full((2, 2), -1)
        if chunk == 7:
            retrieved[:] = [[1, 0], [1, 7]]  # three of four are the first shot's
        pages.add(np.full((9 if chunk == 0 else 12, 16, 32, 3), 30 * chunk, np.uint8), retrieved)
    assert pages.save(tmp_path / "memory.png", STORY)
    page = np.asarray(Image.open(tmp_path / "memory.png"))
    row = page[picture.MARGIN + picture.HEAD + 2]
    left = picture.MARGIN + picture.LABEL + picture.THUMB_WIDTH + picture.GAP + picture.ARROW
    width = picture.SHOWN * (picture.THUMB_WIDTH + picture.GAP) - picture.GAP
    assert page.shape[1] == left + width + picture.MARGIN
    at = lambda share: tuple(row[left + round(share * width)])
    assert at(0.05) == at(0.74) == shot_colour(0)
    assert at(0.76) == at(0.95) == shot_colour(1) and tuple(row[left - 5]) == PAPER


def test_frames_much_wider_than_high_are_drawn(tmp_path):
    pages = MemoryPicture()
    pages.add(np.zeros((9, 16, 352, 3), np.uint8), np.zeros((2, 2), int))
    assert pages.save(tmp_path / "memory.png", STORY)


def test_nothing_is_drawn_where_memory_was_never_asked(tmp_path):
    pages = MemoryPicture()
    pages.add(np.zeros((9, 16, 32, 3), np.uint8), np.full((2, 2), -1))
    assert not pages.save(tmp_path / "memory.png", STORY) and not list(tmp_path.iterdir())
