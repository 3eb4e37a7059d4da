"""How tests compile: quickly on the CPU, and as every command does where they need a GPU."""

import os
from importlib.metadata import version

from causalcine_jax.utils.compiler import tune_compiler

# Tests compile many small programs and run each once: compile quickly rather than well.
QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
# Halves what compiling takes. Later versions refuse the flag, as any that they do not know.
if version("jaxlib").startswith("0.10."):
    QUICKLY += " --xla_cpu_use_fusion_emitters=false"


def gpu_alone(words: list[str]) -> bool:
    """Whether pytest's words ask for the tests that need a GPU and no others: -m gpu."""
    marks = [after for word, after in zip(words, words[1:], strict=False) if word == "-m"]
    marks += [word.removeprefix("-m") for word in words if word.startswith("-m") and word != "-m"]
    return marks == ["gpu"]


def set_up(words: list[str]) -> None:
    """Sets the environment's variables, before jax is imported: also for processes of tests.

    Commands call `tune_compiler`. It must find its settings here, else a program that a command
    compiles has another key in the cache than the same program of a test.
    """
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    # Each operation of a program would be written with the lines of Python that led to it.
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    if not gpu_alone(words):
        # They run on the CPU, also where there is a GPU: they are many, in many processes.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault("JAX_OPTIMIZATION_LEVEL", "UNKNOWN")  # jax's default
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY}"
    tune_compiler()
