"""Where arrays live.

One table places parameters, and with them their EMA and optimizer state. Batches shard over films.

Weights are sharded over all devices of the mesh (FSDP). `all_gather_params` gathers them one layer
at a time, where they are used. A rollout makes hundreds of short passes, and gathering would
dominate its traffic: `place_rollout_weights` gathers once and keeps the weights replicated.
Activations are never resharded to match a weight. Vectors are small, so they are replicated.
"""

import functools
import math
import re
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.nnx import Param
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from causalcine_jax.errors import UsageError
from causalcine_jax.parallel.mesh import AXES, active_mesh
from causalcine_jax.parallel.platform import platform
from causalcine_jax.parallel.processes import is_first

SMALLEST_SHARDED = 2**14  # elements; sharding less costs more in messages than it saves in memory
# Of the bytes of weights, and in bytes: so much a device may hold that others hold too.
UNDIVIDED, MANY = 0.1, 2**31

REPLICATED = PartitionSpec()
# A weight is [..., in, out], sharded along its outputs. Those are the rows of a checkpoint's
# tensor, so a device reads one contiguous range of bytes.
OUTPUTS = PartitionSpec(None, AXES)

# The first expression that matches a parameter's path (student.blocks.self_attn.q.weight) gives the
# sharding of its last axes. Earlier axes (stacked layers, a convolution's taps) are never sharded.
# Optimizer state for a parameter has the parameter's path with a prefix.
TABLE: tuple[tuple[str, PartitionSpec], ...] = (
    (r"\bnorm\w*\.weight$", REPLICATED),
    (r"\b(bias|gamma|\w*modulation|queries|pos_embedding)$", REPLICATED),
    (r"\b(weight|token_embedding|down|up)$", OUTPUTS),
    (r"", REPLICATED),  # counters and sums
)


class ReplicatedParam(Param):
    """A parameter that every device holds in full, so `all_gather_params` moves nothing."""


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The sharding of a parameter.

    The axis that the table names, else the axis before it (a weight's inputs), whichever first
    divides by all devices; else by the larger of the mesh's two axes, or the smaller; else
    replicated.
    """
    if not _is_sharded(path, shape):
        return REPLICATED
    either = sorted(AXES, key=lambda name: mesh.shape[name], reverse=True)
    for names in (AXES, *((name,) for name in either)):
        parts = math.prod(mesh.shape[name] for name in names)
        for axis in (len(shape) - 1, len(shape) - 2) if parts > 1 else ():
            if shape[axis] % parts == 0:
                along = names if len(names) > 1 else names[0]
                return PartitionSpec(*(along if at == axis else None for at in range(axis + 1)))
    return REPLICATED


def _is_sharded(path: str, shape: tuple[int, ...]) -> bool:
    """Whether the table shards a parameter on any mesh that divides it."""
    named = next(spec for expression, spec in TABLE if re.search(expression, path))
    return named != REPLICATED and math.prod(shape) >= SMALLEST_SHARDED


def check_sharded(mesh: Mesh | AbstractMesh, shapes) -> None:
    """Refuses a mesh that divides few of the weights in `shapes`: each device would hold them all.

    Raises:
      UsageError: more than UNDIVIDED of their bytes stay whole, and these are many (MANY).
    """
    leaves = [(path_of(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)]
    size = lambda leaf: leaf.size * leaf.dtype.itemsize
    undivided = [
        (path, leaf)
        for path, leaf in leaves
        if _is_sharded(path, leaf.shape) and spec_of(path, leaf.shape, mesh) == REPLICATED
    ]
    total, whole = (sum(size(leaf) for _, leaf in part) for part in (leaves, undivided))
    if mesh.size == 1 or whole <= max(MANY, UNDIVIDED * total):
        return
    path, largest = max(undivided, key=lambda found: size(found[1]))
    data, seq = (mesh.shape[name] for name in AXES)
    sides = largest.shape[-2:]
    raise UsageError(
        f"data={data} and seq={seq} divide neither side of {path} [{sides[0]} x {sides[1]}], "
        f"so every device would hold {whole / 1e9:.1f} GB of {total / 1e9:.1f} GB whole: use "
        f"devices, or a seq, whose number divides {' or '.join(map(str, dict.fromkeys(sides)))}"
    )


def state_shardings(mesh: Mesh | AbstractMesh, shapes):
    """A sharding for every array of the pytree `shapes`: networks, EMA, a full training state."""
    place = lambda path, leaf: NamedSharding(mesh, spec_of(path_of(path), leaf.shape, mesh))
    return jax.tree_util.tree_map_with_path(place, shapes)


def path_of(path) -> str:
    """A parameter's path, such as transformer.blocks.self_attn.q.weight."""
    parts = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value").split(".")
    return ".".join(part for part in parts if part)


def all_gather_params(network):
    """A network, or a part of one, with its weights replicated on every device.

    Gradients come back sharded as the weights are stored.
    """
    mesh = active_mesh()
    if mesh is None:
        return network

    def gather(path, leaf):
        if isinstance(leaf, ReplicatedParam):  # re-assert replication, or XLA re-shards it
            return jax.tree.map(lambda x: _all_gather(x, REPLICATED), leaf)
        return _all_gather(leaf, spec_of(path_of(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(
        gather, network, is_leaf=lambda part: isinstance(part, ReplicatedParam)
    )


def place_rollout_weights(network, weights: str):
    """A network for many passes without gradient, its weights placed as `weights` says.

    Args:
      weights: "gathered" replicates them now and keeps them so; "sharded" leaves them sharded, and
        each pass gathers them again.
    """
    network = jax.lax.stop_gradient(network)
    if weights == "sharded" or active_mesh() is None:
        return network

    def replicate(path, param):
        named = lambda x: all_gather_params({path_of(path): x})[path_of(path)]
        # One layer of a stack at a time: gathering all at once would need a second copy of the
        # stack, in the order in which the shards arrive.
        return ReplicatedParam(
            jax.lax.map(named, param[...]) if param[...].ndim > 2 else named(param[...])
        )

    return jax.tree_util.tree_map_with_path(
        replicate, network, is_leaf=lambda part: isinstance(part, Param)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _all_gather(x, kept: PartitionSpec):
    return _replicate(x, kept)


_all_gather.defvjp(
    lambda x, kept: (_replicate(x, kept), None),
    lambda kept, _, gradient: (jax.lax.with_sharding_constraint(gradient, kept),),
)


def _replicate(x, kept: PartitionSpec):
    if platform() == "tpu":
        # One mesh axis at a time. For both at once, XLA for TPUs emits an all-reduce over
        # zero-padded shards, which moves twice the bytes of an all-gather.
        x = jax.lax.with_sharding_constraint(
            x, PartitionSpec(*(AXES[0] if axis == AXES else None for axis in kept))
        )
    return jax.lax.with_sharding_constraint(x, REPLICATED)


def put_batch(mesh: Mesh, batch):
    """This process's part of a batch (numpy) as global arrays sharded over "data"."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), batch
    )


def own_rows(array: jax.Array) -> np.ndarray:
    """This process's part of an array that is sharded over "data", as `put_batch` takes it."""
    rows = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(rows[start]) for start in sorted(rows)])


def gather_to_first(array: jax.Array, layer: int | None, dtype: np.dtype) -> np.ndarray | None:
    """A layer of a sharded stack (None: the array) on the first process's host; None in others.

    Every process must call this. The cast to `dtype` comes first, and no device holds more of the
    result than that layer.
    """
    everywhere = NamedSharding(cast(NamedSharding, array.sharding).mesh, REPLICATED)
    layer = None if layer is None else jnp.int32(layer)  # one program for all layers
    # Two programs: in one, XLA may gather before it casts.
    full = jax.device_put(_layer(array, layer, np.dtype(dtype)), everywhere)
    return np.asarray(full) if is_first() else None


@functools.partial(jax.jit, static_argnums=2)
def _layer(stack: jax.Array, layer, dtype: np.dtype) -> jax.Array:
    return (stack if layer is None else stack[layer]).astype(dtype)
