"""FLOPs of one update of each training stage, forward and backward, without recomputation.

flops.py counts the passes.
"""

from dataclasses import replace

from benchmarks.flops import FilmFlops, Flops, text_encoder_flops
from causalcine_jax.training.config import TrainConfig


def update_flops(config: TrainConfig, films: FilmFlops) -> dict[str, float]:
    """FLOPs of one update of config.stage on `films` (config.batch of them), by update name.

    A rollout with random exits counts with its mean length, and a window of frames with gradient as
    one at the film's end. The GAN's head is less than a hundredth and left out.
    """
    return COUNTS[config.stage](config, films)


def _teacher_forcing(config: TrainConfig, films: FilmFlops) -> dict[str, float]:
    text = _text(config, films)
    more = (config.time.draws - 1) * films.noisy()
    packed = (films.packed() + more).trained
    if config.time.own_history:
        packed += films.packed().forward
    return {"": packed + (text.trained if config.train_text_encoder else text.forward)}


def _ode_init(config: TrainConfig, films: FilmFlops) -> dict[str, float]:
    packed = (
        films.commits(range(films.chunks - 1))
        + config.self_forcing.sampler.steps * films.noisy()
        + films.prompts()
    )
    student = packed.trained + _text(config, films).forward
    return {"": student if config.ode.store else student + trajectory_flops(config, films).forward}


def trajectory_flops(config: TrainConfig, films: FilmFlops) -> Flops:
    """FLOPs of the teacher's trajectories for a batch.

    Its clean history once, then every chunk at every step. Guidance is a second film, memory
    guidance a second pass.
    """
    guided = 2 if config.ode.guidance != 1 else 1
    seen = replace(films, films=guided * films.films)
    return (
        seen.commits(range(films.chunks - 1))
        + seen.prompts()
        + config.ode.steps * seen.against_pool()
        + (config.ode.steps if config.ode.memory_guidance else 0) * seen.window_only.against_pool()
        + _text(config, films)
    )


def _dmd(config: TrainConfig, films: FilmFlops) -> dict[str, float]:
    forcing, dmd, head = config.self_forcing, config.dmd, config.gan
    steps = forcing.sampler.steps
    rollout = films.rollout(steps if forcing.exit == "last" else (steps + 1) / 2)
    last = forcing.frames(films.chunks * films.chunk_frames) // films.chunk_frames
    text = _text(config, films, null=1)

    def score(guidance: float, memory_guidance: float = 0.0) -> Flops:
        seen = films if guidance == 1 else replace(films, films=2 * films.films)
        once = FilmFlops.noisy_stream if dmd.score_context == "noisy_causal" else FilmFlops.packed
        again = once(seen.window_only, last) if memory_guidance else Flops()
        return once(seen, last) + again

    def read_by_head(films: FilmFlops) -> Flops:
        layers = max(head.layers(films.config.num_layers)) + 1
        return (
            films.noisy_stream(last, layers)
            if head.context == "noisy_causal"
            else films.packed(last)
        )

    both_scores = score(dmd.real_guidance, dmd.real_memory_guidance) + score(dmd.fake_guidance)
    generator = (rollout + both_scores + text).forward + films.against_pool(last).trained
    critic = (rollout + text).forward + score(1).trained
    if head.on:
        # Gradient reaches the inputs of some chunks only: history's keys and values are constants.
        carries_gradient = films.noisy(last)
        generator += (
            read_by_head(films).forward + carries_gradient.passed_through - carries_gradient.forward
        )
        compared = read_by_head(replace(films, films=(3 if head.r1_weight else 2) * films.films))
        critic += compared.trained if head.trunk else compared.forward
    return {"generator": generator, "critic": critic}


# Every stage that learns from films.
COUNTS = {"teacher_forcing": _teacher_forcing, "ode_init": _ode_init, "dmd": _dmd}


def _text(config: TrainConfig, films: FilmFlops, null: int = 0) -> Flops:
    if config.data.embeddings:
        return Flops()
    return text_encoder_flops(
        config.text_encoder, films.films * films.shots + null, films.config.text_len
    )
