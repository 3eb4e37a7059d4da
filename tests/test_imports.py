"""The order of the packages, without circles; and what holds for the text of every file."""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from repository import ROOT

PACKAGE = ROOT / "causalcine_jax"
# From lowest to highest. A file imports from its own part and from earlier ones (ARCHITECTURE.md).
PARTS = (
    "errors", "utils", "clock", "memory_policies", "config", "rollouts", "network_sizes", "presets",
    "cli",
    "story_schema", "story", "story_sets", "diffusion", "families", "storyworld", "parallel",
    "models", "convert", "scorers", "render", "film", "film_folder", "data", "evaluation",
    "training", "planning", "serve", "gallery", "commands",
)  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))
BESIDE = [
    file
    for folder in ("benchmarks", "experiments", "configs", "launch")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
NOT_YET = {PACKAGE / "data/video" / name for name in ("prepare.py", "windows.py")}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Of a docstring: an indented line, a row of a table (name, spaces, what it is), or a data flow.
NO_PROSE = re.compile(r"^ |\S {2,}\S| -> ")


class Text(NamedTuple):
    """What a file says: all names that it imports, its docstrings, its functions' parameters."""

    imports: set[tuple[str, ...]]
    docstrings: list[str]
    parameters: dict[str, int]


@functools.cache
def _text(file: Path) -> Text:
    text = Text(set(), [], {})
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            text.imports.update(tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            text.imports.update((*node.module.split("."), alias.name) for alias in node.names)
        elif isinstance(node, DOCUMENTED):
            text.docstrings.append(ast.get_docstring(node) or "")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            every = (*given.posonlyargs, *given.args, *given.kwonlyargs)
            count = sum(one.arg not in ("self", "cls") for one in every)
            text.parameters[node.name] = max(count, text.parameters.get(node.name, 0))
    return text


def _imports(file: Path) -> set[tuple[str, ...]]:
    """A file's imports from this package, also inside functions, without the package's name."""
    return {name[1:] for name in _text(file).imports if name[0] == PACKAGE.name}


def _module(name: tuple[str, ...]) -> Path | None:
    """The file that defines an imported name; None for names in the package's own __init__."""
    while name:
        file = PACKAGE.joinpath(*name)
        if file.with_suffix(".py").is_file():
            return file.with_suffix(".py")
        if (file / "__init__.py").is_file():
            return file / "__init__.py"
        name = name[:-1]
    return None


def _part(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_file_is_in_a_part():
    assert {_part(file) for file in FILES} <= {*PARTS, "__init__", "__main__"}


@pytest.mark.parametrize("part", PARTS)
def test_no_import_runs_uphill(part):
    uphill = [
        f"{file.relative_to(ROOT)} imports {'.'.join(name)}"
        for file in FILES
        if _part(file) == part
        for name in _imports(file)
        if name[0] in PARTS and PARTS.index(name[0]) > PARTS.index(part)
    ]
    assert not uphill


def test_metrics_measure_any_films():
    """What is StoryWorld's, or needs a model, is in evaluation/storyworld."""
    beyond = [
        f"{file.relative_to(ROOT)} imports {'.'.join(name)}"
        for file in sorted((PACKAGE / "evaluation/metrics").rglob("*.py"))
        for name in _imports(file)
        if name[0] not in ("errors", "utils") and name[:2] != ("evaluation", "metrics")
    ]
    assert not beyond


def test_no_imports_run_in_a_circle():
    reaches = {file: {_module(name) for name in _imports(file)} - {None, file} for file in FILES}
    while True:  # remove the files that import none of the remaining ones
        free = {file for file, others in reaches.items() if not others & reaches.keys()}
        if not free:
            break
        reaches = {file: others for file, others in reaches.items() if file not in free}
    assert not [str(file.relative_to(ROOT)) for file in reaches]


def test_the_package_does_not_import_what_is_not_installed():
    for file in FILES:
        modules = {name[0] for name in _text(file).imports}
        assert not modules & {"benchmarks", "experiments", "tests", "launch"}, file


def test_no_file_has_more_than_300_lines():
    lines = {file: len(file.read_text().splitlines()) for file in FILES + BESIDE}
    assert not [f"{file}: {count}" for file, count in lines.items() if count > 300]


def test_no_function_has_more_than_8_parameters():
    wide = [
        f"{file}: {name} has {count}"
        for file in FILES + BESIDE
        for name, count in _text(file).parameters.items()
        if count > 8
    ]
    assert not wide


def test_a_sentence_of_a_docstring_has_at_most_25_words():
    long = [
        f"{file}: {sentence}"
        for file in {*FILES, *BESIDE} - NOT_YET
        for docstring in _text(file).docstrings
        for sentence in _sentences(docstring)
        if len(sentence.split()) > 25
    ]
    assert not long


def _sentences(docstring: str) -> list[str]:
    """The sentences of its prose; a colon or semicolon ends one, too. Tables are left out."""
    blocks = [block.split("\n") for block in re.split(r"\n\s*\n", docstring)]
    prose = [" ".join(lines) for lines in blocks if not any(map(NO_PROSE.search, lines))]
    return [sentence for text in prose for sentence in re.split(r"(?<=[.!?:;])\s", text)]
