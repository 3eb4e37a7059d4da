"""benchmarks/pools.py: which returns count as forgotten, resuming, and its sums by hand."""

import importlib.util
import json

import pytest
from repository import ROOT

from causalcine_jax.config import MemoryConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.storyworld import WorldConfig

SCRIPT = ROOT / "benchmarks" / "pools.py"
WORLD = WorldConfig.base().longer(3)


@pytest.fixture(scope="module")
def pools():
    spec = importlib.util.spec_from_file_location("pools", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases(pools):
    found = pools.long_returns(WORLD, MemoryConfig(), 8)
    return [next(found) for _ in range(3)]


def test_who_comes_back_was_out_of_reach_of_a_pool_that_evicts_the_oldest(pools, cases):
    for case in cases:
        chunk, shown = case.back.chunk, pools.shows(case.story, case.back.character)
        # 8 chunks: the sink 0 and 1, and the last 6 before the return.
        assert (
            not shown[:2].any()
            and not shown[chunk - 6 : chunk].any()
            and shown[:chunk].any()
            and shown[chunk : chunk + 2].all()
        )
    near = next(pools.long_returns(WORLD, MemoryConfig(), 8, "near"))
    chunk, shown = near.back.chunk, pools.shows(near.story, near.back.character)
    assert (
        chunk > 8
        and not shown[:2].any()
        and not shown[chunk - 3 : chunk].any()
        and shown[chunk - 6 : chunk - 3].any()
    )


def test_a_measurement_goes_on_where_it_was_stopped(pools, cases, tmp_path):
    path, settings, made = tmp_path / "deep" / "cases.jsonl", {"seed": 1}, []
    cases_from = lambda first: iter([case for case in cases if case.story.index >= first])

    def film(case):
        made.append(case.story.index)
        return {"row": {"mean": 1.0}}

    first = list(pools.measured(path, settings, cases_from, 2, film))
    again = list(pools.measured(path, settings, cases_from, 3, film))
    assert made == [case.story.index for case in cases] and again[:2] == first
    assert [json.loads(line) for line in path.read_text().splitlines()] == [settings, *again]
    with pytest.raises(UsageError, match="holds a measurement of"):
        list(pools.measured(path, {"seed": 2}, cases_from, 3, film))


def test_sums_by_hand(pools):
    right = {
        "found": True,
        "colour": True,
        "accessory": True,
        "mean": 1.0,
        "held": True,
        "remembered": 0.5,
        "consistency": 1.0,
        "difference": 0.0,
    }
    wrong = {
        **right,
        "colour": False,
        "mean": 0.5,
        "held": False,
        "remembered": 0.0,
        "difference": 3.0,
    }
    records = [
        {"rows": {pools.WHOLE: right, pools.INT8: right, pools.OLDEST: wrong, pools.LEAST: row}}
        for row in (right, wrong, right, right)
    ]
    result = pools.summary(records)
    assert (
        result["rows"][pools.LEAST]["held"]["value"] == 0.75
        and result["rows"][pools.OLDEST]["colour"]["value"] == 0
    )
    assert result["paired"]["least_retrieved less oldest"]["value"] == pytest.approx(0.375)
    assert result["same verdict under int8"]["value"] == 1
    one = json.loads(json.dumps(pools.summary(records[:1]), allow_nan=False))
    assert one["paired"]["least_retrieved less oldest"]["low"] is None
