"""The page's controls in a real browser: lines, queue, keys, files, those who watch."""

import pytest
from desk_page import (
    BEACH,
    FOCUS,
    FOREST,
    MADE,
    QUEUED,
    TIME,
    begin,
    order,
    played,
    told,
    type_shot,
    until,
)

pytestmark = pytest.mark.browser


def test_a_refusal_is_shown_where_it_was_asked(page):
    begin(page, BEACH)
    page.wait_for_selector(".made")
    type_shot(page, "Otto sees refuseme")
    page.wait_for_selector(".prompt .fault:has-text('refuseme'):has-text('shot.caption')")
    assert page.input_value("#prompt") == "Otto sees refuseme"
    page.fill("#caption", "Mia sees refuseme")
    page.click("text=Retake")
    page.wait_for_selector(".card .fault:has-text('refuseme')")
    assert page.locator("[data-take]").count() == 1


def test_known_words_are_offered(page):
    begin(page)
    page.type("#prompt", "Otto waves in the fo")
    page.wait_for_selector(".offers [role=option]:has-text('forest')")
    page.press("#prompt", "Tab")
    until(page, "document.getElementById('prompt').value === 'Otto waves in the forest '")
    # Safari's Enter that commits a composition.
    enter = {"key": "Enter", "keyCode": 229, "bubbles": True, "cancelable": True}
    press = "given => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', given))"
    assert page.evaluate(press, enter), "nothing took it"


def test_queued_shots_are_moved_and_resized_with_the_mouse(page):
    begin(page, BEACH)
    page.wait_for_selector(".made")
    order(page, " ")
    for caption in ("Mia sits.", "Otto sits.", "Mia waves.", "Otto waves."):
        type_shot(page, caption)
    until(page, f"{QUEUED}.join() === 's2,s3,s4,s5'")
    first, last = (page.locator(".queued").nth(i).bounding_box() for i in (0, 2))
    page.mouse.move(first["x"] + 20, first["y"] + 20)
    page.mouse.down()
    page.mouse.move(last["x"] + last["width"] - 10, last["y"] + 20, steps=4)
    page.mouse.up()
    until(page, f"{QUEUED}.join() === 's3,s4,s2,s5'")
    # The queue moves while a shot is dragged, as it does when its first shot begins.
    page.mouse.move(first["x"] + 1.5 * first["width"], first["y"] + 20)
    page.mouse.down()
    page.mouse.move(first["x"] + 3 * first["width"], first["y"] + 20, steps=4)
    page.evaluate("sockets.at(-1).send(JSON.stringify({type: 'shot.remove', shot_id: 's3'}))")
    until(page, f"{QUEUED}.join() === 's4,s2,s5'")
    page.mouse.up()
    until(page, f"{QUEUED}.join() === 's2,s4,s5'")
    edge = page.locator(".queued .handle").first.bounding_box()
    page.mouse.move(edge["x"] + 4, edge["y"] + 20)
    page.mouse.down()
    page.mouse.move(edge["x"] + 4 + first["width"], edge["y"] + 20, steps=4)
    page.mouse.up()
    page.wait_for_selector(".queued .length:has-text('0:06.0')")


def test_a_film_is_directed_with_the_keyboard_alone(page):
    page.keyboard.type("Meet Mia.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#prompt")
    until(page, f"({FOCUS}) === 'prompt'")
    for caption in (BEACH, FOREST, "Mia sits.", "Otto sits."):
        page.keyboard.type(caption)
        page.keyboard.press("Enter")
    played(page, 0.5)
    page.keyboard.press("Escape")
    page.keyboard.press(" ")
    page.keyboard.press("?")
    page.wait_for_selector("dialog:has-text('Keys')")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    page.keyboard.press("q")
    before = page.evaluate(QUEUED)
    page.keyboard.press("Alt+ArrowRight")
    moved = [before[1], before[0], *before[2:]]
    until(page, f"(ids) => {QUEUED}.join() === ids.join()", moved)
    until(page, "(id) => document.activeElement.dataset.shot === id", before[0])
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector(".queued .length:has-text('0:03.8')")
    page.keyboard.press("Delete")
    until(page, f"(ids) => {QUEUED}.join() === ids.join()", [before[1], *before[2:]])
    order(page, "h")
    page.wait_for_selector(".doing[data-status=paused]")
    order(page, "h")
    order(page, "Home")
    until(page, f"{TIME} < 0.1")
    # A shot that has no place to move to takes no focus when it begins later.
    order(page, "q")
    page.keyboard.press("Alt+ArrowLeft")
    order(page, "/")
    until(page, f"({FOCUS}) === 'prompt'")
    page.keyboard.press("Control+Enter")
    until(page, f"(id) => !{QUEUED}.includes(id)", before[1])
    assert page.evaluate(FOCUS) == "prompt"


def test_a_take_is_saved_and_a_story_is_opened(page, tmp_path):
    begin(page, BEACH, chunks=2)
    played(page, 1)
    for file in ("film.mp4", "film.json"):
        page.click("text=Save")
        with page.expect_download() as saved:
            page.click(f".sheet >> text={file}")
        saved.value.save_as(tmp_path / file)
    assert (tmp_path / "film.mp4").read_bytes()[4:8] == b"ftyp"
    page.click("text=New film")
    (tmp_path / "wrong.json").write_text('{"shots": 3}')
    page.set_input_files("input[type=file]", tmp_path / "wrong.json")
    page.wait_for_selector(".start .fault:has-text('shots')")
    (tmp_path / "wrong.json").write_text("3")
    page.set_input_files("input[type=file]", tmp_path / "wrong.json")
    page.wait_for_selector(".start .fault:has-text('neither')")
    assert page.input_value("input[type=file]") == "", "the same file could not be chosen again"
    page.set_input_files("input[type=file]", tmp_path / "film.json")
    page.wait_for_selector(f".made .label:has-text('{BEACH}')")


def test_a_story_in_yaml_is_dropped(page):
    drop(page, "wrong.yaml", "schema: causalcine/story@1\nshots: 3")
    page.wait_for_selector(".start .fault:has-text('wrong.yaml'):has-text('shots')")
    shots = f"shots: [{{caption: {BEACH}, chunks: 1}}, {{caption: {FOREST}, chunks: 2}}]"
    drop(page, "story.yaml", f"schema: causalcine/story@1\nglobal: Meet Mia.\n{shots}")
    until(page, f"{MADE}.join() === 's1,s2'")
    played(page, 1)


def drop(page, name, text):
    page.evaluate(
        """([name, text]) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([text], name));
          dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
        }""",
        [name, text],
    )


def test_who_watches_sees_the_film_and_cannot_direct(page):
    begin(page, BEACH)
    page.wait_for_selector(".made")
    (session,) = page.served.desk.sessions.values()
    other = page.context.new_page()
    other.goto(f"{page.served.url}/#watch={session.project.watch_token}")
    other.wait_for_selector(".made")
    played(other, 1)
    assert other.locator("#prompt").count() == 0
    assert other.locator(".orders button").count() == 0


def test_every_control_has_a_name_and_nothing_is_wider_than_a_phone(page):
    begin(page, BEACH, FOREST)
    played(page, 0.5)
    page.set_viewport_size({"width": 390, "height": 844})
    nameless = """[...document.querySelectorAll("button, input, textarea, [role=slider]")].filter(
      (each) => !(each.ariaLabel || each.textContent.trim() || each.labels?.length))"""
    assert page.evaluate(f"{nameless}.map((each) => each.outerHTML)") == []
    until(page, "document.documentElement.scrollWidth <= 390")
    told(page, type="session.done", reason="failed", message="no memory is left " * 4)
    page.wait_for_selector(".doing.ended:has-text('no memory is left')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_who_comes_when_the_desk_is_full_waits_and_begins_when_one_leaves(page):
    begin(page, BEACH)
    page.wait_for_selector(".made")
    for _ in range(2):
        page.served.connect().until("session.started")
    other = page.context.new_page()
    other.goto(page.served.url)
    other.fill("#global", "Meet Otto.")
    other.click("text=Begin")
    other.wait_for_selector(".waiting:has-text('You are next')")
    page.click("text=New film")
    page.wait_for_selector(".kept")
    other.wait_for_selector("#prompt")
