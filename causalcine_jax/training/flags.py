"""From the command line to a `TrainConfig`: `--config configs/base.py --config.optim.lr=3e-5`.

A config file defines `get_config()`, which returns a TrainConfig. With `--config FILE:NAME` it is
given NAME. A flag's type is that of the field it names, in TrainConfig or in Options.
"""

import ast
import dataclasses
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from causalcine_jax.errors import UsageError, nearest, raise_faults, shown

if TYPE_CHECKING:  # importing it imports jax, which can wait until there is a config file
    from causalcine_jax.training.config import TrainConfig

USAGE = (
    "causalcine train --config configs/base.py [--config.optim.lr=3e-5 ...] "
    "[--print_config] [--force]"
)
TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags beside the config."""

    print_config: bool = False
    force: bool = False
    compile_cache: str = ""
    no_compile_cache: bool = False


def parse(arguments: list[str]) -> tuple["TrainConfig", Options]:
    """The run that `arguments` (sys.argv without the program) ask for, and the other flags.

    Raises:
      UsageError: the config file is missing or faulty, a flag is unknown, a value has the wrong
        type, or values contradict each other.
    """
    config = _from_file(_config_file(arguments))
    from causalcine_jax.training.overrides import replaced, with_out

    flags = _Flags(type(config))
    flags.read(arguments)
    raise_faults("config", flags.faults)
    options = Options(**flags.options)
    if options.compile_cache and options.no_compile_cache:
        raise UsageError(
            "--compile_cache and --no_compile_cache contradict each other: give one of them"
        )
    if flags.rest:
        raise UsageError(f"unexpected {shown(' '.join(flags.rest))}: leave it out; usage: {USAGE}")
    config = replaced(config, flags.changes)
    return with_out(config, config.out), options


class _Flags:
    """The words of a command line, sorted.

    changes   of the config, nested as its dataclasses are
    options   fields of Options
    rest      words that are no flags
    faults    of the flags that name a field of the config
    """

    def __init__(self, config_class: type):
        self.config_class = config_class
        self.changes: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.rest: list[str] = []
        self.faults: list[str] = []

    def read(self, arguments: list[str]) -> None:
        words = iter(arguments)
        for word in words:
            name, equals, text = word.partition("=")
            given = text if equals else None
            if not name.startswith("-"):
                self.rest.append(word)
            elif name.lstrip("-") == "config":
                given is None and next(words)  # the file, which was read first
            elif match := re.fullmatch(r"--?(no)?config\.(.+)", name):
                self._override(match[2], bool(match[1]), given, words)
            else:
                self._option(name.lstrip("-").replace("-", "_"), given, words)

    def _override(self, name: str, negated: bool, text: str | None, words: Iterator[str]) -> None:
        """One field of the config; what is wrong with it joins the faults."""
        *groups, last = name.split(".")
        kind, level = self.config_class, self.changes
        try:
            for depth, group in enumerate(groups):
                kind = _field(kind, group, groups[:depth])
                level = level.setdefault(group, {}) if dataclasses.is_dataclass(kind) else level
            kind = _field(kind, last, groups)
            level[last] = _value(name, kind, negated, text, words)
        except UsageError as error:
            self.faults.append(str(error))

    def _option(self, name: str, text: str | None, words: Iterator[str]) -> None:
        known = {f.name: f.type for f in dataclasses.fields(Options)}
        negated = name not in known and known.get(name.removeprefix("no")) is bool
        name = name.removeprefix("no") if negated else name
        if name not in known:
            raise UsageError(f"unknown flag --{shown(name)[1:-1]}; usage: {USAGE}")
        self.options[name] = _value(f"--{name}", known[name], negated, text, words)


def _field(kind: Any, name: str, groups: list[str]) -> Any:
    """The type of the field `name` of the dataclass `kind`, which `groups` lead to."""
    if not dataclasses.is_dataclass(kind):
        raise UsageError(f"{'.'.join(groups)} is a single value, it has no {name}")
    known = {f.name: f.type for f in dataclasses.fields(kind)}
    if name not in known:
        raise UsageError(f"unknown key {'.'.join([*groups, name])}, {nearest(name, known)}")
    return known[name]


def _value(name: str, kind: Any, negated: bool, text: str | None, words: Iterator[str]):
    """The value of a flag: after its `=`, else the next word; a boolean needs none."""
    from causalcine_jax.training.checks import KINDS

    if dataclasses.is_dataclass(kind):
        first = dataclasses.fields(kind)[0].name
        raise UsageError(f"{name} is a group of values: give one of them, such as {name}.{first}")
    if negated and (kind is not bool or text is not None):
        raise UsageError(f"{name} cannot be negated: write {name}=VALUE")
    if text is None:
        text = str(not negated) if kind is bool else next(words, None)
    if text is None:
        raise UsageError(f"{name} needs a value: write {name}=VALUE")
    try:
        if kind is bool:
            return TRUTH[text.strip().lower()]
        return _tuple(text, kind) if get_origin(kind) is tuple else kind(text)
    except (ValueError, KeyError):
        what = KINDS.get(kind) or f"a list such as {_example(kind)}"
        raise UsageError(f"{name} must be {what}, not {shown(text)}") from None


def _tuple(text: str, kind) -> tuple:
    """`text` as a tuple of the item type of `kind`; a single item may stand alone.

    `ValueError` for anything else.
    """
    from causalcine_jax.training.checks import is_a

    try:
        value = ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(text) from None
    items = tuple(value) if isinstance(value, tuple | list) else (value,)
    (item,) = {*get_args(kind)} - {...}
    if not all(is_a(each, item) for each in items):
        raise ValueError(text)
    return tuple(map(item, items))


def _example(kind) -> str:
    (item,) = {*get_args(kind)} - {...}
    count = 2 if ... in get_args(kind) else len(get_args(kind))
    return str((item(1),) * count)


def _config_file(arguments: list[str]) -> str:
    """What --config names; the last one if there are several."""
    named = ""
    for at, argument in enumerate(arguments):
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
            named = match[1] if match[1] is not None else "".join(arguments[at + 1 : at + 2])
    if not named:
        raise UsageError(
            f"--config is missing: name a file, such as configs/base.py; usage: {USAGE}"
        )
    return named


def _from_file(named: str) -> "TrainConfig":
    """What get_config() of FILE or FILE:NAME returns."""
    path, _, variant = named.partition(":")
    if not Path(path).is_file():
        there = sorted(map(str, Path(path).parent.glob("*.py")))
        there = there or sorted(map(str, Path("configs").glob("*.py")))
        hint = f", {nearest(path, there)}" if there else ""
        raise UsageError(f"there is no config file {path}{hint}")
    try:
        get_config = runpy.run_path(path).get("get_config")
        made = get_config(*[variant] if variant else []) if get_config is not None else None
    except UsageError:
        raise
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}") from None
    except Exception as error:  # a config file may do anything
        said = " ".join(str(error).split())
        raise UsageError(f"{path}: {type(error).__name__}: {said}") from None
    if get_config is None:
        raise UsageError(f"{path} is not a config file: it defines no get_config()")
    from causalcine_jax.training.config import TrainConfig

    if not isinstance(made, TrainConfig):
        raise UsageError(f"{path}: get_config() must return a TrainConfig, not {shown(made)}")
    return made
