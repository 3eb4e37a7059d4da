"""Which model makes a film: a named folder, an embedded model, or the base of either.

The package holds a base model and, if its weights are installed, a few-step student of it. The
student is the default. A film.json is filmed again with the model that it names.
"""

from pathlib import Path

from causalcine_jax.convert import guess_family, weights_hash
from causalcine_jax.convert.metadata import base_of, load_metadata
from causalcine_jax.errors import UsageError
from causalcine_jax.film.record_schema import FilmRecord

EMBEDDED = Path(__file__).parents[1] / "weights" / "storyworld"
STUDENT = EMBEDDED.with_name("storyworld-student")


def default_model() -> Path:
    """The embedded model: the student, or the base model where this installation has no student."""
    return STUDENT if STUDENT.is_dir() else EMBEDDED


def chosen_model(
    named: str | Path | None, *, base: bool = False, recorded: FilmRecord = FilmRecord()
) -> Path:
    """The model folder to load.

    Args:
      named: a model folder; None for an embedded one.
      base: whether to take the model that it was distilled from.
      recorded: the film.json to film again; selects the embedded model with the same weights.

    Raises:
      UsageError: the named model was not distilled from another.
      DataError: the base that its metadata.json names is missing.
    """
    if named is None:
        return EMBEDDED if base else _of_record(recorded)
    folder = Path(named)
    if not base or not folder.exists():
        return folder
    found = base_of(folder)
    if found is None:
        raise UsageError(
            f"{folder} has no base model: only a distilled model's metadata.json names one; "
            "leave out --sampler base"
        )
    return found


def is_causal(folder: Path | None) -> bool:
    """Whether metadata.json or the folder's name says that the model makes films chunk by chunk.

    Models trained here and causal models fine-tuned from Wan2.1 do; Wan2.1's own models do not.
    """
    said = {} if folder is None else load_metadata(folder)
    guessed = None if folder is None or said else guess_family.guess(folder)
    known = "sampler" in said or guessed is not None
    name = said.get("family") if said else guessed and guessed.name
    return known and not str(name).startswith("wan2.1")


def _of_record(recorded: FilmRecord) -> Path:
    """The embedded model with the film.json's weights, or with its name, or the default."""
    embedded = [folder for folder in (STUDENT, EMBEDDED) if folder.is_dir()]
    weights, name = recorded.weights_sha256, recorded.model
    same = [folder for folder in embedded if weights and weights_hash(folder) == weights]
    called = [folder for folder in embedded if folder.name == name]
    return next(iter([*same, *called]), default_model())
