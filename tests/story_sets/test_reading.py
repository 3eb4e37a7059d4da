"""What `--stories` takes and refuses, the same for films and for their measures."""

import json
import re

import pytest
import yaml
from small_story_set import small_set

from causalcine_jax.errors import UsageError
from causalcine_jax.evaluation.films.stories import film_stories
from causalcine_jax.film_folder.film_set import recipes
from causalcine_jax.film_folder.record import read_recipe
from causalcine_jax.story_schema import SCHEMA
from causalcine_jax.story_sets.reading import read_stories
from causalcine_jax.utils import plain_data

READERS = pytest.mark.parametrize("read", [recipes, film_stories])


def story(caption="Mia waves.", **others):
    return {"schema": SCHEMA, "shots": [{"caption": caption, "chunks": 2}], **others}


def written(folder, data, name="stories.json"):
    (folder / name).write_text(json.dumps(data))
    return folder / name


def test_lines_of_jsonl_end_at_line_feeds_only(tmp_path):
    """U+2028, U+2029 and U+0085 may stand inside of JSON's strings."""
    captions = [f"Mia{mark}waves." for mark in "\u2028\u2029\x85"]
    lines = [
        json.dumps(story(caption, id=str(n)), ensure_ascii=False)
        for n, caption in enumerate(captions)
    ]
    file = tmp_path / "stories.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    read = [told.told["shots"][0]["caption"] for told in read_stories(file)]
    assert read == captions


def test_jsonl_has_the_faults_of_other_files(tmp_path, monkeypatch):
    file = tmp_path / "stories.jsonl"
    file.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is not text in UTF-8"):
        read_stories(file)
    monkeypatch.setattr(plain_data.read_text, "__defaults__", (10, ""))
    file.write_text(json.dumps(story(id="a")))
    with pytest.raises(UsageError, match="has more than 10 bytes"):
        read_stories(file)


@READERS
def test_a_labels_file_with_another_schema_is_told_its_faults(tmp_path, read):
    labels = small_set(tmp_path)
    data = yaml.safe_load(labels.read_text()) | {"schema": "causalcine/story-set@2"}
    labels.write_text(yaml.safe_dump(data))
    with pytest.raises(UsageError, match=r"story-set@1', not .*story-set@2"):
        read(labels)


@READERS
def test_many_stories_may_lie_beside_the_schema_of_one(tmp_path, read):
    for many in ([story(id="a")], {"a": story()}):
        assert list(read(written(tmp_path, {"schema": SCHEMA, "stories": many}))) == ["a"]


def test_film_story_says_that_a_set_is_one(tmp_path):
    with pytest.raises(UsageError, match="is a set of stories: film --stories films it"):
        read_recipe(written(tmp_path, {"stories": [story(id="a")]}))


@READERS
def test_a_mistyped_shots_is_told(tmp_path, read):
    data = story(title="Waves")
    data["shotss"] = data.pop("shots")
    for told in (data, {key: value for key, value in data.items() if key != "schema"}):
        with pytest.raises(UsageError, match="unknown key 'shotss', did you mean 'shots'"):
            read(written(tmp_path, told))


@READERS
def test_what_films_are_measured_by_is_checked_before_they_are_made(tmp_path, read):
    told = story()
    told["shots"][0]["characters"] = "Mia"
    with pytest.raises(UsageError, match="shot 1: characters must be a list of names, not 'Mia'"):
        read(written(tmp_path, told))
    labels = small_set(tmp_path)
    data = yaml.safe_load(labels.read_text())
    data["stories"]["galley"]["present"] = [1, 6]
    labels.write_text(yaml.safe_dump(data))
    with pytest.raises(UsageError, match="the cook in shot 6, and its last shot is 5"):
        read(labels)


@pytest.mark.parametrize("name", ["", "..", ".waves", "a/b", "a\\b", "a\0b", "\ud800", 201 * "w"])
def test_a_name_that_is_no_name_of_a_file_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot name a film's file: rename the story"):
        read_stories(written(tmp_path, {"stories": {name: story()}}))


def test_the_longest_name_is_read(tmp_path):
    (told,) = read_stories(written(tmp_path, {"stories": {200 * "w": story()}}))
    assert told.name == 200 * "w"


def test_names_are_printed_escaped(tmp_path):
    name = "\x1b[2Jwaves"
    with pytest.raises(UsageError, match=re.escape(r"two stories are called '\x1b[2Jwaves'")):
        read_stories(written(tmp_path, [story(id=name), story(id=name)]))
    (told,) = read_stories(written(tmp_path, {name: story()}))
    assert told.where.endswith(r", \x1b[2Jwaves")
