"""Compares meshes of eight CPU devices with one device, for test_parallel_meshes.py.

Prints distances, shard shapes and collectives as JSON.
Arguments: meshes (data x seq: 8x1 4x2 2x4 1x8), and what to do on each of them:
stages of mesh_stages.py, or film. With `reordered`, also how far one device's results move when
some of its sums change their order.
"""

import dataclasses
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from mesh_stages import STAGES, Stage, transformer
from tiny_models import SIZE, random_weights, tiny_model

from causalcine_jax.config import PoolConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import embed, new_state, roll_chunk
from causalcine_jax.models.dit import Transformer
from causalcine_jax.parallel import sharding
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.planning.hlo.program import parse_hlo

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def on_meshes(stage: Stage, meshes: dict[str, jax.sharding.Mesh], again: bool) -> dict:
    """Compares a stage's results on each mesh with those of one device.

    By mesh: the distance, the shapes of a device's shards, and the program's collectives.
    `again`: whether to tell `reordered`.
    """
    alone, report = jax.jit(stage.compute), {}
    wanted = jax.device_get(alone(*stage.networks, stage.batch))
    if again:
        moved = alone(*reordered(stage.networks), stage.batch)
        report["reordered"] = {name: worst(reordered(moved[name]), wanted[name]) for name in wanted}
    for shape, mesh in meshes.items():
        got, program = on(mesh, stage)
        report[shape] = {
            "distance": {name: worst(got[name], wanted[name]) for name in wanted},
            "held": {
                name: [leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(got[name])]
                for name in got
            },
            "gradients_cut": all(
                len(a.sharding.device_set) == 8 and not a.is_fully_replicated
                for a in matrices(mesh, got)
            ),
            **collectives(program),
        }
    return report


def on(mesh, stage: Stage):
    """Runs a stage on a mesh, networks sharded by the table; returns results and program text."""
    networks = [
        jax.device_put(each, sharding.state_shardings(mesh, each)) for each in stage.networks
    ]
    batch = sharding.put_batch(mesh, stage.batch)
    with jax.set_mesh(mesh):
        program = jax.jit(stage.compute).lower(*networks, batch).compile()
        return program(*networks, batch), program.as_text()


def worst(got, wanted) -> float:
    """Returns the largest relative distance of two trees' arrays.

    Arrays that hold only rounding errors are measured by the trees' typical size.
    """
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    ]
    floor = 1e-3 * np.median([np.abs(b).mean() for _, b in pairs])
    return max(
        float(np.linalg.norm(a - b) / max(np.linalg.norm(b), floor * b.size**0.5)) for a, b in pairs
    )


def reordered(tree):
    """Reverses the channels inside feed-forwards of transformers, or of their gradients.

    The functions stay the same, but sum in another order.
    """
    axes = {"ffn_0.weight": -1, "ffn_0.bias": -1, "ffn_2.weight": -2}

    def turned(path, leaf):
        axis = next(
            (axis for name, axis in axes.items() if sharding.path_of(path).endswith(name)), None
        )
        return leaf if axis is None else jnp.flip(leaf, axis)

    return jax.tree_util.tree_map_with_path(turned, tree)


def matrices(mesh, nets) -> list[jax.Array]:
    """Returns the arrays that the table shards."""
    placed = zip(
        jax.tree.leaves(nets), jax.tree.leaves(sharding.state_shardings(mesh, nets)), strict=True
    )
    return [array for array, where in placed if where.spec != sharding.REPLICATED]


def collectives(program: str) -> dict:
    """Lists a program's collectives.

    `collectives`: kind and shapes of each; one inside a loop counts once.
    `gathers`: how often arrays of each type are gathered while it runs.
    """
    parsed = parse_hlo(program)
    kind = lambda one: one.opcode.removesuffix("-start")
    sides = lambda array: [
        int(side) for side in array.text.split("[")[1].rstrip("]").split(",") if side
    ]
    return {
        "collectives": [
            (kind(one), [sides(array) for array in one.arrays])
            for _, one in parsed.running()
            if kind(one) in COLLECTIVES
        ],
        "gathers": parsed.total(
            lambda _, one: {one.type.split("{")[0]: 1} if one.opcode == "all-gather" else {}
        ),
    }


def film(meshes: dict[str, jax.sharding.Mesh]) -> dict:
    """A guided film of three chunks: text encoder, streaming rollout and decoder.

    Its pool is on the device; on meshes it is on the host.
    """
    one = tiny_model()
    sizes = dataclasses.replace(one.transformer.config, dim=48, num_heads=8)
    one = dataclasses.replace(
        one, transformer=random_weights(lambda key: Transformer(sizes, key=key), 0)
    )

    def made(model, pool_on):
        pool = PoolConfig(9, on=pool_on)
        settings = FilmSettings(model.sampler, model.memory, pool, SIZE.height, SIZE.width)
        state, frames = new_state(model, settings), []
        context = embed(model, "a cat", settings)
        for _ in range(3):
            state, chunk = roll_chunk(model, state, context, settings)
            frames.append(chunk.frames)
        return np.concatenate(frames).astype(int), state.cache

    def against_one_device(mesh):
        place = lambda net: jax.device_put(net, sharding.state_shardings(mesh, net))
        cut = dataclasses.replace(
            one,
            transformer=place(one.transformer),
            vae=place(one.vae),
            text_encoder=place(one.text_encoder),
        )
        try:
            with jax.set_mesh(mesh):
                together, cut_pool = made(cut, "host")
        except UsageError as error:
            return {"refused": str(error)}
        difference = np.abs(alone - together)
        return {
            "largest": int(difference.max()),
            "differing": float(np.mean(difference > 0)),
            "spread": float(alone.std()),
            "pool": worst((cut_pool.k, cut_pool.v), (pool.k, pool.v)),
            "held": cut_pool.k.sharding.shard_shape(cut_pool.k.shape),
        }

    alone, pool = made(one, "device")
    return {shape: against_one_device(mesh) for shape, mesh in meshes.items()}


if __name__ == "__main__":
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    jax.config.update("jax_default_matmul_precision", "highest")
    sharding.SMALLEST_SHARDED = 1
    asked = sys.argv[1:]
    meshes = {shape: make_mesh(int(shape[-1])) for shape in asked if "x" in shape}
    again = "reordered" in asked
    report = {name: on_meshes(STAGES[name](), meshes, again) for name in asked if name in STAGES}
    report["largest_matrix"] = max(
        math.prod(leaf.shape[-2:]) for leaf in jax.tree.leaves(transformer(0))
    )
    if "film" in asked:
        report["film"] = film(meshes)
    print(json.dumps(report))
