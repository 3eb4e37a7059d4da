"""The family of a checkpoint, guessed from file and folder names."""

import dataclasses

import pytest

from causalcine_jax.convert.guess_family import guess
from causalcine_jax.families import family


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
        ("Wan2.1_T2V_14B_FusionX-FP16.safetensors", None),
        ("Wan2.1-T2V-14B-Lightning/model.safetensors", None),
        ("Wan2.1-T2V-1.3B-LongLive.safetensors", None),
        # The nearest name decides; a repository's name is not that of all its files
        ("Self-Forcing/wan_models/Wan2.1-T2V-1.3B", "wan2.1-t2v-1.3b"),
        ("CausVid/wan_models/Wan2.1-T2V-1.3B", "wan2.1-t2v-1.3b"),
        ("Self-Forcing/Wan2.1-T2V-1.3B/diffusion_pytorch_model.safetensors", None),
        ("causvid/checkpoints/wan2.1_t2v_1.3B_fp16.safetensors", None),
        ("self-forcing/checkpoints/longlive_base.pt", "longlive-1"),
        ("Self-Forcing/checkpoints/ode_init.pt", None),
        ("causvid/bidirectional_checkpoint1/model.pt", None),
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
