"""Encodes StoryWorld films into a latent store, from which `causalcine train` reads.

    causalcine encode --model DIR --out outputs/data/train --films 1500 --processes 2
    causalcine encode --model DIR --out outputs/data/held_out --seed 1000000 --films 64

DIR holds vae/. A run that was stopped ends with exit code 75, and resumes when the same command is
given again. --processes helps on a CPU; an accelerator belongs to one process.
"""

import argparse
from pathlib import Path

from causalcine_jax.cli import ArgumentParser, whole_number
from causalcine_jax.utils.compile_cache import compile_cache_flags, keep_compiled


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine encode", description=__doc__)
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help="model folder with vae/ (and, if it has one, text_encoder/tokenizer.json)",
    )
    parser.add_argument("--out", type=Path, required=True, help="the store to write")
    parser.add_argument(
        "--world",
        default="base",
        help="base (80x48, 10 chunks), montage (base with a cut at almost every chunk), "
        "storyworld (160x96, 20 chunks), single or storyworld-single (the same in one shot)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        help="of the collection of films; held-out films have another seed (default 0)",
    )
    parser.add_argument("--films", type=whole_number, default=1500, help="how many (default 1500)")
    parser.add_argument(
        "--batch",
        type=whole_number,
        help="films per call of the VAE (default: 1 on a CPU, 16 elsewhere)",
    )
    parser.add_argument(
        "--processes",
        type=whole_number,
        default=1,
        help="processes that encode at once, on a CPU up to one per core (default 1)",
    )
    parser.add_argument(
        "--text-len",
        type=whole_number,
        default=64,
        help="token ids per shot, the model's text_len (default 64)",
    )
    parser.add_argument(
        "--films-per-shard",
        type=whole_number,
        default=32,
        help="films per file; a stopped process loses at most so many (default 32)",
    )
    compile_cache_flags(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = vars(parse(arguments))
    kept = flags.pop("compile_cache"), flags.pop("no_compile_cache")
    from causalcine_jax.data.encode_config import EncodeConfig

    config = EncodeConfig(**flags)
    # After the flags are understood: a wrong one should not wait for jax. And before processes are
    # started, which keep theirs there, too.
    keep_compiled(*kept)
    from causalcine_jax.data.encode_command import encode_storyworld

    encode_storyworld(config)
