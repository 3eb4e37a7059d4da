"""Makes a film from captions that are given while it streams: each line of the input is a shot.

    causalcine direct --global "A story about Mia the fox." --out outputs/live

A line such as "Mia the fox waves by the sea." is a shot of --chunks chunks after the queued ones.
"6: Mia the fox waves by the sea." lasts six. Without a queued shot the film waits. It ends with the
input (Ctrl-D).

    causalcine direct --server "http://HOST:8765/?token=..." --out outputs/live
    causalcine direct --takes --out outputs/live

These direct a session of `causalcine serve`, or of a desk in this process. There the film keeps its
takes, and lines may also be commands: /cut, /retake 3, /branch 2, /pause, /save; /help lists them.

Leaves in --out:
    film.mp4     grows as film.unfinished.mp4 while chunks are made, and can be watched so
    story.yaml   the story as it was told so far, and the command that films it again is printed

Ctrl-C and SIGTERM end the film early, with exit code 75. film.unfinished.mp4 and story.yaml stay,
also after a crash.
A folder that holds a film is refused, unless --overwrite is given.
"""

import argparse
import contextlib
import io
import itertools
import shlex
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from causalcine_jax.cli import ArgumentParser, whole_number
from causalcine_jax.commands.model_flags import NETWORK_CHOICES, model_flag, network_flags
from causalcine_jax.commands.serve import film_engine, load_for_directing
from causalcine_jax.errors import UsageError, kept_when_stopped
from causalcine_jax.utils.compile_cache import compile_cache_flags
from causalcine_jax.utils.output import one_writer, remove_files

if TYPE_CHECKING:  # else jax would be imported before the flags are understood
    from causalcine_jax.film.chunk import Chunk
    from causalcine_jax.film.director import Director


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine direct", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the film")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="remove a film that is in --out, once the new one has its first chunk",
    )
    parser.add_argument(
        "--global",
        dest="global_caption",
        default="",
        metavar="TEXT",
        help="what holds for all shots, such as who plays",
    )
    model_flag(parser)
    network_flags(parser)
    parser.add_argument("--seed", type=whole_number, default=0, help="of the noise (default 0)")
    parser.add_argument(
        "--chunks",
        type=whole_number,
        default=4,
        help="length of a shot whose line does not say it (default 4)",
    )
    parser.add_argument(
        "--pool-frames",
        type=whole_number,
        metavar="FRAMES",
        help="latent frames of history kept (default: a minute's, or what memory has room for)",
    )
    desk = parser.add_mutually_exclusive_group()
    desk.add_argument("--server", metavar="URL", help="the address that causalcine serve printed")
    desk.add_argument(
        "--takes", action="store_true", help="keep takes, in --out/takes; lines may be commands"
    )
    parser.add_argument(
        "--resume", metavar="TOKEN", help="go on with a session of the server or of --out/takes"
    )
    compile_cache_flags(parser)
    flags = parser.parse_args(arguments)
    if flags.server:
        caches = ("compile_cache", "no_compile_cache")
        of_engine = ("model", "pool_frames", *caches, *NETWORK_CHOICES)
        parser.refuse_set(flags, of_engine, "has no effect on a server: leave it out")
    if flags.resume:
        of_film = ("global_caption", "seed")
        parser.refuse_set(flags, of_film, "is the resumed session's own: leave it out")
    return flags


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    from causalcine_jax.story import Story, write_story

    story = Story((), flags.global_caption.strip(), flags.seed)
    if flags.chunks < 1:
        raise UsageError(f"--chunks must be at least 1, not {flags.chunks}")
    if sys.stdin is None:  # closed by the shell: <&-
        raise UsageError("there is no input: give captions, a line each, on standard input")
    _forgive_bytes()
    if flags.server or flags.takes:
        return at_a_desk(flags)
    if flags.resume:
        raise UsageError("--resume goes on with a session: add --server or --takes")
    # After the flags are understood: a wrong one should not wait for jax.
    from causalcine_jax.config import PoolConfig
    from causalcine_jax.film.director import Director
    from causalcine_jax.film.live import directed
    from causalcine_jax.film.pool import PoolOutgrown, eviction_note
    from causalcine_jax.film_folder.filming import FILES, film_writer, say
    from causalcine_jax.film_folder.loaded_model import on_mesh
    from causalcine_jax.film_folder.unfinished import check_no_unfinished_film, remove_unfinished
    from causalcine_jax.render.mp4 import viewing_scale

    files = (*FILES, "story.yaml")
    with contextlib.ExitStack() as held:
        held.enter_context(one_writer(flags.out, files, overwrite=flags.overwrite))
        if not flags.overwrite:
            check_no_unfinished_film(flags.out)
        asked = load_for_directing(flags)
        held.enter_context(on_mesh(asked.mesh))
        director = Director(asked.model, story, pool=PoolConfig(flags.pool_frames))
        video, kept = director.story.video, director.settings.pool.frames
        room = None
        if kept:
            room = eviction_note(kept, director.memory, video.fps, "--pool-frames")
        if room and flags.pool_frames is None:
            say(room)
            warnings.simplefilter("ignore", PoolOutgrown)  # said already
        if sys.stdin.isatty():
            say("a caption a line; 6: before it makes the shot six chunks long; Ctrl-D ends it")
        told, is_told = flags.out / "story.yaml", threading.Event()

        def keep(story: Story) -> None:
            write_story(story, told)
            is_told.set()

        command = lambda: film_command(flags, told, _outgrown(director))
        with _way_on(is_told.is_set, command):
            chunks = directed(director, sys.stdin, flags.chunks, say, keep)
            first = next(chunks, None)
            if first is None:
                raise UsageError("no film: write one caption per line of the input")
            remove_files(flags.out, FILES)  # of an earlier film, which stays until there is another
            remove_unfinished(flags.out)
            scale = viewing_scale(video.size[0])
            with film_writer(director, flags.out / "film.mp4", scale) as film:
                for chunk in itertools.chain([first], chunks):
                    film.append(chunk.frames)
                    say(_line(chunk, director.resolved.chunks))
        say(f"{film.path}: {film.frames} frames; made again by: {command()}")


@contextlib.contextmanager
def _way_on(is_told: Callable[[], bool], command: Callable[[], str]) -> Iterator[None]:
    """Where the work inside ends early, says the command that films what was told."""
    from causalcine_jax.film_folder.filming import say

    try:
        with kept_when_stopped(lambda: "stopped, the story is kept" if is_told() else ""):
            yield
    except BaseException:
        if is_told():
            say(f"film what was told: {command()}")
        raise


def _outgrown(director: "Director") -> int | None:
    """The size of the pool where the story is longer, and memory could retrieve what it evicts.

    `film` would take a pool of the story's length, from which other frames are retrieved.
    """
    kept = director.settings.pool.frames
    told = director.resolved.chunks * director.model.chunk_frames
    return kept if kept and director.memory.reaches_all and told > kept else None


def film_command(flags: argparse.Namespace, told: Path, pool_frames: int | None) -> str:
    """The command that films the story `told` with the model of `flags`.

    pool_frames  the pool's size where `film` would choose another; else that of the flags
    """
    words = ["causalcine", "film", "--story", str(told), "--out", "NEW"]
    values = vars(flags) | {"pool_frames": flags.pool_frames or pool_frames}
    for name in ("model", "pool_frames", *NETWORK_CHOICES):
        value = values[name]
        for each in value if isinstance(value, list) else [value]:
            words += [] if each is None else [f"--{name.replace('_', '-')}", str(each)]
    return shlex.join(words)


def at_a_desk(flags: argparse.Namespace) -> None:
    """Directs a session of a server, or of a desk in this process."""
    from causalcine_jax.film_folder.filming import say
    from causalcine_jax.serve.client import Address, DeskClient
    from causalcine_jax.serve.parts import TAKE_FILES
    from causalcine_jax.serve.server import running
    from causalcine_jax.serve.terminal import Terminal

    if flags.resume:
        start = {"resume_token": flags.resume}
    else:
        start = {"global_caption": flags.global_caption.strip(), "seed": flags.seed}
    with contextlib.ExitStack() as held:
        held.enter_context(one_writer(flags.out, TAKE_FILES, overwrite=flags.overwrite))
        url = flags.server
        if url is None:
            engine = film_engine(flags)
            url = held.enter_context(running(engine, flags.out / "takes"))
        desk = held.enter_context(DeskClient.open(url))
        if sys.stdin.isatty():
            say("a caption a line; /help lists the commands; Ctrl-D ends the film")
        Terminal(desk, Address.of(url), flags.out, say).run(sys.stdin, flags.chunks, **start)


def _line(chunk: "Chunk", chunks: int) -> str:
    said = f"chunk {chunk.index + 1}/{chunks}  {chunk.shot.id}"
    return f"{said}  {chunk.shot.caption}" if chunk.index == chunk.shot.first_chunk else said


def _forgive_bytes() -> None:
    """Input that is not UTF-8 is read with replacement characters, instead of ending the film."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
