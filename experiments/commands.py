"""Turns runs into command lines: which models exist, which must be made, how and in what order.

A finished run is not repeated. The same command resumes a stopped run or latent store.
"""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from causalcine_jax.cli import STOPPED, cores
from causalcine_jax.errors import DataError, StoppedEarly, UsageError, nearest, raise_faults
from experiments.plan import ExperimentScale
from experiments.runs import SCALES
from experiments.tables import TABLES

OUT = Path("outputs/experiments")


@dataclass(frozen=True)
class Workshop:
    """Where the models and films of one scale are.

    out   folder of everything that is made: films/, runs/, measurements/
    used  models and latent stores made elsewhere, by the names of runs and films ("films/base")
    """

    scale: ExperimentScale
    out: Path
    used: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self):
        known = [*self.scale.runs, *(f"films/{name}" for name in self.scale.films)]
        faults = [
            f"there is no run or store {name!r}, {nearest(name, known)}"
            for name in self.used
            if name not in known
        ]
        faults += [
            f"{name}: there is no folder {path}"
            for name, path in self.used.items()
            if not path.is_dir()
        ]
        raise_faults("--use", faults)

    def taken(self, run: str) -> Path | None:
        """Returns the model folder that is used instead of training a run, if any."""
        if run in self.used:
            return self.used[run]
        shipped = self.scale.runs[run].shipped
        return Path(shipped) if shipped and Path(shipped).is_dir() else None

    def made(self, run: str, seed: int) -> str:
        """Returns the name of a run with a seed.

        Models taken from elsewhere, and the first seed, have no seed in their name.
        """
        return run if seed == 0 or self.taken(run) else f"{run}-seed{seed}"

    def folder(self, run: str, seed: int) -> Path:
        return self.out / "runs" / self.made(run, seed)

    def model(self, run: str, seed: int = 0) -> Path:
        """Returns the run's model folder, whether it exists or not."""
        return self.taken(run) or self.folder(run, seed) / "model"

    def is_there(self, run: str, seed: int = 0) -> bool:
        """Whether the model needs no more training. An unfinished run's model does not count."""
        return self.taken(run) is not None or _finished(self.folder(run, seed))

    def made_by(self, command: "RunCommand") -> bool:
        """Whether the result of a command exists and is complete."""
        store = command.makes.removeprefix("films/")
        return (
            self._encoded(store)
            if store != command.makes
            else _finished(self.out / "runs" / command.makes)
        )

    def all_taken(self, runs: Iterable[str]) -> dict[str, Path]:
        """Returns the runs whose models are taken from elsewhere, among all that `runs` need.

        Each has its folder.
        """
        waiting, seen = list(runs), set()
        while waiting:
            name = waiting.pop(0)
            if name not in seen and not self.taken(name):
                run = self.scale.runs[name]
                waiting += filter(
                    None, (self.scale.vae if run.films else None, run.teacher, run.init)
                )
            seen.add(name)
        return {
            name: folder
            for name in self.scale.runs
            if name in seen and (folder := self.taken(name))
        }

    def store(self, films: str) -> Path:
        return self.used.get(f"films/{films}", self.out / "films" / films)

    @property
    def name(self) -> str:
        """The name of its scale."""
        return next(name for name, scale in SCALES.items() if scale is self.scale)

    def recipe(self, runs: Iterable[str], seeds: int) -> list["RunCommand"]:
        """Returns the commands that make the models of `runs`, as if none were used or made."""
        return Workshop(self.scale, OUT / self.name).commands(runs, seeds, done=True)

    def commands(
        self, runs: Iterable[str], seeds: int, *, done: bool = False
    ) -> list["RunCommand"]:
        """Lists the commands after which the models of `runs` exist, each after what it needs.

        With `done`, also those that were already run.
        """
        listed: dict[str, RunCommand] = {}
        for seed in range(seeds):
            for run in runs:
                self._add(run, seed, listed, done)
        return list(listed.values())

    def _add(self, name: str, seed: int, listed: dict[str, "RunCommand"], done: bool) -> None:
        made = self.made(name, seed)
        if made in listed or self.taken(name):
            return
        if self.is_there(name, seed) and not done:
            _check_recipe(self.folder(name, seed), self._train(name, seed))
            return
        run = self.scale.runs[name]
        if run.films:
            self._add(self.scale.vae, 0, listed, done)
        for before in filter(None, (run.teacher, run.init)):
            self._add(before, seed, listed, done)
        for films in run.films:
            store = f"films/{films}"
            if (
                store not in listed
                and store not in self.used
                and (done or not self._encoded(films))
            ):
                listed[store] = self._encode(films)
        listed[made] = self._train(name, seed)

    def _encoded(self, films: str) -> bool:
        return (self.store(films) / "store.json").is_file()

    def _encode(self, films: str) -> "RunCommand":
        what = self.scale.films[films]
        processes = len(cores()) if self.scale.world == "base" else 1
        flags = {
            "model": self.model(self.scale.vae),
            "out": self.store(films),
            "world": what.world,
            "films": what.count,
            "processes": processes,
        }
        return RunCommand(
            f"films/{films}",
            "launch/encode.py",
            tuple(part for name, value in flags.items() for part in (f"--{name}", str(value))),
        )

    def _train(self, name: str, seed: int) -> "RunCommand":
        run, out = self.scale.runs[name], self.folder(name, seed)
        fields = {"out": str(out)}
        fields |= {
            key: str(self.model(before, seed))
            for key, before in (("init", run.init), ("teacher", run.teacher))
            if before
        }
        if run.films:
            fields["data.store"] = ",".join(str(self.store(films)) for films in run.films)
            fields["data.vae"] = str(self.model(self.scale.vae))
        fields |= {"seed": str(seed)} if seed else {}
        fields |= {key: value.format(out=out) for key, value in run.overrides}
        flags = (
            "--config",
            run.config,
            *(f"--config.{key}={value}" for key, value in fields.items()),
        )
        return RunCommand(self.made(name, seed), "launch/train.py", flags)


@dataclass(frozen=True)
class RunCommand:
    """One command line of this repository, and the name of what it makes."""

    makes: str
    program: str
    flags: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["python", self.program, *self.flags])

    def run(self) -> None:
        """Runs it in a process of its own, which frees its memory at the end.

        Stopped by Ctrl-C or SIGTERM, it first lets the process save.

        Raises:
          StoppedEarly: it was stopped, and goes on when it is run again.
          DataError: the command failed.
        """
        print(f"\n{self.makes}: {self}", flush=True)
        process = subprocess.Popen([sys.executable, self.program, *self.flags])
        try:
            code = process.wait()
        except KeyboardInterrupt as stopped:
            if stopped.args == (signal.SIGTERM,):  # reached this process alone; Ctrl-C reaches both
                process.terminate()
            raise
        finally:
            process.wait()
        if code == STOPPED:
            raise StoppedEarly(
                f"{self.makes} was stopped; the same command goes on from where it was"
            )
        if code:
            raise DataError(
                f"{self.makes} failed with exit code {code}; the same command resumes it: {self}"
            )


def needed_runs(tables: Iterable[str]) -> list[str]:
    """Returns the runs that tables measure."""
    return list(dict.fromkeys(row.run for name in tables for row in TABLES[name].rows))


def check_request(scale: str, tables: list[str], seeds: int, amounts: dict[str, int]) -> None:
    """Checks a request.

    Raises:
      UsageError: lists every fault.
    """
    faults = [] if scale in SCALES else [f"there is no scale {scale!r}, {nearest(scale, SCALES)}"]
    faults += [
        f"there is no table {name!r}, {nearest(name, TABLES)}"
        for name in tables
        if name not in TABLES
    ]
    faults += [] if tables else ["name at least one table"]
    faults += [
        f"{name} must be at least 1, not {value}"
        for name, value in {"seeds": seeds, **amounts}.items()
        if value < 1
    ]
    raise_faults("experiments", faults)


def _check_recipe(out: Path, command: "RunCommand") -> None:
    """Checks that the finished run in `out` has the config that the command would use now.

    Raises:
      UsageError: it has another.
    """
    # Imported here, so that listing commands does not wait for jax.
    from causalcine_jax.training import flags
    from causalcine_jax.training.same_run import changes

    config, _ = flags.parse(list(command.flags))
    if changed := changes(out, config):
        raise UsageError(
            f"{out} was trained with other settings: {'; '.join(changed)}. "
            "Delete it, or choose another --out"
        )


def _finished(out: Path) -> bool:
    """Whether the run in `out` wrote the model of its last step."""
    try:
        steps = json.loads((out / "config.json").read_text(encoding="utf-8"))["steps"]
        left = json.loads((out / "model" / "metadata.json").read_text(encoding="utf-8"))[
            "training"
        ]["step"]
    except (OSError, ValueError, KeyError):
        return False
    return left >= steps
