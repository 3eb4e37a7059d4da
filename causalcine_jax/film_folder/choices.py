"""What a film is made with: values of the command line, film.json, story and model, in that order.

The first of these that sets a value wins.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from causalcine_jax.clock import CHUNK_FRAMES
from causalcine_jax.config import ROLLOUT_WEIGHTS, MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError, choice_faults, least_faults
from causalcine_jax.film.chosen_model import is_causal
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.pool import same_pool
from causalcine_jax.film.record_schema import FilmRecord
from causalcine_jax.film.whole_film import NO_MEMORY, latent_frames, nearest_length
from causalcine_jax.film_folder.record import Recipe
from causalcine_jax.memory_policies import POLICIES
from causalcine_jax.rollouts import ROLLOUTS
from causalcine_jax.story import Story, Video

OF_CHUNKS = (
    "rollout_of", "policy", "window_chunks", "memory_frames", "positions", "eviction",
    "chunk_frames", "pool_frames", "pool_gb", "kv_dtype", "pool_on", "start",
)  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """Overrides from the command line; None keeps the value of film.json, story or model.

    base             the model that the named one was distilled from, with its own sampler
    rollout_of       a name in rollouts.ROLLOUTS, for the memory that is not named one by one
    negative         the text that guidance steers away from, for story and model; "" for none
    size             width and height in pixels
    frames           video frames of a one-shot film, snapped to chunks; exact with whole_film
    whole_film       all frames at once: bidirectional Wan2.1 under one prompt
    pool_gb          the pool's size in GB, in place of pool_frames
    kv_dtype         how the pool's keys and values are stored
    pool_on          where the pool is stored: device or host
    dtype            of the networks: float32, bfloat16 or float8
    embeddings       a file of prompt embeddings in place of the text encoder
    tiny_decoder     TAEHV's file for Wan2.1, in place of the VAE's decoder
    seq              number of devices that make each chunk together (parallel/mesh.py)
    rollout_weights  how the transformer's weights lie on those devices (parallel/sharding.py)
    lora             adapters merged into the transformer: FILE or FILE:STRENGTH (convert/lora.py)
    start            a picture or clip that opens the film (start.py)
    start_caption    what the start shows
    """

    seed: int | None = None
    steps: int | None = None
    step_list: tuple[float, ...] | None = None
    shift: float | None = None
    guidance: float | None = None
    memory_guidance: float | None = None
    solver: str | None = None
    base: bool = False
    negative: str | None = None
    rollout_of: str | None = None
    policy: str | None = None
    window_chunks: int | None = None
    memory_frames: int | None = None
    positions: str | None = None
    eviction: str | None = None
    chunk_frames: int | None = None
    pool_frames: int | None = None
    pool_gb: float | None = None
    kv_dtype: str | None = None
    pool_on: str | None = None
    size: tuple[int, int] | None = None
    frames: int | None = None
    whole_film: bool = False
    dtype: str | None = None
    embeddings: Path | None = None
    start: Path | None = None
    start_caption: str | None = None
    scale: int | None = None
    seq: int | None = None
    rollout_weights: str | None = None
    tiny_decoder: Path | None = None
    lora: tuple[str, ...] | None = None

    def __post_init__(self):
        for name in ("step_list", "size", "lora"):  # argparse and JSON give lists, without a hash
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))

    def faults(self, whole_film: bool = False) -> list[str]:
        """Why no film can be made with these choices.

        whole_film  whether the film.json is of a whole film, so that this one is too
        """
        counted = _given(self, ("scale", "chunk_frames", "frames", "seq"))
        faults = least_faults(self, counted, 1)
        if self.rollout_weights is not None:
            faults += choice_faults("rollout_weights", self.rollout_weights, ROLLOUT_WEIGHTS)
        if self.rollout_of is not None:
            faults += choice_faults("rollout_of", self.rollout_of, ROLLOUTS)
        useless = _given(self, OF_CHUNKS)
        if (self.whole_film or whole_film) and useless:
            faults.append(
                f"a whole film has no memory and no chunks: leave out {', '.join(useless)}"
            )
        return faults


@dataclass(frozen=True)
class Setup:
    """The director's arguments, and notes to the user on what the model was not made for.

    pool_asked  whether the user chose the pool's size, for this film or the film.json's
    """

    model: Model
    story: Story
    sampler: SamplerConfig
    memory: MemoryConfig
    pool: PoolConfig
    pool_asked: bool
    whole_film: bool
    notes: tuple[str, ...] = ()


def decide(recipe: Recipe, model: Model, choices: Choices) -> Setup:
    """The film's setup. `UsageError` where choices, story and model contradict each other."""
    whole = choices.whole_film or recipe.record.whole_film
    sampler = _sampler(recipe.record, model.sampler, choices)
    story = _story(recipe.story, choices)
    # A film.json records the negative prompt that was used, even an empty one.
    if choices.negative is not None or recipe.recorded:
        model = replace(model, negative=story.negative)
    if whole:
        story, frames = _one_chunk(story, choices, recipe.record)
        notes = _sampler_notes(sampler, choices) + _whole_film_notes(model, sampler)
        sampler = sampler.changed(memory_guidance=0.0)
        model = replace(model, chunk_frames=frames)
        return Setup(model, story, sampler, NO_MEMORY, PoolConfig(), False, True, notes)
    chunk_frames = choices.chunk_frames or recipe.record.chunk_frames or model.chunk_frames
    memory = _memory(recipe.record, model.memory, choices)
    pool, pool_asked = _pool(recipe.record, choices, memory, chunk_frames)
    notes = _sampler_notes(sampler, choices) + _chunk_notes(model, memory, choices, chunk_frames)
    model = replace(model, chunk_frames=chunk_frames)
    if not (choices.start or recipe.record.start):  # which makes the film longer
        notes += _length_notes(story, memory, chunk_frames)
    if not recipe.recorded:
        notes += _grid_notes(story, chunk_frames)
    return Setup(model, story, sampler, memory, pool, pool_asked, False, notes)


def _sampler_notes(sampler: SamplerConfig, choices: Choices) -> tuple[str, ...]:
    if not choices.negative or sampler.guided:
        return ()
    return ("note: guidance is 1, so --negative has no effect: choose another --guidance",)


def _length_notes(story: Story, memory: MemoryConfig, chunk_frames: int) -> tuple[str, ...]:
    frames = story.resolve(chunk_frames).chunks * chunk_frames
    if memory.retrieved_frames <= frames:
        return ()
    return (
        f"note: memory retrieves {memory.retrieved_frames} frames, more than the film's {frames} "
        "latent ones, so a chunk sees all before it",
    )


def _grid_notes(story: Story, chunk_frames: int) -> tuple[str, ...]:
    if chunk_frames == CHUNK_FRAMES or not story.in_chunks:
        return ()
    return (
        f"note: this story's shots are given in chunks, which have {chunk_frames} latent frames "
        f"here and {CHUNK_FRAMES} for most models: give seconds for films of the same length",
    )


def _whole_film_notes(model: Model, sampler: SamplerConfig) -> tuple[str, ...]:
    notes = []
    if sampler.memory_guidance:
        notes.append("note: a whole film has no memory, so memory guidance has no effect")
    if model.sampler.solver == "few_step" or is_causal(model.folder):
        notes.append(
            "note: this model makes films chunk by chunk, and --whole-film is for bidirectional "
            "Wan2.1: expect worse frames than without it"
        )
    return tuple(notes)


def _chunk_notes(
    model: Model, memory: MemoryConfig, choices: Choices, chunk_frames: int
) -> tuple[str, ...]:
    notes = []
    if choices.memory_frames and not memory.retrieved_frames:
        notes.append(
            f"note: policy {memory.policy} retrieves nothing, so "
            f"--memory-frames {choices.memory_frames} has no effect: "
            "choose another --policy, such as camr"
        )
    if choices.memory_guidance and not memory.retrieved_frames:
        notes.append(
            f"note: memory retrieves nothing, so --memory-guidance {choices.memory_guidance:g} has "
            "no effect: choose a --policy and --memory-frames"
        )
    if choices.eviction and not memory.reaches_all:
        notes.append(
            f"note: memory never returns to what is evicted, so --eviction {choices.eviction} has "
            "no effect: choose another --policy, such as camr, and --memory-frames"
        )
    if chunk_frames != model.chunk_frames:
        notes.append(
            f"note: this model makes chunks of {model.chunk_frames} latent frames, and chunks of "
            f"{chunk_frames} are not what it was trained on: expect worse frames"
        )
    return tuple(notes)


def _pool(
    recorded: FilmRecord, choices: Choices, memory: MemoryConfig, chunk_frames: int
) -> tuple[PoolConfig, bool]:
    """The pool, and whether the user chose its size.

    A recorded size that nobody chose followed from memory and the film's length. It is kept, for
    the same film bit by bit, unless one of these changes.
    """
    frames = choices.pool_frames
    asked = frames is not None or choices.pool_gb is not None
    if not asked and choices.chunk_frames is None:
        same_length = choices.frames is None and choices.start_caption is None  # no other start
        before = recorded.memory or memory
        if recorded.pool_asked or (same_length and same_pool(before, memory, chunk_frames)):
            frames, asked = recorded.pool_frames, recorded.pool_asked
    dtype, place = choices.kv_dtype or recorded.kv_dtype, choices.pool_on or recorded.pool_on
    return PoolConfig(frames, choices.pool_gb, dtype, place), asked


def _sampler(recorded: FilmRecord, default: SamplerConfig, choices: Choices) -> SamplerConfig:
    sampler = None if choices.base else recorded.sampler
    return (sampler or default).changed(
        **_given(choices, ("steps", "step_list", "shift", "guidance", "memory_guidance", "solver"))
    )


def _memory(recorded: FilmRecord, default: MemoryConfig, choices: Choices) -> MemoryConfig:
    memory = recorded.memory or default
    if choices.rollout_of is not None:
        memory = ROLLOUTS[choices.rollout_of].memory
    asked = _given(choices, ("policy", "window_chunks", "memory_frames", "positions", "eviction"))
    if (first := memory.sink_frames) and asked.get("memory_frames", first) < first:
        raise UsageError(
            f"--memory-frames must be at least {first}: the film's first {first} are always kept"
        )
    decided = replace(memory, **asked)
    needs_frames = POLICIES[decided.policy].score and not decided.memory_frames
    if needs_frames and "policy" in asked and "memory_frames" not in asked:
        raise UsageError(
            f"{choices.policy} retrieves nothing with the 0 memory frames of this model: "
            "say how many with --memory-frames, such as 5"
        )
    return decided


def _given(choices: Choices, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(choices, name)) is not None}


def _story(story: Story, choices: Choices) -> Story:
    if choices.negative is not None:
        story = replace(story, negative=choices.negative)
    if choices.size is not None:
        story = replace(story, video=Video(story.video.fps, *choices.size))
    if choices.frames is not None:
        if len(story.shots) != 1:
            raise UsageError(
                f"frames is the length of a film of one shot, and this story has "
                f"{len(story.shots)}: give each its own duration"
            )
        seconds = choices.frames / story.video.fps
        story = replace(story, shots=(replace(story.shots[0], seconds=seconds, chunks=None),))
    return story


def _one_chunk(story: Story, choices: Choices, recorded: FilmRecord) -> tuple[Story, int]:
    """The story as a film of one chunk, and that chunk's latent frames."""
    if len(story.shots) != 1:
        raise UsageError(
            f"a whole film is made under one prompt, and this story has {len(story.shots)} shots"
        )
    shot = story.shots[0]
    if choices.frames is not None:
        frames = latent_frames(choices.frames)
    elif recorded.whole_film and recorded.chunk_frames:
        frames = recorded.chunk_frames
    elif shot.seconds:
        frames = latent_frames(nearest_length(shot.seconds * story.video.fps))
    else:
        raise UsageError(
            "a whole film has no chunks: give the shot's length in seconds, or --frames"
        )
    return replace(story, shots=(replace(shot, seconds=None, chunks=1),)), frames
