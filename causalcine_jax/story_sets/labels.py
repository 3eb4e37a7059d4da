"""The schema of a story set's file: what is said of the set, and of each story.

    schema: causalcine/story-set@1
    name: memory-100                       the folder beside the file holds NAME.yaml per story
    licence: CC-BY-4.0
    balance: {away: {1: 34, 2: 33, 3: 33}} how many stories have each value of a label
    at_least: {craft: 15}                  how many stories have a tag, at least
    stories:
      ferry-captain: {kind: person, subject: the captain, ...}

Shots are numbered from 1. Every story has `cuts`, the video frames where its shots after the first
begin. Beside that it has one of two kinds of label:

    category, tags, subjects     who is seen in which shots, several of them
    kind, subject, look, present, away, return, described_again     one subject, gone for a while
"""

from collections.abc import Mapping
from typing import Any

from causalcine_jax.errors import nearest, shown

SCHEMA = "causalcine/story-set@1"
SET_KEYS = ("schema", "name", "licence", "balance", "at_least", "stories")
SHARED = {"cuts": list}
CAST_LABELS = {"category": str, "tags": list, "subjects": dict, **SHARED}
RETURN_LABELS = {
    "kind": str,
    "subject": str,
    "look": list,
    "present": list,
    "away": int,
    "return": int,
    "described_again": bool,
    **SHARED,
}
CATEGORIES = ("reappearance", "scene-change", "shot-reverse-shot", "viewpoint", "long-gap")
KINDS = ("person", "animal", "object")
STYLES = ("live-action", "animation")
TAGS = (
    *STYLES, "child", "adult", "elder", "crowd", "animal", "craft", "family", "fantasy", "food",
    "music", "nature", "period", "science", "sport", "travel", "weather", "work",
)  # fmt: skip


def set_faults(data: Any) -> list[str]:
    """Every reason why the plain data `data` is not a story set; empty if it is one."""
    if not isinstance(data, Mapping):
        return [f"must be a mapping with the keys {', '.join(SET_KEYS)}"]
    faults = [
        f"unknown key {shown(key)}, {nearest(str(key), SET_KEYS)}"
        for key in data
        if key not in SET_KEYS
    ]
    if data.get("schema") != SCHEMA:
        faults.append(f"schema must be '{SCHEMA}', not {shown(data.get('schema'))}")
    for key in ("name", "licence"):
        if not isinstance(data.get(key), str) or not data[key].strip():
            faults.append(f"{key} must be text, not {shown(data.get(key))}")
    balance, at_least = data.get("balance", {}), data.get("at_least", {})
    if not isinstance(balance, Mapping) or not all(map(_counts, balance.values())):
        faults.append(f"balance must map labels to values to counts, not {shown(balance)}")
    else:
        listed = {**CAST_LABELS, **RETURN_LABELS}
        faults += [
            f"balance counts the values of one label each, and {shown(label)} is a list or mapping"
            for label in balance
            if listed.get(label) in (list, dict)
        ]
    if not _counts(at_least):
        faults.append(f"at_least must map tags to counts, not {shown(at_least)}")
    stories = data.get("stories")
    if not isinstance(stories, Mapping) or not stories:
        return [*faults, "stories must map the name of each story to its labels"]
    for name, labels in stories.items():
        if not isinstance(name, str):
            faults.append(f"the name of a story must be text: write '{name}' in quotes")
        faults += [f"{name}: {fault}" for fault in label_faults(labels)]
    return faults


def label_faults(labels: Any) -> list[str]:
    """What is wrong with one story's labels: keys and types, then values."""
    if not isinstance(labels, Mapping):
        return [f"its labels must be a mapping, not {shown(labels)}"]
    wanted = RETURN_LABELS if "subject" in labels else CAST_LABELS
    faults = [
        f"unknown label {shown(key)}, {nearest(str(key), wanted)}"
        for key in labels
        if key not in wanted
    ]
    for key, kind in wanted.items():
        value = labels.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or value == "":
            faults.append(f"{key} must be of type {kind.__name__}, not {shown(value)}")
    if faults:
        return faults
    if wanted is RETURN_LABELS:
        return [
            *_choice_faults("kind", [labels["kind"]], KINDS),
            *_shots_faults("present", labels["present"]),
            *([] if _texts(labels["look"]) else ["look must name at least one trait, as text"]),
        ]
    styles = [tag for tag in labels["tags"] if tag in STYLES]
    return [
        *_choice_faults("category", [labels["category"]], CATEGORIES),
        *_choice_faults("tag", labels["tags"], TAGS),
        *([] if len(styles) == 1 else [f"tags must hold one of {', '.join(STYLES)}"]),
        *([] if labels["subjects"] else ["subjects must name who is seen in which shots"]),
        *(
            fault
            for who, shots in labels["subjects"].items()
            for fault in _shots_faults(str(who), shots)
        ),
    ]


def shots_of_subjects(labels: Mapping[str, Any]) -> Mapping[str, list[int]]:
    """Who is seen in which shots, counted from 1, by labels without faults."""
    if "subject" in labels:
        return {labels["subject"]: labels["present"]}
    return labels["subjects"]


def _counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(n, int) for n in value.values())


def _texts(values: list) -> bool:
    return bool(values) and all(isinstance(value, str) and value for value in values)


def _choice_faults(what: str, values: list, known: tuple[str, ...]) -> list[str]:
    return [
        f"unknown {what} {shown(value)}, {nearest(str(value), known)}"
        for value in values
        if value not in known
    ]


def _shots_faults(what: str, shots: Any) -> list[str]:
    rising = (
        isinstance(shots, list)
        and bool(shots)
        and all(isinstance(shot, int) and shot >= 1 for shot in shots)
        and shots == sorted(set(shots))
    )
    return [] if rising else [f"{what} must list shots from 1 in order, not {shown(shots)}"]
