"""What a benchmark's stories must fulfil, beyond being stories: every fault, by story.

    lengths     five shots of 3 to 6 chunks, 20 chunks in all; captions of 25 to 70 words
    tokens      a shot's prompt, and all of a story in one prompt, within UMT5's 512 tokens
    labels      what they say is what the captions say, as far as words can tell
    variety     no two stories alike, no opening used often, no subject twice
    balance     as the set declares it

Without UMT5's tokenizer, tokens are estimated: `TOKENS_PER_WORD` of each word, and one of each
punctuation mark. That is above what UMT5 needs for plain English, so it errs to the safe side.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from causalcine_jax.clock import FPS
from causalcine_jax.story import Story
from causalcine_jax.story_sets.returns import return_faults
from causalcine_jax.story_sets.story_set import LabelledStory, StorySet
from causalcine_jax.story_sets.words import shingles, words

SHOTS = 5
CHUNKS = 20  # 237 frames, 14.8 s at 16 frames per second
SHOT_CHUNKS = (3, 6)
CAPTION_WORDS = (25, 70)
GLOBAL_WORDS = (10, 50)
TEXT_LEN = 512  # UMT5's, in Wan2.1 and its descendants
TOKENS_PER_WORD = 1.6
ALIKE = 0.2  # of two captions' word triples that are the same
SAME_OPENINGS = 3  # stories whose captions may begin with the same four words

CountTokens = Callable[[str], int]


def estimated_tokens(text: str) -> int:
    """About how many tokens UMT5 makes of English text, rather too many than too few."""
    marks = len(re.findall(r"[^\w\s]", text))
    return round(TOKENS_PER_WORD * len(words(text))) + marks + 1


def set_lint(stories: StorySet, count_tokens: CountTokens = estimated_tokens) -> list[str]:
    """All faults of the set."""
    faults = []
    for each in stories.stories:
        found = [
            *_length_faults(each),
            *_token_faults(each.story, count_tokens),
            *_cast_faults(each),
            *return_faults(each),
        ]
        faults += [f"{each.name}: {fault}" for fault in found]
    return [*faults, *_variety_faults(stories.stories), *_balance_faults(stories)]


def _length_faults(each: LabelledStory) -> Iterator[str]:
    story, film = each.story, each.story.resolve()
    if len(story.shots) != SHOTS:
        yield f"has {len(story.shots)} shots, not {SHOTS}"
    if story.video.fps != FPS or film.chunks != CHUNKS:
        yield f"lasts {film.chunks} chunks at {story.video.fps} fps, not {CHUNKS} at {FPS}"
    least, most = SHOT_CHUNKS
    for number, shot in enumerate(story.shots, start=1):
        if shot.chunks is None or not least <= shot.chunks <= most:
            yield f"shot {number} must have {least} to {most} chunks, and no seconds"
    if list(film.cut_frames) != each.labels["cuts"]:
        yield f"cuts must be {list(film.cut_frames)}, not {each.labels['cuts']}"
    texts = [("global", story.global_caption, GLOBAL_WORDS)]
    texts += [(f"shot {n}", text, CAPTION_WORDS) for n, text in enumerate(each.captions, start=1)]
    for where, text, (fewest, longest) in texts:
        if not fewest <= (count := len(text.split())) <= longest:
            yield f"{where} has {count} words, not {fewest} to {longest}"


def _token_faults(story: Story, count_tokens: CountTokens) -> Iterator[str]:
    prompts = [(f"shot {n}", story.prompt(shot)) for n, shot in enumerate(story.shots, start=1)]
    # Bidirectional systems read the whole story at once, with a few words between the shots.
    joined = " [shot cut] ".join([story.global_caption, *(shot.caption for shot in story.shots)])
    for where, prompt in [*prompts, ("the whole story", joined)]:
        if (count := count_tokens(prompt)) > TEXT_LEN:
            yield f"{where} has {count} tokens, more than {TEXT_LEN}"


def _cast_faults(each: LabelledStory) -> Iterator[str]:
    """Whether the category fits who is seen where."""
    last = len(each.story.shots)
    for who, shots in each.subjects.items():
        if shots[-1] > last:
            yield f"{who} is in shot {shots[-1]} of {last}"
    gaps = {
        later - earlier - 1
        for shots in each.subjects.values()
        for earlier, later in zip(shots, shots[1:])
    } - {0}
    everywhere = tuple(range(1, last + 1))
    fits = {
        "reappearance": bool(gaps & {1, 2}),
        "scene-change": any(len(shots) >= 2 for shots in each.subjects.values()),
        "shot-reverse-shot": len(each.subjects) == 2 and _alternate(*each.subjects.values()),
        "viewpoint": everywhere in each.subjects.values(),
        "long-gap": (1, last) in each.subjects.values(),
    }
    category = each.labels.get("category")
    if category is not None and not fits[category]:
        yield f"its subjects {each.subjects} do not make a {category}"


def _alternate(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether at least three shots in a row show one of two subjects alone, in turns."""
    alone = dict.fromkeys(set(one) - set(other), 0) | dict.fromkeys(set(other) - set(one), 1)
    runs = ([alone.get(shot + step) for step in range(3)] for shot in alone)
    return any(None not in run and run[0] == run[2] != run[1] for run in runs)


def _variety_faults(stories: tuple[LabelledStory, ...]) -> Iterator[str]:
    subjects = Counter(who for each in stories for who in each.subjects)
    yield from (f"{count} stories are about {who}" for who, count in subjects.items() if count > 1)
    openings = Counter(
        opening
        for each in stories
        for opening in {tuple(words(text)[:4]) for text in each.captions}
    )
    for opening, count in openings.items():
        if count > SAME_OPENINGS:
            yield f"{count} stories have captions that begin with {' '.join(opening)!r}"
    yield from alike(stories)


def alike(stories: tuple[LabelledStory, ...]) -> Iterator[str]:
    """Captions of two stories with too many word triples in common."""
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    captions = [(each.name, n, text) for each in stories for n, text in enumerate(each.captions, 1)]
    sets = [shingles(text) for _, _, text in captions]
    common: Counter[tuple[int, int]] = Counter()
    for number, held in enumerate(sets):
        for shingle in held:
            common.update((other, number) for other in holders[shingle])
            holders[shingle].append(number)
    for (a, b), count in common.items():
        (one, shot, _), (two, other_shot, _) = captions[a], captions[b]
        share = count / min(len(sets[a]), len(sets[b]))
        if one != two and share >= ALIKE:
            yield f"{one} shot {shot} and {two} shot {other_shot} share {share:.0%} of word triples"


def _balance_faults(stories: StorySet) -> Iterator[str]:
    for label, wanted in stories.balance.items():
        found = Counter(each.labels.get(label) for each in stories.stories)
        if found != Counter(wanted):
            yield f"{label} is {dict(found)}, declared is {dict(wanted)}"
    tags = Counter(tag for each in stories.stories for tag in each.labels.get("tags", ()))
    for tag, fewest in stories.at_least.items():
        if tags[tag] < fewest:
            yield f"{tags[tag]} stories have the tag {tag}, declared are at least {fewest}"
