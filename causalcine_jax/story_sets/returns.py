"""Whether a story of a subject that goes and returns says what its labels say.

The captions are read word by word: the subject's noun, and the traits of its look.

    first shot with it    its noun and all traits of its look
    shots of its absence  not its noun, and at most one word of a trait
    its return            all traits if `described_again`, else its noun and no word of a trait

What words cannot tell, such as a subject under another name, is for a reader to see.
"""

from collections.abc import Iterator

from causalcine_jax.story_sets.story_set import LabelledStory
from causalcine_jax.story_sets.words import names, words

SHORTEST_ABSENCE = 4  # chunks; CausalCine's attention window holds 3
TELLING = 4  # letters of a word that gives a trait away
COMMON = ("with", "over", "from", "into", "each", "both", "their", "like", "held", "made", "full")


def absences(present: tuple[int, ...]) -> list[tuple[int, int]]:
    """(the last shot before, the shot of return) of each absence between shots of `present`."""
    return [(a, b) for a, b in zip(present, present[1:]) if b - a > 1]


def return_faults(each: LabelledStory) -> Iterator[str]:
    """What labels and captions of such a story do not agree on; nothing for other stories."""
    labels = each.labels
    if "subject" not in labels:
        return
    gone = absences(tuple(labels["present"]))
    if len(gone) != 1 or labels["present"][-1] > len(each.captions):
        yield f"present must have one absence, not {labels['present']}"
        return
    ((before, back),) = gone
    if (labels["away"], labels["return"]) != (back - before - 1, back):
        yield f"away and return must be {back - before - 1} and {back}"
        return
    chunks = sum(shot.chunks or 0 for shot in each.story.shots[before : back - 1])
    if chunks < SHORTEST_ABSENCE:
        yield f"is away for {chunks} chunks, fewer than {SHORTEST_ABSENCE}"
    yield from _caption_faults(each, range(before + 1, back))


def _caption_faults(each: LabelledStory, absent: range) -> Iterator[str]:
    labels, noun = each.labels, each.labels["subject"].split()[-1]
    back, first = labels["return"], labels["present"][0]
    caption = dict(enumerate(each.captions, start=1))
    for shot in labels["present"]:
        if not names(caption[shot], noun):
            yield f"shot {shot} shows the subject and does not name the {noun}"
    for shot in absent:
        if names(caption[shot], noun):
            yield f"shot {shot} names the {noun}, which is away"
    for shot in (first, *([back] if labels["described_again"] else [])):
        if missing := [trait for trait in labels["look"] if _bare(trait) not in caption[shot]]:
            yield f"shot {shot} must describe {', '.join(missing)}"
    silent = {"the global caption": (each.story.global_caption, 2)}
    silent |= {f"shot {shot}": (caption[shot], 2) for shot in absent}
    if not labels["described_again"]:
        silent |= {f"shot {shot}": (caption[shot], 1) for shot in labels["present"] if shot >= back}
    for where, (text, most) in silent.items():
        for trait in labels["look"]:
            told = _telling(trait, labels["subject"]) & set(words(text))
            if len(told) >= most:
                yield f"{where} gives the look away: {', '.join(sorted(told))}"


def _bare(trait: str) -> str:
    """A trait without its article, which changes where a caption says "its" or "the"."""
    return trait.removeprefix("a ").removeprefix("an ").removeprefix("the ")


def _telling(trait: str, subject: str) -> set[str]:
    """The words that give a trait away, apart from the subject's own name."""
    long = {word for word in words(trait) if len(word) >= TELLING}
    return long - {*words(subject), *COMMON}
