"""`causalcine gallery`: films from disk on one page, which opens without a server."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_model

from causalcine_jax.__main__ import command
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film.director import Director
from causalcine_jax.gallery import write
from causalcine_jax.gallery.cell import film_cell
from causalcine_jax.render.mp4 import FilmWriter
from causalcine_jax.story import Shot, Story

STORY = {
    "schema": "causalcine/story@1",
    "global": "A tale </script><b> of Mia.",
    "seed": 3,
    "shots": [
        {"caption": "Mia <i>waves</i>.", "chunks": 2},
        {"caption": "Otto runs.", "chunks": 2},
    ],
}
FRAMES = 45
RETRIEVED = [[[-1, -1]] * 2, [[-1, -1]] * 2, [[0, 1], [0, -1]], [[0, 4], [4, 5]]]


def make_film(folder, **record):
    """45 frames of 32x16: each shot in one grey; with a record where fields are given."""
    folder.mkdir(parents=True)
    frames = np.full((FRAMES, 16, 32, 3), 60, np.uint8)
    frames[21:] = 180
    with FilmWriter(folder / "film.mp4", 16, 4) as film:
        film.append(frames)
    if record:
        told = {"schema": "causalcine/film@1", "chunk_frames": 3, **record}
        (folder / "film.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """Two films of one story, one of them without what was retrieved, and one of which nothing is
    known."""
    home = tmp_path_factory.mktemp("films")
    seen = {"sampler": {"solver": "few_step", "steps": 4}, "timings": {"fps": 57.25}}
    make_film(home / "first", story=STORY, retrieved=RETRIEVED, **seen)
    make_film(home / "second", story=STORY)
    shutil.copy(make_film(home / "theirs") / "film.mp4", home / "theirs/one.mp4")
    (home / "theirs/film.mp4").unlink()
    return home


def gallery(folders, out, *flags):
    command(["gallery", *map(str, folders), "--out", str(out), *flags])
    text = (out / "films.js").read_text()
    return json.loads(text.removeprefix("const GALLERY = ").removesuffix(";\n"))


def test_a_gallery_knows_shots_retrieved_frames_and_how_films_were_made(films, tmp_path):
    page = gallery([films], tmp_path / "out", "--title", "Ours")
    first, second, theirs = page["films"]
    assert [film["title"] for film in page["films"]] == ["first", "second", "theirs/one"]
    assert page["title"] == "Ours"
    assert (first["width"], first["height"], first["fps"], first["frames"]) == (128, 64, 16, FRAMES)
    cuts = [(shot["first_frame"], shot["frames"]) for shot in first["shots"]]
    assert cuts == [(0, 21), (21, 24)]
    by_chunk = {
        c["first_frame"]: [(f["frame"], f["share"]) for f in c["frames"]]
        for c in first["retrieved"]
    }
    assert by_chunk == {21: [(0, 1.0), (4, 0.5)], 33: [(16, 1.0), (0, 0.5), (20, 0.5)]}
    assert dict(first["facts"])["sampler"] == "few_step, 4 steps"
    assert (second["retrieved"], theirs["record"]) == ([], False)
    assert theirs["shots"] == [{"caption": "", "first_frame": 0, "frames": FRAMES}]
    sheet = Image.open(tmp_path / "out" / first["folder"] / "retrieved.webp")
    assert sheet.size == (4 * 96, 48)  # latent frames 0, 1, 4, 5
    shades = [np.asarray(sheet)[24, 96 * place + 48, 0] for place in range(4)]
    assert np.allclose(shades, [60, 60, 60, 60], atol=4)
    poster = np.asarray(Image.open(tmp_path / "out" / first["folder"] / "poster.webp"))
    assert poster.shape == (64, 128, 3) and abs(int(poster[32, 64, 0]) - 60) < 5


def test_a_film_of_another_system_is_shown_with_the_story_beside_it(films, tmp_path):
    home = tmp_path / "films"
    home.mkdir()
    shutil.copy(films / "first/film.mp4", home / "wave.mp4")
    (home / "wave.json").write_text(json.dumps(STORY))
    (film,) = gallery([home], tmp_path / "out")["films"]
    assert film["global"] == STORY["global"] and len(film["shots"]) == 2


def test_measures_are_shown_on_the_film_that_was_measured(films, tmp_path):
    measures, stories = tmp_path / "measures", tmp_path / "stories.json"
    stories.write_text(json.dumps({"first": STORY}))
    command(["evaluate", "--films", str(films), "--stories", str(stories), "--out", str(measures)])
    page = gallery([films], tmp_path / "out", "--measures", str(measures))
    first, second, _ = page["films"]
    measured = json.loads((measures / "measures.json").read_text())["per_film"]["first"]
    facts = dict(first["facts"])
    assert facts["shot-cut accuracy"] == f"{measured['cuts']['sca']:.3f}" == "1.000"
    assert facts["dynamics"] == f"{measured['asked']['means']['dynamics']:.3f}"
    assert "text alignment" not in facts, "no weights were named"
    # The second film has the same bytes as the first.
    assert dict(second["facts"])["shot-cut accuracy"] == "1.000"
    with pytest.raises(UsageError, match=r"there is no measures\.json"):
        gallery([films], tmp_path / "none", "--measures", str(tmp_path))


def test_what_cannot_be_shown_is_left_out_by_name(films, tmp_path, capsys):
    home = tmp_path / "films"
    shutil.copytree(films / "second", home / "good")
    shutil.copytree(films / "second", home / "torn")
    (home / "torn/film.mp4").write_bytes(b"no film")
    shutil.copytree(films / "second", home / "odd")
    (home / "odd/film.json").write_text(json.dumps({"story": STORY, "retrieved": [["x"]]}))
    assert [film["title"] for film in gallery([home], tmp_path / "out")["films"]] == ["good"]
    told = capsys.readouterr().err
    assert "torn" in told and "odd" in told and "latent frames" in told


def test_folders_without_films_and_galleries_that_exist_are_refused(films, tmp_path):
    with pytest.raises(UsageError, match="no film"):
        gallery([tmp_path], tmp_path / "out")
    with pytest.raises(UsageError, match="no folder"):
        gallery([tmp_path / "none"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    gallery([films], tmp_path / "out")
    with pytest.raises(UsageError, match="--overwrite"):
        gallery([films], tmp_path / "out")
    shutil.copytree(films / "second", tmp_path / "second")
    again = gallery([tmp_path], tmp_path / "out", "--overwrite")
    assert len(again["films"]) == 1  # its own films are not taken
    assert [folder.name for folder in (tmp_path / "out/films").iterdir()] == ["001"]
    with pytest.raises(UsageError, match="is in --out, where the gallery goes"):
        gallery([tmp_path / "out" / "films"], tmp_path / "out", "--overwrite")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.mp4"):
        gallery([bad], tmp_path / "third")


@pytest.mark.browser
def test_the_page_plays_compares_and_votes_from_the_disk(films, tmp_path, browser):
    systems = [films / name for name in ("first", "second", "theirs")]
    gallery(systems, tmp_path / "out", "--title", "Ours & theirs")
    wrong = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "out/index.html").as_uri())
    assert page.inner_text("h1") == "Ours & theirs"
    assert page.locator(".global").first.inner_text() == STORY["global"]
    assert page.locator("main b, main i:not(.head)").count() == 0  # captions are text, never HTML
    assert "false" not in page.inner_text("main")  # of films without a record or retrieved frames
    card = page.locator(".card").first
    card.locator(".shot").nth(1).click()
    page.wait_for_function("document.querySelector('video').currentTime > 1.3")
    assert card.locator(".caption").inner_text() == "Otto runs."
    # On a busy machine the film may be in the next chunk by now, of which three are retrieved.
    page.evaluate("film => { film.pause(); film.currentTime = 1.5 }", page.query_selector("video"))
    first = "document.querySelector('.card')"
    page.wait_for_function(f"{first}.querySelectorAll('.memory button').length === 2")
    card.locator(".memory button").first.click()
    page.wait_for_function("document.querySelector('video').currentTime < 1")
    assert page.locator("main video[src]").count() == 1  # one decoder at a time
    for place in (0, 1):
        page.locator(".links input").nth(place).check()
    page.click("button.compare")
    times = "[...document.querySelectorAll('dialog video')].map((each) => each.currentTime)"
    page.wait_for_function(f"Math.min(...{times}) > 0.3")
    one, other = page.evaluate(times)
    assert abs(one - other) < 0.15
    page.click("dialog .end")
    page.wait_for_function("document.querySelectorAll('video[src]').length <= 1")
    page.click("button.vote")
    assert "1 pair" in page.inner_text(".voting")
    page.click(".voting .go")
    asked = page.inner_html(".voting")
    assert "first" not in asked and "second" not in asked, "a screen reader would tell"
    # A key that is held, and the browser's own, are no votes.
    for given in ("repeat", "altKey"):
        key = f"new KeyboardEvent('keydown', {{key: 'ArrowLeft', bubbles: true, {given}: true}})"
        page.evaluate(f"void document.body.dispatchEvent({key})")
    page.keyboard.press("ArrowRight")
    with page.expect_download() as saved:
        page.click("text=Save votes.json")
    votes = json.loads(saved.value.path().read_text())
    (vote,) = votes["votes"]
    assert {vote["left"], vote["right"]} == {"first", "second"} and vote["choice"] == "right"
    assert (vote["left_system"], vote["right_system"]) == (vote["left"], vote["right"])
    assert not wrong
    page.close()


def test_a_gallery_over_a_larger_one_keeps_nothing_of_it(films, tmp_path):
    out = tmp_path / "page"
    for number in (1, 2, 999, 1000, 1001):
        old = out / "films" / f"{number:03}"
        old.mkdir(parents=True)
        for name in ("poster.webp", "film.json", "retrieved.webp"):
            (old / name).write_bytes(b"old")
    (out / "films.js").write_text("old")
    shutil.copytree(films / "theirs", tmp_path / "new")
    new = tmp_path / "new" / os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / "new/one.mp4").rename(new)
    (film,) = gallery([tmp_path / "new"], out, "--overwrite")["films"]
    assert [folder.name for folder in (out / "films").iterdir()] == ["001"]
    assert {file.name for file in (out / "films/001").iterdir()} == {"film.mp4", "poster.webp"}
    assert not film["record"]


def test_a_gallery_that_was_stopped_has_no_page_and_is_made_again(films, tmp_path, monkeypatch):
    out = tmp_path / "out"
    gallery([films], out)
    shutil.copytree(films / "second", tmp_path / "other/one")

    def stops(*_):
        (out / "films/001/film.mp4.4711-0a1b2c3d.tmp").write_bytes(b"half a film")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(write, "draw_stills", stops)
        with pytest.raises(KeyboardInterrupt):
            gallery([tmp_path / "other"], out, "--overwrite")
    assert not (out / "index.html").exists()
    assert [film["title"] for film in gallery([tmp_path / "other"], out)["films"]] == ["one"]
    assert not list(out.rglob("*.tmp")) and (out / "index.html").exists()
    monkeypatch.setattr(write, "write_text", stops)
    with pytest.raises(KeyboardInterrupt):
        gallery([films], out, "--overwrite")
    assert not (out / "index.html").exists()


def test_the_picture_that_a_film_goes_on_from_is_its_first_shot(tmp_path):
    start = {"file": "fox.png", "caption": "Mia.", "sha256": "", "chunks": 1}
    story = {**STORY, "shots": [{"caption": "Otto runs.", "chunks": 3}]}
    make_film(tmp_path / "films/one", story=story, start=start)
    (film,) = gallery([tmp_path / "films"], tmp_path / "out")["films"]
    assert [shot["caption"] for shot in film["shots"]] == ["Mia.", "Otto runs."]


def test_a_film_that_lies_below_two_folders_is_shown_once(films, tmp_path):
    found = gallery([films, films / "second", films], tmp_path / "out")
    assert len(found["films"]) == len(gallery([films], tmp_path / "alone")["films"])


def test_films_of_several_folders_name_theirs(films, tmp_path):
    systems = [tmp_path / name for name in ("a/theirs", "b/theirs", "ours")]
    for system in systems:
        shutil.copytree(films / "second", system / "ferry")
    page = gallery(systems, tmp_path / "out")["films"]
    names = ["a/theirs", "b/theirs", "ours"]
    assert [film["system"] for film in page] == names
    assert [film["title"] for film in page] == [f"{name}/ferry" for name in names]
    one = gallery([systems[2]], tmp_path / "one")["films"]
    assert [(film["title"], film["system"]) for film in one] == [("ferry", "ours")]


@pytest.fixture(scope="module")
def cell():
    """What a notebook shows of STORY in greys: RETRIEVED, 9 and 12 frames a chunk."""
    known = Story((Shot("Mia waves.", chunks=2), Shot("Otto waves.", chunks=2)))
    director = Director(tiny_model(), known)
    director.story = Story.from_dict(STORY)  # words that no model of StoryWorld takes
    chunks = [
        Chunk(
            np.full((12 if index else 9, 16, 32, 3), 60 if index < 2 else 180, np.uint8),
            index,
            director.resolved.shots[index // 2],
            np.array(retrieved),
            {},
        )
        for index, retrieved in enumerate(RETRIEVED)
    ]
    return film_cell(director, chunks)


def test_a_notebooks_cell_holds_all_that_it_shows(cell):
    assert re.findall(r'(?:src|href)="([^"]*)"', cell.page) == ["data:,"]  # the icon
    told = re.search(r"const GALLERY = (.*);\n</script>", cell.page)[1]
    assert "<" not in told, "a caption could end the script"
    (film,) = json.loads(told)["films"]
    assert film["global"] == STORY["global"]
    assert [(shot["first_frame"], shot["frames"]) for shot in film["shots"]] == [(0, 21), (21, 24)]
    assert [each["first_frame"] for each in film["retrieved"]] == [21, 33]
    kinds = {name: address.split(";")[0] for name, address in film["files"].items()}
    assert kinds == {
        "film.mp4": "data:video/mp4",
        "poster.webp": "data:image/webp",
        "retrieved.webp": "data:image/webp",
    }
    assert repr(cell).startswith("FilmCell(height=")  # a stored notebook keeps it twice otherwise


@pytest.mark.browser
def test_a_notebooks_cell_plays_its_film(cell, browser):
    wrong = []
    page = browser.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_content(cell._repr_html_())
    inside = page.frame_locator("iframe")
    inside.locator(".shot").nth(1).click()
    inside.locator(".caption:has-text('Otto runs.')").wait_for()
    inside.locator(".memory button").nth(1).wait_for()
    assert inside.locator(".links label, .top").locator("visible=true").count() == 0
    assert not wrong
    page.close()
