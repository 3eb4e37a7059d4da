"""What the experiments are, as data.

runs.py says what is trained from what. tables.py says which models are measured, how and why.

    tables -> rows -> the runs whose models they measure -> the runs that those start from
        -> the films that those learn from

Nothing here is executed: commands.py turns runs into command lines, measure.py rows into numbers,
and report.py both into the report.
"""

import math
from dataclasses import dataclass

LONGER = 8  # how many times as long as in training long films are
FAR = 6  # chunks: from here on a character's absence is long
Override = tuple[str, str]
Setting = tuple[str, str | int]
CAMR: tuple[Setting, ...] = (("policy", "camr"),)  # the paper's memory, of a row measured with it


@dataclass(frozen=True)
class FilmStore:
    """A latent store: `count` films of `world`."""

    world: str
    count: int


@dataclass(frozen=True)
class TrainingRun:
    """A model that launch/train.py makes.

    config     file in configs/, with its variant
    init, teacher  runs whose models it starts from and learns from
    films      names of the stores it is trained on; several are mixed film by film
    overrides  (field, value) of its config; {out} is the run's folder
    shipped    a model folder that is used instead of training, if it exists
    """

    config: str
    init: str = ""
    teacher: str = ""
    films: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    shipped: str = ""


@dataclass(frozen=True)
class ExperimentScale:
    """A size at which everything can be run, on films of `world` (a name of WORLDS).

    All latents are by the VAE of run `vae`, of the first seed.
    """

    about: str
    world: str
    vae: str
    films: dict[str, FilmStore]
    runs: dict[str, TrainingRun]


@dataclass(frozen=True)
class Row:
    """One line of a table: the model of `run`, with `memory` fields changed when it is measured."""

    label: str
    run: str
    memory: tuple[Setting, ...] = ()

    @property
    def key(self) -> str:
        """Its name in the files of measurements."""
        return "+".join([self.run, *(f"{name}={value}" for name, value in self.memory)])


@dataclass(frozen=True)
class Claim:
    """A relation between two numbers.

    The `statistic` of `first` and `second`, each (row, column), is at least or at most a bound.

    strict  at the bound itself the claim does not hold, as of "more" and "fewer"
    """

    words: str
    first: tuple[str, str]
    second: tuple[str, str]
    at_least: float | None = None
    at_most: float = math.inf
    statistic: str = "difference"  # or ratio
    strict: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the report.

    paper    the paper's claim that it tests
    columns  "kind.metric" -> heading; the kinds are those of measure.py and are to be measured
    curves   metrics drawn by eighth of a film, "kind.metric" -> heading
    made     what the reader must know about how the numbers were made
    """

    title: str
    paper: str
    rows: tuple[Row, ...]
    columns: dict[str, str]
    claims: tuple[Claim, ...]
    curves: dict[str, str]
    made: str

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is measured, in the order in which the columns first use it."""
        return tuple(
            dict.fromkeys(column.split(".")[0] for column in (*self.columns, *self.curves))
        )
