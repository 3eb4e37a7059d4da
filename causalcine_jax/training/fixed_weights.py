"""Whether a resumed run has the weights that it does not train: its teacher, an adapter's base.

A checkpoint holds only what is trained. All else is loaded again from `teacher` and `init`, whose
folders may hold another model by then.
"""

import json
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.weights_sample import network_sample
from causalcine_jax.models.nn import Module
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.stages.autoencoder import TRAIN
from causalcine_jax.training.state import Stage
from causalcine_jax.utils.atomic_file import write_json

FILE = "fixed_weights.json"


def fixed_samples(config: TrainConfig, stage: Stage) -> dict[str, Any]:
    """A sample of each network, or part of a VAE, that the stage does not train, and its dtype.

    If the weights span several processes, every process must call this.
    """
    fixed = dict(stage.fixed)
    vae = stage.trained.get("vae")
    if config.facts.clips and isinstance(vae, Module):
        fixed |= {f"vae.{part}": getattr(vae, part) for part in TRAIN[config.autoencoder.train]}
    samples = {name: network_sample(network) for name, network in sorted(fixed.items())}
    return {"dtype": config.dtype, "networks": samples}


def check_fixed(out: Path, config: TrainConfig, now: dict[str, Any], *, resumed: bool) -> None:
    """Keeps the samples `now` in `out` as a run begins; compares them when it goes on.

    Nothing is compared with a run of another dtype, whose networks are rounded otherwise, or from
    before samples were kept.

    Raises:
      UsageError: a network has other weights than when the run began.
      DataError: the file of samples cannot be read.
    """
    file = out / FILE
    before = _read(file) if resumed and file.is_file() else {}
    if before.get("dtype") == now["dtype"]:
        there = before["networks"]
        if other := [name for name, sample in now["networks"].items() if there.get(name) != sample]:
            models = [f"{name} {getattr(config, name)}" for name in ("init", "teacher")]
            named = [model for model in models if not model.endswith(" ")]
            raise UsageError(
                f"{out} holds a run of another model: the weights of {', '.join(other)} are not "
                f"those that it began with ({', '.join(named)}). Put these back, or choose another "
                "out"
            )
    elif now["networks"]:
        write_json(file, now)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found["networks"], dict):
            raise ValueError("networks is no object")
        return found
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{file} cannot be read ({error}); delete it if init and teacher are still those that "
            "the run began with"
        ) from error
