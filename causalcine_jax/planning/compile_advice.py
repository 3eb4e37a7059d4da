"""What to change when a program does not fit its target."""

import jax.numpy as jnp

from causalcine_jax.models.dit import Transformer
from causalcine_jax.planning.compile_plan import CompilePlan
from causalcine_jax.planning.planned_rollout import DTYPE
from causalcine_jax.planning.planned_step import shapes
from causalcine_jax.training.smaller_step import smaller_step
from causalcine_jax.utils.arrays import tree_bytes


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
    held = tree_bytes(shapes(Transformer, config.transformer)) // 4 * dtype.itemsize
    if plan.what == "rollout":  # which then still has its shard
        held -= held // plan.target.devices
    return [
        f"--config.rollout_weights=sharded holds {held / 1e9:.2f} GB less while a rollout runs, "
        "and gathers them at each of its passes"
    ]


def _of_stage(plan: CompilePlan) -> list[str]:
    config = plan.config
    found = [f"{flag} {why}" for flag, why in smaller_step(config, plan.target.devices).items()]
    if config.stage == "dmd" or (config.stage == "ode_init" and not config.ode.store):
        found += _of_weights(plan)
    return [*found, f"--frames N below {plan.films.frames}: shorter films (data.store)"]
