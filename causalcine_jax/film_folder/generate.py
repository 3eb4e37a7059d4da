"""From a story file to a folder with the film: what `causalcine film` does with its parsed flags.

    story -> Director -> chunks -> film.mp4, frame hashes, frames for the pictures
                                -> contact_sheet.png, memory.png, film.json

The film grows as film.unfinished.mp4, and stays so where filming ends early. It is renamed to
film.mp4 after its last frame. film.json is written last, so a folder that has one is complete.
"""

import contextlib
import dataclasses
import math
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.convert import weights_hash
from causalcine_jax.errors import UsageError, kept_when_stopped
from causalcine_jax.film.director import Director
from causalcine_jax.film.finite import NotFinite
from causalcine_jax.film.model_folder import latent_size, notes
from causalcine_jax.film.pool import closed_pool_size
from causalcine_jax.film.rollout_functions import RolloutFunctions
from causalcine_jax.film.weights_sample import OtherWeights
from causalcine_jax.film.whole_film import WHOLE_FILM
from causalcine_jax.film_folder import record as provenance
from causalcine_jax.film_folder.agreement import agreed
from causalcine_jax.film_folder.choices import Choices, Setup, decide
from causalcine_jax.film_folder.filming import FILES, Footage, say, shoot
from causalcine_jax.film_folder.loaded_model import (
    LoadedModel,
    added_files,
    load_with_choices,
    on_mesh,
)
from causalcine_jax.film_folder.record import Recipe
from causalcine_jax.film_folder.report import adapter_notes, closing_lines, details, opening_lines
from causalcine_jax.film_folder.start import Opening, Start, opening, without_start
from causalcine_jax.film_folder.unfinished import (
    FilmRequest,
    begun_with,
    check_embeddings,
    check_no_unfinished_film,
    journal_folder,
    read_request,
    remove_unfinished,
    save_request,
)
from causalcine_jax.parallel.processes import by_all, by_first, is_first
from causalcine_jax.render.contact_sheet import save_contact_sheet
from causalcine_jax.render.mp4 import check_size, film_bytes, viewing_scale
from causalcine_jax.utils import output
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.environment import device, software

BESIDE = 8 << 20  # bytes of the pictures and the record beside a film


def generate(
    recipe: Recipe,
    out: Path,
    *,
    model: Path | None = None,
    choices: Choices = Choices(),
    progress: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    load: Callable[..., LoadedModel] = load_with_choices,
) -> dict[str, Any]:
    """Makes the film and the files beside it in `out`; returns the content of film.json.

    Several processes (parallel/processes.py) make each chunk together, on all their devices. The
    first process writes; the others return an empty record.

    Args:
      overwrite: removes an earlier film in `out`, just before the first chunk.
      resume: goes on with the unfinished film in `out`, which was begun with the same arguments
        (unfinished.read_request). What was kept of it is committed and decoded again.
      load: gives the model, with the arguments of `load_with_choices`.

    Raises:
      UsageError: story, choices and model do not fit together, the processes were asked for
        different films, or `out` cannot be had (`one_writer`); nothing is written.
      DataError: weights are missing or damaged, or the disk is full; no partial file is left under
        its final name.
      StoppedEarly: for a KeyboardInterrupt after the first frames, which are kept.
    """
    out = Path(out)
    film = FilmRequest(recipe, model, choices, read_request(out).begun if resume else None)
    start, folder, mesh = agreed(film)
    with contextlib.ExitStack() as held:
        by_first(lambda: _hold(held, out, overwrite, resume))
        held.enter_context(on_mesh(mesh))
        loaded = lambda: load(folder, choices, mesh, recipe.record.dtype)
        return _generate(film, Place(out, resume, progress), folder, loaded, start)


@dataclass(frozen=True)
class Place:
    """Where a film goes, whether it was begun there, and whether progress is shown."""

    out: Path
    resume: bool
    progress: bool


def _hold(held: contextlib.ExitStack, out: Path, overwrite: bool, resume: bool) -> None:
    held.enter_context(output.one_writer(out, FILES))
    if not overwrite and not resume:
        check_no_unfinished_film(out)
        output.check_absent(out, FILES)


def _generate(
    film: FilmRequest,
    place: Place,
    folder: Path,
    load: Callable[[], LoadedModel],
    start: Start | None,
) -> dict[str, Any]:
    """`generate`, given the model's folder, what loads the model, and the start."""
    recipe, choices, out = film.recipe, film.choices, place.out
    started = time.perf_counter()
    asked = load()
    setup = decide(recipe, asked.model, choices)
    opened = opening(start, setup.story, setup.model) if start else None
    director = _director(setup, choices, opened, place)
    with contextlib.ExitStack() as held:
        held.callback(director.close)  # if filming cannot begin, the journal is free for the next
        begun = begun_with(director, opened.record if opened else None)
        by_all(lambda: check_embeddings(film, begun))
        of_start = (film.begun or begun).start
        recorded_scale = None if choices.size else recipe.record.scale
        scale = choices.scale or recorded_scale or viewing_scale(director.story.video.size[0])
        by_first(lambda: _check_file(director, out, scale))
        by_first(lambda: _clear(place))
        if not setup.whole_film and not place.resume:
            director.keep_in(journal_folder(out))
            asked_for = dataclasses.replace(film, begun=begun)
            by_first(lambda: save_request(out, asked_for))  # last: what has it can be resumed
        held.pop_all()
    if not is_first():
        for _ in director:  # this process's part of every chunk
            pass
        return {}
    tell = say if place.progress else (lambda line: None)
    with _resumable(director, place):
        # Hashing the files of 14B takes a minute, so it runs beside the film.
        weights = _beside(lambda: weights_hash(folder))
        added = added_files(choices)
        for line in [
            *(opened.notes if opened else ()),
            *setup.notes,
            *opening_lines(director, recipe, weights, added.get("tiny_decoder")),
            *adapter_notes(recipe, added.get("loras", [])),
            *notes(folder, choices.lora),
        ]:
            tell(line)
        footage = shoot(director, out / "film.mp4", scale, place.progress)
        record = {
            "schema": provenance.SCHEMA,
            "story": (without_start(director.story) if of_start else director.story).to_dict(),
            **({"start": of_start} if of_start else {}),
            **added,
            "resolved": provenance.resolved_dict(director.resolved),
            **provenance.recorded_settings(director),
            "frames_sha256": footage.digest.hexdigest(),
            "scale": scale,
            "model": folder.name,
            "weights_sha256": weights(),
            "software": software(),
            "device": {**device(), **asked.placement},
            "timings": {
                "total_seconds": round(time.perf_counter() - started, 3),
                "pool_bytes": director.pool_bytes,
                **footage.timings(),
            },
            # Per chunk and layer: the latent frames that memory retrieved, newest first; -1: none.
            "retrieved": footage.retrieved,
        }
        for line in [*_save(out, director, footage, record), *closing_lines(record, recipe, out)]:
            tell(line)
    remove_unfinished(out)
    return record


@contextlib.contextmanager
def _resumable(director: Director, place: Place) -> Iterator[None]:
    """Says how to go on where the work inside ends early; closes the director."""
    has_begun = lambda: place.resume or director.next_chunk > 0
    kept = lambda: director.state.cache is not None and has_begun()
    try:
        with kept_when_stopped(lambda: "stopped before the film's end" if kept() else ""):
            yield
    except BaseException as error:
        director.close()
        if kept() and isinstance(error, NotFinite):
            say("going on with it would end the same way: film it otherwise, with --overwrite")
        elif kept():
            say(f"go on with it: causalcine film --resume {shlex.quote(str(place.out))}")
        else:
            remove_unfinished(place.out)
        raise
    director.close()


def _director(setup: Setup, choices: Choices, opened: Opening | None, place: Place) -> Director:
    if place.resume:
        try:
            return Director.resume(journal_folder(place.out), setup.model, from_beginning=True)
        except OtherWeights:  # its message is for Python, where the model is chosen anew
            files = [setup.model.folder, *(choices.lora or ()), choices.tiny_decoder]
            raise UsageError(
                f"the weights in {', '.join(str(file) for file in files if file)} are not those "
                "the film was begun with: put them back, or film anew with --overwrite"
            ) from None
    director = Director(
        setup.model,
        opened.story if opened else setup.story,
        seed=choices.seed,
        sampler=setup.sampler,
        memory=setup.memory,
        pool=setup.pool,
        start=opened.latents if opened else None,
        functions=WHOLE_FILM if setup.whole_film else RolloutFunctions(closed_pool_size),
    )
    director.pool_watch.asked = setup.pool_asked  # setup.pool may have the size of the film.json
    return director


def _clear(place: Place) -> None:
    """Removes what is left of an earlier film."""
    output.remove_files(place.out, FILES)
    if not place.resume:
        remove_unfinished(place.out)


def _check_file(director: Director, out: Path, scale: int) -> None:
    """Raises if the film's frames do not fit a film.mp4, or the film may not fit the disk."""
    height, width = director.story.video.size
    check_size(height, width, scale)
    there = output.there_already(out, (*FILES, f"{journal_folder(out).name}/**/*"))
    earlier = sum(file.stat().st_size for file in there if file.is_file())
    needed = film_bytes(director.resolved.frames, height, width, scale) + BESIDE
    model = director.model
    latents = math.prod(latent_size(model, height, width)) * model.transformer.config.in_dim * 4
    needed += director.resolved.chunks * model.chunk_frames * latents  # the journal
    output.check_disk(needed, out, freed=earlier)


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
    footage.memories.save(out / "memory.png", director.resolved)
    write_text(out / "film.json", provenance.pretty(record) + "\n")
    return notes
