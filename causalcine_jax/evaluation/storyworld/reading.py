"""Reads films with the judge, and answers the metrics' questions about them.

video uint8 -> Judge.read -> Reading (probabilities per frame)
    -> of_character / of_scene over the frames of a shot -> class names
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import log_softmax

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.evaluation.storyworld import judge
from causalcine_jax.evaluation.storyworld.judge import (
    CLASSES,
    CLIP_SPAN,
    CLIP_STRIDE,
    HEIGHT,
    OF_CHARACTER,
    OF_FRAME,
    WIDTH,
)
from causalcine_jax.storyworld import SPECIES, WorldShot, WorldStory
from causalcine_jax.utils.arrays import AnyArray

BLOCK = 64  # frames or clips read at once, so that one size compiles
FOUND = 0.5  # mean probability from which on a character counts as found


@dataclass(frozen=True)
class Reading:
    """The judge's probabilities per frame and per cell of its map; `motion` is for judge.act."""

    figure: Float[np.ndarray, "t cells"]
    species: Float[np.ndarray, "t cells _"]
    colour: Float[np.ndarray, "t cells _"]
    accessory: Float[np.ndarray, "t cells _"]
    motion: Float[np.ndarray, "t cells _"]
    place: Float[np.ndarray, "t _"]
    time: Float[np.ndarray, "t _"]
    size: Float[np.ndarray, "t _"]

    def frames(self, frames: range) -> "Reading":
        """Returns the reading of some of its frames."""
        return Reading(
            **{name: values[frames.start : frames.stop] for name, values in vars(self).items()}
        )


@dataclass(frozen=True)
class Sought:
    """Which character to look for in a shot.

    `species` is its species and `others` are those of the rest of the cast; None: any character.
    """

    species: str | None = None
    others: tuple[str, ...] = ()

    def cells(self, reading: Reading) -> Float[np.ndarray, "t cells"]:
        """Returns the probability that its head is in each cell."""
        if self.species is None:
            return reading.figure
        share = lambda name: reading.species[:, :, SPECIES.index(name)]
        return (
            reading.figure
            * share(self.species)
            / (sum(map(share, (self.species, *self.others))) + 1e-6)
        )


ANYBODY = Sought()


def sought(story: WorldStory, shot: WorldShot, who: int) -> Sought:
    """Returns how to look for character `who`.

    By species if it shares the shot; if it is alone, any character is taken for it.
    """
    if len(shot.cast) == 1:
        return ANYBODY
    return Sought(
        story.cast[who].species,
        tuple(story.cast[other].species for other in shot.cast if other != who),
    )


@dataclass(frozen=True)
class CharacterReading:
    """One character in some frames.

    `consistency`: fraction of the frames that show the same colour and accessory.
    """

    species: str
    colour: str
    accessory: str
    confidence: float
    consistency: float


@dataclass(frozen=True)
class Judge:
    """The trained network. Reads films of 80x48 pixels or any whole multiple."""

    params: judge.Params

    @classmethod
    def load(cls, path: Path = judge.WEIGHTS) -> "Judge":
        """Reads the weights that experiments/judge wrote.

        Raises:
          DataError: they are missing or belong to another network.
        """
        try:
            params = {
                name: jax.device_put(np.asarray(value, np.float32))
                for name, value in load_file(path).items()
            }
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"cannot read the judge's weights at {path} ({error}): install causalcine_jax "
                "again, or train the judge in a checkout by python -m experiments.judge.training"
            ) from error
        wanted = jax.eval_shape(judge.init_params, jax.random.key(0))
        if {k: v.shape for k, v in params.items()} != {k: v.shape for k, v in wanted.items()}:
            raise DataError(
                f"{path} holds another judge than this code's; "
                "train it again in a checkout by python -m experiments.judge.training"
            )
        return cls(params)

    def read(self, video: UInt8[np.ndarray, "t h w 3"]) -> Reading:
        """Reads every frame."""
        video = shrink_to_judge(video)
        padded = _whole_blocks(video)
        blocks = [
            jax.device_get(_probabilities(self.params, padded[i : i + BLOCK]))
            for i in range(0, len(padded), BLOCK)
        ]
        return Reading(
            **{
                name: np.concatenate([block[name] for block in blocks])[: len(video)]
                for name in blocks[0]
            }
        )

    def action(self, reading: Reading, who: Sought = ANYBODY) -> str | None:
        """Returns the character's action in the reading's frames, which must be of one shot.

        None if the frames are too few.
        """
        starts = np.arange(0, len(reading.motion) - CLIP_SPAN + 1, 2)
        if not starts.size:
            return None
        cell = who.cells(reading).argmax(axis=1)
        motion = np.concatenate([_at(reading.motion, cell), judge.CELL_CENTRES[cell]], axis=-1)
        clips = motion[starts[:, None] + np.arange(0, CLIP_SPAN, CLIP_STRIDE)]
        padded = _whole_blocks(clips.astype(np.float32))
        logits = np.asarray(_logits(self.params, padded))[: len(clips)]
        return CLASSES["action"][int(log_softmax(logits, axis=-1).mean(axis=0).argmax())]


def of_character(reading: Reading, who: Sought = ANYBODY) -> CharacterReading | None:
    """Returns the character seen in the reading's frames, or None if it is not found.

    Each frame's weight is the character's visibility in it.
    """
    cells = who.cells(reading)
    visible, cell = cells.max(axis=1), cells.argmax(axis=1)
    if visible.mean() < FOUND:
        return None
    seen = {name: _at(getattr(reading, name), cell) for name in ("species", *OF_CHARACTER)}
    best = {name: int((visible @ probability).argmax()) for name, probability in seen.items()}
    same = visible >= FOUND
    for name in OF_CHARACTER:
        same &= seen[name].argmax(axis=1) == best[name]
    names = {name: CLASSES[name][index] for name, index in best.items()}
    return CharacterReading(
        **names, confidence=float(visible.mean()), consistency=float(same.mean())
    )


def _at(
    values: Float[np.ndarray, "t cells c"], cell: Int[np.ndarray, " t"]
) -> Float[np.ndarray, "t c"]:
    return values[np.arange(len(cell)), cell]


def of_scene(reading: Reading) -> dict[str, str]:
    """Returns place, time and size by mean probability over the reading's frames."""
    return {
        name: CLASSES[name][int(getattr(reading, name).mean(axis=0).argmax())] for name in OF_FRAME
    }


def shrink_to_judge(video: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t 48 80 3"]:
    """Returns area means over whole pixels.

    Raises:
      UsageError: 80x48 does not divide the frame.
    """
    _, height, width, _ = video.shape
    if height % HEIGHT or width * HEIGHT != height * WIDTH:
        raise UsageError(
            f"the judge reads films of {WIDTH}x{HEIGHT} or a whole multiple, not {width}x{height}"
        )
    factor = height // HEIGHT
    if factor == 1:
        return video
    cells = video.reshape(len(video), HEIGHT, factor, WIDTH, factor, 3)
    return (cells.mean(axis=(2, 4), dtype=np.float32) + 0.5).astype(np.uint8)


def _whole_blocks(rows: np.ndarray) -> np.ndarray:
    """The rows, and copies of the last one up to a multiple of BLOCK."""
    return np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % BLOCK, axis=0)])


_logits = jax.jit(judge.act)


@jax.jit
def _probabilities(params: judge.Params, frames: UInt8[AnyArray, "n 48 80 3"]):
    seen = judge.look(params, jnp.asarray(frames, jnp.float32) / 255)
    kept = {"figure": jax.nn.sigmoid(seen["figure"]), "motion": seen["motion"]}
    return kept | {
        name: jax.nn.softmax(seen[name]) for name in ("species", *OF_CHARACTER, *OF_FRAME)
    }
