"""Where arrays live: one table for parameters, and with them for their averages and their optimizer's state; batches along films.

Weights are cut over all devices, wherever in the mesh (FSDP), and gathered where they are used, one layer at a time: `all_gather_params`. A network
that makes hundreds of short passes, as a rollout does, would send little else: it is gathered once, and held whole meanwhile (`place_rollout_weights`).
What is computed never travels for a weight's sake. Vectors are small: they are whole everywhere.
"""

import functools
import re

import jax
import numpy as np
from flax.nnx import Param
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from causalcine_jax.parallel.mesh import AXES, active_mesh
from causalcine_jax.parallel.platform import platform

SMALLEST_SHARDED = 2**14  # elements; cutting less costs more in messages than it saves in memory

REPLICATED = PartitionSpec()
# A weight is [..., in, out]: cut along its outputs, which are the rows of a checkpoint's tensor, so that a device reads one range of bytes.
OUTPUTS = PartitionSpec(None, AXES)

# The first expression found in a parameter's path, such as student.blocks.self_attn.q.weight, says how its last axes are cut; axes before
# them (stacked layers, a convolution's taps) never are. What the state of an optimizer holds of a parameter has its path, with more before it.
TABLE: tuple[tuple[str, PartitionSpec], ...] = (
    (r"\bnorm\w*\.weight$", REPLICATED),
    (r"\b(bias|gamma|\w*modulation|queries|pos_embedding)$", REPLICATED),
    (r"\b(weight|token_embedding)$", OUTPUTS),
    (r"", REPLICATED),  # counters and sums
)


class ReplicatedParam(Param):
    """A parameter that every device already holds whole, so that `all_gather_params` has nothing to do."""


def spec_of(path: str, shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """How a parameter is cut: as the table says; along the axis before (a weight's inputs) where that axis does not divide; or not at all."""
    last = next(spec for expression, spec in TABLE if re.search(expression, path))
    if devices == 1 or last == REPLICATED or np.prod(shape) < SMALLEST_SHARDED:
        return REPLICATED
    named = dict(zip(range(len(shape) - len(last), len(shape)), last, strict=True))
    for axis in sorted(named, key=lambda axis: named[axis] is None):
        if shape[axis] % devices == 0:
            return PartitionSpec(*(AXES if at == axis else None for at in range(axis + 1)))
    return REPLICATED


def state_shardings(mesh: Mesh, shapes):
    """A sharding for every array of the pytree `shapes`: networks, averages, a whole training state."""
    place = lambda path, leaf: NamedSharding(mesh, spec_of(path_of(path), leaf.shape, mesh.size))
    return jax.tree_util.tree_map_with_path(place, shapes)


def path_of(path) -> str:
    """A parameter's path, such as transformer.blocks.self_attn.q.weight."""
    parts = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value").split(".")
    return ".".join(part for part in parts if part)


def all_gather_params(network):
    """A network, or a part of one, with its weights whole on every device; the gradients that come back are cut as the weights are kept."""
    mesh = active_mesh()
    if mesh is None:
        return network

    def whole(path, leaf):
        if isinstance(leaf, ReplicatedParam):  # re-assert replication, or XLA re-shards it
            return jax.tree.map(lambda x: _all_gather(x, REPLICATED), leaf)
        return _all_gather(leaf, spec_of(path_of(path), leaf.shape, mesh.size))

    return jax.tree_util.tree_map_with_path(
        whole, network, is_leaf=lambda part: isinstance(part, ReplicatedParam)
    )


def place_rollout_weights(network, weights: str):
    """A network that makes many passes without gradient: its weights gathered now, to be held whole, or `sharded`, each pass gathering them anew."""
    network = jax.lax.stop_gradient(network)
    if weights == "sharded" or active_mesh() is None:
        return network

    def whole(path, param):
        named = lambda x: all_gather_params({path_of(path): x})[path_of(path)]
        # One layer of a stack after the other: gathered at once, all of them would be there a second time, in the order in which they came.
        return ReplicatedParam(
            jax.lax.map(named, param[...]) if param[...].ndim > 2 else named(param[...])
        )

    return jax.tree_util.tree_map_with_path(
        whole, network, is_leaf=lambda part: isinstance(part, Param)
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
        # Asked for both axes of the mesh at once, XLA for TPUs sums shards among zeros (an all-reduce, twice the bytes); for one after the other, it gathers.
        x = jax.lax.with_sharding_constraint(
            x, PartitionSpec(*(AXES[0] if axis == AXES else None for axis in kept))
        )
    return jax.lax.with_sharding_constraint(x, REPLICATED)


def put_batch(mesh: Mesh, batch):
    """This process's part of a batch (numpy) as global arrays cut over "data"."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), batch
    )
