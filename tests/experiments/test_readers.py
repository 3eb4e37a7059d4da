"""Pictures for readers: their shots, their questions, and how answers are counted."""

import json

import numpy as np
import pytest

from causalcine_jax.errors import DataError
from causalcine_jax.storyworld import WorldConfig
from experiments import readers


@pytest.fixture(scope="module")
def shown():
    return readers.shown_shots(WorldConfig.base(), 3)


def test_shots_are_medium_of_one_character_in_stories_of_their_own(shown):
    assert len({one.story.global_caption for one in shown}) == len(shown) == 3
    for one in shown:
        assert one.shot.size == "medium" and len(one.shot.cast) == 1 and one.shot.chunks > 1
        assert all(one.answers[name] in words for name, words in readers.CHOICES.items())


def test_a_picture_has_six_frames_of_its_shot(shown):
    world = shown[0].story.world
    size = world.frames, world.height, world.width, 1
    film = np.random.default_rng(0).integers(0, 256, size, np.uint8).repeat(3, axis=-1)
    page = np.asarray(shown[0].picture(film))
    height, width = film.shape[1] * readers.SCALE, film.shape[2] * readers.SCALE
    assert page.shape == (2 * height + readers.GAP, 3 * width + 2 * readers.GAP, 3)
    begin = shown[0].shot.frames.start
    for number, frame in enumerate(film[begin : begin + 18 : 3]):
        row, column = divmod(number, 3)
        y, x = row * (height + readers.GAP), column * (width + readers.GAP)
        tile = page[y : y + height, x : x + width]
        small = tile.reshape(film.shape[1], readers.SCALE, -1, readers.SCALE, 3)
        assert np.abs(small.mean((1, 3)) - frame).mean() < 40


def test_answers_are_counted_by_film_and_reader(tmp_path):
    right = {"species": "fox", "colour": "red", "accessory": "hat", "action": "walk"}
    key = {"01": {"film": readers.BY_MODEL, **right}, "02": {"film": readers.TRUE, **right}}
    (tmp_path / "key.json").write_text(json.dumps(key))
    answers = tmp_path / "anna.json"
    answers.write_text(json.dumps({"01": right | {"action": "jump"}, "02": right}))
    model, true = readers.score(tmp_path, [answers]).splitlines()[-2:]
    cells = lambda line: [cell.strip() for cell in line.strip("|").split("|")]
    assert cells(model) == ["anna", readers.BY_MODEL, *["1 of 1"] * 3, "0 of 1", "0 of 1"]
    assert cells(true) == ["anna", readers.TRUE, *["1 of 1"] * 5]
    answers.write_text(json.dumps({"01": right}))
    with pytest.raises(DataError, match="02 has no species of fox"):
        readers.score(tmp_path, [answers])
