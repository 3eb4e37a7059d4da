"""`causalcine plan prepare`, against sizes by hand and the store's own layout."""

import json

import numpy as np
import pytest

from causalcine_jax.commands import plan
from causalcine_jax.data.latent_writer import LatentStoreWriter, NewRecord
from causalcine_jax.errors import UsageError
from causalcine_jax.planning.prepare_plan import (
    INDEX_BYTES,
    PrepareRequest,
    prepare_plan,
    store_spec,
)

FILM = 237 / 16  # seconds of 60 latent frames


def rows(**asked):
    asked = {"videos": 2, "hours": 100.0, **asked}
    return {(row.name, row.unit): row for row in prepare_plan(PrepareRequest(**asked))}


def value(found, name, unit):
    return found[name, unit].value


def test_bytes_are_those_of_the_films():
    found = rows(rates={"kept": 1.0})
    films = value(found, "films", "films")
    assert films == pytest.approx(100 * 3600 / FILM - 1, abs=1)
    latents = films * 60 * 60 * 104 * 16 * 2
    assert value(found, "latents in work/latents", "bytes") == latents
    assert value(found, "latents in the stores", "bytes") == latents
    ids = value(found, "token ids in the stores", "bytes")
    assert ids == films * (20 * 512 + 20) * 4
    first, later = (value(found, f"on disk, {run}", "bytes") for run in ("first run", "later runs"))
    assert 2 * latents < first < 2.02 * latents < 3 * latents < later < 3.03 * latents


def test_hours_are_shared_by_cores_devices_and_requests():
    one = rows(latent_frames=3, height=48, width=80)
    many = rows(latent_frames=3, height=48, width=80, cores=8, devices=4, at_once=40)
    ratio = lambda name: value(one, name, "hours") / value(many, name, "hours")
    assert ratio("scan for shots") == pytest.approx(8)
    assert ratio("decoding for the VAE") == pytest.approx(8)
    assert ratio("VAE encoding") == pytest.approx(4)
    assert ratio("captions") == pytest.approx(10)
    assert value(one, "captions", "requests") == value(one, "films", "films")
    parts = ("scan for shots", "captions")
    slower = max(value(one, name, "hours") for name in ("decoding for the VAE", "VAE encoding"))
    total = sum(value(one, name, "hours") for name in parts) + slower
    assert value(one, "all stages", "hours") == pytest.approx(total)


def test_every_row_says_how_its_number_is_known():
    small = {"latent_frames": 3, "height": 48, "width": 80}
    found = rows(**small)
    how = {key: row.how for key, row in found.items()}
    assert how["latents in the stores", "bytes"] == how["VAE encoding", "hours"] == "counted"
    assert how["scan for shots", "hours"] == how["all stages", "hours"] == "assumed"
    assert "2026-11-28_shots_cpu.json" in found["scan for shots", "hours"].source
    given = rows(**small, rates={"scan": 0.2})
    assert given["scan for shots", "hours"].how == "measured", "the weakest of its rates"
    given = rows(**small, rates={"encode": 2.0})
    assert given["VAE encoding", "hours"].how == "given"
    kept = value(given, "films", "films") * 9 / 16
    assert value(given, "VAE encoding", "hours") == pytest.approx(kept / 2 / 3600)


def test_the_encoder_takes_as_long_as_its_pixels():
    small, large = (
        rows(latent_frames=3, height=48 * k, width=80 * k, rates={"kept": 1.0}) for k in (1, 2)
    )
    ratio = value(large, "VAE encoding", "hours") / value(small, "VAE encoding", "hours")
    assert 3.9 < ratio < 4.3


def test_a_stores_arrays_are_as_large_as_planned(tmp_path):
    request = PrepareRequest(1, 1.0, height=48, width=80, latent_frames=12)
    spec = store_spec(request, 4)
    writer = LatentStoreWriter(tmp_path / "store", spec)
    record = NewRecord(
        np.ones((12, 6, 10, 16), np.float16),
        np.ones((4, 512), np.int32),
        np.zeros(4, np.int32),
        ("a",) * 4,
    )
    for shard in writer.pending():
        writer.write(shard, [record] * len(shard))
    writer.finish()
    arrays = ("latents", "token_ids", "shot_of_chunk")
    size = sum(
        file.stat().st_size
        for name in arrays
        for file in (tmp_path / "store" / name).rglob("*")
        if file.is_file() and file.name != "zarr.json"
    )
    index = 4 * (spec.chunks + 2) * INDEX_BYTES
    # A shard of 32 films reserves the index of all, and has a checksum of its own.
    assert 4 * spec.film_bytes + index <= size <= 4 * spec.film_bytes + 8 * index + 12


@pytest.mark.parametrize(
    "asked, fault",
    [
        ({"latent_frames": 61}, "latent_frames must be a multiple of 3"),
        ({"width": 830}, "width must be a positive multiple of 16"),
        ({"chip": "h20"}, "unknown chip 'h20'"),
        ({"rates": {"kept": 2.0}}, "kept must be"),
        ({"rates": {"captions": 2.0}}, "did you mean 'caption'"),
        ({"hours": 0.0}, "hours must be at least 1e-09"),
        ({"hours": 1e300}, "hours must be .* at most 1000000000000, not 1e\\+300"),
        ({"rates": {"encode": 1e-320}}, "encode must be at least 1e-09"),
        ({"videos": 10**18}, "videos must be at least 1 and at most"),
        ({"videos": 100_000}, "leave no films of 14.8 s"),
    ],
)
def test_impossible_requests_are_refused(asked, fault):
    with pytest.raises(UsageError, match=fault):
        rows(**asked)


def test_the_command_prints_a_table_and_json(capsys):
    words = ["prepare", "--videos", "10", "--hours", "5", "--size", "80x48", "--latent-frames", "3"]
    plan.main([*words, "--rate", "caption=2"])
    text = capsys.readouterr().out
    assert "10 videos of 5 hours" in text and "given:    caption 2" in text
    plan.main([*words, "--json"])
    data = json.loads(capsys.readouterr().out)
    assert data["request"]["width"] == 80 and len(data["rows"]) == 14


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        (["kept"], "must be NAME=NUMBER, such as kept=0.5, not 'kept'"),
        (["kept="], "must be a finite number, not ''"),
        (["kept=0.5", "scan=1", "kept=0.9"], "--rate kept is given twice"),
    ],
)
def test_rates_that_cannot_be_are_refused(rates, said, capsys):
    words = ["prepare", "--videos=10", "--hours=5", *(f"--rate={rate}" for rate in rates)]
    with pytest.raises((UsageError, SystemExit)) as refused:
        plan.main(words)
    assert said in f"{refused.value} {capsys.readouterr().err}"
