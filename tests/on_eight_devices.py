"""Run by test_parallel.py with eight CPU devices: what meshes compute against what one device computes, and the collectives they do it by, as JSON.

Arguments: meshes to train on (data x seq: 8x1 4x2 2x4 1x8), and which of distillation, film, autoencoder, refused.
"""

import dataclasses
import json
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tiny_models import SIZE, random_weights, tiny_model

from causalcine_jax.config import MemoryConfig, TextEncoderConfig, TransformerConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.generation.engine import RolloutEngine
from causalcine_jax.models.discriminator import Discriminator
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.umt5 import UMT5Encoder
from causalcine_jax.parallel import sharding
from causalcine_jax.parallel.hlo import parse_hlo
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.training.config import TimeConfig
from causalcine_jax.training.distribution_matching import DistributionMatching, critic_loss, generator_loss
from causalcine_jax.training.gan import GANConfig
from causalcine_jax.training.ode_distillation import ODEInit, ode_init_loss
from causalcine_jax.training.self_forcing import SelfForcingConfig, student_rollout
from causalcine_jax.training.teacher_forcing import TeacherForcing, teacher_forcing_loss

FILMS, CHUNKS, CHUNK = 8, 4, 3
HEIGHT, WIDTH = 12, 16  # 48 tokens a frame, 144 a chunk
SIZES = TransformerConfig(dim=48, ffn_dim=64, num_heads=8, num_layers=2, text_dim=16, text_len=8, in_dim=4, out_dim=4, freq_dim=16)
TEXT = TextEncoderConfig(64, dim=16, dim_attn=16, dim_ffn=32, num_heads=2, num_layers=2)
MEMORY = MemoryConfig("camr", 1, 2)
NULL = (1, 0, 0, 0, 0, 0, 0, 0)
KEY = jax.random.key(0)
MESHES = ("8x1", "4x2", "2x4", "1x8")  # data x seq


def transformer(seed: int):
    return random_weights(lambda key: Transformer(SIZES, key=key), seed)


def films(chunks: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "latents": rng.standard_normal((FILMS, chunks * CHUNK, HEIGHT, WIDTH, 4)).astype(np.float32),
        "token_ids": rng.integers(1, 64, (FILMS, 2, 8)).astype(np.int32),
        "shot_of_chunk": np.tile(np.arange(chunks, dtype=np.int32) * 2 // chunks, (FILMS, 1)),
    }


def gradients(loss):
    return lambda trained, fixed, batch: jax.value_and_grad(lambda nets: loss(nets, fixed, batch, KEY)[0])(trained)


def rollout(nets, batch):
    text = nets["text_encoder"](batch["token_ids"], batch["token_ids"] != 0)
    how = {"config": SelfForcingConfig(steps=2, exit="last"), "memory": MEMORY, "chunk_frames": CHUNK}
    student = sharding.for_many_passes(nets["transformer"], "gathered")
    return student_rollout(student, text, batch["shot_of_chunk"], batch["latents"].shape[2:], KEY, **how)


def on(mesh, function, *arguments):
    """The function's result on a mesh (None: on one device) and its program. Dicts of networks are cut by the table, the last argument along films."""
    if mesh is None:
        return jax.device_get(jax.jit(function)(*arguments)), ""
    *nets, batch = arguments
    nets = [jax.device_put(each, sharding.state_shardings(mesh, each)) for each in nets]
    with jax.set_mesh(mesh):
        program = jax.jit(function).lower(*nets, sharding.put_batch(mesh, batch)).compile()
        return program(*nets, sharding.put_batch(mesh, batch)), program.as_text()


def worst(got, wanted) -> float:
    """The largest relative distance of two trees' arrays; arrays of rounding errors are measured by the trees' typical size."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    ]
    floor = 1e-3 * np.median([np.abs(b).mean() for _, b in pairs])
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), floor * b.size**0.5)) for a, b in pairs)


def collectives(program: str) -> list[tuple[str, list[list[int]]]]:
    """Kind and shapes of every collective of a compiled program, as it stands in the text: once for a loop's."""
    program = re.sub(r"/\*.*?\*/", "", program)
    found = re.findall(r"= (\([^=]*?\)|\S+) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", program)
    shapes = lambda text: [[int(n) for n in part.split(",") if n] for part in re.findall(r"\w+\[([\d,]*)\]", text)]
    return [(kind, shapes(result)) for result, kind in found]


def gathers(program: str) -> dict[str, int]:
    """How often a compiled program gathers arrays of each shape while it runs."""
    return parse_hlo(program).total(lambda _, one: {one.type.split("{")[0]: 1} if one.opcode == "all-gather" else {})


def training_and_rollout(meshes: list[str]) -> dict:
    """Loss, gradient and a student's rollout on each mesh."""
    nets = {"transformer": transformer(0), "text_encoder": random_weights(lambda key: UMT5Encoder(TEXT, key=key), 1)}
    task = TeacherForcing(NULL, MEMORY, TimeConfig(), remat=True)
    step = gradients(teacher_forcing_loss(task))
    batch, report = films(CHUNKS), {}
    (loss, gradient), _ = on(None, step, nets, {}, batch)
    made, _ = on(None, rollout, nets, batch)
    for name in meshes:
        mesh = make_mesh(int(name[-1]))
        (sharded_loss, sharded_gradient), program = on(mesh, step, nets, {}, batch)
        sharded, filming = on(mesh, rollout, nets, batch)
        report[name] = {
            "loss": worst(sharded_loss, loss),
            "gradient": worst(sharded_gradient, gradient),
            "film": worst(sharded.x0, made.x0),
            "pool": worst(sharded.pool, made.pool),
            "pool_of_one_device": sharded.pool.k.sharding.shard_shape(sharded.pool.k.shape),
            "gradients_cut": all(len(a.sharding.device_set) == 8 and not a.is_fully_replicated for a in matrices(sharded_gradient)),
            "collectives": collectives(program),
            "gathered_by_rollout": gathers(filming),
        }
    return report


def matrices(nets) -> list[jax.Array]:
    """The arrays that the table cuts."""
    placed = zip(jax.tree.leaves(nets), jax.tree.leaves(sharding.state_shardings(make_mesh(), nets)), strict=True)
    return [array for array, where in placed if where.spec != sharding.WHOLE]


def distillation() -> dict:
    """The student's stages on (2, 4): ODE initialisation, the generator's and the critic's updates."""
    batch, mesh = films(2), make_mesh(4)
    student, teacher, fake = (transformer(seed) for seed in (0, 1, 2))
    text = random_weights(lambda key: UMT5Encoder(TEXT, key=key), 3)
    head = random_weights(lambda key: Discriminator(SIZES.dim, 1, key=key), 4)
    forcing = SelfForcingConfig(steps=2, grad_frames=3)
    matching = lambda gan, weights: DistributionMatching(NULL, MEMORY, forcing, gan=gan, rollout_weights=weights)
    ode = ODEInit(NULL, forcing.sampler, SamplerConfig("euler", 4, forcing.shift, guidance=2.0), MEMORY)
    everything = {"student": student, "teacher": teacher, "fake_score": fake, "head": head, "text_encoder": text}
    report = {}
    for name, loss, trained in (
        ("ode_init", ode_init_loss(ode), ("student",)),
        ("generator", generator_loss(matching(GANConfig(generator_weight=0), "gathered")), ("student",)),
        ("critic", critic_loss(matching(GANConfig(taps=(1.0,)), "sharded")), ("fake_score", "head")),
    ):
        own = {net: everything[net] for net in trained}
        fixed = {net: weights for net, weights in everything.items() if net not in trained}
        wanted, _ = on(None, gradients(loss), own, fixed, batch)
        report[name] = worst(on(mesh, gradients(loss), own, fixed, batch)[0], wanted)
    return report


def film() -> dict:
    """A film of three chunks by the engine that streams, guided, on four devices as (2, 2): text encoder, rollout and decoder; its pool on the host."""
    one, mesh = tiny_model(), make_mesh(2, jax.devices()[:4])
    place = lambda net: jax.device_put(net, sharding.state_shardings(mesh, net))
    four = dataclasses.replace(one, transformer=place(one.transformer), vae=place(one.vae), text_encoder=place(one.text_encoder))

    def frames(model, pool_on):
        engine = RolloutEngine(
            model, height=SIZE.height, width=SIZE.width, seed=0, sampler=model.sampler, memory=model.memory, pool_frames=9, pool_on=pool_on
        )  # fmt: skip
        context = engine.embed("a cat")
        made = np.concatenate([engine.chunk(context, index).frames for index in range(3)]).astype(int)
        return made, engine._pool.k.sharding.shard_shape(engine._pool.k.shape)

    alone, _ = frames(one, "device")
    with jax.set_mesh(mesh):
        together, pool = frames(four, "host")
    difference = np.abs(alone - together)
    return {"largest": int(difference.max()), "differing": float(np.mean(difference > 0)), "spread": float(alone.std()), "pool": pool}


def autoencoder() -> dict:
    """There and back on (1, 8), by width: the latents' four rows are too few. (The film's decoder is cut by height.)"""
    nets = {"vae": tiny_model().vae}
    video = np.clip(np.random.default_rng(0).standard_normal((1, 5, 16, 32, 3)), -1, 1).astype(np.float32)
    there_and_back = lambda nets, video: nets["vae"].decode_raw(nets["vae"].encode_moments(video)[0])
    wanted, _ = on(None, there_and_back, nets, video)
    got, _ = on(make_mesh(8), there_and_back, nets, video)
    return {"equal": worst(got, wanted), "of_one_device": got.sharding.shard_shape(got.shape)}


def refused() -> str:
    """Three heads on a mesh whose rows are of four devices."""
    net = random_weights(lambda key: Transformer(dataclasses.replace(SIZES, num_heads=3), key=key), 0)
    batch = jax.tree.map(lambda a: jnp.asarray(a[:3]), films(2))
    loss = teacher_forcing_loss(TeacherForcing(NULL, MEMORY, TimeConfig()))
    nets = {"transformer": net, "text_encoder": random_weights(lambda key: UMT5Encoder(TEXT, key=key), 1)}
    try:
        with jax.set_mesh(make_mesh(4)):
            jax.eval_shape(lambda nets: loss(nets, {}, batch, KEY), nets)
    except UsageError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    jax.config.update("jax_default_matmul_precision", "highest")
    sharding.SMALLEST_CUT = 1
    largest = max(math.prod(leaf.shape[-2:]) for leaf in jax.tree.leaves(transformer(0)))
    asked = sys.argv[1:]
    report = {part.__name__: part() for part in (distillation, film, autoencoder, refused) if part.__name__ in asked}
    if meshes := [name for name in asked if name in MESHES]:
        report |= {"largest_matrix": largest, "training": training_and_rollout(meshes)}
    print(json.dumps(report))
