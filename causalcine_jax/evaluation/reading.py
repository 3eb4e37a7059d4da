"""What the judge reads in a film, and the answers that the metrics ask of it.

video uint8 -> Judge.read -> Reading (probabilities per frame) -> of_character / of_scene over the frames of a shot -> class names
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file

from causalcine_jax.data.storyworld.world import SPECIES
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.evaluation import judge
from causalcine_jax.evaluation.judge import CLASSES, CLIP_SPAN, CLIP_STRIDE, HEIGHT, OF_CHARACTER, OF_FRAME, WIDTH

BLOCK = 64  # frames looked at together; one compilation
VISIBLE = 0.5  # mean probability from which a character counts as found


@dataclass(frozen=True)
class Reading:
    """The judge's probabilities for every frame of a film; `motion` is what it compares over time."""

    visible: Float[np.ndarray, "t species"]
    colour: Float[np.ndarray, "t species classes"]
    accessory: Float[np.ndarray, "t species classes"]
    place: Float[np.ndarray, "t classes"]
    time: Float[np.ndarray, "t classes"]
    size: Float[np.ndarray, "t classes"]
    motion: Float[np.ndarray, "t species features"]

    def frames(self, frames: range) -> "Reading":
        """The reading of some of its frames."""
        return Reading(**{name: values[frames.start : frames.stop] for name, values in vars(self).items()})


@dataclass(frozen=True)
class CharacterReading:
    """One character in some frames. `consistency`: share of the frames in which the same colour and accessory are seen."""

    species: str
    colour: str
    accessory: str
    confidence: float
    consistency: float


@dataclass(frozen=True)
class Judge:
    """The trained network; reads films of 48x80 or any whole multiple."""

    params: judge.Params

    @classmethod
    def load(cls, path: Path = judge.WEIGHTS) -> "Judge":
        """Reads the weights that judge_training.py wrote; `DataError` if they are missing or another network's."""
        try:
            params = {name: jnp.asarray(value, jnp.float32) for name, value in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot read the judge's weights at {path} ({error}); run causalcine_jax.evaluation.judge_training") from error
        wanted = jax.eval_shape(judge.init_params, jax.random.key(0))
        if {k: v.shape for k, v in params.items()} != {k: v.shape for k, v in wanted.items()}:
            raise DataError(f"{path} holds another judge than this code's; train it again by causalcine_jax.evaluation.judge_training")
        return cls(params)

    def read(self, video: UInt8[np.ndarray, "t h w 3"]) -> Reading:
        """Looks at every frame."""
        video = shrink_to_judge(video)
        padded = np.concatenate([video, np.repeat(video[-1:], -len(video) % BLOCK, axis=0)])
        blocks = [jax.device_get(_probabilities(self.params, padded[i : i + BLOCK])) for i in range(0, len(padded), BLOCK)]
        return Reading(**{name: np.concatenate([block[name] for block in blocks])[: len(video)] for name in blocks[0]})

    def action(self, reading: Reading, species: str) -> str | None:
        """What `species` does in the reading's frames, which must be of one shot; None where they are too few to tell."""
        starts = np.arange(0, len(reading.motion) - CLIP_SPAN + 1, 2)
        if not starts.size:
            return None
        looks = starts[:, None] + np.arange(0, CLIP_SPAN, CLIP_STRIDE)
        logits = np.asarray(judge.act(self.params, reading.motion[looks]))[:, SPECIES.index(species)]
        return CLASSES["action"][int(_mean_log_probability(logits).argmax())]


def of_character(reading: Reading, species: str | None = None) -> CharacterReading | None:
    """The character seen in the reading's frames: the one of `species`, or the most visible one. None where none is found.

    Frames count by how visible the character is in them.
    """
    visible = reading.visible.mean(axis=0)
    who = int(visible.argmax()) if species is None else SPECIES.index(species)
    if visible[who] < VISIBLE:
        return None
    weight = reading.visible[:, who, None]
    best, same = {}, np.ones(len(weight), bool)
    for name in OF_CHARACTER:
        probability = getattr(reading, name)[:, who]
        best[name] = int((weight * probability).sum(axis=0).argmax())
        same &= probability.argmax(axis=1) == best[name]
    names = {name: CLASSES[name][index] for name, index in best.items()}
    return CharacterReading(
        SPECIES[who], **names, confidence=float(visible[who]), consistency=float((same & (weight[:, 0] >= VISIBLE)).mean())
    )


def of_scene(reading: Reading) -> dict[str, str]:
    """Place, time and size by mean probability over the reading's frames."""
    return {name: CLASSES[name][int(getattr(reading, name).mean(axis=0).argmax())] for name in OF_FRAME}


def shrink_to_judge(video: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t 48 80 3"]:
    """Area means over whole pixels; `UsageError` where 48x80 does not divide the frame."""
    _, height, width, _ = video.shape
    if height % HEIGHT or width * HEIGHT != height * WIDTH:
        raise UsageError(f"the judge reads films of {HEIGHT}x{WIDTH} or a whole multiple, not {height}x{width}")
    factor = height // HEIGHT
    if factor == 1:
        return video
    cells = video.reshape(len(video), HEIGHT, factor, WIDTH, factor, 3)
    return (cells.mean(axis=(2, 4), dtype=np.float32) + 0.5).astype(np.uint8)


@jax.jit
def _probabilities(params: judge.Params, frames: UInt8[np.ndarray, "n 48 80 3"]):
    seen = judge.look(params, frames.astype(jnp.float32) / 255)
    kept = {"visible": jax.nn.sigmoid(seen["visible"]), "motion": seen["motion"]}
    return kept | {name: jax.nn.softmax(seen[name]) for name in (*OF_CHARACTER, *OF_FRAME)}


def _mean_log_probability(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, " classes"]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).mean(axis=0)
