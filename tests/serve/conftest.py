"""Houses: desks behind real servers."""

import pytest
from desk_house import House

from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.limits import SessionLimits
from causalcine_jax.serve.mock import MockEngine


@pytest.fixture
def house(tmp_path):
    """Makes houses, of desks that keep their films in one folder."""
    made = []

    def open(engine=None, **limits):
        limits = {"sessions": 3, "idle_s": 5.0, **limits}
        desk = Desk(engine or MockEngine(), tmp_path / "films", SessionLimits(**limits))
        made.append(House(desk))
        return made[-1]

    yield open
    for each in made:
        each.close()
