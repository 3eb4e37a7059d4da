"""A distilled model without its base's networks works as a complete folder, and finds its base."""

import json
import shutil
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_weights, tiny_model

from causalcine_jax.convert import load_transformer, save_model, weights_hash
from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.convert.find import holds
from causalcine_jax.convert.metadata import base_of
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film import chosen_model as chosen
from causalcine_jax.film.chosen_model import chosen_model
from causalcine_jax.film.embeddings import encoder_hash
from causalcine_jax.film.model_folder import load_model, model_defaults
from causalcine_jax.film.record_schema import FilmRecord
from causalcine_jax.film_folder import generate as generation
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import Recipe
from causalcine_jax.models.dit import Transformer
from causalcine_jax.planning.memory_plan import MemoryRequest, memory_plan
from causalcine_jax.story import Shot, Story

STORY = Story((Shot("Mia waves.", chunks=1),))
OWN = SamplerConfig("euler", 1, guidance=1.0)
FEW = SamplerConfig("few_step", 2, guidance=1.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    model, folder = tiny_model(sampler=OWN), tmp_path_factory.mktemp("models") / "storyworld"
    nets = {"transformer": model.transformer, "vae": model.vae, "text_encoder": model.text_encoder}
    save_model(
        folder, **nets, tokenizer=model.tokenizer, dtype=jnp.float32, metadata=model.defaults()
    )
    return folder


@pytest.fixture(scope="module")
def student(base):
    """transformer/ and metadata.json alone, beside the base."""
    model, folder = tiny_model(sampler=FEW), base.with_name("storyworld-student")
    transformer = random_weights(lambda key: Transformer(model.transformer.config, key=key), 7)
    save_model(
        folder,
        transformer=transformer,
        dtype=jnp.float32,
        metadata=model.defaults() | {"base": "../storyworld"},
    )
    return folder


@pytest.fixture
def embedded(base, student, monkeypatch):
    monkeypatch.setattr(chosen, "EMBEDDED", base)
    monkeypatch.setattr(chosen, "STUDENT", student)


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_missing_parts_are_taken_from_the_base(base, student):
    small, whole = load_model(student), load_model(base)
    assert same(small.transformer, load_transformer(student)) and not same(
        small.transformer, whole.transformer
    )
    assert same(small.vae, whole.vae) and same(small.text_encoder, whole.text_encoder)
    assert small.tokenizer.known_words() == whole.tokenizer.known_words() and small.sampler == FEW
    assert encoder_hash(student) == encoder_hash(base) and holds(student, "vae")
    assert base_of(student) == base and base_of(base) is None
    lines = {
        line.name: line.bytes for line in memory_plan(MemoryRequest(str(student), 16, 32, 24)).lines
    }
    assert lines["vae"] > 0 and lines["text encoder"] > 0


def test_its_hash_is_that_of_the_whole_model_and_convert_makes_it_whole(base, student, tmp_path):
    shutil.copytree(base, tmp_path / "whole")
    shutil.copytree(student, tmp_path / "whole", dirs_exist_ok=True)
    assert weights_hash(student) == weights_hash(tmp_path / "whole") != weights_hash(base)
    convert(ConvertConfig(student, tmp_path / "far" / "converted", progress=False))
    assert same(load_model(tmp_path / "far" / "converted").vae, load_model(base).vae)
    assert base_of(tmp_path / "far" / "converted").samefile(base)


def test_a_base_that_cannot_be_is_named(base, student, tmp_path):
    def refused(said, fault):
        shutil.copytree(student, tmp_path / "model", dirs_exist_ok=True)
        (tmp_path / "model" / "metadata.json").write_text(json.dumps({"base": said}))
        with pytest.raises(DataError, match=fault):
            load_model(tmp_path / "model")

    refused(
        "../none",
        r"metadata\.json names \.\./none as base, and there is no .*none: "
        r"put the model that this one was distilled from there",
    )
    refused(
        7,
        r"metadata\.json: base must be the path from this folder to a model folder, "
        r"such as \.\./storyworld, not 7",
    )
    refused(".", r"base leads in a circle, back to .*model: name a model that holds its own vae/")
    refused("other", r"names other as base")
    save_model(tmp_path / "model" / "other", transformer=load_transformer(student))
    refused(
        "other",
        r"model, with VAE and text encoder of .*other, is not a model folder: "
        r"it lacks vae/, text_encoder/",
    )


def test_metadata_of_other_types_is_refused_before_anything_is_loaded(tmp_path):
    said = {
        "video": {"width": "80"},
        "sampler": {"step_list": 7},
        "memory": {"window_chunks": 2.5, "route_clean": "no", "sink_frame": 3},
    }
    (tmp_path / "metadata.json").write_text(json.dumps(said))
    with pytest.raises(DataError) as error:
        model_defaults(tmp_path)
    for fault in (
        "metadata.json: metadata: video: width must be a whole number or nothing, not '80'",
        "sampler: step_list must be a list of finite numbers or nothing, not 7",
        "memory: unknown key 'sink_frame', did you mean 'sink_frames'?",
        "memory: window_chunks must be a whole number, not 2.5",
        "memory: route_clean must be true or false, not 'no'",
    ):
        assert fault in str(error.value)


def test_the_student_is_the_default_where_it_is_there(
    embedded, base, student, tmp_path, monkeypatch
):
    assert chosen_model(None) == student == load_model().folder
    assert (
        chosen_model(None, base=True)
        == chosen_model(student, base=True)
        == base
        == chosen_model(base)
    )
    assert (
        chosen_model(tmp_path / "none", base=True) == tmp_path / "none"
    )  # whoever loads it says so
    with pytest.raises(
        UsageError, match=r"storyworld has no base model: .*leave out --sampler base"
    ):
        chosen_model(base, base=True)
    monkeypatch.setattr(chosen, "STUDENT", tmp_path / "none")
    assert chosen_model(None) == base == chosen_model(None, base=True)


def test_the_base_films_as_itself_and_a_film_json_finds_its_model(
    embedded, base, student, tmp_path, monkeypatch
):
    class Filming(Exception):
        pass

    def shoot(director, *_):
        raise Filming(director)

    monkeypatch.setattr(generation, "shoot", shoot)

    def used(recorded=None, **asked):
        with pytest.raises(Filming) as filming:
            generate(
                Recipe(STORY, recorded and FilmRecord.from_dict(recorded)),
                tmp_path,
                progress=False,
                **asked,
            )
        director = filming.value.args[0]
        return director.model.folder, director.settings.sampler.solver

    record = {
        "weights_sha256": weights_hash(student),
        "model": student.name,
        "sampler": asdict(FEW),
    }
    retired = {"weights_sha256": "of an earlier base", "model": base.name, "sampler": asdict(OWN)}
    assert used() == used(record) == (student, "few_step") and used(model=base) == (base, "euler")
    assert (
        used(choices=Choices(base=True))
        == used(record, choices=Choices(base=True))
        == (base, "euler")
    )
    assert used(record, choices=Choices(solver="unipc")) == (student, "unipc")
    assert (
        used({**retired, "weights_sha256": weights_hash(base), "model": "renamed"})
        == used(retired)
        == (base, "euler")
    )
    assert used({**retired, "model": "mine"})[0] == student


def test_the_package_holds_a_few_step_student_of_its_base():
    assert (
        base_of(chosen.STUDENT) == chosen.EMBEDDED
        and model_defaults(chosen.STUDENT)["sampler"].solver == "few_step"
    )
    files = [file for file in chosen.STUDENT.rglob("*") if file.is_file()]
    assert (
        sum(file.stat().st_size for file in files) < 12e6 and not (chosen.STUDENT / "vae").exists()
    )
    said = (chosen.STUDENT / "metadata.json").read_text()
    assert '"/' not in said and "file:" not in said  # nothing of where it was made
