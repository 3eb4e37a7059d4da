"""The table of public models: what metadata.json will say of each, and how one is known by its name."""

import dataclasses
import json

import numpy as np
import pytest

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig, schedule
from causalcine_jax.errors import UsageError
from causalcine_jax.families import FAMILIES, family, guess, warped
from causalcine_jax.presets import WAN_NEGATIVE_PROMPT
from causalcine_jax.story import Video


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_survive_metadata_json(name):
    each = family(name)
    said = json.loads(json.dumps(each.defaults()))
    assert (
        SamplerConfig(**said["sampler"]) == each.sampler
        and MemoryConfig(**said["memory"]) == each.memory
    )
    assert Video(**said["video"]) == Video(16, 832, 480)
    assert (said["family"], said["chunk_frames"], said["negative"], said["dtype"]) == (
        name,
        each.chunk_frames,
        WAN_NEGATIVE_PROMPT,
        "bfloat16",
    )
    assert each.text_len == 512 and each.note.endswith(".") and each.licence


def test_what_the_facts_say_of_the_reproduced_ones():
    assert [name for name, each in FAMILIES.items() if each.reproduced] == [
        "wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "self-forcing", "causal-forcing", "causal-forcing-framewise",
        "causal-forcing++-2step", "causal-forcing++-1step", "causvid",
    ]  # fmt: skip
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
        # 21 frames, the chunk's own included
        assert each.memory.window_chunks * each.chunk_frames + each.chunk_frames == 21
        assert (each.memory.retrieved_frames, each.memory.positions) == (0, "absolute")
    base = family("wan2.1-t2v-14b")
    assert (base.sampler, base.preset.transformer.dim) == (
        SamplerConfig("unipc", 50, 5.0, 5.0),
        5120,
    )


def test_causal_forcing_plus_plus_takes_four_steps_for_its_first_frame_alone():
    """thu-ml/Causal-Forcing, configs/causal_forcing_dmd_framewise_2step.yaml: [1000, 500] and for the first chunk [1000, 750, 500, 250], warped by 5."""
    two = family("causal-forcing++-2step")
    assert two.chunk_frames == 1
    np.testing.assert_allclose(
        two.sampler.of_chunk(0).times, [1000, 937.5, 2500 / 3, 625], rtol=1e-6
    )
    for chunk in (1, 2, 20):
        np.testing.assert_allclose(two.sampler.of_chunk(chunk).times, [1000, 2500 / 3], rtol=1e-6)
    np.testing.assert_allclose(family("causal-forcing++-1step").sampler.of_chunk(3).times, [1000])
    assert two.sampler.changed(steps=3).of_chunk(0).steps == 3, (
        "another schedule asked for is that of all chunks"
    )


def test_a_time_beside_the_training_grid_has_the_noise_of_the_nearest_on_it():
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


@pytest.mark.parametrize(
    "path, name",
    [
        ("Self-Forcing/checkpoints/self_forcing_dmd.pt", "self-forcing"),
        ("Causal-Forcing/chunkwise/causal_forcing.pt", "causal-forcing"),
        ("Causal-Forcing/framewise/causal_cd.pt", "causal-forcing-framewise"),
        ("Causal-Forcing/chunkwise/ar_diffusion.pt", None),  # no few-step model
        ("causal_forcing.pt", None),  # of which kind?
        ("CausVid/autoregressive_checkpoint/model.pt", "causvid"),
        ("LongLive-1.3B/models/longlive_base.pt", "longlive-1"),
        ("krea-realtime-video-14b.safetensors", "krea-realtime-14b"),
        ("shotstream_merged.pt", "shotstream"),
        ("rolling_forcing_dmd.pt", "rolling-forcing"),
        ("infinity-rope/ema_model.pt", "infinity-rope"),
        ("MemFlow/checkpoints/base.pt", "memflow"),
        ("Wan-AI/Wan2.1-T2V-1.3B", "wan2.1-t2v-1.3b"),
        ("Wan2.1-T2V-14B/diffusion_pytorch_model-00001-of-00006.safetensors", "wan2.1-t2v-14b"),
        ("model.pt", None),
        ("Causal-Forcing/causal-forcing++/framewise-2step.pt", "causal-forcing++-2step"),
        ("causal-forcing++/framewise-1step.pt", "causal-forcing++-1step"),
        # Few-step models under Wan2.1's name, and another size than the family's
        ("FastVideo/FastWan2.1-T2V-1.3B-Diffusers", None),
        ("lightx2v/Wan2.1-T2V-14B-StepDistill-CfgDistill", None),
        ("TurboDiffusion/TurboWan2.1-T2V-1.3B-480P", None),
        ("worstcoder/rcm-Wan/rCM_Wan2.1_T2V_1.3B_480p.pt", None),
        ("wlsaidhi/SFWan2.1-T2V-1.3B-Diffusers", None),
        ("Wan2.1_T2V_1.3B_4steps.safetensors", None),
        ("Wan21_CausVid_14B_T2V.safetensors", None),
        ("self-forcing-14b/model.pt", None),
        ("causalcine/models/Wan2.1-T2V-1.3B", "wan2.1-t2v-1.3b"),
    ],
)
def test_names_tell_the_family(path, name):
    found = guess(f"/data/weights/of/many/{path}")
    assert (found and found.name) == name


def test_a_folder_is_known_by_its_files(tmp_path):
    (tmp_path / "models").mkdir()
    assert guess(tmp_path) is None
    (tmp_path / "models" / "longlive_base.pt").touch()
    assert guess(tmp_path).name == "longlive-1"
    (tmp_path / "self_forcing_dmd.pt").touch()
    assert guess(tmp_path) is None  # of two


def test_a_published_model_of_another_size_is_of_another_family(tmp_path):
    sizes = {
        name: family(name).preset.transformer for name in ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b")
    }
    assert guess("/models/causvid.pt", sizes["wan2.1-t2v-1.3b"]).name == "causvid"
    assert guess("/models/causvid.pt", sizes["wan2.1-t2v-14b"]) is None
    assert (
        guess(
            "/models/causvid.pt", dataclasses.replace(sizes["wan2.1-t2v-14b"], dim=24, num_heads=2)
        ).name
        == "causvid"
    )
    folder = tmp_path / "Wan2.1-T2V-1.3B"
    folder.mkdir()
    assert guess(folder).name == "wan2.1-t2v-1.3b"
    (folder / "model_index.json").write_text('{"_class_name": "WanDMDPipeline"}')
    assert guess(folder) is None


def test_an_unknown_family_is_refused():
    with pytest.raises(
        UsageError, match="unknown family 'self_forcing', did you mean 'self-forcing'"
    ):
        family("self_forcing")
