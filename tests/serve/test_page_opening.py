"""`causalcine bench desk --case page`: how long the page takes from opening to its first frame."""

import pytest

from benchmarks.chromium import missing_browser
from benchmarks.desk import desk, desk_table
from benchmarks.desk_clients import Served
from benchmarks.page_opening import opened_pages
from causalcine_jax.errors import UsageError


def test_the_page_is_not_measured_without_a_browser(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(UsageError, match=r"--case page needs \w+: make desk-test installs it"):
        desk(("page",), None, None, print)


def test_a_table_says_what_was_not_measured():
    record = {"targets": {"page": {}}, "cases": {"page": {"not_measured": "needs Chromium"}}}
    assert desk_table(record).splitlines()[-1] == "| page | not_measured | needs Chromium |  |"


@pytest.mark.browser
@pytest.mark.skipif(missing_browser() is not None, reason=str(missing_browser()))
def test_the_first_frame_is_timed_from_opening_the_page(tmp_path):
    with Served(tmp_path, "--mock") as at:
        found = opened_pages(at.url, 1)
    assert found["browser"].startswith("Chromium ")
    assert 0 < found["begun_s"] < found["media_s"] < found["first_frame_s"]
    assert found["first_frame_longest_s"] == found["first_frame_s"] and found["reload_s"] > 0
