"""The pictures of the desk in docs/: `make desk-test ARGS="-k pictures --pictures docs"`."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from desk_page import order, played, type_shot, until
from PIL import Image
from repository import ROOT
from screencast import Screencast, still

pytestmark = pytest.mark.browser
WIDTH = 960  # pixels of the recording
MOST_BYTES = 3_000_000  # of the recording


def test_pictures_of_a_film_that_is_directed(open_page, embedded_engine, tmp_path, request):
    pictures = Path(request.config.getoption("pictures") or tmp_path)
    story = yaml.safe_load((ROOT / "examples" / "demo.yaml").read_text("utf-8"))
    mia, otto, *_, mia_again, together = (shot["caption"] for shot in story["shots"])
    embedded_engine.warm_up()
    page = open_page(embedded_engine)
    page.emulate_media(color_scheme="dark")
    page.fill("#global", story["global"])
    page.fill(".start .seed input", str(story["seed"]))
    page.click("text=Begin")
    type_shot(page, mia)
    type_shot(page, otto)
    played(page, 2)
    recording = Screencast(page)
    page.type("#prompt", mia_again, delay=30)
    page.press("#prompt", "Enter")
    played(page, 7)
    until(page, "document.querySelectorAll('.memory img').length > 3")
    order(page, "r")  # Mia's return once more, with another seed
    page.wait_for_selector("[data-take=t2][aria-current=true]")
    type_shot(page, together)
    played(page, 7.5)
    still(page, pictures / "desk.webp")
    page.wait_for_timeout(3000)
    recording.save(pictures / "desk_recording.webp", WIDTH)
    order(page, "x")
    page.wait_for_selector(".compare video")
    # After the takes have parted, at 5.8 s.
    until(page, "[...document.querySelectorAll('.compare video')].every((v) => v.currentTime > 7)")
    still(page, pictures / "desk_takes.webp")

    assert (pictures / "desk_recording.webp").stat().st_size < MOST_BYTES
    with Image.open(pictures / "desk_recording.webp") as moving:
        assert moving.width == WIDTH and moving.n_frames > 10
    for name in ("desk.webp", "desk_takes.webp"):
        with Image.open(pictures / name) as picture:
            assert picture.size == (1280, 800) and np.asarray(picture).std() > 20
