"""The scorers' networks from small files: what is read, what is refused, and how."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.random_scorers import SMALL, clip, write_merges, write_scorers
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.evaluation.films.command import named_weights
from causalcine_jax.models.nn import Param
from causalcine_jax.scorers.load import load_vit
from causalcine_jax.scorers.preprocess import positions_for
from causalcine_jax.scorers.scorers import AestheticHead, Scorers
from causalcine_jax.scorers.sources import SOURCES
from causalcine_jax.scorers.tokenizer import END, START, ClipTokenizer


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return named_weights([str(write_scorers(tmp_path_factory.mktemp("weights")))])


def test_a_missing_file_is_refused_with_its_origin_and_licence(tmp_path):
    with pytest.raises(DataError) as refused:
        Scorers({"viclip": tmp_path / "absent.pth"})
    for fact in ("absent.pth", "ViClip-InternVid-10M-FLT.pth", "InternVideo", "licence"):
        assert fact in str(refused.value)
    with pytest.raises(DataError, match="924691ac288e"):
        ClipTokenizer.load(tmp_path / "absent.gz")


def test_every_source_states_a_file_a_project_and_a_licence():
    for source in SOURCES.values():
        assert source.file and source.project and source.licence


def test_measures_without_weights_are_left_out_by_name(weights):
    only = Scorers({name: weights[name] for name in ("dino", "viclip")})
    assert set(only.left_out) == {
        "aesthetic",
        "text alignment",  # its tokenizer is missing
        "background consistency",
        "inter-shot consistency",
    }
    assert "tokenizer" in only.left_out["text alignment"]
    assert "viclip" not in only.left_out["text alignment"].lower().split("clip's tokenizer")[0]
    assert Scorers(weights).left_out == {}


def test_another_network_is_refused_by_its_keys(tmp_path, weights):
    with pytest.raises(DataError, match="does not hold DINO ViT-B/16"):
        load_vit("dino", weights["clip_b32"], SOURCES["dino"])
    with pytest.raises(DataError, match=r"layers\.0\.scale1"):
        load_vit("dinov2", weights["dino"], SOURCES["dinov2"])
    with pytest.raises(DataError, match=r"unmatched  blocks\.0\.ls1\.gamma"):
        load_vit("dino", weights["dinov2"], SOURCES["dino"])

    tensors = load_file(weights["clip_b32"])
    save_file(tensors | {"visual.adapter": np.zeros(3, np.float32)}, tmp_path / "more.safetensors")
    with pytest.raises(DataError, match=r"visual\.adapter"):
        load_vit("clip", tmp_path / "more.safetensors", SOURCES["clip_b32"])
    tensors["visual.ln_post.bias"] = np.zeros(3, np.float32)
    save_file(tensors, tmp_path / "bent.safetensors")
    with pytest.raises(DataError, match="misshapen"):
        load_vit("clip", tmp_path / "bent.safetensors", SOURCES["clip_b32"])
    del tensors["visual.class_embedding"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(DataError, match="not those of openai/CLIP or"):
        load_vit("clip", tmp_path / "less.safetensors", SOURCES["clip_b32"])


def test_networks_of_other_sizes_than_the_papers_are_named(tmp_path, weights):
    lines = Scorers({"dino": weights["dino"]}).notes(8)
    assert len(lines) == 1 and "width 64" in lines[0] and "DINO ViT-B/16" in lines[0]


def test_features_have_length_one_and_do_not_depend_on_the_batch(weights):
    embed = Scorers(weights).dino
    frames = np.random.default_rng(0).integers(0, 256, (19, 48, 80, 3)).astype(np.uint8)
    features = embed(frames)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embed(frames[17:]), features[17:], atol=1e-5)
    assert np.ptp(features, axis=0).max() > 0.01


def test_captions_are_cut_at_the_length_and_the_loss_is_counted(tmp_path):
    write_merges(tmp_path / "bpe.txt.gz")
    tokenizer = ClipTokenizer.load(tmp_path / "bpe.txt.gz")
    start, end = (tokenizer._backend.token_to_id(word) for word in (START, END))
    ids, lost = tokenizer.encode("AB  ab!", 8)
    assert ids.tolist()[:5] == [start, ids[1], ids[1], 256, end] and not ids[5:].any()
    assert lost == 0
    ids, lost = tokenizer.encode("ab " * 10, 8)
    assert (ids[0], ids[-1], lost) == (start, end, 4)
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="bpe_simple_vocab"):
        ClipTokenizer.load(tmp_path / "bad.gz")


def test_the_aesthetic_head_is_linear_or_an_mlp_without_activations(tmp_path):
    draw = np.random.default_rng(0)
    layer = lambda out, dim: draw.normal(size=(out, dim)).astype(np.float32)
    first, second = layer(6, 8), layer(1, 6)
    bias = np.ones(6, np.float32)
    save_file(
        {
            "layers.0.weight": first,
            "layers.0.bias": bias,
            "layers.2.weight": second,
            "layers.2.bias": np.array([0.5], np.float32),
        },
        tmp_path / "mlp.safetensors",
    )
    features = layer(3, 8)
    expected = (features @ first.T + bias) @ second.T + 0.5
    head = AestheticHead.load(tmp_path / "mlp.safetensors")
    np.testing.assert_allclose(head(features), expected[:, 0], rtol=1e-5)
    with pytest.raises(DataError, match="width 8"):
        head(layer(3, 9))
    save_file(clip(SMALL["clip_b32"]), tmp_path / "clip.safetensors")
    with pytest.raises(DataError, match="LAION"):
        AestheticHead.load(tmp_path / "clip.safetensors")


def test_weights_are_named_by_flags_and_by_files_and_flags_win(tmp_path):
    (tmp_path / "w.yaml").write_text("dino: a.pth\nviclip: sub/b.pth\n")
    named = named_weights([str(tmp_path / "w.yaml"), "dino=other.pth"])
    assert str(named["dino"]) == "other.pth"
    assert named["viclip"] == tmp_path / "sub/b.pth"
    with pytest.raises(UsageError, match="did you mean 'dinov2'"):
        named_weights(["dinov=a.pth"])
    (tmp_path / "w.json").write_text(json.dumps({"dino": 3}))
    with pytest.raises(UsageError, match="dino must be a path"):
        named_weights([str(tmp_path / "w.json")])


def test_dinos_positions_change_with_the_shape_of_a_film(weights):
    net = Scorers(weights).dino.net
    trained = np.asarray(net.positions[...])
    assert positions_for(net, 224, 224) is None
    wide = positions_for(net, 224, 373)  # 80x48 after resizing; patches of 32
    assert wide.shape == (1 + 7 * 11, 64)
    np.testing.assert_array_equal(wide[0], trained[0])
    # The kernel's weights add up to one, so what all positions share stays.
    net.positions = Param(jnp.ones_like(trained))
    np.testing.assert_allclose(positions_for(net, 224, 373), 1, atol=1e-5)
