"""Writes tests/goldens/solvers.npz: trajectories of Diffusers' schedulers.

`make test` compares ours to them without torch. The "network" is `velocity` below: smooth,
nonlinear, dependent on t, and cheap. Run with the extra `parity` installed:

    PYTHONPATH=tests/support python tests/parity/make_solver_goldens.py
"""

import numpy as np
from repository import GOLDENS

GOLDENS_FILE = GOLDENS / "solvers.npz"
CASES = [("unipc", steps, shift) for steps in (1, 2, 3, 8, 50) for shift in (1.0, 3.0, 5.0)]
CASES += [("euler", steps, shift) for steps in (1, 4, 50) for shift in (1.0, 5.0)]


def velocity(x, t, xp):
    """A velocity field that pulls x toward sin(3x) with a strength that depends on t.

    `xp` is any array module with sin and tanh.
    """
    return x - 0.7 * xp.sin(3 * x) + xp.tanh(x * (t / 1000))


def start() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)


def scheduler(solver: str, steps: int, shift: float):
    """Diffusers' scheduler on the schedule of Wan2.1 (unipc) or of its causal forks (euler)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    if solver == "unipc":
        made = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
        # Newer Diffusers has another default schedule. This one is Wan2.1's own
        # (wan/utils/fm_solvers_unipc.py).
        made.set_timesteps(sigmas=np.linspace(float(np.float32(0.999)), 0, steps + 1)[:-1])
        return made
    made = FlowMatchEulerDiscreteScheduler(shift=shift)
    made.set_timesteps(sigmas=list(np.linspace(1, 0, steps + 1)[:-1]))
    return made


def integrate(solver: str, steps: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """(the t of each network call, the sample) of Diffusers' solver on `velocity`."""
    import torch

    made = scheduler(solver, steps, shift)
    x = torch.from_numpy(start())
    for t in made.timesteps:
        x = made.step(velocity(x, t.to(torch.float32), torch), t, x).prev_sample
    return made.timesteps.numpy().astype(np.float32), x.numpy()


def main():
    arrays = {}
    for solver, steps, shift in CASES:
        name = f"{solver}-{steps}-{shift:g}"
        arrays[f"{name}.times"], arrays[f"{name}.x0"] = integrate(solver, steps, shift)
    GOLDENS_FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDENS_FILE, **arrays)


if __name__ == "__main__":
    main()
