"""Trains the judge on rendered true films and writes its weights.

    python -m causalcine_jax.evaluation.judge_training --out causalcine_jax/evaluation/weights/judge.safetensors

Clips of true films are blurred, ghosted, tinted and made noisy the way a small VAE and a small diffusion model distort them. No
generated frame and no film of the evaluation (another seed) is ever seen. About three minutes of one CPU core.
"""

import argparse
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from safetensors.numpy import save_file
from tqdm import tqdm

from causalcine_jax.data.storyworld import render, sample_story, scene_parameters
from causalcine_jax.data.storyworld.world import WorldConfig
from causalcine_jax.evaluation import judge
from causalcine_jax.evaluation.judge import ACTIONS, CLASSES, CLIP_FRAMES, CLIP_SPAN, CLIP_STRIDE, GRID, OF_CHARACTER, OF_FRAME, SPECIES

TRAINING_SEED = 90_210  # of the judge's own stories; the evaluation refuses it


def sample_clips(clips: int, seed: int = TRAINING_SEED, first_story: int = 0) -> dict[str, np.ndarray]:
    """Clips of CLIP_FRAMES frames from the shots of the base world's stories, with what they show.

    Returns frames uint8 [n, CLIP_FRAMES, 48, 80, 3], place, time, size int32 [n], colour, accessory, action int32 [n, species],
    -1 where the species is not in the shot, and head int32 [n, CLIP_FRAMES, species], the cell that holds its head, else -1.
    """
    world, rng = WorldConfig.base(), np.random.default_rng([seed, first_story])
    shapes, truth, index = [], {name: [] for name in (*CLASSES, "head")}, first_story
    while len(shapes) < clips:
        story = sample_story(seed, index, world)
        drawn = scene_parameters(story)
        index += 1
        for shot in story.shots:
            for _ in range(min(3, shot.chunks) if len(shot.frames) >= CLIP_SPAN else 0):
                start = shot.frames.start + int(rng.integers(len(shot.frames) - CLIP_SPAN + 1))
                looks = slice(start, start + CLIP_SPAN, CLIP_STRIDE)
                shapes.append(drawn["shapes"][looks])
                for name, labels in shot_labels(story, shot).items():
                    truth[name].append(labels)
                truth["head"].append(head_cells(story, shot, drawn["head"][looks]))
    shapes = np.concatenate(shapes[:clips])
    paint = jax.jit(functools.partial(render, height=judge.HEIGHT, width=judge.WIDTH, xp=jnp))
    block = 32 * CLIP_FRAMES
    padded = np.concatenate([shapes, np.repeat(shapes[-1:], -len(shapes) % block, axis=0)])
    blocks = [np.asarray(paint({"shapes": padded[i : i + block]})) for i in tqdm(range(0, len(padded), block), desc="render", unit="block")]
    frames = np.concatenate(blocks)[: len(shapes)]
    return {"frames": frames.reshape(clips, CLIP_FRAMES, *frames.shape[1:])} | {
        k: np.asarray(v[:clips], np.int32) for k, v in truth.items()
    }


def shot_labels(story, shot) -> dict[str, np.ndarray | int]:
    """The classes that a shot shows, as indices into the world's tables; per species -1 where it is absent."""
    labels = {name: CLASSES[name].index(getattr(shot, name)) for name in OF_FRAME}
    for name in (*OF_CHARACTER, "action"):
        labels[name] = np.full(len(SPECIES), -1, np.int32)
    for who, action in zip(shot.cast, shot.actions, strict=True):
        character = story.cast[who]
        species = SPECIES.index(character.species)
        for name in OF_CHARACTER:
            labels[name][species] = CLASSES[name].index(getattr(character, name))
        labels["action"][species] = ACTIONS.index(action)
    return labels


def head_cells(story, shot, boxes: Float[np.ndarray, "t places 4"]) -> np.ndarray:
    """The cell of the judge's map that holds each species' head, int32 [t, species]; a head above the frame is in the top row."""
    cells = np.full((len(boxes), len(SPECIES)), -1, np.int32)
    for position, who in enumerate(shot.cast):
        x, y = boxes[:, position, [0, 2]].mean(axis=1), boxes[:, position, [1, 3]].mean(axis=1)
        row, column = (np.clip((v * GRID[0]).astype(int), 0, size - 1) for v, size in zip((y, x), GRID, strict=True))
        cells[:, SPECIES.index(story.cast[who].species)] = row * GRID[1] + column
    return cells


def degrade(key: Array, frames: Float[Array, "n t h w 3"]) -> Float[Array, "n t h w 3"]:
    """Distorts clips (values 0..1), each clip in its own measure: mirror, ghost, blur of luma and more of chroma, tint, grain."""
    n = frames.shape[0]
    keys = iter(jax.random.split(key, 10))
    uniform = lambda low, high, *shape: jax.random.uniform(next(keys), (n, 1, 1, 1, *(shape or (1,))), frames.dtype, low, high)
    x = jnp.where(uniform(0, 1) < 0.5, frames[:, :, :, ::-1], frames)
    ghost = jnp.maximum(uniform(-0.3, 0.3), 0)
    x = (1 - ghost) * x + ghost * jnp.roll(x, 1, axis=1)
    sharpness = jnp.maximum(uniform(-0.6, 1.5), 0)
    grey = _blur(x.mean(axis=-1, keepdims=True), sharpness)
    x = grey + _blur(x - x.mean(axis=-1, keepdims=True), sharpness + jnp.maximum(uniform(-0.5, 1.2), 0))
    x = 0.5 + (x - 0.5) * uniform(0.85, 1.1) + uniform(-0.04, 0.04, 3)
    coarse = jax.random.normal(next(keys), (*x.shape[:2], x.shape[2] // 4, x.shape[3] // 4, 3))
    x = x + uniform(0, 0.05) * jnp.repeat(jnp.repeat(coarse, 4, axis=2), 4, axis=3)
    return jnp.clip(x + uniform(0, 0.05) * jax.random.normal(next(keys), x.shape), 0, 1)


def _blur(x: Array, sigma: Array) -> Array:
    """Gaussian blur over rows and columns, 7 taps, with a sigma (pixels) per clip; 0 leaves x as it is."""
    offsets = np.arange(-3, 4)
    for axis in (2, 3):
        taps = [jnp.exp(-0.5 * (o / jnp.maximum(sigma, 1e-2)) ** 2) for o in offsets]
        total = sum(taps)
        pad = [(3, 3) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = jnp.pad(x, pad, mode="edge")
        x = sum(tap / total * jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i, tap in enumerate(taps))
    return x


def loss(params: judge.Params, frames: Float[Array, "n t h w 3"], truth: dict[str, Array]) -> Array:
    """Cross-entropies of everything the judge answers; what an absent species would look like is not asked."""
    n, t = frames.shape[:2]
    seen = judge.look(params, frames.reshape(n * t, *frames.shape[2:]))
    per_frame = {name: jnp.repeat(truth[name], t, axis=0) for name in (*OF_CHARACTER, *OF_FRAME)}
    total = _found(seen["where"], truth["head"].reshape(n * t, -1))
    total += sum(_masked(seen[name], per_frame[name]) for name in OF_CHARACTER)
    total += 0.3 * sum(_masked(seen[name], per_frame[name]) for name in OF_FRAME)
    return total + _masked(judge.act(params, seen["motion"].reshape(n, t, *seen["motion"].shape[1:])), truth["action"])


def _found(where: Float[Array, "n cells species"], head: Int[Array, "n species"]) -> Array:
    """Every species' map should light up in the cell of its head alone; the cells around it are not asked. Per head in the batch."""
    cell = np.arange(GRID[0] * GRID[1])
    near = (np.abs(cell[:, None] // GRID[1] - cell // GRID[1]) <= 1) & (np.abs(cell[:, None] % GRID[1] - cell % GRID[1]) <= 1)
    present = (head >= 0)[:, None]
    target = (cell[:, None] == head[:, None]).astype(jnp.float32)
    around = jnp.moveaxis(jnp.asarray(near)[jnp.maximum(head, 0)], -1, 1) & present
    weight = jnp.where(target > 0, 1.0, jnp.where(around, 0.0, 0.3))
    return jnp.sum(weight * optax.sigmoid_binary_cross_entropy(where, target)) / jnp.maximum(jnp.sum(target), 1)


def _masked(logits: Array, labels: Array) -> Array:
    """Mean cross-entropy over the labels that are not -1."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(each * (labels >= 0)) / jnp.maximum(jnp.sum(labels >= 0), 1)


def train(clips: dict[str, np.ndarray], steps: int, batch: int = 24, rate: float = 2e-3, seed: int = 0) -> judge.Params:
    """The judge after `steps` of AdamW with a warm-up and a cosine."""
    params = judge.init_params(jax.random.key(seed))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 12, steps, rate / 100)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2))

    @jax.jit
    def step(params, state, key, frames, truth):
        frames = degrade(key, frames.astype(jnp.float32) / 255)
        value, gradient = jax.value_and_grad(loss)(params, frames, truth)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, rng, key = optimizer.init(params), np.random.default_rng(seed), jax.random.key(seed + 1)
    progress = tqdm(range(steps), desc="train the judge", unit="step")
    order = np.concatenate([rng.permutation(len(clips["frames"])) for _ in range(1 + steps * batch // len(clips["frames"]))])
    for i in progress:
        rows = order[i * batch : (i + 1) * batch]
        truth = {name: labels[rows] for name, labels in clips.items() if name != "frames"}
        params, state, value = step(params, state, jax.random.fold_in(key, i), clips["frames"][rows], truth)
        if i % 20 == 0:
            progress.set_postfix(loss=f"{float(value):.3f}")
    return params


def save(params: judge.Params, path: Path, facts: dict[str, str]) -> None:
    """Writes the weights as float16 under a temporary name, then renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({name: np.asarray(value, np.float16) for name, value in params.items()}, partial, metadata=facts)
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=judge.WEIGHTS)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=24)
    flags = parser.parse_args()
    params = train(sample_clips(flags.clips), flags.steps, flags.batch)
    command = f"python -m causalcine_jax.evaluation.judge_training --clips {flags.clips} --steps {flags.steps} --batch {flags.batch}"
    save(params, flags.out, {"command": command, "jax": jax.__version__})
    print(f"wrote {flags.out} ({flags.out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
