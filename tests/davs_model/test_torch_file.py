"""Untrusted torch files: a damaged or hostile one costs a line, and nothing in it is executed."""

from __future__ import annotations

import copyreg
import gzip
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import released_form
import torch
from checkpoint_files import DOMAIN, assert_refused, outcome, refusal, spoilt
from command_line import call
from torch import Tensor

from avprep.errors import CheckpointError
from davs_model import checkpoint, released, torch_file

pytestmark = pytest.mark.usefixtures("one_thread")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "a.py")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


NOT_CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "empty": Path.touch,
    "one-byte": lambda path: path.write_bytes(b"\x80"),
    "text": lambda path: path.write_text("<!DOCTYPE html>\nQuota exceeded\n" * 50),
    "jpeg": lambda path: path.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF" + random.Random(0).randbytes(5000)),
    "zip": _zip,
    "tar": _tar,
    "gzip": lambda path: path.write_bytes(gzip.compress(b"a" * 5000)),
    "list": lambda path: torch.save([torch.ones(2)], path),
    "tensor": lambda path: torch.save(torch.ones(2), path),
    "number": lambda path: torch.save(5, path, _use_new_zipfile_serialization=False),
    "state-dict": lambda path: torch.save({"fc1.weight": torch.ones(2)}, path),
    "numbered": lambda path: torch.save({1: {"fc1.weight": torch.ones(2)}, DOMAIN: {"a": torch.ones(2)}}, path),
    "other-format": lambda path: torch.save({"format": torch.ones(3), DOMAIN: 5}, path),
    "pickle": lambda path: path.write_bytes(pickle.dumps({DOMAIN: {"fc1.weight": [1.0]}})),
    "new-pickle": lambda path: path.write_bytes(pickle.dumps({DOMAIN: {}}, protocol=5)),
    "numpy": lambda path: path.write_bytes(b"\x93NUMPY\x01\0v\0{'descr': '<f4'}"),
}


TORCH_FILES = ("list", "tensor", "number", "state-dict", "numbered", "other-format")


class TestNotACheckpoint:
    """A file that is not a checkpoint gives a clear line."""

    @pytest.mark.parametrize("kind", NOT_CHECKPOINTS)
    def test_another_file_is_refused_in_one_line(self, tmp_path: Path, kind: str) -> None:
        """Both the import and the loading of avprep's own checkpoints name any such file in one line."""
        file = tmp_path / "101_DAVS_checkpoint.pth.tar"
        NOT_CHECKPOINTS[kind](file)
        before = file.read_bytes()
        assert_refused(call("import-checkpoint", file, tmp_path / "run"), 1, str(file))
        assert not (tmp_path / "run").exists()
        message = refusal(checkpoint.load, file)
        assert ("import-checkpoint" in message) == (kind in ("zip", *TORCH_FILES))
        assert file.read_bytes() == before

    def test_archives_are_named_as_such(self, tmp_path: Path) -> None:
        """For a download that was unpacked or repacked, the error says that it is a zip or tar archive."""
        for kind in ("zip", "tar"):
            NOT_CHECKPOINTS[kind](tmp_path / kind)
            result = call("import-checkpoint", tmp_path / kind, tmp_path / "run")
            assert_refused(result, 1, f"a {kind} archive", "as it was downloaded")

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        """A missing file gives status 1; a device or folder for a file, or a file for a RUN, gives status 2."""
        assert_refused(call("import-checkpoint", tmp_path / "none", tmp_path / "run"), 1, "none: not there")
        assert_refused(call("import-checkpoint", os.devnull, tmp_path / "run"), 2, os.devnull, "not a regular file")
        assert_refused(call("import-checkpoint", tmp_path, tmp_path / "run"), 2, str(tmp_path), "directory")
        (tmp_path / "run").touch()
        assert_refused(call("import-checkpoint", tmp_path / "none", tmp_path / "run"), 2, "run", "file")
        assert refusal(checkpoint.load, tmp_path / "none").endswith("not there")

    def test_a_run_without_a_checkpoint_is_refused(self, tmp_path: Path) -> None:
        """A folder is read by its checkpoint.safetensors, which the error names if it is missing."""
        with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: not there, .*import-checkpoint FILE "):
            checkpoint.load(tmp_path)

    def test_a_file_with_an_archive_behind_it_is_what_it_begins_with(
        self, tmp_path: Path, domain: dict[str, Tensor]
    ) -> None:
        """A released file with an appended zip is not taken for a zip: its weights are read."""
        file = released_form.write(tmp_path / "file.tar", {DOMAIN: domain})
        _zip(tmp_path / "a.zip")
        file.write_bytes(file.read_bytes() + (tmp_path / "a.zip").read_bytes())
        assert zipfile.is_zipfile(file)
        assert released.read(file)[1].loaded == {DOMAIN: 66_049}


@pytest.fixture(scope="module", params=["0.2", "now", "zip"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, domain: dict[str, Tensor]) -> bytes:
    """A small file in the released form."""
    path = tmp_path_factory.mktemp("released") / "file.tar"
    if request.param == "zip":
        torch.save({DOMAIN: domain}, path)
    else:
        released_form.write(path, {DOMAIN: domain}, era=request.param)
    return path.read_bytes()


class TestDamage:
    """A damaged file is refused in one line, and has no other effect."""

    def test_a_truncated_file_is_refused(self, tmp_path: Path, small: bytes) -> None:
        """A truncated download is not imported, wherever it ends."""
        path = tmp_path / "file.tar"
        places = {len(small) - 1, len(small) - 30, 1, 30, 100, 500, 1000, *(len(small) * i // 20 for i in range(20))}
        for length in places:
            path.write_bytes(small[:length])
            refusal(released.read, path)

    @pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
    def test_a_changed_byte_in_a_released_file_never_crashes(self, tmp_path: Path, small: bytes, seed: int) -> None:
        """Changed bytes in a released file, which has no digest, give weights, findings or one line."""
        chance = random.Random(seed)
        path = tmp_path / "file.tar"
        for _ in range(15):
            path.write_bytes(spoilt(small, chance, span=min(len(small), chance.choice([300, 3000, len(small)]))))
            if isinstance(found := outcome(released.read, path), str):
                assert found.startswith(f"{path}: ")
                assert found.isprintable()


class Call:
    """Is pickled as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made_of = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.made_of


class Made:
    """Makes a folder when it is created; is pickled as the creation of an object (NEWOBJ)."""

    where = ""

    def __new__(cls, where: str) -> Made:
        """Make a folder."""
        os.mkdir(where)
        return object.__new__(cls)

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj__, (Made, self.where)  # type: ignore[attr-defined]


class Built:
    """Makes a folder when it is given its state; is pickled accordingly (BUILD)."""

    where = ""

    def __setstate__(self, where: str) -> None:
        os.mkdir(where)

    def __reduce__(self) -> tuple[Any, ...]:
        return Built, (), self.where


def _made(where: str) -> Made:
    value = object.__new__(Made)
    value.where = where
    return value


def _built(where: str) -> Built:
    value = Built()
    value.where = where
    return value


CODE: dict[str, Callable[[str], object]] = {
    "os": lambda where: Call(os.mkdir, where),
    "eval": lambda where: Call(eval, f"__import__('os').mkdir({where!r})"),
    "exec": lambda where: Call(exec, f"import os; os.mkdir({where!r})"),
    "object": _made,
    "state": _built,
}
"""What makes a folder when it is unpickled by someone who lets it."""


def legacy(content: bytes, *, system: bytes = b"}", keys: bytes = b"]", numbers: bytes = b"") -> bytes:
    """Return a stream in torch's old format, made of opcodes."""
    pickles = (b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", b"M\xe9\x03", system, content, keys)
    return b"".join(b"\x80\x02" + opcodes + b"." for opcodes in pickles) + numbers


def archive(path: Path, content: bytes, *, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Path:
    """Write a file in torch's new format, made of opcodes and records."""
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as file:
        file.writestr("a/data.pkl", b"\x80\x02" + content + b".")
        file.writestr("a/version", "3\n")
        for name, record in records.items():
            file.writestr(f"a/data/{name}", record)
    return path


def opcodes(value: object) -> bytes:
    """Return the opcodes of a value's pickle, without its first and last."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor_of(
    shape: tuple[int, ...], stride: tuple[int, ...], claimed: int, *, storage: bytes = b"", view: bytes = b""
) -> bytes:
    """Return the opcodes of a tensor with a storage of the given size; `view` is part of the old format only."""
    identity = b"(" + opcodes("storage") + (storage or b"ctorch\nFloatStorage\n") + opcodes("0") + opcodes("cpu")
    identity += opcodes(claimed) + view + b"tQ"
    arguments = opcodes(0) + opcodes(shape) + opcodes(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + arguments + b"tR"


def at(name: str, value: bytes, network: str = DOMAIN) -> bytes:
    """Return the opcodes of a file that has a value in place of one tensor."""
    return b"}" + opcodes(network) + b"}" + opcodes(name) + value + b"ss"


def doubling(times: int) -> bytes:
    """Return the opcodes of a list of two lists of two lists …: small as stored, endless when expanded."""
    content = b"]q\x00"
    for number in range(times):
        content += (
            b"](h" + struct.pack("B", number) + b"h" + struct.pack("B", number) + b"eq" + struct.pack("B", number + 1)
        )
    return content


def costly(folder: Path) -> list[str]:
    """Make small files that need gigabytes, endless time or a deep stack, and return their names."""
    tuples = b")" + b"\x85" * 200_000
    endless_tuple = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
    words = ((2**21, 512), (512, 1))
    array = b"cbuiltins\nbytearray\n" + opcodes(2**30) + b"\x85R"
    streams = {
        "claims": legacy(at("fc_2.weight", tensor_of(*words, 2**30, view=b"N"), "model_fusion")),
        "claims-2": legacy(at("fc1.weight", tensor_of((2**40,), (1,), 2**40, view=b"N"))),
        "claims-3": legacy(at("fc1.weight", tensor_of((2**62,), (1,), 2**62, view=b"N"))),
        "bytes": legacy(at("fc1.weight", b"c__builtin__\nbytearray\n" + opcodes(2**32) + b"\x85R")),
        "name": legacy(b"}X\xff\xff\xff\xffa"),
        "long": legacy(b"}\x8b\xff\xff\xff\x7fa"),
        "long-name": legacy(b"}\x8d" + b"\xff" * 7 + b"\x7fa"),
        "global": legacy(b"c" + b"a" * 100_000 + b"\nb\n"),
        "marks": legacy(b"(" * 50_000),
    }
    pickles = {
        "bytes-zip": at("fc1.weight", b"c_codecs\nencode\n" + array + b"X\x03\0\0\0hex\x86R"),
        "tuples": b"}" + tuples + b"Ns",
        "tuples-in-pairs": b"ccollections\nOrderedDict\n](](" + tuples + b"Nee\x85R",
        "endless-tuple": b"}" + endless_tuple + b"Ns",
        "lists": b"]" * 50_000 + b"a" * 49_999,
        "deep-network": b"}" + opcodes(DOMAIN) + b"}" + opcodes("a") + b"]" * 50_000 + b"a" * 49_999 + b"s",
        "no-numbers": at("fc1.weight", tensor_of((2**32,), (1,), 2**32)),
    }  # fmt: skip
    for name, content in streams.items():
        (folder / name).write_bytes(content)
    for name, content in pickles.items():
        archive(folder / name, content)
    zeros = bytes(2**28)
    claim = at("fc1.weight", tensor_of((2**26,), (1,), 2**26))
    archive(folder / "bomb", claim, compression=zipfile.ZIP_DEFLATED, **{"0": zeros})
    (folder / "hidden-bomb").write_bytes((folder / "bomb").read_bytes() + b"PK\5\6")
    archive(folder / "bomb-pickle", b"N" * 2**28, compression=zipfile.ZIP_DEFLATED)
    return [*streams, *pickles, "bomb", "hidden-bomb", "bomb-pickle"]


class TestHostile:
    """A file that is designed to do more than be read gives one line, runs nothing and costs no more than its size."""

    @pytest.mark.parametrize("kind", CODE)
    @pytest.mark.parametrize("lock", ["both", "the opcodes", "weights_only"])
    def test_code_in_a_file_is_never_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, lock: str
    ) -> None:
        """Code anywhere in a pickle is refused by each of the two checks with the other one disabled."""
        if lock == "weights_only":
            monkeypatch.setattr(torch_file, "_inspect", lambda file: None)
        if lock == "the opcodes":
            load = torch.load
            monkeypatch.setattr(torch, "load", lambda *a, **kw: load(*a, **{**kw, "weights_only": False}))
        marker = tmp_path / "marker"
        code = CODE[kind](str(marker))
        in_network = {DOMAIN: {"module.fc1.weight": code}}
        run = opcodes(code)
        files: dict[str, Callable[[Path], object]] = {
            "zip": lambda path: torch.save(in_network, path),
            "legacy": lambda path: torch.save(in_network, path, _use_new_zipfile_serialization=False),
            "bare": lambda path: path.write_bytes(pickle.dumps(in_network, protocol=2)),
            "newest": lambda path: path.write_bytes(pickle.dumps(in_network)),
            "system": lambda path: path.write_bytes(legacy(b"}", system=run)),
            "keys": lambda path: path.write_bytes(legacy(b"}", keys=run)),
            "top": lambda path: torch.save(code, path),
            "name": lambda path: archive(path, b"}" + run + b"Ns"),
            "class of storage": lambda path: archive(path, at("fc1.weight", tensor_of((1,), (1,), 1, storage=run))),
            "storage": lambda path: archive(path, at("fc1.weight", run + b"Q")),
            "state of a dictionary": lambda path: archive(path, b"ccollections\nOrderedDict\n)R" + run + b"b"),
        }
        for place, write in files.items():
            path = tmp_path / f"{place}.pt"
            write(path)
            message = refusal(released.read, path)
            refusal(checkpoint.load, path)
            assert not marker.exists(), f"{place}: the code was run"
            assert place == "newest" or lock == "weights_only" or "holds more than weights" in message, (place, message)

    def test_the_code_of_these_tests_does_run_where_it_may(self, tmp_path: Path) -> None:
        """Plain pickle executes each of the files above."""
        for kind, code in CODE.items():
            pickle.loads(pickle.dumps(code(str(tmp_path / kind)), protocol=2))  # noqa: S301
            assert (tmp_path / kind).is_dir()

    def test_the_user_sees_one_line_and_no_traceback(self, tmp_path: Path) -> None:
        """The program prints its refusal in one line on stderr, and leaves nothing."""
        file = tmp_path / "101_DAVS_checkpoint.pth.tar"
        torch.save({DOMAIN: Call(os.mkdir, str(tmp_path / "marker"))}, file)
        words = [sys.executable, "-c", "from avprep_cli.main import main; main()", "import-checkpoint"]
        ended = subprocess.run([*words, file, tmp_path / "run"], capture_output=True, text=True, check=False)
        refused = "refused, and nothing of it run: it holds more than weights (posix.mkdir)"
        assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"Error: {file}: {refused}\n")
        assert list(tmp_path.iterdir()) == [file]

    def test_warnings_of_torch_do_not_reach_the_user(self, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
        """Torch's warning about a pickle of a newer protocol is not shown."""
        path = tmp_path / "file.tar"
        path.write_bytes(legacy(b"}").replace(b"\x80\x02", b"\x80\x04"))
        with pytest.warns(UserWarning, match="protocol 4"):
            torch.load(path, weights_only=True)
        assert "holds none of" in refusal(released.read, path)
        assert not recwarn.list

    def test_no_file_costs_more_memory_than_its_size(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """Small files that need gigabytes, endless time or a deep stack are refused, one line each, at little cost."""
        names = costly(tmp_path)
        good = released_form.write(tmp_path / "good", {DOMAIN: domain})
        script = """
import sys
from pathlib import Path
from avprep.errors import CheckpointError
from davs_model import released
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
good, *bad = map(Path, sys.argv[1:])
released.read(good)
before = peak()
for path in bad:
    try:
        released.read(path)
        print(f"{path}: read")
    except CheckpointError as error:
        print(error)
    if peak() > before + 150:
        sys.exit(f"{path}: {peak() - before} MiB")
"""
        ended = subprocess.run(
            [sys.executable, "-c", script, good, *(tmp_path / name for name in names)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        expected = [f"{tmp_path / name}: " for name in names]
        lines = ended.stdout.splitlines()
        assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected
        read = [line for line in lines if line.endswith(": read")]
        assert read == []
        assert all(line.isprintable() and len(line) < 600 for line in lines)
        for name, part in (
            ("claims", "more numbers than it holds"),
            ("bomb", "unpacks to"),
            ("tuples", "nested tuples"),
        ):
            assert part in lines[names.index(name)]

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_archives_that_torch_does_not_write_are_refused(self, tmp_path: Path) -> None:
        """Entries that overlap, occur twice or climb out of their folder give one line, and nothing is written."""
        content = at("fc1.weight", tensor_of((4,), (1,), 4))
        overlap, twice, climbing = (tmp_path / name for name in ("overlap", "twice", "climbing"))
        with zipfile.ZipFile(archive(overlap, content, **{"0": bytes(100_000)}), "a") as file:
            for number in range(1, 100):
                other = zipfile.ZipInfo(f"a/data/{number}")
                first = file.getinfo("a/data/0")
                for name in ("header_offset", "CRC", "compress_size", "file_size"):
                    setattr(other, name, getattr(first, name))
                file.filelist.append(other)
            file.writestr("a/byteorder", "little")
        torch.save({DOMAIN: {"fc1.bias": torch.ones(256)}}, twice)
        with zipfile.ZipFile(twice, "a") as file:
            name = next(name for name in file.namelist() if name.endswith("/data.pkl"))
            file.writestr(name, file.read(name))
        with zipfile.ZipFile(climbing, "w") as file:
            file.writestr("../../a/data.pkl", b"\x80\x02" + content + b".")
            file.writestr("../../a/data/0", bytes(16))
            file.writestr("/etc/avprep-was-here", b"")
        for path in (overlap, twice, climbing):
            refusal(released.read, path)
        assert sorted(tmp_path.iterdir()) == sorted([overlap, twice, climbing])
        assert not (tmp_path / "../../a").exists()
        assert not Path("/etc/avprep-was-here").exists()

    def test_torch_and_the_check_read_the_same_pickle(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """A pickle that only torch would find, by a name in capitals or by a second list of entries, is refused."""
        tuples = b"}" + b")" + b"\x85" * 11 + b"Ns"
        capitals, lists, list64 = (tmp_path / name for name in ("capitals", "lists", "list64"))
        with zipfile.ZipFile(capitals, "w") as file:
            file.writestr("a/DATA.PKL", b"\x80\x02" + tuples + b".")
            file.writestr("a/b/data.pkl", b"\x80\x02}.")
            file.writestr("a/version", "3\n")
        hidden = archive(lists, tuples).read_bytes()
        harmless = archive(lists, b"}" + b"N0" * ((len(tuples) - 1) // 2)).read_bytes()
        lists.write_bytes(hidden[:-22] + harmless)
        torch.save({DOMAIN: domain}, list64)
        whole = list64.read_bytes()
        assert released.read(list64)[1].loaded == {DOMAIN: 66_049}
        list64.write_bytes(whole[:-98] + whole)
        assert "nested tuples" in refusal(released.read, capitals)
        for path in (lists, list64):
            assert "torch did not write" in refusal(released.read, path)

    @pytest.mark.parametrize(
        ("place", "extra", "read"),
        [(0, b"", True), (2**32, b"", True), (2**31, b"", False), (2**32, b"uu\0\0", False), (0, b"uu\0\0", False)],
    )
    def test_a_file_beyond_4_gib(
        self, tmp_path: Path, domain: dict[str, Tensor], place: int, extra: bytes, read: bool
    ) -> None:
        """Positions of 64 bits are read where torch writes them, which is from 4 GiB on, without other extra fields."""
        torch.save({DOMAIN: domain}, tmp_path / "small")
        with (tmp_path / "large").open("w+b") as sparse, zipfile.ZipFile(tmp_path / "small") as small:
            sparse.write(b"PK\3\4" if place else b"")
            sparse.seek(place)
            with zipfile.ZipFile(sparse, "w") as large:
                for name in small.namelist():
                    entry = zipfile.ZipInfo(name)
                    entry.extra = extra
                    with large.open(entry, "w", force_zip64=place > 0) as file:
                        file.write(small.read(name))
        if read:
            assert torch_file.read(tmp_path / "large")[DOMAIN].keys() == domain.keys()
        else:
            assert "torch did not write" in refusal(torch_file.read, tmp_path / "large")

    def test_attributes_cannot_stand_in_for_methods(self, tmp_path: Path) -> None:
        """A dictionary whose pickle gives it attributes named like its methods is read all the same."""
        attributes = opcodes(dict.fromkeys(("get", "items", "keys", "values", "_metadata"), "a"))
        ordered, dressed = b"ccollections\nOrderedDict\n](](", b"ee\x85R" + attributes + b"b"
        tensors = ordered + opcodes("fc1.bias") + tensor_of((256,), (1,), 256) + dressed
        path = archive(tmp_path / "file.tar", ordered + opcodes(DOMAIN) + tensors + dressed, **{"0": bytes(1024)})
        assert released.read(path)[1].loaded == {DOMAIN: 256}
