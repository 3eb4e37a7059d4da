"""From the command line to a `TrainConfig`: `--config configs/base.py --config.optim.lr=3e-5`.

A config file holds `get_config()`, which returns an ml_collections ConfigDict; `config_dict(TrainConfig(...))` makes one. It is
locked, so that a mistyped override is an error, and then frozen into our dataclasses, which check everything.
"""

import dataclasses
import math
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalcine_jax.errors import UsageError, nearest, raise_faults, shown

if TYPE_CHECKING:  # else jax would be imported before it is known whether there is a config
    from ml_collections import ConfigDict

    from causalcine_jax.training.config import TrainConfig

USAGE = "python launch/train.py --config configs/base.py [--config.optim.lr=3e-5 ...] [--print_config] [--force]"
COMPILE_CACHE = re.compile(r"^--(no-)?compile-cache\b")  # as the other commands spell it


def config_dict(config: "TrainConfig") -> "ConfigDict":
    """`config` as a ConfigDict whose every field can be overridden on the command line."""
    from ml_collections import ConfigDict

    return ConfigDict(dataclasses.asdict(config), convert_dict=True)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks for beside the config."""

    print_config: bool
    force: bool
    compile_cache: str
    no_compile_cache: bool


def parse(arguments: list[str]) -> tuple["TrainConfig", Options]:
    """The run that `arguments` (sys.argv without the program) ask for, and how.

    Raises:
      UsageError: no or a wrong config file, a key that there is not, a value of the wrong type, an illegal combination.
    """
    _check_file(arguments)
    from absl import flags
    from ml_collections.config_flags import config_flags

    from causalcine_jax.training.config import from_plain

    arguments = [
        COMPILE_CACHE.sub(lambda flag: "--" + flag[0][2:].replace("-", "_"), argument)
        for argument in arguments
    ]
    argv = ["train.py", *arguments]
    values = flags.FlagValues()
    flags.DEFINE_bool(
        "print_config", False, "print the resolved config and stop", flag_values=values
    )
    flags.DEFINE_bool(
        "force", False, "go on with a run whose config was another", flag_values=values
    )
    flags.DEFINE_string(
        "compile_cache", "", "keep compiled programs in this folder", flag_values=values
    )
    flags.DEFINE_bool(
        "no_compile_cache", False, "compile everything anew and keep nothing", flag_values=values
    )
    config_flags.DEFINE_config_file(
        "config", None, "configs/*.py", lock_config=True, flag_values=values, sys_argv=argv
    )
    try:
        rest = values(argv)[1:]
    except (AttributeError, KeyError) as error:
        raise UsageError(_unknown_key(argv, error)) from None
    except flags.UnrecognizedFlagError as error:
        raise UsageError(f"unknown flag --{error.flagname}; usage: {USAGE}") from None
    except (flags.Error, ValueError, TypeError, config_flags.UnsupportedOperationError) as error:
        raise UsageError(f"{_one_line(error)}; usage: {USAGE}") from None
    if values.compile_cache and values.no_compile_cache:
        raise UsageError(
            "--compile_cache and --no_compile_cache contradict each other: give one of them"
        )
    if rest:
        raise UsageError(f"what is {' '.join(rest)!r}? usage: {USAGE}")
    plain = values.config.to_dict()
    raise_faults("config", _not_finite(plain))
    return from_plain(plain), Options(
        values.print_config, values.force, values.compile_cache, values.no_compile_cache
    )


def _check_file(arguments: list[str]) -> None:
    """The config file must be there and run: what it raises is not for absl to report."""
    path = None
    for at, argument in enumerate(arguments):
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
            path = (
                match[1]
                if match[1] is not None
                else (arguments[at + 1] if at + 1 < len(arguments) else None)
            )
    if not path:
        raise UsageError(f"which config? usage: {USAGE}")
    path, _, variant = path.partition(":")
    if not Path(path).is_file():
        there = sorted(str(file) for file in Path(path).parent.glob("*.py")) or sorted(
            str(file) for file in Path("configs").glob("*.py")
        )
        raise UsageError(
            f"there is no config file {path}, {nearest(path, there)}"
            if there
            else f"there is no config file {path}"
        )
    try:
        get_config = runpy.run_path(path).get("get_config")
        made = get_config(*[variant] if variant else []) if get_config is not None else None
    except UsageError:
        raise
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}") from None
    except Exception as error:  # whatever a config file does wrong
        raise UsageError(f"{path}: {type(error).__name__}: {_one_line(error)}") from None
    if get_config is None:
        raise UsageError(f"{path} is not a config file: it defines no get_config()")
    from ml_collections import ConfigDict

    if not isinstance(made, ConfigDict):
        raise UsageError(
            f"{path}: get_config() must return a ConfigDict, which config_dict(TrainConfig(...)) makes, not {shown(made)}"
        )


def _not_finite(plain: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Numbers that are none: nan and inf pass every comparison with a limit, or fail it silently."""
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _not_finite(value, f"{prefix}{name}.")
        elif any(
            isinstance(item, float) and not math.isfinite(item)
            for item in (value if isinstance(value, list | tuple) else [value])
        ):
            yield f"{prefix}{name} must be finite, not {shown(value)}"


def check_named_stores(arguments: list[str], config: "TrainConfig") -> None:
    """`UsageError` where the command line, not the config file, names a latent store that is not there: a misspelled one must not be made anew."""
    if not any(re.match(r"--?config\.data\.store(=|$)", argument) for argument in arguments):
        return
    missing = [
        store
        for part in config.data.store.split(",")
        if (store := part.strip()) and not _there(Path(store))
    ]
    if missing:
        raise UsageError(
            f"there is no latent store {', '.join(missing)} (--config.data.store): python launch/encode.py --out {missing[0]} makes one; "
            "without that flag, the run makes its own"
        )


def _there(store: Path) -> bool:
    from causalcine_jax.data.latent_store import partial_path

    return store.is_dir() or partial_path(store).is_dir()


def _unknown_key(argv: list[str], error: Exception) -> str:
    """Which override named something that there is not; every one of them."""
    faults = []
    from causalcine_jax.training.config import TrainConfig

    plain = dataclasses.asdict(TrainConfig())
    for argument in argv[1:]:
        if match := re.match(r"--?(?:no)?config\.([^=]+)", argument):
            level, path = plain, match[1].split(".")
            for depth, name in enumerate(path):
                if not isinstance(level, dict):
                    faults.append(f"{'.'.join(path[:depth])} is a single value, it has no {name}")
                    break
                if name not in level:
                    faults.append(
                        f"unknown key {'.'.join(path[: depth + 1])}, {nearest(name, level)}"
                    )
                    break
                level = level[name]
    return "config: " + "; ".join(faults or [_one_line(error)])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
