"""From noise to data: one `lax.scan` over the rows of a solver's table (schedules.py).

The network is traced once, whatever the number of steps.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from causalcine_jax.config import SOLVERS, MemoryConfig
from causalcine_jax.diffusion import schedules
from causalcine_jax.diffusion.flow import TRAIN_TIMES
from causalcine_jax.diffusion.schedules import ADVANCE_TERMS, Schedule
from causalcine_jax.errors import UsageError, choice_faults, raise_faults
from causalcine_jax.utils.arrays import AnyArray

MOST = 1000  # of guidance and shift; far beyond what gives a film, and far from overflow


@dataclass(frozen=True)
class SamplerConfig:
    """How noise becomes a sample. The defaults are Wan2.1's for text to video.

    solver           unipc and euler integrate the flow's ODE; few_step predicts the data,
                     renoises the prediction with fresh noise, and repeats
    steps            network evaluations; with guidance each is a batch of two
    shift            bends the schedule toward noise; 1 leaves it uniform
    guidance         classifier-free guidance scale; 1 means none: no negative prompt is evaluated
    step_list        few_step only: `steps` exact times in 0..1000, descending, which replace
                     those that `shift` gives. The noise at each is that of the nearest of the
                     1000 training times under `shift`, as the public causal models look it up
    first_step_list  the same, for a film's first chunk only (Causal Forcing++)
    memory_guidance  g of v + g (v - v without memory): strengthens what memory changes. 0 means
                     none; otherwise every step is evaluated twice once memory holds frames
    """

    solver: str = "unipc"
    steps: int = 50
    shift: float = 5.0
    guidance: float = 5.0
    step_list: tuple[float, ...] | None = None
    first_step_list: tuple[float, ...] | None = None
    memory_guidance: float = 0.0

    def __post_init__(self):
        for name in ("step_list", "first_step_list"):
            # A file gives lists, but a static argument of jit must be hashable.
            if isinstance(times := getattr(self, name), list):
                object.__setattr__(self, name, tuple(times))
        raise_faults("sampler", self.faults())

    def faults(self) -> list[str]:
        faults = choice_faults("solver", self.solver, SOLVERS)
        if not _is_number(self.steps, int) or not 1 <= self.steps <= TRAIN_TIMES:
            faults.append(f"steps must be an integer from 1 to {TRAIN_TIMES}, not {self.steps!r}")
        if not _is_number(self.shift) or not 0 < self.shift <= MOST:
            faults.append(f"shift must be more than 0 and at most {MOST}, not {self.shift!r}")
        if not _is_number(self.guidance) or not 0 <= self.guidance <= MOST:
            faults.append(
                f"guidance must be from 0 to {MOST} (1 means none), not {self.guidance!r}"
            )
        if not _is_number(self.memory_guidance) or not 0 <= self.memory_guidance <= MOST:
            faults.append(
                f"memory_guidance must be from 0 to {MOST} (0 means none), "
                f"not {self.memory_guidance!r}"
            )
        for name in ("step_list", "first_step_list"):
            if getattr(self, name) is not None:
                faults += self._list_faults(name)
        return faults

    def _list_faults(self, name: str) -> list[str]:
        times, faults = getattr(self, name), []
        if not isinstance(times, tuple) or not all(_is_number(t) for t in times):
            return [f"{name} must be a list of times, not {times!r}"]
        if self.solver != "few_step":
            faults.append(f"{name} belongs to the solver few_step, not to {self.solver!r}")
        if name == "step_list" and len(times) != self.steps:
            faults.append(f"step_list has {len(times)} times but steps is {self.steps}")
        if not times or not all(TRAIN_TIMES >= a > b for a, b in itertools.pairwise((*times, 0))):
            faults.append(f"{name} must fall from at most {TRAIN_TIMES} to above 0, not {times}")
        return faults

    def of_chunk(self, index: int) -> "SamplerConfig":
        """The sampler of a film's chunk `index`, from 0: the first may have its own steps."""
        if self.first_step_list is None:
            return self
        if index:
            return replace(self, first_step_list=None)
        times = self.first_step_list
        return replace(self, first_step_list=None, step_list=times, steps=len(times))

    def changed(self, **asked) -> "SamplerConfig":
        """This sampler with the fields `asked` replaced.

        A new step_list sets the solver and the number of steps too. Any other change of the
        schedule removes the lists.
        """
        if "step_list" in asked:
            asked = {"solver": "few_step", "steps": len(asked["step_list"]), **asked}
        elif self.step_list and {"steps", "shift", "solver"} & set(asked):
            asked["step_list"] = None
        if {"steps", "step_list", "shift", "solver"} & set(asked):
            asked["first_step_list"] = None
        return replace(self, **asked)

    @property
    def guided(self) -> bool:
        return self.guidance != 1

    @property
    def histories(self) -> int:
        """Histories of one film: with guidance the negative prompt has its own."""
        return 2 if self.guided else 1

    @property
    def times(self) -> Float[np.ndarray, "steps"]:
        """The t that the network sees at each step, 0..1000, descending."""
        return schedule(self).times


def schedule(config: SamplerConfig) -> Schedule:
    """The solver's table; float64 except `times`, which the network gets in float32."""
    if config.solver == "few_step":
        return schedules.few_step(config.steps, config.shift, config.step_list)
    table = {"unipc": schedules.unipc, "euler": schedules.euler}[config.solver]
    return table(config.steps, config.shift)


@overload
def sample(
    velocity_fn: Callable, noise: AnyArray, config: SamplerConfig, key: Array
) -> Float[Array, " b *x"]: ...


@overload
def sample(
    velocity_fn: Callable,
    noise: AnyArray,
    config: SamplerConfig,
    key: Array,
    *,
    has_aux: bool = ...,
    keep: tuple[int, ...] = ...,
) -> Any: ...


def sample(
    velocity_fn: Callable,
    noise: Float[AnyArray, " b *x"],
    config: SamplerConfig,
    key: Array,
    *,
    has_aux: bool = False,
    keep: tuple[int, ...] = (),
) -> Float[Array, " b *x"] | tuple[Any, ...]:
    """Integrates from `noise` (t = 1000) to data. Jit-able with static `config`; differentiable.

    Args:
      velocity_fn: (x [b, ...] float32, t float32 scalar in 0..1000) -> velocity [b, ...] of any
        float dtype. With guidance it gets [2b, ...]: the first half takes the prompt, the second
        half the negative prompt.
      key: used by few_step only.
      has_aux: velocity_fn returns (velocity, aux).
      keep: steps, from 0, whose x, as the network sees it, is returned too.

    Returns:
      x0; with `has_aux` or `keep`, a tuple (x0, aux of all steps, kept x), without what was not
      asked for. aux is stacked on a leading axis, kept x is [k, b, ...].
    """
    table = schedule(config)
    renoises = bool(table.advance[:, ADVANCE_TERMS.index("noise")].any())
    noise = jnp.asarray(noise, jnp.float32)
    zeros = jnp.zeros_like(noise)

    def step(carry, row):
        x, x_1, x0_pred_1, x0_pred_2, kept = carry
        kept = kept.at[row["kept_index"]].set(x, mode="drop") if keep else kept
        doubled = jnp.concatenate([x, x]) if config.guided else x
        velocity, aux = (
            velocity_fn(doubled, row["t"]) if has_aux else (velocity_fn(doubled, row["t"]), None)
        )
        velocity = velocity.astype(jnp.float32)
        if config.guided:
            v_cond, v_uncond = jnp.split(velocity, 2)
            velocity = apply_guidance(v_cond, v_uncond, config.guidance)
        x0_pred = x - row["sigma"] * velocity
        x = _weighted_sum(row["correct"], (x, x_1, x0_pred, x0_pred_1, x0_pred_2))
        fresh = (
            jax.random.normal(jax.random.fold_in(key, row["index"]), noise.shape)
            if renoises
            else zeros
        )
        advanced = _weighted_sum(row["advance"], (x, x0_pred, x0_pred_1, fresh))
        return (advanced, x, x0_pred, x0_pred_1, kept), aux

    rows = {
        "t": jnp.asarray(table.times),
        "sigma": jnp.asarray(table.sigmas[:-1], jnp.float32),
        "correct": jnp.asarray(table.correct, jnp.float32),
        "advance": jnp.asarray(table.advance, jnp.float32),
        "index": jnp.arange(config.steps),
        "kept_index": jnp.asarray(
            [keep.index(i) if i in keep else len(keep) for i in range(config.steps)]
        ),
    }
    nothing = jnp.zeros((len(keep), *noise.shape))
    (x0, *_, kept), aux = jax.lax.scan(step, (noise, zeros, zeros, zeros, nothing), rows)
    outputs = (x0, *([aux] if has_aux else []), *([kept] if keep else []))
    return outputs if len(outputs) > 1 else x0


def sample_until(
    velocity_fn: Callable,
    noise: Float[AnyArray, " b *x"],
    config: SamplerConfig,
    key: Array,
    last: int | Int[Array, ""],
) -> tuple[Float[Array, " b *x"], Float[Array, " b *x"]]:
    """`sample` with the solver few_step, stopped at step `last` (from 0).

    `last` is an array, so one program serves every value; later steps are not computed. No
    gradient passes. With the last step and the same key, x0_pred equals the result of `sample`.

    Returns:
      (x, x0_pred): the x that step `last` starts from, and the data predicted from it.

    Raises:
      UsageError: another solver, or guidance.
    """
    if config.solver != "few_step" or config.guided:
        raise UsageError(
            "only few_step without guidance can stop early, "
            f"not {config.solver} with guidance {config.guidance}"
        )
    table = schedule(config)
    times, sigmas, advance = (
        jnp.asarray(table.times),
        jnp.asarray(table.sigmas, jnp.float32),
        jnp.asarray(table.advance, jnp.float32),
    )
    noise = jnp.asarray(noise, jnp.float32)

    def step(i, carry):
        x = carry[0]
        x0_pred = x - sigmas[i] * velocity_fn(x, times[i]).astype(jnp.float32)
        fresh = jax.random.normal(jax.random.fold_in(key, i), noise.shape)
        return _weighted_sum(advance[i], (x, x0_pred, jnp.zeros_like(x), fresh)), x, x0_pred

    _, x, x0_pred = jax.lax.fori_loop(0, last + 1, step, (noise, noise, noise))
    return x, x0_pred


def apply_guidance(
    v_cond: Float[Array, "*x"], v_uncond: Float[Array, "*x"], guidance: float
) -> Float[Array, "*x"]:
    """Classifier-free guidance as Wan2.1 applies it.

    `guidance` 1 gives the conditional velocity, 0 the unconditional one.
    """
    return v_uncond + guidance * (v_cond - v_uncond)


def memory_guided(
    v: Float[Array, "*x"],
    velocity_under: Callable[[MemoryConfig], Float[Array, "*x"]],
    memory: MemoryConfig,
    guidance: float,
) -> Float[Array, "*x"]:
    """Memory guidance: v + g (v - v without memory), which strengthens what memory changes.

    Apply it before classifier-free guidance, to the prompt's and the negative prompt's velocity.

    velocity_under  evaluates it under another memory. It is not called if `guidance` is 0 or
                    `memory` retrieves nothing: then v is returned
    """
    if not (guidance and memory.retrieved_frames):
        return v
    return v + guidance * (v - velocity_under(memory.window_only))


def _is_number(value, kinds=int | float) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _weighted_sum(weights, terms):
    return sum(weights[i] * term for i, term in enumerate(terms))
