"""The manifest: written data is read back, keys are safe, and damage is named by file and line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.errors import ManifestError, RunError
from avprep.manifest import SPLITS, Clip, Manifest, duplicate_keys, make_key, read, render, rooted, shuffled

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"

names = st.text(min_size=1).filter(lambda name: not {"/", "\0"} & set(name) and name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
seconds = st.floats(min_value=0.001, max_value=1e6)


@st.composite
def clips(draw: st.DrawFn) -> Clip:
    """A clip with any path and any of the optional fields."""
    path = draw(paths)
    return Clip(
        key=make_key(path),
        video=path,
        split=draw(st.sampled_from(SPLITS)),
        audio=draw(st.none() | paths),
        start=draw(st.none() | seconds),
        duration=draw(st.none() | seconds),
        word=draw(st.none() | st.text()),
        speaker=draw(st.none() | st.text()),
        track=draw(st.none() | paths),
    )


many_clips = st.lists(clips(), max_size=8, unique_by=lambda clip: clip.key).map(tuple)


def write(folder: Path, *rows: dict[str, Any] | str, **header: Any) -> Path:
    """Write a manifest by hand: a good header with some fields replaced, then the rows."""
    first = {"avprep_manifest": 1, "dataset": "folder", "root": "/data", "seed": 0, **header}
    lines = [row if isinstance(row, str) else json.dumps(row) for row in (first, *rows)]
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(**fields: Any) -> dict[str, Any]:
    """Return a good row with some fields replaced."""
    return {"key": "a/b", "video": "a/b.mp4", "split": "train", **fields}


class TestRoundTrip:
    """Written manifests are read back."""

    @settings(deadline=None)
    @given(many_clips, st.integers(-(2**63), 2**63 - 1), st.text(min_size=1))
    def test_everything_comes_back(
        self, tmp_path_factory: pytest.TempPathFactory, rows: tuple[Clip, ...], seed: int, note: str
    ) -> None:
        """A written manifest is read back unchanged, whatever its paths and labels contain."""
        path = tmp_path_factory.mktemp("manifest") / "manifest.jsonl"
        manifest = Manifest("folder", Path("/data"), rows, seed, {"note": note})
        path.write_text(render(manifest), encoding="utf-8")
        assert read(path) == manifest

    def test_windows_line_ends(self, tmp_path: Path) -> None:
        """A manifest that an editor saved with CRLF line ends is read unchanged."""
        path = write(tmp_path, row())
        expected = read(path)
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert read(path) == expected

    def test_empty_lines(self, tmp_path: Path) -> None:
        """Empty lines from an editor are ignored, and the lines after them keep their numbers."""
        assert read(write(tmp_path, "", row(), "  ")) == read(write(tmp_path, row()))
        with pytest.raises(ManifestError, match=r"manifest\.jsonl:4: split must be"):
            read(write(tmp_path, row(), "", row(key="b", split="dev")))

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        """A manifest saved by Notepad or PowerShell, with a byte order mark and CRLF line ends, is read unchanged."""
        path = write(tmp_path, row())
        expected = read(path)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert read(path) == expected

    def test_unset_fields_are_left_out(self) -> None:
        """A row has only the fields that are set, and no nulls."""
        assert Clip("a", "a.mp4", "val", word="hi").to_json() == {
            "key": "a",
            "video": "a.mp4",
            "split": "val",
            "word": "hi",
        }


class TestKeys:
    """A key is made from a path, one to one."""

    @settings(deadline=None)
    @given(paths, paths)
    def test_one_to_one(self, first: str, second: str) -> None:
        """Two paths have the same key only if they are the same path."""
        assert (make_key(first) == make_key(second)) == (PurePosixPath(first) == PurePosixPath(second))

    @settings(deadline=None)
    @given(paths)
    def test_safe(self, path: str) -> None:
        """A key has the folders of its path, but no dot, no blank and no character special to a shell or tar."""
        key = make_key(path)
        assert not set(key) & set(". \t\n\\'\"*?[]{}$&|;<>:~")
        assert key.count("/") == path.count("/")

    def test_plain_paths_stay_readable(self) -> None:
        """The paths of common data sets are their own keys."""
        assert make_key("dev/id00012/-x_21Uxsk56/00001") == "dev/id00012/-x_21Uxsk56/00001"

    def test_encoded_characters(self) -> None:
        """Other characters become the hexadecimal of their bytes, as does the percent sign itself."""
        assert make_key("take 2.1") == "take%202%2E1"
        assert make_key("take%202") == "take%25202"

    @pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
    def test_outside_the_root(self, path: str) -> None:
        """A path that leaves the root has no key."""
        with pytest.raises(ManifestError, match="below the data set's root"):
            make_key(path)

    def test_duplicates(self) -> None:
        """Keys of several clips are returned with the videos that share them."""
        rows = [Clip("a", "a.mp4", "train"), Clip("b", "b.mp4", "train"), Clip("a", "a.mov", "val")]
        assert duplicate_keys(rows) == {"a": ["a.mp4", "a.mov"]}


class TestPlan:
    """The order of the rows."""

    @settings(deadline=None)
    @given(many_clips, st.randoms(use_true_random=False), st.integers(0, 3))
    def test_shuffle_forgets_the_scan_order(self, rows: tuple[Clip, ...], random: Any, seed: int) -> None:
        """The order depends on the clips and the seed, not on the order in which the clips were found."""
        again = list(rows)
        random.shuffle(again)
        assert shuffled(again, seed) == shuffled(rows, seed)
        assert sorted(shuffled(rows, seed), key=lambda clip: clip.key) == sorted(rows, key=lambda clip: clip.key)

    def test_seeds_differ(self) -> None:
        """Another seed gives another order."""
        rows = [Clip(f"{n}", f"{n}.mp4", "train") for n in range(50)]
        assert shuffled(rows, 0) != shuffled(rows, 1)

    @settings(deadline=None)
    @given(many_clips, st.integers(1, 4))
    def test_shards_hold_every_clip_once(self, rows: tuple[Clip, ...], shard_size: int) -> None:
        """The shards of a manifest contain each clip once, are full except the last, and never mix splits."""
        plan = Manifest("folder", Path("/data"), shuffled(rows, 0))
        shards = list(plan.shards(shard_size))
        assert [clip for _, held in shards for clip in held] == list(plan.clips)
        assert len({name for name, _ in shards}) == len(shards)
        for split in SPLITS:
            sizes = [len(held) for name, held in shards if name.startswith(split)]
            assert all(size == shard_size for size in sizes[:-1])
            assert all(clip.split == split for name, held in shards if name.startswith(split) for clip in held)

    def test_limit_is_by_split(self) -> None:
        """A limited manifest has the header and the first clips of each split of the whole one."""
        rows = [Clip(f"{split}{n}", f"{split}{n}.mp4", split) for split in SPLITS for n in range(5)]
        plan = Manifest("folder", Path("/data"), shuffled(rows, 0), 7, {"note": "kept"})
        assert plan.limited(2).header() == plan.header()
        for split in SPLITS:
            assert plan.limited(2).split(split) == plan.split(split)[:2]
        assert plan.limited(None) == plan

    def test_digest(self) -> None:
        """The digest depends on the rows and their order, not on the place of the data set."""
        rows = (Clip("a", "a.mp4", "train"), Clip("b", "b.mp4", "train"))
        plan = Manifest("folder", Path("/data"), rows)
        assert plan.digest() == Manifest("folder", Path("/elsewhere"), rows).digest()
        assert plan.digest() != Manifest("folder", Path("/data"), rows[::-1]).digest()
        assert plan.digest() != Manifest("grid", Path("/data"), rows).digest()


def test_a_data_set_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root relative to the current folder becomes absolute, and everything else stays."""
    (tmp_path / "moved").mkdir()
    monkeypatch.chdir(tmp_path)
    plan = Manifest("folder", Path("/gone"), (Clip("a", "a.mp4", "train"),), 7, {"note": "kept"})
    assert rooted(plan, "moved") == replace(plan, root=tmp_path / "moved")
    with pytest.raises(RunError, match="/gone: the data set is not there"):
        rooted(plan, None)


class TestDamage:
    """Each kind of damage gives one clear line."""

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (row(key="a.b"), "no dot"),
            (row(key="/a"), "slash"),
            (row(key="a/"), "slash"),
            (row(key="a" * 12_289), "up to 12288 characters"),
            (row(key=""), "'key' is missing"),
            (row(video=""), "'video' is missing"),
            (row(video="/etc/passwd"), "below the root"),
            (row(video="../b.mp4"), "below the root"),
            (row(audio="/a.wav"), "below the root"),
            (row(track="a/../../b.txt"), "below the root"),
            (row(video="\0a.mp4"), "video holds a NUL"),
            (row(split="dev"), "split must be one of"),
            (row(split=["train"]), "split must be text"),
            (row(word=7), "word must be text"),
            (row(start=-1), "start must be a number"),
            (row(start="0"), "start must be a number"),
            (row(start=True), "start must be a number"),
            (row(duration=0), "duration must be a number"),
            (row(duration=float("nan")), "duration must be a number"),
            (row(duration=float("inf")), "duration must be a number"),
            (row(words=[["on", 0.5, 0.2]]), "words must be in order"),
            (row(words=[["on", 0.5, 0.7], ["off", 0.6, 0.8]]), "words must be in order"),
            (row(words=[["on", -0.1, 0.2]]), "words must be in order"),
            (row(words=[["on", 0, float("inf")]]), "words must be in order"),
            (row(labels={"video": "b.mp4"}), "a label's name is"),
            (row(labels={"text": ""}), "the label text must be text"),
            (row(colour="red"), "unknown field 'colour'"),
            ("[1]", "JSON object"),
            ("{", "not JSON"),
        ],
    )
    def test_bad_row(self, tmp_path: Path, bad: dict[str, Any] | str, message: str) -> None:
        """A bad row is refused in one line with the file, the line and the fault."""
        path = write(tmp_path, row(key="good"), bad)
        with pytest.raises(ManifestError, match=message) as error:
            read(path)
        assert str(error.value).startswith(f"{path}:3: ")
        assert "avprep index" not in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ({"avprep_manifest": None}, "not a manifest"),
            ({"avprep_manifest": 2}, "version 2, but this avprep reads version 1"),
            ({"root": None}, "root and dataset|dataset"),
            ({"dataset": 1}, "dataset"),
            ({"seed": "monday"}, "seed must be a whole number, not 'monday'"),
        ],
    )
    def test_bad_header(self, tmp_path: Path, header: dict[str, Any], message: str) -> None:
        """A file that is not a manifest, or is of another version, is refused."""
        with pytest.raises(ManifestError, match=message):
            read(write(tmp_path, row(), **header))

    def test_longest_key(self, tmp_path: Path) -> None:
        """A key of the maximum length is read."""
        assert len(read(write(tmp_path, row(key="a" * 12_288))).clips) == 1

    def test_duplicate_key(self, tmp_path: Path) -> None:
        """A key that occurs twice is refused with the videos that share it."""
        path = write(tmp_path, row(), row(video="a/b.mov"))
        with pytest.raises(ManifestError, match=r"a/b is there 2 times \(a/b.mp4, a/b.mov\)"):
            read(path)

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe{}", b"PK\x03\x04"])
    def test_not_a_manifest(self, tmp_path: Path, content: bytes) -> None:
        """An empty file, another encoding or another kind of file is an error that names the file."""
        path = tmp_path / "manifest.jsonl"
        path.write_bytes(content)
        with pytest.raises(ManifestError, match=r"manifest\.jsonl"):
            read(path)

    @pytest.mark.parametrize("content", [b"hello\n", b"[1]\n", b"\xff\xfe{}"])
    def test_a_file_of_another_kind(self, tmp_path: Path, content: bytes) -> None:
        """If already the first line cannot be read, the error names the command that makes a manifest."""
        path = tmp_path / "readme.txt"
        path.write_bytes(content)
        with pytest.raises(ManifestError, match=r"readme\.txt:1: not .*; MANIFEST is a file that `avprep index`"):
            read(path)

    def test_missing_file(self, tmp_path: Path) -> None:
        """A missing manifest is an error that names the command that makes one."""
        with pytest.raises(ManifestError, match="avprep index"):
            read(tmp_path / "none.jsonl")

    def test_a_folder(self, tmp_path: Path) -> None:
        """A folder in place of the manifest is an error that names it."""
        with pytest.raises(ManifestError, match="cannot read the manifest"):
            read(tmp_path)


class TestShipped:
    """The files of the folder `manifests`."""

    def test_lrw_words(self) -> None:
        """The word list of LRW has its 500 words, each once and in order."""
        words = (MANIFESTS / "lrw_words.txt").read_text(encoding="ascii").splitlines()
        assert len(set(words)) == len(words) == 500
        assert words == sorted(words)
        assert all(word.isalpha() and word.isupper() and len(word) >= 5 for word in words)
        assert [*words[:3], words[-1]] == ["ABOUT", "ABSOLUTELY", "ABUSE", "YOUNG"]

    @pytest.mark.parametrize("layout", ["lrw", "voxceleb2", "grid", "folder"])
    def test_examples(self, layout: str) -> None:
        """Each example is a manifest of a few clips whose text equals what would be written."""
        path = MANIFESTS / "examples" / f"{layout}.jsonl"
        manifest = read(path)
        assert manifest.dataset == layout
        assert 3 <= len(manifest.clips) <= 4
        assert render(manifest) == path.read_text(encoding="utf-8")

    def test_readme_rows(self, tmp_path: Path) -> None:
        """The rows of the format description are valid."""
        text = (MANIFESTS / "README.md").read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith('{"key"')]
        assert len(rows) == 5
        for shown in rows:
            assert read(write(tmp_path, shown)).clips
