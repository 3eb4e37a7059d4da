"""`causalcine --version`: the version, and what it computes with on this machine."""

import importlib.metadata
import platform

from causalcine_jax import __version__
from causalcine_jax.utils.compile_cache import chosen_compile_cache


def main() -> None:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax")]
    print(f"causalcine {__version__}")
    print(", ".join([f"python {platform.python_version()}", *versions]), flush=True)
    # After these lines: jax takes a while to import, and the kernels, the first time, to compile.
    from causalcine_jax.models.cpu.kernels import kernels, path_in_use

    path = path_in_use() if kernels() else f"the portable path, {path_in_use()}"
    print(f"on CPUs ({platform.machine()}): {path}")
    print(chosen_compile_cache().in_words())
