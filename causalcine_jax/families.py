"""The public Wan2.1 models: how each is sampled, and how much of its rollout is reproduced here.

    family("self-forcing").defaults()  -> metadata.json of converted weights (film/model_folder.py)

The causal children add no parameters to Wan2.1. They differ in how noise becomes a chunk (sampler)
and in what a chunk sees (memory).

Keys and values are stored unrotated and rotated when read. RoPE depends on differences of positions
only, so positions="absolute" gives the same scores as a child that stores rotated keys. "Local
attention of n frames" of a child includes its sink and the chunk itself; a window here does not.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.flow import TRAIN_TIMES, shifted
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import check_choice
from causalcine_jax.presets import Preset, preset
from causalcine_jax.rollouts import ROLLOUTS
from causalcine_jax.story import Video


@dataclass(frozen=True)
class Family:
    """A released model as its authors run it.

    sampler, memory, chunk_frames   the rollout
    files         patterns of file and folder names (lower case), for convert/guess_family.py
    licence       of code and weights, as their repository states it
    note          what a user must know: what is not reproduced, which of several weights to take
    reproduced    True: the rollout equals theirs step by step (tests/film/test_family_rollouts.py);
                  False: the weights load and run under our memory
    size          the preset that its networks have
    """

    name: str
    sampler: SamplerConfig
    memory: MemoryConfig
    files: tuple[str, ...]
    licence: str
    note: str
    reproduced: bool = False
    chunk_frames: int = 3
    size: str = "wan-1.3b"

    @property
    def preset(self) -> Preset:
        return preset(self.size)

    @property
    def video(self) -> Video:
        return Video(16, self.preset.width, self.preset.height)

    @property
    def negative(self) -> str:
        """The text that guidance steers away from; unused without guidance."""
        return self.preset.negative

    @property
    def text_len(self) -> int:
        return self.preset.transformer.text_len

    def defaults(self) -> dict[str, Any]:
        """The content of metadata.json (JSON values) with which `load_model` runs this family."""
        return {
            "family": self.name,
            "video": dataclasses.asdict(self.video),
            "sampler": dataclasses.asdict(self.sampler),
            "memory": dataclasses.asdict(self.memory),
            "chunk_frames": self.chunk_frames,
            "negative": self.negative,
            "dtype": "bfloat16",
        }


def warped(by: float, *positions: float) -> tuple[float, ...]:
    """Times 0..1000 at schedule `positions` 0..1000 under the shift `by`.

    The forks call this warping a step list.
    """
    return tuple(float(TRAIN_TIMES * shifted(position / TRAIN_TIMES, by)) for position in positions)


def _few_step(by: float, *times: float) -> SamplerConfig:
    return SamplerConfig("few_step", steps=len(times), shift=by, guidance=1.0, step_list=times)


def _unipc(size: str) -> SamplerConfig:
    return SamplerConfig(
        "unipc", steps=50, shift=preset(size).shift, guidance=preset(size).guidance
    )


def _of(name: str) -> str:
    return f"{ROLLOUTS[name].about} {ROLLOUTS[name].doubts}"


_FOUR_STEPS = _few_step(5.0, *warped(5.0, 1000, 750, 500, 250))
_ALL_21 = ROLLOUTS["self-forcing"].memory
_APACHE, _NONCOMMERCIAL = "Apache-2.0", "CC-BY-NC-SA-4.0, not for commercial use"
_LONGER = (
    "Trained on 21 latent frames; longer films keep a window of 18 frames beside the chunk, "
    "like its rolling cache of 21."
)

_TABLE = (
    Family(
        "wan2.1-t2v-1.3b",
        _unipc("wan-1.3b"),
        MemoryConfig(),
        ("*wan2.1-t2v-1.3b*", "*wan2.1_t2v_1.3b*"),
        _APACHE,
        "Bidirectional: made for --whole-film. It runs chunk by chunk, but was not trained to; "
        "training starts from it.",
        reproduced=True,
    ),
    Family(
        "wan2.1-t2v-14b",
        _unipc("wan-14b"),
        MemoryConfig(),
        ("*wan2.1-t2v-14b*", "*wan2.1_t2v_14b*"),
        _APACHE,
        "As wan2.1-t2v-1.3b.",
        reproduced=True,
        size="wan-14b",
    ),
    Family(
        "self-forcing",
        _FOUR_STEPS,
        _ALL_21,
        ("*self_forcing_dmd.pt", "*self_forcing_sid.pt", "*self_forcing_10s.pt", "*self-forcing*"),
        _APACHE,
        f"Its authors use generator_ema. {_LONGER}",
        reproduced=True,
    ),
    Family(
        "causal-forcing",
        _FOUR_STEPS,
        _ALL_21,
        ("*chunkwise/causal_*.pt",),
        _APACHE,
        "Chunk by chunk; its authors use generator, not generator_ema. ar_diffusion.pt is no "
        "few-step model: sample it with --sampler unipc --steps 50 --guidance 3. longvideo.pt was "
        f"made for a rolling sampler that is not reproduced. {_LONGER}",
        reproduced=True,
    ),
    Family(
        "causal-forcing-framewise",
        _FOUR_STEPS,
        dataclasses.replace(_ALL_21, window_chunks=20),
        ("*framewise/causal_*.pt",),
        _APACHE,
        f"Frame by frame; its authors use generator_ema. {_LONGER}",
        reproduced=True,
        chunk_frames=1,
    ),
    # configs/causal_forcing_dmd_framewise_{2,1}step.yaml and pipeline/causal_inference.py of
    # thu-ml/Causal-Forcing @1fc7bbc.
    *(
        Family(
            f"causal-forcing++-{steps}step",
            dataclasses.replace(
                _few_step(5.0, *warped(5.0, *positions)), first_step_list=_FOUR_STEPS.step_list
            ),
            dataclasses.replace(_ALL_21, window_chunks=20),
            (
                f"*framewise-{steps}step.pt",
                f"*causal-forcing++*{steps}step*",
                f"*causal_forcing++*{steps}step*",
            ),
            _APACHE,
            f"Frame by frame; the film's first frame takes 4 steps, each later one {steps}. "
            f"Its authors use generator_ema. {_LONGER}",
            reproduced=True,
            chunk_frames=1,
        )
        for steps, positions in ((2, (1000, 500)), (1, (1000,)))
    ),
    Family(
        "causvid",
        _few_step(8.0, 1000.0, 757.0, 522.0),
        _ALL_21,
        ("*causvid*", "*autoregressive_checkpoint*/model.pt"),
        _NONCOMMERCIAL,
        "The autoregressive checkpoint; the bidirectional ones are not for this rollout. For films "
        "longer than 21 frames its code encodes the end again and restarts. This is not "
        "reproduced: the window moves on instead.",
        reproduced=True,
    ),
    Family(
        "longlive-1",
        _FOUR_STEPS,
        ROLLOUTS["longlive"].memory,
        ("*longlive_base.pt", "*longlive-1*"),
        _APACHE,
        "Local attention of 12 frames with a sink of 3, reproduced under one prompt. "
        f"{_of('longlive')}",
    ),
    Family(
        "krea-realtime-14b",
        _few_step(5.0, 1000.0, 937.0, 833.0, 625.0),
        MemoryConfig("none", window_chunks=1, memory_frames=0),
        ("*krea-realtime*", "*krea_realtime*"),
        _NONCOMMERCIAL,
        "It recomputes its cache for every chunk from the last 3 frames, the first of them encoded "
        "again from pixels. This is not reproduced: the last chunk is attended to as committed. "
        "Flags select a longer window or camr.",
        size="wan-14b",
    ),
    Family(
        "shotstream",
        _few_step(8.0, *warped(8.0, 1000, 740, 500, 260)),
        MemoryConfig("camr", window_chunks=6, memory_frames=6),
        ("*shotstream*",),
        "no licence stated",
        "Its second cache is not reproduced (6 frames sampled from earlier shots and encoded in a "
        "separate pass), nor is its phase shift per shot. CAMR retrieves 6 frames instead.",
    ),
    Family(
        "rolling-forcing",
        _few_step(5.0, *warped(5.0, 1000, 800, 600, 400, 200)),
        MemoryConfig("sink", window_chunks=5, memory_frames=3),
        ("*rolling_forcing_dmd.pt", "*rollingforcing*", "*rolling-forcing*"),
        "Tencent's own, academic use only",
        "Its window of five chunks at five noise levels is not reproduced: chunks are made one "
        "after the other. Its authors use generator_ema.",
    ),
    Family(
        "infinity-rope",
        _FOUR_STEPS,
        ROLLOUTS["infinity-rope"].memory,
        ("*infinity-rope*", "*infinity_rope*"),
        _APACHE,
        f"{_of('infinity-rope')} Every new prompt is taken for a cut. The name of its ema_model.pt "
        "does not identify it: give --family.",
    ),
    Family(
        "memflow",
        _FOUR_STEPS,
        ROLLOUTS["memflow"].memory,
        ("*memflow*",),
        _APACHE,
        _of("memflow"),
    ),
)
# How `film.model_folder.Model` runs a model of unknown family without metadata.json, for messages.
ASSUMED = (
    "plain Wan2.1: UniPC of 50 steps with guidance 5, chunks of 3 frames, CAMR of 5 frames beyond "
    "a window of 3 chunks, 160x96 pixels"
)
FAMILIES: dict[str, Family] = {family.name: family for family in _TABLE}


def family(name: str) -> Family:
    """The family called `name`.

    Raises:
      UsageError: there is none; the message names the nearest one.
    """
    check_choice("family", name, FAMILIES)
    return FAMILIES[name]
