"""Captions in other projects' formats."""

import json

import pytest

from causalcine_jax.data.video.captions import Captions, Cuts, parse
from causalcine_jax.data.video.sidecars import read
from causalcine_jax.errors import UsageError

FORMATS = {
    "HoloCine": (
        {"global_caption": "W", "shot_captions": ["a", "b"], "shot_cut_frames": [37]},
        Captions("W", ("a", "b"), Cuts((0, 37.0))),
    ),
    "HoloCine, tagged": (
        {"caption": "[global caption] W [per shot caption] a [shot cut] b"},
        Captions("W", ("a", "b")),
    ),
    "HoloCine, tagged, with cuts": (
        {"text": "[global caption] W [per shot caption] a [shot cut] b", "shot_cut_frames": [40]},
        Captions("W", ("a", "b"), Cuts((0, 40.0))),
    ),
    "ShotStream": ({"global_caption": "W", "shot1": "a", "shot2": "b"}, Captions("W", ("a", "b"))),
    "MultiShotMaster": ({"global_caption": "W", "shot0": "a"}, Captions("W", ("a",))),
    "LongLive 1": (
        {"prompts": ["a", "b"], "switch_frame_indices": "12"},
        Captions("", ("a", "b"), Cuts((0, 45 / 16), "seconds")),
    ),
    "LongLive 1, with a text": (
        {"text": "W", "prompts": ["a", "b"], "switch_frame_indices": [12], "shots": None},
        Captions("", ("a", "b"), Cuts((0, 45 / 16), "seconds")),
    ),
    "our story": (
        {"schema": "causalcine/story@1", "global": "W", "shots": [
            {"caption": "a", "seconds": 3}, {"caption": "b", "seconds": 2}]},
        Captions("W", ("a", "b"), Cuts((0, 3.0), "seconds")),
    ),
    "our film.json": (
        {
            "story": {"global": "W", "shots": [{"caption": "a"}, {"caption": "b"}]},
            "resolved": {"cut_frames": [21]},
        },
        Captions("W", ("a", "b"), Cuts((0, 21.0))),
    ),
    "plain": (
        {"caption": "a  man\nwaves", "license": "CC-BY"},
        Captions("a man waves", licence="CC-BY"),
    ),
    "a list": (["a", "b"], Captions("", ("a", "b"))),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name, tmp_path):
    data, expected = FORMATS[name]
    file = tmp_path / "film.json"
    file.write_text(json.dumps(data))
    assert read(file) == expected


@pytest.mark.parametrize(
    "data, fault",
    [
        ({}, "holds no captions"),
        (3, "holds no captions, but 3"),
        ({"shot_captions": "a"}, "must be a list"),
        ({"shot_captions": [1]}, "a caption must be text, not 1"),
        ({"shot_captions": ["a"], "shot_cut_frames": [9]}, "1 captions of .* for 2"),
        ({"shot_captions": ["a", "b"], "shot_cut_frames": ["x"]}, "must be numbers"),
        ({"shot_captions": ["a", "b", "c"], "shot_cut_frames": [9, 3]}, "must ascend"),
        ({"caption": "[shot cut] a [shot cut] b", "shot_cut_frames": []}, "2 captions of .* for 1"),
        ({"caption": "a" * 30_000}, "30,000 characters"),
    ],
)  # fmt: skip
def test_bad_captions_are_named(data, fault):
    with pytest.raises(UsageError, match=fault):
        parse(data, "film.json")


def test_captions_find_their_shots_by_time():
    told = Captions("W", ("a", "b"), Cuts((0, 50), "frames"))  # of 100 frames in 4 seconds
    at = lambda first, stop: told.at(first, stop, [(0, 0.0), (100, 4.0)])
    assert [at(0, 1.9), at(1.5, 2.2), at(1.8, 2.6), at(3, 4)] == ["a", "a", "b", "b"]


def test_a_film_that_began_with_a_picture_has_its_caption_too(tmp_path):
    data = {
        "story": {"global": "W", "shots": [{"caption": "b"}]},
        "start": {"file": "a.png", "caption": "a", "sha256": "0", "chunks": 1},
        "resolved": {"cut_frames": [21]},
    }
    (tmp_path / "film.json").write_text(json.dumps(data))
    assert read(tmp_path / "film.json") == Captions("W", ("a", "b"), Cuts((0, 21.0)))
