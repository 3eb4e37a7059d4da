"""Measures a model on held-out StoryWorld, or films of any system by the paper's measures.

    causalcine evaluate --model DIR --returns 200 --films 20 --policies camr,sink,none
    causalcine evaluate --films FOLDER --stories FILE --weights weights.yaml
    causalcine evaluate --compare outputs/measures-a outputs/measures-b

The first prints the tables and leaves evaluation.json, evaluation.md, returns.png and recall.png
in --out. A folder that holds an evaluation is refused, unless --overwrite is given.

The second leaves measures.json, measures.md and films/NAME.json. Stopped, it goes on. Measures
whose weights are not named are left out, and the report says so.

The third prints the differences per story between two systems that the second measured. With --out
it leaves comparison.json and comparison.md.
"""

import argparse
import re
from pathlib import Path

from causalcine_jax.cli import ArgumentParser, number, path, whole_number
from causalcine_jax.commands.model_flags import model_flag, sampler_flags
from causalcine_jax.config import DTYPES, POOL_PLACES
from causalcine_jax.memory_policies import POLICIES
from causalcine_jax.utils.compile_cache import compile_cache_flags, keep_compiled
from causalcine_jax.utils.output import one_writer

CUT_FINDERS = ("pixels", "transnet", "scenedetect")
# Flags that only one of the two uses: films of any system, and a model's in StoryWorld.
OF_FILMS = ("stories", "weights", "cuts", "every")
OF_STORYWORLD = (
    "model",
    "world",
    "returns",
    "policies",
    "steps",
    "guidance",
    "memory_guidance",
    "sampler",
    "seed",
    "batch",
    "pool_on",
    "most_shown",
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine evaluate", description=__doc__)
    model_flag(parser)
    parser.add_argument(
        "--world", default="base", help="base (80x48, 10 chunks) or storyworld (160x96, 20 chunks)"
    )
    parser.add_argument(
        "--returns",
        type=whole_number,
        default=200,
        help="returns of the PRIMARY recall, each from another film (default 200)",
    )
    parser.add_argument(
        "--most-shown",
        type=number,
        default=1.0,
        metavar="SHARE",
        help="returns of characters in at most this share of the chunks older than the window, so "
        "that memory must choose (default 1: all returns)",
    )
    parser.add_argument(
        "--films",
        type=_count_or_folder,
        default=20,
        help="free films per policy; 0 measures the recall alone (default 20). "
        "Or a folder of films of any system, to measure those",
    )
    parser.add_argument(
        "--policies",
        help=f"of {', '.join(POLICIES)}, switched at inference (default: the model's own, sink and "
        "none; none alone for a model with 0 memory frames)",
    )
    sampler_flags(parser.add_argument_group("from noise to chunk (default: the model's)"))
    parser.add_argument("--dtype", choices=DTYPES, help="of the networks (default: the model's)")
    parser.add_argument(
        "--seed", type=whole_number, help="of the held-out stories and of all noise"
    )
    parser.add_argument(
        "--batch",
        type=whole_number,
        default=16,
        help="films made at once (default 16); few_step's noise depends on it",
    )
    parser.add_argument(
        "--pool-on",
        default="device",
        choices=POOL_PLACES,
        help="where the pool is; host: for batches too large for the device's memory",
    )
    compile_cache_flags(parser)
    parser.add_argument(
        "--out", type=Path, help="folder for results (default: outputs/evaluation, or measures)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an evaluation that is in --out"
    )
    of_films = parser.add_argument_group("for --films FOLDER")
    of_films.add_argument(
        "--stories", type=Path, help="a story set, a story, a folder of them, or a file of many"
    )
    of_films.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=PATH|FILE.yaml",
        help="a file of weights, or a YAML of such names and paths; may be given several times",
    )
    of_films.add_argument(
        "--cuts",
        choices=CUT_FINDERS,
        help="what finds cuts (default transnet where its weights are named, else pixels)",
    )
    of_films.add_argument(
        "--every",
        type=whole_number,
        default=1,
        help="image networks measure every N-th frame (default 1: all frames, as VBench)",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("FIRST", "SECOND"),
        help="two measures.json, or the folders that hold them",
    )
    flags = parser.parse_args(arguments)
    if flags.compare:
        others = vars(flags).keys() - {"compare", "out", "overwrite"}
        parser.refuse_set(flags, others, "cannot be with --compare")
    elif isinstance(flags.films, Path):
        why = "and --films FOLDER exclude each other: leave out one of them"
        parser.refuse_set(flags, OF_STORYWORLD, why)
    else:
        parser.refuse_set(flags, OF_FILMS, "needs a folder of films: name --films FOLDER")
    return flags


def _count_or_folder(text: str) -> int | Path:
    return whole_number(text) if re.fullmatch(r"[+-]?\d+", text) else path(text)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    if flags.compare:
        from causalcine_jax.evaluation.films.command import compare

        compare(flags)
        return
    if isinstance(flags.films, Path):
        from causalcine_jax.evaluation.films.command import measure

        measure(flags)
        return
    from causalcine_jax.evaluation.storyworld.config import FILES, HELD_OUT_SEED, EvaluationConfig

    config = EvaluationConfig(
        world=flags.world,
        returns=flags.returns,
        films=flags.films,
        policies=_names(flags.policies),
        steps=flags.steps,
        guidance=flags.guidance,
        memory_guidance=flags.memory_guidance,
        solver=None if flags.sampler == "base" else flags.sampler,
        seed=HELD_OUT_SEED if flags.seed is None else flags.seed,
        batch=flags.batch,
        pool_on=flags.pool_on,
        most_shown=flags.most_shown,
    )
    # After the flags are understood: a wrong one should not wait for jax.
    from causalcine_jax.evaluation.storyworld.evaluate import evaluate, write_evaluation
    from causalcine_jax.evaluation.storyworld.report import markdown
    from causalcine_jax.film.chosen_model import chosen_model
    from causalcine_jax.film.host_memory import allow_all_host_memory
    from causalcine_jax.film.model_folder import load_model

    allow_all_host_memory()
    keep_compiled(flags.compile_cache, flags.no_compile_cache)
    out = flags.out or Path("outputs/evaluation")
    with one_writer(out, FILES, overwrite=flags.overwrite):
        model = load_model(chosen_model(flags.model, base=flags.sampler == "base"), flags.dtype)
        evaluation = evaluate(model, config)
        write_evaluation(out, evaluation)
    print(markdown(evaluation.report))
    print(f"written to {out}: {', '.join(FILES)}")
