"""Ends commands at random moments by TERM or KILL, then gives them again, or goes on with the film.

After the end nothing is half-written under a final name. After the second run the result is that
of an undisturbed run, bit for bit, and no other file is left.
"""

import itertools
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from benchmarks.disturbed import (
    TRACEBACK,
    Command,
    Undisturbed,
    fault_after,
    moment,
    undisturbed,
)
from benchmarks.fuzz import keep, remove
from benchmarks.tried_commands import commands

# By signal, how a command may end: -15 before it has begun to listen, 0 when it was done by then.
CODES = {signal.SIGTERM: (0, 75, 143, -15), signal.SIGKILL: (-9,)}
STOPS = (signal.SIGINT, signal.SIGTERM)
TRIES = 20  # of a moment that the process still sees


def kills(
    count: int,
    seed: int,
    failed: Path | None,
    say: Callable[[str], None],
    only: tuple[str, ...] = (),
) -> dict:
    """Ends `count` runs, of all commands in turn; returns how each ended and what failed.

    Args:
      failed: folder for what the runs that fail leave; None keeps nothing.
      only: names of commands, in place of all.
    """
    rng, faults = Random(seed), []
    ended: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="kills.") as scratch:
        folder = Path(scratch)
        tried = commands(folder)
        order = only or tuple(tried)
        sound = {name: undisturbed(tried[name], folder / f"sound-{name}") for name in order}
        for number in until_stopped(count):
            name, signal_sent = order[number % len(order)], _signal(number // len(order))
            place = folder / f"{number}-{name}"
            code, fault = _kill(tried[name], place, sound[name], signal_sent, rng)
            ended.setdefault(name, Counter())[f"{signal_sent.name} {code}"] += 1
            fault = fault or fault_after(tried[name], place, sound[name], code)
            if fault:
                faults.append({"command": name, "signal": signal_sent.name, "fault": fault})
                keep(place, failed, place.name)
            remove(place)
            say(f"kills: {number + 1} of {count}: {name} {signal_sent.name} {fault or 'held'}")
    return {
        "count": sum(sum(codes.values()) for codes in ended.values()),
        "seed": seed,
        "undisturbed_seconds": {name: round(each.seconds, 1) for name, each in sound.items()},
        "exit_codes": {name: dict(codes) for name, codes in ended.items()},
        "faults": faults,
        "summary": ", ".join(f"{name} {sum(codes.values())}" for name, codes in ended.items()),
    }


def until_stopped(count: int) -> Iterator[int]:
    """The numbers below `count`; Ctrl-C or SIGTERM ends them after the run in progress."""
    asked: list[int] = []
    before = {each: signal.signal(each, lambda number, _: asked.append(number)) for each in STOPS}
    try:
        yield from itertools.takewhile(lambda _: not asked, range(count))
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _kill(
    command: Command, place: Path, sound: Undisturbed, number: signal.Signals, rng: Random
) -> tuple[int, str | None]:
    """Ends a run that is alive; returns its exit code, and what was wrong about its end."""
    for _ in range(TRIES):
        remove(place)
        place.mkdir()
        running = command.start(place)
        alive = running.until(moment(rng, sound, running))
        if alive:
            running.process.send_signal(number)
        code, said = running.ended()
        finished = number == signal.SIGKILL and code == 0  # just before the signal: try again
        if alive and not finished:
            break
    if TRACEBACK in said or code not in CODES[number]:
        return code, f"ended with code {code}: {' '.join(said.split())[-300:]}"
    if running.left_behind():
        return code, "a process of the ended command went on"
    return code, None


def _signal(turn: int) -> signal.Signals:
    return (signal.SIGTERM, signal.SIGKILL)[turn % 2]
