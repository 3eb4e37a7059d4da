"""A film on the page, in a real browser: played, cut, taken again, branched, gone on with."""

import json

import pytest
from desk_page import (
    BEACH,
    CHUNK,
    COLOUR,
    FOREST,
    HEAD,
    MADE,
    TIME,
    apart,
    begin,
    order,
    paused_at,
    played,
    told,
    type_shot,
    until,
)

from causalcine_jax.serve.server_messages import MediaDropped

pytestmark = pytest.mark.browser


def test_a_typed_shot_is_filmed_and_played(page):
    begin(page, BEACH)
    played(page, 1.5)
    assert page.inner_text(".made .label") == f"1 {BEACH}"
    assert max(page.evaluate(COLOUR)) > 30
    assert len(page.inner_text(".timecode")) == len("00:00:00")
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_a_shot_that_is_cut_to_begins_within_two_chunks(page):
    begin(page, BEACH, chunks=12)
    played(page, 1)
    page.fill("#prompt", FOREST)
    made = page.evaluate(HEAD)  # at the order: the film grows while the caption is typed
    page.press("#prompt", "Control+Enter")
    until(page, f"{MADE}.length === 2")
    begins = page.evaluate("desk => [...document.querySelectorAll('.made .shot')][1].ariaLabel")
    at = float(begins.split("0:")[1].split(" to")[0])
    assert at <= made + 2 * CHUNK + 0.1
    played(page, at + 0.3)


def test_a_retake_shows_other_frames_and_keeps_the_first_take(page):
    begin(page, BEACH)
    before = paused_at(page, 1.5)
    order(page, "r")
    page.wait_for_selector("[data-take=t2][aria-current=true]")
    assert apart(before, paused_at(page, 1.5))
    page.click("[data-take=t1]")
    page.wait_for_selector("[data-take=t1][aria-current=true]")
    assert not apart(before, paused_at(page, 1.5))


def test_a_retake_with_another_caption_and_seed(page):
    begin(page, BEACH)
    played(page, 1)
    page.fill("#caption", FOREST)
    page.fill(".card .seed input", "7")
    page.click("text=Retake")
    page.wait_for_selector("[data-take=t2][aria-current=true]")
    until(page, "document.querySelector('.made .label')?.textContent.includes('Otto waves')")
    assert page.get_attribute(".card .seed input", "placeholder") == "7"


def test_a_branch_keeps_what_was_before_and_films_other_shots(page):
    begin(page, BEACH, FOREST, chunks=2)
    played(page, 2)
    order(page, "b")
    page.wait_for_selector("[data-take=t2][aria-current=true]")
    assert page.evaluate(MADE) == ["s1"]
    type_shot(page, "Mia sits in the meadow.")
    until(page, f"{MADE}.join() === 's1,s3'")
    played(page, 2)


def test_takes_are_compared_from_where_they_part(page):
    begin(page, BEACH, FOREST, chunks=2)
    played(page, 2)
    order(page, "r")
    page.wait_for_selector("[data-take=t2][aria-current=true]")
    until(page, f"{HEAD} > 2")
    order(page, "x")
    until(
        page,
        "[...document.querySelectorAll('.compare video')].filter((v) => v.currentTime > 1.2).length"
        " === 2",
    )
    page.keyboard.press("Escape")
    page.wait_for_selector(".compare", state="detached")
    gone = {"error": {"message": "The disk is gone."}}
    page.route("**/header.mp4", lambda route: route.fulfill(status=500, json=gone))
    order(page, "x")
    page.wait_for_selector("dialog .fault:has-text('The disk is gone.')")


def test_a_retrieved_frame_leads_to_its_place(page):
    begin(page, BEACH, chunks=8)
    played(page, 4)
    page.wait_for_selector(".memory button")
    order(page, " ")
    wanted = page.evaluate("document.querySelector('.memory button').ariaLabel")
    page.click(".memory button")
    at = float(wanted.split("0:")[1].split(",")[0])
    until(page, f"Math.abs({TIME} - {at}) < 0.1")


def test_a_reload_goes_on_where_it_was(page):
    begin(page, BEACH, FOREST)
    played(page, 2)
    order(page, " ")
    session, at = page.evaluate("sessionStorage['causalcine.film']"), page.evaluate(TIME)
    page.reload()
    page.wait_for_selector(".made")
    until(page, f"{TIME} >= {at} - 0.1")
    assert json.loads(page.evaluate("sessionStorage['causalcine.film']"))["token"] in session
    played(page, at + 1)
    assert page.evaluate(MADE) == ["s1", "s2"]


def test_a_dropped_socket_is_opened_again(page):
    begin(page, BEACH)
    played(page, 1)
    page.evaluate("sockets.at(-1).close()")
    until(page, "sockets.length === 2")
    page.wait_for_selector(".doing:not([data-status=lost])")
    type_shot(page, FOREST)
    until(page, f"{MADE}.join() === 's1,s2'")
    told(page, type="session.queued", position=1, reason="Full")
    page.wait_for_selector(".waiting:has-text('You are next')")
    page.evaluate("sockets.at(-1).close()")
    page.wait_for_selector(".hole video.film")
    played(page, 3)


def test_chunks_that_were_not_sent_are_fetched(page):
    begin(page, BEACH, chunks=8)
    page.wait_for_selector(".made")
    (session,) = page.served.desk.sessions.values()
    tell, lost = session.publisher._tell, []

    def losing(message, media=None):
        if message.type == "media.chunk" and len(lost) < 3:
            lost.append(message.chunk)
            return tell(MediaDropped(take_id=message.take_id, chunks=(message.chunk,)))
        tell(message, media)

    session.publisher._tell = losing
    played(page, 4.5)
    assert len(lost) == 3
