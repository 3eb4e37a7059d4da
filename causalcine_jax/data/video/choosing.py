"""The stages that choose: windows of shots, and which of them have captions."""

from collections import Counter
from collections.abc import Iterator, Sequence

from causalcine_jax.clock import FPS, first_frame_of_chunk
from causalcine_jax.data.video.captioner import Captioner, by_command
from causalcine_jax.data.video.captioner_server import by_server
from causalcine_jax.data.video.captioning import Film, SourceVideo, prompt_reason
from causalcine_jax.data.video.captioning import captioned as with_captions
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.duplicates import near_duplicates
from causalcine_jax.data.video.filters import shot_reason, video_reason
from causalcine_jax.data.video.manifest import content_id
from causalcine_jax.data.video.target import Target
from causalcine_jax.data.video.windows import (
    Window,
    chunks_kept,
    longest_that_keeps,
    windows_of,
)
from causalcine_jax.data.video.work import Work

# Parts of the time of all runs of shots: below LITTLE a length that keeps MUCH is named.
LITTLE, MUCH = 0.5, 0.75


def windows(work: Work, videos: Sequence[SourceVideo], target: Target) -> list[Film]:
    """The windows of all videos that pass the filters, still without captions."""
    filters = work.config.filters
    films = [Film(video, window) for video in videos for window in _cut(work, video, target)]
    least = filters.duplicate_cosine if work.config.duplicates_weights else None
    reasons = near_duplicates(films, filters.duplicate_bits, least)
    chosen = []
    for film, reason in zip(films, reasons, strict=True):
        if reason:
            work.drop("windows", film.video.name, reason, **where(film.window))
        else:
            chosen.append(film)
    return chosen


def _cut(work: Work, video: SourceVideo, target: Target) -> Iterator[Window]:
    """Yields a video's windows of enough shots that pass the filters."""
    filters, shots = work.config.filters, video.scan["shots"]
    inside = video.clock.picture
    reason = video_reason(video.row, inside, target.height, target.width, filters)
    if reason:
        work.drop("filters", video.name, reason)
        return
    reasons = [shot_reason(shot, target.shortest_shot, filters) for shot in shots]
    for shot, reason in zip(shots, reasons):
        if reason:
            about = {"first": shot["first"], "stop": shot["stop"]}
            work.drop("filters", video.name, reason, **about)
    ranges = [(shot["first"], shot["stop"]) for shot in shots]
    kept = [reason is None for reason in reasons]
    cut = windows_of(video.sha256, ranges, kept, target.lengths, target.chunk_frames)
    work.runs.update(cut.runs)
    for window in cut.short:
        words = f"{window.chunks} chunks follow each other, a film has {target.lengths[-1]}"
        work.drop("windows", video.name, ("short window", words), **where(window))
    for window in cut.whole:
        if len(window.pieces) < filters.least_shots:
            words = f"{len(window.pieces)} shots, at least {filters.least_shots} are asked"
            work.drop("windows", video.name, ("few shots", words), **where(window))
        else:
            yield window


def length_advice(runs: Counter[int], target: Target) -> str | None:
    """Which --latent-frames would lose less, if windows hold less than LITTLE of all `runs`."""
    total = sum(length * count for length, count in runs.items())
    kept = chunks_kept(runs, target.lengths)
    if kept >= LITTLE * total:
        return None
    better = longest_that_keeps(runs, MUCH)
    lengths = sorted({*target.lengths, better}, reverse=True)
    named = ",".join(str(length * target.chunk_frames) for length in lengths)
    seconds = first_frame_of_chunk(better, target.chunk_frames) / FPS
    often = ", ".join(f"{length} chunks {count} times" for length, count in runs.most_common(3))
    return (
        f"most runs of shots are shorter than a film of {target.lengths[-1]} chunks: films hold "
        f"{kept / total:.0%} of their time (most frequent: {often}); --latent-frames {named} would "
        f"hold {chunks_kept(runs, lengths) / total:.0%}, by a store of films of {seconds:.1f} s too"
    )


def captioned(
    work: Work, films: Sequence[Film], ask: Captioner | None, name: str, target: Target
) -> list[Film]:
    """The films with captions that the model can read; `ask` is the captioner called `name`."""
    found: dict[str, Film] = {}
    size = target.height, target.width
    manifest, images = work.manifest("captions"), work.config.captioning.images
    with work.bar(len(films), "window", "captions") as bar:
        for film, reason in with_captions(films, ask, name, manifest, size, images):
            bar.update(1)
            reason = reason or prompt_reason(film, target.tokenizer, target.text_len)
            if reason:
                work.drop("captions", film.video.name, reason, **where(film.window))
            else:
                found[film.window.id] = film
    return [found[film.window.id] for film in films if film.window.id in found]


def captioner_of(config: PrepareConfig) -> tuple[Captioner | None, str]:
    """The captioner, if one is asked for, and its name."""
    if config.captioner:
        return by_command(config.captioner, config.captioning), config.captioner
    if config.captioner_url and config.captioner_model:
        ask = by_server(config.captioner_url, config.captioner_model, config.captioning)
        prompt = config.captioning.prompt
        own = f" {content_id(prompt)}" if prompt else ""  # another prompt asks anew
        return ask, f"{config.captioner_url} {config.captioner_model}{own}"
    return None, ""


def where(window: Window) -> dict[str, int]:
    """A window's place in its video, for a row of rejects."""
    return {"first": window.pieces[0].first, "stop": window.pieces[-1].stop}
