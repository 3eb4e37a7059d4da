"""What is due after a step beside its checkpoint, and what of it a killed run has left undone."""

from dataclasses import dataclass
from pathlib import Path

from causalcine_jax.convert import load_metadata
from causalcine_jax.parallel.processes import text_of_first
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.metrics import FILE, read_records


@dataclass(frozen=True)
class Due:
    """Whether the held-out loss is due, the model, and a film by that model."""

    held_out: bool
    model: bool
    film: bool


def due_at(config: TrainConfig, step: int) -> Due:
    """What is due after `step`; the last model and its film are not counted."""
    last = step == config.steps
    every = lambda steps: bool(steps) and step % steps == 0
    film = every(config.sample.every) and not last
    return Due(
        held_out=bool(config.held_out.every) and (every(config.held_out.every) or last),
        model=film or (every(config.checkpoint.export_every) and not last),
        film=film,
    )


def undone(out: Path, step: int, due: Due, *, films: bool) -> Due:
    """What of `due` is missing in `out`: a kill came between the checkpoint of `step` and it.

    films  whether the run makes films at all
    """

    def missing() -> str:
        records = read_records(out / FILE)
        measured = any(name.startswith("held_out_") for name in _names(records, step))
        exported = load_metadata(out / "model").get("training", {}).get("step", 0) >= step
        filmed = not (films and due.film) or (film_folder(out, step) / "film.json").is_file()
        lacks = {"held_out": not measured, "model": not (exported and filmed)}
        return " ".join(name for name, lacking in lacks.items() if lacking)

    lacking = text_of_first(missing).split()
    model = due.model and "model" in lacking
    return Due(due.held_out and "held_out" in lacking, model, due.film and model)


def _names(records: list[dict], step: int) -> set[str]:
    """What is recorded of a step."""
    return {name for record in records if record["step"] == step for name in record}


def film_folder(out: Path, step: int) -> Path:
    return out / "samples" / f"{step:06d}"
