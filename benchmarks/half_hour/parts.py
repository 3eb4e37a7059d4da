"""The parts of the four commands, as words of `causalcine bench`, the most important first."""

import sys
from dataclasses import dataclass

from benchmarks import REPOSITORY
from causalcine_jax.utils.machine_memory import GB

# Seconds that a command may take in all. Together 24 minutes: a lease of thirty counts from asking,
# so starting the machine and installing are in it.
LIMITS = {1: 340, 2: 420, 3: 360, 4: 320}
REHEARSAL = 3  # limits are so many times longer on a CPU, which may be busy
# 14B with 60 latent frames takes 125 GB (docs/planning.md), 77 of them history. Of a card of 80 GB
# 78 are free: 21 frames take 75, and 24 would take 79.
LARGE, MIDDLE, SMALL = 130 * GB, 75 * GB, 20 * GB
BENCH = (sys.executable, str(REPOSITORY / "launch" / "bench.py"))
TESTS = (sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-rs", "-m", "gpu")
TEST_FILE = "tests/models/test_gpu.py"


@dataclass(frozen=True)
class Part:
    """One process.

    name      also that of the run in target_list.py whose numbers it measures, if there is one
    seconds   its time limit
    words     of `causalcine bench`; empty: the tests that need a GPU
    rehearsal the words on a CPU
    memory    bytes of device memory that it needs
    flags     XLA's flags, in place of those of every command
    """

    name: str
    seconds: int
    words: tuple[str, ...]
    rehearsal: tuple[str, ...]
    memory: int = 0
    flags: str = ""


def _part(name: str, seconds: int, words: str, rehearsal: str, memory: int = 0, flags: str = ""):
    return Part(name, seconds, tuple(words.split()), tuple(rehearsal.split()), memory, flags)


_BASE = "--preset storyworld-base"
_FEW = f"{_BASE} --repeats 1"
_CEILINGS = f"ceilings {_FEW}"
_STREAM = f"streaming {_FEW}"


def parts(command: int, memory: int | None) -> list[Part]:
    """The parts of a command on a device with so many bytes of memory (None: unknown)."""
    frames = "" if memory is None or memory > LARGE else " --pool-frames 21"
    history = MIDDLE if frames else LARGE
    return {
        1: [
            _part("ceilings_14b", 55, "ceilings --preset wan-14b", _CEILINGS, SMALL),
            _part("ceilings_1.3b", 55, "ceilings --preset wan-1.3b", _CEILINGS, SMALL),
            _part("gpu_tests", 110, "", ""),
            _part("vae", 60, "vae text --preset wan-1.3b", f"vae text {_FEW}", SMALL),
            _part(
                "attention_14b",
                60,
                "attention --preset wan-14b --batch 8",
                f"attention {_FEW} --batch 2",
                SMALL,
            ),
            _part(
                "vae_channels_first",
                50,
                "vae --preset wan-1.3b",
                f"vae {_FEW}",
                SMALL,
                "--xla_gpu_force_conv_nhwc=false",
            ),
        ],
        2: [
            _part("streaming_14b", 230, f"streaming --preset wan-14b{frames}", _STREAM, history),
            _part(
                "streaming_14b_float8",
                230,
                f"streaming --preset wan-14b --dtype float8{frames}",
                f"{_STREAM} --dtype float8",
                history,
            ),
        ],
        3: [
            _part("streaming_1.3b", 110, "streaming --preset wan-1.3b", _STREAM, 2 * SMALL),
            _part(
                "training_1.3b",
                135,
                "training --preset wan-1.3b --batch 1 --stages teacher_forcing --repeats 3",
                f"training {_BASE} --stages teacher_forcing --repeats 1",
                123 * GB,  # 122.0 by its plan of 2026-11-30
            ),
            _part(
                "race",
                115,
                "race --dtype bfloat16 --case whole-390 --case routed-390 --repeats 1",
                "race --dtype bfloat16 --case same-160 --repeats 1",
            ),
            _part(
                "streaming_1.3b_taehv",
                90,
                "streaming --preset wan-1.3b --tiny-decoder",
                _STREAM,
                2 * SMALL,
            ),
        ],
        4: [
            _part(
                "storyworld_remat",
                130,
                "training --preset storyworld --stages teacher_forcing --remat --repeats 200",
                f"training {_BASE} --stages teacher_forcing --remat --repeats 1",
                SMALL,
            ),
            _part(
                "training_storyworld",
                130,
                "training --preset storyworld --repeats 2",
                f"training {_BASE} --repeats 1",
                SMALL,
            ),
            _part(
                "storyworld_kept",
                110,
                "training --preset storyworld --stages teacher_forcing --no-remat --repeats 50",
                f"training {_BASE} --stages teacher_forcing --no-remat --repeats 1",
                MIDDLE,
            ),
        ],
    }[command]
