"""A folder of videos to stores: what is in them, what was dropped and why, and how runs go on."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import crashing_tasks
import jax
import numpy as np
import pytest
from repository import ROOT
from tiny_models import tiny_folder
from video_files import (
    colour_detector,
    encrypt,
    films_folder,
    shot_pictures,
    sound_only,
    write_video,
)

from causalcine_jax.__main__ import command
from causalcine_jax.convert import load_vae
from causalcine_jax.data import pool
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.loader import Loader
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.data.video import encode, parts, prepare, probe, reading
from causalcine_jax.data.video.config import SPLITS, PrepareConfig
from causalcine_jax.data.video.filters import Filters
from causalcine_jax.data.video.frames import Clock, read
from causalcine_jax.data.video.shots import DetectedShot
from causalcine_jax.errors import DataError, StoppedEarly, UsageError
from causalcine_jax.utils.output import one_writer

ALL = Filters(dark=0, static=0, duplicate_bits=-1, least_size=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def detector(monkeypatch):
    """Finds the colours of tests/support/video_files.py, in place of a network."""
    monkeypatch.setattr(reading, "shot_detector", lambda name, weights: colour_detector)
    reading.detector_of.cache_clear()
    yield
    reading.detector_of.cache_clear()


def run(folder, out, model, **options):
    options = {
        "latent_frames": 12,
        "detector": "captions",
        "held_out": 0,
        "filters": ALL,
        **options,
    }
    return prepare.prepare(PrepareConfig(folder, out, model, **options), progress=False)


def rejects(out: Path) -> list[tuple[str, str]]:
    rows = map(json.loads, (out / "rejects.jsonl").read_text().splitlines())
    return sorted((row["file"], row["kind"]) for row in rows)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_the_store_holds_windows_as_one_causal_pass_encodes_them(model, tmp_path):
    folder = films_folder(tmp_path / "videos", 3)
    made = run(folder, tmp_path / "out", model)
    store = made.stores["train"]
    rows = [json.loads(line) for line in (store.path / "films.jsonl").read_text().splitlines()]
    assert len(rows) == len(store) == 6 and store.spec.latent_frames == 12
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    vae = load_vae(model)
    for number, row in enumerate(rows[:2]):
        record = store[number]
        ranges = [(shot["first"], shot["stop"]) for shot in row["shots"]]
        clock = Clock.from_row({"start": "0", "searched": False})
        video = np.stack(list(read(folder / row["file"], clock, ranges, 16, 32)))
        expected = np.asarray(jax.jit(lambda v: vae.encode(v))(video[None] / 127.5 - 1.0))[0]
        np.testing.assert_allclose(record["latents"], expected, atol=0.02 * expected.std())
        captions = [shot["caption"] for shot in row["shots"]]
        assert store.prompts(number) == [f"Mia waves. {caption}" for caption in captions]
        assert record["shot_of_chunk"].max() + 1 == len(ranges)
    assert rows[0]["licence"] == "CC0" and rows[0]["shots"][0]["caption"] == "By day."
    assert made.numbers["films"] == 6 and made.numbers["rejects"] == {
        "windows": {"short window": 3}
    }
    for name in ("contact_sheet.png", "rejects.html", "report.json"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    with Loader(store, 2) as loader:
        assert next(loader)["latents"].shape == (2, 12, 4, 8, 16)


def test_a_rest_of_half_a_film_is_in_a_window_that_overlaps(model, tmp_path):
    folder = films_folder(tmp_path / "videos", 1, shots=(30, 20, 80))
    made = run(folder, tmp_path / "out", model)
    rows = (made.stores["train"].path / "films.jsonl").read_text().splitlines()
    assert ["overlaps" in json.loads(row) for row in rows] == [False, False, True]
    assert json.loads(rows[2])["shots"][-1]["stop"] == 130 and "lengths" not in made.numbers
    assert made.numbers["rejects"] == {}


def test_a_length_that_would_lose_less_is_named(model, tmp_path):
    folder = films_folder(tmp_path / "videos", 4, shots=(30, 20))
    films_folder(folder, 5, shots=(60, 90))
    made = run(folder, tmp_path / "out", model, latent_frames=33)
    assert made.numbers["films"] == 1
    assert made.numbers["lengths"] == (
        "most runs of shots are shorter than a film of 11 chunks: films hold 46% of their "
        "time (most frequent: 3 chunks 4 times, 12 chunks 1 times); --latent-frames 33,9 would "
        "hold 96%, by a store of films of 2.1 s too"
    )


def test_what_is_left_of_shots_becomes_a_store_of_shorter_films(model, tmp_path):
    """Training draws batches of both stores; a length that is not asked for any more goes."""
    folder, out = films_folder(tmp_path / "videos", 3), tmp_path / "out"
    made = run(folder, out, model, latent_frames=15, shorter=(9,))
    assert {name: len(store) for name, store in made.stores.items()} == made.numbers["stores"]
    assert {*made.stores} == {"train", "train-9"} and made.numbers["train"] == 6
    assert [made.stores[name].spec.latent_frames for name in made.stores] == [15, 9]
    rows = {
        name: [json.loads(row) for row in (store.path / "films.jsonl").read_text().splitlines()]
        for name, store in made.stores.items()
    }
    for long, short in zip(rows["train"], rows["train-9"], strict=True):
        assert long["file"] == short["file"]
        assert long["shots"][-1]["stop"] <= short["shots"][0]["first"]
    with Loader(MixedStore([*made.stores.values()]), 1) as loader:
        seen = [next(loader)["latents"].shape[1] for _ in range(6)]
    assert sorted(seen) == [9] * 3 + [15] * 3
    with pytest.raises(UsageError, match=r"shorter was \[9\], is None"):
        run(folder, out, model, latent_frames=15)
    assert {*run(folder, out, model, latent_frames=15, overwrite=True).stores} == {"train"}
    assert not (out / "train-9").exists()
    with pytest.raises(UsageError, match="must fall from the longest to the shortest, not 9,15"):
        run(folder, out, model, latent_frames=9, shorter=(15,))


def test_every_file_that_is_no_film_is_counted_by_name(model, detector, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    frames, _ = shot_pictures([60, 60])
    good = write_video(folder / "good.mp4", frames).rename(folder / "renamed.dat")
    good.with_suffix(".txt").write_text("Mia waves.")
    shutil.copy(good, folder / "twice.mp4")
    (folder / "empty.mp4").touch()
    (folder / "words.mp4").write_text("no video at all" * 50)
    (folder / "nobody.json").write_text('{"caption": "a"}')
    sound_only(folder / "sound.mp4")
    encrypt(write_video(folder / "encrypted.mp4", frames))
    whole = write_video(folder / "broken.mp4", frames[:100]).read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(folder / "hdr.mp4", frames, transfer=16)
    write_video(folder / "silent.mp4", shot_pictures([60, 60], seed=5)[0])
    write_video(folder / "short.mp4", frames[:7])
    (folder / "dangling.mp4").symlink_to(folder / "nowhere")
    made = run(folder, tmp_path / "out", model, detector="transnet", latent_frames=15)
    assert len(made.stores["train"]) == 2
    assert rejects(tmp_path / "out") == [
        ("broken.mp4", "unreadable"),
        ("dangling.mp4", "unreadable"),
        ("empty.mp4", "unreadable"),
        ("encrypted.mp4", "unreadable"),
        ("hdr.mp4", "unreadable"),
        ("nobody.json", "captions without a video"),
        ("short.mp4", "short shot"),
        ("silent.mp4", "no captions"),
        ("silent.mp4", "no captions"),
        ("sound.mp4", "unreadable"),
        ("twice.mp4", "same file"),
        ("words.mp4", "unreadable"),
    ]
    page = (tmp_path / "out" / "rejects.html").read_text()
    assert all(word in page for word in ("is empty", "no video", "encrypted", "HDR", "data:image"))
    assert made.numbers["rejects"]["probe"] == {"same file": 1, "unreadable": 7}


def test_filters_drop_what_is_dark_still_small_or_seen_before(model, tmp_path, monkeypatch):
    one_shot = lambda pictures: (DetectedShot(0, sum(1 for _ in pictures)),)
    monkeypatch.setattr(reading, "shot_detector", lambda name, weights: one_shot)
    reading.detector_of.cache_clear()
    folder = tmp_path / "videos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(60, 250, (9, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    moving = np.stack([np.roll(noise, 2 * n, 1) for n in range(117)])
    write_video(folder / "a.mp4", moving)
    write_video(folder / "b.mp4", moving, options={"crf": "30"})
    write_video(folder / "dark.mp4", moving // 30)
    write_video(folder / "still.mp4", np.repeat(moving[:1], 117, axis=0))
    write_video(folder / "tall.mp4", np.swapaxes(moving, 1, 2))
    write_video(folder / "tiny.mp4", shot_pictures([117], 8, 16)[0])
    for name in ("a", "b", "dark", "still", "tall", "tiny"):
        (folder / f"{name}.txt").write_text("Mia waves.")
    options = {"detector": "transnet", "latent_frames": 30, "filters": Filters(least_size=0.6)}
    made = run(folder, tmp_path / "out", model, **options)
    assert len(made.stores["train"]) == 1
    reading.detector_of.cache_clear()
    found = dict(rejects(tmp_path / "out"))
    assert found == {
        "b.mp4": "near duplicate", "dark.mp4": "dark",
        "still.mp4": "static", "tall.mp4": "shape", "tiny.mp4": "small",
    }  # fmt: skip


def test_more_videos_are_added_and_nothing_is_encoded_twice(model, tmp_path, monkeypatch):
    folder, out = tmp_path / "videos", tmp_path / "out"
    films_folder(folder, 2)
    first = content(run(folder, out, model).stores["train"].path)
    assert content(run(folder, out, model).stores["train"].path) == first
    films_folder(folder, 3)
    (folder / "film1.mp4").touch()  # read again, and found to be the same
    (folder / "film0.mp4").rename(folder / "another.mp4")
    (folder / "film0.json").rename(folder / "another.json")
    encoded = []
    paint = encode.paint_and_encode
    monkeypatch.setattr(encode, "paint_and_encode", lambda *args: encoded.append(1) or paint(*args))
    assert len(run(folder, out, model).stores["train"]) == 6 and len(encoded) == 2
    with pytest.raises(UsageError, match="latent_frames was 12, is 9"):
        run(folder, out, model, latent_frames=9)
    assert len(LatentStore.open(out / "train")) == 6
    assert run(folder, out, model, latent_frames=9, overwrite=True).numbers["films"] > 6


def test_films_of_one_source_are_never_split(model, tmp_path):
    folder = films_folder(tmp_path / "videos", 8)
    for number in range(8):
        file = folder / f"film{number}.json"
        told = json.loads(file.read_text()) | {"source": f"film {number // 2}"}
        file.write_text(json.dumps(told))
    stores = run(folder, tmp_path / "out", model, held_out=0.5).stores
    sources = [
        {json.loads(line)["source"] for line in (store.path / "films.jsonl").open()}
        for store in stores.values()
    ]
    assert len(sources) == 2 and not set.intersection(*sources)
    assert sum(map(len, stores.values())) == 16


def test_parts_make_the_same_films_together(model, tmp_path):
    """Copies fall into one part, both sides of the split stay, and nothing is rejected twice."""
    folder = films_folder(tmp_path / "videos", 6)
    shutil.copy(folder / "film3.mp4", folder / "again.mp4")
    (folder / "words.mp4").write_text("no video at all")
    (folder / "nobody.json").write_text('{"caption": "a"}')
    (folder / "dangling.mp4").symlink_to(folder / "nowhere")

    def films(out: Path) -> dict[str, list[tuple]]:
        lines = {
            split: (out / split / "films.jsonl").read_text().splitlines()
            for split in SPLITS
            if (out / split).exists()
        }
        return {
            split: [
                (row["id"], row["file"], str(row["shots"])) for row in map(json.loads, lines[split])
            ]
            for split in lines
        }

    run(folder, tmp_path / "all", model, held_out=0.4)
    hashes = [parts.file_hash(file) for file in folder.glob("film*.mp4")]
    count = next(n for n in (2, 3, 4) if len({parts.part_of(each, n) for each in hashes}) == n)
    numbers, made = range(1, count + 1), {}
    for number in numbers:
        made[number] = run(
            folder, tmp_path / str(number), model, held_out=0.4, part=(number, count)
        ).numbers
    whole = films(tmp_path / "all")
    assert set(whole) == set(SPLITS)
    for split, rows in whole.items():
        pieces = [films(tmp_path / str(number)).get(split, []) for number in numbers]
        assert sorted(itertools.chain(*pieces)) == sorted(rows)
    every = [rejects(tmp_path / str(number)) for number in numbers]
    assert sorted(itertools.chain(*every)) == rejects(tmp_path / "all")
    assert sum(each["files"] for each in made.values()) == 9
    assert made[2]["part"] == f"2/{count}" and "other parts" in made[2]["note"]
    mixed = MixedStore(list(map(LatentStore.open, _trains(tmp_path))))
    assert len(mixed) == len(whole["train"])
    with pytest.raises(UsageError, match=f"part was 2/{count}, is 1/{count}"):
        run(folder, tmp_path / "2", model, held_out=0.4, part=(1, count))
    with pytest.raises(UsageError, match=f"part was None, is 1/{count}"):
        run(folder, tmp_path / "all", model, held_out=0.4, part=(1, count))


def _trains(folder: Path) -> list[Path]:
    return [out / "train" for out in map(folder.joinpath, "123") if (out / "train").exists()]


def test_a_part_hashes_a_file_once_and_may_be_empty(model, tmp_path, monkeypatch):
    folder = films_folder(tmp_path / "videos", 2)
    hashed = []
    real = parts.file_hash
    for module in (parts, probe):
        monkeypatch.setattr(
            module, "file_hash", lambda file: hashed.append(file.name) or real(file)
        )
    number = parts.part_of(real(folder / "film0.mp4"), 2)
    run(folder, tmp_path / "out", model, part=(number, 2))
    again = run(folder, tmp_path / "out", model, part=(number, 2))
    assert sorted(hashed) == ["film0.mp4", "film1.mp4"] and again.numbers["films"] >= 2
    taken = {parts.part_of(real(folder / f"film{n}.mp4"), 50) for n in (0, 1)}
    empty = min(set(range(1, 51)) - taken)
    with pytest.raises(DataError, match=f"part {empty}/50 has none of the 2 files"):
        run(folder, tmp_path / "empty", model, part=(empty, 50))
    with pytest.raises(UsageError, match="--part 3/2: there are parts 1 to 2"):
        PrepareConfig(folder, tmp_path / "out", model, part=(3, 2))


def test_a_captioner_that_fails_is_asked_again_at_the_next_run(model, detector, tmp_path):
    folder, out = films_folder(tmp_path / "videos", 2), tmp_path / "out"
    for file in folder.glob("*.json"):
        file.unlink()
    script = tmp_path / "captioner.py"
    script.write_text(
        "import json, os, sys\n"
        "done = os.path.exists(sys.argv[1])\n"
        "for number, line in enumerate(sys.stdin):\n"
        "    row = json.loads(line)\n"
        "    if number or done:\n"
        "        shots = ['Mia waves.'] * len(row['shots'])\n"
        "        print(json.dumps({'id': row['id'], 'global': 'By day.', 'shots': shots}))\n"
        "open(sys.argv[1], 'a').write(f'{number + 1} ')\n"
    )
    asked = tmp_path / "asked"
    options = {"detector": "transnet", "captioner": f"{sys.executable} {script} {asked}"}
    assert len(run(folder, out, model, **options).stores["train"]) == 3
    assert ("film0.mp4", "captioner failed") in rejects(out)
    assert len(run(folder, out, model, **options).stores["train"]) == 4
    assert asked.read_text() == "4 1 "
    assert LatentStore.open(out / "train").prompts(0)[0] == "By day. Mia waves."
    script.write_text(script.read_text().replace("number or done", "number == 0"))
    options["captioner"] += " again"
    with pytest.raises(DataError, match=r"failed for 3 windows .* have 4: they stay as they are"):
        run(folder, out, model, **options)
    assert len(LatentStore.open(out / "train")) == 4
    assert len(run(folder, out, model, overwrite=True, **options).stores["train"]) == 2


def test_captions_that_do_not_fit_are_dropped(model, detector, tmp_path):
    folder = films_folder(tmp_path / "videos", 3)
    (folder / "film0.json").write_text(json.dumps({"caption": "Mia " * 40}))
    (folder / "film1.json").write_text(json.dumps({"shot_captions": ["a"] * 5}))
    made = run(folder, tmp_path / "out", model, detector="transnet")
    assert len(made.stores["train"]) == 2
    assert made.numbers["rejects"]["captions"] == {"captions do not fit": 2, "long caption": 2}


def test_bad_requests(model, tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        run(tmp_path / "none", tmp_path / "out", model)
    (tmp_path / "videos").mkdir()
    with pytest.raises(UsageError, match="holds no videos"):
        run(tmp_path / "videos", tmp_path / "out", model)
    films_folder(tmp_path / "videos", 1)
    with pytest.raises(DataError, match=r"no vae at .*none: there is no such file or folder"):
        run(tmp_path / "videos", tmp_path / "out", tmp_path / "none")
    with pytest.raises(UsageError, match=r"multiple of 3 \(nearest: 9 or 12\)"):
        run(tmp_path / "videos", tmp_path / "out", model, latent_frames=10)
    with pytest.raises(DataError, match=r"no film is left of .*1 short window.*; most runs of"):
        run(tmp_path / "videos", tmp_path / "out", model, latent_frames=90)
    with one_writer(tmp_path / "out"), pytest.raises(UsageError, match="is being written by"):
        run(tmp_path / "videos", tmp_path / "out", model)
    (tmp_path / "filters.yaml").write_text("darkness: 3")
    for videos in (tmp_path / "out/held_out", tmp_path / "out/work/mine"):
        with pytest.raises(UsageError, match=r"the videos are inside of .*, which is replaced"):
            PrepareConfig(videos, tmp_path / "out", model)
    (tmp_path / "other/held_out").mkdir(parents=True)
    (tmp_path / "other/held_out/diary.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"other/held_out is not a store of this command"):
        run(tmp_path / "videos", tmp_path / "other", model)
    assert (tmp_path / "other/held_out/diary.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="unknown filter 'darkness'"):
        Filters.read(tmp_path / "filters.yaml")
    with pytest.raises(UsageError, match="workers must be at most 1024"):
        PrepareConfig(tmp_path / "videos", tmp_path / "new", model, workers=10**6)


def test_without_ray_the_extra_is_named(model, tmp_path, monkeypatch):
    folder = films_folder(tmp_path / "videos", 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"Ray cannot be imported .*causalcine-jax\[ray\]"):
        run(folder, tmp_path / "out", model, ray="local")
    with pytest.raises(UsageError, match="ray takes all cores: leave one out"):
        run(folder, tmp_path / "out", model, ray="local", workers=2)
    with pytest.raises(UsageError, match="gpus_per_worker needs ray"):
        run(folder, tmp_path / "out", model, gpus_per_worker=1)
    with pytest.raises(UsageError, match="gpus_per_worker must be at least 0, not -1"):
        run(folder, tmp_path / "out", model, ray="local", gpus_per_worker=-1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("dark: .nan", "dark must be a finite number, not nan"),
        ("static: .inf", "static must be a finite number, not inf"),
        ("least_shots: 1.5", "least_shots must be a whole number, not 1.5"),
        ("least_shots: true", "least_shots must be a whole number, not True"),
        ("most_text: 20", "most_text must be at least 0 and at most 1, not 20"),
        ("least_seen: 50", "least_seen must be at least 0 and at most 1, not 50"),
        ("duplicate_bits: 99", "duplicate_bits must be at least -1 and at most 31, not 99"),
        ("duplicate_cosine: 90", "duplicate_cosine must be at least 0 and at most 1, not 90"),
    ],
)
def test_thresholds_that_would_keep_or_drop_all_are_refused(text, fault, tmp_path):
    (tmp_path / "filters.yaml").write_text(text)
    with pytest.raises(UsageError, match=fault):
        Filters.read(tmp_path / "filters.yaml")


def test_a_full_disk_and_a_stop_leave_no_half_store(model, tmp_path, monkeypatch):
    folder, out = films_folder(tmp_path / "videos", 2), tmp_path / "out"
    keep = encode._keep

    def full(file, latents):
        if len(list(out.rglob("*.npy"))) == 2:
            raise OSError(28, "No space left on device")
        keep(file, latents)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(encode, "_keep", full)
        run(folder, out, model)
    assert not (out / "train").exists() and len(list(out.rglob("*.npy"))) == 2

    def stop(file, latents):
        keep(file, latents)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(StoppedEarly, match="goes on from there"):
        patched.setattr(encode, "_keep", stop)
        run(folder, out, model)
    assert len(list(out.rglob("*.npy"))) == 3
    resumed = content(run(folder, out, model).stores["train"].path)
    assert resumed == content(run(folder, tmp_path / "other", model).stores["train"].path)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(model, tmp_path):
    folder = films_folder(tmp_path / "videos", 3)
    words = [
        "prepare", folder, "--model", model, "--latent-frames", 12, "--shots", "captions",
        "--held-out", 0.3,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}

    def start(out):
        line = [sys.executable, "-m", "causalcine_jax", *map(str, words), "--out", str(out)]
        return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)

    begun = time.monotonic()
    assert start(tmp_path / "whole").wait(timeout=500) == 0
    length = time.monotonic() - begun
    rng = np.random.default_rng(0)
    for share in rng.uniform(0.3, 1.0, 3):
        process = start(tmp_path / "killed")
        time.sleep(share * length)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "killed").wait(timeout=500) == 0
    for split in ("train", "held_out"):
        assert content(tmp_path / "whole" / split) == content(tmp_path / "killed" / split) != {}


def test_several_processes_make_the_same_store(model, tmp_path):
    folder = films_folder(tmp_path / "videos", 3)
    one = content(run(folder, tmp_path / "one", model).stores["train"].path)
    assert content(run(folder, tmp_path / "two", model, workers=2).stores["train"].path) == one


def test_several_devices_make_the_same_store(model, tmp_path):
    """Each encodes windows of its own; a video may have one only."""
    folder = films_folder(tmp_path / "videos", 3)
    one = run(folder, tmp_path / "one", model).stores["train"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
    }
    filters = tmp_path / "filters.yaml"
    filters.write_text("{dark: 0, static: 0, duplicate_bits: -1, least_size: 0}")
    words = [
        "prepare", folder, "--model", model, "--out", tmp_path / "two", "--latent-frames", 12,
        "--shots", "captions", "--held-out", 0, "--workers", 1, "--filters", filters,
    ]  # fmt: skip
    line = [sys.executable, "-m", "causalcine_jax", *map(str, words)]
    subprocess.run(line, env=environment, check=True, timeout=300, stdout=subprocess.DEVNULL)
    two = LatentStore.open(tmp_path / "two" / "train")
    assert len(one) == len(two) == 6
    for film, other in zip(one, two, strict=True):
        np.testing.assert_array_equal(film["token_ids"], other["token_ids"])
        np.testing.assert_allclose(film["latents"], other["latents"], rtol=0.01, atol=0.01)


def test_the_command_says_what_came_of_it(model, tmp_path, capsys):
    folder = films_folder(tmp_path / "videos", 1)
    command(
        ["prepare", str(folder), "--model", str(model), "--out", str(tmp_path / "out"),
         "--latent-frames", "12", "--shots", "captions", "--held-out", "0", "--no-compile-cache"]
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "1 videos of 1 files" in said and "2 films: 2 to train on, 0 held out" in said
    assert "1 windows: short window" in said


def test_names_that_are_not_utf8_and_folders_behind_links(model, tmp_path):
    folder = films_folder(tmp_path / "elsewhere", 2)
    first, second = sorted(folder.glob("*.mp4"))
    for file in (first, first.with_suffix(".json")):
        if file.exists():
            file.rename(
                os.fsdecode(os.fsencode(file.with_name("caf")) + b"\xe9" + file.suffix.encode())
            )
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "linked").symlink_to(folder)
    (folder / "again").symlink_to(folder)
    store = run(tmp_path / "videos", tmp_path / "out", model).stores["train"]
    rows = (store.path / "films.jsonl").read_text("utf-8").splitlines()
    names = {json.loads(row)["file"] for row in rows}
    assert names == {"linked/caf\\xe9.mp4", f"linked/{second.name}"}


def test_a_crash_costs_the_tasks_of_that_moment_alone(monkeypatch):
    begun = []
    monkeypatch.setattr(pool._Pool, "__init__", _counting(pool._Pool.__init__, begun))
    results = dict(pool.each(crashing_tasks.all_but_five, range(30), 2))
    assert results.pop(5)[0] == "crash"
    assert results == {number: number for number in range(30) if number != 5}
    assert 3 <= len(begun) <= 7


def test_one_task_alone_may_crash_too(monkeypatch):
    """A file that crashed in the run before is read again: its reason is not kept."""
    monkeypatch.setattr(
        pool, "alone", lambda function, tasks: [(task, pool.CRASH) for task in tasks]
    )
    assert list(pool.each(str, [5], 2)) == [(5, pool.CRASH)]
    assert list(pool.each(str, [5], 1)) == [(5, "5")]


def _counting(original, begun):
    def init(self, workers):
        begun.append(workers)
        original(self, workers)

    return init
