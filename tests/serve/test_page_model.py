"""The page on the weights inside the package."""

import pytest
from desk_page import COLOUR, HEAD, MADE, played, type_shot, until

pytestmark = pytest.mark.browser


def test_the_embedded_model_films_its_example_and_a_typed_shot(open_page, embedded_engine):
    page = open_page(embedded_engine)
    page.click("text=Film an example")
    page.wait_for_selector(".made")
    played(page, 1)
    assert max(page.evaluate(COLOUR)) > 30
    type_shot(page, "Bruno the fox waves on the beach at sunset.", "Control+Enter")
    until(page, f"{MADE}.length === 2")
    played(page, page.evaluate(HEAD) - 0.2)
    assert "waves on the beach" in page.locator(".made .label").last.inner_text()
    page.type("#prompt", "Close-up. Bruno wav")
    page.wait_for_selector(".offers [role=option]:has-text('waves')")
