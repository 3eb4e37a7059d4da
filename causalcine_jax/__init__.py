"""causalcine_jax: autoregressive multi-shot video generation in JAX.

An open, unofficial implementation of CausalCine. The names below are imported on first use, so
that a command's --help or a faulty story does not wait for JAX.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "MemoryConfig": "config",
    "PoolConfig": "config",
    "Story": "story",
    "Shot": "story",
    "read_story": "story",
    "load_model": "film.model_folder",
    "Director": "film.director",
    "Chunk": "film.chunk",
    "teacher_forced": "models.packed",
    "denoise_chunk": "film.rollout",
    "commit_chunk": "film.rollout",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'causalcine_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"causalcine_jax.{_HOMES[name]}"), name)
