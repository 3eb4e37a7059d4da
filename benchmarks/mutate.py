"""Seeded mutations of files: of any file's bytes, and of the values of documents.

Each takes a `random.Random`, so a seed makes the same mutation again.
"""

import copy
import json
from random import Random
from typing import Any

EDGES = (b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\n")
MOST_CHANGES = 8
# Python prints no integer of more digits, so these are put into the text afterwards.
DIGITS = {"@5000 digits@": "9" * 5000, "@infinity@": "1e999", "@nan@": "NaN"}
RUBBISH: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 2**31, 2**63, 10**30, -(10**12), 0.5, -0.0, 1e308),
    *("", " ", "x" * 10_000, "\x1b[2J\x07", "../../x", "\ud800", "\x00", "Лиса 🦊", "2024-01-01"),
    *([], {}, [[[[[]]]]], [None], {"a": {"a": {"a": {}}}}, list(range(1000))),
    *DIGITS,
)
YAML_LINES = (
    "seed: 2024-01-01",
    "seed: !!int rubbish",
    'seed: !!bool "abc"',
    "seed: !!python/object/apply:os.getcwd []",
    f"seed: {'9' * 5000}",
    "seed: .nan",
    "seed: .inf",
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
    "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\nseed: *f",
    "seed: &s [*s]",
    "<<: [1, 2]",
    "? [a, b]\n: 1",
    "\tseed: 1",
    "---",
    "...",
    "%YAML 9.9",
    "seed: " + "[" * 500,
    '"\\e[2J": 1',
    "seed: 0o777",
    "seed: 1_000_000",
    "seed: 190:20:30",
)


def mutated_bytes(content: bytes, rng: Random) -> bytes:
    """`content` with 1 to MOST_CHANGES changes: flips, cuts, copies, insertions, edge values."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, MOST_CHANGES)):
        at = rng.randrange(len(changed) + 1)
        span = min(len(changed) - at, 1 << rng.randrange(12))
        move = rng.randrange(7)
        if move == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif move == 1 and rng.random() < 0.3:
            del changed[at:]
        elif move == 2:
            del changed[at : at + span]
        elif move == 3:
            changed[at:at] = changed[at : at + span]
        elif move == 4:
            changed[at : at + span] = rng.randbytes(span)
        elif move == 5:
            changed[at:at] = rng.choice(EDGES) * rng.randint(1, 64)
        else:
            edge = rng.choice(EDGES)
            changed[at : at + len(edge)] = edge
    return bytes(changed)


def mutated_json(document: Any, rng: Random) -> bytes:
    """A JSON text of the document with some values replaced, removed, renamed or repeated."""
    changed = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        changed = _mutated_value(changed, rng)
    text = json.dumps(changed)
    for mark, digits in DIGITS.items():
        text = text.replace(json.dumps(mark), digits)
    return (b"\xef\xbb\xbf" if rng.random() < 0.05 else b"") + text.encode("utf-8")


def mutated_yaml(text: str, rng: Random) -> bytes:
    """A YAML text with lines replaced, removed, repeated, or hostile ones put in."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        at, move = rng.randrange(len(lines) + 1), rng.randrange(4)
        if move == 0:
            lines.insert(at, rng.choice(YAML_LINES))
        elif move == 1:
            del lines[at : at + 1]
        elif move == 2:
            lines[at:at] = lines[at : at + rng.randint(1, 4)]
        elif at < len(lines):
            key = lines[at].partition(":")[0]
            lines[at] = f"{key}: {rng.choice(YAML_LINES).partition(': ')[2]}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _mutated_value(document: Any, rng: Random) -> Any:
    places = list(_places(document))
    if not places or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(RUBBISH))
    holder, key = rng.choice(places)
    move = rng.randrange(6)
    if move == 0:
        del holder[key]
    elif move == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "\x1b[2J", str(key) + "s", str(key)[:-1]))] = holder.pop(key)
    elif move == 2 and isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice((1, 100)))
    elif move == 3:
        holder[key] = copy.deepcopy(rng.choice(places)[0])
    else:
        holder[key] = copy.deepcopy(rng.choice(RUBBISH))
    return document


def _places(value: Any):
    """Yields (holder, key) of every value below."""
    if not isinstance(value, dict | list):
        return
    for key, below in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        yield from _places(below)
