"""What to change when a program does not fit its target."""

import jax.numpy as jnp

from causalcine_jax.models.dit import Transformer
from causalcine_jax.planning.compile_plan import CompilePlan
from causalcine_jax.planning.planned_rollout import DTYPE
from causalcine_jax.planning.planned_step import shapes, size_of


def advice(plan: CompilePlan) -> list[str]:
    """Changes that make the programs of `plan` smaller, the cheapest first."""
    config, where, seq = plan.config, plan.target, plan.seq
    worst = max(plan.accounts, key=lambda one: one.total)
    given = sum(share for _, share in worst.parts.values())
    of_work = worst.temporaries is None or worst.temporaries > given
    found = _of_rollout(plan) if plan.what == "rollout" else _of_stage(plan)
    longer = [
        n
        for n in range(seq + 1, where.devices + 1)
        if where.devices % n == 0 and config.transformer.num_heads % n == 0
    ]
    if longer and (of_work or plan.what == "rollout"):
        found.append(
            f"--seq {' or '.join(map(str, longer[:4]))} shards a film over that many devices"
        )
    if not of_work:
        found.append(
            f"more devices: the {given / 1e9:.0f} GB that each holds before it computes anything "
            "shrink with their number"
        )
    return found


def _of_rollout(plan: CompilePlan) -> list[str]:
    smallest = plan.config.memory.smallest_pool(plan.config.chunk_frames)
    return [f"--pool-frames N: fewer frames of history, at least {smallest}", *_of_weights(plan)]


def _of_weights(plan: CompilePlan) -> list[str]:
    config = plan.config
    if config.rollout_weights == "sharded" or plan.target.devices == 1:
        return []
    dtype = jnp.dtype(DTYPE if plan.what == "rollout" else config.dtype)
    held = size_of(shapes(Transformer, config.transformer)) // 4 * dtype.itemsize
    return [
        f"--config.rollout_weights=sharded holds {held / 1e9:.2f} GB less while a rollout runs, "
        "and gathers them at each of its passes"
    ]


def _of_stage(plan: CompilePlan) -> list[str]:
    config, found = plan.config, []
    at_once = config.batch // config.optim.accumulation * plan.seq // plan.target.devices
    if not config.remat:
        found.append("--config.remat=True keeps only the residual stream between layers")
    elif config.remat_layers == 1:
        layers = _root(config.transformer.num_layers)
        found.append(f"--config.remat_layers={layers} keeps it only before every {layers} layers")
    if not config.segments_at_once:
        found.append(
            "--config.segments_at_once=8 gathers and attends to the fields of 8 chunks at once"
        )
    if at_once > 1:
        more = f"accumulation={config.optim.accumulation * at_once}"
        critic = f" --config.critic_optim.{more}" if config.stage == "dmd" else ""
        found.append(f"--config.optim.{more}{critic} takes one film at a time instead of {at_once}")
    rolls = config.stage == "dmd" or (config.stage == "ode_init" and not config.ode.store)
    if rolls:
        found += _of_weights(plan)
    if config.stage == "ode_init" and config.ode.times_at_once != 1:
        found.append(
            "--config.ode.times_at_once=1 processes a trajectory's times one after the other"
        )
    if config.stage == "ode_init" and not config.ode.store:
        found.append(
            "--config.ode.store=FOLDER reads the teacher's trajectories instead of keeping the "
            "teacher and its history"
        )
    if config.stage == "dmd":
        if not config.self_forcing.recommit:
            found.append(
                "--config.self_forcing.recommit=True recomputes the rollout's history instead of "
                "keeping it while the film is scored"
            )
        if config.self_forcing.grad_frames != config.chunk_frames:
            found.append(
                "--config.self_forcing.grad_frames=N limits the gradient to fewer of a film's "
                "last frames"
            )
        if config.gan.on:
            found.append("--config.gan.generator_weight=0 leaves out the head's passes")
    return [*found, f"--frames N below {plan.films.frames}: shorter films (data.store)"]


def _root(layers: int) -> int:
    """The divisor nearest the square root: groups of that many layers keep the least memory."""
    return min((n for n in range(1, layers + 1) if layers % n == 0), key=lambda n: n + layers // n)
