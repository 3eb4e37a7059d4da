"""Reruns the paper's tables in StoryWorld: trains what is missing, measures all, writes one report.

    causalcine experiments --scale base                       # films of 80x48, two CPU cores: hours
    causalcine experiments --tables students --returns 20 --films 20   # quick: the embedded weights
    causalcine experiments --scale storyworld --report docs   # 160x96, one H200
    causalcine experiments --dry-run                          # every command that would be run

Tables: table1, students, multishot, memory, gan, positions, minute, long
(experiments/tables.py tells of each).

Given again after it was stopped, it goes on: a finished run is not repeated, a stopped one resumes,
and every measurement is kept as JSON when it is made. --use takes a model, or a latent store, that
was made elsewhere: --use student=DIR --use films/base=DIR.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from causalcine_jax.cli import ArgumentParser, whole_number
from causalcine_jax.errors import DataError, UsageError, kept_when_stopped
from causalcine_jax.utils.output import one_writer
from experiments import REPOSITORY

if TYPE_CHECKING:
    from experiments.commands import RunCommand, Workshop


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine experiments", description=__doc__)
    parser.add_argument(
        "--scale",
        default="base",
        help="base (80x48, two CPU cores) or storyworld (160x96, one H200)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for films, runs and measurements (default: outputs/experiments/SCALE)",
    )
    parser.add_argument(
        "--tables", type=_names, help="some of the tables, joined by commas (default: all)"
    )
    parser.add_argument(
        "--seeds",
        type=whole_number,
        default=1,
        help="train every variant with so many seeds (default 1)",
    )
    parser.add_argument(
        "--use",
        type=_use,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="take this model for a run, or films/NAME=DIR",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write experiments.md and experiments/*.png there (default: OUT/report)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print every command that would be run, in order, and stop",
    )
    parser.add_argument(
        "--no-training", action="store_true", help="measure the models that are there"
    )
    parser.add_argument(
        "--no-measuring", action="store_true", help="write the report from what was measured"
    )
    amounts = parser.add_argument_group("how much is measured")
    amounts.add_argument(
        "--returns", type=whole_number, help="returns of the primary recall (default 200)"
    )
    amounts.add_argument("--films", type=whole_number, help="free films (default 200)")
    amounts.add_argument(
        "--long-films",
        type=whole_number,
        help="films 8 times as long as those of training (default 30)",
    )
    amounts.add_argument(
        "--endless-films", type=whole_number, help="films of ten minutes (default 8)"
    )
    amounts.add_argument("--batch", type=whole_number, help="films side by side (default 20)")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _use(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r} does not name a model: give NAME=FOLDER")
    return name, Path(folder)


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    if not Path("launch/train.py").is_file():  # commands and folders are named from there
        raise UsageError(f"experiments run in their checkout: cd {REPOSITORY}")
    from experiments.commands import OUT, Workshop, check_request, needed_runs
    from experiments.runs import SCALES
    from experiments.tables import TABLES

    tables = list(TABLES) if flags.tables is None else flags.tables
    amounts = {
        name: value
        for name in ("returns", "films", "long_films", "endless_films", "batch")
        if (value := getattr(flags, name)) is not None
    }
    check_request(flags.scale, tables, flags.seeds, amounts)
    out = flags.out or OUT / flags.scale
    workshop = Workshop(SCALES[flags.scale], out, dict(flags.use))
    commands = [] if flags.no_training else workshop.commands(needed_runs(tables), flags.seeds)
    if flags.dry_run:
        for run_name, folder in workshop.all_taken(needed_runs(tables)).items():
            print(f"# {run_name}: {folder}")
        for command in commands:
            print(command)
        return
    what = f"{out} keeps what is done; the same command goes on from there"
    with one_writer(out), kept_when_stopped(what):
        _run(workshop, commands, tables, amounts, flags)


def _run(
    workshop: "Workshop",
    commands: "list[RunCommand]",
    tables: list[str],
    amounts: dict[str, int],
    flags: argparse.Namespace,
) -> None:
    """Trains what is missing, measures, and writes the report."""
    for command in commands:
        command.run()
        if not workshop.made_by(command):
            raise DataError(
                f"{command.makes} was stopped; the same command goes on from where it was"
            )
    # After the training: the processes of the accelerator's owner come one after the other.
    from experiments.kinds import Amounts
    from experiments.measure import measure, measurements
    from experiments.report import write_report

    if not flags.no_measuring:
        for wanted in measurements(workshop, tables, flags.seeds):
            if not measure(workshop, wanted, Amounts(**amounts)):
                print(f"{wanted.name}: not measured, a model is missing")
    folder = flags.report or workshop.out / "report"
    print(f"report: {write_report(workshop, tables, flags.seeds, folder)}")
