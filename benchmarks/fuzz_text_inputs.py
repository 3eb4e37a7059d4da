"""Sound captions beside videos, story sets and measures of films, and mutations of them."""

import json
import shutil
from pathlib import Path
from random import Random

from benchmarks import REPOSITORY
from benchmarks.mutate_files import Kind, change_bytes, change_document, change_inside

SET = "memory-100"
STORIES = 3  # of the set, so that reading it takes no second
CAPTIONS: tuple[dict, ...] = (
    {"shot_captions": ["A fox waves.", "An owl."], "shot_cut_frames": [40], "license": "CC0"},
    {"global_caption": "A quiet film.", "shot1": "A fox.", "shot2": "An owl.", "source": "tt01"},
    {"captions": ["a", "b"], "frame_number": [[0, 81], [81, 162]], "caption": None},
    {"prompts": ["a", "b"], "switch_frame_indices": "21", "global": "A film."},
    {
        "story": {"global": "A film.", "shots": [{"caption": "A fox.", "seconds": 2.5}]},
        "resolved": {"cut_frames": [12]},
        "start": {"caption": "An owl."},
    },
)
TAGGED = "[Global Caption] A quiet film. [Per Shot Caption] A fox waves. [Shot Cut] An owl sleeps."


def text_kinds(folder: Path) -> dict[str, Kind]:
    """The kinds. Their sound files are written below `folder`."""
    captions = [folder / f"captions{number}.json" for number in range(len(CAPTIONS))]
    for file, told in zip(captions, CAPTIONS, strict=True):
        file.write_text(json.dumps(told))
    tagged, stories, measures = folder / "captions.txt", _set(folder / "set"), folder / "m.json"
    tagged.write_text(TAGGED)
    measures.write_text(json.dumps(_measures()))
    return {
        "captions": Kind(
            [*captions, tagged],
            lambda to, rng: change_document(to, rng, rng.choice(captions)),
            ".json",
        ),
        "tagged captions": Kind([tagged], lambda to, rng: change_bytes(to, rng, tagged), ".txt"),
        "story set": Kind([stories], lambda to, rng: _change_set(to, rng, stories)),
        "measures": Kind([measures], lambda to, rng: change_document(to, rng, measures), ".json"),
    }


def _change_set(to: Path, rng: Random, source: Path) -> str:
    """The labels half of the time, else a story or the file of hashes."""
    return change_inside(to, rng, source, (f"{SET}.yaml",) if rng.random() < 0.5 else ("",))


def _set(folder: Path) -> Path:
    """The first stories of a set of the repository."""
    import yaml

    from causalcine_jax.story_sets.story_set import read_set, write_hashes

    given = REPOSITORY / "stories" / SET
    labels = yaml.safe_load(given.with_suffix(".yaml").read_text("utf-8"))
    names = list(labels["stories"])[:STORIES]
    told = {"schema": labels["schema"], "name": SET, "licence": labels["licence"]}
    told |= {"stories": {name: labels["stories"][name] for name in names}}
    (folder / SET).mkdir(parents=True)
    (folder / f"{SET}.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    for name in names:
        shutil.copy(given / f"{name}.yaml", folder / SET)
    write_hashes(read_set(folder / f"{SET}.yaml"))
    return folder


def _measures() -> dict:
    """What `evaluate --films` leaves, as far as `--compare` and `gallery` read it."""
    from causalcine_jax.evaluation.films.measure_table import OF_RANGES

    film = {
        "story_sha256": "0" * 64,
        "sha256": "0" * 64,
        "aesthetic": 5.0,
        "cuts": {"sca": 0.9, "missed": 0.0, "extra": 1.0},
        "asked": {"means": dict.fromkeys(OF_RANGES, 0.5)},
    }
    return {
        "settings": {"every": 1, "cuts": "pixels", "dtype": "float32"},
        "per_film": {f"{seed}/{name}": {"story": name, **film} for seed in (0, 1) for name in "ab"},
        "bad": {"0/c": "cannot be read"},
        "without_film": ["d"],
    }
