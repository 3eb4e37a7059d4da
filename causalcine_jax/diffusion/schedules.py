"""Every solver as one table of numbers, computed once in float64 numpy.

At step i the network sees (x, t_i) and predicts a velocity v, so x0_pred = x - sigma_i v. Euler,
UniPC and few-step renoising all form the next x as a weighted sum of a few tensors: x, the x0_pred
of this and of earlier steps, the previous x, and fresh noise. The weights depend only on the
schedule; `solvers.sample` scans over them.

Sources: UniPC (arXiv 2302.04867) with the settings of Wan2.1's FlowUniPCMultistepScheduler (order
2, B2(h), data prediction, lower order at the end); few-step renoising as in Self-Forcing's rollout.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from causalcine_jax.diffusion.flow import TRAIN_TIMES, shifted

# The tensors that a step adds up, in the order of a table's columns. The suffixes _1 and _2 mean
# one and two steps earlier.
CORRECT_TERMS = ("x", "x_1", "x0_pred", "x0_pred_1", "x0_pred_2")
ADVANCE_TERMS = ("x", "x0_pred", "x0_pred_1", "noise")


class Schedule(NamedTuple):
    """A solver's table, one row per step.

    times    t that the network sees, 0..1000, descending; float32
    sigmas   noise levels, the final 0 included; float64
    correct  weights of CORRECT_TERMS for the x that a step starts from
    advance  weights of ADVANCE_TERMS for the x that it ends at
    """

    times: Float[np.ndarray, " steps"]
    sigmas: Float[np.ndarray, " steps+1"]
    correct: Float[np.ndarray, "steps 5"]
    advance: Float[np.ndarray, "steps 4"]


def euler(steps: int, shift: float) -> Schedule:
    """x + (sigma_next - sigma) v, in terms of x0_pred: v = (x - x0_pred) / sigma.

    Args:
      shift: of the schedule toward noise.
    """
    sigmas = shifted(np.linspace(1.0, 0.0, steps + 1), shift)
    correct, advance = _tables(steps)
    ratio = sigmas[1:] / sigmas[:-1]
    advance[:, ADVANCE_TERMS.index("x")] = ratio
    advance[:, ADVANCE_TERMS.index("x0_pred")] = 1 - ratio
    return Schedule((TRAIN_TIMES * sigmas[:-1]).astype(np.float32), sigmas, correct, advance)


def few_step(steps: int, shift: float, step_list: tuple[float, ...] | None) -> Schedule:
    """x0_pred, renoised with fresh noise to the next time (consistency sampling).

    Args:
      step_list: the exact times, in place of those that `shift` gives.
    """
    if step_list is None:
        sigmas = shifted(np.linspace(1.0, 0.0, steps + 1), shift)
        times = TRAIN_TIMES * sigmas[:-1]
    else:
        sigmas = np.array([*(_trained_sigma(t, shift) for t in step_list), 0.0])
        times = np.array(step_list)
    correct, advance = _tables(steps)
    advance[:, ADVANCE_TERMS.index("x0_pred")] = 1 - sigmas[1:]
    advance[:, ADVANCE_TERMS.index("noise")] = sigmas[1:]
    return Schedule(times.astype(np.float32), sigmas, correct, advance)


def unipc(steps: int, shift: float) -> Schedule:
    """UniPC as Wan2.1 runs it.

    Three details are Wan2.1's. The network sees t truncated to an integer, while the solver uses
    the exact sigma. sigma_max is float32(1 - 1/1000). Sigmas are rounded to float32. The rounding
    matters: 1 - sigma has few digits at the first steps, and 999 must not truncate to 998.
    """
    uniform = np.linspace(float(np.float32(1 - 1 / TRAIN_TIMES)), 0.0, steps + 1)
    exact = shifted(uniform, shift)
    sigmas = exact.astype(np.float32).astype(np.float64)
    correct, advance = _tables(steps)
    for i in range(steps):
        order = min(2, i + 1, steps - i)
        advance[i] = *_predict(sigmas, i, order), 0.0
        if i:
            # x0_pred at i also corrects the step that led to i: x is recomputed from x at i-1.
            correct[i] = 0.0, *_correct(sigmas, i, order=min(2, i, steps - i + 1))
    return Schedule(np.trunc(TRAIN_TIMES * exact[:-1]).astype(np.float32), sigmas, correct, advance)


def _tables(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A correction that keeps x, and an all-zero advance for the caller to fill in."""
    correct, advance = np.zeros((steps, len(CORRECT_TERMS))), np.zeros((steps, len(ADVANCE_TERMS)))
    correct[:, CORRECT_TERMS.index("x")] = 1
    return correct, advance


def _trained_sigma(t: float, shift: float) -> float:
    """The sigma of the training time nearest to t: t / 1000 for times on the training grid.

    Source: Self-Forcing `utils/scheduler.py`.
    """
    trained = shifted(np.linspace(1.0, 0.0, TRAIN_TIMES + 1)[:-1], shift)
    return float(trained[np.argmin(np.abs(TRAIN_TIMES * trained - t))])


def _log_snr(sigma: float) -> float:
    """lambda = log(alpha / sigma) of the flow path, alpha = 1 - sigma."""
    with np.errstate(divide="ignore"):
        return np.log1p(-sigma) - np.log(sigma)


def _exponential(sigmas, i: int) -> tuple[float, float, float, float]:
    """(h, expm1(-h), kept, pull) of the step i -> i+1, where h is its length in lambda.

    For a constant x0_pred the exact solution is x_next = kept * x + pull * x0_pred.
    """
    h = _log_snr(sigmas[i + 1]) - _log_snr(sigmas[i])
    b = np.expm1(-h)
    return h, b, sigmas[i + 1] / sigmas[i], -(1 - sigmas[i + 1]) * b


def _predict(sigmas, i: int, order: int) -> tuple[float, float, float]:
    """UniP: weights of (x, x0_pred at i, x0_pred at i-1) for the step i -> i+1.

    With B2(h) the inner weight of the second order is 1/2.
    """
    h, _, kept, pull = _exponential(sigmas, i)
    if order == 1:
        return kept, pull, 0.0
    slope = 0.5 * pull / ((_log_snr(sigmas[i - 1]) - _log_snr(sigmas[i])) / h)
    return kept, pull - slope, slope


def _correct(sigmas, i: int, order: int) -> tuple[float, float, float, float]:
    """UniC: the step i-1 -> i again, now that x0_pred at i is known.

    Returns the weights of (x at i-1, x0_pred at i, at i-1, at i-2).
    """
    h, b, kept, pull = _exponential(sigmas, i - 1)
    if order == 1:
        return kept, 0.5 * pull, 0.5 * pull, 0.0
    r = (_log_snr(sigmas[i - 2]) - _log_snr(sigmas[i - 1])) / h
    # UniPC's order conditions R rho = (phi_2, 2 phi_3) / B; data prediction replaces h by -h.
    phi_2 = b / -h - 1
    phi_3 = phi_2 / -h - 0.5
    inner, outer = np.linalg.solve([[1.0, 1.0], [r, 1.0]], [phi_2 / b, 2 * phi_3 / b]) * pull
    return kept, outer, pull - outer - inner / r, inner / r
