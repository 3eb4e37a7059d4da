"""A model that two processes share is saved as by one, a layer at a time, by the first alone."""

import json

import jax.numpy as jnp
from tiny_models import tiny_folder
from two_processes import both_ended, two_processes

from causalcine_jax.convert import load_transformer, save_model

FILE = "transformer/diffusion_pytorch_model.safetensors"


def test_only_the_first_process_copies_each_layer_in_the_dtype_of_the_file(tmp_path):
    tiny_folder(tmp_path / "model")
    pair = two_processes(
        "tests/support/as_two_savers.py",
        str(tmp_path / "model"),
        str(tmp_path / "together"),
        devices=2,
    )
    save_model(
        tmp_path / "alone", transformer=load_transformer(tmp_path / "model"), dtype=jnp.bfloat16
    )
    (code, first, errors), (_, second, _) = both_ended(pair)
    assert code == 0, errors
    assert (tmp_path / "together" / FILE).read_bytes() == (tmp_path / "alone" / FILE).read_bytes()
    copied, in_the_other = (json.loads(said.splitlines()[-1]) for said in (first, second))
    assert {dtype for dtype, _ in copied} == {"bfloat16"} and max(n for _, n in copied) == 2
    assert in_the_other == [None] * len(copied)
