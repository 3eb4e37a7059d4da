"""SECONDARY measures: whole films from captions alone.

They are judged on cuts, prompts, memory of themselves and consistency.
No true frames are committed: the history is what the model generated.
In a third of the stories no caption names a character's looks, so its first shot decides them.
`self recall` asks whether a return matches that shot.
`truth recall`, in told stories only, asks whether it matches the story.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from causalcine_jax.config import MemoryConfig
from causalcine_jax.evaluation.intervals import Grouped, Interval, bootstrap_grouped, bootstrap_mean
from causalcine_jax.evaluation.metrics.cut_detector import CutDetector
from causalcine_jax.evaluation.metrics.shot_cuts import (
    TOLERANCES,
    CutScore,
    Detection,
    detection,
    sca,
    summed_rates,
)
from causalcine_jax.evaluation.storyworld.batch_rollout import BatchRollout
from causalcine_jax.evaluation.storyworld.judge import OF_CHARACTER
from causalcine_jax.evaluation.storyworld.reading import (
    CharacterReading,
    Judge,
    Reading,
    of_character,
    of_scene,
    sought,
)
from causalcine_jax.evaluation.storyworld.sharpness import Edges, sharpness
from causalcine_jax.evaluation.storyworld.true_films import true_cuts, true_film
from causalcine_jax.storyworld import WorldShot, WorldStory, returns, sample_story
from causalcine_jax.storyworld.world import WorldConfig
from causalcine_jax.utils.progress import progress_bar

TRUE_FILMS = "true films"
STORIES_APART = 1_000_000  # index of the first free film's story: recall uses smaller ones


@dataclass
class ShotScores:
    """Everything counted in one shot.

    Hits are 0 or 1 per question. Recall is asked where a character comes back.
    """

    prompt: dict[str, list[bool]] = field(
        default_factory=lambda: {name: [] for name in ("place", "time", "action", "size")}
    )
    self_recall: dict[str, list[bool]] = field(
        default_factory=lambda: {name: [] for name in OF_CHARACTER}
    )
    truth_recall: dict[str, list[bool]] = field(
        default_factory=lambda: {name: [] for name in OF_CHARACTER}
    )
    consistency: list[float] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)

    @property
    def prompt_hits(self) -> list[bool]:
        """Place, time and action: the questions of prompt accuracy."""
        return [hit for name in ("place", "time", "action") for hit in self.prompt[name]]


@dataclass
class FilmScores:
    """A film's cuts, and its shots' scores."""

    cuts: CutScore
    near: dict[int, Detection]
    shots: list[ShotScores]


def score_film(
    story: WorldStory, video: UInt8[np.ndarray, "t h w 3"], judge: Judge, window: int = 0
) -> FilmScores:
    """Judges a film that was generated or rendered for `story`, in the story's shot ranges.

    Recall is asked after absences longer than `window` chunks, and than the world's window.
    """
    asked, found = true_cuts(story), CutDetector()(video)
    near = {tolerance: detection(found, asked, tolerance, len(video)) for tolerance in TOLERANCES}
    reading = judge.read(video)
    shots = score_shots(story, reading, judge, window)
    for shot, ratios in zip(shots, sharpness(story, Edges.of(video, reading), judge), strict=True):
        shot.sharpness.extend(ratios)
    return FilmScores(sca(found, asked, len(video)), near, shots)


def score_shots(
    story: WorldStory, reading: Reading, judge: Judge, window: int = 0
) -> list[ShotScores]:
    """Scores each shot of a film, given the judge's reading of all of it. As `score_film`."""
    scores, seen = [], []
    for shot in story.shots:
        frames = reading.frames(shot.frames)
        seen.append({who: of_character(frames, sought(story, shot, who)) for who in shot.cast})
        scores.append(_prompt_scores(judge, story, shot, frames, seen[-1]))
    _score_recall(scores, story, seen, window)
    return scores


def _prompt_scores(
    judge: Judge,
    story: WorldStory,
    shot: WorldShot,
    frames: Reading,
    seen: dict[int, CharacterReading | None],
) -> ShotScores:
    scores = ShotScores()
    for name, what in of_scene(frames).items():
        scores.prompt[name].append(what == getattr(shot, name))
    for who, action in zip(shot.cast, shot.actions, strict=True):
        reading = seen[who]
        scores.consistency.append(reading.consistency if reading else 0.0)
        done = judge.action(frames, sought(story, shot, who)) if reading else ""
        if done is not None:
            scores.prompt["action"].append(done == action)
    return scores


def _score_recall(
    scores: list[ShotScores],
    story: WorldStory,
    seen: list[dict[int, CharacterReading | None]],
    window: int,
) -> None:
    for back in returns(story, window):
        first_shot = next(
            number for number, shot in enumerate(story.shots) if back.character in shot.cast
        )
        first, now = seen[first_shot][back.character], seen[back.shot][back.character]
        for name in OF_CHARACTER:
            if first is not None:
                scores[back.shot].self_recall[name].append(
                    now is not None and getattr(now, name) == getattr(first, name)
                )
            if story.told:
                true = getattr(story.cast[back.character], name)
                scores[back.shot].truth_recall[name].append(
                    now is not None and getattr(now, name) == true
                )


def roll_out(
    engine: BatchRollout, stories: list[WorldStory], memory: MemoryConfig
) -> UInt8[np.ndarray, "b t h w 3"]:
    """Generates films of the stories, from captions alone."""
    state = engine.start(len(stories), memory)
    latents: list[Float[Array, "b c h w z"]] = []
    for context in engine.prompts(stories):
        state, rule = engine.at_chunk(state, latents, stories, context, memory)
        x0, _ = engine.denoise(state, stories, context, rule)
        state = engine.commit(state, x0, context, rule)
        latents.append(x0)
    return engine.decode(jnp.concatenate(latents, axis=1))


def filmed(
    engine: BatchRollout, stories: list[WorldStory], memory: MemoryConfig, films: int
) -> Iterator[tuple[WorldStory, UInt8[np.ndarray, "t h w 3"]]]:
    """Yields every story with its film, `films` of them generated at once."""
    for start in range(0, len(stories), films):
        batch = stories[start : start + films]
        videos = roll_out(engine, [batch[i % len(batch)] for i in range(films)], memory)
        yield from zip(batch, videos, strict=False)


@dataclass
class FreeResult:
    """Scores of every film by row: the policies, and true films as their ceiling."""

    stories: list[WorldStory]
    scores: dict[str, list[FilmScores]]

    def row(self, name: str) -> dict[str, Interval | float]:
        return summarise(self.scores[name])


def measure_free_films(
    engine: BatchRollout,
    judge: Judge,
    count: int,
    seed: int,
    policies: dict[str, MemoryConfig],
    films: int,
    progress: bool = True,
) -> FreeResult:
    """Generates and judges `count` films under every policy, `films` of them at once."""
    stories = stories_apart(engine.world, seed, count)
    window = max(memory.window_chunks for memory in policies.values())
    scores = {TRUE_FILMS: [score_film(story, true_film(story), judge, window) for story in stories]}
    with progress_bar(count * len(policies), "film", "free films", shown=progress) as bar:
        for name, memory in policies.items():
            scores[name] = []
            for story, video in filmed(engine, stories, memory, films):
                scores[name].append(score_film(story, video, judge, window))
                bar.update()
    return FreeResult(stories, scores)


def stories_apart(world: WorldConfig, seed: int, count: int) -> list[WorldStory]:
    return [sample_story(seed, STORIES_APART + index, world) for index in range(count)]


def summarise(scores: list[FilmScores]) -> dict[str, Interval | float]:
    """Summarises scores with 95 % intervals that redraw whole films.

    SCA and its parts are means over films; the rest, over shots, characters and returns.
    """
    cuts = [film.cuts for film in scores]

    def fraction(answers) -> Interval:
        """Averages `answers(shot)` over all shots."""
        films = [[float(hit) for shot in film.shots for hit in answers(shot)] for film in scores]
        return bootstrap_grouped(Grouped.of(films))

    matched = sum(c.matched for c in cuts)
    summary: dict[str, Interval | float] = {
        "sca": bootstrap_mean([c.sca for c in cuts], fractions=True),
        "nsd": float(np.mean([c.nsd for c in cuts])) if cuts else 0.0,
        "frames_per_cut": sum(c.deviation for c in cuts) / matched if matched else float("nan"),
        "missed_per_film": sum(c.missed for c in cuts) / max(1, len(cuts)),
        "extra_per_film": sum(c.extra for c in cuts) / max(1, len(cuts)),
    }
    summary |= summed_rates([film.near for film in scores])
    for name in ("place", "time", "action", "size"):
        summary[name] = fraction(lambda shot, name=name: shot.prompt[name])
    summary["prompt"] = fraction(lambda shot: shot.prompt_hits)
    for kind in ("self_recall", "truth_recall"):
        for name in OF_CHARACTER:
            summary[f"{kind}_{name}"] = fraction(
                lambda shot, kind=kind, name=name: getattr(shot, kind)[name]
            )
    summary["consistency"] = fraction(lambda shot: shot.consistency)
    summary["sharpness"] = fraction(lambda shot: shot.sharpness)
    return summary
