"""Checkpoints: what the released code saved is taken over number by number, what damages or attacks us is refused."""

from __future__ import annotations

import copyreg
import gzip
import hashlib
import json
import os
import pickle
import random
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import released_form
import torch
from avprep_cli.main import main
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from released_form import Era
from torch import Tensor

from avprep.errors import CheckpointError
from davs_model import checkpoint, released
from davs_model.checkpoint import Checkpoint
from davs_model.models.davs.networks import DAVS

T = TypeVar("T")

SMALL: dict[str, int | float] = {
    "n_words": 3,
    "n_people": 2,
    "n_speakers": 2,
    "width": 0.01,
    "image_size": 64,
    "speech_frames": 1,
    "identity_frames": 1,
    "sequence_frames": 1,
    "n_word_classifiers": 1,
}
DOMAIN = "discriminator_audio"
"""The smallest of the released networks: 66,049 numbers."""

eras = pytest.mark.parametrize("era", ["0.2", "now"])


# ---------------------------------------------------------------- help


def call(*words: object) -> Result:
    """Run `avprep` with these words."""
    return CliRunner().invoke(main, [str(word) for word in words])


def assert_refused(result: Result, status: int, *parts: str) -> None:
    """Prove that a command ended as documented, with one line of error, no traceback and nothing else but usage."""
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    *usage, line = result.stderr.splitlines()
    assert line.startswith("Error: "), result.stderr
    assert not usage or status == 2, result.stderr
    for part in parts:
        assert part in line, line


def assert_named(result: Result, *lines: str) -> None:
    """Prove that an import named these findings, wrote nothing and ended in one line of error."""
    assert result.exit_code == 1, result.output
    found = result.stderr.splitlines()
    for line in lines:
        assert line in found, result.stderr
    assert sum(line.startswith("Error: ") for line in found) == 1
    assert "not imported" in found[-1]


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """Return the one line with which a file is refused, proven to be one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: "), message
    assert message.isprintable(), message
    assert len(message) < len(str(path)) + 500, message
    return message


def outcome(read: Callable[[Path], T], path: Path) -> T | str:
    """Return what a file holds, or the one line with which it is refused."""
    try:
        return read(path)
    except CheckpointError as error:
        return str(error)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are equal in every bit."""
    return (
        one.dimensions == other.dimensions
        and one.settings == other.settings
        and one.weights.keys() == other.weights.keys()
        and all(
            (tensor.dtype, tensor.shape) == (other.weights[name].dtype, other.weights[name].shape)
            and tensor.reshape(-1).view(torch.uint8).equal(other.weights[name].reshape(-1).view(torch.uint8))
            for name, tensor in one.weights.items()
        )
    )


def lived_in(dimensions: dict[str, int | float], seed: int = 0) -> DAVS:
    """Return a model whose BatchNorm has seen something, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    model = DAVS(**dimensions).eval()  # type: ignore[arg-type]
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(seed + 7)
        else:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + (0.9 if "running_" in name else -0.05))
    return model


def repack(content: dict[str, Any], path: Path, **changes: Any) -> Path:
    """Write a checkpoint of ours by plain torch, entries changed, or left out where None."""
    torch.save({name: value for name, value in {**content, **changes}.items() if value is not None}, path)
    return path


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def domain() -> dict[str, Tensor]:
    """The tensors of the smallest released network; not to be changed."""
    return released_form.fill({DOMAIN: {**released_form.layout()[DOMAIN]}})[DOMAIN]


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours with a small model; not to be changed."""
    note = {"source": {"form": "made"}, "mfcc_preset": "davs", "odds": [1, 2.5, None, True, "ß"]}
    return checkpoint.save(tmp_path_factory.mktemp("ours"), Checkpoint.of(lived_in(SMALL), note))


@pytest.fixture(scope="session")
def whole(ours: Path) -> Checkpoint:
    """That checkpoint, loaded; not to be changed."""
    return checkpoint.load(ours)


@pytest.fixture(scope="session")
def content(ours: Path) -> dict[str, Any]:
    """What plain torch finds in that checkpoint; not to be changed."""
    return torch.load(ours, weights_only=True)


# ---------------------------------------------------------------- import of whole files


@pytest.fixture(scope="module")
def networks() -> released_form.Networks:
    """All released networks, filled by the recipe."""
    return released_form.fill(released_form.layout())


@pytest.fixture(scope="module", params=["0.2", "now"])
def imported(
    request: pytest.FixtureRequest, networks: released_form.Networks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str, Result, Path]]:
    """A whole file, its digest before the import, what the import said, and the run."""
    folder = tmp_path_factory.mktemp("imported")
    file, run = folder / "101_DAVS_checkpoint.pth.tar", folder / "runs" / "released"
    extra = {
        "epoch": 101,
        "optimizer_G": {"state": {2**40: {"step": 5}}, "param_groups": [{"betas": (0.9, 0.999)}]},
    }
    released_form.write(file, networks, era=request.param, extra=extra)
    digest = _sha256(file)
    yield file, digest, call("import-checkpoint", file, run), run
    file.unlink()
    (run / checkpoint.NAME).unlink()


class TestImport:
    """What the released code saved becomes a checkpoint of ours."""

    def test_the_form_of_the_released_tensors_is_the_recorded_one(self, shared: Path) -> None:
        """Names and shapes that follow from our networks are those of the released ones, none more, none less."""
        recorded = json.loads((shared / "reference/networks/state_dict_layout.json").read_text())
        assert released_form.layout() == recorded

    def test_every_number_of_the_file_is_in_the_checkpoint(
        self, imported: tuple[Path, str, Result, Path], networks: released_form.Networks
    ) -> None:
        """Whatever the era of the file, its tensors are the checkpoint's, stacked where two became one."""
        _, _, result, run = imported
        assert result.exit_code == 0, result.output
        loaded = checkpoint.load(run)
        weights = dict(loaded.weights)
        for network, attribute in released.NETWORKS.items():
            left = dict(networks[network])
            for layer, sources in released.layers(network).items():
                for name in [name for name in weights if name.startswith(f"{attribute}.{layer}.")]:
                    last = name.rpartition(".")[2]
                    if last == "num_batches_tracked":
                        assert weights.pop(name) == 0
                    else:
                        assert weights.pop(name).equal(torch.cat([left.pop(f"{source}.{last}") for source in sources]))
            assert not left
        assert not weights
        assert loaded.settings["not_imported"] == []
        assert loaded.dimensions == DAVS.__init__.__kwdefaults__

    def test_tensors_go_where_they_belong(
        self, imported: tuple[Path, str, Result, Path], networks: released_form.Networks
    ) -> None:
        """Some tensors, looked up by hand: first and second half of a maxout, an hourglass, heads."""
        weights = checkpoint.load(imported[3]).weights
        for ours, rows, network, name in (
            ("identity_encoder.stem.conv.weight", slice(32), "ID_encoder", "block1.conv01_a.weight"),
            ("identity_encoder.stem.conv.weight", slice(32, None), "ID_encoder", "block1.conv01_b.weight"),
            (
                "identity_encoder.eighth.5.bn.running_var",
                slice(160, None),
                "ID_encoder",
                "block26.conv26_b_bn.running_var",
            ),
            (
                "visual_speech_encoder.hourglass.upper.conv1.2.weight",
                slice(None),
                "lip_feature_encoder",
                "model.m0.b1_4.conv1.weight",
            ),
            ("audio_speech_encoder.fc.weight", slice(None), "mfcc_encoder", "fc.weight"),
            ("decoder.last.3.bias", slice(None), "Decoder", "conv7_2.bias"),
            ("sequence_discriminator.patch.weight", slice(None), "netD_mul", "conv4.weight"),
            ("word_classifier.fc2.weight", slice(None), "model_fusion", "fc_2.weight"),
            ("domain_discriminator.layers.2.bias", slice(None), DOMAIN, "fc2.bias"),
            ("identity_word_classifier.fc.weight", slice(None), "ID_lip_discriminator", "fc_2.weight"),
        ):
            assert weights[ours][rows].equal(networks[network][name]), ours

    def test_what_is_no_network_is_named_as_left_aside(self, imported: tuple[Path, str, Result, Path]) -> None:
        """The epoch and the state of an optimizer are left in the file, and that is said."""
        _, _, result, run = imported
        *aside, then = result.stderr.splitlines()
        assert aside == ["left aside: epoch", "left aside: optimizer_G"]
        assert then.startswith(f"next: avprep generate {run} ")
        assert result.stdout.splitlines()[-1] == f"{run / checkpoint.NAME}: 500 words, 256×256, width 1"

    def test_the_file_is_named_in_the_checkpoint_and_not_changed(
        self, imported: tuple[Path, str, Result, Path]
    ) -> None:
        """The checkpoint says which file it comes from, by digest, and that file is as it was."""
        file, digest, _, run = imported
        assert _sha256(file) == digest
        source = {"form": "released", "file": file.name, "sha256": digest}
        assert checkpoint.load(run).settings["source"] == source

    def test_the_same_file_gives_the_same_bytes(self, imported: tuple[Path, str, Result, Path]) -> None:
        """A second import, over the first with --force, writes the very same file; without, it is refused."""
        file, _, _, run = imported
        target = run / checkpoint.NAME
        before = _sha256(target), target.stat().st_ino
        assert_refused(call("import-checkpoint", file, run), 2, str(target), "--force")
        assert target.stat().st_ino == before[1]
        assert call("import-checkpoint", file, run, "--force").exit_code == 0
        assert _sha256(target) == before[0]
        assert target.stat().st_ino != before[1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- import of what lacks something


class TestFindings:
    """Every missing or odd tensor is named, and then nothing is written."""

    @eras
    @pytest.mark.parametrize("prefix", ["module.", ""])
    def test_the_prefix_of_data_parallel_may_be_there_or_not(
        self, tmp_path: Path, domain: dict[str, Tensor], era: Era, prefix: str
    ) -> None:
        """Networks that were not wrapped in DataParallel are read like those that were."""
        file = released_form.write(tmp_path / "file.tar", {DOMAIN: domain}, prefix=prefix, era=era)
        found, findings = released.read(file)
        assert findings.loaded == {DOMAIN: 66_049}
        assert findings.missing == [network for network in released.NETWORKS if network != DOMAIN]
        assert not findings.odd
        assert not findings.aside
        assert found.weights["domain_discriminator.layers.0.weight"].equal(domain["fc1.weight"])

    def test_the_number_of_words_is_that_of_the_file(self, tmp_path: Path) -> None:
        """A file trained on 54 words gives a model of 54 words."""
        layout = released_form.layout(n_words=54)
        networks = released_form.fill({"model_fusion": layout["model_fusion"]})
        found, findings = released.read(released_form.write(tmp_path / "file.tar", networks))
        assert found.dimensions["n_words"] == 54
        assert found.weights["word_classifier.fc2.bias"].equal(networks["model_fusion"]["fc_2.bias"])
        assert not findings.odd
        networks = released_form.fill({"ID_lip_discriminator": layout["ID_lip_discriminator"]})
        assert released.read(released_form.write(tmp_path / "file.tar", networks))[0].dimensions["n_words"] == 54

    def test_classifiers_that_disagree_on_the_words_are_odd(self, tmp_path: Path) -> None:
        """Where the two word classifiers are of different data sets, the second is named, with both shapes."""
        networks = released_form.fill(
            {
                "model_fusion": released_form.layout(n_words=54)["model_fusion"],
                "ID_lip_discriminator": released_form.layout(n_words=53)["ID_lip_discriminator"],
            }
        )
        _, findings = released.read(released_form.write(tmp_path / "file.tar", networks))
        assert "ID_lip_discriminator.fc_2.weight: shape [53, 2560], expected [54, 2560]" in findings.odd

    @pytest.mark.parametrize(
        ("spoil", "named"),
        [
            (lambda t: t[:, :255], "shape [256, 255], expected [256, 256]"),
            (lambda t: t.flatten(), "shape [65536], expected [256, 256]"),
            (lambda t: t.to(torch.int64), "dtype torch.int64, expected floating point"),
            (lambda t: t.to(torch.complex64), "dtype torch.complex64, expected floating point"),
            (lambda t: t.index_fill(0, torch.tensor([7]), torch.nan), "holds NaN or infinity"),
            (lambda t: t.index_fill(0, torch.tensor([7]), -torch.inf), "holds NaN or infinity"),
            (lambda t: t.double() * 1e300, "holds NaN or infinity"),
            (lambda t: t.to_sparse(), "not a dense tensor with all its numbers but torch.sparse_coo on cpu"),
            (
                lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
                "not a dense tensor with all its numbers but quantized torch.strided on cpu",
            ),
            (lambda t: t.to("meta"), "not a dense tensor with all its numbers but torch.strided on meta"),
            (
                lambda t: t[:1].clone().expand(256, 256),
                "not a dense tensor with all its numbers but the same ones repeated",
            ),
            (lambda t: t.tolist(), "not a dense tensor with all its numbers but a list"),
            (lambda t: None, "not a dense tensor with all its numbers but a NoneType"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*quantize.*")
    def test_an_odd_tensor_is_named_and_nothing_written(
        self, tmp_path: Path, domain: dict[str, Tensor], spoil: Callable[[Tensor], object], named: str
    ) -> None:
        """A tensor of another shape, kind or content is named with what is wrong; there is no RUN afterwards."""
        odd = {**domain, "fc1.weight": spoil(domain["fc1.weight"])}
        file = tmp_path / "file.tar"
        torch.save({DOMAIN: OrderedDict((f"module.{name}", tensor) for name, tensor in odd.items())}, file)
        result = call("import-checkpoint", file, tmp_path / "run")
        assert_named(result, f"odd: {DOMAIN}.fc1.weight: {named}", "missing: ID_encoder", "missing: model_fusion")
        assert "7 missing, 1 odd" in result.stderr
        assert not (tmp_path / "run").exists()

    def test_a_missing_tensor_is_named_and_nothing_written(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """A network that lacks one tensor is named by that tensor, one that is absent or empty by itself."""
        networks = {DOMAIN: {n: t for n, t in domain.items() if n != "fc2.bias"}, "Decoder": {}}
        file = released_form.write(tmp_path / "file.tar", networks)
        result = call("import-checkpoint", file, tmp_path / "run")
        assert_named(result, f"missing: {DOMAIN}.fc2.bias", "missing: Decoder", "missing: mfcc_encoder")
        assert not (tmp_path / "run").exists()

    def test_partial_imports_the_rest(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """With --partial what fits is taken, the rest is fresh, and the settings list what was not imported."""
        networks = {DOMAIN: {**domain, "fc2.bias": torch.tensor([1, 2]), "fc1.bias": domain["fc1.bias"].half()}}
        file = released_form.write(tmp_path / "file.tar", networks)
        before = torch.get_rng_state()
        result = call("import-checkpoint", file, tmp_path / "run", "--partial")
        assert result.exit_code == 0, result.output
        assert torch.get_rng_state().equal(before)
        loaded = checkpoint.load(tmp_path / "run")
        (tmp_path / "run" / checkpoint.NAME).unlink()
        odd = f"{DOMAIN}.fc2.bias: shape [2], expected [1]"
        assert f"odd: {odd}" in result.stderr.splitlines()
        assert loaded.settings["not_imported"] == [*(n for n in released.NETWORKS if n != DOMAIN), odd]
        assert loaded.weights["domain_discriminator.layers.0.weight"].equal(domain["fc1.weight"])
        assert loaded.weights["domain_discriminator.layers.0.bias"].equal(domain["fc1.bias"].half().float())
        fresh = loaded.weights["decoder.last.3.weight"]
        assert fresh.isfinite().all()
        assert fresh.std() > 0

    def test_half_precision_and_any_order_in_memory_will_do(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """Weights in float16, bfloat16 or float64 become float32; transposed ones are put in order."""
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            weight = domain["fc1.weight"].to(dtype).t().contiguous().t()
            file = tmp_path / "file.tar"
            torch.save({DOMAIN: {**domain, "fc1.weight": torch.nn.Parameter(weight)}}, file)
            found, findings = released.read(file)
            assert not findings.odd
            taken = found.weights["domain_discriminator.layers.0.weight"]
            assert taken.equal(weight.float())
            assert taken.dtype == torch.float32
            assert taken.is_contiguous()
            assert not taken.requires_grad

    def test_names_from_the_file_cannot_write_to_the_terminal(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """Escape codes, line ends and lone surrogates in names are shown as question marks or spaces."""
        file = tmp_path / "file.tar"
        torch.save({DOMAIN: {**domain, "a\x1b[2J\nError: b": 1}, "\udc80\r\x00" + "x" * 1000: 1}, file)
        result = call("import-checkpoint", file, tmp_path / "run")
        assert result.stderr.splitlines()[:2] == [
            f"left aside: ?{' ?'}{'x' * 197}",
            f"left aside: {DOMAIN}.a?[2J Error: b",
        ]

    def test_only_some_of_what_is_left_aside_is_listed(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """Of hundreds of entries without a place ten are named and the rest counted."""
        extra = {f"entry{number}": number for number in range(200)}
        file = released_form.write(tmp_path / "file.tar", {DOMAIN: domain}, extra=extra)
        lines = call("import-checkpoint", file, tmp_path / "run").stderr.splitlines()
        assert lines[9:11] == ["left aside: entry9", "left aside: 190 more"]

    def test_without_a_seed_what_is_missing_cannot_be_saved(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """A checkpoint of a file that lacks something is not one by itself: `save` refuses it."""
        found, _ = released.read(released_form.write(tmp_path / "file.tar", {DOMAIN: domain}))
        with pytest.raises(CheckpointError, match=r"run/checkpoint\.pt: not written: .* is missing"):
            checkpoint.save(tmp_path / "run", found)
        assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- files that are none


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


class TestNotACheckpoint:
    """A file that isn't a checkpoint gets a clear line."""

    @pytest.mark.parametrize("kind", NOT_CHECKPOINTS)
    def test_another_file_is_refused_in_one_line(self, tmp_path: Path, kind: str) -> None:
        """Whatever the file is, both the import and the loading of ours name it, in one line."""
        file = tmp_path / "101_DAVS_checkpoint.pth.tar"
        NOT_CHECKPOINTS[kind](file)
        before = file.read_bytes()
        assert_refused(call("import-checkpoint", file, tmp_path / "run"), 1, str(file))
        assert not (tmp_path / "run").exists()
        message = refusal(checkpoint.load, file)
        assert "import" not in message or kind not in ("empty", "text", "jpeg", "gzip")
        assert file.read_bytes() == before

    def test_archives_are_named_as_such(self, tmp_path: Path) -> None:
        """Who unpacked or packed the download reads that a zip or tar archive is not it."""
        for kind in ("zip", "tar"):
            NOT_CHECKPOINTS[kind](tmp_path / kind)
            result = call("import-checkpoint", tmp_path / kind, tmp_path / "run")
            assert_refused(result, 1, f"a {kind} archive", "as it was downloaded")

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        """No file ends in 1; a device or a directory for a file, or a file for a RUN, ends in 2."""
        assert_refused(call("import-checkpoint", tmp_path / "none", tmp_path / "run"), 1, "none: not there")
        assert_refused(call("import-checkpoint", os.devnull, tmp_path / "run"), 2, os.devnull, "not a regular file")
        assert_refused(call("import-checkpoint", tmp_path, tmp_path / "run"), 2, str(tmp_path), "directory")
        (tmp_path / "run").touch()
        assert_refused(call("import-checkpoint", tmp_path / "none", tmp_path / "run"), 2, "run", "file")
        assert refusal(checkpoint.load, tmp_path / "none").endswith("not there")

    def test_a_run_without_a_checkpoint_is_refused(self, tmp_path: Path) -> None:
        """A folder is read by its checkpoint.pt, and that is named where it is missing."""
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt: not there, .*import-checkpoint FILE "):
            checkpoint.load(tmp_path)

    def test_each_form_is_told_from_the_other(self, tmp_path: Path, ours: Path, domain: dict[str, Tensor]) -> None:
        """Our checkpoint needs no import; the released one cannot be loaded without."""
        assert_refused(
            call("import-checkpoint", ours, tmp_path / "run"), 1, str(ours), "a checkpoint of avprep already"
        )
        for era in ("0.2", "now"):
            file = released_form.write(tmp_path / "file.tar", {DOMAIN: domain}, era=era)
            assert "import-checkpoint" in refusal(checkpoint.load, file)

    def test_a_file_with_an_archive_behind_it_is_what_it_begins_with(
        self, tmp_path: Path, domain: dict[str, Tensor]
    ) -> None:
        """A released file to which a zip was appended is no zip: its weights are read."""
        file = released_form.write(tmp_path / "file.tar", {DOMAIN: domain})
        _zip(tmp_path / "a.zip")
        file.write_bytes(file.read_bytes() + (tmp_path / "a.zip").read_bytes())
        assert zipfile.is_zipfile(file)
        assert released.read(file)[1].loaded == {DOMAIN: 66_049}


# ---------------------------------------------------------------- damage


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
    """A damaged file is refused in one line; nothing else ever comes of it."""

    def test_a_truncated_file_is_refused(self, tmp_path: Path, small: bytes) -> None:
        """A download that stopped, wherever it did, is not imported."""
        path = tmp_path / "file.tar"
        places = {len(small) - 1, len(small) - 30, 1, 30, 100, 500, 1000, *(len(small) * i // 20 for i in range(20))}
        for length in places:
            path.write_bytes(small[:length])
            refusal(released.read, path)

    def test_our_truncated_checkpoint_is_refused(self, tmp_path: Path, ours: Path) -> None:
        """A copy that stopped, wherever it did, is not loaded."""
        content = ours.read_bytes()
        path = tmp_path / "checkpoint.pt"
        for length in (len(content) - 1, len(content) - 50, len(content) * 2 // 3, len(content) // 3, 10_000, 60, 1, 0):
            path.write_bytes(content[:length])
            refusal(checkpoint.load, path)

    @pytest.mark.parametrize("seed", range(2))
    def test_a_changed_byte_in_a_released_file_never_crashes(self, tmp_path: Path, small: bytes, seed: int) -> None:
        """Bytes changed in a released file, which has no digest, lead to weights, findings or one line."""
        chance = random.Random(seed)
        path = tmp_path / "file.tar"
        for _ in range(30):
            path.write_bytes(_spoilt(small, chance, span=min(len(small), chance.choice([300, 3000, len(small)]))))
            if isinstance(found := outcome(released.read, path), str):
                assert found.startswith(f"{path}: ")
                assert found.isprintable()

    @pytest.mark.parametrize("seed", range(3))
    def test_a_changed_byte_in_our_checkpoint_is_noticed(
        self, tmp_path: Path, ours: Path, whole: Checkpoint, seed: int
    ) -> None:
        """Of bytes changed anywhere in our checkpoint comes one line or the very same checkpoint."""
        chance = random.Random(seed)
        content = ours.read_bytes()
        path = tmp_path / "checkpoint.pt"
        for _ in range(8):
            path.write_bytes(_spoilt(content, chance, span=chance.choice([60_000, len(content)])))
            if isinstance(found := outcome(checkpoint.load, path), str):
                assert found.startswith(f"{path}: ")
                assert found.isprintable()
            else:
                assert same(found, whole)

    def test_a_changed_number_is_noticed_by_the_digest(self, tmp_path: Path, content: dict[str, Any]) -> None:
        """The smallest change of a weight, a counter, a setting or a dimension without weights is told."""
        name = "decoder.last.3.weight"
        weights = {**content["weights"], name: content["weights"][name].clone()}
        weights[name].view(torch.int32)[0, 0, 0, 0] ^= 1
        counter = next(name for name in weights if name.endswith("num_batches_tracked"))
        for changes in (
            {"weights": weights},
            {"weights": {**content["weights"], counter: torch.tensor(99)}},
            {"settings": json.dumps({**json.loads(content["settings"]), "mfcc_preset": "syncnet"})},
            {"dimensions": {**content["dimensions"], "width": 0.011}},
            {"digest": "0" * 64},
            {"digest": torch.zeros(64)},
            {"digest": None},
        ):
            path = repack(content, tmp_path / "checkpoint.pt", **changes)
            assert "digest" in refusal(checkpoint.load, path)

    def test_two_tensors_that_changed_places_are_noticed(self, tmp_path: Path, content: dict[str, Any]) -> None:
        """Weights of the same shape under each other's names do not pass."""
        weights = dict(content["weights"])
        one, other = "identity_encoder.quarter.0.conv.weight", "identity_encoder.quarter.1.conv.weight"
        weights[one], weights[other] = weights[other], weights[one]
        assert "digest" in refusal(checkpoint.load, repack(content, tmp_path / "checkpoint.pt", weights=weights))


def _spoilt(content: bytes, chance: random.Random, span: int) -> bytes:
    """Change one to three bytes of the first `span`, or of the last where pickles and directories may be as well."""
    spoilt = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(span)
        spoilt[place if chance.random() < 0.5 else -1 - place] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


# ---------------------------------------------------------------- hostile files


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made_of = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.made_of


class Made:
    """Makes a folder when it is created, and pickles as the creation of an object (NEWOBJ)."""

    where = ""

    def __new__(cls, where: str) -> Made:
        """Make a folder."""
        os.mkdir(where)
        return object.__new__(cls)

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj__, (Made, self.where)  # type: ignore[attr-defined]


class Built:
    """Makes a folder when it is given its state, and pickles as such (BUILD)."""

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
    """Return a stream in torch's old form, of opcodes."""
    pickles = (b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", b"M\xe9\x03", system, content, keys)
    return b"".join(b"\x80\x02" + opcodes + b"." for opcodes in pickles) + numbers


def archive(path: Path, content: bytes, *, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Path:
    """Write a file in torch's new form, of opcodes and records."""
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
    """Return the opcodes of a tensor that claims a storage of so many numbers; `view` is there in the old form only."""
    identity = b"(" + opcodes("storage") + (storage or b"ctorch\nFloatStorage\n") + opcodes("0") + opcodes("cpu")
    identity += opcodes(claimed) + view + b"tQ"
    arguments = opcodes(0) + opcodes(shape) + opcodes(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + arguments + b"tR"


def at(name: str, value: bytes, network: str = DOMAIN) -> bytes:
    """Return the opcodes of a file that has a value at one tensor's place."""
    return b"}" + opcodes(network) + b"}" + opcodes(name) + value + b"ss"


def doubling(times: int) -> bytes:
    """Return the opcodes of a list of two lists of two lists …: small as it lies, endless when written out."""
    content = b"]q\x00"
    for number in range(times):
        content += (
            b"](h" + struct.pack("B", number) + b"h" + struct.pack("B", number) + b"eq" + struct.pack("B", number + 1)
        )
    return content


class TestHostile:
    """A file that wants more than to be read gets one line, runs nothing and costs no more than its size."""

    @pytest.mark.parametrize("kind", CODE)
    @pytest.mark.parametrize("lock", ["both", "the opcodes", "weights_only"])
    def test_code_in_a_file_is_never_run(
        self, tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: str, lock: str
    ) -> None:
        """Code wherever a pickle can hold it is refused by each of the two locks, the other one being open."""
        if lock == "weights_only":
            monkeypatch.setattr(checkpoint, "_inspect", lambda file: None)
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
            "settings": lambda path: torch.save({**content, "weights": {}, "settings": code}, path),
            "dimensions": lambda path: torch.save({**content, "weights": {}, "dimensions": {"width": code}}, path),
            "digest": lambda path: torch.save({**content, "weights": {}, "digest": code}, path),
        }
        for place, write in files.items():
            path = tmp_path / f"{place}.pt"
            write(path)
            for read in (released.read, checkpoint.load):
                message = refusal(read, path)
                assert not marker.exists(), f"{place}: the code was run"
                assert place == "newest" or lock == "weights_only" or "holds more than weights" in message, (
                    place,
                    message,
                )

    def test_the_code_of_these_tests_does_run_where_it_may(self, tmp_path: Path) -> None:
        """The files above are loaded guns: plain pickle runs each."""
        for kind, code in CODE.items():
            pickle.loads(pickle.dumps(code(str(tmp_path / kind)), protocol=2))  # noqa: S301
            assert (tmp_path / kind).is_dir()

    def test_the_user_sees_one_line_and_no_traceback(self, tmp_path: Path) -> None:
        """The real program says what it refused, in one line on stderr, and leaves nothing."""
        file = tmp_path / "101_DAVS_checkpoint.pth.tar"
        torch.save({DOMAIN: Call(os.mkdir, str(tmp_path / "marker"))}, file)
        words = [sys.executable, "-c", "from avprep_cli.main import main; main()", "import-checkpoint"]
        ended = subprocess.run([*words, file, tmp_path / "run"], capture_output=True, text=True, check=False)
        refused = "refused, and nothing of it run: it holds more than weights (posix.mkdir)"
        assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"Error: {file}: {refused}\n")
        assert list(tmp_path.iterdir()) == [file]

    def test_warnings_of_torch_do_not_reach_the_user(self, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
        """What torch has to say about a pickle of a younger protocol is not passed on."""
        path = tmp_path / "file.tar"
        path.write_bytes(legacy(b"}").replace(b"\x80\x02", b"\x80\x04"))
        with pytest.warns(UserWarning, match="protocol 4"):
            torch.load(path, weights_only=True)
        assert "holds none of" in refusal(released.read, path)
        assert "not a checkpoint of avprep" in refusal(checkpoint.load, path)
        assert not recwarn.list

    def test_no_file_costs_more_memory_than_its_size(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """Small files that ask for gigabytes, for ages or for the stack are refused, one line each, cheaply."""
        head = b"}" + opcodes("format") + opcodes(checkpoint.FORMAT) + b"s" + opcodes("schema_version")
        fields = b"".join(opcodes(name) + b"}s" for name in ("dimensions", "weights"))
        tuples = b")" + b"\x85" * 200_000
        endless_tuple = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
        words = ((2**21, 512), (512, 1))
        array = b"cbuiltins\nbytearray\n" + opcodes(2**30) + b"\x85R"
        width = opcodes("settings") + opcodes("{}") + b"s" + opcodes("dimensions") + b"}" + opcodes("width")
        width += doubling(60) + b"ss"
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
            "endless-version": head + doubling(60) + b"s",
            "endless-format": b"}" + opcodes("format") + doubling(60) + b"s",
            "endless-settings": head + b"K\x01s" + fields + opcodes("settings") + doubling(60) + b"s",
            "endless-dimension": head + b"K\x01s" + fields + width,
            "deep-settings": head + b"K\x01s" + fields + opcodes("settings") + opcodes("[" * 100_000) + b"s",
            "deep-settings-2": head + b"K\x01s" + fields + opcodes("settings") + opcodes('{"a":' * 100_000) + b"s",
            "no-numbers": at("fc1.weight", tensor_of((2**32,), (1,), 2**32)),
        }  # fmt: skip
        for name, content in streams.items():
            (tmp_path / name).write_bytes(content)
        for name, content in pickles.items():
            archive(tmp_path / name, content)
        zeros = bytes(2**28)
        claim = at("fc1.weight", tensor_of((2**26,), (1,), 2**26))
        archive(tmp_path / "bomb", claim, compression=zipfile.ZIP_DEFLATED, **{"0": zeros})
        (tmp_path / "hidden-bomb").write_bytes((tmp_path / "bomb").read_bytes() + b"PK\5\6")
        archive(tmp_path / "bomb-pickle", b"N" * 2**28, compression=zipfile.ZIP_DEFLATED)
        good = released_form.write(tmp_path / "good", {DOMAIN: domain})
        script = """
import sys
from pathlib import Path
from avprep.errors import CheckpointError
from davs_model import checkpoint, released
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
good, *bad = map(Path, sys.argv[1:])
released.read(good)
before = peak()
for path in bad:
    for read in (released.read, checkpoint.load):
        try:
            read(path)
            print(f"{path}: read")
        except CheckpointError as error:
            print(error)
        if peak() > before + 150:
            sys.exit(f"{path}: {peak() - before} MiB")
"""
        names = [*streams, *pickles, "bomb", "hidden-bomb", "bomb-pickle"]
        ended = subprocess.run(
            [sys.executable, "-c", script, good, *(tmp_path / name for name in names)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        expected = [f"{tmp_path / name}: " for name in names for _ in range(2)]
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
            assert part in lines[2 * names.index(name)]

    def test_words_that_a_file_only_claims_make_no_large_model(self, tmp_path: Path) -> None:
        """The number of words comes from a weight that is there in full, else it is LRW's and the weight is odd."""
        for weight in (
            torch.zeros(2**31, 0),
            torch.zeros(1, 512).expand(2**22, 512),
            torch.zeros(2**22, 512, device="meta"),
            torch.zeros(2**22, 1)[:, 0],
            torch.zeros(2**22, 512, layout=torch.sparse_coo),
        ):
            torch.save({"model_fusion": {"fc_2.weight": weight}}, tmp_path / "file.tar")
            found, findings = released.read(tmp_path / "file.tar")
            assert found.dimensions["n_words"] == 500
            assert [odd.partition(":")[0] for odd in findings.odd] == ["model_fusion.fc_2.weight"]

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_archives_that_torch_does_not_write_are_refused(self, tmp_path: Path, ours: Path) -> None:
        """Entries that overlap, that are there twice or that climb out of their folder: one line, nothing written."""
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
        twice.write_bytes(ours.read_bytes())
        with zipfile.ZipFile(twice, "a") as file:
            name = next(name for name in file.namelist() if name.endswith("/data.pkl"))
            file.writestr(name, file.read(name))
        with zipfile.ZipFile(climbing, "w") as file:
            file.writestr("../../a/data.pkl", b"\x80\x02" + content + b".")
            file.writestr("../../a/data/0", bytes(16))
            file.writestr("/etc/avprep-was-here", b"")
        for path in (overlap, twice, climbing):
            for read in (released.read, checkpoint.load):
                refusal(read, path)
        assert sorted(tmp_path.iterdir()) == sorted([overlap, twice, climbing])
        assert not (tmp_path / "../../a").exists()
        assert not Path("/etc/avprep-was-here").exists()

    def test_attributes_cannot_stand_in_for_methods(self, tmp_path: Path) -> None:
        """A dictionary whose pickle gives it attributes named like its methods is read all the same."""
        attributes = opcodes(dict.fromkeys(("get", "items", "keys", "values", "_metadata"), "a"))
        ordered, dressed = b"ccollections\nOrderedDict\n](](", b"ee\x85R" + attributes + b"b"
        tensors = ordered + opcodes("fc1.bias") + tensor_of((256,), (1,), 256) + dressed
        path = archive(tmp_path / "file.tar", ordered + opcodes(DOMAIN) + tensors + dressed, **{"0": bytes(1024)})
        assert released.read(path)[1].loaded == {DOMAIN: 256}

    @pytest.mark.parametrize(
        "dimensions",
        [
            {"width": 1e9},
            {"width": 1e300},
            {"width": float("inf")},
            {"width": float("nan")},
            {"width": -1.0},
            {"width": "1"},
            {"width": None},
            {"width": True},
            {"width": [1]},
            {"width": torch.ones(3)},
            {"n_words": 2**62},
            {"n_words": 2**2000},
            {"n_words": -5},
            {"n_words": 2.5},
            {"image_size": 257},
            {"image_size": 64.0},
            {"image_size": 2**70},
            {"depth": 4},
            {"self": 4},
            {"a\nb\x1b[0m": 4},
        ],
        ids=str,
    )
    def test_dimensions_that_no_model_has_are_refused(
        self, tmp_path: Path, content: dict[str, Any], dimensions: dict[str, Any]
    ) -> None:
        """Dimensions that are negative, of another type, not built for or unknown end in one line."""
        path = repack(content, tmp_path / "checkpoint.pt", dimensions={**SMALL, **dimensions}, weights={})
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
        self, tmp_path: Path, content: dict[str, Any], dimensions: dict[str, Any]
    ) -> None:
        """Dimensions of a monstrous model, or of one without words or frames, cost nothing and end in one line."""
        path = repack(content, tmp_path / "checkpoint.pt", dimensions={**SMALL, **dimensions})
        said = refusal(checkpoint.load, path)
        assert "the weights do not fit the dimensions" in said or "no model has" in said

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda t: t[:1, :1, :1, :1].clone().expand(t.shape),
            lambda t: t.half(),
            lambda t: t.double(),
            lambda t: t.to(torch.int32),
            lambda t: t.flatten(),
            lambda t: t.to_sparse(),
            lambda t: t.to("meta"),
            lambda t: t.tolist(),
            lambda t: None,
            lambda t: torch._neg_view(t),
        ],
    )
    def test_weights_that_are_none_are_refused(
        self, tmp_path: Path, content: dict[str, Any], spoil: Callable[[Tensor], object]
    ) -> None:
        """A weight that is repeated, of another precision, sparse, elsewhere or no tensor is named, in one line."""
        name = "decoder.last.3.weight"
        weights = content["weights"]
        path = repack(content, tmp_path / "checkpoint.pt", weights={**weights, name: spoil(weights[name])})
        assert f"{name} is not a torch.float32 tensor of shape [4, 3, 3, 3]" in refusal(checkpoint.load, path)


# ---------------------------------------------------------------- our own form


class TestOurs:
    """Our checkpoint gives back the model bit by bit, describes itself and is written whole or not at all."""

    @settings(  # no shrinking: it would build models for minutes
        max_examples=5,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        dimensions=st.fixed_dictionaries(
            {
                "n_words": st.integers(1, 9),
                "n_people": st.integers(0, 3),
                "n_speakers": st.integers(0, 3),
                "width": st.sampled_from([0.01, 0.06]),
                "image_size": st.sampled_from([64, 128, 256]),
                "speech_frames": st.integers(1, 3),
                "identity_frames": st.integers(1, 3),
                "sequence_frames": st.integers(1, 3),
                "n_word_classifiers": st.sampled_from([1, 2]),
            }
        ),
        seed=st.integers(0, 99),
        note=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=8,
        ),
    )
    def test_a_model_comes_back_bit_by_bit(
        self, tmp_path: Path, dimensions: dict[str, int | float], seed: int, note: object
    ) -> None:
        """Whatever its dimensions, a model is the same after saving and loading, counters and outputs included."""
        model = lived_in(dimensions, seed)
        made = Checkpoint.of(model, {"note": note})
        before = torch.get_rng_state()
        loaded = checkpoint.load(checkpoint.save(tmp_path, made).parent)
        again = loaded.model()
        assert torch.get_rng_state().equal(before)
        assert same(loaded, made)
        assert not again.training
        assert again.dimensions == model.dimensions == dimensions
        assert set(made.weights) == set(again.state_dict()) == set(model.state_dict())
        if (side := int(dimensions["image_size"])) > 64:
            return
        frames = int(dimensions["sequence_frames"])
        faces, windows = torch.rand(1, frames, 3, side, side), torch.randn(1, frames, 12, 20)
        with torch.inference_mode():
            for one, other in zip(_outputs(model, faces, windows), _outputs(again, faces, windows), strict=True):
                assert one.equal(other)

    def test_the_same_model_gives_the_same_bytes(self, tmp_path: Path, ours: Path, whole: Checkpoint) -> None:
        """Saving what was loaded, in another folder, writes the very same file."""
        path = checkpoint.save(tmp_path / "a" / "b", whole)
        assert path.read_bytes() == ours.read_bytes()

    def test_the_order_of_settings_does_not_matter(self, tmp_path: Path) -> None:
        """Settings that are equal as dictionaries give the same bytes."""
        model = lived_in(SMALL)
        one = checkpoint.save(tmp_path / "one", Checkpoint.of(model, {"a": 1, "b": {"c": 2, "d": 3}}))
        other = checkpoint.save(tmp_path / "other", Checkpoint.of(model, {"b": {"d": 3, "c": 2}, "a": 1}))
        assert one.read_bytes() == other.read_bytes()

    def test_the_file_describes_itself(self, whole: Checkpoint, content: dict[str, Any]) -> None:
        """Plain torch reads it, weights only, and finds everything that is needed to build the model."""
        assert set(content) == {"format", "schema_version", "dimensions", "settings", "weights", "digest"}
        assert content["format"] == "avprep DAVS checkpoint"
        assert content["schema_version"] == 1
        assert content["dimensions"] == SMALL
        assert json.loads(content["settings"])["odds"] == [1, 2.5, None, True, "ß"]
        assert content["digest"] == whole.digest()
        DAVS(**content["dimensions"]).load_state_dict(content["weights"])

    def test_how_a_model_lies_in_memory_does_not_matter(self, tmp_path: Path) -> None:
        """A model in channels_last gives the bytes of the same model in the usual order."""
        model = lived_in(SMALL)
        usual = checkpoint.save(tmp_path / "usual", Checkpoint.of(model, {}))
        odd = checkpoint.save(
            tmp_path / "odd",
            Checkpoint.of(model.to(memory_format=torch.channels_last), {}),  # type: ignore[call-overload]
        )
        assert odd.read_bytes() == usual.read_bytes()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_a_model_of_another_precision_is_kept_as_float32(self, tmp_path: Path, dtype: torch.dtype) -> None:
        """Half precision is kept in float32 without loss, double precision is rounded; counters stay integers."""
        model = lived_in(SMALL).to(dtype)
        weights = checkpoint.load(checkpoint.save(tmp_path, Checkpoint.of(model, {}))).weights
        for name, tensor in model.state_dict().items():
            counter = name.endswith("num_batches_tracked")
            assert weights[name].dtype == (torch.int64 if counter else torch.float32)
            assert weights[name].equal(tensor if counter else tensor.float())

    def test_a_checkpoint_is_a_copy_of_the_model_and_a_model_is_its_checkpoint(self) -> None:
        """Training goes on without changing a checkpoint that was taken; the model built from one shares its memory."""
        model = lived_in(SMALL)
        taken = Checkpoint.of(model, {})
        name = "decoder.last.3.bias"
        before = taken.weights[name].clone()
        model.state_dict()[name].add_(1)
        assert taken.weights[name].equal(before)
        taken.model().state_dict()[name].add_(1)
        assert taken.weights[name].equal(before + 1)

    def test_weights_may_be_parameters(self, tmp_path: Path, whole: Checkpoint, content: dict[str, Any]) -> None:
        """Weights that plain torch saved as parameters, which want gradients, are read as the numbers that they are."""
        weights = content["weights"]
        parameters = {n: torch.nn.Parameter(t) if t.is_floating_point() else t for n, t in weights.items()}
        loaded = checkpoint.load(repack(content, tmp_path / "checkpoint.pt", weights=parameters))
        assert same(loaded, whole)
        assert not any(tensor.requires_grad for tensor in loaded.weights.values())

    @pytest.mark.parametrize("version", [0, 2, -1, 10**400])
    def test_another_schema_is_refused(self, tmp_path: Path, content: dict[str, Any], version: int) -> None:
        """A checkpoint of another schema is refused with its version and the remedy."""
        message = refusal(checkpoint.load, repack(content, tmp_path / "checkpoint.pt", schema_version=version))
        assert f"schema {str(version)[:50]}" in message
        assert "update avprep" in message

    @pytest.mark.parametrize("field", ["format", "schema_version", "dimensions", "settings", "weights", "digest"])
    @pytest.mark.parametrize("value", [None, 5.5, torch.ones(3), [1], {1: 2}, "[1]", '{"a": NaN}', "\x1b"], ids=repr)
    def test_a_field_that_is_missing_or_of_another_type_is_refused(
        self, tmp_path: Path, content: dict[str, Any], field: str, value: object
    ) -> None:
        """A file that lacks a field, or has something else there, is refused in one line."""
        path = repack(content, tmp_path / "checkpoint.pt", **{"weights": {}, field: value})
        refusal(checkpoint.load, path)

    @pytest.mark.parametrize(
        "note", [float("nan"), float("inf"), Path("a"), {1, 2}, (1, 2), {"a": {5: 6}}, b"a", torch.ones(1)], ids=repr
    )
    def test_settings_that_are_no_json_are_not_saved(self, tmp_path: Path, whole: Checkpoint, note: object) -> None:
        """What JSON cannot give back as it was is refused before anything is written."""
        with pytest.raises(CheckpointError, match="settings"):
            checkpoint.save(tmp_path / "run", Checkpoint(whole.dimensions, {"note": note}, whole.weights))
        assert not (tmp_path / "run").exists()

    def test_what_could_not_be_loaded_is_not_saved(self, tmp_path: Path, whole: Checkpoint) -> None:
        """Weights that do not fit the dimensions are refused, and the older checkpoint stays."""
        path = checkpoint.save(tmp_path, whole)
        before = path.read_bytes()
        name = "decoder.last.3.bias"
        for weights in (
            {},
            {**whole.weights, "more": torch.ones(1)},
            {**whole.weights, name: whole.weights[name].bfloat16()},
            {**whole.weights, name: whole.weights[name].to("meta")},
        ):
            with pytest.raises(CheckpointError, match="not written"):
                checkpoint.save(tmp_path, Checkpoint(whole.dimensions, {}, weights))
            assert path.read_bytes() == before


def _outputs(model: DAVS, faces: Tensor, windows: Tensor) -> Iterator[Tensor]:
    identity = model.encode_identity(faces)
    speech = model.encode_speech_from_audio(windows)
    yield from identity
    yield speech
    yield model.encode_speech_from_video(faces)
    yield model.decode(identity, speech)
    yield from model.sequence_discriminator(faces, windows)


class TestWriting:
    """Whatever happens while a checkpoint is written, the older one can be read."""

    @pytest.mark.parametrize("moment", ["while it is written", "before it has its name"])
    def test_a_process_that_is_killed_leaves_the_old_one(self, tmp_path: Path, whole: Checkpoint, moment: str) -> None:
        """A kill in the middle changes nothing for a reader; the next save clears what was left behind."""
        path = checkpoint.save(tmp_path, whole)
        before = path.read_bytes()
        script = f"""
import io, os, signal, sys
from pathlib import Path
import torch
from davs_model import checkpoint
run, moment = Path(sys.argv[1]), sys.argv[2]
old = checkpoint.load(run)
save = torch.save
def half(content, file):
    whole = io.BytesIO()
    save(content, whole)
    file.write(whole.getbuffer()[: len(whole.getbuffer()) // 2])
    file.flush()
    os.kill(os.getpid(), signal.{signal.SIGKILL.name})
if moment == "while it is written":
    torch.save = half
else:
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.{signal.SIGKILL.name})
checkpoint.save(run, checkpoint.Checkpoint(old.dimensions, {{"new": True}}, old.weights))
"""
        ended = subprocess.run([sys.executable, "-c", script, tmp_path, moment], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 2
        assert path.read_bytes() == before
        new = checkpoint.load(tmp_path)
        checkpoint.save(tmp_path, Checkpoint(new.dimensions, {"newer": True}, new.weights))
        assert [found.name for found in tmp_path.iterdir()] == [checkpoint.NAME]
        assert checkpoint.load(tmp_path).settings == {"newer": True}

    def test_it_is_on_the_disk_before_it_has_its_name(
        self, tmp_path: Path, whole: Checkpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file is forced to the disk, then renamed, then the folder is: power may fail at any moment."""
        steps: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def synced(descriptor: int) -> None:
            steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
            fsync(descriptor)

        def renamed(part: Path, target: Path) -> Path:
            assert target.name == checkpoint.NAME
            assert same(checkpoint.load(part), whole)
            steps.append("name")
            return replace(part, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "replace", renamed)
        checkpoint.save(tmp_path, whole)
        assert steps == ["file", "name", "folder"]

    def test_a_full_disk_ends_in_one_line_and_leaves_the_old_one(self, tmp_path: Path, whole: Checkpoint) -> None:
        """Where the new one does not fit, the line says so, the old one stays and nothing else is left."""
        path = checkpoint.save(tmp_path, whole)
        before = path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for limit in (0, 1000, len(before) // 2, len(before) - 10):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # as a disk that is full then
            try:
                with pytest.raises(CheckpointError) as caught:
                    checkpoint.save(tmp_path, whole)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert str(caught.value).startswith(f"{path}: cannot be written: ")
            assert "File too large" in str(caught.value)
            assert str(caught.value).isprintable()
            assert [found.name for found in tmp_path.iterdir()] == [checkpoint.NAME]
            assert path.read_bytes() == before

    def test_a_run_that_cannot_be_made_ends_in_one_line(self, tmp_path: Path, whole: Checkpoint) -> None:
        """A RUN below a file is refused with its path."""
        (tmp_path / "file").touch()
        with pytest.raises(CheckpointError) as caught:
            checkpoint.save(tmp_path / "file" / "run", whole)
        assert str(caught.value).startswith(f"{tmp_path}/file/run/checkpoint.pt: cannot be written: NotADirectoryError")
        assert str(caught.value).isprintable()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read anything")
    def test_what_may_not_be_written_or_read_ends_in_one_line(
        self, tmp_path: Path, ours: Path, whole: Checkpoint
    ) -> None:
        """A RUN without write permission, and a file without read permission, are refused as such."""
        (tmp_path / "run").mkdir(mode=0o555)
        with pytest.raises(CheckpointError, match=r"run/checkpoint\.pt: cannot be written: PermissionError"):
            checkpoint.save(tmp_path / "run", whole)
        path = tmp_path / "file.tar"
        path.write_bytes(ours.read_bytes())
        path.chmod(0)
        assert refusal(released.read, path).endswith("may not be read: change its permissions")
