"""The desk page's modules without a browser: state, timeline and words, run by node."""

import shutil
import subprocess
from pathlib import Path

import pytest
from repository import ROOT

NODE = shutil.which("node")
OLDEST = 20  # whose test runner has mocks
TESTS = sorted((Path(__file__).parent / "page").glob("*.test.js"))


@pytest.fixture(scope="module")
def node() -> str:
    """The program node, new enough; skips where there is none."""
    said = subprocess.run([NODE, "--version"], capture_output=True, text=True) if NODE else None
    if said is None or int(said.stdout.lstrip("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"needs node {OLDEST} or newer")
    return NODE


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_page_module(file, node, tmp_path):
    shutil.copytree(ROOT / "causalcine_jax/serve/page", tmp_path / "page")
    shutil.copy(file, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    done = subprocess.run([node, "--test", file.name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
