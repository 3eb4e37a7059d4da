"""Desks behind real servers; and the page in a browser."""

import pytest
from desk_page import MOST_MS, SOCKETS
from served_desk import TOKEN, ServedDesk

from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.limits import SessionLimits
from causalcine_jax.serve.mock import MockEngine


@pytest.fixture
def serve_desk(tmp_path):
    """Serves desks that keep their films in one folder."""
    made = []

    def open(engine=None, **limits):
        limits = {"sessions": 3, "idle_s": 5.0, **limits}
        desk = Desk(engine or MockEngine(), tmp_path / "films", SessionLimits(**limits))
        made.append(ServedDesk(desk))
        return made[-1]

    yield open
    for each in made:
        each.close()


@pytest.fixture
def embedded_engine():
    """On the weights inside the package. Imported late: jaxtyping's hook must come before."""
    from causalcine_jax.config import PoolConfig
    from causalcine_jax.film.chosen_model import chosen_model
    from causalcine_jax.film.model_folder import load_model
    from causalcine_jax.film_folder.loaded_model import LoadedModel
    from causalcine_jax.serve.film_engine import FilmEngine

    return FilmEngine(LoadedModel(load_model(chosen_model(None))), PoolConfig(60))


@pytest.fixture
def open_page(browser, serve_desk):
    """Opens a desk's page. Fails in the end if a page threw or broke its content policy."""
    contexts, wrong = [], []

    def open(engine):
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 800}))
        contexts[-1].set_default_timeout(MOST_MS)
        contexts[-1].add_init_script(SOCKETS)
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: "Content Security" in said.text and wrong.append(said.text))
        page.served = serve_desk(engine)
        page.goto(f"{page.served.url}/?token={TOKEN}")
        return page

    yield open
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def page(open_page):
    """The page on the mock, where a film begins."""
    return open_page(MockEngine(chunk_seconds=0.1))
