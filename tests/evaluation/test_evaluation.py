"""The evaluator on films of known truth.

It scores near 1 on true films, at chance on shuffled truth, and wrong on empty frames.
"""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from evaluation_films import SEED, WORLD, film
from PIL import Image
from repository import ROOT
from scipy.ndimage import gaussian_filter
from tiny_models import random_weights

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.evaluation.storyworld import free_films, reading
from causalcine_jax.evaluation.storyworld.batch_rollout import BatchRollout
from causalcine_jax.evaluation.storyworld.config import TRAINING_SEED, EvaluationConfig
from causalcine_jax.evaluation.storyworld.evaluate import (
    Evaluation,
    policies_of,
    write_evaluation,
)
from causalcine_jax.evaluation.storyworld.free_films import score_film
from causalcine_jax.evaluation.storyworld.judge import CLASSES, OF_FRAME
from causalcine_jax.evaluation.storyworld.reading import (
    CharacterReading,
    Judge,
    Reading,
    Sought,
    of_character,
    shrink_to_judge,
    sought,
)
from causalcine_jax.evaluation.storyworld.recall import (
    TRUTH,
    VAE,
    Verdict,
    find_returns,
    measure_recall,
    summarise,
)
from causalcine_jax.evaluation.storyworld.report import build_report, markdown
from causalcine_jax.film.model_folder import Model
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE as VideoVAE
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig
from causalcine_jax.storyworld import VOCABULARY, returns
from causalcine_jax.storyworld.world import WORLDS
from experiments.judge.clips import melted


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


@pytest.fixture(scope="module")
def true_scores(judge):
    return [score_film(*film(index), judge) for index in range(10)]


def test_true_films_score_near_one(true_scores):
    summary = free_films.summarise(true_scores)
    for name in ("sca", "place", "time", "size", "action"):
        assert summary[name].value >= 0.95, (name, summary[name])
    assert summary["consistency"].value >= 0.9
    for name in (
        "self_recall_colour",
        "self_recall_accessory",
        "truth_recall_colour",
        "truth_recall_accessory",
    ):
        assert summary[name].value >= 0.95, (name, summary[name])
    assert summary["f1@2"] >= 0.98


def characters(judge: Judge, films, look=lambda video: video):
    """Returns (true character, the judge's reading) for every character of every shot."""
    for story, video in films:
        reading = judge.read(look(video))
        for shot in story.shots:
            for who in shot.cast:
                yield (
                    story.cast[who],
                    of_character(reading.frames(shot.frames), sought(story, shot, who)),
                )


def share_right(pairs, name: str) -> float:
    return float(
        np.mean(
            [
                read is not None and getattr(read, name) == getattr(true, name)
                for true, read in pairs
            ]
        )
    )


def test_the_judge_reads_characters_of_true_and_of_blurred_films(judge):
    def blurred(video):
        small = [
            np.asarray(Image.fromarray(frame).resize((40, 24), Image.Resampling.BOX))
            for frame in video
        ]
        return np.stack(
            [
                np.asarray(Image.fromarray(frame).resize((80, 48), Image.Resampling.BILINEAR))
                for frame in small
            ]
        )

    films = [film(index) for index in range(10)]
    sharp, soft = list(characters(judge, films)), list(characters(judge, films[:4], blurred))
    for name in ("colour", "accessory"):
        assert share_right(sharp, name) >= 0.95
        assert share_right(soft, name) >= 0.85


def test_shuffled_truth_is_near_chance(judge):
    pairs = list(characters(judge, [film(index) for index in range(10)]))
    rng = np.random.default_rng(0)
    for name, chance in (("colour", 1 / 8), ("accessory", 1 / 4)):
        read = [reading for _, reading in pairs]
        shuffled = [
            share_right(
                [
                    (true, read[i])
                    for (true, _), i in zip(pairs, rng.permutation(len(read)), strict=True)
                ],
                name,
            )
            for _ in range(40)
        ]
        assert np.mean(shuffled) < chance + 0.15


def test_sharpness_falls_with_blur_and_does_not_ask_where_a_character_stands(judge):
    story, video = film(0)
    of = lambda other: free_films.summarise([score_film(story, other, judge)])["sharpness"].value
    blurred = gaussian_filter(video.astype(np.float32), (0, 1.2, 1.2, 0)).astype(np.uint8)
    assert of(video) == pytest.approx(1)
    assert of(np.roll(video, 8, axis=2)) == pytest.approx(1, abs=0.03)
    assert 0.3 < of(blurred) < 0.6
    assert of(np.full_like(video, 128)) == 0


def test_a_blank_film_holds_no_character(judge):
    assert of_character(judge.read(np.full((24, 48, 80, 3), 128, np.uint8))) is None


def test_noise_and_smears_hold_no_character(judge):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (24, 48, 80, 3), dtype=np.uint8)
    assert of_character(judge.read(noise)) is None
    smears = [melted(rng, film(index)[1][:24]) for index in range(10)]
    assert not any(of_character(judge.read(smear)) for smear in smears)


def test_larger_films_are_read_as_if_small(judge):
    video = film(0)[1][:20]
    np.testing.assert_array_equal(shrink_to_judge(video.repeat(2, axis=1).repeat(2, axis=2)), video)
    with pytest.raises(UsageError, match="80x48 or a whole multiple, not 80x64"):
        judge.read(np.zeros((2, 64, 80, 3), np.uint8))


def test_shots_of_any_length_share_a_program_for_their_action(judge):
    seen = judge.read(film(0)[1])
    judge.action(seen)
    compiled = reading._logits._cache_size()
    for length in (24, 36, 60):
        assert judge.action(seen.frames(range(length))) in CLASSES["action"]
    assert reading._logits._cache_size() == compiled


def test_the_character_found_in_hand_made_maps():
    """Two cells of the map, four frames.

    A bear is in the first cell, hidden in the last frame; a doubtful fox is in the second cell.
    """
    maps = {
        "figure": np.array([[0.9, 0.0], [0.9, 0.0], [0.9, 0.0], [0.1, 0.0]]),
        "motion": np.zeros((4, 2, 1)),
    }
    maps |= {
        name: np.zeros((4, len(classes)) if name in OF_FRAME else (4, 2, len(classes)))
        for name, classes in CLASSES.items()
        if name != "action"
    }
    maps["species"][:, :, 2] = (0.8, 0.3)
    maps["species"][:, :, 0] = (0.1, 0.6)
    maps["colour"][:, 0, 5] = (0.9, 0.9, 0.4, 0.0)
    maps["colour"][:, 0, 1] = (0.1, 0.1, 0.6, 1.0)
    found = of_character(Reading(**maps))
    # pink: 0.9 * 2.2 against 0.9 * 0.8 + 0.1 * 1.0 for yellow; the third frame says yellow
    assert (found.species, found.colour, found.confidence, found.consistency) == (
        "bear",
        "pink",
        pytest.approx(0.7),
        0.5,
    )

    assert of_character(Reading(**maps), Sought("bear", ("fox",))).colour == "pink"
    assert of_character(Reading(**maps), Sought("fox", ("bear",))) is None
    maps["figure"][:, 1] = 0.9
    assert of_character(Reading(**maps), Sought("fox", ("bear",))).species == "fox"


def test_returns_are_longer_than_the_window_and_one_per_film():
    cases = find_returns(WORLD, SEED, 40)
    assert len({case.story.index for case in cases}) == len(cases) == 40
    for case in cases:
        chunk, window = case.back.chunk, WORLD.window_chunks
        shows = [
            case.back.character in case.story.shots[s].cast for s in case.story.shot_of_chunk()
        ]
        assert shows[chunk] and shows[chunk + 1] and any(shows[: chunk - window])
        assert not any(shows[chunk - window : chunk])
    assert cases == find_returns(WORLD, SEED, 60)[:40]


def test_a_models_longer_window_holds_no_return(judge):
    wide = WORLD.window_chunks + 3
    cases = find_returns(WORLD, SEED, 10, window=wide)
    assert min(case.absence for case in cases) > wide
    for case in cases:
        older = case.story.shot_of_chunk()[: case.back.chunk - wide]
        shows = [case.back.character in case.story.shots[shot].cast for shot in older]
        assert case.shown == pytest.approx(np.mean(shows))
    assert find_returns(WORLD, SEED, 10, window=1) == [
        dataclasses.replace(case, window=1) for case in find_returns(WORLD, SEED, 10)
    ]
    with pytest.raises(
        UsageError, match=r"only 0 of 1 returns .* longer than 99 chunks: lower --r"
    ):
        find_returns(WORLD, SEED, 1, window=99)
    story, video = film(1)
    reading = judge.read(video)
    asked = lambda window: sum(
        len(shot.self_recall["colour"])
        for shot in free_films.score_shots(story, reading, judge, window)
    )
    assert asked(0) == len(returns(story)) > asked(99) == 0


def test_policies_that_would_retrieve_nothing_are_refused():
    bare = MemoryConfig("none", window_chunks=6, memory_frames=0)
    assert policies_of(bare, None) == policies_of(bare, ["none"]) == {"none": bare}
    with pytest.raises(UsageError, match=r"camr, sink would retrieve nothing.*--policies none"):
        policies_of(bare, ["camr", "sink", "none"])
    assert list(policies_of(MemoryConfig("attended"), None)) == ["attended", "sink", "none"]


def test_most_shown_bounds_the_share_of_older_chunks_that_show_the_character():
    world = WORLDS["base-long"]()
    rare = find_returns(world, SEED, 10, most_shown=0.15)
    for case in rare:
        older = range(case.back.chunk - world.window_chunks)
        shot_of_chunk = case.story.shot_of_chunk()
        shows = [case.back.character in case.story.shots[shot_of_chunk[i]].cast for i in older]
        assert case.shown == pytest.approx(np.mean(shows)) and 0 < case.shown <= 0.15
    assert max(case.shown for case in find_returns(world, SEED, 10)) > 0.15
    with pytest.raises(UsageError, match=r"lower --returns, .*, or raise --most-shown"):
        find_returns(WORLD, SEED, 2, most_shown=0.01)


def test_verdicts_by_hand():
    case = find_returns(WORLD, SEED, 1)[0]
    true = of_character_like(case.character)
    wrong = dataclasses.replace(true, colour="red" if true.colour != "red" else "blue")
    summary = summarise(
        [
            Verdict(case, true, (True, True)),
            Verdict(case, wrong, (True, False)),
            Verdict(case, None, (False, False)),
            Verdict(case, true),
        ]
    )
    assert [summary[name].value for name in ("colour", "accessory", "joint", "found")] == [
        0.5,
        0.75,
        0.5,
        0.75,
    ]
    assert summary["mean"].value == pytest.approx(0.625) and summary[
        "remembered"
    ].value == pytest.approx(0.5)


def of_character_like(character):
    return CharacterReading(
        character.species, character.colour, character.accessory, confidence=1.0, consistency=1.0
    )


@pytest.fixture(scope="module")
def tiny_model() -> Model:
    flat = (0.0,) * 16
    transformer = TransformerConfig(
        dim=16, ffn_dim=16, num_heads=2, num_layers=1, text_dim=8, text_len=64, freq_dim=8
    )
    vae = VAEConfig(dim=2, dim_mult=(1, 1, 1, 1), num_res_blocks=1, mean=flat, std=(1.0,) * 16)
    text = TextEncoderConfig(
        vocab_size=1024, dim=8, dim_attn=8, dim_ffn=8, num_heads=1, num_layers=1
    )
    return Model(
        random_weights(lambda key: Transformer(transformer, key=key), 0),
        random_weights(lambda key: VideoVAE(vae, key=key), 1),
        random_weights(lambda key: UMT5Encoder(text, key=key), 2),
        word_tokenizer(VOCABULARY, 1024),
    )


@pytest.fixture(scope="module")
def untrained(tiny_model, judge):
    """Recall and free films of an untrained model, on the real path from stories to verdicts."""
    engine = BatchRollout(
        tiny_model, WORLD, SamplerConfig(solver="euler", steps=1, guidance=2.0), seed=3
    )
    policies = {"camr": MemoryConfig("camr")}
    cases = find_returns(WORLD, SEED, 3)
    measured = measure_recall(engine, judge, cases, policies, films=2, progress=False)
    free = free_films.measure_free_films(
        engine, judge, 1, 3, {"camr": policies["camr"]}, films=2, progress=False
    )
    return engine, policies, measured, free


def test_an_untrained_model_recalls_nothing_and_the_judge_reads_the_truth(untrained):
    _, _, measured, free = untrained
    assert list(measured.verdicts) == [TRUTH, VAE, "camr"]
    assert measured.row(TRUTH)["mean"].value >= 0.8
    assert measured.row("camr")["joint"].value == 0.0
    assert (
        measured.row("camr")["remembered"].count == 3
        and measured.row(TRUTH)["remembered"].count == 0
    )
    assert (
        free.row(free_films.TRUE_FILMS)["sca"].value == 1.0 and free.row("camr")["sca"].value < 0.8
    )


def test_a_return_is_drawn_alike_in_any_batch(untrained, judge):
    engine, policies, measured, _ = untrained
    number = 1
    alone = measure_recall(
        engine,
        judge,
        measured.cases[number : number + 1],
        {"camr": policies["camr"]},
        films=2,
        progress=False,
    )
    for row in (VAE, "camr"):
        difference = alone.stills[row][0].astype(int) - measured.stills[row][number].astype(int)
        assert np.abs(difference).max() <= 1


def test_the_history_of_a_batch_lies_where_it_is_asked_to(untrained):
    engine, policies, _, _ = untrained
    on_host = dataclasses.replace(engine, pool=PoolConfig(on="host"))
    here, there = (each.start(3, policies["camr"]).cache for each in (engine, on_host))
    assert here.host_bytes == 0 and here.k.shape == there.k.shape
    assert here.k.shape[1] == 3 * 2  # guidance doubles the batch
    assert (
        there.host_bytes == here.k.nbytes + here.v.nbytes and there.copies.k.shape[2] == 4 * 3 + 5
    )


def test_the_report_holds_every_row_and_is_strict_json(untrained, tmp_path):
    _, _, measured, free = untrained
    settings = {"world": "base", "steps": 1, "guidance": 2.0, "seed": 3, "dtype": "float32"}
    settings["most_shown"] = 0.2
    report = build_report(settings, measured, free)
    (tmp_path / "evaluation.json").write_text("of an earlier one")
    write_evaluation(tmp_path, Evaluation(measured, free, report))
    read = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert (
        list(read["primary"]["rows"]) == list(measured.verdicts)
        and len(read["primary"]["cases"]) == 3
    )
    assert read["device"]["platform"] and "commit" in read["software"]
    by_layer = read["primary"]["remembered_by_layer"]
    assert list(by_layer) == ["camr"] and np.mean(by_layer["camr"]) == pytest.approx(
        measured.row("camr")["remembered"].value
    )
    text = markdown(report)
    assert "chance" in text and "| camr" in text and "SECONDARY: 1 free films" in text
    for name in ("returns.png", "recall.png"):
        assert min(Image.open(tmp_path / name).size) > 300
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation.json",
        "evaluation.md",
        "recall.png",
        "returns.png",
    ]


def test_all_faults_of_a_request_are_named_at_once():
    with pytest.raises(UsageError) as error:
        EvaluationConfig(
            world="bass", policies=("cmar", "sink", "sink"), returns=0, films=-1, pool_on="hots"
        )
    for part in (
        "'hots', did you mean 'host'?",
        "'bass', did you mean 'base'?",
        "'cmar', did you mean 'camr'?",
        "named twice",
        "returns must be at least 1",
        "films must not be",
    ):
        assert part in str(error.value)
    with pytest.raises(UsageError, match="trained the judge"):
        EvaluationConfig(seed=TRAINING_SEED)


def test_missing_judge_weights_are_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"experiments\.judge\.training"):
        Judge.load(tmp_path / "judge.safetensors")


def test_the_command_ends_with_one_line_and_code_2():
    command = [sys.executable, "launch/evaluate.py", "--policies", "cmar", "--returns", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "did you mean 'camr'?" in done.stderr
