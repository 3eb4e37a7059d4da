"""The command `causalcine`, which is also `python -m causalcine_jax`.

A command's module is imported when it is named: help and errors do not wait for what others need.
All but a few lines are imported after `end_quietly`, so that a stop meanwhile has no traceback.
"""

import importlib
import sys

from causalcine_jax.utils.interrupts import end_quietly

HOME = "causalcine_jax.commands"
COMMANDS = {
    "film": "a film from a story or a prompt, with a page that shows it",
    "direct": "a film whose shots are told while it streams, a line each",
    "serve": "films directed in a browser while they are made",
    "ray_serve": "the same from several machines, by Ray Serve",
    "stories": "a set of stories checked, and written for other systems",
    "check": "a story's length, cuts and faults, without filming it",
    "words": "what StoryWorld's models understand, with example captions",
    "encode": "StoryWorld's films as a latent store, from which train reads",
    "embed": "prompts embedded once, so that training needs no text encoder",
    "prepare": "a folder of your videos as latent stores, from which train reads",
    "train": "one stage of training, as a config file says",
    "evaluate": "a model on held-out films: does it remember, cut and obey?",
    "convert": "checkpoints of Wan2.1 and its descendants, in all their formats",
    "gallery": "a page with films, side by side and for blind votes",
    "plan": "memory and time of a film or a training step, beforehand",
}
FROM_CHECKOUT = {
    "bench": "this device: seconds, FLOP/s and memory against targets",
    "experiments": "the paper's tables in StoryWorld",
}
HELP = ("-h", "--help")


def main(arguments: list[str] | None = None) -> None:
    """Runs `arguments` (by default the command line's) and exits the process as `cli.run` does."""
    end_quietly()
    from causalcine_jax.cli import run

    run(lambda: command(sys.argv[1:] if arguments is None else arguments))


def command(arguments: list[str]) -> None:
    """Runs the command that the first argument names, with the others. Raises what it raises."""
    from causalcine_jax.errors import UsageError, nearest, shown

    name, *rest = arguments or HELP[:1]
    if name in HELP:
        print(help_text())
    elif name == "--version":
        if rest:
            raise UsageError(f"--version stands alone: leave out {shown(' '.join(rest))}")
        importlib.import_module(f"{HOME}.version").main()
    elif name in COMMANDS:
        importlib.import_module(f"{HOME}.{name}").main(rest)
    elif name in FROM_CHECKOUT:
        importlib.import_module(f"{HOME}.from_checkout").main(name, rest)
    else:
        known = [*COMMANDS, *FROM_CHECKOUT, "--help", "--version"]
        raise UsageError(f"unknown command {shown(name)}, {nearest(name, known)}")


def help_text() -> str:
    """All commands on one screen."""
    listed = lambda table: [f"  {name:12} {what}" for name, what in table.items()]
    return "\n".join(
        [
            "Films of several shots, made chunk by chunk by a model that remembers them.",
            "usage: causalcine COMMAND ...       causalcine COMMAND --help tells its flags",
            *listed(COMMANDS),
            "from a checkout of the repository:",
            *listed(FROM_CHECKOUT),
            "  --version    the version, and what it computes with on this machine",
            "A first film, of the small model that is included:",
            '  causalcine film --prompt "Mia the fox waves on the beach by day." --out mia',
        ]
    )


if __name__ == "__main__":
    main()
