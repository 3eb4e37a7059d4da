"""The report: a section per table, from the measurements that exist.

It names what was not measured.

measurements -> numbers by row and column -> table, claims in words, commands, pictures
    -> DOCS/experiments.md, DOCS/experiments/*.png
"""

import math
from pathlib import Path
from typing import Any

from causalcine_jax.evaluation.intervals import Interval
from causalcine_jax.evaluation.storyworld.free_films import TRUE_FILMS
from causalcine_jax.evaluation.storyworld.recall import VAE
from causalcine_jax.evaluation.tables import markdown_table
from causalcine_jax.utils.atomic_file import write_text
from experiments import claims, pictures
from experiments.commands import Workshop, needed_runs
from experiments.numbers import Numbers
from experiments.tables import TABLES

NOT_MEASURED = "not measured"
BOUNDS = {
    TRUE_FILMS: "true films",
    VAE: "true films through the VAE",
}
FLAGS = {
    "returns": "--returns",
    "films": "--films",
    "long_films": "--long-films",
    "endless_films": "--endless-films",
}


def write_report(workshop: Workshop, tables: list[str], seeds: int, docs: Path) -> Path:
    """Writes experiments.md and its pictures into `docs`; returns the markdown's path.

    Raises:
      DataError: writing failed.
    """
    seeds_flag = f" --seeds {seeds}" if seeds > 1 else ""
    lines = [
        "# The paper's tables, in StoryWorld",
        "",
        f"Made by `python launch/experiments.py --scale {workshop.name}{seeds_flag}`: "
        f"{workshop.scale.about}. "
        "Numbers are means over all questions with 95 % intervals (percentile bootstrap over "
        "stories). Where all answers are right or all are wrong, the interval is Wilson's over "
        "stories. Differences and ratios of two models are bootstrapped over the stories that "
        "both filmed. A claim holds beyond the interval when the whole interval is on its side. "
        "True films show what the judge can read; through the VAE they are any model's ceiling."
        + (
            f" Models that are trained here are trained with {seeds} seeds each, "
            "and their answers are counted together."
            if seeds > 1
            else ""
        )
        + " The intervals are over stories, for fixed weights. "
        "`--seeds 3` shows what other seeds of training would change.",
    ]
    for name in tables:
        lines += ["", *section(Numbers(workshop, TABLES[name], seeds), name, docs / "experiments")]
    path = docs / "experiments.md"
    write_text(path, "\n".join(lines) + "\n")
    return path


def section(numbers: Numbers, name: str, folder: Path) -> list[str]:
    """Returns one table of the report as lines, and writes its pictures to `folder`."""
    table = numbers.table
    lines = [
        f"## {table.title}",
        "",
        f"**The paper.** {table.paper}",
        "",
        *_table(numbers),
        "",
        *_claims(numbers),
        "",
        *_made(numbers, name),
    ]
    for path, caption in pictures.write_all(numbers, name, folder):
        lines += ["", f"![{caption}]({folder.name}/{path.name})"]
    return lines


def _table(numbers: Numbers) -> list[str]:
    table = numbers.table
    cells = lambda row, **which: [
        numbers.interval(row, column, **which) for column in table.columns
    ]
    body = []
    for key, label in BOUNDS.items():
        beside = cells(table.rows[0], key=key)
        if any(beside):
            body.append((label, *("" if cell is None else shown(cell) for cell in beside)))
    for row in table.rows:
        body.append((row.label, *map(shown, cells(row))))
        if (seeds := numbers.seeds_of(row)) > 1:
            body += [
                (f"... seed {seed}", *map(shown, cells(row, seed=seed))) for seed in range(seeds)
            ]
    asked = [
        [cell.count for row in table.rows if (cell := numbers.interval(row, column))]
        for column in table.columns
    ]
    body.append(
        ("questions asked, at least", *(str(min(counts)) if counts else "" for counts in asked))
    )
    return markdown_table(("", *table.columns.values()), body)


def shown(interval: Interval | None) -> str:
    """Formats three decimals below 10, else one; "-" if no question was asked."""
    if interval is None:
        return NOT_MEASURED
    digits = 1 if abs(interval.value) >= 10 else 3
    if not interval.count:
        return "-"
    if math.isnan(interval.low):  # one story has no interval
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _claims(numbers: Numbers) -> list[str]:
    lines = []
    for claim in numbers.table.claims:
        first, second = (
            numbers.scores(numbers.row(key), column) for key, column in (claim.first, claim.second)
        )
        if first is None or second is None:
            lines.append(f"* {claim.words}: {NOT_MEASURED}.")
            continue
        verdict = claims.judge(claim, first, second)
        lines.append(
            f"* {claim.words}: **{verdict.words}**. {claim.statistic.capitalize()} "
            f"{shown(verdict.interval)}, n = {verdict.interval.count}."
        )
    return lines


def _made(numbers: Numbers, name: str) -> list[str]:
    workshop, saved = numbers.workshop, numbers.all_saved
    lines = [f"**How it was made.** {numbers.table.made}", ""]
    amounts: dict[str, int] = {}
    for amount, value in (pair for one in saved for pair in one["settings"]["amounts"].items()):
        amounts[amount] = min(value, amounts.get(amount, value))
    flags = "".join(f" {FLAGS[amount]} {value}" for amount, value in amounts.items()) + (
        f" --seeds {numbers.seeds}" if numbers.seeds > 1 else ""
    )
    commands = [*map(str, workshop.recipe(needed_runs([name]), numbers.seeds))]
    lines += [
        "```bash",
        *commands,
        f"python launch/experiments.py --scale {workshop.name} --tables {name}{flags}",
        "```",
    ]
    for run in needed_runs([name]):
        if folder := workshop.taken(run):
            elsewhere = "made elsewhere (--use)" if run in workshop.used else str(folder)
            lines += ["", f"Model `{run}`: {elsewhere}{_identity(saved, run)}."]
    if saved:
        where: dict[str, set[str]] = {}
        for one in saved:
            machine = f"{_device(one['device'])} with jax {one['software']['jax']}"
            where.setdefault(machine, set()).add(_short(one))
        machines = [f"{name} (commits: {', '.join(sorted(of))})" for name, of in where.items()]
        seconds = sum(one["seconds"] for one in saved)
        lines += ["", f"Measured in {seconds:.0f} s on {'; '.join(sorted(machines))}."]
    return lines


def _identity(saved: list[dict[str, Any]], run: str) -> str:
    """Returns how a model was measured and which weights it has, as the measurements found it."""
    rows = [
        row
        for one in saved
        for key, row in one["settings"]["rows"].items()
        if key.split("+")[0] == run
    ]
    if not rows:
        return ""
    sampler = rows[0]["sampler"]
    policies = dict.fromkeys(row["memory"]["policy"] for row in rows)
    return (
        f", {sampler['steps']} steps of {sampler['solver']}, guidance {sampler['guidance']:g}, "
        f"memory policy {', '.join(policies)}, weights sha256 {rows[0]['weights_sha256'][:12]}"
    )


def _short(one: dict[str, Any]) -> str:
    commit = one["software"].get("commit") or "unknown"
    return commit[:10] + ("+changes" if commit.endswith("+changes") else "")


def _device(device: dict[str, Any]) -> str:
    if device["platform"] == "cpu":
        return f"{device['cores']} CPU cores ({device['host']})"
    return f"{device['count']} x {device['kind']}"
