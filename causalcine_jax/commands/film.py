"""Makes a film from a story, chunk by chunk, or from one prompt.

    causalcine film --story examples/demo.yaml --out outputs/demo
    causalcine film --story examples/demo.yaml --out outputs/base --sampler base
    causalcine film --prompt "A red fox." --model models/self-forcing --out outputs/fox
    causalcine film --prompt "A red fox." --model models/wan-1.3b --whole-film --out outputs/fox
    causalcine film --stories stories/memory-100.yaml --seeds 0,1,2 --out outputs/memory-100

Leaves in --out:
    film.mp4            grows as film.unfinished.mp4 while chunks are made, and can be watched so
    contact_sheet.png   the film on one page: a row per shot, its caption, the cuts
    memory.png          which older frames and shots memory brought back for each chunk
    film.json           everything that went into the film; `--story film.json` makes it again

Ctrl-C and SIGTERM end a film early, with exit code 75. film.unfinished.mp4 stays and can be played.
`--resume FOLDER` goes on with it, also after a crash: the same film, frame by frame.
A folder that holds a film is refused, unless --overwrite is given.

--stories films every story of a set with every seed, as OUT/SEED/NAME; the model is loaded once.
The same command goes on where it was stopped. Several devices share a set: each gets a part, such
as CUDA_VISIBLE_DEVICES=0 and --part 1/8.

One film by several processes (hosts), on all their devices: the same command in each, started as
`causalcine train --help` says. Unset flags take the value of the film.json, else of the story, else
of the model's metadata.json.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from causalcine_jax.cli import ArgumentParser, number, part, pixel_size, whole_number
from causalcine_jax.commands.model_flags import (
    NETWORK_CHOICES,
    memory_flags,
    model_flag,
    network_flags,
    sampler_flags,
)
from causalcine_jax.errors import UsageError, shown
from causalcine_jax.utils.compile_cache import compile_cache_flags, keep_compiled
from causalcine_jax.utils.output import there_already

if TYPE_CHECKING:  # else jax would be imported before the story is understood
    from causalcine_jax.film_folder.choices import Choices
    from causalcine_jax.film_folder.unfinished import FilmRequest

RESUMED_WITH = {"resume", "no_progress", "compile_cache", "no_compile_cache"}
CHOICES = (
    "seed", "steps", "step_list", "shift", "guidance", "memory_guidance", "negative", "rollout_of",
    "policy", "window_chunks", "memory_frames", "positions", "eviction", "chunk_frames",
    "pool_frames", "pool_gb", "kv_dtype", "pool_on", "size", "frames", "whole_film", "start",
    "start_caption", "embeddings", "scale", *NETWORK_CHOICES,
)  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine film", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--story", type=Path, help="a story (.yaml, .json), or the film.json of an earlier film"
    )
    what.add_argument(
        "--prompt", help="a film of one shot, 81 frames unless --frames says another length"
    )
    what.add_argument(
        "--stories",
        type=Path,
        help="a film of each of them: a story set, a folder of stories, or a file of many",
    )
    what.add_argument(
        "--resume",
        type=Path,
        metavar="FOLDER",
        help="the --out of a film that was not finished, to go on with it as it was begun",
    )
    parser.add_argument("--out", type=Path, help="folder for the film; made if missing")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="remove a film that is in --out, just before filming begins",
    )
    model_flag(parser)
    parser.add_argument("--seed", type=whole_number, help="of the noise (default: the story's)")
    parser.add_argument(
        "--seeds", type=_seeds, metavar="N,N,...", help="with --stories (default: 0)"
    )
    parser.add_argument(
        "--part", type=part, metavar="K/N", help="with --stories: only the K-th of N parts"
    )
    parser.add_argument("--size", type=pixel_size, metavar="WIDTHxHEIGHT", help="such as 832x480")
    parser.add_argument("--frames", type=whole_number, help="video frames of a film of one shot")
    parser.add_argument(
        "--whole-film",
        action="store_true",
        help="all frames at once under one prompt: plain, bidirectional Wan2.1",
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="a picture or clip that the film goes on from, as its first shot",
    )
    parser.add_argument("--start-caption", metavar="TEXT", help="what the start shows")

    sampler = parser.add_argument_group("from noise to chunk (default: the model's)")
    sampler_flags(sampler)
    sampler.add_argument(
        "--step-list",
        type=_times,
        metavar="T,T,...",
        help="few_step's times in 0..1000, such as 1000,937.5,833.3,625",
    )
    sampler.add_argument("--shift", type=number, help="how far the schedule is bent toward noise")
    sampler.add_argument(
        "--negative",
        metavar="TEXT",
        help="what guidance steers away from (default: the story's, else the model's)",
    )

    memory_flags(parser)
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="prompt embeddings in place of the text encoder, which is not loaded",
    )
    parser.add_argument(
        "--embed-only",
        action="store_true",
        help="make no film: add the story's prompts to the --embeddings file",
    )
    parser.add_argument(
        "--scale",
        type=whole_number,
        help="enlarge film.mp4 by this integer (default: to at least 384 pixels in height)",
    )
    network_flags(parser)
    compile_cache_flags(parser)
    parser.add_argument("--no-progress", action="store_true", help="say nothing but errors")
    flags = parser.parse_args(arguments)
    if flags.resume:
        other = vars(flags).keys() - RESUMED_WITH
        why = "cannot be with --resume, which goes on with a film as it was begun"
        parser.refuse_set(flags, other, why)
    if flags.stories:
        one = ("seed", "start", "start_caption", "overwrite", "embed_only")
        parser.refuse_set(flags, one, "cannot be with --stories")
    else:
        parser.refuse_set(flags, ("seeds", "part"), "need --stories")
    return flags


def _times(text: str) -> tuple[float, ...]:
    try:
        return tuple(number(time) for time in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is no list of times: give numbers such as 1000,937.5,833.3,625"
        ) from None


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(whole_number(seed) for seed in text.split(",")))


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    if flags.embed_only and flags.embeddings is None:
        raise UsageError("--embed-only needs --embeddings FILE, where the embeddings go")
    if not flags.embed_only and flags.out is None and flags.resume is None:
        raise UsageError("give --out FOLDER, where the film goes")
    if flags.stories:
        _film_set(flags)
        return
    film = _request(flags)
    from causalcine_jax.film.host_memory import allow_all_host_memory
    from causalcine_jax.film_folder.filming import FILES
    from causalcine_jax.film_folder.generate import generate
    from causalcine_jax.parallel.processes import joined

    allow_all_host_memory()
    keep_compiled(flags.compile_cache, flags.no_compile_cache)
    if flags.embed_only:
        from causalcine_jax.film_folder.embed_only import save_story_embeddings

        save_story_embeddings(
            film.recipe,
            flags.embeddings,
            model=film.model,
            choices=film.choices,
            progress=not flags.no_progress,
        )
        return
    for read in filter(None, (flags.story, flags.start)):
        files = there_already(flags.out, FILES) if read.exists() else ()
        if any(file.samefile(read) for file in files):
            raise UsageError(f"{read} is an input and would be overwritten: choose another --out")
    with joined():
        generate(
            film.recipe,
            flags.resume or flags.out,
            model=film.model,
            choices=film.choices,
            progress=not flags.no_progress,
            overwrite=flags.overwrite,
            resume=flags.resume is not None,
        )


def _film_set(flags: argparse.Namespace) -> None:
    from causalcine_jax.film.host_memory import allow_all_host_memory
    from causalcine_jax.film_folder.film_set import FilmSet, film_set, recipes

    wanted = FilmSet(recipes(flags.stories), flags.seeds or (0,), flags.part or (1, 1))
    allow_all_host_memory()
    keep_compiled(flags.compile_cache, flags.no_compile_cache)
    film_set(
        wanted,
        flags.out,
        model=flags.model,
        choices=_choices(flags),
        progress=not flags.no_progress,
    )


def _request(flags: argparse.Namespace) -> "FilmRequest":
    """What the flags ask for; with --resume, what was asked for then."""
    if flags.resume:
        from causalcine_jax.film_folder.unfinished import read_request

        return read_request(flags.resume)
    from causalcine_jax.film_folder.record import prompt_recipe, read_recipe

    recipe = read_recipe(flags.story) if flags.story else prompt_recipe(flags.prompt)
    # After the story is understood: a typing error in it should not wait for jax.
    from causalcine_jax.film_folder.unfinished import FilmRequest

    return FilmRequest(recipe, flags.model, _choices(flags))


def _choices(flags: argparse.Namespace) -> "Choices":
    from causalcine_jax.film_folder.choices import Choices

    base = flags.sampler == "base"
    return Choices(
        solver=None if base else flags.sampler,
        base=base,
        **{name: getattr(flags, name) for name in CHOICES},
    )
