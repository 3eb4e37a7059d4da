"""Trains the judge on rendered true films and writes its weights.

    python -m experiments.judge.training [--out FILE.safetensors]

Clips of true films are blurred, ghosted, tinted and made noisy, as a small VAE and a small
diffusion model distort them. Training uses no generated frame and no film of the evaluation,
which has another seed. It takes about 40 minutes of one CPU core.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from safetensors.numpy import save_file

from causalcine_jax.evaluation.storyworld import judge
from causalcine_jax.evaluation.storyworld.judge import GRID, OF_CHARACTER, OF_FRAME, SPECIES
from causalcine_jax.utils.atomic_file import atomic_file
from causalcine_jax.utils.progress import progress_bar
from experiments.judge.clips import mirrored, sample_clips, with_nonsense

RATE = 0.02  # of Muon at its peak


def degrade(key: Array, frames: Float[Array, "n t h w 3"]) -> Float[Array, "n t h w 3"]:
    """Distorts clips (values 0..1), each by its own amount.

    Adds a ghost, blur of luma, more blur of chroma, tint and grain.
    """
    n = frames.shape[0]
    keys = iter(jax.random.split(key, 10))
    uniform = lambda low, high, *shape: jax.random.uniform(
        next(keys), (n, 1, 1, 1, *(shape or (1,))), frames.dtype, low, high
    )
    ghost = jnp.maximum(uniform(-0.3, 0.3), 0)
    x = (1 - ghost) * frames + ghost * jnp.roll(frames, 1, axis=1)
    sharpness = jnp.maximum(uniform(-1.0, 1.3), 0)
    grey = _blur(x.mean(axis=-1, keepdims=True), sharpness)
    x = grey + _blur(
        x - x.mean(axis=-1, keepdims=True), sharpness + jnp.maximum(uniform(-0.8, 1.2), 0)
    )
    x = 0.5 + (x - 0.5) * uniform(0.85, 1.1) + uniform(-0.04, 0.04, 3)
    coarse = jax.random.normal(next(keys), (*x.shape[:2], x.shape[2] // 4, x.shape[3] // 4, 3))
    x = x + uniform(0, 0.05) * jnp.repeat(jnp.repeat(coarse, 4, axis=2), 4, axis=3)
    return jnp.clip(x + uniform(0, 0.05) * jax.random.normal(next(keys), x.shape), 0, 1)


def _blur(x: Array, sigma: Array) -> Array:
    """Blurs rows and columns by a Gaussian of 7 taps, with a sigma in pixels per clip.

    A sigma of 0 changes nothing.
    """
    offsets = np.arange(-3, 4)
    for axis in (2, 3):
        taps = [jnp.exp(-0.5 * (o / jnp.maximum(sigma, 1e-2)) ** 2) for o in offsets]
        total = sum(taps)
        pad = [(3, 3) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = jnp.pad(x, pad, mode="edge")
        parts = [
            tap / total * jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis)
            for i, tap in enumerate(taps)
        ]
        x = sum(parts, start=jnp.zeros_like(x))
    return x


def loss(params: judge.Params, frames: Float[Array, "n t h w 3"], truth: dict[str, Array]) -> Array:
    """Sums the cross-entropies of everything that the judge answers.

    Answers about a character come from the likeliest cell around its head, as at inference.
    """
    n, t = frames.shape[:2]
    seen = judge.look(params, frames.reshape(n * t, *frames.shape[2:]))
    head = truth["head"].reshape(n * t, -1)
    cell = _attended(seen["figure"], head)
    there = lambda values: jnp.take_along_axis(values, cell[..., None], axis=1)
    per_frame = {name: jnp.repeat(truth[name], t, axis=0) for name in (*OF_CHARACTER, *OF_FRAME)}
    per_frame["species"] = jnp.where(head >= 0, jnp.arange(len(SPECIES)), -1)

    total = _figure_loss(seen["figure"], head)
    total += sum(_masked(there(seen[name]), per_frame[name]) for name in ("species", *OF_CHARACTER))
    total += 0.3 * sum(_masked(seen[name], per_frame[name]) for name in OF_FRAME)
    motion = there(seen["motion"])
    held = truth["pose"].reshape(*head.shape, -1)
    # The first motion features are the pose: a target per frame teaches actions faster than one
    # class per clip.
    error = jnp.square(motion[..., : held.shape[-1]] - held).mean(axis=-1)
    total += jnp.sum(error * (head >= 0)) / jnp.maximum(jnp.sum(head >= 0), 1)
    clips = jnp.concatenate([motion, jnp.asarray(judge.CELL_CENTRES, jnp.float32)[cell]], axis=-1)
    clips = clips.reshape(n, t, len(SPECIES), -1).swapaxes(1, 2)
    return total + _masked(judge.act(params, clips), truth["action"])


def _attended(
    figure: Float[Array, "n cells"], head: Int[Array, "n species"]
) -> Int[Array, "n species"]:
    """Returns the likeliest cell around each head, or any cell for an absent head."""
    return jnp.where(_around(head), jax.lax.stop_gradient(figure)[:, None], -jnp.inf).argmax(
        axis=-1
    )


def _figure_loss(figure: Float[Array, "n cells"], head: Int[Array, "n species"]) -> Array:
    """Cross-entropy per head of the map, which is 1 in cells of heads alone.

    Cells around a head are left out.
    """
    target = (np.arange(figure.shape[1]) == head[..., None]).any(axis=1)
    weight = jnp.where(target, 1.0, jnp.where(_around(head).any(axis=1), 0.0, 0.3))
    return jnp.sum(
        weight * optax.sigmoid_binary_cross_entropy(figure, target.astype(jnp.float32))
    ) / jnp.maximum(jnp.sum(target), 1)


def _around(head: Int[Array, "n species"]) -> Bool[Array, "n species cells"]:
    """Marks each head's cell and its neighbours; none for an absent head."""
    row, column = np.divmod(np.arange(GRID[0] * GRID[1]), GRID[1])
    near = (np.abs(row[:, None] - row) <= 1) & (np.abs(column[:, None] - column) <= 1)
    return jnp.asarray(near)[jnp.maximum(head, 0)] & (head >= 0)[..., None]


def _masked(logits: Array, labels: Array) -> Array:
    """Averages the cross-entropy over the labels that are not -1."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(each * (labels >= 0)) / jnp.maximum(jnp.sum(labels >= 0), 1)


def train(clips: dict[str, np.ndarray], steps: int, batch: int) -> judge.Params:
    """Trains the judge for `steps` of Muon and Adam, with a warm-up and a cosine schedule."""
    params = judge.init_params(jax.random.key(0))
    decay = lambda peak: optax.warmup_cosine_decay_schedule(
        0.0, peak, steps // 20, steps, peak / 100
    )
    # Muon's orthogonalised updates of the convolutions learn in a third of Adam's steps here.
    convolution = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    kinds = {name: convolution if value.ndim == 4 else None for name, value in params.items()}
    optimizer = optax.contrib.muon(
        decay(RATE), adam_learning_rate=decay(RATE / 8), muon_weight_dimension_numbers=kinds
    )

    @jax.jit
    def step(params, state, key, frames, truth):
        frames = degrade(key, frames.astype(jnp.float32) / 255)
        value, gradient = jax.value_and_grad(loss)(params, frames, truth)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, rng, key = optimizer.init(params), np.random.default_rng(0), jax.random.key(1)
    progress = progress_bar(steps, "step", "train the judge", over=range(steps))
    order = np.concatenate(
        [
            rng.permutation(len(clips["frames"]))
            for _ in range(1 + steps * batch // len(clips["frames"]))
        ]
    )
    for i in progress:
        rows = order[i * batch : (i + 1) * batch]
        taken = {name: values[rows] for name, values in clips.items()}
        taken = with_nonsense(rng, mirrored(taken) if i % 2 else taken)
        params, state, value = step(
            params, state, jax.random.fold_in(key, i), taken.pop("frames"), taken
        )
        if i % 20 == 0:
            progress.set_postfix(loss=f"{float(value):.3f}")
    return params


def save(params: judge.Params, path: Path, facts: dict[str, str]) -> None:
    """Writes the weights as float16."""
    with atomic_file(path) as partial:
        save_file(
            {name: np.asarray(value, np.float16) for name, value in params.items()},
            partial,
            metadata=facts,
        )
        partial.chmod(0o644)  # because save_file makes the file private


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=judge.WEIGHTS)
    parser.add_argument("--clips", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--batch", type=int, default=8)
    flags = parser.parse_args()
    params = train(sample_clips(flags.clips), flags.steps, flags.batch)
    command = (
        "python -m experiments.judge.training "
        f"--clips {flags.clips} --steps {flags.steps} --batch {flags.batch}"
    )
    save(params, flags.out, {"command": command, "jax": jax.__version__})
    print(f"wrote {flags.out} ({flags.out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
