"""Embeds the prompts of latent stores, so that training needs no text encoder.

    causalcine embed --model DIR --store outputs/videos/train,outputs/videos/held_out
    causalcine train --config FILE --config.data.embeddings=True

DIR is the model that training starts from (`init`, or a student's `teacher`). Its text encoder runs
once over every distinct prompt, and STORE/embeddings keeps the result. A run that was stopped ends
with exit code 75, and goes on when the same command is given again.
"""

import argparse
from pathlib import Path

from causalcine_jax.cli import ArgumentParser
from causalcine_jax.errors import UsageError
from causalcine_jax.utils.compile_cache import compile_cache_flags, keep_compiled


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine embed", description=__doc__)
    parser.add_argument(
        "--model", type=Path, required=True, help="model with a text encoder and its tokenizer"
    )
    parser.add_argument(
        "--store", required=True, help="a latent store, or several joined by commas"
    )
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        help="of the text encoder and the embeddings: bfloat16 or float32 (default bfloat16)",
    )
    compile_cache_flags(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    stores = [Path(part.strip()) for part in flags.store.split(",") if part.strip()]
    if not stores:
        raise UsageError("--store names no latent store")
    keep_compiled(flags.compile_cache, flags.no_compile_cache)
    from causalcine_jax.data.embed_command import embed_stores

    embed_stores(flags.model, stores, flags.dtype)
