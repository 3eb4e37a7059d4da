"""Expected times: peaks times attained fractions by kind of work, with ranges and sources."""

import json

import jax
import jax.numpy as jnp
import pytest

from causalcine_jax.planning import attained
from causalcine_jax.planning.attained import KINDS, expected, how_sure, rates
from causalcine_jax.planning.hardware import known_topologies, target
from causalcine_jax.planning.jaxpr_flops import flops_by_kind
from causalcine_jax.planning.roofline import Roofline


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A table in which every rate of GPUs is a half, from a quarter to one, but for an H100's."""
    rate = {"expected": 0.5, "low": 0.25, "high": 1.0, "how": "estimated", "source": "nobody"}
    own = rate | {"expected": 0.8, "low": 0.8, "high": 0.8, "how": "measured"}
    file = tmp_path / "attained.json"
    file.write_text(json.dumps({"gpu": dict.fromkeys(KINDS, rate), "h100": {"attention": own}}))
    monkeypatch.setattr(attained, "FILE", file)
    rates.cache_clear()
    yield
    rates.cache_clear()


@pytest.mark.usefixtures("known")
def test_a_program_takes_its_parts_at_their_rates_one_after_the_other():
    flops = {"wide products": 989e12, "attention": 2 * 989e12}
    line = Roofline(3.0, memory=1.0, collectives=0.5, copies=0.25)
    found = expected(target("h200:1x1"), flops, line, launches=2)
    assert found.parts == {
        "wide products": 2.0,
        "narrow products": 0.0,
        "attention": 4.0,
        "convolutions": 0.0,
        "memory": 2.0,
        "collectives": 1.0,
        "launches": 1.0,
        "copies": 0.25,
    }
    # At best everything at its peak and launches of .25 s; at worst a quarter and 1 s.
    assert (found.seconds, found.least, found.most) == (10.25, 5.25, 20.25)
    measured = expected(target("h100:1x1"), flops, line, launches=2)
    assert measured.parts["attention"] == 2.5
    assert how_sure(target("h100:1x1")).startswith("measured: attention; estimated: wide products")


def test_products_are_known_by_their_kind():
    def program(x, wide, narrow, image, taps):
        image = jax.lax.conv_general_dilated(image, taps, (1, 1), "SAME")
        return (x @ wide) @ narrow, image

    shapes = [(8, 4096), (4096, 4096), (4096, 64), (1, 2, 16, 16), (4, 2, 3, 3)]
    traced = jax.make_jaxpr(program)(*(jnp.zeros(shape) for shape in shapes))
    assert flops_by_kind(traced) == {
        "wide products": 2 * 8 * 4096 * 4096,
        "narrow products": 2 * 8 * 4096 * 64,
        "convolutions": 2 * 16 * 16 * 9 * 2 * 4,
    }


@pytest.mark.parametrize("name", known_topologies())
def test_every_chip_has_every_rate_within_its_range_and_a_source(name):
    for kind, rate in rates(target(name)).items():
        assert 0 <= rate.low <= rate.expected <= rate.high <= 1 and rate.source, kind
        assert rate.how in ("measured", "published", "estimated")
