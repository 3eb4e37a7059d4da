"""Attention over tokens sharded along "seq" (DeepSpeed-Ulysses, arXiv 2309.14509).

    q, k, v of some tokens, all heads --all-to-all--> all tokens, some heads --attend--> all-to-all

Heads attend independently. Between the two exchanges each device works alone on its own heads, the
history's heads included. Routing scores are the exception: they are summed over heads, so
`sum_over_heads` sums them over devices.

The attention function takes arrays and knows no mesh. It runs in a `jax.shard_map` island, also on
a mesh of seq = 1. Without the island XLA would gather its inputs: it cannot shard attention kernels
along tokens, nor cuDNN's kernels, batched over segments, along films.
"""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P

from causalcine_jax.parallel.mesh import active_mesh, check_shardable
from causalcine_jax.parallel.platform import platform

TOKENS = P("data", None, "seq")  # [b, s, (c p), h, e]: each chunk's tokens are sharded
HEADS = P("data", None, None, "seq")  # [b, f, p, h, e]: a history's keys and values
# A history's scales [b, f, h] where it is quantised. Descriptors [b, f, g, h, e] are as keys.
FRAME_HEADS = P("data", None, "seq")
LAYERS_HEADS = P(None, *HEADS)  # [l, b, f, p, h, e]: all layers, in host memory
# By number of axes. Arrays that count frames or layers are replicated.
HISTORY = {2: P("data"), 3: FRAME_HEADS, 5: HEADS, 6: LAYERS_HEADS}
FIELDS = P(None, "data")  # [s, b, ...]
PROMPT_KEY = P("data", None, "seq")  # [b, s, h, e]


def over_heads(attend: Callable) -> Callable:
    """Runs `attend` on some heads per device.

    `attend(q, k, v, past, fields, shared, prompt_key) -> (out, fields, (k, v))` sees all tokens of
    some heads. The returned function has the same signature and takes some tokens of all heads. The
    k, v [b, c, p, h, e] that it returns are sharded by heads, as a cache stores them.

    q, k, v, out  [b, s, (c p), h, e]
    past          a layer's `History`, its k, v and descriptors sharded by heads; or None
    fields        receptive fields of every segment, to be used or as chosen; or None
    shared        values that are the same for all films and heads
    prompt_key    mean key of each segment's prompt [b, s, h, e]; None: score by queries

    Raises:
      UsageError: the mesh does not divide films, heads or a chunk's tokens.
    """
    mesh = active_mesh()
    if mesh is None:
        return attend

    def exchange(x, split: int, concat: int):
        return (
            x if mesh.shape["seq"] == 1 else jax.lax.all_to_all(x, "seq", split, concat, tiled=True)
        )

    def island(q, k, v, past, fields, shared, prompt_key):
        out, fields, kept = attend(
            *(exchange(x, split=3, concat=2) for x in (q, k, v)), past, fields, shared, prompt_key
        )
        return exchange(out, split=2, concat=3), fields, kept

    def run(q, k, v, past, fields, shared, prompt_key):
        check_shardable(mesh, films=q.shape[0], heads=q.shape[3], chunk_tokens=q.shape[2])
        by_heads = jax.tree.map(lambda a: HISTORY.get(a.ndim, P()), past)
        specs = (TOKENS, TOKENS, TOKENS, by_heads, FIELDS, P(), PROMPT_KEY)
        inside = _island(island, specs, (TOKENS, FIELDS, HEADS))
        return inside(q, k, v, past, fields, shared, prompt_key)

    return run


def over_tokens(attend: Callable) -> Callable:
    """Runs `attend(q, *others) -> out` on some tokens of q [b, s, (c p), h, e] per device.

    The others [b, ...], such as a prompt's keys, are replicated over "seq".
    """
    if active_mesh() is None:
        return attend

    def island(q, *others):
        # A kernel may not declare that its gradient for `others` covers this device's tokens only
        # (cuDNN's does not). pcast makes per-device copies, whose gradients are summed over "seq".
        return attend(q, *(jax.lax.pcast(x, "seq", to="varying") for x in others))

    return lambda q, *others: _island(island, (TOKENS, *(P("data") for _ in others)), TOKENS)(
        q, *others
    )


def _island(function: Callable, in_specs, out_specs) -> Callable:
    # Splash attention does not declare the axes along which its results vary, so check_vma cannot
    # run on TPUs. The CPU tests check the same code.
    return jax.shard_map(
        function, in_specs=in_specs, out_specs=out_specs, check_vma=platform() != "tpu"
    )


def sum_over_heads(x: jax.Array) -> jax.Array:
    """The sum of x over all devices' heads, inside `over_heads`. Elsewhere all heads are local."""
    return jax.lax.psum(x, "seq") if "seq" in jax.sharding.get_abstract_mesh().manual_axes else x
