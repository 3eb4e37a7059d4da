"""`causalcine plan prepare`, against sizes by hand and the store's own layout."""

import base64
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


def test_films_of_several_lengths_are_counted_each():
    """What is left of a run, on average half a film, goes to the next shorter length."""
    sizes = {"height": 48, "width": 80, "rates": {"kept": 1.0, "encode": 2.0, "decode": 0.5}}
    seconds = {n: (4 * (n - 1) + 1) / 16 for n in (60, 30, 15)}
    found = rows(**sizes, shorter=(30, 15))
    counts = {n: value(found, f"films of {n} latent frames", "films") for n in seconds}
    assert counts[60] == pytest.approx(100 * 3600 / seconds[60] - 1, abs=1)
    assert counts[30] == counts[15] == 2, "half a film of each video, and a little more"
    assert value(found, "films", "films") == sum(counts.values())
    latents = sum(count * n * 6 * 10 * 16 * 2 for n, count in counts.items())
    assert value(found, "latents in the stores", "bytes") == latents
    ids = sum(count * (n // 3 * 512 + n // 3) * 4 for n, count in counts.items())
    assert value(found, "token ids in the stores", "bytes") == ids
    kept = sum(count * seconds[n] for n, count in counts.items())
    assert value(found, "VAE encoding", "hours") == pytest.approx(kept / 2 / 3600)
    assert value(found, "decoding for the VAE", "hours") == pytest.approx(kept * 0.5 / 3600)
    assert value(found, "captions", "requests") == sum(counts.values())
    one = rows(**sizes)
    assert value(one, "VAE encoding", "hours") < value(found, "VAE encoding", "hours")
    assert not any(name.startswith("films of") for name, _ in one)


def test_runs_of_any_length_give_as_many_films_as_planned():
    """Against runs that are cut one by one, the longest film first."""
    seconds = {n: (4 * (n - 1) + 1) / 16 for n in (60, 30, 15)}
    runs = np.random.default_rng(0).uniform(20, 100, 20_000)
    rest, cut = runs.copy(), {}
    for n, film in seconds.items():
        cut[n] = (rest // film).sum()
        rest %= film
    rates = {"kept": 1.0, "encode": 1.0, "runs": 20.0}
    asked = {"videos": 1000, "hours": runs.sum() / 3600, "rates": rates, "shorter": (30, 15)}
    found = rows(height=48, width=80, **asked)
    for n in seconds:
        films = value(found, f"films of {n} latent frames", "films")
        assert films == pytest.approx(cut[n], rel=0.05)


def test_videos_too_short_for_the_longest_films_give_shorter_ones():
    sizes = {"height": 48, "width": 80, "rates": {"kept": 1.0, "encode": 1.0}}
    found = rows(videos=1000, hours=1000 * 5 / 3600, **sizes, shorter=(15,))
    assert value(found, "films of 60 latent frames", "films") == 0
    each = 5 / (57 / 16) - 0.5
    assert value(found, "films of 15 latent frames", "films") == pytest.approx(1000 * each, abs=1)
    with pytest.raises(UsageError, match=r"videos of 1\.0 s leave no films of 3\.6 s"):
        rows(videos=1000, hours=1000 / 3600, **sizes, shorter=(15,))


def test_the_encoders_rate_is_that_of_all_lengths():
    sizes = {"height": 48, "width": 80, "latent_frames": 12}
    several = rows(**sizes, shorter=(3,))
    counts = [value(several, f"films of {n} latent frames", "films") for n in (12, 3)]
    long, short = (
        value(rows(height=48, width=80, latent_frames=n), "VAE encoding", "hours")
        / value(rows(height=48, width=80, latent_frames=n), "films", "films")
        for n in (12, 3)
    )
    assert value(several, "VAE encoding", "hours") == pytest.approx(
        counts[0] * long + counts[1] * short
    )


def test_embeddings_of_shots_add_bytes_and_hours():
    sizes = {"height": 48, "width": 80, "latent_frames": 3}
    rates = {"shot": 2.0, "embed": 3.0, "compare": 1e6, "kept": 0.5}
    one, found = rows(**sizes, rates=rates), rows(**sizes, rates=rates, embed_shots=True, cores=1)
    shots = 180_000
    text = len(base64.b64encode(bytes(2 * 768)))
    assert value(found, "embeddings in work/*.jsonl", "bytes") == shots * text
    assert value(found, "memory of embeddings", "GB") == pytest.approx(shots * 1536 / 1e9)
    hours = {
        "embedding shots": shots * 3.0 / 3600,
        "comparing embeddings": shots**2 / 2 / 1e6 / 3600,
    }
    for name, expected in hours.items():
        assert value(found, name, "hours") == pytest.approx(expected)
    for name, unit, more in (
        ("on disk, first run", "bytes", shots * text),
        ("all stages", "hours", sum(hours.values())),
    ):
        assert value(found, name, unit) - value(one, name, unit) == pytest.approx(more)
    many = rows(**sizes, rates=rates, embed_shots=True, cores=8)
    assert value(many, "embedding shots", "hours") == pytest.approx(hours["embedding shots"] / 8)


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
    spec = store_spec(request, 12, 4)
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
        ({"shorter": (60,)}, "latent_frames must fall from the longest to the shortest, not 60,60"),
        ({"shorter": (31,)}, "latent_frames must be a multiple of 3"),
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
    plan.main([*words[:-1], "6,3", "--embed-shots"])
    text = capsys.readouterr().out
    assert "80x48 pixels, 6,3 latent frames" in text and "films of 3 latent frames" in text
    assert "comparing embeddings" in text


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
