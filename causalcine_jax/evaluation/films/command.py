"""`causalcine evaluate --films FOLDER` and `--compare`: flags in, measures or differences out."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from causalcine_jax.errors import DataError, UsageError, nearest, raise_faults, shown
from causalcine_jax.scorers.sources import SOURCES, refuse_absent, weights_hash
from causalcine_jax.utils.plain_data import read_plain

COMPARISON = ("comparison.json", "comparison.md")


def measure(flags: argparse.Namespace) -> None:
    """Measures the films of `flags.films` and prints the tables.

    Raises:
      UsageError: a flag is wrong or missing.
      DataError: weights are missing or damaged, or no film could be measured.
    """
    if flags.stories is None:
        raise UsageError(
            "--stories is missing: name the file or folder of the stories that the films are of"
        )
    if flags.every < 1:
        raise UsageError(f"--every must be at least 1, not {flags.every}")
    if flags.dtype not in (None, "float32", "bfloat16"):
        raise UsageError(f"--dtype {flags.dtype}: scorers compute in float32 or bfloat16")
    weights = named_weights(flags.weights)
    for name, path in weights.items():
        refuse_absent(path, SOURCES[name])
    cuts = flags.cuts or ("transnet" if "transnet" in weights else "pixels")

    # After the flags are understood: a wrong one should not wait for jax.
    import jax.numpy as jnp

    from causalcine_jax.evaluation.films.cut_finders import cut_finder
    from causalcine_jax.evaluation.films.measure import MeasureSettings
    from causalcine_jax.evaluation.films.report import film_report
    from causalcine_jax.evaluation.films.report_tables import film_markdown
    from causalcine_jax.evaluation.films.run import FILES, Measurer, measure_films
    from causalcine_jax.evaluation.films.stories import film_stories, find_films
    from causalcine_jax.evaluation.metrics.ranges import SAMPLED
    from causalcine_jax.evaluation.tables import write_report
    from causalcine_jax.scorers.scorers import Scorers
    from causalcine_jax.utils.compile_cache import keep_compiled
    from causalcine_jax.utils.output import one_writer, remove_files

    keep_compiled(flags.compile_cache, flags.no_compile_cache)
    films, stories = find_films(flags.films), film_stories(flags.stories)
    dtype = flags.dtype or "float32"
    out = flags.out or Path("outputs/measures")
    _refuse_films_in(out, [flags.films, flags.stories])
    with one_writer(out, FILES):
        if flags.overwrite:
            remove_files(out, FILES)
        measurer = Measurer(
            Scorers({n: p for n, p in weights.items() if n != "transnet"}, jnp.dtype(dtype)),
            MeasureSettings(flags.every, cuts, dtype),
            cut_finder(cuts, weights.get("transnet") if cuts == "transnet" else None),
            {name: weights_hash(path) for name, path in sorted(weights.items())},
        )
        notes = measurer.scorers.notes(SAMPLED) + [
            f"{name} is another file than the published one, of sha256 {SOURCES[name].sha256}"
            for name, digest in measurer.weights.items()
            if SOURCES[name].sha256 not in ("", digest)
            # These hold the published content in another form.
            and weights[name].is_file()
            and weights[name].suffix not in (".json", ".whl")
        ]
        measured = measure_films(films, stories, measurer, out)
        report = film_report(measured, measurer, notes)
        text = film_markdown(report)
        write_report(out, "measures", report, text)
    if not measured.films:
        first = "; ".join(f"{name}: {why}" for name, why in list(measured.bad.items())[:3])
        raise DataError(f"none of {len(measured.bad)} films could be measured: {first}")
    print(text)
    again = f" ({measured.resumed} of them were there)" if measured.resumed else ""
    print(f"{len(measured.films)} films measured{again}, {len(measured.bad)} bad")
    print(f"written to {out}: measures.json, measures.md, films/")


def _refuse_films_in(out: Path, inputs: Iterable[Path]) -> None:
    """`UsageError` if the folder of every film's measures holds films, or one of `inputs`.

    There NAME.json may be a story, and NAME/film.json is a film's record.
    """
    from causalcine_jax.evaluation.films.stories import SUFFIXES

    written = out / "films"
    inside = [file for file in written.glob("**/*") if file.suffix.lower() in SUFFIXES]
    inside += [path for path in inputs if path.resolve().is_relative_to(written.resolve())]
    if inside:
        raise UsageError(
            f"--out {out}: measures are written into {written}, and {inside[0]} is there: "
            "choose another --out"
        )


def compare(flags: argparse.Namespace) -> None:
    """Prints how the two of `flags.compare` differ, and writes it to `flags.out` if that is given.

    Raises as `read_measures` and `comparison` do.
    """
    from causalcine_jax.evaluation.films.compare import (
        comparison,
        comparison_markdown,
        measures_file,
        read_measures,
    )
    from causalcine_jax.evaluation.tables import write_report
    from causalcine_jax.utils.output import one_writer

    first, second = flags.compare
    if measures_file(first).resolve() == measures_file(second).resolve():
        raise UsageError(f"--compare names {first} twice: name the measures of two systems")
    report = comparison(read_measures(first), read_measures(second))
    text = comparison_markdown(report, (str(first), str(second)))
    if flags.out:
        with one_writer(flags.out, COMPARISON, overwrite=flags.overwrite):
            write_report(flags.out, "comparison", report, text)
    print(text)


def named_weights(given: list[str]) -> dict[str, Path]:
    """The paths by name, from NAME=PATH and from YAML files of such; later ones win.

    Paths in a file are relative to its folder.

    Raises:
      UsageError: a name is unknown, or a file is no mapping of names to paths.
    """
    weights: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if equals:
            pairs, base, where = {name: path}, Path(), "--weights"
        else:
            base, where = Path(text).parent, text
            pairs = read_plain(text)
        if not isinstance(pairs, dict):
            raise UsageError(f"{where}: must map names to paths, not {shown(pairs)}")
        faults = [
            f"unknown name {shown(key)}, {nearest(str(key), SOURCES)}"
            for key in pairs
            if key not in SOURCES
        ]
        faults += [
            f"{key} must be a path, not {shown(value)}"
            for key, value in pairs.items()
            if key in SOURCES and not (isinstance(value, str) and value)
        ]
        raise_faults(where, faults)
        weights |= {key: base / Path(value).expanduser() for key, value in pairs.items()}
    return weights
