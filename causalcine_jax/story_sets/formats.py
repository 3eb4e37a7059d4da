"""Story sets in the prompt files of other multi-shot systems.

    holocine     NAME.json: what HoloCine's run_inference takes, and the frames of the cuts
    shotstream   captions/NAME.json and stories.csv, whose ranges of frames are half open
    longlive     LongLive 1: CUTS.jsonl and CUTS.yaml for all stories that cut at the same frames
    longlive2    LongLive 2: caption/NAME/N.json and caption/NAME/shot_durations.txt

An exporter is a pure function of a set: the text of each file, by its path below --out. What a
format cannot hold is said in docs/benchmark.md.
"""

import csv
import glob
import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from causalcine_jax.errors import UsageError, disk_faults
from causalcine_jax.story import ResolvedStory
from causalcine_jax.story_sets.story_set import LabelledStory, StorySet
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.output import check_absent, one_writer

LONGLIVE2_CHUNK_SECONDS = 8 * 4 / 24  # 8 latent frames of 4 video frames each, 24 a second

Files = dict[str, str]


def holocine(stories: StorySet) -> Files:
    """Global text, captions, frames and cuts. HoloCine adds "This scene contains 5 shots."."""
    return {
        f"{each.name}.json": _json(
            {
                "global_caption": each.story.global_caption,
                "shot_captions": list(each.captions),
                "num_frames": film.frames,
                "shot_cut_frames": list(film.cut_frames),
                "fps": film.fps,
            }
        )
        for each, film in _films(stories)
    }


def shotstream(stories: StorySet) -> Files:
    """Global text, captions, and each shot's range of frames. Run it in the folder of the CSV."""
    files, table = {}, io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("shot_num_from_caption", "json_path", "frame_number"))
    for each, film in _films(stories):
        path = f"captions/{each.name}.json"
        captions = {f"shot{number}": text for number, text in enumerate(each.captions, start=1)}
        files[path] = _json({"global_caption": each.story.global_caption, **captions})
        ranges = [[shot.first_frame, shot.first_frame + shot.frames] for shot in film.shots]
        rows.writerow((len(film.shots), path, json.dumps(ranges)))
    return {"stories.csv": table.getvalue(), **files}


def longlive(stories: StorySet) -> Files:
    """A line of prompts per story; a file of lines and a config per list of cuts.

    LongLive switches prompts at latent frames, the same for all lines of a file.
    """
    same_cuts: dict[str, list[LabelledStory]] = defaultdict(list)
    frames: dict[str, int] = {}
    for each, film in _films(stories):
        cuts = ", ".join(str(shot.first_chunk * film.chunk_frames) for shot in film.shots[1:])
        same_cuts[cuts].append(each)
        length = film.chunks * film.chunk_frames
        if frames.setdefault(cuts, length) != length:
            raise UsageError(
                f"{each.name} has {length} latent frames, and a story with the same cuts "
                f"{frames[cuts]}: LongLive's config has one length for them"
            )
    files = {}
    for cuts, held in same_cuts.items():
        name = cuts.replace(", ", "-")
        files[f"{name}.jsonl"] = "".join(
            json.dumps({"prompts": _prompts(each), "name": each.name}, ensure_ascii=False) + "\n"
            for each in held
        )
        files[f"{name}.yaml"] = (
            f"data_path: {name}.jsonl\n"
            f"switch_frame_indices: {cuts}\n"
            f"num_output_frames: {frames[cuts]}\n"
        )
    return files


def longlive2(stories: StorySet) -> Files:
    """A folder of prompts per story, and the shots' lengths in LongLive 2's longer chunks."""
    files = {}
    for each, film in _films(stories):
        folder = f"caption/{each.name}"
        for number, prompt in enumerate(_prompts(each)):
            files[f"{folder}/{number}.json"] = _json({"caption": prompt})
        files[f"{folder}/shot_durations.txt"] = " ".join(map(str, _longlive2_chunks(film))) + "\n"
    return files


FORMATS: Mapping[str, Callable[[StorySet], Files]] = {
    "holocine": holocine,
    "shotstream": shotstream,
    "longlive": longlive,
    "longlive2": longlive2,
}


def export(stories: StorySet, name: str, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes the set's files in the format of that `name` into `out`; returns their paths.

    It goes on where it was stopped: files that already hold the same are in nobody's way, as long
    as others are missing.

    Raises:
      UsageError: `out` holds some of them already and `overwrite` is false, or is no folder.
    """
    files = FORMATS[name](stories)
    names = tuple(map(glob.escape, files))  # a story's name may hold [ or *
    with one_writer(out, names):
        if not overwrite and not _is_begun(out, files):
            check_absent(out, names)
        for path, text in files.items():
            write_text(out / path, text)
    return [out / path for path in files]


def _is_begun(out: Path, files: Files) -> bool:
    """Whether `out` holds some of the files, with the same text, and not all of them."""
    there = [path for path in files if (out / path).exists()]
    same = lambda path: (out / path).read_bytes() == files[path].encode()
    with disk_faults(f"cannot read {out}"):
        return len(there) < len(files) and all(map(same, there))


def _films(stories: StorySet) -> list[tuple[LabelledStory, ResolvedStory]]:
    return [(each, each.story.resolve()) for each in stories.stories]


def _prompts(each: LabelledStory) -> list[str]:
    return [each.story.prompt(shot) for shot in each.story.shots]


def _longlive2_chunks(film: ResolvedStory) -> list[int]:
    """Chunks per shot: each cut at the nearest boundary, each shot at least one chunk."""
    lengths, begin = [], 0
    for shot in film.shots:
        seconds = (shot.first_frame + shot.frames) / film.fps
        end = max(begin + 1, round(seconds / LONGLIVE2_CHUNK_SECONDS))
        lengths.append(end - begin)
        begin = end
    return lengths


def _json(data: dict) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
