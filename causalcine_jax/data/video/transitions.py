"""The transitions of a film by TransNetV2, over a stream of its frames.

    frames -> shrunk -> windows of 100 -> evidence about every frame -> transitions

The middle 50 frames of a window count. The ends of a film are padded with its first and last
frame, as in the reference. Every window has the same shape, so one program serves every film.

TransNetV2 takes some flashes for cuts, and is unsure of some cuts. So the picture itself is asked
too: a flash is no cut, because the picture from before it comes back; and a picture that
changes at once and for good confirms a cut which the network finds improbable.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from PIL import Image

from causalcine_jax.models.shot_detector.transnet import HEIGHT, WIDTH, TransNet

WINDOW, CONTEXT = 100, 25  # frames; CONTEXT at each end only help the others
STEP = WINDOW - 2 * CONTEXT
REACH = 4  # frames to each side of a cut that are compared; a flash is shorter

# When evidence is a transition. Measured in benchmarks/shots.py.
THRESHOLD = 0.5  # of both probabilities
LONGEST = 2  # frames that a hard cut marks
EDGE = 0.2  # the second head's probability down to which a gradual transition extends
LASTING = 0.5  # below it, a cut is a flash
WEAK = 0.1  # the first head's probability of a cut that a sudden change confirms
SUDDEN = 2.0  # Evidence.sudden from which on it does

Frame = UInt8[np.ndarray, "h w 3"]
Transition = tuple[int, int]


@dataclass(frozen=True)
class Evidence:
    """What is known of every frame of a film; each [T].

    middle   probability that it is the middle of a transition; of a hard cut, the last frame before
    every    probability that it belongs to a transition
    lasting  how much of the change to the next frame remains after some frames: 0 in a flash
    sudden   the change that remains, over the largest change between frames close by
    """

    middle: np.ndarray
    every: np.ndarray
    lasting: np.ndarray
    sudden: np.ndarray


def gather_evidence(frames: Iterable[Frame], network: TransNet) -> Evidence:
    """Reads the frames once; holds at most 100 of them, shrunk."""
    parts, count = [np.zeros((0, 4), np.float32)], 0
    for window, held in _windows(map(_shrunk, frames)):
        parts.append(np.asarray(_judged(network, window)))
        count = held
    return Evidence(*np.concatenate(parts)[:count].T)


def find_transitions(evidence: Evidence) -> list[Transition]:
    """The frames [first, last) of every transition, in order; first = last for a hard cut."""
    middle, either = evidence.middle, np.maximum(evidence.middle, evidence.every)
    gradual = np.zeros(len(either), bool)
    cuts = (middle > WEAK) & (evidence.sudden > SUDDEN)
    wide = _runs(either > EDGE)
    for first, last in _runs(either > THRESHOLD):
        if last - first <= LONGEST:
            peak = first + int(middle[first:last].argmax())
            cuts[peak] |= middle[peak] > THRESHOLD and evidence.lasting[peak] >= LASTING
        else:
            around = next((a, b) for a, b in wide if a <= first < b)
            gradual[slice(*around)] = True
    runs = _runs(gradual)
    apart = [cut for cut in np.flatnonzero(cuts) + 1 if not any(a <= cut <= b for a, b in runs)]
    return sorted([*runs, *((int(cut), int(cut)) for cut in apart)])


@jax.jit
def _judged(network: TransNet, window: UInt8[Array, "100 27 48 3"]) -> Float[Array, "50 4"]:
    """The evidence about the window's middle frames, in the order of `Evidence`."""
    inner = slice(CONTEXT, -CONTEXT)
    probabilities = jax.nn.sigmoid(network(window[None])[0, inner])
    return jnp.concatenate([probabilities, _changes(window)], axis=1)


def _changes(window: UInt8[Array, "100 27 48 3"]) -> Float[Array, "50 2"]:
    """(lasting, sudden) of the window's middle frames."""
    pixels = window.reshape(WINDOW, -1).astype(jnp.float32)
    differ = {k: jnp.abs(pixels[k:] - pixels[:-k]).mean(axis=1) for k in range(1, 2 * REACH)}
    at = lambda k, shift: differ[k][CONTEXT + shift : CONTEXT + shift + STEP]
    remains = jnp.stack(
        [at(before + after, -before) for before in range(REACH) for after in range(1, REACH + 1)]
    ).min(axis=0)
    close = [at(1, shift) for shift in range(-REACH + 1, REACH) if shift]
    over = lambda change: remains / jnp.maximum(change, 1e-3)
    return jnp.stack([over(at(1, 0)), over(jnp.stack(close).max(axis=0))], axis=1)


def _shrunk(frame: Frame) -> Frame:
    """The frame at the network's size: bicubic, as in the reference. Halving first is faster."""
    picture = Image.fromarray(frame)
    return np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, reducing_gap=3.0))


def _windows(frames: Iterable[Frame]) -> Iterator[tuple[UInt8[np.ndarray, "100 h w 3"], int]]:
    """(window, frames of the film so far) for every STEP frames, the last padded."""
    held: list[np.ndarray] = []
    count = 0
    for frame in frames:
        held += [frame] * (1 if count else CONTEXT + 1)
        count += 1
        if len(held) == WINDOW:
            yield np.stack(held), count
            del held[:STEP]
    if not count:
        return
    held += [held[-1]] * (CONTEXT + -count % STEP)
    for first in range(0, len(held) - WINDOW + 1, STEP):
        yield np.stack(held[first : first + WINDOW]), count


def _runs(marked: Bool[np.ndarray, " t"]) -> list[Transition]:
    """The ranges of frames that are marked."""
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
