"""contact_sheet.png: every shot is shown, a long film is bounded, and all scripts are readable."""

import numpy as np
import pytest
from PIL import Image

from causalcine_jax.render import contact_sheet
from causalcine_jax.render.contact_sheet import (
    MOST_SHOTS,
    draw_pages,
    save_contact_sheet,
    shown_shots,
    wanted_frames,
)
from causalcine_jax.story import Shot, Story


def film(count, caption="Mia waves."):
    return Story(tuple(Shot(caption, chunks=1) for _ in range(count))).resolve()


def thumbs(story):
    return dict.fromkeys(wanted_frames(story), np.full((9, 16, 3), 200, np.uint8))


@pytest.fixture
def drawn(monkeypatch):
    """The shots whose rows were drawn; without drawing them, which takes seconds."""
    numbers = []
    draw = lambda page, draw, story, number, *_: numbers.append(number)
    monkeypatch.setattr(contact_sheet, "_draw_row", draw)
    return numbers


def test_each_of_many_shots_is_on_one_of_several_pages(drawn):
    story = film(200)
    sizes = [page.size for page in draw_pages(story, thumbs(story), "A story.", "")]
    assert drawn == list(range(200))
    head = 400  # title and strip
    assert len(sizes) > 1 and len({width for width, _ in sizes}) == 1
    assert all(height <= contact_sheet.PAGE_HEIGHT + head for _, height in sizes)


def test_a_film_of_very_many_shots_shows_some_of_them_from_first_to_last(drawn):
    story = film(10_000)
    assert len(wanted_frames(story)) <= MOST_SHOTS * contact_sheet.COLUMNS
    pages = list(draw_pages(story, thumbs(story), "A story.", ""))
    assert drawn == shown_shots(story) and len(set(drawn)) == MOST_SHOTS
    assert (drawn[0], drawn[-1]) == (0, 9_999) and len(pages) < 10


def test_pages_that_a_longer_film_left_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(contact_sheet, "PAGE_HEIGHT", 300)
    save = lambda story: save_contact_sheet(tmp_path / "sheet.png", story, thumbs(story), "", "")
    assert save(film(4)) == ["sheet.png has 4 pages, to sheet-4.png"]
    save(film(2))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sheet-2.png", "sheet.png"]


@pytest.mark.parametrize(
    ("caption", "spelled"),
    [
        ("米娅在海滩上挥手。", "米娅"),
        ("Мия машет.", None),
        ("Mia waves \U0001f98a.", "\U0001f98a"),
        ("\U00012000\U00012001\U00012000\U00012001 waves", "\U00012000\U00012001"),
        ("Mia waves \u2603\ufe0f cafe\u0301.", None),
    ],
)
def test_captions_of_any_script_are_drawn_and_what_no_font_has_is_said(caption, spelled, tmp_path):
    pages = {}
    for text in (caption, "."):
        story = film(1, text)
        notes = save_contact_sheet(tmp_path / "sheet.png", story, thumbs(story), "", "")
        pages[text] = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
        if text == caption:
            assert len(notes) == (spelled is not None)
            assert spelled is None or spelled in notes[0]
    written = np.abs(pages[caption] - pages["."]).sum(-1) > 0
    assert written.any(0).sum() > 50  # as wide as words are
