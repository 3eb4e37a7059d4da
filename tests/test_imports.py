"""The order of the packages: imports run from higher ones to lower ones, without circles."""

import ast
from pathlib import Path

import pytest
from repository import ROOT

PACKAGE = ROOT / "causalcine_jax"
# From lowest to highest. A file imports from its own part and from earlier ones (ARCHITECTURE.md).
PARTS = (
    "errors", "utils", "clock", "memory_policies", "config", "rollouts", "network_sizes", "presets",
    "cli",
    "story_schema", "story", "story_sets", "diffusion", "families", "storyworld", "parallel",
    "models", "convert", "render", "film", "film_folder", "data", "evaluation", "training",
    "planning", "serve", "gallery", "commands",
)  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def _imports(file: Path) -> set[tuple[str, ...]]:
    """A file's imports from this package, also inside functions, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {(*node.module.split("."), alias.name) for alias in node.names}
    return {name[1:] for name in found if name[0] == PACKAGE.name}


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
        modules = {
            node.module.split(".")[0] if isinstance(node, ast.ImportFrom) and node.module else ""
            for node in ast.walk(ast.parse(file.read_text()))
        }
        assert not modules & {"benchmarks", "experiments", "tests", "launch"}, file
