"""The page in Firefox, whose player starts a film by itself only where 3 s of it are there."""

import pytest
from desk_page import played, until
from firefox import FIREFOX, firefox
from served_desk import TOKEN

from causalcine_jax.serve.mock import MockEngine

EXAMPLE = "document.querySelector('.start button[type=button]')"


@pytest.mark.browser
@pytest.mark.skipif(not FIREFOX, reason="needs Firefox: install firefox or firefox-esr")
def test_a_film_is_started_in_firefox(serve_desk):
    served = serve_desk(MockEngine(chunk_seconds=0.1))
    with firefox() as page:
        page.goto(f"{served.url}/?token={TOKEN}")
        until(page, f"{EXAMPLE} !== null")
        page.evaluate(f"{EXAMPLE}.click()")
        until(page, "document.querySelector('video.film') !== null")
        played(page, 3)
