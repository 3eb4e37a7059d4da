"""Stories: reading, all faults at once, and the chunk grid, against hand-computed cuts."""

import json

import pytest

from causalcine_jax.clock import chunk_at, first_frame_of_chunk
from causalcine_jax.errors import UsageError
from causalcine_jax.story import Shot, Story, Video, read_story, write_story

GOOD = """\
schema: causalcine/story@1
global: >-
  A quiet story by
  the sea.
seed: 7
video: {fps: 16, width: 160, height: 96}
shots:
  - {id: a, caption: "Mia the fox waves.", seconds: 3}
  - {caption: " The beach at night. ", chunks: 2}
"""


def story_from(text: str, tmp_path, suffix: str = ".yaml") -> Story:
    file = tmp_path / f"story{suffix}"
    file.write_text(text)
    return read_story(file)


def faults_of(text: str, tmp_path, suffix: str = ".yaml") -> str:
    with pytest.raises(UsageError) as error:
        story_from(text, tmp_path, suffix)
    return str(error.value)


def test_yaml_reads_into_a_story(tmp_path):
    story = story_from(GOOD, tmp_path)
    assert story == Story(
        (Shot("Mia the fox waves.", seconds=3, id="a"), Shot("The beach at night.", chunks=2)),
        global_caption="A quiet story by the sea.",
        seed=7,
        video=Video(16, 160, 96),
    )
    assert [shot.prompt for shot in story.resolve().shots] == [
        "A quiet story by the sea. Mia the fox waves.",
        "A quiet story by the sea. The beach at night.",
    ]


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_written_stories_read_back_equal(tmp_path, suffix):
    story = Story(
        (Shot("Zoë — “hi”", seconds=1.5), Shot("no: yes", chunks=1, id="end")),
        "A: b # c",
        seed=3,
        negative="blur",
    )
    write_story(story, tmp_path / f"s{suffix}")
    assert read_story(tmp_path / f"s{suffix}") == story


def test_chunk_grid():
    assert [first_frame_of_chunk(c) for c in range(5)] == [0, 9, 21, 33, 45]
    # Midpoints between boundaries: 4.5, 15, 27. A tie goes to the earlier boundary.
    assert [chunk_at(f) for f in (0, 4, 4.5, 5, 9, 14, 15, 16, 21, 26, 28)] == [
        0,
        0,
        0,
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        3,
    ]


def test_five_shots_of_three_seconds_fill_237_frames():
    resolved = Story(tuple(Shot(f"shot {i}", seconds=3) for i in range(5))).resolve()
    assert [s.chunks for s in resolved.shots] == [4, 4, 4, 4, 4]
    assert resolved.cut_frames == (45, 93, 141, 189) and resolved.asked_cut_frames == (
        48,
        96,
        144,
        192,
    )
    assert resolved.frames == 237 and resolved.chunks == 20
    assert resolved.shot_of_chunk == (0,) * 4 + (1,) * 4 + (2,) * 4 + (3,) * 4 + (4,) * 4


def test_cuts_are_snapped_one_by_one_so_rounding_errors_do_not_add_up():
    # Asked cuts at 16, 32, 48, 64, 80; boundaries at 9, 21, 33, 45, 57, 69, 81.
    resolved = Story(tuple(Shot("x", seconds=1) for _ in range(5))).resolve()
    assert resolved.cut_frames == (21, 33, 45, 69) and resolved.frames == 81
    assert [s.chunks for s in resolved.shots] == [2, 1, 1, 2, 1]
    assert "shot 's2': 1 s asked, 0.75 s on the chunk grid (1 chunk)" in resolved.snapped()


def test_chunks_are_exact_and_every_shot_lasts_a_chunk():
    resolved = Story((Shot("x", chunks=2), Shot("y", seconds=0.01), Shot("z", chunks=1))).resolve()
    assert [(s.first_chunk, s.chunks, s.first_frame, s.frames) for s in resolved.shots] == [
        (0, 2, 0, 21),
        (2, 1, 21, 12),
        (3, 1, 33, 12),
    ]
    assert [line.split(":")[0] for line in resolved.snapped()] == ["shot 's2'"]


def test_all_faults_are_reported_together(tmp_path):
    message = faults_of(
        """\
schema: causalcine/story@2
globl: x
seed: -1
video: {fps: 16.0, width: 100, hieght: 96}
shots:
  - {id: a, capton: x, seconds: 1}
  - {id: a, caption: "  ", seconds: 0}
  - {caption: 3, seconds: 1, chunks: 1}
  - {caption: x}
  - {caption: x, seconds: .nan}
  - {caption: x, chunks: 1.5}
  - just text
""",
        tmp_path,
    )
    for fault in (
        "unknown key 'globl', did you mean 'global'?",
        "schema must be 'causalcine/story@1', not 'causalcine/story@2'",
        "seed must be a whole number from 0 to 4294967295, not -1",
        "video: fps must be a whole number from 1 to 240, not 16.0",
        "video: width must be a positive multiple of 16 pixels, not 100",
        "video: unknown key 'hieght', did you mean 'height'?",
        "video: give both width and height",
        "shot 1: unknown key 'capton', did you mean 'caption'?",
        "shot 1: has no caption",
        "shot 2: the caption is empty",
        "shot 2: seconds must be a number above 0 and at most 3600, not 0",
        "shot 3: caption must be text, not a number",
        "shot 3: give seconds or chunks, not both",
        "shot 4: has no duration, give seconds or chunks",
        "shot 5: seconds must be a number above 0 and at most 3600, not nan",
        "shot 6: chunks must be a whole number from 1 to 4800, not 1.5",
        "shot 7 must be a mapping with the keys id, caption, seconds, chunks, seed, not text",
        "two shots have the id 'a'",
    ):
        assert fault in message


def test_a_given_id_may_not_equal_another_shots_default_id(tmp_path):
    shots = "[{caption: x, chunks: 1}, {id: s1, caption: y, chunks: 1}]"
    text = f"schema: causalcine/story@1\nshots: {shots}"
    assert "two shots have the id 's1'" in faults_of(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "suffix", "fault"),
    [
        (
            "schema: causalcine/story@1\nseed: 1\nseed: 2\nshots: []",
            ".yaml",
            "the key 'seed' is given twice",
        ),
        (
            '{"shots": [{"caption": "a", "caption": "b"}]}',
            ".json",
            "the key 'caption' is given twice",
        ),
        ("a: [", ".yaml", "not valid YAML"),
        ("{", ".json", "not valid JSON"),
        (
            "",
            ".yaml",
            "must be a mapping with the keys schema, global, seed, negative, video, shots, "
            "not nothing",
        ),
        (
            "schema: causalcine/story@1",
            ".yaml",
            "shots must be a list of at least one shot, which is missing",
        ),
        (
            "schema: causalcine/story@1\nshots: []",
            ".yaml",
            "shots must be a list of at least one shot, not an empty one",
        ),
        ("x: !!python/object/apply:os.getcwd []", ".yaml", "not valid YAML"),
    ],
)
def test_files_that_are_not_stories(tmp_path, text, suffix, fault):
    message = faults_of(text, tmp_path, suffix)
    assert fault in message and str(tmp_path) in message and "\n" not in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        read_story(tmp_path / "none.yaml")


def test_stories_made_in_python_are_checked_too():
    with pytest.raises(UsageError, match="shot 1: the caption is empty; shot 1: seconds must be"):
        Story((Shot("", seconds=-1),))


def test_json_is_what_to_dict_returns(tmp_path):
    story = Story((Shot("x", chunks=1),))
    write_story(story, tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text()) == story.to_dict()


@pytest.mark.parametrize("key", ["global", "negative", "caption", "id"])
def test_texts_that_no_model_reads_are_refused_before_they_are_tokenized(key):
    long = "x" * 20_001
    shot = {"caption": "Mia waves.", "chunks": 1}
    data = {"schema": "causalcine/story@1", "shots": [shot]}
    (shot if key in ("caption", "id") else data)[key] = long
    with pytest.raises(UsageError, match="has 20,001 characters, at most 20,000 are read"):
        Story.from_dict(data)
