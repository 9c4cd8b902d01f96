"""Untrusted checkpoints: a damaged or hostile one costs a line, and no more memory than its size."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import SMALL, beheaded, described, head, outcome, raw, refusal, same, spoilt
from torch import Tensor

from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHT = "decoder.last.3.weight"
"""A small one: [4, 3, 3, 3]."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path at which a test may write a file."""
    return tmp_path / "file.safetensors"


class TestDamage:
    """A damaged file is refused in one line, and has no other effect."""

    def test_a_truncated_file_is_refused(self, path: Path, ours: Path) -> None:
        """A truncated copy is not loaded, wherever it ends."""
        content = ours.read_bytes()
        for length in (len(content) - 1, len(content) - 50, len(content) * 2 // 3, len(content) // 3, 10_000, 60, 1, 0):
            path.write_bytes(content[:length])
            refusal(checkpoint.load, path)

    @pytest.mark.parametrize("seed", range(3))
    def test_a_changed_byte_is_noticed(self, path: Path, ours: Path, whole: Checkpoint, seed: int) -> None:
        """Changed bytes anywhere in a checkpoint give one line or exactly the same checkpoint."""
        chance = random.Random(seed)
        content = ours.read_bytes()
        for _ in range(8):
            path.write_bytes(spoilt(content, chance, span=chance.choice([60_000, len(content)])))
            if isinstance(found := outcome(checkpoint.load, path), str):
                assert found.startswith(f"{path}: ")
                assert found.isprintable()
            else:
                assert same(found, whole)

    def test_a_changed_number_is_noticed_by_the_digest(self, path: Path, whole: Checkpoint, ours: Path) -> None:
        """The smallest change of a weight, a counter, a setting or a dimension without weights is noticed."""
        header = json.loads(head(ours)[0]["__metadata__"][checkpoint.ENTRY])
        weight = whole.weights[WEIGHT].clone()
        weight.view(torch.int32)[0, 0, 0, 0] ^= 1
        counter = next(name for name in whole.weights if name.endswith("num_batches_tracked"))
        changes: tuple[dict[str, Any], ...] = (
            {"settings": whole.settings | {"mfcc_preset": "syncnet"}},
            {"dimensions": whole.dimensions | {"width": 0.011}},
            {"digest": "0" * 64},
            {"digest": [0] * 64},
            {"digest": None},
        )
        for change in changes:
            assert "digest" in refusal(checkpoint.load, raw(path, header | change, whole.weights))
        for changed in ({WEIGHT: weight}, {counter: torch.tensor(99)}):
            assert "digest" in refusal(checkpoint.load, raw(path, header, whole.weights | changed))
        assert same(checkpoint.load(raw(path, header, whole.weights)), whole)

    def test_two_tensors_that_changed_places_are_noticed(self, path: Path, ours: Path) -> None:
        """Weights of the same shape under exchanged names are refused."""
        header, numbers = head(ours)
        one, other = "identity_encoder.quarter.0.conv.weight", "identity_encoder.quarter.1.conv.weight"
        header[one], header[other] = header[other], header[one]
        assert "digest" in refusal(checkpoint.load, beheaded(path, json.dumps(header).encode(), numbers))


def _entry(text: str) -> bytes:
    return json.dumps({"__metadata__": {checkpoint.ENTRY: text}}).encode()


TENSOR = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HOSTILE: dict[str, tuple[bytes, bytes]] = {
    "no entry": (b"{}", b""),
    "not ours": (b'{"__metadata__":{"format":"pt"},%s}' % TENSOR.encode(), bytes(4)),
    "no JSON": (b"[" * 5000, b""),
    "deep": (b'{"a":' * 500_000, b""),
    "the same name twice": (f"{{{TENSOR},{TENSOR}}}".encode(), bytes(4)),
    "two entries": (b'{"__metadata__":{"avprep":"{}","avprep":"{}"}}', b""),
    "overlap": (f"{{{TENSOR},{TENSOR.replace('a', 'b', 1)}}}".encode(), bytes(4)),
    "gap": (b"{%s}" % TENSOR.encode(), bytes(8)),
    "too little": (b"{%s}" % TENSOR.replace("[1]", "[2]").encode(), bytes(4)),
    "overflow": (b"{%s}" % TENSOR.replace("[1]", "[4611686018427387904,4]").encode(), bytes(4)),
    "a kind that is none": (b"{%s}" % TENSOR.replace("F32", "X\\u001b").encode(), bytes(4)),
    "escapes": (b"{%s}" % TENSOR.replace("a", "\\u001b[2J\\u202e", 1).encode(), bytes(4)),
    "no text": (b'{"__metadata__":{"avprep":5}}', b""),
    "entry: no JSON": (_entry("\x1b"), b""),
    "entry: a list": (_entry("[1]"), b""),
    "entry: deep": (_entry('{"a":' * 100_000), b""),
    "entry: NaN": (_entry('{"format":"avprep checkpoint","schema_version":1,"a":NaN}'), b""),
    "entry: a number of 2001 digits": (
        _entry('{"format":"avprep checkpoint","schema_version":1%s}' % ("0" * 2000)),
        b"",
    ),
}


class TestHostile:
    """A file that is designed to do more than be read gives one line and costs no more than its size."""

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_a_file_that_safetensors_would_not_write_is_refused(self, path: Path, kind: str) -> None:
        """Headers that are invalid, claim more than there is, or contain a name twice are refused."""
        refusal(checkpoint.load, beheaded(path, *HOSTILE[kind]))

    def test_no_file_costs_much_more_memory_than_its_size(self, tmp_path: Path, ours: Path) -> None:
        """Headers that claim gigabytes, or millions of names, are refused cheaply."""
        names = ",".join(f'"{n:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(130_000))
        beheaded(tmp_path / "names", f"{{{names}}}".encode())
        beheaded(tmp_path / "more-names", f"{{{names},{names.replace(':{', '0:{')}}}".encode())
        beheaded(tmp_path / "claims", b"{}", size=2**40)
        beheaded(tmp_path / "claims-2", b"{}", size=2**63)
        beheaded(tmp_path / "header-of-100-MB", b'{"a":"' + b"a" * 100_000_000 + b'"}')
        beheaded(tmp_path / "entry", _entry("[" * 7_000_000))
        script = """
import sys
from pathlib import Path
from avprep.errors import CheckpointError
from davs_model import checkpoint
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
good, *bad = map(Path, sys.argv[1:])
checkpoint.load(good)
before = peak()
for path in bad:
    try:
        checkpoint.load(path)
        sys.exit(f"{path}: read")
    except CheckpointError as error:
        print(error)
    if peak() > before + 150:
        sys.exit(f"{path}: {peak() - before} MiB")
"""
        bad = sorted(path for path in tmp_path.iterdir())
        ended = subprocess.run(
            [sys.executable, "-c", script, ours, *bad], capture_output=True, text=True, check=False, timeout=120
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        lines = ended.stdout.splitlines()
        assert [line.partition(": ")[0] for line in lines] == [str(path) for path in bad]
        assert all(line.isprintable() and len(line) < 600 for line in lines)

    @pytest.mark.parametrize(
        "dimensions",
        [
            {"width": 1e9},
            {"width": 1e300},
            {"width": -1.0},
            {"width": "1"},
            {"width": True},
            {"width": [1]},
            {"n_words": 2**62},
            {"n_words": -5},
            {"n_words": 2.5},
            {"image_size": 257},
            {"image_size": 64.0},
            {"depth": 4},
            {"self": 4},
            {"a\nb\x1b[0m": 4},
        ],
        ids=str,
    )
    def test_dimensions_that_no_model_has_are_refused(
        self, path: Path, whole: Checkpoint, dimensions: dict[str, Any]
    ) -> None:
        """Dimensions that are negative, of another type, unsupported or unknown end in one line."""
        described(path, whole.header() | {"dimensions": {**SMALL, **dimensions}}, {})
        assert "no model has" in refusal(checkpoint.load, path)

    @pytest.mark.parametrize(
        "dimensions",
        [
            {"width": 1e5},
            {"n_words": 2**40},
            {"n_words": 0},
            {"n_people": 2**50},
            {"identity_frames": 10**12},
            {"sequence_frames": 0},
        ],
        ids=str,
    )
    def test_dimensions_of_another_model_are_refused(
        self, path: Path, whole: Checkpoint, dimensions: dict[str, Any]
    ) -> None:
        """Dimensions of a gigantic model, or of one without words or frames, cost nothing and end in one line."""
        described(path, whole.header() | {"dimensions": {**SMALL, **dimensions}}, whole.weights)
        said = refusal(checkpoint.load, path)
        assert "the weights do not fit the dimensions" in said or "no model has" in said

    @pytest.mark.parametrize("name", ["amie", "os", "..os", "davs.losses", "", "\x1b[2J", "davs\n"], ids=repr)
    def test_the_name_of_no_model_is_refused(self, path: Path, whole: Checkpoint, name: str) -> None:
        """An unknown model name ends in one line, whatever module its name may be."""
        described(path, whole.header() | {"model": name}, whole.weights)
        assert "no model has the name" in refusal(checkpoint.load, path)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda t: t.half(),
            lambda t: t.double(),
            lambda t: t.to(torch.int32),
            lambda t: t.to(torch.float8_e4m3fn),
            lambda t: t.to(torch.complex64),
            lambda t: t.flatten(),
            lambda t: t[:0],
            lambda t: t.sum(),
        ],
    )
    def test_weights_of_another_kind_are_refused(
        self, path: Path, whole: Checkpoint, spoil: Callable[[Tensor], Tensor]
    ) -> None:
        """A weight of another precision, kind or shape is named, in one line."""
        described(path, whole.header(), {**whole.weights, WEIGHT: spoil(whole.weights[WEIGHT])})
        assert f"{WEIGHT} is not a torch.float32 tensor of shape [4, 3, 3, 3]" in refusal(checkpoint.load, path)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite_are_refused(self, path: Path, whole: Checkpoint, value: float) -> None:
        """A checkpoint with NaN among its weights is refused by name, as its frames would be noise."""
        described(path, whole.header(), {**whole.weights, WEIGHT: torch.full((4, 3, 3, 3), value)})
        assert f"the weights hold numbers that are not finite ({WEIGHT})" in refusal(checkpoint.load, path)
