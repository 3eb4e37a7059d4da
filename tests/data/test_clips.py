"""Clips for training a VAE: on the film's grid of latent frames, with cuts, cropped exactly."""

import numpy as np

from causalcine_jax.data.clips import Clips, clip_batches, crop, paint
from causalcine_jax.storyworld import WorldConfig, render, sample_story, scene_parameters

WORLD = WorldConfig.base()


def film(index: int) -> np.ndarray:
    return scene_parameters(sample_story(4, index, WORLD))["shapes"]


def starts(clips: Clips, index: int) -> list[int]:
    """Returns the frames of its film at which the clip may start."""
    (clip,), shapes = clips[index], film(index)
    return [
        first
        for first in range(len(shapes) - 16)
        if np.array_equal(shapes[first : first + 17], clip)
    ]


def test_a_clip_begins_with_the_last_frame_of_a_latent_frame():
    clips = Clips(WORLD, 4, 17)
    for index in range(8):
        assert any(first % 4 == 0 for first in starts(clips, index))


def test_clips_hold_cuts_where_cuts_are_asked_for():
    def with_cut(clips: Clips, index: int) -> bool:
        cuts = [shot.frames.start for shot in sample_story(4, index, WORLD).shots[1:]]
        return all(any(first < cut < first + 17 for cut in cuts) for first in starts(clips, index))

    always = Clips(WORLD, 4, 17, cuts=1.0)
    assert all(with_cut(always, index) for index in range(16))
    chance = Clips(WORLD, 4, 17)
    assert not all(with_cut(chance, index) for index in range(16))


def test_a_crop_is_the_same_pixels():
    shapes = film(0)[20:23]
    whole = render({"shapes": shapes}, WORLD.height, WORLD.width)
    part = render({"shapes": crop(shapes, 10, 30, WORLD.height, 24)}, 24, 40)
    np.testing.assert_array_equal(part, whole[:, 10:34, 30:70])


def test_cropped_clips_show_a_character_more_often_than_any_place_of_the_frame():
    clips = Clips(WORLD, 4, 5, height=24, width=40)
    # A character in the middle, in frame heights.
    middle = np.array([[0.6, 0.4, 1.1, 0.9]] * 5)[:, None]

    def seen(figures) -> float:
        """Returns the fraction of crops whose centre is in the character's box."""
        corners = [clips._corner(np.random.default_rng(index), figures) for index in range(400)]
        return np.mean(
            [
                0.4 <= (top + 12) / 48 <= 0.9 and 0.6 <= (left + 20) / 48 <= 1.1
                for top, left in corners
            ]
        )

    assert seen(middle) > seen(np.zeros_like(middle)) + 0.2
    corners = np.array(
        [clips._corner(np.random.default_rng(index), middle) for index in range(400)]
    )
    assert corners.min() >= 0 and (corners.max(0) <= (24, 40)).all()


def test_a_clip_depends_on_its_index_alone():
    one, other = (Clips(WORLD, 4, 5, cuts=0.5, height=24, width=40) for _ in range(2))
    other[0]
    np.testing.assert_array_equal(one[7], other[7])
    assert np.asarray(paint(one[7], 24, 40)).shape == (1, 5, 24, 40, 3)


def test_several_clips_of_a_story_are_as_many_of_a_batch():
    clips = Clips(WORLD, 4, 1, per_story=3)
    batch = next(clip_batches(clips, 6))
    assert clips[2].shape[:2] == (3, 1) and batch.shape[:2] == (6, 1)
    assert len(np.unique(batch.reshape(6, -1), axis=0)) == 6
