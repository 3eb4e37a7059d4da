"""The metadata.json of a student's teacher and init, compared with the config.

A difference would cause no error in training: another window than the teacher's, other sampler
times than the student has learned, or prompts from another text encoder. Only the memory policy may
differ, between policies that choose from the same frames: it has no weights.
"""

from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.config import MemoryConfig
from causalcine_jax.convert import load_metadata, load_text_encoder, orbax_copy
from causalcine_jax.convert.find import holds, home
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import raise_faults
from causalcine_jax.film.embeddings import encoder_hash
from causalcine_jax.film.model_folder import model_defaults
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.parallel.processes import text_of_first
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.stages.ode import NEAR

ENCODER = "text_encoder"


def check_recorded(config: TrainConfig, text_encoder: UMT5Encoder | None, mesh) -> tuple[str, ...]:
    """Checks teacher, init and config; returns notes on a memory policy that differs.

    A folder without metadata passes. `text_encoder` is the teacher's; None if it is not loaded.

    Raises:
      UsageError: they differ in more; lists every difference.
    """
    faults, notes = [], []
    for name in ("teacher", "init"):
        folder = getattr(config, name)
        if folder and load_metadata(folder):
            said = model_defaults(Path(folder))
            memory, own = said.get("memory"), config.memory
            if memory and memory.policy != own.policy and memory.reaches_all and own.reaches_all:
                notes.append(
                    f"note: {name} {folder} was made with memory.policy {memory.policy!r}, "
                    f"and the student learns with {own.policy!r}"
                )
                memory = replace(memory, policy=own.policy)
            faults += _memory_faults(config, f"{name} {folder}", memory, said.get("chunk_frames"))
            if name == "init":
                faults += _sampler_faults(config, folder, said.get("sampler"))
    if config.init and holds(Path(config.init), ENCODER):
        folders = Path(config.init), Path(config.teacher)
        # By files first: one process reads them, and nothing is kept in memory.
        same = text_of_first(lambda: "same" if _same_files(*folders) else "")
        load = lambda folder: load_text_encoder(folder, jnp.bfloat16, mesh=mesh)
        if not same and not _same(load(config.init), text_encoder or load(config.teacher)):
            faults.append(
                f"init {config.init} has another text encoder than teacher {config.teacher}: "
                "name the teacher that init was made from"
            )
    raise_faults("teacher and student", faults)
    return tuple(notes)


def _memory_faults(
    config: TrainConfig, what: str, memory: MemoryConfig | None, chunk_frames: int | None
) -> list[str]:
    asked = {f"memory.{field}": value for field, value in asdict(config.memory).items()} | {
        "chunk_frames": config.chunk_frames
    }
    said = {f"memory.{field}": value for field, value in asdict(memory).items()} if memory else {}
    said |= {"chunk_frames": chunk_frames} if chunk_frames else {}
    return [
        f"{what} was made with {field} {value!r}, not {asked[field]!r}: --config.{field}={value}"
        for field, value in said.items()
        if value != asked[field]
    ]


def _sampler_faults(config: TrainConfig, folder: str, sampler: SamplerConfig | None) -> list[str]:
    """A few-step student must keep its sampler's times. Public step lists are rounded, so they may
    differ a little."""
    asked = config.self_forcing.sampler
    if sampler is None or sampler.solver != asked.solver:
        return []
    if len(sampler.times) == len(asked.times) and np.allclose(
        sampler.times, asked.times, rtol=0, atol=NEAR
    ):
        return []
    times = [", ".join(f"{t:g}" for t in each.times) for each in (sampler, asked)]
    own = (
        f"step_list={tuple(sampler.step_list)}"
        if sampler.step_list
        else f"steps={sampler.steps} --config.self_forcing.shift={sampler.shift:g}"
    )
    return [
        f"init {folder} makes films at times {times[0]}, not {times[1]}: "
        f"--config.self_forcing.{own}"
    ]


def _same_files(one: Path, other: Path) -> bool:
    """Whether the text encoders of two models are known to be equal by their files.

    Other files may hold the same weights in another format or precision.
    """
    if home(one, ENCODER).resolve() == home(other, ENCODER).resolve():
        return True
    if any(orbax_copy.find(folder, ENCODER) for folder in (one, other)):
        return False  # a hash does not see an orbax copy's arrays
    return encoder_hash(one) == encoder_hash(other)


def _same(one: UMT5Encoder, other: UMT5Encoder) -> bool:
    """Equal weights, in the precision of an export."""
    pairs = [jax.tree.leaves(net) for net in (one, other)]
    low = lambda leaf: leaf.astype(jnp.bfloat16)
    return [leaf.shape for leaf in pairs[0]] == [leaf.shape for leaf in pairs[1]] and all(
        bool(jnp.array_equal(low(a), low(b))) for a, b in zip(*pairs, strict=True)
    )
