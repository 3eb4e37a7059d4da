"""A set of two stories without faults, written into a folder, which tests then spoil."""

from pathlib import Path

import yaml

GLOBAL = (
    "A quiet harbour in the north on a cold morning, filmed with a still camera and soft light."
)
CAST = {
    "category": "long-gap",
    "tags": ["live-action", "weather"],
    "subjects": {"the mate": [1, 5]},
    "cuts": [45, 93, 141, 189],
}
GONE = {
    "kind": "person",
    "subject": "the cook",
    "look": ["a striped apron", "a copper earring"],
    "present": [1, 3],
    "away": 1,
    "return": 3,
    "described_again": False,
    "cuts": [45, 93, 141, 189],
}
SHOTS = """
On a wooden pier, the mate lifts both arms and calls toward a boat that is turning.
Wide shot, pale light on wet planks, gulls overhead.

Two children throw crumbs over a low wall while their father reads a folded letter.
Medium close-up, his collar turned up against the sharp wind.

A dog with wet fur runs along the stones and shakes itself beside an empty crate.
Low tracking angle, bright drops flying into the lens.

Nets hang from tall poles like curtains, and a lamp swings above a closed green door.
Static picture, deep blue shadows, one white moth circling.

Back at the ladder, the mate winds up a long rope and sits down on the last step.
Slow push in until only two hands remain.
"""
COOK_SHOTS = """
Steam fills a galley where the cook, a striped apron and a copper earring, stirs soup.
Camera at stove height, long spoons swinging from hooks.

Far outside, six oars rise and fall together as a narrow boat leaves a sandy bay.
Seen from high above, foam drawing a thin line.

The cook of the galley steps on deck with a kettle and pours tea for three sailors.
Shoulder to shoulder, they warm their fingers on tin mugs.

Clouds part over white cliffs, and thousands of birds take off from a single ledge.
Telephoto view, the whole wide frame suddenly alive with wings.

Evening turns every window of the little town to gold while a bell tower darkens.
Very long shot over calm water, nothing in a hurry.
"""


def story(shots: str) -> dict:
    """A story of the captions in `shots`, which are paragraphs."""
    return {
        "schema": "causalcine/story@1",
        "global": GLOBAL,
        "shots": [{"caption": " ".join(text.split()), "chunks": 4} for text in shots.split("\n\n")],
    }


def small_set(folder: Path) -> Path:
    """Writes the set; returns its file of labels."""
    (folder / "small").mkdir(parents=True)
    for name, shots in (("harbour", SHOTS), ("galley", COOK_SHOTS)):
        (folder / "small" / f"{name}.yaml").write_text(yaml.safe_dump(story(shots)))
    labels = {
        "schema": "causalcine/story-set@1",
        "name": "small",
        "licence": "CC-BY-4.0",
        "balance": {"away": {1: 1, None: 1}},
        "at_least": {"weather": 1},
        "stories": {"harbour": CAST, "galley": GONE},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(labels, sort_keys=False))
    return folder / "small.yaml"
