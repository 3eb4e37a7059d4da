"""StoryWorld's pixels and the boxes of its characters."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.evaluation.storyworld.true_films import true_cuts
from causalcine_jax.storyworld import (
    ACCESSORIES,
    ACTIONS,
    CAMERAS,
    COLOURS,
    PLACES,
    SIZES,
    SPECIES,
    TIMES,
    Character,
    WorldConfig,
    WorldShot,
    box_masks,
    render,
    sample_story,
    scene_parameters,
)
from causalcine_jax.storyworld.characters import Pose, draw_character
from causalcine_jax.storyworld.places import LIGHTS, PlaceLayout, draw_place
from causalcine_jax.storyworld.render import FIELDS
from causalcine_jax.storyworld.shapes import MAX_SHAPES, DisplayList, Pen

BASE = WorldConfig.base()


def one_shot(
    character: Character,
    *,
    action="wave",
    place="meadow",
    time="day",
    size="medium",
    camera="static",
):
    """Returns a story of one chunk that shows `character`."""
    shot = WorldShot(0, 1, (0,), (action,), place, time, size, camera, facing=1.0, offset=0.0)
    return dataclasses.replace(sample_story(0, 0, BASE), cast=(character,), shots=(shot,))


def picture(story, frame=4, height=48):
    shapes = scene_parameters(story)["shapes"][frame : frame + 1]
    return render({"shapes": shapes}, height, height * 5 // 3)[0]


def disc(x, y, r, rgb, **options):
    target = DisplayList(1)
    Pen(target).shape(x, y, r, r, rgb, outline=0, **options)
    return {"shapes": target.array()}


def test_a_disc_has_its_area_its_place_and_its_colour():
    film = render(disc(0.5, 0.4, 0.2, (255, 128, 0)), 96, 160)
    assert film.shape == (1, 96, 160, 3) and film.dtype == np.uint8
    coverage = film[0, ..., 0] / 255.0
    assert coverage.sum() == pytest.approx(np.pi * (0.2 * 96) ** 2, rel=0.01)
    ys, xs = np.mgrid[:96, :160] + 0.5
    assert (coverage * xs).sum() / coverage.sum() == pytest.approx(0.5 * 96, abs=0.1)
    assert (coverage * ys).sum() / coverage.sum() == pytest.approx(0.4 * 96, abs=0.1)
    assert film[0, 38, 48].tolist() == [255, 128, 0]
    assert ((coverage > 0.05) & (coverage < 0.95)).sum() > 60, "the edge is anti-aliased"


def test_the_inside_of_a_sharp_box_is_opaque():
    film = render(disc(0.8, 0.5, 0.15, (200, 200, 200), round=0.02), 48, 80)
    ys, xs = (np.mgrid[:48, :80] + 0.5) / 48
    inside = (abs(xs - 0.8) < 0.13) & (abs(ys - 0.5) < 0.13)
    assert (film[0][inside] == 200).all()


def test_later_shapes_cover_earlier_ones_and_unused_rows_are_transparent():
    target = DisplayList(2)
    pen = Pen(target)
    pen.shape(0.8, 0.5, 0.4, 0.4, (255, 0, 0), outline=0)
    pen.shape(0.8, 0.5, 0.2, 0.2, (0, 0, 255), outline=0)
    film = render({"shapes": target.array()}, 48, 80)
    assert (
        film[1, 24, 38].tolist() == [0, 0, 255]
        and film[1, 24, 26].tolist() == [255, 0, 0]
        and film[1, 2, 2].tolist() == [0, 0, 0]
    )


def test_numpy_and_jax_agree_and_jax_compiles_once():
    traces = []

    @jax.jit
    def with_jax(shapes):
        traces.append(1)
        return render({"shapes": shapes}, 48, 80, jnp)

    for index in range(3):
        shapes = scene_parameters(sample_story(8, index, BASE))["shapes"]
        assert shapes.shape == (117, MAX_SHAPES, len(FIELDS)) and shapes.dtype == np.float32
        some = shapes[::8]
        assert (
            np.abs(np.asarray(with_jax(some)).astype(int) - render({"shapes": some}, 48, 80)).max()
            <= 1
        )
    assert len(traces) == 1


def test_the_fullest_scene_fits_the_display_list():
    counts = {}
    for species, accessory in itertools.product(SPECIES, ACCESSORIES):
        target = DisplayList(1)
        draw_character(Pen(target), species, "red", accessory, Pose())
        counts[species, accessory] = len(target.rows)
    scenery = []
    for place, time in itertools.product(PLACES, TIMES):
        target = DisplayList(1)
        draw_place((Pen(target),) * 3, Pen(target), place, time, PlaceLayout(0.0, 1.0))
        scenery.append(len(target.rows))
    assert 2 * max(counts.values()) + max(scenery) <= MAX_SHAPES


def test_every_shape_of_every_story_is_finite_and_motion_is_smooth():
    for index in range(10):
        story = sample_story(31, index, WorldConfig.storyworld())
        params = scene_parameters(story)
        assert np.isfinite(params["shapes"]).all()
        step = np.abs(np.diff(params["figure"], axis=0)).max((1, 2))
        within_shots = np.delete(step, [cut - 1 for cut in true_cuts(story)])
        assert within_shots.max() < 0.08


def nearest_colour(pixels, time: str) -> list[str]:
    """Returns the fur colour whose tinted palette entry is nearest to each pixel."""
    table = np.array(list(COLOURS.values())) * np.array(LIGHTS[time].figures)
    return np.array(list(COLOURS))[
        np.argmin(((pixels[:, None].astype(float) - table) ** 2).sum(-1), axis=1)
    ]


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("size", SIZES)
def test_truth_boxes_contain_the_fur_and_the_accessory(size, time):
    for number, (species, colour) in enumerate(itertools.product(SPECIES, COLOURS)):
        accessory = tuple(ACCESSORIES)[number % 4]
        story = one_shot(
            Character("Mia", species, colour, accessory),
            action=ACTIONS[number % 6],
            place=PLACES[number % 5],
            time=time,
            size=size,
        )
        params = scene_parameters(story)
        image = render({"shapes": params["shapes"][5:6]}, 48, 80)[0]
        boxes = {
            key: box_masks(params[key][5, 0] * 48, 48, 80)
            for key in ("figure", "head", "body", "accessory")
        }
        names, counts = np.unique(nearest_colour(image[boxes["head"]], time), return_counts=True)
        assert counts[list(names).index(colour)] > 0.25 * counts.sum(), (species, colour, accessory)
        tint = np.array(LIGHTS[time].figures)
        near = [
            np.abs(image[boxes["accessory"]] - np.array(rgb) * tint).max(-1) < 45
            for rgb in ACCESSORIES[accessory]
        ]
        assert near[0].sum() >= 4 and near[1].sum() >= 1, (species, colour, accessory)
        for key in ("head", "body"):
            assert (~boxes[key] | boxes["figure"]).all()


def test_pictures_of_two_lookalikes_differ_in_what_differs():
    """With one attribute changed, pixels change inside the figure only."""
    first = Character("Mia", "bear", "blue", "hat")
    for other in (
        dataclasses.replace(first, colour="green"),
        dataclasses.replace(first, accessory="crown"),
    ):
        changed = (picture(one_shot(first)) != picture(one_shot(other))).any(-1)
        _, xs = np.nonzero(changed)
        assert 30 < changed.sum() < 2200 and xs.min() > 15 and xs.max() < 65
    renamed = dataclasses.replace(first, name="Otto")
    assert (picture(one_shot(first)) == picture(one_shot(renamed))).all()


def test_colours_are_well_separated_under_every_light():
    for light in LIGHTS.values():
        table = np.array(list(COLOURS.values())) * np.array(light.figures)
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(table, 2)]
        assert min(distances) > 70


@pytest.mark.parametrize(
    ("table", "field"), [(PLACES, "place"), (TIMES, "time"), (SPECIES, "species"), (SIZES, "size")]
)
def test_every_choice_gives_its_own_picture(table, field):
    character = Character("Mia", "fox", "red", "hat")
    if field == "species":
        pictures = [
            picture(one_shot(dataclasses.replace(character, species=value))) for value in table
        ]
    else:
        pictures = [picture(one_shot(character, **{field: value})) for value in table]
    for a, b in itertools.combinations(pictures, 2):
        assert (np.abs(a.astype(int) - b).max(-1) > 24).mean() > 0.04


def test_actions_and_cameras_move_differently():
    character = Character("Mia", "rabbit", "pink", "bow")
    boxes = [
        scene_parameters(one_shot(character, action=action, size="wide"))["shapes"]
        for action in ACTIONS
    ]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(boxes, 2)) > 0.05
    heads = [
        scene_parameters(one_shot(character, camera=camera))["head"][:, 0] for camera in CAMERAS
    ]
    sizes = [box[:, 3] - box[:, 1] for box in heads]
    assert sizes[2][-1] > sizes[2][0] * 1.05 and sizes[3][-1] < sizes[3][0] * 0.95
    assert abs(heads[1][-1, 0] - heads[1][0, 0]) > 0.05 > abs(heads[0][-1, 0] - heads[0][0, 0])


def test_boxes_follow_the_casts_of_the_shots():
    story = sample_story(2, 5, BASE)
    params = scene_parameters(story)
    assert {len(value) for value in params.values()} == {BASE.frames}
    for shot in story.shots:
        shown = params["figure"][shot.frames.start].any(-1)
        assert shown.tolist() == [place < len(shot.cast) for place in range(2)]


def test_a_place_looks_the_same_when_the_story_comes_back_to_it():
    story = one_shot(Character("Mia", "owl", "white", "scarf"))
    empty = dataclasses.replace(story.shots[0], cast=(), actions=(), size="wide")
    again = dataclasses.replace(empty, start_chunk=4)
    film = dataclasses.replace(story, shots=(empty, again))
    shapes = scene_parameters(film)["shapes"]
    assert np.abs(shapes[0] - shapes[-1]).max() < 1e-6
