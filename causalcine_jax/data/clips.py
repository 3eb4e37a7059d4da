"""Clips of StoryWorld for training a VAE: drawn while training, never stored, never repeated.

(seed, index) -> a story -> a stretch of its frames or a crop of it -> display lists (host)
    -> pixels (device)
"""

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.clock import TEMPORAL_STRIDE
from causalcine_jax.models.vae.video import to_model_range
from causalcine_jax.storyworld import WorldConfig, render, sample_story, scene_parameters
from causalcine_jax.storyworld.render import FIELDS
from causalcine_jax.utils.arrays import AnyArray

EPOCH = 10**9  # clips; no run gets to the end


class Clips:
    """Clips of story `index` of the collection `seed`: a random-access source for grain.

    An element is float32 display lists [clips, frames, shapes, fields].
    A clip starts at the last video frame of one of the film's latent frames.
    Its latent frames and the cuts between them are then the film's.

    cuts           fraction of clips sure to have a cut after their first latent frame; the
                   others have one by chance
    height, width  pixels of the clip. If smaller than the film, half of the clips show a
                   character and half any part of the frame
    per_story      clips per story, because laying out a film costs as much as painting some
                   seconds of it
    """

    def __init__(
        self,
        world: WorldConfig,
        seed: int,
        frames: int,
        *,
        cuts: float = 0.0,
        height: int = 0,
        width: int = 0,
        per_story: int = 1,
    ):
        self.world, self.seed, self.frames = world, seed, frames
        self.cuts, self.per_story = cuts, per_story
        self.height, self.width = height or world.height, width or world.width

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, index: int) -> np.ndarray:
        story = sample_story(self.seed, index, self.world)
        scene = scene_parameters(story)
        rng = np.random.default_rng((self.seed, index))
        cuts = [shot.frames.start for shot in story.shots[1:]]
        return np.stack([self._clip(rng, scene, cuts) for _ in range(self.per_story)])

    def _clip(
        self, rng: np.random.Generator, scene: dict[str, np.ndarray], cuts: list[int]
    ) -> np.ndarray:
        first = self._first_frame(rng, cuts, len(scene["shapes"]))
        clip = slice(first, first + self.frames)
        shapes = scene["shapes"][clip]
        if (self.height, self.width) == (self.world.height, self.world.width):
            return shapes
        top, left = self._corner(rng, scene["figure"][clip])
        return crop(shapes, top, left, self.world.height, self.height)

    def _first_frame(self, rng: np.random.Generator, cuts: list[int], total: int) -> int:
        """Returns a clip's first frame: the last video frame of a latent frame.

        With probability `cuts`, a cut follows it inside the clip, if the film has such a clip.
        """
        starts = np.arange(0, total - self.frames + 1, TEMPORAL_STRIDE)
        if rng.random() < self.cuts:
            holding = [
                start for start in starts if any(start < cut < start + self.frames for cut in cuts)
            ]
            starts = np.array(holding) if holding else starts
        return int(starts[rng.integers(len(starts))])

    def _corner(self, rng: np.random.Generator, figures: np.ndarray) -> tuple[int, int]:
        """Returns the top and left pixel of a crop.

        `figures` are the clip's boxes [frames, places, 4] in frame heights.
        """
        sizes = np.array([self.height, self.width])
        room = np.array([self.world.height, self.world.width]) - sizes
        corner = rng.integers(room + 1)
        box = figures[rng.integers(len(figures)), rng.integers(figures.shape[1])]
        if rng.random() < 0.5 and np.any(box):
            # Row and column, in pixels, of a point of the character.
            inside = rng.uniform(box[:2], box[2:])[::-1] * self.world.height
            corner = np.clip(np.round(inside - sizes / 2), 0, room)
        return int(corner[0]), int(corner[1])


def crop(
    shapes: Float[np.ndarray, "t k fields"], top: int, left: int, rows: int, kept: int
) -> Float[np.ndarray, "t k fields"]:
    """Crops display lists of a film of `rows` rows to a canvas of `kept` rows.

    `top` and `left` are the crop's first pixel in the film.
    """
    shapes, zoom = shapes.copy(), rows / kept
    shapes[..., FIELDS.index("x")] -= left / rows
    shapes[..., FIELDS.index("y")] -= top / rows
    shapes[
        ..., [FIELDS.index(name) for name in ("x", "y", "rx", "ry", "bend", "soft", "outline")]
    ] *= zoom
    return shapes


def clip_batches(
    clips: Clips,
    batch: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
) -> grain.DatasetIterator:
    """Returns endless batches [B, frames, shapes, fields]: this process's part of each.

    orbax can save the iterator's position.

    Args:
      clips: the source, which has them in order of their numbers.
      batch: clips per batch of this process.
      process_index, process_count: this process's part of every batch.
      workers: processes that make clips ahead; 0 makes them in two threads of this process.
    """
    stories = grain.MapDataset.source(clips).batch(batch // clips.per_story)
    stories = stories[process_index::process_count]
    source = stories.map(np.concatenate)
    options = grain.ReadOptions(
        num_threads=0 if workers else 2, prefetch_buffer_size=0 if workers else 4
    )
    dataset = source.to_iter_dataset(options)
    if workers:
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4)
        )
    return iter(dataset)


def paint(
    shapes: Float[AnyArray, "b t k fields"], height: int, width: int
) -> Float[Array, "b t height width 3"]:
    """Renders display lists to video in [-1, 1]; runs on the device, inside jit."""
    video = jax.vmap(lambda shapes: render({"shapes": shapes}, height, width, jnp))(shapes)
    return to_model_range(video)
