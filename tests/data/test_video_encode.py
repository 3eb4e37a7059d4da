"""Windows to latents: threads read ahead, and windows that end the process are found."""

import os
import threading
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny_folder
from video_files import films_folder, shot_pictures, write_video

from causalcine_jax.convert import load_vae
from causalcine_jax.data import encode as data_encode
from causalcine_jax.data import encode_command
from causalcine_jax.data.encode import vae_hash
from causalcine_jax.data.encode_config import EncodeConfig
from causalcine_jax.data.video import encode, prepare
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.encode import Encoding, Task, WindowToEncode
from causalcine_jax.data.video.filters import Filters
from causalcine_jax.data.video.frames import Clock

CLOCK = Clock(Fraction(0), True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames, _ = shot_pictures([60, 60])
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", frames)


def windows(video: Path, out: Path, count: int = 6) -> tuple[WindowToEncode, ...]:
    """Of nine frames each; the third ends after the video does."""
    starts = [200 if number == 2 else 8 * number for number in range(count)]
    return tuple(
        WindowToEncode(video, CLOCK, [(start, start + 9)], out / f"{number}.npy")
        for number, start in enumerate(starts)
    )


@pytest.mark.parametrize("readers", [2, 5, 16])
def test_any_number_of_threads_writes_the_same_latents(model, video, tmp_path, readers):
    def made(name, readers):
        told = windows(video, tmp_path / name)
        reasons = encode.encode(Task(told, Encoding(model, 16, 32), readers))
        files = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        return [reason and reason[0] for reason in reasons], files

    reasons, files = made("one", 1)
    assert reasons == [None, None, "unreadable", None, None, None]
    assert sorted(files) == [f"{number}.npy" for number in (0, 1, 3, 4, 5)]  # and no mark
    assert made("more", readers) == (reasons, files)


def test_few_windows_are_in_memory(model, video, tmp_path, monkeypatch):
    """No more than are read ahead, whatever the device does."""
    lock, begun, done, most = threading.Lock(), 0, 0, 0
    read = encode.read

    def counted(*args):
        nonlocal begun
        with lock:
            begun += 1
        return read(*args)

    def painted(vae, frames, pixels):
        nonlocal done, most
        with lock:
            most, done = max(most, begun - done), done + 1
        return np.zeros((1, 3, 4, 8, 16), np.float32)

    monkeypatch.setattr(encode, "read", counted)
    monkeypatch.setattr(encode, "paint_and_encode", painted)
    told = [one for one in windows(video, tmp_path, 24) if one.ranges[0][0] < 100]
    encode.encode(Task(tuple(told[:12]), Encoding(model, 16, 32), 3))
    assert done == 12 and 1 < most <= 4


def test_accelerators_encode_in_bfloat16_and_training_knows_the_vae(tmp_path, monkeypatch):
    model = tiny_folder(tmp_path / "tiny")  # no other test's: VAEs are kept
    folder = films_folder(tmp_path / "videos", 1)

    def store(name):
        config = PrepareConfig(
            folder, tmp_path / name, model, latent_frames=12, detector="captions", held_out=0
        )
        return prepare.prepare(config, progress=False).stores["train"]

    exact = store("cpu")
    monkeypatch.setattr(data_encode, "encoding_dtype", lambda: jnp.bfloat16)
    encode._vae_of_each_device.cache_clear()
    rounded = store("accelerator")
    encode._vae_of_each_device.cache_clear()
    assert exact.spec.vae == rounded.spec.vae == vae_hash(load_vae(model))
    latents = exact[0]["latents"].astype(np.float32)
    error = np.abs(latents - rounded[0]["latents"])
    assert 0 < error.mean() < 0.02 * latents.std()

    task = encode_command._Task(EncodeConfig(model, tmp_path / "world", films=1))
    assert task.writer.spec.vae == exact.spec.vae
    assert task.vae.encoder.conv1.weight[...].dtype == jnp.bfloat16


def _ends(task: Task):
    if "film1" in task.windows[0].video.name:
        os._exit(3)
    return [None]


def test_windows_that_were_read_at_a_crash_are_tried_in_a_process_of_their_own(
    model, tmp_path, monkeypatch
):
    """Those that end it are rejects, and are tried again at the next run; the others are films."""
    folder, out = films_folder(tmp_path / "videos", 2), tmp_path / "out"
    config = PrepareConfig(
        folder,
        out,
        model,
        latent_frames=12,
        detector="captions",
        held_out=0,
        filters=Filters(dark=0, static=0, duplicate_bits=-1, least_size=0),
    )

    class Killed(BaseException):
        pass

    def killed(window, encoding):
        window.mark.parent.mkdir(parents=True, exist_ok=True)
        window.mark.touch()  # what a process that dies here leaves
        if window.video.name == "film1.mp4":
            raise Killed
        return original(window, encoding)

    original = encode.read_window
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(encode, "read_window", killed)
        prepare.prepare(config, progress=False)
    marks = len(list(out.rglob("*.reading")))
    assert marks
    monkeypatch.setattr(encode, "check", _ends)
    made = prepare.prepare(config, progress=False)
    assert made.numbers["rejects"]["encode"] == {"crash": marks}
    assert made.numbers["films"] == 4 - marks
    assert len(list(out.rglob("*.reading"))) == marks
    monkeypatch.undo()
    assert prepare.prepare(config, progress=False).numbers["films"] == 4
    assert not list(out.rglob("*.reading"))
