"""What each of two processes, with one device each, runs for test_film_processes.py.

First films that fail, because one process lacks or holds something else; then one that works.

    python tests/support/as_two_film_makers.py FOLDER

Each works in its own folder, FOLDER/host0 or host1, as on two machines.
Prints the errors as JSON.
"""

import json
import os
import sys
from pathlib import Path

import jax

from causalcine_jax.cli import run
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import prompt_recipe
from causalcine_jax.parallel.processes import joined

WHOLE = Choices(whole_film=True, frames=17, seed=1)


def main() -> None:
    folder = Path(sys.argv[1])
    model = folder / "init"
    with joined():
        own = jax.process_index()
        os.chdir(folder / f"host{own}")
        refused = {
            "seq": (model, Choices(seq=2 + own)),
            "model": (Path("model"), Choices()),
            "start": (model, Choices(start=Path("start.png"), start_caption="Mia waves.")),
            "missing": (
                model,
                Choices(start=Path("only_on_host0.png"), start_caption="Mia waves."),
            ),
        }
        errors = {}
        for name, (asked, choices) in refused.items():
            try:
                generate(
                    prompt_recipe("Mia waves."),
                    folder / "refused",
                    model=asked,
                    choices=choices,
                    progress=False,
                )
            except (UsageError, DataError) as error:
                errors[name] = f"{type(error).__name__}: {error}"
        print(json.dumps(errors), flush=True)
        generate(
            prompt_recipe("Mia waves."),
            folder / "whole",
            model=model,
            choices=WHOLE,
            progress=False,
        )


if __name__ == "__main__":
    run(main)
