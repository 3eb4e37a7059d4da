"""From a story file to a folder with the film: what `causalcine film` does with its parsed flags.

    story -> Director -> chunks -> film.mp4, frame hashes, frames for the pictures
                                -> contact_sheet.png, memory.png, film.json

The file is renamed to film.mp4 after its last frame. film.json is written last, so a folder that
has one is complete.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from causalcine_jax.config import ROLLOUT_WEIGHTS
from causalcine_jax.convert import weights_hash
from causalcine_jax.convert.find import adapter_file
from causalcine_jax.convert.lora import loras
from causalcine_jax.film import record as provenance
from causalcine_jax.film.agreement import agreed
from causalcine_jax.film.choices import Choices, Setup, decide
from causalcine_jax.film.chosen_model import chosen_model
from causalcine_jax.film.director import Director
from causalcine_jax.film.filming import Footage, say, shoot
from causalcine_jax.film.model_folder import load_model, notes, save_embeddings
from causalcine_jax.film.moves import Moves
from causalcine_jax.film.pool import closed_pool_size, held_for_films
from causalcine_jax.film.record import Recipe
from causalcine_jax.film.report import adapter_notes, closing_lines, details, opening_lines
from causalcine_jax.film.start import Start, opening, without_start
from causalcine_jax.film.whole_film import WHOLE_FILM
from causalcine_jax.parallel.processes import is_first
from causalcine_jax.render.contact_sheet import save_contact_sheet
from causalcine_jax.render.mp4 import check_size, viewing_scale
from causalcine_jax.story import prompt_of
from causalcine_jax.utils.atomic_file import atomic_file, file_hash


def generate(
    recipe: Recipe,
    out: Path,
    *,
    model: Path | None = None,
    choices: Choices = Choices(),
    progress: bool = True,
) -> dict[str, Any]:
    """Makes the film and the files beside it in `out`; returns the content of film.json.

    Several processes (parallel/processes.py) make each chunk together, on all their devices. The
    first process writes; the others return an empty record.

    Raises:
      UsageError: story, choices and model do not fit together, or the processes were asked for
        different films; nothing is written.
      DataError: weights are missing or damaged, or a file cannot be written; no partial file is
        left under its final name.
    """
    start, folder, mesh = agreed(recipe, model, choices)
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        return _generate(recipe, Path(out), folder, mesh, choices, start, progress)


def _generate(
    recipe: Recipe,
    out: Path,
    folder: Path,
    mesh: Mesh | None,
    choices: Choices,
    start: Start | None,
    progress: bool,
) -> dict[str, Any]:
    """`generate`, given the model's folder, the mesh and the start."""
    started = time.perf_counter()
    networks = load_model(
        folder,
        choices.dtype or recipe.record.dtype,
        embeddings=choices.embeddings,
        tiny_decoder=choices.tiny_decoder,
        lora=choices.lora,
        mesh=mesh,
    )
    together = {"seq": mesh.size if mesh else 1}
    if together["seq"] > 1:
        together["rollout_weights"] = choices.rollout_weights or ROLLOUT_WEIGHTS[0]
        networks = replace(
            networks, transformer=held_for_films(networks.transformer, together["rollout_weights"])
        )
    setup = decide(recipe, networks, choices)
    begun = opening(start, setup.story, setup.model) if start else None
    director = Director(
        setup.model,
        begun.story if begun else setup.story,
        seed=choices.seed,
        sampler=setup.sampler,
        memory=setup.memory,
        pool=setup.pool,
        start=begun.latents if begun else None,
        moves=WHOLE_FILM if setup.whole_film else Moves(closed_pool_size),
    )
    if not is_first():
        for _ in director:  # this process's part of every chunk
            pass
        return {}
    video = director.story.video
    scale = choices.scale or recipe.record.scale or viewing_scale(video.height)
    check_size(video.height, video.width, scale)
    # Hashing the files of 14B takes a minute, so it runs beside the film.
    weights = _beside(lambda: weights_hash(folder))
    decoder = choices.tiny_decoder and {
        "file": choices.tiny_decoder.name,
        "sha256": file_hash(choices.tiny_decoder),
    }
    tell = say if progress else (lambda line: None)
    adapters = [
        {
            "file": each.path.name,
            "strength": each.strength,
            "sha256": file_hash(adapter_file(each.path)),
        }
        for each in loras(choices.lora)
    ]
    for line in [
        *(begun.notes if begun else ()),
        *setup.notes,
        *opening_lines(director, recipe, weights, decoder),
        *adapter_notes(recipe, adapters),
        *notes(folder, choices.lora),
    ]:
        tell(line)
    footage = shoot(director, out / "film.mp4", scale, progress)
    record = {
        "schema": provenance.SCHEMA,
        "story": (without_start(director.story) if begun else director.story).to_dict(),
        **({"start": begun.record} if begun else {}),
        **({"tiny_decoder": decoder} if decoder else {}),
        **({"loras": adapters} if adapters else {}),
        **_record(director, setup, footage),
        "scale": scale,
        "model": folder.name,
        "weights_sha256": weights(),
        "software": provenance.software(),
        "device": {**provenance.device(), **together},
        "timings": {
            "total_seconds": round(time.perf_counter() - started, 3),
            "pool_bytes": director.pool_bytes,
            **footage.timings(),
        },
        # Per chunk and layer: the latent frames that memory retrieved, newest first; -1 for none.
        "retrieved": footage.retrieved,
    }
    for line in [*_save(out, director, footage, record), *closing_lines(record, recipe, out)]:
        tell(line)
    return record


def save_story_embeddings(
    recipe: Recipe,
    file: Path,
    *,
    model: Path | None = None,
    choices: Choices = Choices(),
    progress: bool = True,
) -> None:
    """Adds the embeddings of the story's prompts to `file`; loads only the text encoder.

    Raises as `generate` does.
    """
    story = recipe.story
    prompts = [(f"shot '{shot.id}'", shot.prompt) for shot in story.resolve().shots]
    if caption := choices.start_caption or (recipe.record.start or {}).get("caption"):
        prompts.append(("start", prompt_of(story.global_caption, caption)))
    if negative := story.negative if choices.negative is None else choices.negative:
        prompts.append(("negative", negative))
    folder = chosen_model(model, base=choices.base, recorded=recipe.record)
    new = save_embeddings(file, folder, prompts, choices.dtype or recipe.record.dtype)
    if progress:
        say(f"{file}: {len(new)} new prompts")


def _record(director: Director, setup: Setup, footage: Footage) -> dict[str, Any]:
    """The fields of film.json that describe how the frames were made, and their hash."""
    return {
        "resolved": provenance.resolved_dict(director.resolved),
        "sampler": asdict(setup.sampler),
        "memory": asdict(setup.memory),
        "whole_film": setup.whole_film,
        "chunk_frames": setup.model.chunk_frames,
        "pool_frames": director.settings.pool.frames or setup.model.chunk_frames,
        "kv_dtype": setup.pool.dtype,
        "pool_on": setup.pool.place,
        "dtype": setup.model.dtype,
        "frames_sha256": footage.digest.hexdigest(),
    }


def _beside(work: Callable[[], str]) -> Callable[[], str]:
    """Runs `work` in a daemon thread; the returned function waits for its result or error.

    A stopped command does not wait for the thread.
    """
    done: Future[str] = Future()

    def run():
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result


def _save(out: Path, director: Director, footage: Footage, record: dict[str, Any]) -> list[str]:
    """Writes the pictures, then film.json, beside the film in `out`; returns notes to print."""
    notes = save_contact_sheet(
        out / "contact_sheet.png",
        director.resolved,
        footage.sheet,
        director.story.global_caption,
        details(record),
    )
    if not footage.memories.save(out / "memory.png", director.resolved):
        (out / "memory.png").unlink(missing_ok=True)  # left by an earlier film
    with atomic_file(out / "film.json") as partial:
        partial.write_text(provenance.pretty(record) + "\n", encoding="utf-8")
    return notes
