"""From noise to data: every solver is one table of numbers and one `lax.scan` over its rows.

At step i the network sees (x, t_i) and predicts a velocity, so m = x - sigma_i v is its guess of the data. Euler, UniPC and few-step
renoising then all form the next x as a weighted sum of a few tensors: x, the guesses of this step and of earlier ones, the x
one step back, and fresh noise. The weights depend on the schedule only; they are computed here once, in float64 numpy, and scanned over. A
sampler is therefore compiled once, whatever its number of steps.

Sources: UniPC (arXiv 2302.04867) as Wan2.1's FlowUniPCMultistepScheduler has it (order 2, B2(h), data prediction, lower order in the end);
few-step renoising as in Self-Forcing's rollout.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from causalcine_jax.diffusion.flow import TRAIN_TIMES, shift
from causalcine_jax.errors import UsageError, nearest, raise_faults

SOLVERS = ("unipc", "euler", "few_step")


@dataclass(frozen=True)
class SamplerConfig:
    """How noise becomes a sample. The defaults are Wan2.1's for text to video.

    solver      unipc and euler integrate the flow's ODE; few_step guesses the data, renoises the guess with fresh noise, and repeats
    steps       network evaluations (with guidance, each is a batch of two)
    shift       how far the schedule is bent toward noise; 1 leaves it uniform
    guidance    classifier-free guidance scale; 1 means none, and no null prompt is evaluated
    step_list   few_step only: the exact times in 0..1000, descending, in place of those that `shift` gives; `steps` must be its length. Their
                noise is that of the nearest of the 1000 training times bent by `shift`, as the public causal models look it up
    first_step_list  of a film's first chunk alone (Causal Forcing++)
    """

    solver: str = "unipc"
    steps: int = 50
    shift: float = 5.0
    guidance: float = 5.0
    step_list: tuple[float, ...] | None = None
    first_step_list: tuple[float, ...] | None = None

    def __post_init__(self):
        for name in ("step_list", "first_step_list"):
            if isinstance(
                times := getattr(self, name), list
            ):  # as read from a file; a static argument of jit must be hashable
                object.__setattr__(self, name, tuple(times))
        raise_faults("sampler", self.faults())

    def faults(self) -> list[str]:
        known = self.solver in SOLVERS
        faults = (
            []
            if known
            else [f"unknown solver {self.solver!r}, {nearest(str(self.solver), SOLVERS)}"]
        )
        if not _is_number(self.steps, int) or not 1 <= self.steps <= TRAIN_TIMES:
            faults.append(f"steps must be an integer from 1 to {TRAIN_TIMES}, not {self.steps!r}")
        if not _is_number(self.shift) or not 0 < self.shift < float("inf"):
            faults.append(f"shift must be positive and finite, not {self.shift!r}")
        if not _is_number(self.guidance) or not 0 <= self.guidance < float("inf"):
            faults.append(
                f"guidance must be finite and not negative (1 means none), not {self.guidance!r}"
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
        """The sampler of a film's chunk `index`, from 0: the first may have steps of its own."""
        if self.first_step_list is None:
            return self
        times = self.step_list if index else self.first_step_list
        return replace(
            self, first_step_list=None, step_list=times, steps=self.steps if index else len(times)
        )

    def changed(self, **asked) -> "SamplerConfig":
        """This sampler with other fields. A step_list brings its solver and its length; lists go where another schedule is asked for."""
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
    def times(self) -> Float[np.ndarray, "steps"]:
        """The t that the network sees at each step, 0..1000, descending."""
        return schedule(self).times


# The tensors that a step adds up, in the order of a table's columns. `guess` is this step's, `before` and `earlier` are the two steps' before.
CORRECT_TERMS = ("x", "previous_x", "guess", "before", "earlier")
ADVANCE_TERMS = ("x", "guess", "before", "noise")


class Schedule(NamedTuple):
    """A solver as numbers, one row per step. `correct` gives the x that a step starts from, `advance` the x it ends at."""

    times: Float[np.ndarray, " steps"]
    sigmas: Float[np.ndarray, " steps+1"]
    correct: Float[np.ndarray, "steps 5"]
    advance: Float[np.ndarray, "steps 4"]


def schedule(config: SamplerConfig) -> Schedule:
    """The solver's table; float64 except `times`, which is the float32 that the network is given."""
    return {"unipc": _unipc, "euler": _euler, "few_step": _few_step}[config.solver](config)


def sample(
    velocity_fn: Callable,
    noise: Float[Array, " b *x"],
    config: SamplerConfig,
    key: Array,
    *,
    has_aux: bool = False,
    keep: tuple[int, ...] = (),
) -> Float[Array, " b *x"]:
    """Integrates from `noise` (t = 1000) to data. Can be jitted and differentiated; `config` is static.

    velocity_fn   (x [b, ...] float32, t float32 scalar in 0..1000) -> velocity [b, ...] of any float dtype. With guidance (config.guidance
                  not 1) it is given [2b, ...]: the first half is to be predicted with the prompt, the second with the null prompt
    key           used by few_step only
    has_aux       velocity_fn returns (velocity, aux); `sample` then returns (x0, aux of all steps stacked on a leading axis)
    keep          steps, from 0, whose x, as the network sees it, comes back last, stacked [k, b, ...]; no others are held
    """
    table = schedule(config)
    renoises = bool(table.advance[:, ADVANCE_TERMS.index("noise")].any())
    noise = noise.astype(jnp.float32)
    zeros = jnp.zeros_like(noise)

    def step(carry, row):
        x, previous_x, before, earlier, kept = carry
        kept = kept.at[row["place"]].set(x, mode="drop") if keep else kept
        doubled = jnp.concatenate([x, x]) if config.guided else x
        velocity, aux = (
            velocity_fn(doubled, row["t"]) if has_aux else (velocity_fn(doubled, row["t"]), None)
        )
        velocity = velocity.astype(jnp.float32)
        if config.guided:
            velocity = guided(*jnp.split(velocity, 2), config.guidance)
        guess = x - row["sigma"] * velocity
        x = _weighted_sum(row["correct"], (x, previous_x, guess, before, earlier))
        fresh = (
            jax.random.normal(jax.random.fold_in(key, row["index"]), noise.shape)
            if renoises
            else zeros
        )
        advanced = _weighted_sum(row["advance"], (x, guess, before, fresh))
        return (advanced, x, guess, before, kept), aux

    rows = {
        "t": jnp.asarray(table.times),
        "sigma": jnp.asarray(table.sigmas[:-1], jnp.float32),
        "correct": jnp.asarray(table.correct, jnp.float32),
        "advance": jnp.asarray(table.advance, jnp.float32),
        "index": jnp.arange(config.steps),
        "place": jnp.asarray(
            [keep.index(i) if i in keep else len(keep) for i in range(config.steps)]
        ),
    }
    nothing = jnp.zeros((len(keep), *noise.shape))
    (x0, *_, kept), aux = jax.lax.scan(step, (noise, zeros, zeros, zeros, nothing), rows)
    found = (x0, *([aux] if has_aux else []), *([kept] if keep else []))
    return found if len(found) > 1 else x0


def sample_until(
    velocity_fn: Callable,
    noise: Float[Array, " b *x"],
    config: SamplerConfig,
    key: Array,
    last: Int[Array, ""],
) -> tuple[Float[Array, " b *x"], Float[Array, " b *x"]]:
    """`sample` by the solver few_step, stopped at step `last` (from 0): the x that this step starts from, and the data guessed from it.

    With the last step and the same key, the guess is what `sample` returns. `last` is an array: later steps are not computed, whatever it
    is, and nothing compiles anew. No gradient passes. `UsageError` for another solver or with guidance.
    """
    if config.solver != "few_step" or config.guided:
        raise UsageError(
            f"only few_step without guidance can stop early, not {config.solver} with guidance {config.guidance}"
        )
    table = schedule(config)
    times, sigmas, advance = (
        jnp.asarray(table.times),
        jnp.asarray(table.sigmas, jnp.float32),
        jnp.asarray(table.advance, jnp.float32),
    )
    noise = noise.astype(jnp.float32)

    def step(i, carry):
        x = carry[0]
        guess = x - sigmas[i] * velocity_fn(x, times[i]).astype(jnp.float32)
        fresh = jax.random.normal(jax.random.fold_in(key, i), noise.shape)
        return _weighted_sum(advance[i], (x, guess, jnp.zeros_like(x), fresh)), x, guess

    _, x, guess = jax.lax.fori_loop(0, last + 1, step, (noise, noise, noise))
    return x, guess


def guided(
    v_cond: Float[Array, "*x"], v_uncond: Float[Array, "*x"], guidance: float
) -> Float[Array, "*x"]:
    """Classifier-free guidance as Wan2.1 applies it: 1 is the conditional velocity, 0 the unconditional one."""
    return v_uncond + guidance * (v_cond - v_uncond)


def _is_number(value, kinds=int | float) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _weighted_sum(weights, terms):
    return sum(weights[i] * term for i, term in enumerate(terms))


def _rows(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A table that corrects nothing (x stays x) and advances to zero, to be filled in."""
    correct, advance = np.zeros((steps, len(CORRECT_TERMS))), np.zeros((steps, len(ADVANCE_TERMS)))
    correct[:, CORRECT_TERMS.index("x")] = 1
    return correct, advance


def _euler(config: SamplerConfig) -> Schedule:
    """x + (sigma_next - sigma) v, written with the guess: v = (x - guess) / sigma."""
    sigmas = shift(np.linspace(1.0, 0.0, config.steps + 1), config.shift)
    correct, advance = _rows(config.steps)
    kept = sigmas[1:] / sigmas[:-1]
    advance[:, ADVANCE_TERMS.index("x")] = kept
    advance[:, ADVANCE_TERMS.index("guess")] = 1 - kept
    return Schedule((TRAIN_TIMES * sigmas[:-1]).astype(np.float32), sigmas, correct, advance)


def _few_step(config: SamplerConfig) -> Schedule:
    """The guess, noised again with fresh noise to the next time (consistency sampling)."""
    if config.step_list is None:
        sigmas = shift(np.linspace(1.0, 0.0, config.steps + 1), config.shift)
    else:
        sigmas = np.array([*(_trained_sigma(t, config.shift) for t in config.step_list), 0.0])
    times = TRAIN_TIMES * sigmas[:-1] if config.step_list is None else np.array(config.step_list)
    correct, advance = _rows(config.steps)
    advance[:, ADVANCE_TERMS.index("guess")] = 1 - sigmas[1:]
    advance[:, ADVANCE_TERMS.index("noise")] = sigmas[1:]
    return Schedule(times.astype(np.float32), sigmas, correct, advance)


def _trained_sigma(t: float, by: float) -> float:
    """The sigma of the training time nearest to t (Self-Forcing `utils/scheduler.py`): t / 1000 for times on that grid."""
    trained = shift(np.linspace(1.0, 0.0, TRAIN_TIMES + 1)[:-1], by)
    return float(trained[np.argmin(np.abs(TRAIN_TIMES * trained - t))])


def _unipc(config: SamplerConfig) -> Schedule:
    """UniPC as Wan2.1 runs it. The network sees t truncated to an integer while the solver keeps the exact sigma, as Wan2.1's does.

    sigma_max is float32(1 - 1/1000) and all sigmas are rounded to float32, also as Wan2.1's: 1 - sigma at the first steps has few digits
    left, and 999 must not truncate to 998.
    """
    uniform = np.linspace(float(np.float32(1 - 1 / TRAIN_TIMES)), 0.0, config.steps + 1)
    exact = shift(uniform, config.shift)
    sigmas = exact.astype(np.float32).astype(np.float64)
    correct, advance = _rows(config.steps)
    for i in range(config.steps):
        order = min(2, i + 1, config.steps - i)
        advance[i] = *_predict(sigmas, i, order), 0.0
        if i:
            # The guess at i also improves the step that led there: x is formed again from where that step started.
            correct[i] = 0.0, *_correct(sigmas, i, order=min(2, i, config.steps - i + 1))
    return Schedule(np.trunc(TRAIN_TIMES * exact[:-1]).astype(np.float32), sigmas, correct, advance)


def _log_snr(sigma: float) -> float:
    """lambda = log(alpha / sigma) of the flow path, alpha = 1 - sigma."""
    with np.errstate(divide="ignore"):
        return np.log1p(-sigma) - np.log(sigma)


def _exponential(sigmas, i: int) -> tuple[float, float, float, float]:
    """h = the step i -> i+1 in lambda, and the weights of the exact solution for a constant guess: x_next = x * kept + guess * pull."""
    h = _log_snr(sigmas[i + 1]) - _log_snr(sigmas[i])
    b = np.expm1(-h)
    return h, b, sigmas[i + 1] / sigmas[i], -(1 - sigmas[i + 1]) * b


def _predict(sigmas, i: int, order: int) -> tuple[float, float, float]:
    """UniP: weights of (x, guess at i, guess at i-1) for the step i -> i+1. B2(h) makes the second order's inner weight 1/2."""
    h, _, kept, pull = _exponential(sigmas, i)
    if order == 1:
        return kept, pull, 0.0
    slope = 0.5 * pull / ((_log_snr(sigmas[i - 1]) - _log_snr(sigmas[i])) / h)
    return kept, pull - slope, slope


def _correct(sigmas, i: int, order: int) -> tuple[float, float, float, float]:
    """UniC: weights of (x at i-1, guess at i, at i-1, at i-2) for the step i-1 -> i, seen again with the guess at i."""
    h, b, kept, pull = _exponential(sigmas, i - 1)
    if order == 1:
        return kept, 0.5 * pull, 0.5 * pull, 0.0
    r = (_log_snr(sigmas[i - 2]) - _log_snr(sigmas[i - 1])) / h
    # UniPC's order conditions R rho = (phi_2, 2 phi_3) / B, with -h for h as data prediction asks.
    phi_2 = b / -h - 1
    phi_3 = phi_2 / -h - 0.5
    inner, outer = np.linalg.solve([[1.0, 1.0], [r, 1.0]], [phi_2 / b, 2 * phi_3 / b]) * pull
    return kept, outer, pull - outer - inner / r, inner / r
