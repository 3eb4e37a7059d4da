"""Clips of StoryWorld for training a VAE: drawn while training, never stored, never twice the same.

(seed, index) -> a story -> a stretch of frames that begins anywhere in it -> what the renderer needs (host) -> pixels (device)
"""

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.data.storyworld import WorldConfig, render, sample_story, scene_parameters

EPOCH = 10**9  # clips; more than anyone trains on


class Clips:
    """Clip `index` of the collection `seed`: display lists float32 [frames, shapes, fields]. A random-access source for grain."""

    def __init__(self, world: WorldConfig, seed: int, frames: int):
        self.world, self.seed, self.frames = world, seed, frames

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, index: int) -> np.ndarray:
        story = sample_story(self.seed, index, self.world)
        shapes = scene_parameters(story)["shapes"]
        first = np.random.default_rng((self.seed, index)).integers(len(shapes) - self.frames + 1)
        return shapes[first : first + self.frames]


def clip_batches(
    clips: Clips, batch: int, *, seed: int, process_index: int = 0, process_count: int = 1, workers: int = 0
) -> grain.DatasetIterator:
    """Endless batches [B, frames, shapes, fields], this process's part of those of all; an iterator whose position orbax can save.

    workers: processes that make clips ahead; 0 makes them in two threads of this one.
    """
    source = grain.MapDataset.source(clips).seed(seed).batch(batch)[process_index::process_count]
    options = grain.ReadOptions(num_threads=0 if workers else 2, prefetch_buffer_size=0 if workers else 4)
    dataset = source.to_iter_dataset(options)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4))
    return iter(dataset)


def paint(shapes: Float[Array, "b t k fields"], height: int, width: int) -> Float[Array, "b t height width 3"]:
    """Display lists to video in [-1,1]; runs on the device, inside jit."""
    video = jax.vmap(lambda shapes: render({"shapes": shapes}, height, width, jnp))(shapes)
    return video.astype(jnp.float32) / 127.5 - 1
