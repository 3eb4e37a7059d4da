"""Embeddings of shots: copies that hashes miss are found, and rows of two networks never mix."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tiny_models import tiny_folder
from video_files import write_video

from benchmarks.random_scorers import SMALL, clip, dino
from causalcine_jax.commands.prepare import parse
from causalcine_jax.data.video import embedding_index, prepare, probe, reading
from causalcine_jax.data.video.choosing import windows
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.embedding_index import EmbeddingIndex
from causalcine_jax.data.video.embeddings import embedder_of, embedding_of
from causalcine_jax.data.video.filters import Filters
from causalcine_jax.data.video.reading import probed, scanned
from causalcine_jax.data.video.scan import scan
from causalcine_jax.data.video.shots import DetectedShot
from causalcine_jax.data.video.target import check_settings, settings, target_of
from causalcine_jax.data.video.work import Work
from causalcine_jax.errors import DataError, UsageError

FRAMES = 48
ONE_SHOT = json.dumps(
    {"global_caption": "Mia waves.", "shot_captions": ["By day."], "shot_cut_frames": []}
)


def colours_network(path: Path, seed: int) -> Path:
    """DINO at random, but its class token attends to all patches alike.

    So its embedding is a random function of a picture's colours, wherever they are. One that is
    random throughout tells hardly any pictures apart.
    """
    tensors = dino(SMALL["dino"], scaled=False, seed=seed)
    for key, value in tensors.items():
        if key.endswith("bias") or "mlp.fc2" in key or key in ("pos_embed", "cls_token"):
            tensors[key] = np.zeros_like(value)
        if key.endswith("attn.qkv.weight"):
            value[: 2 * SMALL["dino"].dim] = 0
    save_file(dict(tensors), path)
    return path


def scene(colour: tuple[int, int, int], seed: int) -> np.ndarray:
    """A pan over soft shapes around a colour."""
    shapes = np.random.default_rng(seed).normal(0, 35, (6, 14, 3)) + colour
    wide = Image.fromarray(np.clip(shapes, 0, 255).astype(np.uint8)).resize((288, 108))
    return np.stack([np.asarray(wide)[:, n : n + 192] for n in range(FRAMES)])


def as_copied(frames: np.ndarray) -> np.ndarray:
    """Cropped, made smaller and brighter."""
    height, width = frames.shape[1:3]
    box = 0.06 * width, 0.06 * height, 0.94 * width, 0.94 * height
    small = [np.asarray(Image.fromarray(frame).resize((160, 96), box=box)) for frame in frames]
    return np.clip(np.stack(small) * 1.1 + 8, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return colours_network(tmp_path_factory.mktemp("weights") / "dino.safetensors", 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A film, a copy of it, and a film of other colours."""
    folder = tmp_path_factory.mktemp("videos")
    film = scene((180, 60, 50), 0)
    write_video(folder / "a.mp4", film)
    write_video(folder / "b.mp4", as_copied(film), options={"crf": "28"})
    write_video(folder / "c.mp4", scene((60, 100, 190), 1))
    for name in "abc":
        (folder / f"{name}.json").write_text(ONE_SHOT)
    return folder


def config(folder, out, model, weights, **options):
    return PrepareConfig(
        folder,
        out,
        model,
        latent_frames=12,
        detector="captions",
        held_out=0,
        filters=Filters(dark=0, static=0, least_size=0, duplicate_cosine=0.5),
        duplicates_weights=weights and ("dino", weights),
        **options,
    )


@pytest.fixture(scope="module")
def target(folder, model):
    return target_of(config(folder, folder / "unused", model, None))


def chosen(asked, target) -> tuple[list[str], list[dict]]:
    """The files whose windows are chosen, and the rejects."""
    work = Work(asked, progress=False)
    videos = scanned(work, probed(work, *of_part_one(asked)))
    return [film.video.name for film in windows(work, videos, target)], work.rejects


def of_part_one(asked):
    files, told = probe.files_of(asked.folder, asked.out)
    return dict.fromkeys(files), told


def test_a_copy_with_another_hash_is_found_by_its_embedding(
    folder, model, weights, target, tmp_path
):
    by_hash, _ = chosen(config(folder, tmp_path / "hash", model, None), target)
    assert by_hash == ["a.mp4", "b.mp4", "c.mp4"]
    made = prepare.prepare(config(folder, tmp_path / "both", model, weights), progress=False)
    films = (made.stores["train"].path / "films.jsonl").read_text().splitlines()
    assert [json.loads(row)["file"] for row in films] == ["a.mp4", "c.mp4"]
    (row,) = map(json.loads, (tmp_path / "both/rejects.jsonl").read_text().splitlines())
    assert (row["file"], row["kind"]) == ("b.mp4", "near duplicate")
    assert row["reason"].startswith("45 of 45 frames are in a.mp4, by embedding (cosine 0.9")


def test_a_run_that_was_stopped_goes_on_to_the_same_windows(
    folder, model, weights, target, tmp_path, monkeypatch
):
    whole = chosen(config(folder, tmp_path / "whole", model, weights), target)
    assert whole[0] == ["a.mp4", "c.mp4"]
    asked = config(folder, tmp_path / "parts", model, weights)
    seen, whole_scan = [], scan

    def stopped(file, *others):
        if seen:
            raise KeyboardInterrupt
        seen.append(file)
        return whole_scan(file, *others)

    monkeypatch.setattr(reading.scanning, "scan", stopped)
    with pytest.raises(KeyboardInterrupt):
        chosen(asked, target)
    monkeypatch.setattr(reading.scanning, "scan", whole_scan)
    assert chosen(asked, target) == whole
    assert len((asked.out / "work/shots.jsonl").read_text().splitlines()) == 3
    monkeypatch.setattr(reading.scanning, "scan", stopped)
    assert chosen(asked, target) == whole, "nothing is scanned again"


def test_other_weights_are_refused_and_their_rows_stay_apart(
    folder, model, weights, target, tmp_path
):
    out, other = tmp_path / "out", colours_network(tmp_path / "other.safetensors", 4)
    first, second, none = (
        settings(config(folder, out, model, each), target) for each in (weights, other, None)
    )
    check_settings(tmp_path / "settings.json", first, overwrite=False)
    with pytest.raises(UsageError, match=r"duplicates_weights was dino .*, is dino .*"):
        check_settings(tmp_path / "settings.json", second, overwrite=False)
    with pytest.raises(UsageError, match=r"duplicates_weights was dino .*, is None"):
        check_settings(tmp_path / "settings.json", none, overwrite=False)
    assert none["duplicate_cosine"] is None, "a threshold that is not used is no setting"
    for each in (weights, other, None):
        chosen(config(folder, out, model, each), target)
    rows = [json.loads(line) for line in (out / "work/shots.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == 9
    assert len({row["shots"][0].get("embedding") for row in rows}) == 7


def test_weights_that_are_missing_or_of_another_network_are_refused(
    folder, tmp_path, model, capsys
):
    with pytest.raises(DataError, match=r"there is no .*absent.*dino_vitbase16.*licence Apache"):
        absent = tmp_path / "absent.safetensors"
        prepare.prepare(config(folder, tmp_path / "out", model, absent), progress=False)
    save_file(dict(clip(SMALL["clip_b32"])), tmp_path / "clip.safetensors")
    with pytest.raises(DataError, match="does not hold DINO ViT-B/16"):
        embedder_of("dino", tmp_path / "clip.safetensors")
    with pytest.raises(UsageError, match="unknown network of duplicates_weights 'viclip'"):
        PrepareConfig(tmp_path, tmp_path / "out", model, duplicates_weights=("viclip", tmp_path))
    words = [".", "--model", "m", "--out", "o", "--duplicates-weights"]
    with pytest.raises(SystemExit) as refused:
        parse([*words, "dinov2.pth"])
    assert refused.value.code == 2
    assert "must be NAME=FILE, such as dinov2=" in capsys.readouterr().err
    assert parse([*words, "dino=a=b.pth"]).duplicates_weights == ("dino", Path("a=b.pth"))


def test_an_embedding_is_of_a_shots_middle_inside_of_black_bars(tmp_path):
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]], np.uint8)
    lengths = 41, 5, 39, 40  # the second is too short for a picture of its own
    frames = np.broadcast_to(
        np.repeat(colours, lengths, axis=0)[:, None, None], (125, 64, 96, 3)
    ).copy()
    frames[:12] = frames[28:41] = 255  # a shot's first and last quarter
    barred = np.zeros((125, 96, 96, 3), np.uint8)
    barred[:, 16:80] = frames
    edges = np.cumsum([0, *lengths])
    shots = tuple(DetectedShot(int(a), int(b)) for a, b in zip(edges, edges[1:]))
    seen = []

    def detector(pictures):
        assert sum(1 for _ in pictures) == 125
        return shots

    def embed(pictures):
        seen.append(pictures)
        mean = pictures.reshape(len(pictures), -1, 3).mean(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    for name, film in (("plain", frames), ("barred", barred)):
        file = write_video(tmp_path / f"{name}.mp4", film, options={"crf": "4"})
        rows = scan(file, detector, embed=embed)["shots"]
        found = list(map(embedding_of, rows))
        expected = colours / np.linalg.norm(colours.astype(float), axis=1, keepdims=True)
        for number in (0, 2, 3):
            assert found[number].dtype == np.float16
            cosines = expected @ found[number].astype(float)
            assert np.argmax(cosines) == number and cosines[number] > 0.99
        assert found[1] is None
        assert "embedding" not in scan(file, detector)["shots"][0]
    assert [len(pictures) for pictures in seen] == [3, 3]


@pytest.mark.parametrize("block", [4, 4096])
def test_the_first_kept_shot_is_found(monkeypatch, block):
    monkeypatch.setattr(embedding_index, "BLOCK", block)
    monkeypatch.setattr(embedding_index, "AT_ONCE", 3)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((6, 16))
    owners = np.repeat(np.arange(6), 5)
    vectors = centres[rng.integers(6, size=30)] + 0.2 * rng.standard_normal((30, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    cosines = vectors.astype(float) @ vectors.astype(float).T
    told = [vector if n % 7 else None for n, vector in enumerate(vectors)]
    index, some = EmbeddingIndex(told, 0.9), 0
    for video in range(6):
        mine = {int(n): vectors[n] for n in np.flatnonzero(owners == video)}
        found = index.first_like(mine, owners < video)
        for n in mine:
            like = np.flatnonzero((cosines[n] >= 0.9) & (owners < video) & (np.arange(30) % 7 > 0))
            assert (n in found) == bool(len(like))
            if len(like):
                row, cosine = found[n]
                assert row == like[0]
                assert cosine == pytest.approx(cosines[n, like[0]], abs=1e-6)
                some += 1
    assert 5 < some < 25
