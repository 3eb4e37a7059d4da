"""The command line of benchmarks.half_hour: prepare, 1 to 4, collect."""

import os
from pathlib import Path

import benchmarks.half_hour
from causalcine_jax.cli import ArgumentParser, run
from causalcine_jax.errors import DataError
from causalcine_jax.utils.compile_cache import user_cache


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="half_hour", description=benchmarks.half_hour.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="wheels and environment.sh, into one folder")
    prepare.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    prepare.add_argument("--python", default="3.12", help="of that machine (default 3.12)")
    prepare.add_argument("--films", action="store_true", help="also what writes mp4 files")
    for number in "1234":
        one = commands.add_parser(number, help="measures on the device that is here")
        one.add_argument("--out", type=Path, required=True, metavar="FOLDER")
        one.add_argument("--kept", type=Path, metavar="FOLDER", help="records of finished parts")
        one.add_argument("--rehearse", action="store_true", help="on a CPU, in small sizes")
    collect = commands.add_parser("collect", help="results to records, docs and rates")
    collect.add_argument("files", nargs="+", type=Path, metavar="half_hour_N.json")
    flags = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if flags.command == "prepare":
        from benchmarks.half_hour.prepare import prepare as packed

        size = packed(flags.out, flags.python, flags.films)
        print(f"{flags.out}: wheels of {size / 1e6:.1f} MB, environment.sh")
    elif flags.command == "collect":
        from benchmarks.half_hour.collect import collect as collected

        print(collected(flags.files))
    else:
        _measure(flags)


def _measure(flags) -> None:
    from benchmarks.half_hour.commands import measure, unmeasured

    kept = flags.kept or user_cache() / "half_hour"
    say = lambda line: print(line, flush=True)
    record = measure(int(flags.command), flags.out, kept, flags.rehearse, say)
    say(f"{record['seconds']} s, {record['cpu_seconds']} s of CPU")
    if missing := unmeasured(record):
        raise DataError("; ".join(missing))


if __name__ == "__main__":
    run(main)
