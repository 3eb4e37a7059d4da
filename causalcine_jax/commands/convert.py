"""Converts checkpoints of Wan2.1 and of what was made from it, whatever their format.

    causalcine convert --from Wan2.1-T2V-1.3B --to model --out models/wan-1.3b --dtype bf16
    causalcine convert --from self_forcing_dmd.pt --vae Wan2.1-T2V-1.3B \\
        --text-encoder Wan2.1-T2V-1.3B --out models/self-forcing
    causalcine convert --from models/wan-1.3b --to diffusers --out wan-1.3b-diffusers
    causalcine convert --from longlive_base.pt --lora lora.pt --out models/longlive --dry-run
    causalcine convert --from models/wan-1.3b --lora style.safetensors:0.8 --out models/styled

--from may be Wan2.1's own folder, Diffusers' or ours, or one file (.safetensors, .pt, .pth, .bin).
--dry-run prints what would become of every tensor and writes nothing. A conversion that was stopped
ends with exit code 75, and resumes when the same command is given again. --out appears only when it
is complete, with the SHA-256 of every file, source and target, in manifest.json.
"""

import argparse
from pathlib import Path

from causalcine_jax.cli import ArgumentParser, number


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine convert", description=__doc__)
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder or file to convert",
    )
    parser.add_argument(
        "--vae", type=Path, metavar="PATH", help="folder or file with the VAE, if --from is not it"
    )
    parser.add_argument(
        "--text-encoder",
        type=Path,
        metavar="PATH",
        help="folder or file with the text encoder, if --from is not it",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="folder or tokenizer.json, if it is not beside the text encoder",
    )
    parser.add_argument(
        "--lora",
        action="append",
        metavar="FILE[:STRENGTH]",
        help="adapter to merge into the transformer, a file or peft's folder; "
        "may be given several times: all are merged",
    )
    parser.add_argument(
        "--lora-alpha",
        type=number,
        help="alpha of the only --lora, if its files do not state it (default: its rank)",
    )
    parser.add_argument(
        "--weights",
        default="auto",
        choices=("auto", "generator", "generator_ema"),
        help="which weights of a .pt that has both (default: the averaged ones, "
        "but not of Causal-Forcing's chunkwise models)",
    )
    parser.add_argument(
        "--to",
        default="model",
        choices=("model", "diffusers", "orbax"),
        help="what to write (default: a model folder)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument(
        "--dtype",
        default="keep",
        choices=("keep", "bf16", "fp32"),
        help="dtype to write (default: that of each tensor)",
    )
    parser.add_argument(
        "--family",
        help="model family, for sampler and memory (default: guessed from file names)",
    )
    parser.add_argument(
        "--shard-gb", type=number, default=5.0, help="largest file in gigabytes (default 5)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the table (source key, target key, shape, dtype) and write nothing",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    flags = vars(parse(arguments))
    # After the flags are understood: a wrong one should not wait for jax.
    from causalcine_jax.convert.command import ConvertConfig, convert

    progress = not flags.pop("no_progress")
    convert(ConvertConfig(**flags, progress=progress))
