"""The table of clips: columns joined by key, everything left out counted, hostile shards refused."""

from __future__ import annotations

import io
import json
import pickle
import resource
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import made_shards
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_shards import Made, Members
from small_models import READS

from avprep import schema, shards
from avprep.errors import ShardError
from davs_model.data.batch import empty_batch
from davs_model.data.clips import Clips, read_clips
from davs_model.data.reads import Shape, chosen
from davs_model.data.sources import ClipSource, usable

KEY = "s1/yes"
LONG = ["long/" * 30 + "key", "n" * 120, "日本語/ünï-cödé", "ä" * 60]


@pytest.fixture(scope="session")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of twelve clips; read-only."""
    return made_shards.write(tmp_path_factory.mktemp("dozen"), made_shards.a_dozen())


@pytest.fixture
def copy(dozen: Path, tmp_path: Path) -> Path:
    """Shards of twelve clips, to damage."""
    return Path(shutil.copytree(dozen, tmp_path / "out"))


def small(key: str = KEY, **given: Any) -> Made:
    """Return a clip of three frames."""
    return Made(key, n_frames=3, **given)


def accounted(clips: Clips) -> int:
    """Return the number of clips in the table or counted as skipped."""
    return len(clips) + clips.skipped.total()


def refusal(act: Callable[[], object]) -> str:
    """Return the one line of an error."""
    with pytest.raises(ShardError) as caught:
        act()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def load(clips: Clips, *names: str, row: int = 0) -> None:
    """Read a clip as training does."""
    shape = Shape(chosen(READS, names), image_size=16)
    ClipSource(clips, shape).load(row, empty_batch(shape, 1), 0, None)


def edit_sidecar(
    out: Path, column: str, change: Callable[[dict[str, Any]], object], name: str = "train-000000"
) -> Path:
    """Change the content of a sidecar."""
    path = shards.sidecar_path(out, column, name)
    sidecar = json.loads(path.read_bytes())
    change(sidecar)
    path.write_text(json.dumps(sidecar), encoding="utf-8")
    return path


class TestTable:
    """The content of a split's table."""

    def test_rows_and_labels(self, dozen: Path) -> None:
        """Each clip is a row in the manifest's order, labels are indices into the sorted names, nothing is skipped."""
        clips = read_clips(dozen, "train")
        made = made_shards.a_dozen()
        assert [clips.key(row) for row in range(len(clips))] == [clip.key for clip in made]
        assert clips.label_names["words"] == ("no", "why", "yes")
        assert clips.label_names["speakers"] == ("s0", "s1")
        assert [clips.label_names["words"][word] for word in clips.words] == [clip.word for clip in made]
        assert [clips.label_names["speakers"][speaker] for speaker in clips.speakers] == [clip.speaker for clip in made]
        assert [clips.shards[shard] for shard in clips.shard] == [f"train-{clip.shard:06d}" for clip in made]
        assert set(clips.n_frames) == {29}
        assert clips.mfcc_preset == "davs"
        assert not clips.skipped

    def test_members(self, dozen: Path) -> None:
        """Exactly the requested frames or arrays are returned, with the bytes that were written."""
        clips = read_clips(dozen, "train")
        for row in range(len(clips)):
            key = clips.key(row)
            written = made_shards.crop_members(key)
            assert clips.read(row, "crop", (0, 7, 28)) == {
                name: written[name] for name in ("000.jpg", "007.jpg", "028.jpg")
            }
            sound = made_shards.mfcc_members(key)
            assert clips.read(row, "mfcc", ()) == {name: sound[name] for name in ("mfcc.npy", "valid.npy")}

    def test_splits_are_apart(self, tmp_path: Path) -> None:
        """A split's labels can use the numbers of another split; a name that the other lacks is unknown."""
        made = [small("a", word="yes", speaker="x"), small("b", word="no", speaker="y")]
        made += [small("c", split="val", word="yes"), small("d", split="val", word="maybe", speaker="y")]
        made_shards.write(tmp_path, made)
        train = read_clips(tmp_path, "train")
        val = read_clips(
            tmp_path, "val", label_names={label: train.label_names[label] for label in ("words", "speakers")}
        )
        assert [val.key(row) for row in range(len(val))] == ["c", "d"]
        assert val.words.tolist() == [train.label_names["words"].index("yes"), -1]
        assert val.speakers.tolist() == [-1, train.label_names["speakers"].index("y")]
        assert read_clips(tmp_path, "val").label_names["words"] == ("maybe", "yes")
        assert len(read_clips(tmp_path, "test")) == 0

    @settings(deadline=None, max_examples=25)
    @given(st.data())
    def test_every_clip_is_accounted_for(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        """Each clip of the manifest is a row, or is skipped with its reason if it failed or is not finished."""
        out = tmp_path_factory.mktemp("out")
        made = [small(f"k{n}", shard=n // 2) for n in range(6)]
        failures = st.dictionaries(
            st.sampled_from([clip.key for clip in made]), st.sampled_from(["no_face", "timeout"]), max_size=4
        )
        crop, mfcc = data.draw(failures), data.draw(failures)
        made_shards.write(out, made_shards.with_failures(made, crop, mfcc))
        places = [(column, number) for column in schema.COLUMNS for number in range(3)]
        gone = data.draw(st.sets(st.sampled_from(places), max_size=3))
        for column, number in gone:
            shards.sidecar_path(out, column, f"train-{number:06d}").unlink()
        expected: list[str] = []
        for clip in made:
            crop_gone, mfcc_gone = ((column, clip.shard) in gone for column in schema.COLUMNS)
            if crop_gone and mfcc_gone:
                expected.append("in no finished shard")
            elif clip.key in crop and not crop_gone:
                expected.append(f"crop: {crop[clip.key]}")
            elif clip.key in mfcc and not mfcc_gone:
                expected.append(f"mfcc: {mfcc[clip.key]}")
            elif crop_gone or mfcc_gone:
                expected.append(f"{'crop' if crop_gone else 'mfcc'}: not there")
        clips = read_clips(out, "train")
        assert sorted(clips.skipped.elements()) == sorted(expected)
        assert accounted(clips) == len(made)
        for row in range(len(clips)):
            assert clips.read(row, "crop", (1,)).keys() == {"001.jpg"}
            assert clips.read(row, "mfcc", ()).keys() == {"mfcc.npy", "valid.npy"}

    def test_a_clip_that_one_column_lacks(self, copy: Path) -> None:
        """A clip that only one column's sidecar lists is skipped, and counted as missing in the other."""
        edit_sidecar(copy, "mfcc", lambda sidecar: sidecar["clips"].pop())
        clips = read_clips(copy, "train")
        assert clips.skipped == {"mfcc: not there": 1}
        assert accounted(clips) == 12

    def test_a_clip_that_is_not_planned(self, copy: Path) -> None:
        """A clip that is not in the manifest gives no row."""
        lines = (copy / "manifest.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (copy / "manifest.jsonl").write_text("".join(lines[:1] + lines[2:]), encoding="utf-8")
        clips = read_clips(copy, "train")
        assert clips.skipped == {"not in the manifest": 1}
        assert len(clips) == 11

    def test_columns_that_differ(self, copy: Path) -> None:
        """A clip whose columns differ in length is skipped."""
        edit_sidecar(copy, "mfcc", lambda sidecar: sidecar["clips"][1].update(n_frames=28))
        clips = read_clips(copy, "train")
        assert clips.skipped == {"crop and mfcc differ in length": 1}
        assert accounted(clips) == 12

    def test_no_tar(self, copy: Path) -> None:
        """A sidecar without its tar is an unfinished shard."""
        (copy / "crop" / "train-000001.tar").unlink()
        clips = read_clips(copy, "train")
        assert clips.skipped == {"crop: not there": 4}
        assert accounted(clips) == 12

    @pytest.mark.parametrize("change", [-512, -1, 512], ids=["cut", "a byte", "longer"])
    def test_a_tar_of_another_size(self, copy: Path, change: int) -> None:
        """The clips of a tar that was truncated, or has grown, are skipped."""
        path = copy / "mfcc" / "train-000002.tar"
        data = path.read_bytes()
        path.write_bytes(data[:change] if change < 0 else data + bytes(change))
        clips = read_clips(copy, "train")
        assert clips.skipped == {"mfcc: the tar is not the one that its sidecar describes": 4}
        assert accounted(clips) == 12

    @pytest.mark.parametrize("length", [None, 0, -512, "512", 2.5])
    def test_a_sidecar_without_lengths(self, copy: Path, length: object) -> None:
        """A sidecar without the positions of its clips is damaged."""
        path = edit_sidecar(copy, "crop", lambda sidecar: sidecar["clips"][1].update(bytes=length))
        assert f"{path}: damaged" in refusal(lambda: read_clips(copy, "train"))

    @pytest.mark.parametrize("key", LONG, ids=lambda key: f"{key[:6]}-{len(key)}")
    def test_odd_keys(self, tmp_path: Path, key: str) -> None:
        """Long keys and keys that are not ASCII, which tars store differently, are read like any other."""
        made_shards.write(tmp_path, [small("before"), small(key), small("z")])
        clips = read_clips(tmp_path, "train")
        assert clips.key(1) == key
        members = made_shards.crop_members(key, 3)
        assert clips.read(1, "crop", (0, 2)) == {name: members[name] for name in ("000.jpg", "002.jpg")}
        sound = made_shards.mfcc_members(key, 3)
        assert clips.read(1, "mfcc", ()) == {name: sound[name] for name in ("mfcc.npy", "valid.npy")}
        assert clips.read(2, "crop", (1,)) == {"001.jpg": made_shards.crop_members("z", 3)["001.jpg"]}

    def test_png(self, tmp_path: Path) -> None:
        """Frames may be PNGs."""
        made_shards.write(tmp_path, [small()], image_format="png")
        assert read_clips(tmp_path, "train").read(0, "crop", (2,)).keys() == {"002.png"}

    def test_crops_with_landmarks(self, tmp_path: Path) -> None:
        """Crops with the landmarks that the detectors dlib and face-alignment store are read like any others."""
        made_shards.write(tmp_path, [small()])
        landmarks = schema.encode_array(np.zeros((3, schema.N_LANDMARKS, 2), np.float32))
        members = made_shards.crop_members(KEY, 3) | {"landmarks.npy": landmarks}
        stretch = made_shards.stretch(tmp_path, KEY, members)
        made_shards.write_shard(tmp_path, "crop", "train-000000", [(small(), stretch)])
        found = read_clips(tmp_path, "train").read(0, "crop", (1,), arrays=True)
        assert found == {name: members[name] for name in ("001.jpg", "points.npy", "affine.npy")}

    def test_what_a_stage_can_use(self, tmp_path: Path) -> None:
        """Clips that are too short for a stage, or lack a label that it needs, are counted as skipped."""
        made = [small("short", word="yes", speaker="x"), Made("wordless", speaker="x"), Made("nobody", word="yes")]
        made_shards.write(tmp_path, [*made, Made("good", word="yes", speaker="x")])
        clips = usable(
            read_clips(tmp_path, "train"), Shape(chosen(READS, ("frames", "windows"))), words=True, speakers=True
        )
        assert [clips.key(row) for row in range(len(clips))] == ["good"]
        assert clips.skipped.keys() == {
            "shorter than 23 frames",
            "no word of the training set",
            "no speaker of the training set",
        }
        assert accounted(clips) == 4
        load(clips, "frames", "windows")

    def test_many_tars(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process closes tars that it has not read for long."""
        made_shards.write(tmp_path, [small(f"k{n}", shard=n) for n in range(70)])
        clips = read_clips(tmp_path, "train")
        for row in (*range(70), *range(70)):
            assert clips.read(row, "mfcc", ()).keys() == {"mfcc.npy", "valid.npy"}


class TestRefused:
    """Folders that are not avprep's, or of another version."""

    @pytest.mark.parametrize(
        ("gone", "remedy"),
        [
            ("manifest.jsonl", "no shards here"),
            ("crop", "run `avprep crop` first"),
            ("mfcc", "run `avprep mfcc` first"),
        ],
    )
    def test_something_lacks(self, copy: Path, gone: str, remedy: str) -> None:
        """A folder without a manifest or a column is refused with the remedy."""
        (copy / gone).rename(copy / "elsewhere")
        assert remedy in refusal(lambda: read_clips(copy, "train"))

    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_versions(self, copy: Path, version: object) -> None:
        """A manifest or sidecar of an unknown version is refused, with file and version."""
        path = edit_sidecar(copy, "mfcc", lambda sidecar: sidecar.update(avprep_sidecar=version))
        said = refusal(lambda: read_clips(copy, "train"))
        assert str(path) in said
        assert f"version {version!r}" in said
        path = copy / "manifest.jsonl"
        path.write_text(json.dumps({"avprep_manifest": version}) + "\n", encoding="utf-8")
        said = refusal(lambda: read_clips(copy, "train"))
        assert str(path) in said
        assert ("not a manifest" if version is None else f"version {version!r}") in said

    @pytest.mark.parametrize(
        "data", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000, b'{"avprep_sidecar": 1, "clips": [7]}']
    )
    def test_no_sidecar(self, copy: Path, data: bytes) -> None:
        """A sidecar that is not JSON, or not avprep's, is refused by its name."""
        path = shards.sidecar_path(copy, "crop", "train-000001")
        path.write_bytes(data)
        if data.endswith(b"[7]}"):
            edit_sidecar(copy, "crop", lambda s: s.update(bytes=path.with_suffix(".tar").stat().st_size), path.stem)
        assert str(path) in refusal(lambda: read_clips(copy, "train"))

    @pytest.mark.parametrize(
        "line",
        ["{", "[]", "7", '{"key": 1, "split": "train"}', '{"split": "train"}', "[" * 100_000]
        + [json.dumps({"key": key, "split": "train"}) for key in ("a\nb", "a\0", "\udcff", "\ud800")],
    )
    def test_no_plan(self, copy: Path, line: str) -> None:
        """A manifest with an invalid line, or a key that is not a line of text, is refused by its name."""
        path = copy / "manifest.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        assert str(path) in refusal(lambda: read_clips(copy, "train"))

    @pytest.mark.parametrize(
        "change",
        [
            {"n_frames": 2**62},
            {"n_frames": 10**12},
            {"bytes": 2**62},
            {"bytes": 1 << 45},
        ],
        ids=str,
    )
    def test_numbers_that_cannot_be_true(self, copy: Path, change: dict[str, object]) -> None:
        """A sidecar that lists more than its tar contains costs clips, not memory."""
        edit_sidecar(copy, "crop", lambda sidecar: sidecar["clips"][3].update(change))
        edit_sidecar(copy, "mfcc", lambda sidecar: sidecar["clips"][3].update(change))
        clips = read_clips(copy, "train")
        assert clips.skipped == {"crop: the tar is not the one that its sidecar describes": 1}
        assert accounted(clips) == 12

    @pytest.mark.parametrize("n_frames", [0, -1, "29", 2.5, None])
    def test_no_number_of_frames(self, copy: Path, n_frames: object) -> None:
        """A sidecar whose clip has no frames is damaged."""
        path = edit_sidecar(copy, "mfcc", lambda sidecar: sidecar["clips"][3].update(n_frames=n_frames))
        assert f"{path}: damaged" in refusal(lambda: read_clips(copy, "train"))

    def test_a_length_that_is_wrong(self, copy: Path) -> None:
        """Clips whose bytes are not where the sidecar says are refused when they are read, by file and key."""
        edit_sidecar(copy, "crop", lambda sidecar: sidecar["clips"][1].update(bytes=sidecar["clips"][1]["bytes"] - 512))
        clips = read_clips(copy, "train")
        assert clips.read(0, "crop", (0,))
        for row in (1, 2):
            said = refusal(lambda row=row: clips.read(row, "crop", (0,)))
            assert said.startswith(f"{copy / 'crop' / 'train-000000.tar'}: {clips.key(row)}: ")


def raw(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return members as they are in a tar, whatever they claim."""
    parts = []
    for info, data in members:
        parts += [info.tobuf(form, "utf-8", "surrogateescape"), data, bytes(-len(data) % 512)]
    return b"".join(parts)


def info(name: str, size: int, **given: Any) -> tarfile.TarInfo:
    """Return a header."""
    made = tarfile.TarInfo(name)
    made.size = size
    for field, value in given.items():
        setattr(made, field, value)
    return made


def gzip_that_looks_like_tar(content: bytes) -> bytes:
    """Return a gzip stream whose first 512 bytes are, through a comment, a tar header with a right checksum."""
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(content) + packer.flush()
    head = bytearray((b"\x1f\x8b\x08\x10" + bytes(6)).ljust(600)) + b"\0"
    head[156:157] = b"0"
    head[257:262] = b"ustar"
    head[148:156] = b"%07o " % sum(head[:512])
    return bytes(head) + body + struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)


class TestHostile:
    """Bytes of a tar that are not exactly the sample are refused, and nothing in them is executed."""

    @pytest.fixture(params=[KEY, LONG[0]], ids=["short", "long"])
    def key(self, request: pytest.FixtureRequest) -> str:
        """A key that is written in the plainest way, and one that is not."""
        return str(request.param)

    @staticmethod
    def write(out: Path, key: str, *, crop: bytes | None = None, mfcc: bytes | None = None) -> Clips:
        """Write a clip of three frames from the given bytes, and another after it; return the table."""
        made = [small(key), small("z")]
        made_shards.write(out, made)
        for column, data, members in (
            ("crop", crop, made_shards.crop_members),
            ("mfcc", mfcc, made_shards.mfcc_members),
        ):
            good = made_shards.stretch(out, key, members(key, 3)) if data is None else data
            behind = made_shards.stretch(out, "z", members("z", 3))
            made_shards.write_shard(out, column, "train-000000", [(made[0], good), (made[1], behind)])
        return read_clips(out, "train")

    def refused(self, tmp_path: Path, key: str, stretch: bytes, column: str = "crop") -> str:
        """Assert that the bytes are refused, and that the clip after them is not; return the reason."""
        out = Path(tempfile.mkdtemp(dir=tmp_path)) / "deep" / "in"  # the tar of an earlier table may still be open
        out.mkdir(parents=True)
        before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(out)}
        clips = self.write(out, key, **{column: stretch})
        frames = (0, 1, 2) if column == "crop" else ()
        said = refusal(lambda: clips.read(0, column, frames))
        assert said.startswith(f"{out / column / 'train-000000.tar'}: {key}: ")
        assert clips.read(1, column, frames)
        assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(out)} == before
        return said.removeprefix(f"{out / column / 'train-000000.tar'}: {key}: ")

    @pytest.mark.parametrize("gone", ["000.jpg", "002.jpg", "points.npy", "clip.json"])
    def test_a_member_lacks(self, tmp_path: Path, key: str, gone: str) -> None:
        """A sample without one of its members is refused."""
        members = made_shards.crop_members(key, 3)
        del members[gone]
        assert "is missing" in self.refused(tmp_path, key, made_shards.stretch(tmp_path, key, members))

    @pytest.mark.parametrize("name", ["evil.pkl", "x.pyd", "003.jpg", "000.png", "mfcc.npy", "pyd", "__init__.py"])
    def test_a_surplus_member(self, tmp_path: Path, key: str, name: str) -> None:
        """A foreign member in the sample is refused, whatever its name."""
        members = made_shards.crop_members(key, 3) | {name: pickle.dumps(0)}
        said = self.refused(tmp_path, key, made_shards.stretch(tmp_path, key, members))
        assert said == f"'{key}.{name}' does not belong to the sample"

    @pytest.mark.parametrize("owner", ["../../etc/{}", "/{}", "./{}", "{}x", "other", "__{}__"])
    def test_a_name_of_another(self, tmp_path: Path, key: str, owner: str) -> None:
        """A member with another key, or a path that climbs, is refused and written nowhere."""
        members = list(made_shards.crop_members(key, 3).items())
        other = made_shards.stretch(tmp_path, owner.format(key), members[:1])
        assert self.refused(tmp_path, key, made_shards.stretch(tmp_path, key, members) + other)
        assert self.refused(tmp_path, key, other + made_shards.stretch(tmp_path, key, members[1:]))

    def test_a_member_twice(self, tmp_path: Path, key: str) -> None:
        """A member that occurs twice is refused."""
        members = [*made_shards.crop_members(key, 3).items(), ("001.jpg", b"\xff\xd8\xff")]
        assert "there twice" in self.refused(tmp_path, key, made_shards.stretch(tmp_path, key, members))

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
    def test_links_and_devices(self, tmp_path: Path, key: str, kind: bytes) -> None:
        """A link, a device or a folder is refused, in place of a frame and in addition."""
        good = made_shards.stretch(tmp_path, key, made_shards.crop_members(key, 3))
        for name in (f"{key}.001.jpg", f"{key}.link"):
            odd = raw((info(name, 0, type=kind, linkname="/etc/passwd"), b""))
            assert "plain file" in self.refused(tmp_path, key, good + odd)

    @pytest.mark.parametrize("claimed", [10**12, -512, -1024, 1 << 62])
    def test_sizes_that_lie(self, tmp_path: Path, key: str, claimed: int) -> None:
        """A member that claims to be longer than everything, or of negative length, costs neither memory nor time."""
        members = [m for m in made_shards.mfcc_members(key, 3).items() if m[0] != "valid.npy"]
        odd = raw((info(f"{key}.valid.npy", claimed), b"1"), form=tarfile.GNU_FORMAT)
        good = made_shards.stretch(tmp_path, key, members)
        assert self.refused(tmp_path, key, good + odd, "mfcc")
        assert self.refused(tmp_path, key, odd + good, "mfcc")

    def test_holes(self, tmp_path: Path, key: str) -> None:
        """A sparse member, which would be far longer in memory than in the tar, is refused."""
        sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**13), "GNU.sparse.numblocks": "1"}
        members = [m for m in made_shards.mfcc_members(key, 3).items() if m[0] != "valid.npy"]
        odd = raw((info(f"{key}.valid.npy", 1, pax_headers=sparse), b"1"))
        good = made_shards.stretch(tmp_path, key, members)
        assert "plain file" in self.refused(tmp_path, key, good + odd, "mfcc")

    def test_a_compressed_tar(self, tmp_path: Path, key: str) -> None:
        """A gzip stream in place of a sample is not unpacked, though its head is a tar's."""
        good = made_shards.stretch(tmp_path, key, made_shards.crop_members(key, 3))
        packed = gzip_that_looks_like_tar(good + bytes(1024))
        assert tarfile.TarInfo.frombuf(packed[:512], "utf-8", "surrogateescape").isreg()
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            assert len(tar.getnames()) == 6
        assert self.refused(tmp_path, key, packed + bytes(-len(packed) % 512)).startswith("not a whole sample of a tar")
        packed = zlib.compress(good, wbits=31)
        assert self.refused(tmp_path, key, packed.ljust(len(good), b"\0")).startswith("not a whole sample of a tar")

    @pytest.mark.parametrize("data", [bytes(5120), b"x" * 5120, b"\xff" * 5120], ids=["nothing", "text", "ones"])
    def test_no_tar(self, tmp_path: Path, key: str, data: bytes) -> None:
        """Bytes that are not a tar are refused."""
        assert self.refused(tmp_path, key, data).startswith("not a whole sample of a tar")

    @pytest.mark.parametrize("key", [KEY, LONG[2]], ids=["short", "long"])
    def test_flipped_bytes(self, tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
        """Whatever bytes are changed, reading gives the requested members or a ShardError of one line."""
        out = tmp_path_factory.mktemp("flipped")
        clips = self.write(out, key)
        paths = {column: shards.tar_path(out, column, "train-000000") for column in schema.COLUMNS}
        whole = {column: path.read_bytes() for column, path in paths.items()}

        @settings(deadline=None, max_examples=60)
        @given(st.data())
        def flip(data: st.DataObject) -> None:
            column = data.draw(st.sampled_from(schema.COLUMNS))
            length = int(clips.places[0, schema.COLUMNS.index(column), 1])
            headers = [n for n in range(0, length, 512) if whole[column][n + 257 : n + 262] == b"ustar"]
            in_header = st.builds(int.__add__, st.sampled_from(headers), st.integers(0, 511))
            content = bytearray(whole[column])
            for place in data.draw(st.lists(in_header | st.integers(0, length - 1), min_size=1, max_size=4)):
                content[place] = data.draw(st.integers(0, 255))
            with paths[column].open("r+b") as file:
                file.write(content)
            wanted = {"001.jpg"} if column == "crop" else {"mfcc.npy", "valid.npy"}
            try:
                assert clips.read(0, column, (1,) if column == "crop" else ()).keys() == wanted
            except ShardError as error:
                assert len(str(error).splitlines()) == 1  # noqa: PT017 - either is right

        flip()


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def object_array(*values: object) -> bytes:
    """Return the bytes of a .npy file that holds a pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, object), allow_pickle=True)
    return buffer.getvalue()


def png(width: int, height: int, *before: tuple[bytes, bytes]) -> bytes:
    """Return a PNG that claims a size and contains next to nothing; before: chunks before its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [*before, (b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def jpeg(height: int = 256, width: int = 256) -> bytes:
    """Return a grey JPEG."""
    return cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


def two_headed_jpeg() -> bytes:
    """Return a JPEG that decoders read as 20000×20000, but readers that ignore fill bytes as 256×256."""
    good = jpeg()
    begin = good.index(b"\xff\xc0")
    head = bytearray(good[:2] + b"\xff" + good[begin:])
    head[8:12] = struct.pack(">HH", 20_000, 20_000)
    second = 4 + int.from_bytes(head[4:6], "big")
    return bytes(head.ljust(second, b"\0")[:second]) + good[begin:]


class TestContent:
    """Members that contradict their names are refused before they cost or do anything."""

    @staticmethod
    def clips(out: Path, *, crop: Members | None = None, mfcc: Members | None = None) -> Clips:
        """Write a clip some of whose members are replaced."""
        made = Made(KEY)
        made_shards.write(out, [made])
        for column, changed, members in (
            ("crop", crop, made_shards.crop_members),
            ("mfcc", mfcc, made_shards.mfcc_members),
        ):
            if changed is not None:
                data = made_shards.stretch(out, KEY, members(KEY) | changed)
                made_shards.write_shard(out, column, "train-000000", [(made, data)])
        return read_clips(out, "train")

    @pytest.mark.parametrize(
        ("name", "array", "reason"),
        [
            ("mfcc.npy", np.zeros((28, 12, 20), np.float32), r"mfcc\.npy is <f4 \(28, 12, 20\), expected"),
            ("mfcc.npy", np.zeros((29, 13, 20), np.float32), "expected <f4"),
            ("mfcc.npy", np.zeros((29, 12, 20), np.float64), "mfcc.npy is <f8"),
            ("mfcc.npy", np.zeros((29, 12, 20), ">f4"), "mfcc.npy is >f4"),
            ("mfcc.npy", np.full((29, 12, 20), np.nan, np.float32), "not finite"),
            ("mfcc.npy", np.full((29, 12, 20), np.inf, np.float32), "not finite"),
            ("valid.npy", np.ones(28, bool), r"valid\.npy is \|b1 \(28,\)"),
            ("valid.npy", np.ones(29, np.uint8), r"valid\.npy is \|u1"),
            ("valid.npy", np.ones((29, 1), bool), "expected"),
        ],
    )
    def test_arrays(self, tmp_path: Path, name: str, array: np.ndarray[Any, Any], reason: str) -> None:
        """An array of another shape or dtype, or with values that are not finite, is refused by its clip and name."""
        clips = self.clips(tmp_path, mfcc={name: schema.encode_array(array)})
        with pytest.raises(ShardError, match=f"^{KEY}: .*{reason}"):
            load(clips, "frames", "windows")

    @pytest.mark.parametrize("name", ["mfcc.npy", "valid.npy"])
    def test_pickles_stay_shut(self, tmp_path: Path, name: str) -> None:
        """An array of objects, or a bare pickle, is refused and not unpickled."""
        marker = tmp_path / "marker"
        for n, data in enumerate((object_array(Evil(marker)), pickle.dumps(Evil(marker)), b"", b"\x93NUMPY\x01\x00")):
            clips = self.clips(tmp_path / str(n), mfcc={name: data})
            assert f"{KEY}: {name}: not a plain .npy array" in refusal(
                lambda clips=clips: load(clips, "frames", "windows")
            )
        clips = self.clips(tmp_path / "json", mfcc={"audio.json": pickle.dumps(Evil(marker))})
        load(clips, "frames", "windows")
        assert not marker.exists()
        np.load(io.BytesIO(object_array(Evil(marker))), allow_pickle=True)
        assert marker.exists()

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (jpeg(200, 300), "the picture is 300×200, expected 256×256"),
            (png(60_000, 60_000), "the picture is 60000×60000, expected 256×256"),
            (png(20_000, 20_000, (b"teXt", struct.pack(">II", 256, 256) + b"12345")), "not a JPEG or PNG picture"),
            (two_headed_jpeg(), "the picture is 20000×20000, expected 256×256"),
            (png(256, 256)[:-30], "the picture cannot be decoded"),
            (jpeg()[:150], "not a JPEG or PNG picture"),
            (jpeg()[:300], "the picture cannot be decoded"),
            (b"GIF89a" + bytes(100), "not a JPEG or PNG picture"),
            (b"", "not a JPEG or PNG picture"),
            (pickle.dumps("000.jpg"), "not a JPEG or PNG picture"),
            (
                b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 256, 256) + bytes(99),
                "the picture cannot be decoded",
            ),
        ],
        ids=[
            "size",
            "huge",
            "late-header",
            "two-heads",
            "no-end",
            "no-size",
            "no-scan",
            "gif",
            "empty",
            "pickle",
            "header-only",
        ],
    )
    def test_pictures(self, tmp_path: Path, data: bytes, reason: str) -> None:
        """An image of another size, or an invalid one, is refused by its name, without memory for the claimed size."""
        clips = self.clips(tmp_path, crop={"014.jpg": data})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert refusal(lambda: load(clips, "identity_frame")).startswith(f"{KEY}: 014.jpg: {reason}")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
