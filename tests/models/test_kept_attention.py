"""What recomputed layers keep of accelerators' attention, read from traced gradients."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.extend.core import jaxprs_in_params
from tiny_models import mesh_of_nothing

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.models import dit
from causalcine_jax.models.attention import backends, packed_fields, segments
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.packed import teacher_forced
from causalcine_jax.network_sizes import TransformerConfig
from causalcine_jax.parallel import ulysses

LAYERS = 4
SIZES = TransformerConfig(
    dim=256, ffn_dim=256, num_heads=2, num_layers=LAYERS, text_dim=32, text_len=16
)


def calls(jaxpr, times=1) -> Counter:
    """How often attention's kernels run, by their names. What nothing reads does not run."""
    read = {id(v) for one in jaxpr.eqns for v in one.invars} | {id(v) for v in jaxpr.outvars}
    found: Counter = Counter()
    for one in jaxpr.eqns:
        if not one.effects and not any(id(v) in read for v in one.outvars):
            continue
        if "dot_product_attention" in one.primitive.name:
            found[f"{one.primitive.name} {one.params['mask_type'].name}"] += times
        elif one.primitive.name == "pallas_call":
            found[next(line for line in str(one).split() if "splash_mha" in line)] += times
        else:
            for inner in jaxprs_in_params(one.params):
                found += calls(inner, times * one.params.get("length", 1))
    return found


def forward_calls(platform, monkeypatch, mesh=None, **how) -> Counter:
    """The forward kernels of a gradient of teacher forcing on `platform`."""
    for module in (backends, packed_fields, segments, ulysses):
        monkeypatch.setattr(module, "platform", lambda: platform)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91200)
    config = PassConfig(MemoryConfig(memory_frames=3), **how)
    shape = jax.ShapeDtypeStruct
    model = jax.eval_shape(
        lambda: cast_weights(dit.Transformer(SIZES, key=jax.random.key(0)), jnp.bfloat16)
    )
    films, text = shape((2, 9, 8, 8, 16), jnp.bfloat16), shape((2, 1, 12, 32), jnp.bfloat16)

    def loss(model, films, text, shot):
        out = teacher_forced(model, films, films, 500.0, text, shot, config)
        return jnp.sum(out.astype(jnp.float32) ** 2)

    with jax.sharding.use_abstract_mesh(mesh or jax.sharding.get_abstract_mesh()):
        traced = jax.make_jaxpr(jax.grad(loss))(model, films, text, shape((2, 3), jnp.int32))
    return Counter({name: n for name, n in calls(traced.jaxpr).items() if "_fwd" in name})


@pytest.mark.parametrize(
    ("how", "own", "to_the_prompt"),
    [
        ({}, 1, 1),
        ({"remat": 1}, 1, 2),
        ({"remat": 1, "segments_at_once": 2}, 3, 2),  # six segments, in three turns
        ({"remat": 2}, 3, 3),  # where memory is short
    ],
)
def test_cudnns_own_attention_is_computed_once_and_a_prompts_again(
    how, own, to_the_prompt, monkeypatch
):
    name = "dot_product_attention_fwd_wrapper"
    assert forward_calls("gpu", monkeypatch, **how) == {
        f"{name} PADDING": own * LAYERS,
        f"{name} NO_MASK": to_the_prompt * LAYERS,
    }


def test_devices_that_share_films_keep_it_too(monkeypatch):
    found = forward_calls("gpu", monkeypatch, mesh_of_nothing(2, 2), remat=1)
    assert found["dot_product_attention_fwd_wrapper PADDING"] == LAYERS


@pytest.mark.parametrize(("remat", "times"), [(0, 2), (1, 3), (2, 6)])
def test_splashs_own_attention_is_computed_once_and_a_prompts_again(remat, times, monkeypatch):
    assert forward_calls("tpu", monkeypatch, remat=remat).total() == times * LAYERS
