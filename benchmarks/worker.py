"""Measures one part in a process of its own.

Peak memory, compiled programs and the number of devices are then that part's alone.

    python -m benchmarks.worker PART ASKED.json ANSWER.json

Only `bench.py` starts it. ASKED holds the settings, and under `given` the other arguments of the
part's function.
"""

import json
import math
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path

from benchmarks.settings import Settings
from causalcine_jax.cli import cores, run
from causalcine_jax.commands.train import cpu_threads
from causalcine_jax.errors import DataError, UsageError, first_line

# Where each part is measured. Imported on request: other parts' imports would count as its start.
FUNCTIONS = {
    "streaming": ("streaming", "streaming"),
    "training": ("training", "training"),
    "attention": ("parts", "attention"),
    "vae": ("parts", "vae"),
    "text": ("parts", "text"),
    "ceilings": ("ceilings", "ceilings"),
    "machine": ("half_hour.machine", "machine"),
    "forward": ("parts", "forward"),
    "device": ("parts", "device"),
    "model_folder": ("random_model", "model_folder"),
    "first_chunk": ("start", "first_chunk"),
    "race_inputs": ("race_sides", "race_inputs"),
    "race_ours": ("race_sides", "race_ours"),
    "race_theirs": ("race_sides", "race_theirs"),
    "race_peaks": ("machine", "peaks"),
    "race_products": ("machine", "products"),
}
# What the launcher of that work sets before jax is imported (commands/train.py says why).
_SHARED = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false"
}  # torch has the memory of a GPU that jax leaves
ENVIRONMENT = {
    "training": cpu_threads(),
    "race_theirs": _SHARED,
    "race_peaks": _SHARED,
    "race_products": _SHARED,
}


def measure_part(part: str, settings: Settings | None, **given) -> dict:
    """Returns the part's result, and the device that it ran on.

    Without settings, the part takes only what is `given`.

    Raises:
      UsageError: it cannot be measured as requested.
      DataError: it failed, in one line; stderr has the traceback.
    """
    import jax

    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if settings and part == "training" and not forced:
        from benchmarks.training import configs

        films = (config.batch // config.optim.accumulation for config in configs(settings))
        jax.config.update(
            "jax_num_cpu_devices", math.gcd(*films, len(cores()))
        )  # as `causalcine train` does
    if settings and settings.pool_on == "host":
        from causalcine_jax.film.host_memory import allow_all_host_memory

        allow_all_host_memory()
    module, function = FUNCTIONS[part]
    try:
        result = getattr(import_module(f"benchmarks.{module}"), function)(
            *filter(None, [settings]), **given
        )
    except (UsageError, DataError):
        raise
    except Exception as error:
        traceback.print_exc()
        raise DataError(f"{type(error).__name__}: {first_line(error)}") from error
    from causalcine_jax.utils.environment import device

    return {"result": result, "device": device()}


def main() -> None:
    part, asked, answer = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    answer.write_text(
        json.dumps(
            measure_part(
                part, asked["settings"] and Settings(**asked["settings"]), **asked["given"]
            )
        )
    )


if __name__ == "__main__":
    run(main)
