"""The table of public models, and what metadata.json records of each."""

import json

import numpy as np
import pytest

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig, schedule
from causalcine_jax.errors import UsageError
from causalcine_jax.families import FAMILIES, family, warped
from causalcine_jax.presets import WAN_NEGATIVE_PROMPT
from causalcine_jax.story import Video


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_survive_metadata_json(name):
    each = family(name)
    recorded = json.loads(json.dumps(each.defaults()))
    assert (
        SamplerConfig(**recorded["sampler"]) == each.sampler
        and MemoryConfig(**recorded["memory"]) == each.memory
    )
    assert Video(**recorded["video"]) == Video(16, 832, 480)
    assert (
        recorded["family"],
        recorded["chunk_frames"],
        recorded["negative"],
        recorded["dtype"],
    ) == (
        name,
        each.chunk_frames,
        WAN_NEGATIVE_PROMPT,
        "bfloat16",
    )
    assert each.text_len == 512 and each.note.endswith(".") and each.licence


def test_reproduced_families_have_their_published_settings():
    assert [name for name, each in FAMILIES.items() if each.reproduced] == [
        "wan2.1-t2v-1.3b",
        "wan2.1-t2v-14b",
        "self-forcing",
        "causal-forcing",
        "causal-forcing-framewise",
        "causal-forcing++-2step",
        "causal-forcing++-1step",
        "causvid",
    ]
    for name in ("self-forcing", "causal-forcing", "causal-forcing-framewise"):
        np.testing.assert_allclose(family(name).sampler.step_list, [1000, 937.5, 2500 / 3, 625])
        assert (family(name).sampler.shift, family(name).sampler.guidance) == (5.0, 1.0)
    for each in map(
        family,
        (
            "self-forcing",
            "causal-forcing",
            "causal-forcing-framewise",
            "causal-forcing++-1step",
            "causvid",
        ),
    ):
        # 21 frames, including the chunk's own
        assert each.memory.window_chunks * each.chunk_frames + each.chunk_frames == 21
        assert (each.memory.retrieved_frames, each.memory.positions) == (0, "absolute")
    base = family("wan2.1-t2v-14b")
    assert (base.sampler, base.preset.transformer.dim) == (
        SamplerConfig("unipc", 50, 5.0, 5.0),
        5120,
    )


def test_causal_forcing_plus_plus_takes_four_steps_for_its_first_frame_only():
    """configs/causal_forcing_dmd_framewise_2step.yaml of thu-ml/Causal-Forcing.

    [1000, 500], and for the first chunk [1000, 750, 500, 250], all warped by 5.
    """
    two = family("causal-forcing++-2step")
    assert two.chunk_frames == 1
    np.testing.assert_allclose(
        two.sampler.of_chunk(0).times, [1000, 937.5, 2500 / 3, 625], rtol=1e-6
    )
    for chunk in (1, 2, 20):
        np.testing.assert_allclose(two.sampler.of_chunk(chunk).times, [1000, 2500 / 3], rtol=1e-6)
    np.testing.assert_allclose(family("causal-forcing++-1step").sampler.of_chunk(3).times, [1000])
    assert two.sampler.changed(steps=3).of_chunk(0).steps == 3, (
        "a schedule asked for applies to all chunks"
    )


def test_a_time_off_the_training_grid_has_the_noise_of_the_nearest_on_it():
    table = schedule(family("causvid").sampler)
    assert table.times.tolist() == [1000, 757, 522]
    trained = 8 * np.arange(1, 1001) / (1000 + 7 * np.arange(1, 1001))
    expected = [trained[np.argmin(abs(1000 * trained - t))] for t in (1000, 757, 522)]
    np.testing.assert_allclose(table.sigmas, [*expected, 0], rtol=1e-12)
    assert abs(table.sigmas[1] - 0.757) > 1e-4
    on_grid = schedule(family("self-forcing").sampler)
    np.testing.assert_allclose(on_grid.sigmas[:-1], on_grid.times / 1000, rtol=1e-6)


def test_warping_bends_positions_by_the_shift():
    assert warped(1.0, 1000, 250) == (1000.0, 250.0) and warped(5.0, 1000, 500) == (
        1000.0,
        2500 / 3,
    )


def test_an_unknown_family_is_refused():
    with pytest.raises(
        UsageError, match="unknown family 'self_forcing', did you mean 'self-forcing'"
    ):
        family("self_forcing")
