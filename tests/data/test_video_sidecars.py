"""The files beside a video: captions, licence, and the film that it was cut from."""

import json
import shutil
from pathlib import Path

import pytest
from video_files import films_folder, shot_pictures, write_video

from causalcine_jax.data.video import probe
from causalcine_jax.data.video.captioning import Film, SourceVideo, captioned
from causalcine_jax.data.video.captions import Captions, Cuts, parse
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.manifest import Manifest, content_id
from causalcine_jax.data.video.parts import of_part
from causalcine_jax.data.video.reading import probed, scanned
from causalcine_jax.data.video.sidecars import Sidecars, found, read, shotstream_table, source_of
from causalcine_jax.data.video.windows import Piece, Window
from causalcine_jax.data.video.work import Work
from causalcine_jax.errors import UsageError


def test_text_files_longlive_folders_and_shotstream_tables(tmp_path):
    (tmp_path / "a.txt").write_text("A fox\nwaves. ")
    assert read(tmp_path / "a.txt") == Captions("A fox waves.")
    folder = tmp_path / "b"
    folder.mkdir()
    for number, text in enumerate("xyz"):
        (folder / f"{number}.json").write_text(json.dumps({"caption": text}))
    (folder / "shot_durations.txt").write_text("2 2 4")
    assert read(folder / "0.json") == Captions(
        "", ("x", "y", "z"), Cuts((0, 0.25, 0.5), "fractions")
    )
    (tmp_path / "c.json").write_text(
        json.dumps({"global_caption": "W", "shot1": "a", "shot2": "b"})
    )
    table = tmp_path / "all.csv"
    table.write_text(
        "shot_num_from_caption,json_path,video_path,frame_number\n"
        '2,c.json,c.mp4,"[[0, 81], [81, 162]]"\n'
    )
    told = Captions("W", ("a", "b"), Cuts((0, 81.0)))
    assert shotstream_table(table) == {(tmp_path / "c.mp4").resolve(): told}

    videos = [tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4")]
    (tmp_path / "lost.txt").write_text("nobody's")
    (tmp_path / "d.json").write_text("{")
    files = [file for file in sorted(tmp_path.rglob("*")) if file.is_file()]
    rejects = []
    beside = found(videos, files, rejects, tmp_path)
    captions = [beside[video].captions for video in videos]
    assert captions[0].whole == "A fox waves." and captions[1].shots == ("x", "y", "z")
    assert captions[2] == told and captions[3][0] == "bad captions"
    assert [(row["file"], row["kind"]) for row in rejects] == [
        ("lost.txt", "captions without a video")
    ]


def test_a_table_with_an_endless_field_is_named(tmp_path):
    (tmp_path / "all.csv").write_text(f"json_path\n{'x' * 140_000}\n")
    with pytest.raises(UsageError, match=r"all\.csv: cannot be read as a table of CSV: field"):
        shotstream_table(tmp_path / "all.csv")


def test_a_video_called_0_has_a_sidecar_of_its_own(tmp_path):
    told = {"shot_captions": ["A fox.", "An owl."], "shot_cut_frames": [12]}
    (tmp_path / "0.json").write_text(json.dumps(told))
    assert read(tmp_path / "0.json").shots == ("A fox.", "An owl.")


ABOUT = {"source": "one film", "licence": "CC-BY-4.0"}


def beside(folder: Path, name: str = "a.mp4") -> Sidecars:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    rejects = []
    told = found([folder / name], files, rejects, folder)[folder / name]
    assert not rejects
    return told


def test_licence_and_source_may_lie_beside_captions_of_any_kind(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ABOUT))
    assert beside(tmp_path) == Sidecars(None, "CC-BY-4.0", "one film")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.json").write_text('{"caption": "x"}')
    told = beside(tmp_path)
    assert (told.captions.shots, told.licence, told.source) == (("x",), "CC-BY-4.0", "one film")
    (tmp_path / "a.txt").write_text("A fox waves.")
    told = beside(tmp_path)
    assert (told.captions.whole, told.licence) == ("A fox waves.", "CC-BY-4.0")
    for file in ("a.json", "a.txt"):
        (tmp_path / file).unlink()
    (tmp_path / "a" / "1.json").write_text(json.dumps({"caption": "y", **ABOUT}))
    told = beside(tmp_path)
    assert (told.captions.shots, told.source) == (("x", "y"), "one film")


def test_a_film_made_here_keeps_the_source_that_stands_beside_its_story():
    told = parse({"story": {"global": "W", "shots": [{"caption": "a"}]}, **ABOUT}, "film.json")
    assert (told.licence, told.source) == ("CC-BY-4.0", "one film")


def test_captions_that_cannot_be_used_keep_their_source(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"shot_captions": "a", **ABOUT}))
    told = beside(tmp_path)
    assert told.captions[0] == "bad captions" and told.source == "one film"


def probed_videos(folder: Path, **options) -> tuple[list[SourceVideo], list[dict]]:
    work = Work(PrepareConfig(folder, folder.parent / "out", Path("model"), **options), False)
    files, told = probe.files_of(folder, folder.parent / "out")
    return probed(work, of_part(work, files), told), work.rejects


def test_of_two_copies_of_a_video_the_one_with_captions_is_taken(tmp_path):
    """Licence and source may stand beside the other."""
    folder = films_folder(tmp_path / "videos", 2)
    told = (folder / "film0.json").read_text()
    shutil.copy(folder / "film0.mp4", folder / "a copy.mp4")
    (folder / "a copy.json").write_text(json.dumps(ABOUT))
    plain = {name: value for name, value in json.loads(told).items() if name not in ABOUT}
    (folder / "film0.json").write_text(json.dumps(plain))
    videos, rejects = probed_videos(folder)
    assert [video.name for video in videos] == ["film0.mp4", "film1.mp4"]
    assert videos[0].captions and videos[0].captions.describe
    assert (videos[0].licence, videos[0].source) == ("CC-BY-4.0", "one film")
    assert [(row["file"], row["kind"]) for row in rejects] == [("a copy.mp4", "same file")]
    assert "its content is that of film0.mp4" in rejects[0]["reason"]


def test_clips_of_one_source_stay_together_where_a_captioner_describes_them(tmp_path):
    folder = films_folder(tmp_path / "videos", 4)
    for file in sorted(folder.glob("*.json"))[:3]:
        file.write_text(json.dumps(ABOUT))
    (folder / "film2.json").write_text(json.dumps({"shot_captions": "a", **ABOUT}))
    (folder / "film3.json").unlink()
    videos, rejects = probed_videos(folder, captioner="any", licence="CC0")
    assert [video.source for video in videos] == 3 * ["one film"] + [videos[3].sha256]
    assert [video.licence for video in videos] == 3 * ["CC-BY-4.0"] + ["CC0"]
    assert [(row["file"], row["kind"]) for row in rejects] == [("film2.mp4", "bad captions")]
    assert "the captioner is asked instead" in rejects[0]["reason"]


def test_the_path_may_name_the_source(tmp_path):
    for number, name in enumerate(("one/a.mp4", "one/b.mp4", "c.mp4")):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "videos" / name, shot_pictures([20], seed=number)[0])
    videos, _ = probed_videos(tmp_path / "videos", source_from="parent")
    assert {v.name: v.source for v in videos} == {
        "one/a.mp4": "one",
        "one/b.mp4": "one",
        "c.mp4": next(v.sha256 for v in videos if v.name == "c.mp4"),
    }
    assert source_of("x/tt123_scene4.mp4", r"tt\d+") == "tt123"
    assert source_of("x/tt123_scene4.mp4", r"(\w+)_scene") == "tt123"
    assert source_of("x/else.mp4", r"tt\d+") == ""
    for useless in (r"tt\d+", ""):
        with pytest.raises(UsageError, match="gives none of 3 files a source, such as"):
            probed_videos(tmp_path / "videos", source_from=useless)
    for file in ("one/a", "one/b", "c"):  # no video needs the expression
        (tmp_path / "videos" / f"{file}.json").write_text(json.dumps({"source": "told"}))
    videos, _ = probed_videos(tmp_path / "videos", source_from=r"tt\d+")
    assert {v.source for v in videos} == {"told"}
    with pytest.raises(UsageError, match=r"source_from '.*' is no expression"):
        PrepareConfig(tmp_path / "videos", tmp_path / "out", Path("model"), source_from="(")


def test_videos_directly_in_the_folder_stay_their_own_sources(tmp_path):
    (tmp_path / "videos").mkdir()
    for seed, name in enumerate("ab"):
        write_video(tmp_path / "videos" / f"{name}.mp4", shot_pictures([20], seed=seed)[0])
    videos, _ = probed_videos(tmp_path / "videos", source_from="parent")
    assert [v.source for v in videos] == [v.sha256 for v in videos]


def test_captions_that_cut_a_video_of_variable_rate_stay_with_their_shots(tmp_path):
    """By the mean rate, the second shot would begin at 3.1 s."""
    folder = tmp_path / "videos"
    folder.mkdir()
    seconds = [*(n / 16 for n in range(20)), *(1.25 + n / 4 for n in range(20))]
    write_video(folder / "a.mp4", shot_pictures([20, 10, 10])[0], seconds=seconds)
    told = {"shot_captions": ["a", "b", "c"], "shot_cut_frames": [20, 30]}
    (folder / "a.json").write_text(json.dumps(told))
    config = PrepareConfig(folder, tmp_path / "out", Path("model"), detector="captions")
    work = Work(config, progress=False)
    files, captions = probe.files_of(folder, tmp_path / "out")
    (video,) = scanned(work, probed(work, of_part(work, files), captions))
    assert [(shot["first"], shot["stop"]) for shot in video.scan["shots"]][1] == (20, 60)
    for shot, caption in enumerate("abc"):
        row = video.scan["shots"][shot]
        film = Film(video, Window("0", (Piece(shot, row["first"], row["first"] + 9, 1),)))
        ((found_one, reason),) = captioned([film], None, "", Manifest(tmp_path / "c"), (16, 32))
        assert reason is None and found_one.captions.shots == (caption,)


def test_the_licence_that_a_captioner_names_is_kept_for_the_next_run(tmp_path):
    scan = {"shots": [{}], "frames": 9}
    video = SourceVideo(Path("a.mp4"), "a.mp4", {"sha256": "0"}, None, scan)
    film = Film(video, Window("0", (Piece(0, 0, 9, 1),)))
    answer = Captions("W", ("a",), licence="CC0")
    asked = content_id("captions", "name", film.window.id)
    for captioner in (lambda requests: iter([(asked, answer)]), lambda requests: iter([])):
        manifest = Manifest(tmp_path / "captions.jsonl")
        ((told, reason),) = captioned([film], captioner, "name", manifest, (16, 32))
        assert reason is None and told.captions == answer
