"""A model folder for the commands that take one."""

import pytest
from tiny_models import tiny_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny")
