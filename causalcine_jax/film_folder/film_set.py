"""A film of every story of a set, with several seeds: what `causalcine film --stories` does.

    OUT/set.json             what the films are made with: choices, and hashes of the networks
    OUT/SEED/NAME/film.mp4   and the files beside it, as of any film

The model is loaded once. The same command goes on where it was stopped: a finished film is left
alone, an unfinished one is gone on with.
"""

import dataclasses
import functools
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causalcine_jax.errors import (
    DataError,
    UsageError,
    counted,
    kept_when_stopped,
    listed,
    part_faults,
    raise_faults,
    range_faults,
)
from causalcine_jax.film.chosen_model import chosen_model
from causalcine_jax.film.embeddings import PromptEmbeddings
from causalcine_jax.film.weights_sample import SHOWN
from causalcine_jax.film_folder.agreement import network_facts
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.filming import say
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.loaded_model import load_with_choices
from causalcine_jax.film_folder.record import Recipe, recipe_of
from causalcine_jax.film_folder.unfinished import is_unfinished, plain_choices, read_request
from causalcine_jax.parallel.gathering import several
from causalcine_jax.parallel.processes import flat_settings
from causalcine_jax.story_schema import MAX_SEED
from causalcine_jax.story_sets.reading import read_stories
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.output import check_kinds
from causalcine_jax.utils.plain_data import read_plain
from causalcine_jax.utils.progress import time_left

SCHEMA = "causalcine/film-set@1"
MOST_FAILED = 3  # `DataError`s in a row: then the fault lies elsewhere than in the stories


@dataclass(frozen=True)
class FilmSet:
    """The films to make: of every story with every seed, and of these part `part[0]` of `part[1]`.

    Several commands, one per device, may each make a part of the same set.
    """

    stories: dict[str, Recipe]
    seeds: tuple[int, ...]
    part: tuple[int, int] = (1, 1)

    def __post_init__(self):
        seeds = [fault for seed in self.seeds for fault in range_faults("seed", seed, 0, MAX_SEED)]
        raise_faults("film", [*part_faults(self.part), *seeds])

    def films(self) -> list[tuple[int, str]]:
        """(seed, story's name) of each film of this part, seed by seed."""
        every = [(seed, name) for seed in self.seeds for name in self.stories]
        return every[self.part[0] - 1 :: self.part[1]]

    @property
    def hash(self) -> str:
        told = {name: recipe.story.to_dict() for name, recipe in self.stories.items()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def recipes(path: Path) -> dict[str, Recipe]:
    """The recipes of the stories that `read_stories` finds, by name. Raises as it does."""
    return {told.name: recipe_of(told.plain, told.where) for told in read_stories(path)}


def film_set(
    wanted: FilmSet,
    out: Path,
    *,
    model: Path | None = None,
    choices: Choices = Choices(),
    progress: bool = True,
) -> None:
    """Makes all films that are not finished yet. One that fails does not stop the others.

    Raises:
      UsageError: the films in `out` are made with something else, or there are several processes.
      DataError: a model is missing or damaged; or films failed, named with their errors. After
        MOST_FAILED `DataError`s in a row the rest is not tried.
      StoppedEarly: as `generate`.
    """
    if several():
        raise UsageError("--stories is made by one process: give each process a part (--part 1/2)")
    raise_faults("film", choices.faults())
    check_kinds(out, ())
    _agree(
        out,
        {
            "schema": SCHEMA,
            "stories_sha256": wanted.hash,
            "model": model and str(model.absolute()),
            "choices": plain_choices(choices),
            "networks": _networks(wanted, model, choices),
        },
    )
    films = wanted.films()
    left = [each for each in films if not _is_finished(_folder(out, *each))]
    tell = say if progress else (lambda line: None)
    tell(f"{counted(len(films), 'film')}, {len(films) - len(left)} of them finished already")
    loaded = functools.lru_cache(maxsize=1)(load_with_choices)

    def load(folder, asked: Choices, *of):
        return loaded(folder, dataclasses.replace(asked, seed=None), *of)

    failed: dict[str, str] = {}
    seconds: list[float] = []
    in_row = untried = 0
    made = lambda: f"stopped after {len(seconds)} films: the same command goes on"
    for number, (seed, name) in enumerate(left, start=1):
        started = time.perf_counter()
        if _is_finished(_folder(out, seed, name)):  # by another process meanwhile
            continue
        try:
            with kept_when_stopped(made):
                folder = _folder(out, seed, name)
                record = _film(wanted.stories[name], folder, seed, model, choices, load)
        except (UsageError, DataError) as error:
            failed[f"{seed}/{name}"] = str(error)
            in_row += isinstance(error, DataError)
            tell(f"film {number}/{len(left)}  {seed}/{name} failed: {error}")
            if in_row == MOST_FAILED:
                untried = len(left) - number
                break
            continue
        in_row = 0
        seconds.append(time.perf_counter() - started)
        frames = record["resolved"]["frames"]
        rest = (len(left) - number) * float(np.mean(seconds[1:] or seconds))
        parts = [f"film {number}/{len(left)}", f"{seed}/{name}", f"{frames} frames"]
        parts += [f"{seconds[-1]:.0f} s", *([time_left(rest)] if number < len(left) else [])]
        tell("  ".join(parts))
    if failed:
        stopped = (
            f"stopped after {MOST_FAILED} failures in a row, {counted(untried, 'film')} not tried; "
        )
        raise DataError(
            f"{len(failed)} of {len(left)} films failed; {stopped if untried else ''}"
            "the same command tries them again: "
            + listed([f"{name}: {error}" for name, error in failed.items()])
        )


def _film(
    recipe: Recipe, folder: Path, seed: int, model: Path | None, choices: Choices, load
) -> dict[str, Any]:
    """Makes the film, or goes on with it. What cannot be gone on with is made again."""
    resume = is_unfinished(folder)
    return generate(
        read_request(folder).recipe if resume else recipe,
        folder,
        model=model,
        choices=dataclasses.replace(choices, seed=seed),
        progress=False,
        overwrite=not resume,
        resume=resume,
        load=load,
    )


def _is_finished(folder: Path) -> bool:
    return (folder / "film.json").is_file()


def _folder(out: Path, seed: int, name: str) -> Path:
    return out / str(seed) / name


def _networks(wanted: FilmSet, model: Path | None, choices: Choices) -> list[dict[str, Any]]:
    """What identifies the networks of every model that makes a film of the set.

    Of prompt embeddings it is their text encoder, because prompts may be added to the file.
    """
    of_text = {}
    if choices.embeddings:
        encoder = PromptEmbeddings.load(choices.embeddings).encoder_sha256
        of_text = {"embeddings' text encoder": encoder[:SHOWN]}
    folders = {
        chosen_model(model, base=choices.base, recorded=recipe.record)
        for recipe in wanted.stories.values()
    }
    return [network_facts(folder, choices) | of_text for folder in sorted(folders)]


def _agree(out: Path, fields: dict[str, Any]) -> None:
    """Writes what the films are made with; `UsageError` if those in `out` are made otherwise."""
    fields = json.loads(json.dumps(fields))
    file = out / "set.json"
    begun = any(out.glob("*/*/film.json")) or any(out.glob("*/*/unfinished/asked.json"))
    if not begun or not file.exists():
        write_text(file, json.dumps(fields, indent=2) + "\n")
        return
    there = read_plain(file)
    if not isinstance(there, dict) or not isinstance(there.get("choices", {}), dict):
        raise UsageError(f"{file} was edited, and does not say what films are made with: delete it")
    was, now = flat_settings(there), flat_settings(fields)
    raise_faults(
        f"{out} holds films made otherwise (choose another --out)",
        [
            f"{name} was {was.get(name)}, is {now.get(name)}"
            for name in sorted({*was, *now})
            if was.get(name) != now.get(name)
        ],
    )
