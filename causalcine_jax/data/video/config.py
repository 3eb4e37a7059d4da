"""What `causalcine prepare` is asked for, checked before a video is opened."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from causalcine_jax.data.encode_config import MOST_PROCESSES
from causalcine_jax.data.video.captioner import CaptionerOptions
from causalcine_jax.data.video.filters import Filters
from causalcine_jax.errors import choice_faults, part_faults, raise_faults, shown
from causalcine_jax.scorers.sources import PICTURES

CAPTION_CUTS = "captions"  # in place of a detector: shots begin where the captions say
SPLITS = ("train", "held_out")
DETECTORS = ("transnet", "scenedetect", CAPTION_CUTS)


@dataclass(frozen=True)
class PrepareConfig:
    """What `causalcine prepare` is asked for.

    folder            of the videos and their captions
    out               the folder to write
    model             with the VAE and the tokenizer
    size              height and width of the films; None is the model's own
    latent_frames     of every film, but for those that `shorter` asks for
    detector          of shots, a name of DETECTORS
    detector_weights  its file, if it is not installed
    filters           what is kept
    captioner         a command that writes captions
    captioner_url     a server that writes captions, and
    captioner_model   the model that it is asked for
    held_out          fraction of the sources whose films are held out
    workers           processes that read and, on a CPU, encode; threads that read for accelerators
    text_len          token ids per shot; None is the model's own
    overwrite         whether a store of other settings may be replaced
    licence           of videos for which no file names one
    source_from       "parent" or a regular expression: where a video's name holds its source
    captioning        how a captioner is asked
    part              (K, N): the K-th of N parts of the videos, by their content
    embeddings        embed the prompts too, by the model's text encoder (embed_command.py)
    shorter           latent frames of shorter films, made of what is left of a run of shots
    duplicates_weights  a network of `sources.PICTURES` and its file, which embeds shots so that
                      copies are found; None compares hashes alone
    ray               the address of a Ray cluster that does the work, or "local" to start one
    gpus_per_worker   of a process of that cluster that encodes; None is one, where there are any
    """

    folder: Path
    out: Path
    model: Path
    size: tuple[int, int] | None = None
    latent_frames: int = 60
    detector: str = "transnet"
    detector_weights: Path | None = None
    filters: Filters = Filters()
    captioner: str | None = None
    captioner_url: str | None = None
    captioner_model: str | None = None
    held_out: float = 0.05
    workers: int = 1
    text_len: int | None = None
    films_per_shard: int = 32
    overwrite: bool = False
    licence: str = ""
    source_from: str | None = None
    captioning: CaptionerOptions = CaptionerOptions()
    part: tuple[int, int] = (1, 1)
    embeddings: bool = False
    shorter: tuple[int, ...] = ()
    duplicates_weights: tuple[str, Path] | None = None
    ray: str | None = None
    gpus_per_worker: int | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Latent frames of the films, from the longest to the shortest."""
        return self.latent_frames, *self.shorter

    @property
    def stores(self) -> dict[tuple[str, int], Path]:
        """The stores, by split and latent frames."""
        return {
            (split, frames): self.out / (f"{split}-{frames}" if number else split)
            for split in SPLITS
            for number, frames in enumerate(self.lengths)
        }

    def __post_init__(self):
        faults = [
            f"{name} must be positive, not {getattr(self, name)}"
            for name in ("workers", "text_len", "films_per_shard")
            if getattr(self, name) is not None and getattr(self, name) < 1
        ]
        if self.workers > MOST_PROCESSES:
            faults.append(f"workers must be at most {MOST_PROCESSES}, not {self.workers}")
        faults += length_faults(self.lengths)
        if self.ray is not None and self.workers > 1:
            faults.append("workers are of one machine, and ray takes all cores: leave one out")
        if self.ray is None and self.gpus_per_worker is not None:
            faults.append("gpus_per_worker needs ray")
        if (self.gpus_per_worker or 0) < 0:
            faults.append(f"gpus_per_worker must be at least 0, not {self.gpus_per_worker}")
        if not 0 <= self.held_out < 1:
            faults.append(f"held_out must be at least 0 and below 1, not {self.held_out}")
        faults += part_faults(self.part)
        faults += choice_faults("detector", self.detector, DETECTORS)
        if self.duplicates_weights:
            network, _ = self.duplicates_weights
            faults += choice_faults("network of duplicates_weights", network, PICTURES)
        if self.captioner and self.captioner_url:
            faults.append("captioner and captioner_url are two captioners: leave one out")
        if bool(self.captioner_url) != bool(self.captioner_model):
            faults.append("captioner_url and captioner_model belong together: name both or none")
        if (self.captioning.prompt or self.captioning.request) and not self.captioner_url:
            faults.append("captioner_prompt and captioner_request need captioner_url")
        try:
            re.compile(self.source_from or "")
        except re.error as error:
            faults.append(f"source_from {shown(self.source_from)} is no expression: {error}")
        if self.folder.resolve() == self.out.resolve():
            faults.append("out must be another folder than that of the videos")
        for own in (*self.stores.values(), self.out / "work"):
            if self.folder.resolve().is_relative_to(own.resolve()):
                faults.append(f"the videos are inside of {own}, which is replaced")
        raise_faults("prepare", faults)


def length_faults(lengths: Sequence[int]) -> list[str]:
    """Latent frames of films must be positive and fall."""
    if [*lengths] == sorted({*lengths}, reverse=True) and min(lengths) >= 1:
        return []
    named = ",".join(map(str, lengths))
    return [f"latent_frames must fall from the longest to the shortest, not {named}"]


def part_text(part: tuple[int, int]) -> str | None:
    """K/N; None where the only part is all of the videos."""
    return None if part[1] == 1 else f"{part[0]}/{part[1]}"
