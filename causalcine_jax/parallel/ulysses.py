"""Attention of films whose tokens are cut over "seq" (DeepSpeed-Ulysses, arXiv 2309.14509).

    q, k, v of some tokens, all heads --all-to-all--> all tokens, some heads --attend--> all-to-all back

Heads attend each by itself, so between the two exchanges every device works as if alone, on its own heads of the history too. Only what the heads
decide together, which frames memory retrieves, is summed over their devices: `sum_over_heads`. What attends is a function of arrays, and
knows of no mesh; it runs in a `jax.shard_map` island, on a mesh of seq = 1 too, because the compiler cannot cut attention kernels along tokens,
and those of cuDNN, batched over segments, not even along films: it would gather their inputs.
"""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P

from causalcine_jax.parallel.mesh import active_mesh, check_shardable
from causalcine_jax.parallel.platform import platform

TOKENS = P("data", None, "seq")  # [b, s, (c p), h, e], each chunk's tokens cut
HEADS = P("data", None, None, "seq")  # [b, f, p, h, e], a history's keys and values
FRAME_HEADS = P(
    "data", None, "seq"
)  # its frames' descriptors [b, f, h, e], and scales [b, f, h] where it is quantised
LAYERS_HEADS = P(None, *HEADS)  # [l, b, f, p, h, e], those of all layers, in host memory
PAST = {
    2: P("data"),
    3: FRAME_HEADS,
    4: FRAME_HEADS,
    5: HEADS,
    6: LAYERS_HEADS,
}  # by axes; what counts frames or layers is whole
FIELDS = P(None, "data")  # [s, b, ...]


def over_heads(attend: Callable) -> Callable:
    """`attend(q, k, v, past, fields, shared) -> (out, fields, (k, v))` run on all tokens of some heads, given some tokens of all.

    q, k, v, out  [b, s, (c p), h, e]
    past          a layer's `History`, its k, v and descriptors cut by heads; or None
    fields        of every segment, to be used, or chosen; or None
    shared        what is the same for all films and heads
    The k, v that it returns [b, c, p, h, e] stay cut by heads, as a pool holds them. `UsageError` where the mesh does not divide.
    """
    mesh = active_mesh()
    if mesh is None:
        return attend

    def exchange(x, split: int, concat: int):
        return (
            x if mesh.shape["seq"] == 1 else jax.lax.all_to_all(x, "seq", split, concat, tiled=True)
        )

    def island(q, k, v, past, fields, shared):
        out, fields, kept = attend(
            *(exchange(x, split=3, concat=2) for x in (q, k, v)), past, fields, shared
        )
        return exchange(out, split=2, concat=3), fields, kept

    def run(q, k, v, past, fields, shared):
        check_shardable(mesh, films=q.shape[0], heads=q.shape[3], chunk_tokens=q.shape[2])
        by_heads = jax.tree.map(lambda a: PAST.get(a.ndim, P()), past)
        specs = (TOKENS, TOKENS, TOKENS, by_heads, FIELDS, P())
        return _island(island, specs, (TOKENS, FIELDS, HEADS))(q, k, v, past, fields, shared)

    return run


def over_tokens(attend: Callable) -> Callable:
    """`attend(q, *others) -> out` run on some tokens of q [b, s, (c p), h, e]; the others [b, ...] are whole, as a prompt's keys are."""
    if active_mesh() is None:
        return attend

    def island(q, *others):
        # A kernel's backward pass may not say that a device knows the gradient of the others by its own tokens only (cuDNN's does not). Copies of
        # each device's own have the sum of all devices as their gradient, whatever the kernel says.
        return attend(q, *(jax.lax.pcast(x, "seq", to="varying") for x in others))

    return lambda q, *others: _island(island, (TOKENS, *(P("data") for _ in others)), TOKENS)(
        q, *others
    )


def _island(function: Callable, in_specs, out_specs) -> Callable:
    # Splash attention does not say along which axes its results vary, so what is written here cannot be checked where it runs. The CPU tests check it.
    return jax.shard_map(
        function, in_specs=in_specs, out_specs=out_specs, check_vma=platform() != "tpu"
    )


def sum_over_heads(x: jax.Array) -> jax.Array:
    """What each device has summed over its own heads, summed over all; inside `over_heads`. Elsewhere all heads are here."""
    return jax.lax.psum(x, "seq") if "seq" in jax.sharding.get_abstract_mesh().manual_axes else x
