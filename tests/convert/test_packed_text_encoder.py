"""Text encoders as ComfyUI packs them, with the tokenizer as a tensor of bytes."""

import numpy as np
import pytest
from conversions import run
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import tensors, wan_folder

from causalcine_jax.convert import load_text_encoder, load_tokenizer
from causalcine_jax.errors import DataError

BASE = tensors("transformer")


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def spiece():
    """A handmade unigram model: pad, eos, unk and eight pieces, of which "a fox" needs two."""
    pieces = [
        ("<pad>", 3),
        ("</s>", 3),
        ("<unk>", 2),
        *((p, 1) for p in ("▁a", "▁fox", "▁f", "ox", "o", "x", "f", "▁")),
    ]
    scores = np.array([0, 0, 0, -1, -2, -4, -4, -9, -9, -9, -9], "<f4")
    body = b"".join(
        field(1, field(1, text.encode()) + varint(2 << 3 | 5) + score.tobytes() + field(3, kind))
        for (text, kind), score in zip(pieces, scores, strict=True)
    )
    return body + field(2, field(3, 1))


def comfy(file, packed):
    """A text encoder as ComfyUI packs it: transformers' keys, float16, its tokenizer as bytes."""
    from causalcine_jax.convert.diffusers_tables import TEXT_ENCODER, KeyTable

    table = KeyTable(TEXT_ENCODER)
    content = {
        table.to_diffusers(key): t.astype(np.float16) for key, t in tensors("text_encoder").items()
    }
    save_file({**content, "spiece_model": np.frombuffer(packed, np.uint8)}, file)
    return file


def test_a_packed_text_encoder_brings_its_tokenizer(tmp_path):
    file = comfy(tmp_path / "umt5_xxl_fp16.safetensors", spiece())
    tokenizer = load_tokenizer(file)
    assert tokenizer(["a  fox", "a fof"], 8)[0].tolist() == [
        [3, 4, 1, 0, 0, 0, 0, 0],
        [3, 5, 7, 9, 1, 0, 0, 0],
    ]
    load_text_encoder(file)
    save_file(BASE, tmp_path / "dit.safetensors")
    run(tmp_path / "dit.safetensors", tmp_path / "out", text_encoder=file)
    assert load_tokenizer(tmp_path / "out")(["a fox"], 4)[0].tolist() == [[3, 4, 1, 0]]
    assert (
        load_file(tmp_path / "out/text_encoder/model.safetensors").keys()
        == tensors("text_encoder").keys()
    )


def test_a_packed_tokenizer_that_is_invalid(tmp_path, capsys):
    """A tokenizer.json beside the model has priority; without one, the weights go without."""
    file = comfy(tmp_path / "umt5_xxl_fp16.safetensors", b"\n" * 64)
    wan = wan_folder(tmp_path / "wan", vae=False)
    (wan / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    run(wan, tmp_path / "out", text_encoder=file)
    assert load_tokenizer(tmp_path / "out").count("a fox") == 3
    save_file(BASE, tmp_path / "dit.safetensors")
    assert "SentencePiece" not in capsys.readouterr().err
    for to in ("model", "orbax", "diffusers"):
        run(tmp_path / "dit.safetensors", tmp_path / to, text_encoder=file, to=to)
        said = capsys.readouterr().err
        assert "is no SentencePiece model" in said and "converted without one" in said
    load_text_encoder(tmp_path / "model")
    with pytest.raises(DataError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "model")


def test_a_tied_embedding_may_be_there_twice_but_must_be_a_copy(tmp_path):
    file = comfy(tmp_path / "umt5_xxl_fp16.safetensors", spiece())
    content = load_file(file)
    copy = content["shared.weight"].copy()
    save_file({**content, "encoder.embed_tokens.weight": copy}, file)
    load_text_encoder(file)
    copy[-1, 0] += 1
    save_file({**content, "encoder.embed_tokens.weight": copy}, file)
    with pytest.raises(DataError, match=r"embed_tokens\.weight differs from shared\.weight"):
        load_text_encoder(file)
    save_file({**content, "encoder.embed_tokens.weight": copy[:-1]}, file)
    with pytest.raises(DataError, match=r"embed_tokens\.weight differs from shared\.weight"):
        load_text_encoder(file)
