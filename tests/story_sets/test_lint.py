"""Each rule of the linter finds the fault that it is there for, and a sound set has none."""

import copy

import pytest
import yaml
from small_story_set import small_set

from causalcine_jax.__main__ import command
from causalcine_jax.errors import UsageError
from causalcine_jax.story_sets import read_set
from causalcine_jax.story_sets.lint import estimated_tokens, set_lint
from causalcine_jax.story_sets.story_set import check_hashes, write_hashes


@pytest.fixture
def path(tmp_path):
    return small_set(tmp_path)


def change(path, name, edit):
    """Rewrites a YAML file of the set after `edit` of its data: "" is the file of labels."""
    file = path.with_suffix("") / f"{name}.yaml" if name else path
    data = yaml.safe_load(file.read_text())
    edit(data)
    file.write_text(yaml.safe_dump(copy.deepcopy(data), sort_keys=False))


def caption(shot, old, new):
    def edit(story):
        assert old in story["shots"][shot - 1]["caption"]
        story["shots"][shot - 1]["caption"] = story["shots"][shot - 1]["caption"].replace(old, new)

    return edit


def label(name, **values):
    return lambda data: data["stories"][name].update(values)


def test_a_sound_set_has_no_fault(path):
    assert set_lint(read_set(path)) == []


@pytest.mark.parametrize(
    ("name", "edit", "fault"),
    [
        ("harbour", lambda s: s["shots"].pop(), "harbour: has 4 shots, not 5"),
        ("harbour", lambda s: s["shots"][0].update(chunks=5), "lasts 21 chunks at 16 fps, not 20"),
        ("harbour", lambda s: s["shots"][0].update(chunks=7), "shot 1 must have 3 to 6 chunks"),
        ("harbour", lambda s: s.update({"global": "A harbour."}), "global has 2 words, not 10"),
        ("harbour", lambda s: s["shots"][1].update(caption="Rain."), "shot 2 has 1 words, not 25"),
        ("", label("harbour", cuts=[45, 93, 141, 190]), "cuts must be [45, 93, 141, 189], not"),
        ("", label("harbour", category="viewpoint"), "do not make a viewpoint"),
        ("", label("harbour", category="reappearance"), "do not make a reappearance"),
        ("", label("harbour", category="shot-reverse-shot"), "do not make a shot-reverse-shot"),
        ("", label("harbour", subjects={"the mate": [1, 6]}), "the mate is in shot 6 of 5"),
        ("", label("harbour", subjects={"the cook": [1, 5]}), "2 stories are about the cook"),
        ("", label("galley", present=[1, 3, 5]), "present must have one absence"),
        ("", label("galley", away=2), "away and return must be 1 and 3"),
        ("", label("galley", described_again=True, **{"return": 9}), "return must be 1 and 3"),
        ("galley", lambda s: s["shots"][1].update(chunks=3), "is away for 3 chunks, fewer than 4"),
        ("galley", caption(2, "boat", "cook's boat"), "shot 2 names the cook, which is away"),
        ("galley", caption(3, "The cook", "He"), "shot 3 shows the subject and does not name"),
        ("galley", caption(3, "a kettle", "a copper kettle"), "shot 3 gives the look away: copper"),
        ("galley", caption(2, "oars", "striped apron oars"), "gives the look away: apron, striped"),
        ("galley", caption(1, "striped", "plain"), "shot 1 must describe a striped apron"),
        ("", label("galley", described_again=True), "shot 3 must describe a striped apron, a copp"),
        ("", lambda s: s["balance"].update(away={1: 2}), "away is {None: 1, 1: 1}, declared is {1"),
        ("", lambda s: s["at_least"].update(craft=3), "0 stories have the tag craft, declared are"),
    ],
)
def test_every_fault_is_found(path, name, edit, fault):
    change(path, name, edit)
    found = set_lint(read_set(path))
    assert any(fault in each for each in found), found


def test_a_caption_used_again_is_found(path):
    first = yaml.safe_load((path.with_suffix("") / "harbour.yaml").read_text())["shots"][3]
    change(path, "galley", lambda story: story["shots"][4].update(caption=first["caption"]))
    assert "harbour shot 4 and galley shot 5 share 100% of word triples" in set_lint(read_set(path))


def test_tokens_are_counted_by_what_is_given(path):
    assert estimated_tokens("A red fox, at night.") == round(1.6 * 5) + 2 + 1
    found = set_lint(read_set(path), lambda text: 513 if "[shot cut]" in text else 512)
    assert found == [
        f"{name}: the whole story has 513 tokens, more than 512" for name in ("harbour", "galley")
    ]


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (label("harbour", category="dream"), "harbour: unknown category 'dream', known: "),
        (label("harbour", tags=["weather"]), "harbour: tags must hold one of live-action"),
        (label("harbour", colour="red"), "harbour: unknown label 'colour'"),
        (label("galley", present=[3, 1]), "galley: present must list shots from 1 in order"),
        (label("galley", look=[3]), "galley: look must name at least one trait, as text"),
        (
            lambda data: data["balance"].update(away=3),
            "balance must map labels to values to counts",
        ),
        (
            lambda data: data.update(at_least=["craft"]),
            "at_least must map tags to counts, not ['cr",
        ),
        (lambda data: data["balance"].update(tags={"child": 3}), "'tags' is a list or mapping"),
        (
            lambda data: data["stories"].update({7: data["stories"]["galley"]}),
            "the name of a story must be text: write '7' in quotes",
        ),
        (label("galley", described_again="no"), "galley: described_again must be of type bool"),
        (lambda data: data.update(schema="other"), "schema must be 'causalcine/story-set@1'"),
        (lambda data: data["stories"].update(lost=data["stories"]["galley"]), "lost has labels"),
        (lambda data: data["stories"].pop("galley"), "galley.yaml has no labels"),
    ],
)
def test_labels_that_are_none_are_refused(path, edit, fault):
    change(path, "", edit)
    with pytest.raises(UsageError) as refused:
        read_set(path)
    assert fault in str(refused.value)


def test_the_command_prints_faults_a_line_each(path, capsys):
    write_hashes(read_set(path))
    command(["stories", str(path)])
    assert "small: 2 stories, 10 captions" in capsys.readouterr().out
    change(path, "", label("galley", away=2))
    with pytest.raises(UsageError, match="2 faults, see above"):
        command(["stories", str(path)])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_changed_file_does_not_fit_its_hash(path):
    stories = read_set(path)
    with pytest.raises(UsageError, match="does not fit"):
        check_hashes(stories)
    write_hashes(stories)
    check_hashes(stories)
    change(path, "galley", lambda story: story.update(seed=1))
    with pytest.raises(UsageError, match=r"small\.sha256 does not fit the files of small"):
        check_hashes(stories)
    stories.hashes.write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"small\.sha256 does not fit the files of small"):
        check_hashes(stories)
