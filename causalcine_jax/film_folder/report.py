"""What `causalcine film` prints about a film: its settings, differences and speed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from causalcine_jax.errors import counted
from causalcine_jax.film.director import Director
from causalcine_jax.film_folder.record import Recipe


def opening_lines(
    director: Director, recipe: Recipe, weights: Callable[[], str], decoder: dict[str, str] | None
) -> list[str]:
    resolved, video = director.resolved, director.story.video
    memory, pool, hosted = (
        director.memory,
        director.pool_bytes,
        director.pool_host_bytes,
    )
    in_host_memory = f", {hosted / 2**20:.0f} of them in host memory" if hosted else ""
    history = (
        "the whole film at once"
        if director.settings.pool.frames is None
        else f"memory {memory.policy}: {memory.retrieved_frames} frames beyond a window of "
        f"{memory.window_chunks} chunks; "
        f"pool of {director.settings.pool.frames} frames, {pool / 2**20:.0f} MiB{in_host_memory}"
    )
    lines = [
        f"{counted(len(resolved.shots), 'shot')}, {resolved.frames} frames, "
        f"{resolved.frames / resolved.fps:.1f} s of {video.width}x{video.height}, "
        f"seed {director.story.seed}",
        f"{history}; {director.settings.sampler.solver}, {director.settings.sampler.steps} steps, "
        f"guidance {director.settings.sampler.guidance:g}",
        *resolved.snapped(),
    ]
    if recipe.recorded and recipe.record.weights_sha256 != weights():
        lines.append(
            "note: these are not the weights that the film.json names, so the film will differ"
        )
    if recipe.recorded and recipe.record.tiny_decoder != decoder:
        before = (recipe.record.tiny_decoder or {}).get("file", "the VAE")
        lines.append(
            f"note: the film.json's film was decoded by {before}, so the frames will differ"
        )
    return lines


def adapter_notes(recipe: Recipe, adapters: list[dict[str, Any]]) -> list[str]:
    """A note if the film.json's film had other adapters merged."""
    before = list(recipe.record.loras) if recipe.recorded else adapters
    if before == adapters:
        return []
    listed = ", ".join(f"{each['file']}:{each['strength']:g}" for each in before) or "no LoRA"
    return [
        f"note: the film.json's film was made with {listed}, so the film will differ; "
        "--lora merges one"
    ]


def details(record: dict[str, Any]) -> str:
    resolved, video, sampler = record["resolved"], record["story"]["video"], record["sampler"]
    parts = [
        f"{resolved['seconds']:.1f} s",
        f"{resolved['frames']} frames of {video['width']}x{video['height']} at {video['fps']} fps",
        f"seed {record['story']['seed']}",
        "whole film" if record["whole_film"] else f"memory {record['memory']['policy']}",
        f"{sampler['solver']}, {sampler['steps']} steps",
        f"weights {record['weights_sha256'][:12]}",
    ]
    return " | ".join(parts)


def closing_lines(record: dict[str, Any], recipe: Recipe, out: Path) -> list[str]:
    spent = record["timings"]
    speed = (
        f", {spent['fps']:.2f} frames per second once compiled "
        f"({spent['fps_without_decode']:.2f} without decoding)"
        if spent["fps"]
        else ""
    )
    lines = [f"{out / 'film.mp4'} in {spent['total_seconds']:.1f} s{speed}"]
    if before := recipe.record.frames_sha256:
        same = before == record["frames_sha256"]
        lines.append(
            "the same film, frame by frame"
            if same
            else "not the same frames as the film.json's film"
        )
    return lines
