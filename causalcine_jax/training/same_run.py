"""Whether the run in a folder may continue under a config that differs from its own."""

import json
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.utils.atomic_file import write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FILE = "config.json"
# May differ between a run and its continuation: the loss curve does not depend on it.
FREE = (
    "out",
    "log_every",
    "tensorboard",
    "checkpoint",
    "sample",
    "max_nan_steps",
    "max_critic_mse",
    "seq",
    "rollout_weights",
)
# The same, of fields inside: none changes the films or their order.
FREE_FIELDS = ("data.threads", "data.max_bad_fraction", "ode.batch")
# Must be equal even with --force: another value is another run.
FIXED = (
    "stage",
    "seed",
    "batch",
    "transformer",
    "text_encoder",
    "vae",
    "chunk_frames",
    "train_text_encoder",
    "init",
    "new_latents",
    "new_layers",
    "teacher",
    "lora",
    "data",
)
# May differ, and is printed: a run may always be made longer.
TOLD = ("steps",)


def newest_checkpoint(out: Path) -> int | None:
    """The step of the newest complete checkpoint of the run in `out`."""
    names = [step.name for step in (out / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=None)


def check_same_run(out: Path, config: TrainConfig, *, force: bool = False) -> list[str]:
    """The changes since the run in `out` began, as lines to print.

    A run without a checkpoint has nothing to go on from, so any config may begin anew there.

    Raises:
      UsageError: it is another run; or, unless `force`, a field that the loss curve depends on was
        changed (other than `steps`); or it is already past `steps`.
      DataError: the saved config cannot be read.
    """
    newest = newest_checkpoint(out)
    if newest is not None and newest > config.steps:
        raise UsageError(
            f"{out} holds a checkpoint of step {newest}, and steps is {config.steps}: raise steps "
            f"to {newest} or more, or delete the later ones in {out / 'checkpoints'}"
        )
    if not (out / FILE).is_file() or newest is None:
        return []
    before = _saved(out)
    lines = _changes(before, config)
    if fatal := [line for name, line in lines.items() if name.split(".")[0] in FIXED]:
        raise UsageError(
            f"{out} holds another run: {'; '.join(fatal)}. Choose another out, or delete it"
        )
    refused = [line for name, line in lines.items() if name not in TOLD]
    if refused and not force:
        raise UsageError(
            f"{out} holds a run of another config: {'; '.join(refused)}. "
            "--force goes on with it; or choose another out"
        )
    return [f"changed since this run began: {line}" for line in lines.values()]


def changes(out: Path, config: TrainConfig) -> list[str]:
    """The fields in which the config of the run in `out` differs from `config`.

    Those that the loss curve does not depend on are left out.
    """
    return list(_changes(_saved(out), config).values())


def _saved(out: Path) -> dict[str, Any]:
    try:
        return json.loads((out / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{out / FILE} cannot be read ({error}); choose another out, or delete {out}"
        ) from error


def _changes(before: dict[str, Any], config: TrainConfig) -> dict[str, str]:
    """Field -> a line about its change."""
    changed = _differences(before, config)
    return {
        name: f"{name} was {was!r}, is {now!r}"
        for name, (was, now) in changed.items()
        if name.split(".")[0] not in FREE and name not in FREE_FIELDS
    }


def save_config(out: Path, config: TrainConfig) -> None:
    """The resolved config, beside the run's checkpoints."""
    write_json(out / FILE, asdict(config))


def _differences(
    before: dict[str, Any], now: "DataclassInstance", prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Path -> (value before, value now) of every value that differs.

    A field that did not exist before had its default.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for each in fields(now):
        value = getattr(now, each.name)
        if is_dataclass(value) and not isinstance(value, type):
            found |= _differences(before.get(each.name, {}), value, f"{prefix}{each.name}.")
            continue
        if each.name in before:
            was = before[each.name]
        elif each.default is MISSING:
            continue
        else:
            was = _plain(each.default)
        value = _plain(value)
        if was != value:
            found[prefix + each.name] = (was, value)
    return found


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value))
