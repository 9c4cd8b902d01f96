"""Shards: WebDataset reads them, written data is read back, hostile tars are refused."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import made_shards
import pytest
import stand_ins
import webdataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avprep import files, schema, shards
from avprep.errors import RunError, ShardError
from avprep.manifest import make_key
from avprep.shards import reader, tars, writer

Samples = dict[str, dict[str, bytes]]

KEYS = [
    "plain",
    "s1/bbaf2n",
    "a%2Eb/c%2Ed",
    "日本語/ünï-cödé",
    "n" * 99,
    "d" * 60 + "/" + "n" * 60,
    "long/" * 60 + "key",
    "x" * 300,
]


def write(folder: Path, samples: Samples, name: str = "train-000000") -> Path:
    """Write a shard as a run does."""
    writer = shards.ShardWriter(folder / f"{name}.tar", folder / f"{name}.part")
    for key, members in samples.items():
        shards.write_members(folder / "stretch.part", key, members.items())
        writer.append(folder / "stretch.part")
    digest, size = writer.finish()
    shards.publish(writer.path, folder / f"{name}.part", b"{}", folder / "sidecar.part")
    assert (digest, size) == (files.sha256(writer.path), writer.path.stat().st_size)
    assert [path.name for path in folder.glob("*.part")] == []
    return writer.path


@given(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=120),
    st.integers(0, 8**11 + 1) | st.sampled_from([0, 511, 8**11 - 1, 8**11]),
)
@example("n" * 100, 3)
@example("a.jpg", 8**11)
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    """Each member's header equals that of the standard library, byte for byte, whatever its name and size."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    assert writer._header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def craft(path: Path, *members: tuple[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> Path:
    """Write a tar with the standard library, its last member changed."""
    with tarfile.open(path, "w") as tar:
        for n, (name, data) in enumerate(members, 1):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if change is not None and n == len(members):
                change(info)
            tar.addfile(info, io.BytesIO(data[: info.size]))
    return path


class TestWriting:
    """The output of a run."""

    @pytest.mark.filterwarnings("ignore:unclosed file")  # webdataset leaves that to the garbage collector
    @pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key[:12]}-{len(key)}")
    def test_webdataset_reads_it(self, tmp_path: Path, key: str) -> None:
        """The webdataset library groups the members of a sample, whatever its key contains and however long it is."""
        samples = {key: {"000.jpg": b"\xff\xd8\xff0", "points.npy": b"p", "clip.json": b"{}"}, "after": {"a.npy": b"1"}}
        path = write(tmp_path, samples)
        found = {}
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            members = {name: data for name, data in sample.items() if not name.startswith("__")}
            found[sample["__key__"]] = members
        assert found == samples
        assert dict(shards.read(path)) == samples

    @pytest.mark.filterwarnings("ignore:unclosed file")
    def test_webdataset_decodes_it(self, tmp_path: Path) -> None:
        """The webdataset library's own decoders understand the arrays and the facts."""
        path = write(tmp_path, {"s1/a": dict(stand_ins.mfcc_members("s1/a", 4))})
        (sample,) = webdataset.WebDataset(str(path), shardshuffle=False).decode()
        assert sample["mfcc.npy"].shape == (4, 12, 20)
        assert sample["valid.npy"].all()
        assert sample["audio.json"] == {"key": "s1/a", "n_frames": 4}

    def test_nothing_of_the_machine_is_in_it(self, tmp_path: Path) -> None:
        """Members carry no time, owner or odd mode."""
        with tarfile.open(write(tmp_path, {key: {"a.npy": b"1"} for key in KEYS})) as tar:
            facts = {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode, i.isreg()) for i in tar}
        assert facts == {(0, 0, 0, "", "", 0o644, True)}

    def test_an_empty_shard(self, tmp_path: Path) -> None:
        """A shard without samples is a tar that all readers accept."""
        path = write(tmp_path, {})
        assert list(shards.read(path)) == []
        with tarfile.open(path) as tar:
            assert tar.getnames() == []

    @settings(deadline=None, max_examples=60)
    @given(
        st.dictionaries(
            st.lists(
                st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=90)
                .filter(lambda part: part not in (".", ".."))
                .map(make_key),
                min_size=1,
                max_size=4,
            ).map("/".join),
            st.dictionaries(
                st.from_regex(r"[a-z0-9]{1,9}(\.[a-z]{1,4}){1,2}", fullmatch=True),
                st.binary(max_size=2000),
                min_size=1,
                max_size=4,
            ),
            max_size=5,
        )
    )
    def test_round_trip(self, tmp_path_factory: pytest.TempPathFactory, samples: Samples) -> None:
        """Samples are read back in order, and written again with the same bytes."""
        path = write(tmp_path_factory.mktemp("shard"), samples)
        assert list(shards.read(path)) == list(samples.items())
        again = write(tmp_path_factory.mktemp("shard"), samples)
        assert path.read_bytes() == again.read_bytes()

    @pytest.mark.parametrize("blocks", range(17, 21))
    def test_a_whole_tar(self, tmp_path: Path, blocks: int) -> None:
        """A shard of any length ends with two empty blocks and fills its last record, as tar does."""
        data = write(tmp_path, {"a": {"a.npy": b"1" * 512 * (blocks - 1)}}).read_bytes()
        assert len(data) == (10_240 if blocks < 19 else 20_480)
        assert not any(data[512 * blocks :])
        assert [key for key, _ in shards.read(tmp_path / "train-000000.tar")] == ["a"]

    def test_parts_of_another_shard(self, tmp_path: Path) -> None:
        """Samples of a shard can be joined in any order; one that is truncated is an error."""
        samples = {key: {"a.npy": key[:1].encode() * 700} for key in KEYS}
        path = write(tmp_path, samples)
        with path.open("rb") as source:
            places = shards.stretches(source)
            shards.string_together(tmp_path / "b.tar", tmp_path / "b.part", [*reversed(places.values())], source)
            beyond = shards.Stretch(path.stat().st_size - 512, 1024)
            with pytest.raises(ShardError, match=r"c\.tar: changed while it was read"):
                shards.string_together(tmp_path / "c.tar", tmp_path / "c.part", [beyond], source)
        assert list(shards.read(tmp_path / "b.part")) == [*reversed(samples.items())]

    def test_it_is_on_the_disk_before_it_has_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tar and sidecar are synced to disk, then named, the sidecar last, then the folder is synced."""
        steps: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def synced(descriptor: int) -> None:
            steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').resolve().name}")
            fsync(descriptor)

        def named(part: Path, target: Path) -> Path:
            steps.append(f"name {target.name}")
            return replace(part, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "replace", named)
        write(tmp_path, {"a": {"a.npy": b"1"}}, "x")
        assert steps == ["sync x.part", "sync sidecar.part", "name x.tar", "name x.json", f"sync {tmp_path.name}"]

    def test_places(self, tmp_path: Path) -> None:
        """A sample extends from its first header, including that of a long name, to the headers of the next sample."""
        path = write(tmp_path, {key: {"a.npy": b"1" * 700, "b.npy": b""} for key in KEYS})
        with path.open("rb") as file:
            places = shards.stretches(file)
        assert {key: place for key, place, _ in shards.read_placed(path)} == places
        ends = [place.offset + place.length for place in places.values()]
        assert [place.offset for place in places.values()] == [0, *ends[:-1]]
        for key, place in places.items():
            assert shards.read_sample(path, key, place) == {"a.npy": b"1" * 700, "b.npy": b""}
            with pytest.raises(ShardError, match="lacks"):  # the key of another sample
                shards.read_sample(path, key[:-1], place)

    def test_one_member_at_a_time(self, tmp_path: Path) -> None:
        """Members that are generated while they are written are never in memory together."""

        def members() -> Iterator[tuple[str, bytes]]:
            for n in range(40):
                yield f"{n:03d}.jpg", bytes(1 << 20)

        tracemalloc.start()
        shards.write_members(tmp_path / "stretch", "key", members())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20

    def test_a_disk_error_is_told_from_a_makers_error(self, tmp_path: Path) -> None:
        """An OSError while members are generated passes through; one of the disk is a RunError that names the file."""

        def members() -> Iterator[tuple[str, bytes]]:
            yield "000.jpg", b"1"
            raise FileNotFoundError("clip.mp4")

        with pytest.raises(FileNotFoundError, match=r"clip\.mp4"):
            shards.write_members(tmp_path / "stretch", "key", members())
        with pytest.raises(RunError, match=r"gone/stretch: cannot write \(No such file or directory\)"):
            shards.write_members(tmp_path / "gone/stretch", "key", [("000.jpg", b"1")])
        with pytest.raises(RunError, match=r"/dev/full: cannot write \(No space left on device\)"):
            shards.write_members(Path("/dev/full"), "key", [("000.jpg", b"1")])


class TestHostile:
    """Foreign tars are refused with the file's name, never obeyed."""

    good = ("a.json", b"{}")

    @pytest.mark.parametrize(
        "kind",
        [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
        ids=["symlink", "hardlink", "character", "block", "fifo", "folder"],
    )
    def test_only_plain_files(self, tmp_path: Path, kind: bytes) -> None:
        """Links, devices and folders are refused."""

        def change(info: tarfile.TarInfo) -> None:
            info.type, info.linkname, info.size = kind, "a.json", 0

        path = craft(tmp_path / "x.tar", self.good, ("b.json", b""), change=change)
        with pytest.raises(ShardError, match=r"x\.tar: 'b\.json/?' is not a plain file"):
            list(shards.read(path))

    def test_no_holes(self, tmp_path: Path) -> None:
        """A sparse file, which is longer in memory than in the tar, is refused."""

        def change(info: tarfile.TarInfo) -> None:
            info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "100000000", "GNU.sparse.numblocks": "1"}

        path = craft(tmp_path / "x.tar", ("b.json", b"1"), change=change)
        with pytest.raises(ShardError, match="not a plain file"):
            list(shards.read(path))

    @pytest.mark.parametrize(
        "name",
        ["/etc/a.json", "../a.json", "./a.json", "a/../b.json", "a.b/c.json", "noext", "noext.", ".json", "a/.json"],
    )
    def test_names(self, tmp_path: Path, name: str) -> None:
        """A name that is absolute, climbs, or is not KEY.MEMBER is refused."""
        with pytest.raises(ShardError, match=r"x\.tar: .* is not KEY\.MEMBER"):
            list(shards.read(craft(tmp_path / "x.tar", (name, b"1"))))

    def test_a_member_twice(self, tmp_path: Path) -> None:
        """A member that occurs twice is refused."""
        path = craft(tmp_path / "x.tar", self.good, self.good)
        with pytest.raises(ShardError, match=r"a\.json is there twice"):
            list(shards.read(path))

    def test_a_sample_in_two_places(self, tmp_path: Path) -> None:
        """A sample whose members are not adjacent is refused."""
        path = craft(tmp_path / "x.tar", self.good, ("b.json", b"{}"), ("a.npy", b""))
        with pytest.raises(ShardError, match="a appears in two places"):
            list(shards.read(path))

    def test_an_oversized_member(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A member beyond the limit is refused before it is read."""
        monkeypatch.setattr(tars, "MAX_MEMBER", 1 << 20)
        path = craft(tmp_path / "x.tar", ("a.npy", bytes((1 << 20) + 1)))
        with pytest.raises(ShardError, match=r"'a\.npy' is larger than 1 MiB"):
            list(shards.read(path))

    def test_an_oversized_sample(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A sample beyond the limit is refused, however small its members; many small samples are not."""
        monkeypatch.setattr(reader, "MAX_SAMPLE", 1000)
        path = write(tmp_path, {key: {"a.npy": bytes(600), "b.npy": bytes(400)} for key in "abc"})
        assert len(list(shards.read(path))) == 3
        path = write(tmp_path, {"a": {"a.npy": bytes(600), "b.npy": bytes(401)}})
        with pytest.raises(ShardError, match="a is larger than"):
            list(shards.read(path))
        with pytest.raises(ShardError, match="a: is larger than"):
            shards.read_sample(path, "a", shards.Stretch(0, 2048))

    def test_a_length_that_lies(self, tmp_path: Path) -> None:
        """A sidecar's length beyond the end of the tar takes no memory."""
        path = write(tmp_path, {"a": {"a.npy": b"1"}})
        tracemalloc.start()
        with pytest.raises(ShardError, match="a: cut off"):
            shards.read_sample(path, "a", shards.Stretch(0, 1 << 30))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20

    def test_a_file_system_that_hands_over_little_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A sample read in pieces is whole; one whose file ends before it is truncated."""
        path = write(tmp_path, {"a": {"a.npy": bytes(range(256)) * 4}})
        whole = os.pread
        monkeypatch.setattr(os, "pread", lambda file, length, offset: whole(file, min(length, 100), offset))
        assert shards.read_sample(path, "a", shards.Stretch(0, 1536)) == {"a.npy": bytes(range(256)) * 4}
        with pytest.raises(ShardError, match="a: cut off"):
            shards.read_sample(path, "a", shards.Stretch(0, 1 << 20))

    @pytest.mark.parametrize("length", [None, 0, -1, True, 1536.0, "1536"])
    def test_a_sidecar_without_lengths(self, length: object) -> None:
        """A clip that is ok has a length in bytes, a whole number above 0."""
        clips = [{"key": "a", "state": "ok", "bytes": length}]
        with pytest.raises(ShardError, match=r"x\.json: damaged, a has no length in bytes"):
            shards.places(Path("x.json"), clips)

    @pytest.mark.parametrize("key", KEYS)
    def test_a_damaged_sample_in_memory(self, tmp_path: Path, key: str) -> None:
        """A single sample is read as in its shard; truncated, followed by zeros or in no plain file it is refused."""
        shards.write_members(tmp_path / "stretch", key, [("a.npy", b"1" * 512), ("b.npy", b"2" * 512)])
        data = (tmp_path / "stretch").read_bytes()
        assert [(name, bytes(content)) for name, content in tars.whole_members(data)] == [
            (f"{key}.a.npy", b"1" * 512),
            (f"{key}.b.npy", b"2" * 512),
        ]
        kind, size = data.rindex(b"ustar") - 257 + 156, data.rindex(b"ustar") - 257 + 124
        damaged = [data[:-100], data + bytes(512), data[:kind] + b"2" + data[kind + 1 :]]
        for bad in (*damaged, data[:size] + b"00000000900" + data[size + 11 :]):
            with pytest.raises(ShardError):
                tars.whole_members(bad)

    @pytest.mark.parametrize("name", ["d" * 80 + "/" + "n" * 80 + ".npy", "日本語.npy"])
    def test_names_of_other_writers(self, name: str) -> None:
        """The two parts of a long name in a ustar header are joined; a name that is not ASCII is read unchanged."""
        info = tarfile.TarInfo(name)
        info.size = 512
        data = info.tobuf(tarfile.USTAR_FORMAT, "utf-8") + b"1" * 512
        assert [(found, bytes(content)) for found, content in tars.whole_members(data)] == [(name, b"1" * 512)]

    @pytest.mark.parametrize(
        "records", [b"14 path=a.npyX", b"15 path=a.npy\n", b"20 comment=\n", b"16 size=0000700\n", b"7 path=\n"]
    )
    def test_a_damaged_pax_header(self, tmp_path: Path, records: bytes) -> None:
        """A record with a wrong length, or one that would change more than a name, is refused."""
        head = tarfile.TarInfo("a.npy")
        head.type, head.size = tarfile.XHDTYPE, len(records)
        member = tarfile.TarInfo("a.npy").tobuf()
        (tmp_path / "x.tar").write_bytes(head.tobuf() + records + bytes(-len(records) % 512) + member + bytes(1024))
        with pytest.raises(ShardError, match=r"x\.tar: (a damaged )?PAX header|x\.tar: a PAX header with size"):
            list(shards.read(tmp_path / "x.tar"))

    def test_a_wrong_checksum(self, tmp_path: Path) -> None:
        """A changed header is refused."""
        path = craft(tmp_path / "x.tar", self.good)
        path.write_bytes(b"b" + path.read_bytes()[1:])
        with pytest.raises(ShardError, match=r"x\.tar: a tar header with a wrong checksum"):
            list(shards.read(path))

    @pytest.mark.parametrize("size", [-1, -512, -1024, -(1 << 40)])
    def test_a_negative_size(self, tmp_path: Path, size: int) -> None:
        """A member with a size that would make the reader go backwards, or loop for ever, is refused."""
        info = tarfile.TarInfo("b.json")
        info.size = size
        path = craft(tmp_path / "x.tar", self.good)
        head = path.read_bytes()[:1024]
        path.write_bytes(head + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(ShardError, match=r"x\.tar: "):
            list(shards.read(path))
        with path.open("rb") as file, pytest.raises(ShardError, match=r"x\.tar: not a tar header"):
            shards.stretches(file)

    def test_every_cut_is_noticed(self, tmp_path: Path) -> None:
        """A tar that is truncated anywhere is refused, also between two samples."""
        whole = write(tmp_path, {key: {"a.npy": b"1" * 700} for key in "abc"}).read_bytes()
        cut = tmp_path / "cut.tar"
        end = whole.rindex(b"1") // 512 * 512 + 512
        for size in [*range(0, end, 256), end + 512]:
            cut.write_bytes(whole[:size])
            with pytest.raises(ShardError, match=r"cut\.tar: "):
                list(shards.read(cut))

    @pytest.mark.parametrize("data", [b"", b"not a tar" * 999, b"\x1f\x8b" + bytes(99), b"x" * 4096 + bytes(1024)])
    def test_not_a_tar(self, tmp_path: Path, data: bytes) -> None:
        """A file that is not a tar is refused; so is a compressed one."""
        path = tmp_path / "x.tar"
        path.write_bytes(data)
        with pytest.raises(ShardError, match=r"x\.tar: "):
            list(shards.read(path))

    def test_no_such_file(self, tmp_path: Path) -> None:
        """A tar that does not exist is named."""
        with pytest.raises(ShardError, match=r"gone\.tar: cannot be read"):
            list(shards.read(tmp_path / "gone.tar"))

    @settings(deadline=None, max_examples=150)
    @given(st.data())
    def test_flipped_bytes(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        """Whatever bytes are changed, reading gives samples or raises ShardError, and nothing else."""
        folder = tmp_path_factory.mktemp("flipped")
        path = write(folder, {"ä" * 60: {"a.npy": b"1", "b.json": b"{}"}, "b": {"a.npy": b"2" * 600}})
        content = bytearray(path.read_bytes())
        used = content.rindex(b"2") + 1
        for place in data.draw(st.lists(st.integers(0, used), min_size=1, max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with contextlib.suppress(ShardError):
            list(shards.read(path))

    def test_memory_of_a_large_shard(self, tmp_path: Path) -> None:
        """Reading holds one sample at a time, and no headers of earlier ones."""
        path = write(tmp_path, {f"k{n}": {"000.jpg": bytes(100_000), "001.jpg": bytes(100_000)} for n in range(300)})
        tracemalloc.start()
        assert sum(1 for _ in shards.read(path)) == 300
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20


class TestJoined:
    """Two columns are read as one table."""

    @staticmethod
    def make(out: Path, column: str, keys: str, planned: str = "abcdef") -> None:
        """Write one shard of a column that holds some of the planned keys."""
        folder = out / column
        folder.mkdir(parents=True, exist_ok=True)
        path = write(folder, {key: {f"{column}.npy": f"{column} {key}".encode()} for key in keys})
        clips = [
            {"key": key, "state": "ok", "n_frames": 1}
            if key in keys
            else {"key": key, "state": "failed", "reason": "no_face", "message": "none", "seconds": 0.1}
            for key in planned
        ]
        head = {
            "avprep_sidecar": 1,
            "column": column,
            "shard": "train-000000",
            "sha256": files.sha256(path),
            "bytes": path.stat().st_size,
            "counts": shards.counts(clips),
            "timings": {"clip_seconds": 1.0},
        }
        shards.sidecar_path(out, column, "train-000000").write_bytes(shards.render_sidecar(head, clips))

    @settings(deadline=None, max_examples=60)
    @given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")))
    def test_what_both_hold(self, tmp_path_factory: pytest.TempPathFactory, crop: set[str], mfcc: set[str]) -> None:
        """Exactly the samples that both columns hold come out, in plan order, with the members of both."""
        out = tmp_path_factory.mktemp("out")
        self.make(out, "crop", "".join(sorted(crop)))
        self.make(out, "mfcc", "".join(sorted(mfcc)))
        expected = [
            (key, {"crop.npy": f"crop {key}".encode(), "mfcc.npy": f"mfcc {key}".encode()})
            for key in sorted(crop & mfcc)
        ]
        assert list(shards.read_joined(out, "train-000000")) == expected

    def test_plan_order_is_not_alphabetical(self, tmp_path: Path) -> None:
        """The order is the plan's."""
        self.make(tmp_path, "crop", "fdb", planned="fedcba")
        self.make(tmp_path, "mfcc", "edb", planned="fedcba")
        assert [key for key, _ in shards.read_joined(tmp_path, "train-000000")] == ["d", "b"]

    def test_columns_in_another_order(self, tmp_path: Path) -> None:
        """Columns in different orders, as from two manifests, are named."""
        self.make(tmp_path, "crop", "abc")
        self.make(tmp_path, "mfcc", "cab", planned="cab")
        with pytest.raises(ShardError, match=r"mfcc/train-000000\.tar: c is not in the order of the crops"):
            list(shards.read_joined(tmp_path, "train-000000"))

    @pytest.mark.parametrize("column", ["crop", "mfcc"])
    @pytest.mark.parametrize("keeps", ["", "ab", "ac", "bac"])
    def test_a_tar_without_clips_of_its_sidecar(self, tmp_path: Path, column: str, keeps: str) -> None:
        """A tar is named if clips that are ok in its sidecar are missing, at other places or zeros."""
        self.make(tmp_path, "crop", "abc")
        self.make(tmp_path, "mfcc", "abc")
        sidecar = shards.sidecar_path(tmp_path, column, "train-000000")
        before = sidecar.read_bytes()
        self.make(tmp_path, column, keeps, planned="abc")
        sidecar.write_bytes(before)
        if not keeps:
            sidecar.with_suffix(".tar").write_bytes(bytes(20 * 512))
        with pytest.raises(ShardError, match=rf"{column}/train-000000\.tar: .* sidecar"):
            list(shards.read_joined(tmp_path, "train-000000"))

    def test_a_tar_without_a_clip_that_failed_in_the_other_column(self, tmp_path: Path) -> None:
        """A column's last clip must be there, even if there is no crop to join it with."""
        self.make(tmp_path, "crop", "ab")
        self.make(tmp_path, "mfcc", "abc")
        sidecar = shards.sidecar_path(tmp_path, "mfcc", "train-000000")
        before = sidecar.read_bytes()
        self.make(tmp_path, "mfcc", "ab")
        sidecar.write_bytes(before)
        with pytest.raises(ShardError, match=r"mfcc/train-000000\.tar: lacks c, which its sidecar has as ok"):
            list(shards.read_joined(tmp_path, "train-000000"))

    @pytest.mark.parametrize(
        "gone", [f"{column}/train-000000.{kind}" for column in ("crop", "mfcc") for kind in ("json", "tar")]
    )
    def test_unfinished(self, tmp_path: Path, gone: str) -> None:
        """A column with an unfinished shard is named; nothing is silently left out."""
        self.make(tmp_path, "crop", "abc")
        self.make(tmp_path, "mfcc", "abc")
        (tmp_path / gone).unlink()
        with pytest.raises(ShardError, match=gone.replace(".", r"\.")):
            list(shards.read_joined(tmp_path, "train-000000"))


def test_a_sidecar_keeps_any_name(tmp_path: Path) -> None:
    """A message with quotes, line separators or undecodable bytes is valid JSON on one line."""
    clips = [{"key": "a", "state": "failed", "reason": "error", "message": 'x"\u2028\udcff\x00', "seconds": None}]
    data = shards.render_sidecar({"avprep_sidecar": 1}, clips)
    assert len(data.split(b"\n")) == 5
    assert schema.decode_json(data)["clips"] == clips


def test_a_shard_that_cannot_be_opened_is_not_unfinished(tmp_path: Path) -> None:
    """If a process has too many open files, a finished shard is not taken for an unfinished one."""
    made_shards.write(tmp_path, [made_shards.Made("train/a")])
    assert shards.finished(tmp_path, "crop", "train-000000", ["train/a"]) is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        next_one = held.enter_context((tmp_path / "manifest.jsonl").open()).fileno() + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
        with pytest.raises(RunError, match=r"train-000000\.tar: cannot be opened \(Too many open files\)"):
            shards.finished(tmp_path, "crop", "train-000000", ["train/a"])
