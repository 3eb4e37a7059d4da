"""A film that was not finished, so that `causalcine film --resume OUT` goes on with it.

    OUT/unfinished/asked.json     what was asked for: story, earlier record, model, choices;
                                  and what the files held that are read only at the beginning
    OUT/unfinished/journal.json   and the rest of the film's journal (journal.py)

The folder is removed when the film is finished.
"""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from causalcine_jax.convert.lora import loras
from causalcine_jax.errors import DataError, UsageError, disk_faults, raise_faults
from causalcine_jax.film.director import Director
from causalcine_jax.film.journal_files import erase
from causalcine_jax.film.record_schema import FilmRecord, field_faults, type_faults
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.record import Recipe
from causalcine_jax.story import Story
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.output import one_writer
from causalcine_jax.utils.plain_data import read_plain

SCHEMA = "causalcine/unfinished@1"
FOLDER, ASKED = "unfinished", "asked.json"
_PATHS = ("embeddings", "start", "tiny_decoder")


@dataclasses.dataclass(frozen=True)
class Begun:
    """What the files of a film held when it was begun; they may be replaced before it goes on.

    start       the start's entry in film.json; None without a start
    embeddings  digest of its prompts' embeddings; None where the text encoder embeds them
    """

    start: dict[str, Any] | None = None
    embeddings: str | None = None


@dataclasses.dataclass(frozen=True)
class FilmRequest:
    """What decides a film: the arguments of `generate`.

    begun  how an unfinished film was begun; None for a new one, or if an old asked.json lacks it
    """

    recipe: Recipe
    model: Path | None
    choices: Choices
    begun: Begun | None = None


def begun_with(director: Director, start: dict[str, Any] | None) -> Begun:
    """What the director's film is begun with.

    start  its entry in film.json
    """
    known = director.model.embeddings
    prompts = [*(shot.prompt for shot in director.resolved.shots), director.story.negative]
    return Begun(start, None if known is None else known.digest(prompts))


def check_embeddings(asked: FilmRequest, found: Begun) -> None:
    """`UsageError` if an unfinished film's prompts now have other embeddings than before."""
    before = asked.begun and asked.begun.embeddings
    if before not in (None, found.embeddings):
        raise UsageError(
            f"{asked.choices.embeddings} was replaced: its embeddings of this film's prompts are "
            "not those that the film was begun with. Put the earlier file back, or begin the film "
            "anew with --overwrite"
        )


def journal_folder(out: Path) -> Path:
    return out / FOLDER


def is_unfinished(out: Path) -> bool:
    """Whether `out` holds a film that can be gone on with."""
    return (journal_folder(out) / ASKED).is_file()


def check_no_unfinished_film(out: Path) -> None:
    """`UsageError` if `out` holds a film that was not finished."""
    if is_unfinished(out):
        raise UsageError(
            f"{out} holds an unfinished film: go on with it by --resume {out}, "
            "choose another --out, or --overwrite replaces it"
        )


def save_request(out: Path, asked: FilmRequest) -> None:
    """Writes what was asked for; files are named by their absolute paths.

    Symbolic links stay: a model's family is guessed from the name of its folder.
    """
    recorded = asked.recipe.recorded
    record = None if recorded is None else _set(recorded.to_dict())
    if record and "start" in record:
        record["start"]["file"] = str(Path(record["start"]["file"]).absolute())
    fields = {
        "schema": SCHEMA,
        "story": asked.recipe.story.to_dict(),
        "record": record,
        "model": asked.model and str(Path(asked.model).absolute()),
        "choices": plain_choices(asked.choices),
        "begun": asked.begun and vars(asked.begun),
    }
    write_text(journal_folder(out) / ASKED, json.dumps(fields, indent=2))


def plain_choices(choices: Choices) -> dict[str, Any]:
    """The choices that were made, as JSON; files are named by their absolute paths."""
    fields = vars(choices).copy()
    for name in _PATHS:
        fields[name] = fields[name] and str(Path(fields[name]).absolute())
    adapters = loras(choices.lora)
    fields["lora"] = [f"{each.path.absolute()}:{each.strength}" for each in adapters] or None
    return _set(fields)


def read_request(out: Path) -> FilmRequest:
    """What was asked for in `out`.

    Raises:
      DataError: there is no unfinished film.
      UsageError: the file was edited and is faulty.
    """
    file = journal_folder(out) / ASKED
    if not file.is_file():
        finished = (out / "film.json").is_file()
        raise DataError(
            f"{out} holds no unfinished film"
            + (": the one in it is finished" if finished else ", so there is nothing to go on with")
        )
    fields, what = read_plain(file), str(file)
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        raise UsageError(f"{what} does not say what was asked for: its schema is not {SCHEMA}")
    choices, model = fields.get("choices"), fields.get("model")
    if not isinstance(choices, dict) or not isinstance(model, str | None):
        raise UsageError(f"{what}: choices must be a mapping, and model text or nothing")
    choices |= {name: Path(choices[name]) for name in _PATHS if isinstance(choices.get(name), str)}
    raise_faults(what, field_faults(Choices, choices, "choices"))
    recorded = fields.get("record")
    return FilmRequest(
        Recipe(
            Story.from_dict(fields.get("story"), what=what),
            None if recorded is None else FilmRecord.from_dict(recorded, what=what),
        ),
        Path(model) if model else None,
        Choices(**choices),
        _read_begun(fields.get("begun"), what),
    )


def _read_begun(fields: Any, what: str) -> Begun | None:
    if fields is None:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("embeddings"), str | None):
        raise UsageError(f"{what}: begun must be a mapping, and its embeddings text or nothing")
    start = fields.get("start")
    raise_faults(what, type_faults(_set({"start": start})))
    return Begun(start, fields.get("embeddings"))


def remove_unfinished(out: Path) -> None:
    """Removes the journal, what was asked for first; files of others stay.

    Raises:
      DataError: a file cannot be removed.
      UsageError: another process goes on with the film.
    """
    folder = journal_folder(out)
    if not folder.is_dir():
        return
    with one_writer(folder), disk_faults(f"cannot remove {folder}"):
        (folder / ASKED).unlink(missing_ok=True)
        erase(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
