"""The layouts: which clips they find in a data set, and how they account for everything else."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_media
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.errors import ManifestError
from avprep.layouts import NAMES, NoClipError, index, voxceleb2
from avprep.layouts.folder import compile_pattern
from avprep.layouts.grid import read_align
from avprep.layouts.scan import Scan, nearest, stable_split, walk
from avprep.layouts.voxceleb1 import read_track
from avprep.manifest import Clip, read, render
from avprep.media.video import Frames

ALIGN = "0 23750 sil\r\n23750 29500 bin\r\n29500 34000 blue\r\n34000 35500 at\r\n35500 41000 f\r\n41000 47250 two\r\n"
ALIGN += "47250 53000 now\r\n53000 74500 sil\r\n"

TRACK = (
    "Identity  : \tid10270\nReference : \t5r0dWxy17C8\nOffset    : \t-3\nFV Conf   : \t16.647\t(1)\n"
    "ASD Conf  : \t4.465\n\nFRAME \tX \tY \tW \tH \n"
    "000190 \t149 \t68 \t171 \t171 \n000191 \t150 \t68 \t171 \t171 \n000192 \t151 \t68 \t171 \t171 \n"
)

CORPORA = {
    "lrw": ("lipread/ABOUT/train/ABOUT_00001.mp4", "lipread/ABOUT/val/ABOUT_00001.mp4"),
    "voxceleb1": ("id10270/5r0dWxy17C8/00001.mp4", "id10270/5r0dWxy17C8/00002.mp4"),
    "voxceleb2": ("dev/mp4/id00012/21Uxsk56VDQ/00001.mp4", "dev/mp4/id00012/21Uxsk56VDQ/00002.mp4"),
    "grid": ("s1/bbaf2n.mpg", "speaker2/video/swwp2s.mpg"),
    "cremad": ("VideoFlash/1001_DFA_ANG_XX.flv", "VideoFlash/1002_IEO_HAP_HI.flv"),
    "ravdess": ("Actor_01/01-01-03-02-01-01-01.mp4", "Actor_02/01-01-03-02-01-01-02.mp4"),
    "mead": ("M003/video/front/angry/level_1/001.mp4", "W009/video/front/sad/level_3/021.mp4"),
    "hdtf": ("videos/RD_Radio1_000.mp4", "videos/WDA_BarackObama_000.mp4"),
    "lrs3": ("pretrain/0Fi83BHQsMA/00001.mp4", "test/0Fi83BHQsMA/00002.mp4"),
}
"""Files by which a corpus is recognised."""


def plant(root: Path, *empty: str, texts: Mapping[str, str | bytes] | None = None) -> Path:
    """Make empty files, and files with a text, at their relative paths; return the root."""
    for name, text in {**dict.fromkeys(empty, ""), **(texts or {})}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def clips_of(layout: str, root: Path, **options: Any) -> tuple[dict[str, Clip], dict[str, int]]:
    """Index a tree; return its clips by key and its problems by kind."""
    manifest, scan = index(layout, root, **options)
    return {clip.key: clip for clip in manifest.clips}, scan.counts()


class TestIndex:
    """Properties that every layout has."""

    @pytest.mark.parametrize("layout", NAMES)
    def test_empty_tree(self, layout: str, tmp_path: Path) -> None:
        """A tree without clips is refused, and the message says what the layout looks for."""
        with pytest.raises(ManifestError, match=f"no clip found; the layout {layout} expects .* under ROOT") as error:
            index(layout, tmp_path)
        assert "problems: none" in str(error.value)

    def test_counts_of_problems(self, tmp_path: Path) -> None:
        """If no clip is found, the message counts the problems that were found."""
        plant(tmp_path, "s1/a.mpg", "s1/b.mpg", "c.mpg")
        with pytest.raises(ManifestError, match="problems: 2 missing_align, 1 unexpected_place"):
            index("grid", tmp_path)

    @pytest.mark.parametrize(
        ("layout", "corpus"), [(layout, corpus) for layout in CORPORA for corpus in CORPORA if layout != corpus]
    )
    def test_another_corpus(self, layout: str, corpus: str, tmp_path: Path) -> None:
        """A layout that is used on another corpus is refused, and the message names the right layout."""
        plant(tmp_path, *CORPORA[corpus])
        with pytest.raises(ManifestError, match=rf"; it looks like {corpus}: try `avprep index {corpus}`$"):
            index(layout, tmp_path)

    @pytest.mark.parametrize(
        ("corpus", "file", "inside"),
        [
            ("lrw", "lipread_mp4/ABOUT/train/ABOUT_00001.mp4", "lipread_mp4/ABOUT"),
            ("lrw", "lipread_mp4/ABOUT/train/ABOUT_00001.mp4", "lipread_mp4/ABOUT/train"),
            ("voxceleb1", "data/id10270/5r0dWxy17C8/00001.mp4", "data/id10270"),
            ("grid", "data/s1/bbaf2n.mpg", "data/s1"),
        ],
    )
    def test_root_too_deep(self, corpus: str, file: str, inside: str, tmp_path: Path) -> None:
        """A root that lies inside the corpus is refused, and the message names the folder to give."""
        plant(tmp_path, file)
        top = tmp_path.resolve() / file.split("/")[0]
        with pytest.raises(ManifestError, match=rf"a part of {corpus}: try `avprep index {corpus}` with ROOT {top}$"):
            index(corpus, tmp_path / inside)

    def test_missing_root(self, tmp_path: Path) -> None:
        """A root that is missing or is a file is an error that names it."""
        plant(tmp_path, "file.mp4")
        for name in ("none", "file.mp4"):
            with pytest.raises(ManifestError, match=f"{name}: not a folder"):
                index("folder", tmp_path / name)

    def test_unknown_layout(self, tmp_path: Path) -> None:
        """A layout that does not exist is an error that lists the existing ones."""
        with pytest.raises(ManifestError, match="lrs3, lrw, mead, ravdess, voxceleb1"):
            index("lrs2", tmp_path)

    def test_duplicate_keys(self, tmp_path: Path) -> None:
        """Videos that would share a key are refused, with the key, the videos and their number."""
        plant(tmp_path, "a/x.mp4", "a/x.mov", "a/y.mp4", "b/x.mp4", "b/x.avi")
        with pytest.raises(ManifestError, match=r"2 keys .*: a/x \(a/x.mov, a/x.mp4\); b/x \(b/x.avi, b/x.mp4\)"):
            index("folder", tmp_path)
        (tmp_path / "b/x.avi").unlink()
        with pytest.raises(ManifestError, match=r": 1 key occurs more than once: a/x \(a/x.mov, a/x.mp4\);"):
            index("folder", tmp_path)

    def test_absolute_root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The root is stored absolute, however it was given, and the paths below it with forward slashes."""
        plant(tmp_path, "data/a/x.mp4")
        monkeypatch.chdir(tmp_path)
        manifest, _ = index("folder", Path("data"))
        assert manifest.root == (tmp_path / "data").resolve()
        assert manifest.clips[0].video == "a/x.mp4"

    def test_seed_and_limit(self, tmp_path: Path) -> None:
        """The seed shuffles within the splits, and a limit keeps the first clips of each split."""
        plant(tmp_path, *(f"{split}/{n}.mp4" for split in ("train", "val") for n in range(20)))
        whole, _ = index("folder", tmp_path, seed=3, pattern="{split}/*")
        assert index("folder", tmp_path, seed=4, pattern="{split}/*")[0].clips != whole.clips
        few, _ = index("folder", tmp_path, seed=3, limit=2, pattern="{split}/*")
        assert few.clips == whole.split("train")[:2] + whole.split("val")[:2]
        assert (few.seed, few.dataset) == (3, "folder")
        with pytest.raises(ManifestError, match="--limit"):
            index("folder", tmp_path, limit=0)

    def test_written_and_read(self, tmp_path: Path) -> None:
        """The manifest of a tree with odd names is written and read back unchanged."""
        plant(tmp_path, "data/a b/ü\u2028.1.mp4", "data/new\nline.mp4", "data/back\\slash%.mp4", "data/.hidden.mp4")
        manifest, scan = index("folder", tmp_path / "data")
        path = tmp_path / "manifest.jsonl"
        path.write_text(render(manifest), encoding="utf-8")
        assert read(path) == manifest
        assert len(manifest.clips) == 4
        assert not scan.problems


class TestWalk:
    """Odd trees."""

    def test_order(self, tmp_path: Path) -> None:
        """The order of files depends on their names alone."""
        plant(tmp_path, "b/2", "b/1", "a/3", "c", "a/b/4")
        assert list(walk(tmp_path, Scan())) == ["c", "a/3", "a/b/4", "b/1", "b/2"]

    def test_link_loops(self, tmp_path: Path) -> None:
        """Links to a parent folder are not followed; links to other places are."""
        root = plant(tmp_path / "root", "a/x.mp4", "b/y.mp4")
        plant(tmp_path / "other", "z.mp4")
        (root / "a/up").symlink_to(root)
        (root / "a/self").symlink_to(".")
        (root / "a/over").symlink_to("../b")
        (root / "b/over").symlink_to("../a")
        (root / "above").symlink_to(tmp_path)
        (root / "other").symlink_to(tmp_path / "other")
        scan = Scan()
        found = list(walk(root, scan))
        assert {"a/x.mp4", "b/y.mp4", "other/z.mp4", "a/over/y.mp4"} <= set(found)
        assert len(found) == len(set(found)) < 10
        assert set(scan.counts()) == {"link_loop"}
        assert {"a/up", "a/self", "above"} <= {problem.path for problem in scan.problems}

    def test_broken_links_and_pipes(self, tmp_path: Path) -> None:
        """Dangling links, links to themselves and pipes are problems, and are never opened."""
        (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
        (tmp_path / "me.mp4").symlink_to("me.mp4")
        os.mkfifo(tmp_path / "pipe.mp4")
        scan = Scan()
        assert list(walk(tmp_path, scan)) == []
        assert scan.counts() == {"not_a_file": 3}

    def test_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        """A name that is not UTF-8 is a problem with a printable path; a root with such a name is refused."""
        bad = os.fsencode(tmp_path) + b"/caf\xe9"
        try:
            os.mkdir(bad)
        except OSError:
            pytest.skip("this file system only takes UTF-8 names")
        plant(tmp_path, "good.mp4")
        Path(os.fsdecode(bad + b"/x.mp4")).touch()
        manifest, scan = index("folder", tmp_path)
        assert [clip.video for clip in manifest.clips] == ["good.mp4"]
        assert [(problem.kind, problem.path) for problem in scan.problems] == [("bad_name", "caf\\xe9")]
        with pytest.raises(ManifestError, match=r"caf\\xe9: the name is not UTF-8"):
            index("folder", Path(os.fsdecode(bad)))

    @pytest.mark.skipif(os.geteuid() == 0, reason="no folder is closed to root")
    def test_closed_folder_and_file(self, tmp_path: Path) -> None:
        """A folder and an annotation without read permission are problems; everything else is found."""
        plant(tmp_path, "s1/a.mpg", "s2/b.mpg", "s3/c.mpg", texts={"s1/a.align": ALIGN, "s3/c.align": ALIGN})
        (tmp_path / "s2").chmod(0)
        (tmp_path / "s3/c.align").chmod(0)
        try:
            clips, problems = clips_of("grid", tmp_path)
        finally:
            (tmp_path / "s2").chmod(0o700)
        assert len(clips) == 6
        assert problems == {"unreadable_folder": 1, "bad_align": 1}

    @pytest.mark.parametrize("layout", NAMES)
    def test_folder_named_like_a_video(self, layout: str, tmp_path: Path) -> None:
        """A folder is never taken for a video or an annotation, whatever its name."""
        for name in (
            "W/train/W_1.mp4",
            "W/train/W_1.txt",
            "id00001/v/1.mp4",
            "id00001/v.mp4",
            "s1/a.mpg",
            "s1/a.align",
        ):
            (tmp_path / name).mkdir(parents=True)
        with pytest.raises(ManifestError, match="no clip found"):
            index(layout, tmp_path)

    @pytest.mark.parametrize(
        ("layout", "files"),
        [
            ("lrw", ["W/{0}/{2}W_00001.mp4", "W/{0}/{2}W_00001.txt"]),
            ("voxceleb1", ["{1}id10001/vid/{2}00001.mp4"]),
            ("voxceleb2", ["{1}mp4/id00001/vid/{2}1.mp4", "{1}aac/id00001/vid/{2}1.m4a"]),
            ("grid", ["{1}s1/{2}a.mpg", "{1}s1/{2}a.align"]),
            ("folder", ["{1}a/{2}x.mp4"]),
        ],
    )
    def test_what_a_mac_leaves(self, layout: str, files: list[str], tmp_path: Path) -> None:
        """Files named `._*` and folders named `__MACOSX` are not clips in any layout; one line counts them."""
        for name in files:
            plant(tmp_path, texts={name.format("train", "", ""): ALIGN})
            plant(tmp_path, texts={name.format("train", "", "._"): b"\0\5\26\7"})
            plant(tmp_path, texts={"__MACOSX/" + name.format("train", "", "._"): b"\0\5\26\7"})
        manifest, scan = index(layout, tmp_path)
        assert not any("._" in clip.video or "__MACOSX" in clip.video for clip in manifest.clips)
        (line,) = (problem for problem in scan.problems if problem.kind == "mac_leftover")
        assert line.message.startswith(f"{len(files) + 1} named ._* or __MACOSX")
        assert scan.counts()["mac_leftover"] == line.count == len(files) + 1

    def test_nearest(self) -> None:
        """Of several annotations the one in the nearest folder is used, first the one next to the video."""
        candidates = ["align/s1/x.align", "b/s1/align/x.align", "b/s1/x.align"]
        assert nearest("b/s1/x.mpg", candidates) == "b/s1/x.align"
        assert nearest("b/s1/x.mpg", candidates[:2]) == "b/s1/align/x.align"
        assert nearest("b/s1/x.mpg", []) is None


class TestStableSplit:
    """Splits by hash."""

    @settings(deadline=None)
    @given(st.text())
    def test_shares_at_the_ends(self, name: str) -> None:
        """A fraction of 0 takes nothing and a fraction of 1 takes everything."""
        assert stable_split(name, val_fraction=0, test_fraction=0) == "train"
        assert stable_split(name, val_fraction=1, test_fraction=0) == "val"
        assert stable_split(name, val_fraction=0, test_fraction=1) == "test"

    def test_shares(self) -> None:
        """The fractions of many names are those asked for."""
        counts = Counter(stable_split(f"s1/{n}", val_fraction=0.2, test_fraction=0.1) for n in range(10_000))
        assert counts["val"] == pytest.approx(2000, rel=0.1)
        assert counts["test"] == pytest.approx(1000, rel=0.1)

    def test_recorded(self) -> None:
        """The hash is pinned: another one would move clips between splits of data sets that are already prepared."""
        splits = {n: stable_split(f"s1/{n}") for n in range(20)}
        assert [n for n, split in splits.items() if split == "val"] == [6, 8, 12]
        assert [n for n, split in splits.items() if split == "test"] == [14, 18]


class TestLRW:
    """Lip Reading in the Wild."""

    def test_clips(self, tmp_path: Path) -> None:
        """Word and split come from the path, and the clip is the whole file."""
        plant(tmp_path, "ABOUT/train/ABOUT_00001.mp4", "YOUNG/test/YOUNG_00002.mp4")
        plant(tmp_path, texts={"ABOUT/train/ABOUT_00001.txt": "Channel: BBC1\r\nDuration: 0.45 seconds\r\n"})
        clips, problems = clips_of("lrw", tmp_path)
        assert clips["ABOUT/train/ABOUT_00001"] == Clip(
            "ABOUT/train/ABOUT_00001", "ABOUT/train/ABOUT_00001.mp4", "train", word="ABOUT"
        )
        assert clips["YOUNG/test/YOUNG_00002"].split == "test"
        assert problems == {"missing_annotation": 1, "missing_split": 4}

    @pytest.mark.parametrize("above", ["lipread_mp4", "data/lrw/lipread_mp4"])
    def test_folder_above(self, tmp_path: Path, above: str) -> None:
        """The root may be any parent folder."""
        plant(tmp_path, f"{above}/ABOUT/val/ABOUT_00001.mp4")
        clips, _ = clips_of("lrw", tmp_path)
        assert clips[f"{above}/ABOUT/val/ABOUT_00001"].word == "ABOUT"

    def test_a_part(self, tmp_path: Path) -> None:
        """A part of LRW's words and splits is a valid data set; one line per split counts its missing words."""
        splits = {"ABOUT": ("train", "val", "test"), "YOUNG": ("train",), "WORLD": ("train", "test")}
        for word, there in splits.items():
            plant(tmp_path, *(f"{word}/{split}/{word}_00001.mp4" for split in there))
            plant(tmp_path, *(f"{word}/{split}/{word}_00001.txt" for split in there))
        manifest, scan = index("lrw", tmp_path)
        assert len(manifest.clips) == 6
        missing = {problem.path: problem for problem in scan.problems if problem.kind == "missing_split"}
        assert {split: problem.count for split, problem in missing.items()} == {"val": 2, "test": 1}
        assert missing["val"].message == "2 of 3 words have no clip here: WORLD, YOUNG"
        assert scan.counts()["missing_split"] == 3

    def test_endings_in_capitals(self, tmp_path: Path) -> None:
        """The extension of an annotation may be in capitals, as in copies from some file systems."""
        plant(tmp_path, "ABOUT/train/ABOUT_00001.MP4", texts={"ABOUT/train/ABOUT_00001.TXT": "Duration: 1 seconds"})
        _, problems = clips_of("lrw", tmp_path)
        assert set(problems) == {"missing_split"}

    @pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00", b"Duration: long", b"\x00" * 100])
    def test_bad_annotation(self, tmp_path: Path, text: bytes) -> None:
        """A damaged annotation is counted, and the clip is kept."""
        plant(tmp_path, "ABOUT/train/ABOUT_00001.mp4", texts={"ABOUT/train/ABOUT_00001.txt": text})
        clips, problems = clips_of("lrw", tmp_path)
        assert len(clips) == 1
        assert problems == {"bad_annotation": 1, "missing_split": 2}

    def test_everything_else(self, tmp_path: Path) -> None:
        """Videos out of place and annotations without a video are problems."""
        plant(tmp_path, "ABOUT/train/ABOUT_00001.mp4", "ABOUT/ABOUT_1.mp4", "ABOUT/dev/ABOUT_1.mp4")
        plant(tmp_path, "README.txt", "ABOUT/train/ABOUT_00009.txt")
        _, problems = clips_of("lrw", tmp_path)
        assert problems == {"missing_annotation": 1, "unexpected_place": 2, "missing_video": 1, "missing_split": 2}


class TestVoxCeleb2:
    """VoxCeleb2: video and audio in two trees."""

    def test_clips(self, tmp_path: Path) -> None:
        """Video and audio of an utterance are joined; its folder determines the split."""
        for split in ("dev", "test"):
            plant(tmp_path, f"{split}/mp4/id00001/vid/00001.mp4", f"{split}/aac/id00001/vid/00001.m4a")
        clips, problems = clips_of("voxceleb2", tmp_path)
        assert clips["dev/id00001/vid/00001"] == Clip(
            "dev/id00001/vid/00001",
            "dev/mp4/id00001/vid/00001.mp4",
            "train",
            audio="dev/aac/id00001/vid/00001.m4a",
            speaker="id00001",
        )
        assert clips["test/id00001/vid/00001"].split == "test"
        assert not problems

    @pytest.mark.parametrize(
        ("name", "split"), [("dev", "train"), ("test", "test"), ("vox", "train"), ("vox2_test_mp4", "test")]
    )
    def test_root_is_one_split(self, tmp_path: Path, name: str, split: str) -> None:
        """The root may be `dev` or `test` itself; its name then determines the split."""
        root = plant(tmp_path / name, "mp4/id00001/vid/00001.mp4", "aac/id00001/vid/00001.wav")
        clips, _ = clips_of("voxceleb2", root)
        assert clips["id00001/vid/00001"].split == split
        assert clips["id00001/vid/00001"].audio == "aac/id00001/vid/00001.wav"

    def test_original_sound_first(self, tmp_path: Path) -> None:
        """If both formats of the audio are there, the original is used."""
        plant(tmp_path, "mp4/id00001/vid/1.mp4", "aac/id00001/vid/1.wav", "aac/id00001/vid/1.m4a")
        clips, problems = clips_of("voxceleb2", tmp_path)
        assert clips["id00001/vid/1"].audio == "aac/id00001/vid/1.m4a"
        assert not problems

    def test_trees_apart(self, tmp_path: Path) -> None:
        """Two folders of unpacked archives may lie side by side below the root."""
        plant(tmp_path, "pictures/dev/mp4/id00001/vid/1.mp4", "sounds/dev/aac/id00001/vid/1.m4a")
        clips, problems = clips_of("voxceleb2", tmp_path)
        assert clips["pictures/dev/id00001/vid/1"].audio == "sounds/dev/aac/id00001/vid/1.m4a"
        assert not problems

    def test_folders_of_the_archives(self, tmp_path: Path) -> None:
        """The archives of the test split have no folder `test`; a folder named after the archive gives the split."""
        plant(tmp_path, "vox2_test_mp4/mp4/id00017/vid/1.mp4", "vox2_test_aac/aac/id00017/vid/1.m4a")
        plant(tmp_path, "vox2_dev_mp4/dev/mp4/id00012/vid/1.mp4", "vox2_dev_aac/dev/aac/id00012/vid/1.m4a")
        clips, problems = clips_of("voxceleb2", tmp_path)
        assert {clip.speaker: clip.split for clip in clips.values()} == {"id00012": "train", "id00017": "test"}
        assert not problems

    def test_own_audio_first(self, tmp_path: Path) -> None:
        """Of two copies of an utterance's audio, the one in the video's own tree is used."""
        for tree in ("a", "b"):
            plant(tmp_path, f"{tree}/mp4/id00001/vid/1.mp4", f"{tree}/aac/id00001/vid/1.wav")
        plant(tmp_path, "c/aac/id00001/vid/1.m4a")
        clips, problems = clips_of("voxceleb2", tmp_path)
        assert {clip.video[0]: clip.audio for clip in clips.values()} == {
            "a": "a/aac/id00001/vid/1.wav",
            "b": "b/aac/id00001/vid/1.wav",
        }
        assert not problems

    @pytest.mark.parametrize(("video", "audio"), [("v/dev/mp4", "a/dev/aac"), ("v/dev/mp4", "a/aac"), ("v", "a/m4a")])
    def test_audio_root(self, tmp_path: Path, video: str, audio: str) -> None:
        """The audio may lie below a root of its own; the manifest's root is the folder that holds both."""
        plant(tmp_path, f"data/{video}/id00001/vid/1.mp4", f"data/{audio}/id00001/vid/1.m4a")
        plant(tmp_path, f"data/{video}/id00001/vid/2.mp4", f"data/{audio}/id00001/vid/3.m4a")
        manifest, scan = index("voxceleb2", tmp_path / "data" / video, audio_root=tmp_path / "data" / audio)
        (clip,) = manifest.clips
        assert clip.key == "id00001/vid/1"
        assert clip.split == "train"
        assert manifest.root == (tmp_path / "data").resolve()
        assert clip.audio is not None
        assert (manifest.root / clip.video).samefile(tmp_path / "data" / video / "id00001/vid/1.mp4")
        assert (manifest.root / clip.audio).samefile(tmp_path / "data" / audio / "id00001/vid/1.m4a")
        assert scan.counts() == {"missing_audio": 1, "missing_video": 1}

    def test_hint_at_the_audio_root(self, tmp_path: Path) -> None:
        """A tree of videos alone is refused; each video's problem names the option to use."""
        plant(tmp_path, "dev/mp4/id00001/vid/1.mp4")
        scan = Scan()
        voxceleb2.scan(tmp_path, scan)
        assert "--audio-root" in scan.problems[0].message

    @pytest.mark.parametrize(("root", "better"), [("dev/mp4", "dev"), ("dev/mp4/id00001", "dev"), ("apart", None)])
    def test_hint_at_the_root(self, tmp_path: Path, root: str, better: str | None) -> None:
        """A ROOT without folders mp4 and aac is refused; the message names the right ROOT, or what to give instead."""
        for number in (1, 2):
            plant(tmp_path, f"dev/mp4/id00001/vid/0000{number}.mp4", f"dev/aac/id00001/vid/0000{number}.m4a")
            plant(tmp_path, f"apart/v/id00001/vid/0000{number}.mp4", f"apart/a/id00001/vid/0000{number}.m4a")
        with pytest.raises(NoClipError) as refused:
            index("voxceleb2", tmp_path / root)
        if better is not None:
            assert str(refused.value).endswith(f"with ROOT {tmp_path.resolve() / better}")
            assert len(index("voxceleb2", tmp_path / better)[0].clips) == 2
        if root != "dev/mp4/id00001":
            assert all("--audio-root that of the audio" in problem.message for problem in refused.value.problems)

    def test_voxceleb1(self, tmp_path: Path) -> None:
        """Speakers of VoxCeleb1 are recognised by their numbers, and the message names their layout."""
        plant(tmp_path, "mp4/id00001/vid/1.mp4", "aac/id00001/vid/1.m4a")
        plant(tmp_path, "mp4/id10270/vid/1.mp4", "aac/id10270/vid/1.m4a")
        manifest, scan = index("voxceleb2", tmp_path)
        assert [clip.speaker for clip in manifest.clips] == ["id00001"]
        assert scan.counts() == {"other_corpus": 2}
        assert "avprep index voxceleb1" in scan.problems[0].message

    def test_halves(self, tmp_path: Path) -> None:
        """Video without audio, audio without video and a file out of place are problems, not clips."""
        plant(tmp_path, "mp4/id00001/vid/1.mp4", "aac/id00001/vid/1.m4a", "mp4/id00001/vid/2.mp4")
        plant(tmp_path, "aac/id00001/vid/3.m4a", "mp4/id00001/vid/4.m4a", "id00001/vid/5.mp4", "vox2_meta.csv")
        clips, problems = clips_of("voxceleb2", tmp_path)
        assert list(clips) == ["id00001/vid/1"]
        assert problems == {"missing_audio": 1, "missing_video": 1, "unexpected_place": 2}

    def test_real_tree(self, shared: Path) -> None:
        """Every utterance of a real tree is found with its audio."""
        manifest, scan = index("voxceleb2", shared / "clips" / "voxceleb2")
        assert len({clip.speaker for clip in manifest.clips}) == len(manifest.clips) == 6
        assert not scan.problems
        for clip in manifest.clips:
            assert clip.split == "train"
            assert clip.audio is not None
            assert (manifest.root / clip.video).is_file()
            assert (manifest.root / clip.audio).is_file()


class TestVoxCeleb1:
    """VoxCeleb1: utterances as files, or cut from whole videos by their tracks."""

    def test_track(self) -> None:
        """A track is read as its rows of frame and box, with any line ends."""
        rows = [(190, 149, 68, 171, 171), (191, 150, 68, 171, 171), (192, 151, 68, 171, 171)]
        assert read_track(TRACK) == rows
        assert read_track(TRACK.replace("\n", "\r\n")) == rows

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no line FRAME"),
            ("FRAME X Y W H\n", "no frame"),
            ("FRAME X Y W H\n1 2 3 4\n", "line 2: expected five numbers"),
            ("FRAME X Y W H\n1 2 3 4 5 6\n", "line 2: expected five numbers"),
            ("FRAME X Y W H\n1 2 3 4 x\n", "line 2: expected five numbers"),
            ("FRAME X Y W H\n1 2 3 4 nan\n", "line 2: no such frame or box"),
            ("FRAME X Y W H\n1 2 3 0 5\n", "line 2: no such frame or box"),
            (f"FRAME X Y W H\n1{'0' * 400} 2 3 4 5\n", "line 2: no such frame or box"),
            ("FRAME X Y W H\n2 2 3 4 5\n\n2 2 3 4 5\n", "line 4: frame 2 does not come after frame 2"),
        ],
    )
    def test_damaged_track(self, text: str, message: str) -> None:
        """The error for a damaged track is one line with the place and the cause."""
        with pytest.raises(ValueError, match=message) as error:
            read_track(text)
        assert "\n" not in str(error.value)

    @settings(deadline=None)
    @given(st.text() | st.text(alphabet="0123456789 .-\n\tx").map("FRAME X Y W H\n".__add__))
    def test_any_text(self, text: str) -> None:
        """No text makes the reader raise another error."""
        with contextlib.suppress(ValueError):
            assert read_track(text)

    @pytest.mark.parametrize("track", ["id10270/vid/00001.txt", "txt/id10270/vid/00001.txt"])
    def test_utterance_files(self, tmp_path: Path, track: str) -> None:
        """An utterance file is a whole clip, with its track from next to it or from the tree of tracks."""
        plant(tmp_path, "id10270/vid/00001.mp4", texts={track: TRACK})
        clips, problems = clips_of("voxceleb1", tmp_path)
        assert list(clips.values()) == [
            Clip("id10270/vid/00001", "id10270/vid/00001.mp4", "test", speaker="id10270", track=track)
        ]
        assert not problems

    @pytest.mark.parametrize("track", ["id10001/vi-d/00001.txt", "txt/id10001/vi-d/00001.txt"])
    def test_whole_videos(self, tmp_path: Path, track: str) -> None:
        """Tracks cut utterances from a whole video; their frame numbers are at 25 fps."""
        plant(tmp_path, "id10001/vi-d.mp4", texts={track: TRACK, track.replace("1.txt", "2.txt"): TRACK})
        clips, problems = clips_of("voxceleb1", tmp_path)
        assert set(clips) == {"id10001/vi-d/00001", "id10001/vi-d/00002"}
        assert clips["id10001/vi-d/00001"] == Clip(
            "id10001/vi-d/00001", "id10001/vi-d.mp4", "train", None, 7.6, 0.12, speaker="id10001", track=track
        )
        assert not problems

    def test_whole_video_and_utterance_file(self, tmp_path: Path) -> None:
        """An utterance that exists in both forms is refused rather than counted twice."""
        plant(tmp_path, "id10001/vid.mp4", "id10001/vid/1.mp4", texts={"id10001/vid/1.txt": TRACK})
        with pytest.raises(ManifestError, match="id10001/vid/1 "):
            index("voxceleb1", tmp_path)

    def test_voxceleb2(self, tmp_path: Path) -> None:
        """Speakers of VoxCeleb2 are recognised by their numbers, and the message names their layout."""
        plant(tmp_path, "vox1/id10001/vid/00001.mp4", "vox2/dev/mp4/id00012/vid/00001.mp4")
        plant(tmp_path, texts={"vox1/id10001/vid/00001.TXT": TRACK, "vox2/dev/txt/id00012/vid/00001.txt": TRACK})
        manifest, scan = index("voxceleb1", tmp_path)
        assert [(clip.speaker, clip.track) for clip in manifest.clips] == [("id10001", "vox1/id10001/vid/00001.TXT")]
        assert scan.counts() == {"other_corpus": 2}
        assert "avprep index voxceleb2" in scan.problems[0].message

    def test_tracks_missing_or_damaged(self, tmp_path: Path) -> None:
        """An utterance file without a valid track is kept; a whole video without one is not."""
        plant(tmp_path, "id10001/a/1.mp4", "id10001/a/2.mp4", "id10001/b.mp4", "id10001/c.mp4", "d.mp4")
        plant(
            tmp_path, "id10009/gone/1.txt", texts={"txt/id10001/a/2.txt": b"\xff\xfe", "txt/id10001/b/1.txt": "FRAME"}
        )
        clips, problems = clips_of("voxceleb1", tmp_path)
        assert {clip.video: clip.track for clip in clips.values()} == {"id10001/a/1.mp4": None, "id10001/a/2.mp4": None}
        assert problems == {"missing_track": 2, "bad_track": 2, "missing_video": 1, "unexpected_place": 1}

    def test_splits(self, tmp_path: Path) -> None:
        """Folders named `dev` and `test` determine the split; otherwise the official verification speakers do."""
        plant(tmp_path, *(f"{name}/vid/1.mp4" for name in ("id10269", "id10270", "id10309", "id10310")))
        plant(tmp_path, "test/id10001/vid/1.mp4", "dev/id10270/vid/1.mp4")
        clips, _ = clips_of("voxceleb1", tmp_path)
        assert {key.removesuffix("/vid/1"): clip.split for key, clip in clips.items()} == {
            "id10269": "train",
            "id10270": "test",
            "id10309": "test",
            "id10310": "train",
            "test/id10001": "test",
            "dev/id10270": "train",
        }

    def test_identification(self, tmp_path: Path) -> None:
        """The identification splits come from the official list; files not in it are left out and counted."""
        plant(tmp_path, *(f"id10001/vid/0000{n}.mp4" for n in (1, 2, 3, 4)))
        plant(tmp_path, texts={"iden_split.txt": "".join(f"{n} id10001/vid/0000{n}.wav\r\n" for n in (1, 2, 3))})
        clips, problems = clips_of("voxceleb1", tmp_path, identification=True)
        assert [clips[f"id10001/vid/0000{n}"].split for n in (1, 2, 3)] == ["train", "val", "test"]
        assert problems == {"missing_track": 3, "not_in_split": 1}

    def test_bad_identification_list(self, tmp_path: Path) -> None:
        """A missing or damaged list is an error that names the option, or file and line."""
        plant(tmp_path, "id10001/vid/00001.mp4")
        with pytest.raises(ManifestError, match="--identification"):
            index("voxceleb1", tmp_path, identification=True)
        plant(tmp_path, texts={"iden_split.txt": "1 id10001/vid/00001.wav\n4 id10001/vid/00002.wav\n"})
        with pytest.raises(ManifestError, match=r"iden_split\.txt:2: expected"):
            index("voxceleb1", tmp_path, identification=True)


class TestGRID:
    """GRID: words cut from sentences."""

    def test_words(self, tmp_path: Path) -> None:
        """Each word becomes a clip of 29 frames with the word in the middle; silence does not."""
        plant(tmp_path, "s1/bbaf2n.mpg", texts={"alignments/s1/bbaf2n.align": ALIGN})
        clips, problems = clips_of("grid", tmp_path)
        assert set(clips) == {f"s1/bbaf2n/{word}" for word in ("0-bin", "1-blue", "2-at", "3-f", "4-two", "5-now")}
        blue = clips["s1/bbaf2n/1-blue"]  # spoken from 1.18 to 1.36 s
        assert (blue.start, blue.duration, blue.word, blue.speaker) == (0.69, 1.16, "blue", "s1")
        assert len({clip.split for clip in clips.values()}) == 1
        assert not problems

    def test_ends_of_a_sentence(self, tmp_path: Path) -> None:
        """A clip at either end of a sentence is moved to lie inside it."""
        plant(tmp_path, "s1/a.mpg", texts={"s1/a.align": "0 1000 bin\n1000 50000 sp\n50000 51000 now\n"})
        clips, _ = clips_of("grid", tmp_path)
        assert clips["s1/a/0-bin"].start == 0
        assert clips["s1/a/1-now"].start == 0.88  # 51000/25000 - 1.16

    @pytest.mark.parametrize(
        ("video", "align"),
        [
            ("s1/a.mpg", "s1/a.align"),
            ("s1/a.mp4", "alignments/s1/a.align"),
            ("s1/a.avi", "s1/align/a.align"),
            ("s1/a.MPG", "align/s1/a.align"),
            ("s1/video/a.mov", "s1/align/a.align"),
            ("s1/video/mpg_6000/a.mkv", "alignments/s1/a.align"),
            ("video/s1/a.mpg", "align/s1/a.align"),
            ("S1/a.mpg", "alignments/s1/a.align"),
            ("s01/a.mpg", "alignments/s1/a.ALIGN"),
            ("speaker1/a.mpg", "alignments/s1/a.align"),
            ("Speaker_01/a.mpg", "Speaker_01/align/a.align"),
            ("s1_processed/a.mpg", "s1_processed/align/a.align"),
            ("s1.mpg_vcd/s1/a.mpg", "s1.align/a.align"),
        ],
    )
    def test_places(self, tmp_path: Path, video: str, align: str) -> None:
        """Word times are found in every place in which copies of the corpus keep them."""
        plant(tmp_path, video, texts={align: ALIGN})
        clips, problems = clips_of("grid", tmp_path)
        assert len(clips) == 6
        assert {clip.speaker for clip in clips.values()} == {"s1"}
        assert not problems

    @pytest.mark.parametrize("folder", ["sam", "s", "s1x", "speakers", "session 1", "1", "as1", "speaker_one"])
    def test_other_folders(self, tmp_path: Path, folder: str) -> None:
        """Folders that are not named after a speaker give no speaker."""
        plant(tmp_path, "s2/a.mpg", f"{folder}/b.mpg")
        clips, problems = clips_of("grid", tmp_path, sentences=True)
        assert {clip.video for clip in clips.values()} == {"s2/a.mpg"}
        assert problems == {"unexpected_place": 1}

    def test_split_of_other_names(self, tmp_path: Path) -> None:
        """A speaker's split does not depend on how a copy spells the folder."""
        for n, name in enumerate(("s{}", "S{}", "s0{}", "speaker{}", "s{}_processed")):
            plant(tmp_path, *(f"{n}/{name.format(speaker)}/a{m}.mpg" for speaker in (1, 5, 7) for m in range(9)))
        for split_by in ("sentence", "speaker"):
            clips, _ = clips_of("grid", tmp_path, sentences=True, split_by=split_by)
            splits: dict[tuple[str | None, str], set[str]] = {}
            for clip in clips.values():
                splits.setdefault((clip.speaker, clip.video.rpartition("/")[2]), set()).add(clip.split)
            assert len(splits) == 27
            assert all(len(found) == 1 for found in splits.values())

    @pytest.mark.parametrize(
        ("align", "line"),
        [
            ("0 10 sil\n10 x bin\n", 2),
            ("0 10\n", 1),
            ("0 10 bin blue\n", 1),
            ("0 10 sil\n\n20 10 bin\n", 3),
            ("-5 10 bin\n", 1),
            ("0 1e4 bin\n", 1),
            ("0 10 ../bin\n", 1),
            (f"0 1{'0' * 400} bin\n", 1),
            ("0 10 sil\n", 1),
            ("", 1),
        ],
    )
    def test_damaged_align(self, tmp_path: Path, align: str, line: int) -> None:
        """Damaged word times are a problem with the line's number, and lose only their own sentence."""
        plant(tmp_path, "s1/a.mpg", "s1/b.mpg", texts={"s1/a.align": align, "s1/b.align": ALIGN})
        manifest, scan = index("grid", tmp_path)
        assert {clip.video for clip in manifest.clips} == {"s1/b.mpg"}
        assert [(problem.kind, problem.path) for problem in scan.problems] == [("bad_align", "s1/a.align")]
        assert scan.problems[0].message.startswith(f"line {line}: ")

    @settings(deadline=None)
    @given(st.text() | st.text(alphabet="0123456789 .-\r\n\tx/"))
    def test_any_text(self, text: str) -> None:
        """No text makes the reader raise another error."""
        with contextlib.suppress(ValueError):
            assert read_align(text)

    def test_problems(self, tmp_path: Path) -> None:
        """Files from which no clip is made are counted by what they lack."""
        plant(tmp_path, "s1/good.mpg", "s1/bare.mpg", "s1/short.mpg", "s1/bytes.mpg", "who/x.mpg", "s1/notes.doc")
        plant(
            tmp_path, texts={"s1/good.align": ALIGN, "s1/short.align": "0 28999 bin\n", "s1/bytes.align": b"0 9 \xff"}
        )
        plant(tmp_path, texts={"s2/lost.align": ALIGN})
        clips, problems = clips_of("grid", tmp_path)
        assert {clip.video for clip in clips.values()} == {"s1/good.mpg"}
        assert problems == {
            "missing_align": 1,
            "too_short": 1,
            "bad_align": 1,
            "missing_video": 1,
            "unexpected_place": 1,
        }

    def test_sentences(self, tmp_path: Path) -> None:
        """Whole sentences need no word times, have no word, and are in the same split as their words.

        If there are word times, the sentences have them.
        """
        plant(tmp_path, "s1/bbaf2n.mpg", "s1/bare.mpg", texts={"s1/bbaf2n.align": ALIGN})
        clips, problems = clips_of("grid", tmp_path, sentences=True)
        words, _ = clips_of("grid", tmp_path)
        split = words["s1/bbaf2n/0-bin"].split
        spoken = clips["s1/bbaf2n"].words
        assert spoken is not None
        assert spoken[0] == ("bin", 0.95, 1.18)
        assert [word for word, _, _ in spoken] == ["bin", "blue", "at", "f", "two", "now"]
        assert clips["s1/bbaf2n"] == Clip("s1/bbaf2n", "s1/bbaf2n.mpg", split, speaker="s1", words=spoken)
        assert clips["s1/bare"].words is None
        assert set(clips) == {"s1/bbaf2n", "s1/bare"}
        assert not problems

    def test_split_is_stable(self, tmp_path: Path) -> None:
        """A sentence's split depends neither on the seed nor on the other files."""
        plant(tmp_path, *(f"s{n}/a{m}.mpg" for n in range(1, 6) for m in range(20)))
        before, _ = clips_of("grid", tmp_path, sentences=True)
        plant(tmp_path, "s1/new.mpg", "s9/new.mpg")
        after, _ = clips_of("grid", tmp_path, sentences=True, seed=1)
        assert all(after[key].split == clip.split for key, clip in before.items())
        assert {clip.split for clip in before.values()} == {"train", "val", "test"}

    def test_unseen_speakers(self, tmp_path: Path) -> None:
        """With a split by speaker, the usual four speakers are in test, and each other speaker is in one split."""
        plant(tmp_path, *(f"s{n}/{m}.mpg" for n in range(1, 35) for m in range(3)))
        clips, _ = clips_of("grid", tmp_path, sentences=True, split_by="speaker")
        speakers: dict[str, set[str | None]] = {split: set() for split in ("train", "val", "test")}
        for clip in clips.values():
            speakers[clip.split].add(clip.speaker)
        assert speakers["test"] == {"s1", "s2", "s20", "s22"}
        assert speakers["val"] == {"s7", "s23", "s25"}
        assert len(speakers["train"]) == 27

    @pytest.mark.parametrize(("name", "sentences"), [("grid", 31), ("grid_s1", 600)])
    def test_real_tree(self, shared: Path, name: str, sentences: int) -> None:
        """Every sentence of a real tree gives six words, all in one split and within the sentence."""
        manifest, scan = index("grid", shared / "clips" / name)
        assert not scan.problems
        words = Counter(clip.video for clip in manifest.clips)
        assert len(words) == sentences
        assert set(words.values()) == {6}
        assert len({(clip.video, clip.split) for clip in manifest.clips}) == sentences
        for clip in manifest.clips:
            assert clip.start is not None
            assert clip.duration == 1.16
            assert 0 <= clip.start <= 2.98 - 1.16


class TestFolder:
    """Any folder."""

    def test_every_kind_of_video(self, tmp_path: Path) -> None:
        """All usual kinds of video are found, whatever the case of their extensions; other files are not."""
        usual = ("mp4", "mkv", "mov", "avi", "mpg", "mpeg", "webm", "m4v", "mts", "ts", "wmv", "flv", "3gp")
        rarer = ("m2ts", "mxf", "vob", "3g2", "f4v", "ogv", "asf", "dv")
        videos = [f"{n}.{kind}" for n, kind in enumerate((*usual, *rarer, "MP4", "Mov", "M2TS"))]
        plant(tmp_path, *videos, "notes.txt", "photo.jpg", "mp4", ".mp4")
        clips, problems = clips_of("folder", tmp_path)
        assert {clip.video for clip in clips.values()} == set(videos)
        assert not problems

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("m2ts", "-c:v libx264 -c:a aac"),
            ("3g2", "-c:v mpeg4 -c:a aac"),
            ("f4v", "-c:v libx264 -c:a aac"),
            ("vob", "-c:v mpeg2video -c:a mp2"),
            ("mxf", "-c:v mpeg2video -c:a pcm_s16le"),
            ("ogv", "-c:v libtheora -c:a libvorbis"),
            ("asf", "-c:v wmv2 -c:a wmav2"),
            ("dv", "-s 720x576 -c:v dvvideo -c:a pcm_s16le"),
            ("m2v", "-c:v mpeg2video -an"),
            ("h264", "-c:v libx264 -an"),
            ("nut", "-c:v mpeg4 -c:a aac"),
        ],
    )
    def test_what_is_taken_can_be_read(self, tmp_path: Path, kind: str, options: str) -> None:
        """A file of each of the rarer kinds is a clip, and its frames are decoded."""
        source = ("-f", "lavfi", "-i", "testsrc=size=176x144:rate=25:duration=0.4", "-f", "lavfi", "-i", "sine=d=0.4")
        name = f"clip.{kind.upper()}"
        made_media.ffmpeg(
            *source, *options.split(), "-pix_fmt", "yuv420p", "-ac", 2, "-ar", 48000, tmp_path / f"clip.{kind}"
        )
        (tmp_path / f"clip.{kind}").rename(tmp_path / name)
        clips, problems = clips_of("folder", tmp_path)
        assert {clip.video for clip in clips.values()} == {name}
        assert not problems
        assert len(list(Frames(tmp_path / name))) == 10

    def test_what_is_not_taken_is_named(self, tmp_path: Path) -> None:
        """Videos of other kinds and unfinished downloads are named and counted; ordinary files are not."""
        plant(tmp_path, "a.mp4", "b.gif", "c/D.GIF", "e.m3u8", "f.mp4.part", "g.y4m")
        plant(tmp_path, "notes.txt", "x.jpg", "a.srt", "a.json", "README", "notes.part", "photo.PNG", "a.wav")
        manifest, scan = index("folder", tmp_path)
        assert [clip.video for clip in manifest.clips] == ["a.mp4"]
        assert scan.counts() == {"unsupported_video": 5}
        messages = {problem.path: problem.message for problem in scan.problems}
        assert messages["c/D.GIF"] == ".gif is not read: convert it, e.g. to .mp4"
        assert "unfinished download" in messages["f.mp4.part"]

    def test_labels(self, tmp_path: Path) -> None:
        """A pattern gives split, speaker and word."""
        plant(tmp_path, "dev/anna/hello/take 1.mov")
        clips, _ = clips_of("folder", tmp_path, pattern="{split}/{speaker}/{word}/*")
        assert list(clips.values()) == [
            Clip("dev/anna/hello/take%201", "dev/anna/hello/take 1.mov", "val", word="hello", speaker="anna")
        ]

    @pytest.mark.parametrize(
        ("pattern", "path", "labels"),
        [
            ("{speaker}_{word}", "anna_hello", {"speaker": "anna", "word": "hello"}),
            ("{speaker}_{word}", "anna_b_hello", {"speaker": "anna", "word": "b_hello"}),
            ("{speaker}/*", "anna/x/y", None),
            ("{speaker}/**", "anna/x/y", {"speaker": "anna"}),
            ("{speaker}/**", "anna", None),
            ("**/{word}_*", "hello_1", {"word": "hello"}),
            ("**/{word}_*", "a/b/hello_1", {"word": "hello"}),
            ("a/**/{word}", "a/hello", {"word": "hello"}),
            ("{word}/{word}_*", "hello/hello_1", {"word": "hello"}),
            ("{word}/{word}_*", "hello/thanks_1", None),
            ("a.b+[c]/{word}", "a.b+[c]/hello", {"word": "hello"}),
            ("a.b/{word}", "axb/hello", None),
            ("**", "a/b", {}),
        ],
    )
    def test_patterns(self, pattern: str, path: str, labels: dict[str, str] | None) -> None:
        """Names and * match within a path component, ** spans components, and everything else is literal."""
        match = compile_pattern(pattern).fullmatch(path)
        assert (match and match.groupdict()) == labels

    @pytest.mark.parametrize(
        "pattern",
        ["", "/a", "a//b", "a/", "../*", "{speaker", "speaker}", "{}", "{name}/*", "{{word}}", "a**/b", "***"],
    )
    def test_bad_patterns(self, tmp_path: Path, pattern: str) -> None:
        """A malformed pattern or an unknown placeholder is an error that names the option."""
        plant(tmp_path, "a.mp4")
        with pytest.raises(ManifestError, match="--pattern"):
            index("folder", tmp_path, pattern=pattern)

    @settings(deadline=None)
    @given(st.text(), st.text())
    def test_any_pattern(self, pattern: str, path: str) -> None:
        """Any text is a valid pattern or raises ManifestError."""
        with contextlib.suppress(ManifestError):
            compile_pattern(pattern).fullmatch(path)

    def test_no_match(self, tmp_path: Path) -> None:
        """Videos that do not fit the pattern, and videos in an unknown split, are counted."""
        plant(tmp_path, "train/a.mp4", "Validation/b.mp4", "testing/c.mp4", "d.mp4")
        clips, problems = clips_of("folder", tmp_path, pattern="{split}/*")
        assert {key: clip.split for key, clip in clips.items()} == {"train/a": "train", "Validation/b": "val"}
        assert problems == {"no_match": 1, "unknown_split": 1}

    def test_shares(self, tmp_path: Path) -> None:
        """Without {split} the clips are split by the given fractions, the same for every seed."""
        plant(tmp_path, *(f"{n}.mp4" for n in range(300)))
        clips, _ = clips_of("folder", tmp_path, val_fraction=0.5, test_fraction=0)
        again, _ = clips_of("folder", tmp_path, val_fraction=0.5, test_fraction=0, seed=9)
        assert clips == again
        counts = Counter(clip.split for clip in clips.values())
        assert set(counts) == {"train", "val"}
        assert 120 < counts["val"] < 180

    @pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.6, 0.6), (float("nan"), 0.1)])
    def test_bad_shares(self, tmp_path: Path, shares: tuple[float, float]) -> None:
        """Invalid fractions are an error that names the options."""
        with pytest.raises(ManifestError, match="--val-fraction"):
            index("folder", tmp_path, val_fraction=shares[0], test_fraction=shares[1])

    def test_split_by_speaker(self, tmp_path: Path) -> None:
        """With a split by speaker, no speaker is in two splits; the pattern must give the speaker."""
        plant(tmp_path, *(f"p{n}/{m}.mp4" for n in range(40) for m in range(5)))
        with pytest.raises(ManifestError, match=r"--split-by speaker needs \{speaker\}"):
            index("folder", tmp_path, split_by="speaker")
        clips, _ = clips_of("folder", tmp_path, split_by="speaker", pattern="{speaker}/*")
        assert len({(clip.speaker, clip.split) for clip in clips.values()}) == 40
        assert {clip.split for clip in clips.values()} == {"train", "val", "test"}

    def test_sound_beside(self, tmp_path: Path) -> None:
        """Audio next to the video is used only if asked for, and then each clip needs it."""
        plant(tmp_path, "a/x.mp4", "a/x.mp3", "a/x.WAV", "a/y.mp4", "b/y.wav")
        clips, _ = clips_of("folder", tmp_path)
        assert {clip.audio for clip in clips.values()} == {None}
        clips, problems = clips_of("folder", tmp_path, audio_beside=True)
        assert {key: clip.audio for key, clip in clips.items()} == {"a/x": "a/x.WAV"}
        assert problems == {"missing_audio": 1}

    def test_audio_root(self, tmp_path: Path) -> None:
        """Audio below a root of its own lies at the path of the video; keys and labels are those of the video alone."""
        plant(tmp_path, "pictures/anna/hello/1.mp4", "sounds/anna/hello/1.opus", "pictures/anna/hello/2.mp4")
        manifest, scan = index(
            "folder",
            tmp_path / "pictures",
            audio_root=tmp_path / "sounds",
            pattern="{speaker}/{word}/*",
        )
        assert manifest.root == tmp_path.resolve()
        assert [replace(clip, split="") for clip in manifest.clips] == [
            Clip(
                "anna/hello/1",
                "pictures/anna/hello/1.mp4",
                "",
                audio="sounds/anna/hello/1.opus",
                word="hello",
                speaker="anna",
            )
        ]
        assert scan.counts() == {"missing_audio": 1}
        path = tmp_path / "manifest.jsonl"
        path.write_text(render(manifest), encoding="utf-8")
        assert read(path) == manifest

    @pytest.mark.parametrize(
        ("video", "audio"),
        [
            ("M003/video/front/angry/level_1/001.mp4", "M003/audio/angry/level_1/001.m4a"),
            ("M003/video/left_30/angry/level_1/001.mp4", "M003/audio/angry/level_1/001.m4a"),
            ("dev/mp4/id00012/vid/00001.mp4", "dev/aac/id00012/vid/00001.m4a"),
            ("VideoFlash/1001_DFA_ANG_XX.flv", "AudioWAV/1001_DFA_ANG_XX.wav"),
            ("anna/1.mp4", "anna/wav/1.wav"),
        ],
    )
    @pytest.mark.parametrize("apart", [True, False])
    def test_audio_in_its_own_tree(self, tmp_path: Path, video: str, audio: str, apart: bool) -> None:
        """Folders named after the kind of file or the camera may differ, below two roots or one."""
        videos, sounds = (tmp_path / "v", tmp_path / "a") if apart else (tmp_path, tmp_path)
        plant(videos, video)
        plant(sounds, audio)
        manifest, scan = index("folder", videos, audio_root=sounds)
        (clip,) = manifest.clips
        assert clip.audio is not None
        assert (manifest.root / clip.audio).samefile(sounds / audio)
        assert not scan.problems

    def test_audio_that_could_be_of_several(self, tmp_path: Path) -> None:
        """If two audio files fit a video, none is guessed; the same path takes precedence over any other."""
        plant(tmp_path / "v", "left_1/1.mp4", "front/1.mp4", "mp4/2.mp4", "mp4/3.mp4")
        plant(tmp_path / "a", "left_1/1.wav", "front/1.wav", "audio/2.wav", "sound/2.wav", "wav/3.wav", "aac/3.aac")
        manifest, scan = index("folder", tmp_path / "v", audio_root=tmp_path / "a")
        assert {clip.key: clip.audio for clip in manifest.clips} == {
            "left_1/1": "a/left_1/1.wav",
            "front/1": "a/front/1.wav",
            "mp4/3": "a/wav/3.wav",
        }
        assert [(problem.kind, problem.path) for problem in scan.problems] == [("ambiguous_audio", "mp4/2.mp4")]

    def test_audio_root_that_is_none(self, tmp_path: Path) -> None:
        """A missing audio folder, and two places for the audio at once, are errors that name the option."""
        plant(tmp_path, "a.mp4", "a.wav")
        with pytest.raises(ManifestError, match="none: not a folder; --audio-root"):
            index("folder", tmp_path, audio_root=tmp_path / "none")
        with pytest.raises(ManifestError, match="--audio-beside and --audio-root"):
            index("folder", tmp_path, audio_root=tmp_path, audio_beside=True)

    def test_problems_of_the_audio_root(self, tmp_path: Path) -> None:
        """Problems below the other root are listed with their whole path."""
        plant(tmp_path, "v/a.mp4", "a/a.wav", "a/._a.wav")
        (tmp_path / "a/gone.wav").symlink_to("nowhere.wav")
        _, scan = index("folder", tmp_path / "v", audio_root=tmp_path / "a")
        sounds = tmp_path.resolve() / "a"
        assert {problem.kind: problem.path for problem in scan.problems} == {
            "not_a_file": f"{sounds}/gone.wav",
            "mac_leftover": f"{sounds}/._a.wav",
        }
