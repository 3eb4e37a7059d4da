"""What the experiments are, as data. runs.py says what is trained from what; tables.py which models are measured how, and to what end.

    tables -> rows -> the runs whose models they measure -> the runs that those start from -> the films that those learn from

Nothing of this is executed: commands.py turns runs into command lines, measure.py rows into numbers, report.py both into the report.
"""

from dataclasses import dataclass

LONGER = 8  # long films are so many times as long as those of training
Override = tuple[str, str]


@dataclass(frozen=True)
class Films:
    """A latent store: `count` films of `world`."""

    world: str
    count: int


@dataclass(frozen=True)
class Run:
    """A model that launch/train.py leaves.

    config     file in configs/ (with its variant)
    init, teacher  runs whose models it starts from and learns from
    films      stores it is trained on, by name; mixed film by film
    overrides  (field, value) of its config; {out} is the run's folder
    shipped    a model folder that is taken instead of training, where it exists
    """

    config: str
    init: str = ""
    teacher: str = ""
    films: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    shipped: str = ""


@dataclass(frozen=True)
class Scale:
    """A size at which everything can be run, on films of `world` (a name of WORLDS). All latents are of the VAE of run `vae`, first seed."""

    about: str
    world: str
    vae: str
    films: dict[str, Films]
    runs: dict[str, Run]


@dataclass(frozen=True)
class Row:
    """One line of a table: the model of `run`, with `memory` fields changed when it is measured."""

    label: str
    run: str
    memory: tuple[Override, ...] = ()

    @property
    def key(self) -> str:
        """Its name in the files of measurements."""
        return "+".join([self.run, *(f"{name}={value}" for name, value in self.memory)])


@dataclass(frozen=True)
class Claim:
    """What two numbers have to do with each other: `statistic` of (row, column) `first` and `second` is at least, or at most, `bound`."""

    words: str
    first: tuple[str, str]
    second: tuple[str, str]
    at_least: float | None = None
    at_most: float | None = None
    statistic: str = "difference"  # or ratio


@dataclass(frozen=True)
class Table:
    """A table of the report.

    paper    the claim of the paper that it is about
    columns  "kind.metric" -> heading; the kinds are those of measure.py and say what has to be measured
    curves   metrics drawn by eighth of a film, "kind.metric" -> heading
    made     what is particular about how the numbers come about
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
        """What is measured, in the order in which it is first asked for."""
        return tuple(
            dict.fromkeys(column.split(".")[0] for column in (*self.columns, *self.curves))
        )
