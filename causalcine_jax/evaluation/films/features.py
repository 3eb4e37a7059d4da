"""The features of a film's frames, from one pass over them.

Frames go to the networks in batches as they come. Frames of clips are held until their clip is
complete, at most eight per range.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from causalcine_jax.evaluation.metrics import consistency
from causalcine_jax.evaluation.metrics.ranges import middles
from causalcine_jax.scorers.scorers import BATCH, Embedder, Scorers

Frames = Iterable[UInt8[np.ndarray, "h w 3"]]
Features = Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class FilmFeatures:
    """Features of a film; None where their network has no weights.

    frames          the frames that `dino` and `clip_b32` describe
    of_shots, clips by range: DINOv2's feature of its sampled frames, ViCLIP's of its clip
    aesthetic       the mean score of the frames, over 10 as in VBench
    """

    frames: Int[np.ndarray, " n"]
    dino: Features | None
    clip_b32: Features | None
    of_shots: dict[range, Float[np.ndarray, " d"]] | None
    clips: dict[range, Float[np.ndarray, " d"]]
    aesthetic: float | None

    def within(self, features: Features | None, shots: Sequence[range]) -> list | None:
        """Each shot's consistency; None without features."""
        return None if features is None else consistency.of_shots(features, self.frames, shots)


class _Batches:
    """Frames to a network, in batches, and their features by the frame's number."""

    def __init__(self, embed: Embedder | None):
        self._embed, self.used = embed, embed is not None
        self._waiting: dict[int, np.ndarray] = {}
        self.found: dict[int, np.ndarray] = {}

    def add(self, number: int, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        if self._embed is None:
            return
        self._waiting[number] = frame
        if len(self._waiting) == BATCH:
            self.flush()

    def flush(self) -> None:
        if self._embed is not None and self._waiting:
            features = self._embed(np.stack(list(self._waiting.values())))
            self.found.update(zip(self._waiting, features, strict=True))
            self._waiting.clear()

    def of(self, frames: Sequence[int]) -> Features | None:
        return None if self._embed is None else np.stack([self.found[frame] for frame in frames])


def film_features(
    film: Frames, shots: Sequence[range], frames: Sequence[int], scorers: Scorers
) -> FilmFeatures:
    """Runs the networks that have weights.

    Args:
      shots: the ranges, none empty, for clips and for features of shots.
      frames: the frames that image networks see.
    """
    given = lambda measure, name: None if scorers.missing(measure) else getattr(scorers, name)
    image = {
        "dino": _Batches(given("subject consistency", "dino")),
        "clip_b32": _Batches(given("background consistency", "clip_b32")),
        "clip_l14": _Batches(given("aesthetic", "clip_l14")),
    }
    of_shot = _Batches(given("inter-shot consistency", "dinov2"))
    viclip = given("text alignment", "viclip")
    sampled = {shot: middles(shot) for shot in dict.fromkeys(shots)}
    clips = _Clips(sampled, None if viclip is None else viclip.clip)
    seen, representative = set(frames), {n for chosen in sampled.values() for n in chosen}
    if viclip or any(batches.used for batches in (of_shot, *image.values())):
        for number, frame in enumerate(film):
            if number in seen:
                for batches in image.values():
                    batches.add(number, frame)
            if number in representative:
                of_shot.add(number, frame)
                clips.add(number, frame)
    for batches in (of_shot, *image.values()):
        batches.flush()
    return FilmFeatures(
        np.asarray(frames),
        image["dino"].of(frames),
        image["clip_b32"].of(frames),
        _shot_features(of_shot, sampled),
        clips.found,
        _aesthetic(scorers, image["clip_l14"].of(frames)),
    )


class _Clips:
    """Frames to clips, each embedded as soon as its last frame came."""

    def __init__(self, sampled: dict[range, list[int]], embed: Callable | None):
        self._sampled, self._embed = dict(sampled), embed
        self._held: dict[int, np.ndarray] = {}
        self.found: dict[range, np.ndarray] = {}

    def add(self, number: int, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        if self._embed is None:
            return
        self._held[number] = frame
        for shot, chosen in list(self._sampled.items()):
            if chosen[-1] == number:
                self.found[shot] = self._embed(np.stack([self._held[n] for n in chosen]))
                del self._sampled[shot]
        first = min((chosen[0] for chosen in self._sampled.values()), default=number + 1)
        self._held = {n: kept for n, kept in self._held.items() if n >= first}


def _shot_features(
    of_shot: _Batches, sampled: dict[range, list[int]]
) -> dict[range, np.ndarray] | None:
    if not of_shot.used:
        return None
    return {
        shot: consistency.shot_feature(np.stack([of_shot.found[n] for n in chosen]))
        for shot, chosen in sampled.items()
    }


def _aesthetic(scorers: Scorers, features: Features | None) -> float | None:
    return None if features is None else float(scorers.aesthetic_head(features).mean() / 10)
