"""The public Wan2.1 family: what each released model is sampled with, and how much of its own rollout is reproduced here.

    family("self-forcing").defaults()  -> what metadata.json says beside converted weights; film/model_folder.py reads it back
    guess(path)                        -> the family that a checkpoint's file and folder names tell, or None

The causal children add no parameters to Wan2.1: they differ in how noise becomes a chunk (sampler) and in what a chunk sees (memory).
Keys and values are stored unrotated here and rotated when read; RoPE only sees differences, so positions="absolute" gives the scores of a
child that stores its keys rotated. A child's "local attention of n frames" counts its sink and the chunk itself; a window here counts neither.
"""

import dataclasses
import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.config import MemoryConfig, TransformerConfig
from causalcine_jax.diffusion.flow import TRAIN_TIMES, shift
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError, nearest
from causalcine_jax.presets import Preset, preset
from causalcine_jax.story import Video


@dataclass(frozen=True)
class Family:
    """A released model as its authors run it.

    sampler, memory, chunk_frames   the rollout
    size          the preset that its networks have
    reproduced    True: the rollout here is theirs, step by step (tests/test_family_rollouts.py). False: the weights load and run under our memory
    note          what a user must know: what is not reproduced, which of several weights to take
    licence       of the code and weights, as their repository states it
    files         patterns of the names (lower case, folders included) by which `guess` knows it
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
        """The text that guidance steers away from; without guidance it is not read."""
        return self.preset.negative

    @property
    def text_len(self) -> int:
        return self.preset.transformer.text_len

    def defaults(self) -> dict[str, Any]:
        """What metadata.json has to say for `load_model` to use the model as this family is used (JSON values)."""
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
    """The times 0..1000 at schedule `positions` 0..1000 bent by the shift `by`: what the forks call warping a step list."""
    return tuple(float(TRAIN_TIMES * shift(position / TRAIN_TIMES, by)) for position in positions)


def _few_step(by: float, *times: float) -> SamplerConfig:
    return SamplerConfig("few_step", steps=len(times), shift=by, guidance=1.0, step_list=times)


def _unipc(size: str) -> SamplerConfig:
    return SamplerConfig(
        "unipc", steps=50, shift=preset(size).shift, guidance=preset(size).guidance
    )


_FOUR_STEPS = _few_step(5.0, *warped(5.0, 1000, 750, 500, 250))
_ALL_21 = MemoryConfig(
    "none", window_chunks=6, memory_frames=0, positions="absolute"
)  # a cache of 21 frames, the own chunk included
_APACHE, _NONCOMMERCIAL = "Apache-2.0", "CC-BY-NC-SA-4.0, not for commercial use"
_LONGER = "Trained on 21 latent frames; longer films run on with a window of 18 and the chunk, as its rolling cache of 21 does."

_TABLE = (
    Family(
        "wan2.1-t2v-1.3b",
        _unipc("wan-1.3b"),
        MemoryConfig(),
        ("*wan2.1-t2v-1.3b*", "*wan2.1_t2v_1.3b*"),
        _APACHE,
        "Bidirectional: made for --whole-film. Chunk by chunk it runs, but was never trained to; it is where training starts from.",
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
        f"Chunk by chunk; its authors use generator, not generator_ema. ar_diffusion.pt is no few-step model: sample it with --sampler unipc "
        f"--steps 50 --guidance 3. longvideo.pt was made for a rolling sampler that is not reproduced. {_LONGER}",
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
    # configs/causal_forcing_dmd_framewise_{2,1}step.yaml of thu-ml/Causal-Forcing @1fc7bbc, pipeline/causal_inference.py there.
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
            f"Frame by frame, the film's first frame in 4 steps and each other one in {steps}; its authors use generator_ema. {_LONGER}",
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
        "The autoregressive checkpoint; the bidirectional ones are not for this rollout. Its way past 21 frames (encode the end again, start "
        "anew) is not reproduced: a longer film runs on with the window.",
        reproduced=True,
    ),
    Family(
        "longlive-1",
        _FOUR_STEPS,
        MemoryConfig("sink", window_chunks=2, memory_frames=3, positions="absolute"),
        ("*longlive_base.pt", "*longlive-1*"),
        _APACHE,
        "Local attention of 12 frames with a sink of 3. Its re-caching of history under a new prompt is not reproduced: history keeps the prompt "
        "it was made under.",
    ),
    Family(
        "krea-realtime-14b",
        _few_step(5.0, 1000.0, 937.0, 833.0, 625.0),
        MemoryConfig("none", window_chunks=1, memory_frames=0),
        ("*krea-realtime*", "*krea_realtime*"),
        _NONCOMMERCIAL,
        "Its cache, computed anew for every chunk from the last 3 frames (the first of them encoded again from pixels), is not reproduced: the last "
        "chunk is attended to as it was committed. A longer window or camr are a flag away.",
        size="wan-14b",
    ),
    Family(
        "shotstream",
        _few_step(8.0, *warped(8.0, 1000, 740, 500, 260)),
        MemoryConfig("camr", window_chunks=6, memory_frames=6),
        ("*shotstream*",),
        "no licence stated",
        "Its second cache, of 6 frames sampled from earlier shots and encoded by a pass of their own, and its phase shift per shot are not "
        "reproduced: 6 frames are retrieved by CAMR instead.",
    ),
    Family(
        "rolling-forcing",
        _few_step(5.0, *warped(5.0, 1000, 800, 600, 400, 200)),
        MemoryConfig("sink", window_chunks=5, memory_frames=3),
        ("*rolling_forcing_dmd.pt", "*rollingforcing*", "*rolling-forcing*"),
        "Tencent's own, academic use only",
        "Its window of five chunks at five noise levels is not reproduced: chunks are made one after the other. Its authors use generator_ema.",
    ),
    Family(
        "infinity-rope",
        _FOUR_STEPS,
        MemoryConfig("sink", window_chunks=1, memory_frames=1),
        ("*infinity-rope*", "*infinity_rope*"),
        _APACHE,
        "Local attention of 6 frames with a sink of 1: 5 of history, where we take a window of 3 and the sink. Its frozen sink, cache flush at a new "
        "prompt and phase jump at a cut are not reproduced. Its ema_model.pt tells nothing by its name: give --family.",
    ),
    Family(
        "memflow",
        _FOUR_STEPS,
        MemoryConfig("camr", window_chunks=2, memory_frames=6),
        ("*memflow*",),
        _APACHE,
        "Its sink of 3 frames and its bank of 3, chosen by the prompt, are not reproduced: 6 frames are retrieved by CAMR instead.",
    ),
)
# What is said of a model that no family claims: how `generation.model_folder.Model` is used without metadata.json.
ASSUMED = "plain Wan2.1: UniPC of 50 steps with guidance 5, chunks of 3 frames, CAMR of 5 frames beyond a window of 3 chunks, 160x96 pixels"
_PLAIN_PIPELINE = "WanPipeline"
# FastWan, Lightx2v, TurboWan (TurboDiffusion), rCM, SFWan and others of few steps, which bear Wan2.1's name and need samplers of their own.
_DISTILLED = re.compile(
    r"fast[-_.]?wan|light[-_.]?x2v|turbo|(?<![a-z])rcm(?![a-z])|sfwan|self[-_.]?forcing|causal(?!cine)|caus[-_.]?vid|distil|dmd|(?<![a-z])lcm(?![a-z])|acc[-_.]?vid"
    r"|(?<![\d.])(?:[1-9]|one|two|three|four|six|eight|few)[-_.]?steps?"
)
_BILLIONS = {"wan-1.3b": "1.3b", "wan-14b": "14b"}
_SIZES = re.compile(r"(?<![\d.])(?:1[._]3b|14b|5b)(?![a-z])")
_PUBLISHED_DIMS = {1536, 3072, 5120}  # of Wan2.1 1.3B, Wan2.2 5B and 14B
FAMILIES: dict[str, Family] = {family.name: family for family in _TABLE}


def family(name: str) -> Family:
    """The family called `name`; `UsageError` naming the nearest one if there is none."""
    if name not in FAMILIES:
        raise UsageError(f"unknown family {name!r}, {nearest(name, FAMILIES)}")
    return FAMILIES[name]


def guess(path: str | Path, sizes: TransformerConfig | None = None) -> Family | None:
    """The family whose names `path` bears, in itself, in its two parent folders or in the files that it holds; None if none or several do.

    A name that says another size than the family's, or a pipeline or distillation that plain Wan2.1 has not, is not taken for it.

    Args:
      sizes: of the transformer, where they are known: a model of another published size is of another family.
    """
    path = Path(path).absolute()
    if _pipeline(path) not in (None, _PLAIN_PIPELINE):
        return None
    inside = [
        file
        for place in (path, path / "models", path / "checkpoints")
        if place.is_dir()
        for file in place.glob("*.*")
    ]
    for candidates in ([path], inside):
        found = {
            each.name
            for each in _TABLE
            for candidate in candidates
            if _bears(candidate, each) and _has_size(each, sizes)
        }
        if found:
            return FAMILIES[found.pop()] if len(found) == 1 else None
    return None


def _bears(path: Path, each: Family) -> bool:
    name = "/".join(path.parts[-3:]).lower()
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in each.files):
        return False
    told = {size.replace("_", ".") for size in _SIZES.findall(name)}
    return not (each.name.startswith("wan2.1") and _DISTILLED.search(name)) and (
        not told or _BILLIONS[each.size] in told
    )


def _has_size(each: Family, sizes: TransformerConfig | None) -> bool:
    """Whether the transformer may be of that family: of its size, or of none that was published."""
    return (
        sizes is None
        or sizes.dim == each.preset.transformer.dim
        or sizes.dim not in _PUBLISHED_DIMS
    )


def _pipeline(path: Path) -> str | None:
    """The pipeline that Diffusers' model_index.json names; FastVideo's few-step ones are WanDMDPipeline and WanCausalDMDPipeline."""
    try:
        said = json.loads((path / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return said.get("_class_name") if isinstance(said, dict) else None
