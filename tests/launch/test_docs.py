"""README and docs/ name only what is there: paths, functions, tests, flags, words of captions."""

import ast
import functools
import importlib
import re
import shlex
import string
from pathlib import Path

import pytest
from repository import ROOT

import causalcine_jax
from causalcine_jax.commands.from_checkout import FOLDERS
from causalcine_jax.storyworld import grammar, world
from causalcine_jax.training import flags

PAGES = sorted(
    page.relative_to(ROOT)
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
)
# Written by other hands, or by launch/experiments.py, with names of their own time.
RECORDS = {Path("docs/lab.md"), Path("docs/performance.md"), Path("docs/experiments.md")}
OWN = [page for page in PAGES if page not in RECORDS]
TOP = "causalcine_jax|launch|tests|docs|configs|examples|notebooks|benchmarks|experiments"
PATH = re.compile(rf"`((?:{TOP})/[\w./+-]*|[A-Z]\w+\.(?:md|cff))(?:::(\w+))?`")
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")


def text(page: Path) -> str:
    return (ROOT / page).read_text("utf-8")


@functools.cache
def names(file: Path) -> set[str]:
    """What a Python file defines at its top level."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def read(program: str, words: list[str]) -> None:
    """Lets a command's own parser read its words, whichever file holds it."""
    name = words[0]
    if program.endswith("python"):
        name = re.search(r'main\(\["(\w+)"', text(Path(name)))[1]
    home = f"{FOLDERS[name]}.command_line" if name in FOLDERS else f"causalcine_jax.commands.{name}"
    command = flags if home.endswith(".train") else importlib.import_module(home)
    command.parse(words[1:])


def commands(page: Path) -> list[list[str]]:
    """The words of each command in the shell blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", text(page), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (shlex.split(line, comments=True) for line in lines) if line]


def test_the_readme_is_one_page():
    lines = text(Path("README.md")).splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("page", OWN, ids=str)
def test_paths_and_the_names_in_them_are_there(page):
    missing = []
    for path, name in PATH.findall(text(page)):
        if not (ROOT / path).exists() or (name and name not in names(ROOT / path)):
            missing.append(f"{path}::{name}" if name else path)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    built = ("commands/", "notebooks/")  # pages that are made when the others are built
    links = [link for link in LINK.findall(text(page)) if "://" not in link]
    assert not [
        link
        for link in links
        if not link.startswith(built) and not (ROOT / page.parent / link).exists()
    ]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_have_a_text(page):
    """GitHub shows nothing for a link without one."""
    assert not re.findall(r"(?<!!)\[\]\([^)]*\)", text(page))


def test_every_equation_and_section_of_the_paper_has_its_code_and_its_test():
    mapped = text(Path("docs/paper_map.md"))
    terms = re.findall(r"^(\w.*)\n((?::(?: |\n).*\n(?:  .*\n)*)+)", mapped, re.MULTILINE)
    numbers = [int(n) for term, _ in terms for n in re.findall(r"^Eq\. (\d+)", term)]
    assert sorted(numbers) == list(range(1, 12))
    assert {"3.1", "3.2", "3.3", "3.4", "4"} <= set(re.findall(r"^## ([\d.]+)", mapped, re.M))
    for term, said in terms:
        assert ": code: `" in said and ": test: `tests/" in said, term


@pytest.mark.parametrize("page", [p for p in OWN if commands(p)], ids=str)
def test_commands_take_the_flags_that_they_are_given(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    for program, *words in commands(page):
        if program == "make":
            assert re.search(rf"^{words[0]}:", text(Path("Makefile")), re.MULTILINE), words
        elif program.endswith("causalcine") or words[0].startswith("launch/"):
            read(program, words)
        elif program.endswith("python"):
            module = words[0] == "-m" and f"{words[1].replace('.', '/')}.py"
            assert (ROOT / (module or words[0])).is_file(), words


def test_the_api_page_has_every_public_name():
    page = text(Path("docs/api.md"))
    public = set(causalcine_jax.__all__) - {"__version__"}
    assert not {name for name in public if not re.search(rf"\.{name}$", page, re.MULTILINE)}
    first = set(re.findall(r"^\.\. auto.*\.(\w+)$", page.split("\n## ")[1], re.MULTILINE))
    assert {"Director", "Chunk"} <= first <= public
    assert all(hasattr(causalcine_jax, name) for name in public)


def test_the_grammar_of_captions_is_the_one_that_films_are_written_in():
    page = text(Path("docs/directing.md")).split("## The caption grammar")[1].split("\n## ")[0]
    page = page.lower()
    said = [*grammar.GLOBAL, *grammar.SHOT, *grammar.EMPTY_SHOT, *grammar.LOOKS]
    said += [*grammar.TONES, *grammar.KINDS, *world.NAMES, *world.SPECIES, *world.COLOURS]
    said += world.ACCESSORIES
    tables = (grammar.PLACE_PHRASES, grammar.TIME_PHRASES, grammar.SIZE_PHRASES)
    said += [phrase for table in tables for phrases in table.values() for phrase in phrases]
    moving = [phrase for phrases in grammar.CAMERA_PHRASES.values() for phrase in phrases]
    moving += [one for forms in grammar.ACTION_PHRASES.values() for one, _ in forms]
    assert not [words for words in said if words.lower() not in page]
    for words in moving:  # a direction stands where the phrase leaves one open
        parts = [part.strip(" .") for part, *_ in string.Formatter().parse(words.lower())]
        assert all(part in page for part in parts), words
    assert f"had more than {grammar.MAX_PROMPT_WORDS} words" in page
