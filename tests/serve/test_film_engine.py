"""The desk with a model: what is directed is, frame by frame, the film of its film.json."""

import hashlib

import pytest
from tiny_models import tiny_folder

from causalcine_jax.config import PoolConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.director import Director
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.film_folder.loaded_model import LoadedModel
from causalcine_jax.film_folder.record import read_recipe
from causalcine_jax.serve.film_engine import FilmEngine
from causalcine_jax.story import Story, Video


def test_a_directed_branch_is_filmed_again_bit_by_bit(serve_desk, tmp_path):
    model = load_model(tiny_folder(tmp_path / "model"))
    engine = FilmEngine(LoadedModel(model), PoolConfig(18), room_bytes=10**9)
    served = serve_desk(engine)
    client = served.connect(seed=5)
    started = client.until("session.started")
    assert (started.model.width, started.model.height, started.model.chunk_frames) == (32, 16, 12)
    assert started.limits.pool_bytes == engine.pool_bytes(Story(())) > 0
    client.shot("Mia wavess.")
    assert "'wavess'" in client.until("error").message
    client.shot("Mia, Otto and Luna wave.", event_id="three")
    assert "names 3 characters" in client.until("error", event_id="three").message
    client.shot("Mia waves.", 2)
    client.shot("Otto sleeps.", 2)
    client.chunks(4)
    client.say("retake", shot_id="s1", caption="Mia sleeps.", seed=3)
    client.until("take.begun")
    client.chunks(3)
    client.say("branch", shot_id="s2")
    client.until("take.begun")
    client.shot("Otto waves.", 2)
    client.until("media.chunk", take_id="t3", chunk=3)
    path = f"/v1/sessions/{started.session_id}/takes/t3/film.json"
    (tmp_path / "film.json").write_bytes(served.get(path).content)

    recipe = read_recipe(tmp_path / "film.json")
    captions = [shot.caption for shot in recipe.story.shots]
    assert captions == ["Mia sleeps.", "Otto waves."] and recipe.story.shots[0].seed == 3
    again = hashlib.sha256()
    for chunk in Director(model, recipe.story, pool=PoolConfig(recipe.record.pool_frames)):
        again.update(chunk.frames.tobytes())
    assert again.hexdigest() == recipe.record.frames_sha256

    client.say("session.stop")
    client.until("session.done")
    engine._frames = 60  # as after a start with another --pool-frames: the film keeps its own
    assert engine.pool_bytes(Story(())) > started.limits.pool_bytes
    resumed = served.connect(resume_token=started.resume_token)
    assert resumed.until("session.started").limits.pool_bytes == started.limits.pool_bytes
    (session,) = served.desk.sessions.values()
    assert session.director.pool_bytes == served.desk.admission.bytes == started.limits.pool_bytes
    resumed.shot("Mia waves.")
    (chunk,) = resumed.chunks(1)
    assert (chunk.take_id, chunk.chunk) == ("t3", 4)
    (tmp_path / "film.json").write_bytes(served.get(path).content)
    again.update(_next_of(model, read_recipe(tmp_path / "film.json")))
    assert again.hexdigest() == read_recipe(tmp_path / "film.json").record.frames_sha256
    assert chunk.retrieved and all(0 < each.share <= 1 for each in chunk.retrieved)


def _next_of(model, recipe):
    """The frames of the film's last chunk."""
    chunks = list(Director(model, recipe.story, pool=PoolConfig(recipe.record.pool_frames)))
    return chunks[-1].frames.tobytes()


def test_a_size_that_the_model_cannot_make_is_refused_with_one_that_it_can(tmp_path):
    model = load_model(tiny_folder(tmp_path / "model"))
    engine = FilmEngine(LoadedModel(model), PoolConfig(18))
    with pytest.raises(UsageError, match="at least 9"):
        FilmEngine(LoadedModel(model), PoolConfig(3))
    assert engine.info.words["characters"][0] == "Mia"
    larger = engine.pool_bytes(Story((), video=Video(16, 64, 32)))
    assert 3.5 < larger / engine.pool_bytes(Story(())) <= 4
