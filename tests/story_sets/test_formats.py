"""What other systems' formats can hold comes back from them as it was.

The readers here are written from the formats alone, not from the exporters.
"""

import csv
import json
from types import SimpleNamespace

import pytest
import yaml
from repository import ROOT

from causalcine_jax.__main__ import command
from causalcine_jax.errors import UsageError
from causalcine_jax.story import Shot, Story, Video
from causalcine_jax.story_sets import read_set
from causalcine_jax.story_sets.formats import export
from causalcine_jax.story_sets.story_set import LabelledStory

SET = ROOT / "stories" / "memory-100.yaml"
STRIDE = 4  # video frames per latent frame


@pytest.fixture(scope="module")
def stories():
    return read_set(SET)


def chunks_between(cuts, frames):
    """Chunks per shot of cuts on the grid 0, 9, 21, 33, ..."""
    edges = [0, *((cut + 3) // 12 for cut in cuts), (frames + 3) // 12]
    return [after - before for before, after in zip(edges, edges[1:])]


def as_story(global_caption, captions, cuts, frames):
    lengths = chunks_between(cuts, frames)
    shots = tuple(Shot(text, chunks=n) for text, n in zip(captions, lengths, strict=True))
    return Story(shots, global_caption, video=Video(fps=16))


def test_holocine_holds_a_whole_story(stories, tmp_path):
    export(stories, "holocine", tmp_path)
    for each in stories.stories:
        told = json.loads((tmp_path / f"{each.name}.json").read_text("utf-8"))
        assert told["fps"] == 16
        # HoloCine moves frames that are not 4t + 1; ours all are, so that cuts stay in place.
        assert all(frame % STRIDE == 1 for frame in (*told["shot_cut_frames"], told["num_frames"]))
        assert each.story == as_story(
            told["global_caption"],
            told["shot_captions"],
            told["shot_cut_frames"],
            told["num_frames"],
        )


def test_shotstream_holds_a_whole_story(stories, tmp_path):
    export(stories, "shotstream", tmp_path)
    with open(tmp_path / "stories.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(stories.stories)
    for each, row in zip(stories.stories, rows, strict=True):
        told = json.loads((tmp_path / row["json_path"]).read_text("utf-8"))
        count, ranges = int(row["shot_num_from_caption"]), json.loads(row["frame_number"])
        assert [end for _, end in ranges[:-1]] == [begin for begin, _ in ranges[1:]]
        captions = [told[f"shot{number}"] for number in range(1, count + 1)]
        cuts = [begin for begin, _ in ranges[1:]]
        assert each.story == as_story(told["global_caption"], captions, cuts, ranges[-1][1])


def test_longlive_holds_prompts_and_cuts(stories, tmp_path):
    export(stories, "longlive", tmp_path)
    found = {}
    for file in tmp_path.glob("*.yaml"):
        config = yaml.safe_load(file.read_text("utf-8"))
        switches = [int(frame) for frame in config["switch_frame_indices"].split(",")]
        for line in (tmp_path / config["data_path"]).read_text("utf-8").splitlines():
            told = json.loads(line)
            found[told["name"]] = (told["prompts"], switches, config["num_output_frames"])
    assert set(found) == {each.name for each in stories.stories}
    for each in stories.stories:
        prompts, switches, frames = found[each.name]
        film = each.story.resolve()
        assert prompts == [shot.prompt for shot in film.shots]
        assert frames == 60
        # The first latent frame is one video frame, each later one is four.
        assert [STRIDE * (latent - 1) + 1 for latent in switches] == list(film.cut_frames)


def test_longlive2_holds_prompts_and_cuts_to_the_nearest_chunk(stories, tmp_path):
    export(stories, "longlive2", tmp_path)
    for each in stories.stories:
        folder, film = tmp_path / "caption" / each.name, each.story.resolve()
        prompts = [json.loads((folder / f"{n}.json").read_text("utf-8")) for n in range(5)]
        assert prompts == [{"caption": shot.prompt} for shot in film.shots]
        lengths = [int(n) for n in (folder / "shot_durations.txt").read_text().split()]
        assert len(lengths) == 5 and min(lengths) >= 1
        cuts = [sum(lengths[:n]) * 8 * STRIDE / 24 for n in range(1, 5)]
        late = [abs(cut - frame / 16) for cut, frame in zip(cuts, film.cut_frames, strict=True)]
        assert max(late) <= 8 * STRIDE / 24 / 2  # half a chunk


def test_the_command_writes_and_does_not_overwrite(tmp_path, capsys):
    command(["stories", str(SET), "--to", "holocine", "--out", str(tmp_path / "out")])
    assert "100 files for holocine" in capsys.readouterr().out
    with pytest.raises(UsageError, match="already"):
        command(["stories", str(SET), "--to", "holocine", "--out", str(tmp_path / "out")])
    with pytest.raises(UsageError, match=r"holds ferry-captain\.json, .* and 80 more already: "):
        command(["stories", str(SET), "--to", "holocine", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        command(["stories", str(SET), "--to", "holocine"])
    assert "--to and --out belong together" in capsys.readouterr().err


def test_an_export_that_was_stopped_goes_on_but_replaces_nothing_else(stories, tmp_path):
    files = export(stories, "longlive2", tmp_path)
    made = {file: file.read_bytes() for file in files}
    files[-1].unlink()
    (files[0].parent / "0.json.4711-0a1b2c3d.tmp").write_text("half a file")
    export(stories, "longlive2", tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == made
    files[-1].unlink()
    files[1].write_text("mine")
    with pytest.raises(UsageError, match="already: choose another --out"):
        export(stories, "longlive2", tmp_path)
    assert files[1].read_text() == "mine" and not files[-1].exists()


def test_a_storys_name_is_no_pattern(tmp_path):
    (tmp_path / "a[1].json").write_text("mine")
    one = LabelledStory("a[1]", Story((Shot("Mia waves.", chunks=1),)), {})
    with pytest.raises(UsageError, match=r"holds a\[1\]\.json already"):
        export(SimpleNamespace(stories=[one]), "holocine", tmp_path)
