"""What programs compiled for one GPU that is not present do inside: products, layouts, gradients.

Small networks, compiled as plans compile the real ones. Without the compiler the tests are skipped,
with the install command.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from compilers import needs
from jax.sharding import NamedSharding, PartitionSpec

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.models import dit
from causalcine_jax.models.float8 import quantize_blocks
from causalcine_jax.models.gather import gather_by_product
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.packed import teacher_forced, whole_film
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TransformerConfig, VAEConfig
from causalcine_jax.planning.compile_plan import NEVER_RUN
from causalcine_jax.planning.hardware import target, target_mesh

pytestmark = [pytest.mark.slow, needs("gpu")]
SIZES = TransformerConfig(
    dim=512, ffn_dim=1280, num_heads=4, num_layers=3, text_dim=256, text_len=16, freq_dim=256
)


@pytest.fixture
def compiled(monkeypatch):
    """`of(function, *arguments as shapes) -> the program's text` for one H200."""
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    jax.config.update("jax_enable_compilation_cache", False)  # nothing here can load its entries
    mesh = target_mesh(target("h200:1x1"))
    place = NamedSharding(mesh, PartitionSpec())

    def of(function, *shapes) -> str:
        shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shapes
        )
        with (
            jax.default_matmul_precision("default"),
            jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        ):
            lowered = jax.jit(function).lower(*shapes)
            return lowered.compile(compiler_options=NEVER_RUN["gpu"]).as_text()

    yield of
    jax.config.update("jax_enable_compilation_cache", True)


def model(dtype=jnp.bfloat16):
    make = lambda: cast_weights(dit.Transformer(SIZES, key=jax.random.key(0)), dtype)
    return jax.eval_shape(make)


def films(frames: int):
    shape = jax.ShapeDtypeStruct
    return shape((1, frames, 16, 16, 16), jnp.bfloat16), shape((1, 16, 256), jnp.bfloat16)


def test_float8_products_read_weights_as_stored_and_write_bfloat16(compiled):
    x, text = films(3)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    program = compiled(whole_film, jax.eval_shape(quantize_blocks, model()), x, time, text)
    products = re.findall(r"= \(?(\w+)\[[\d,]*\][^\n]*__cublas\$lt\$matmul\$f8", program)
    # q, k, v (often merged), o of self-attention; q, o of cross-attention; two of the feed-forward;
    # and the prompt's keys and values.
    assert len(products) >= 7 and set(products) == {"bf16"}
    turned = re.findall(r"f8e4m3fn\[3,[^\n]* (?:transpose|copy)\(", program)
    assert not turned, turned


def test_all_of_the_vaes_convolutions_are_channels_last(compiled):
    vae = jax.eval_shape(
        lambda: jax.tree.map(
            lambda a: a.astype(jnp.bfloat16), VAE(VAEConfig(dim=32), key=jax.random.key(0))
        )
    )
    latents = jax.ShapeDtypeStruct((1, 3, 16, 16, 16), jnp.bfloat16)
    cache = jax.eval_shape(VAE.decode_first, vae, latents)[1]
    program = compiled(lambda vae, cache, z: vae.decode_next(cache, z), vae, cache, latents)
    layouts = re.findall(r"dim_labels=(\w+)_\w+->(\w+)", program)
    assert len(layouts) >= 30
    assert all(read.endswith("f") and written.endswith("f") for read, written in layouts), layouts


def test_gradients_of_gathered_frames_are_products_without_atomics(compiled):
    def loss(frames, index):
        taken = jax.vmap(gather_by_product, in_axes=(None, 0))(frames, index)
        return jnp.sum(jnp.sin(taken.astype(jnp.float32)))

    frames = jax.ShapeDtypeStruct((57, 64, 512), jnp.bfloat16)
    index = jax.ShapeDtypeStruct((39, 14), jnp.int32)
    program = compiled(jax.grad(loss), frames, index)
    assert "scatter" not in program and "cublas" in program
    x, text = films(18)
    shot = jax.ShapeDtypeStruct((1, 6), jnp.int32)
    run = partial(teacher_forced, config=PassConfig(MemoryConfig(memory_frames=3)))

    def trained(net, x, text, shot):
        return jnp.sum(run(net, x, x, 500.0, text[:, None], shot).astype(jnp.float32) ** 2)

    program = compiled(jax.grad(trained), model(), x, text, shot)
    scattered = re.findall(r"= (\w+\[[\d,]*\])[^\n]* scatter\(", program)
    assert not [shape for shape in scattered if not shape.startswith("pred")], scattered


def test_the_time_embedding_and_the_head_multiply_in_float32(compiled):
    x, text = films(3)
    program = compiled(whole_film, model(), x, jax.ShapeDtypeStruct((1,), jnp.float32), text)
    written = [line for line in program.splitlines() if re.search(r"cublas.* = \(f32\[", line)]
    precisions = [re.search(r'"operand_precision":(\[[^\]]*\])', line)[1] for line in written]
    assert precisions and set(precisions) == {'["HIGHEST","HIGHEST"]'}, written
