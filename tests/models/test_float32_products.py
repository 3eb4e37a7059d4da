"""The products that Wan2.1 computes in float32 ask accelerators not to round their factors."""

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.extend.core import jaxprs_in_params

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.models import dit, nn
from causalcine_jax.models.attention import backends, packed_fields, segments
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.packed import teacher_forced
from causalcine_jax.network_sizes import TransformerConfig
from causalcine_jax.parallel import ulysses

SIZES = TransformerConfig(
    dim=256, ffn_dim=256, num_heads=2, num_layers=2, text_dim=32, text_len=16, skip_dim=8
)
EXACT = jax.lax.Precision.HIGHEST


def products(jaxpr):
    for one in jaxpr.eqns:
        if one.primitive.name == "dot_general":
            yield one
        if one.primitive.name != "pallas_call":
            for inner in jaxprs_in_params(one.params):
                yield from products(inner)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_every_product_of_float32_factors_is_exact_and_the_others_are_bfloat16(
    platform, monkeypatch
):
    """Two of the time embedding, its projection, the head, three of the skip; and routing.

    Inside of attention's kernels the factors are not ours to choose.
    """
    for module in (nn, backends, packed_fields, segments, ulysses):
        monkeypatch.setattr(module, "platform", lambda: platform)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91200)
    shape = jax.ShapeDtypeStruct
    model = jax.eval_shape(
        lambda: cast_weights(dit.Transformer(SIZES, key=jax.random.key(0)), jnp.bfloat16)
    )
    films, text = shape((1, 18, 8, 8, 16), jnp.bfloat16), shape((1, 1, 12, 32), jnp.bfloat16)
    config = PassConfig(MemoryConfig(memory_frames=3))
    run = lambda model, films, text, shot: teacher_forced(
        model, films, films, 500.0, text, shot, config
    )
    with jax.default_matmul_precision("default"):
        traced = jax.make_jaxpr(run)(model, films, text, shape((1, 6), jnp.int32))
    found = list(products(traced.jaxpr))
    of = lambda dtype: [one for one in found if one.invars[1].aval.dtype == dtype]
    exact, rounded = of(jnp.float32), of(jnp.bfloat16)
    assert len(exact) >= 7 and len(rounded) >= 8 and len(found) == len(exact) + len(rounded)
    for one in exact:
        assert one.params["precision"] == (EXACT, EXACT), one
