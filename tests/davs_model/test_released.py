"""The released checkpoint: its tensors are imported exactly, and missing or odd ones are named."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import released_form
import torch
from checkpoint_files import DOMAIN, assert_refused, refusal
from click.testing import Result
from command_line import call
from released_form import Era
from torch import Tensor

from avprep import files
from avprep.errors import CheckpointError
from davs_model import checkpoint, released
from davs_model.models.davs.dimensions import Dimensions

pytestmark = pytest.mark.usefixtures("one_thread")
eras = pytest.mark.parametrize("era", ["0.2", "now"])


def assert_named(result: Result, *lines: str) -> None:
    """Assert that an import named these findings, wrote nothing and ended in a one-line error."""
    assert result.exit_code == 1, result.output
    found = result.stderr.splitlines()
    for line in lines:
        assert line in found, result.stderr
    assert sum(line.startswith("Error: ") for line in found) == 1
    assert "not imported" in found[-1]


@pytest.fixture(scope="module")
def networks() -> released_form.Networks:
    """All released networks, filled by the recipe."""
    return released_form.fill(released_form.layout())


@pytest.fixture(scope="module", params=["0.2", pytest.param("now", marks=pytest.mark.slow)])
def imported(
    request: pytest.FixtureRequest, networks: released_form.Networks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str, Result, Path]]:
    """A complete file, its digest before the import, the output of the import, and the run."""
    folder = tmp_path_factory.mktemp("imported")
    file, run = folder / "101_DAVS_checkpoint.pth.tar", folder / "runs" / "released"
    extra = {
        "epoch": 101,
        "optimizer_G": {"state": {2**40: {"step": 5}}, "param_groups": [{"betas": (0.9, 0.999)}]},
    }
    released_form.write(file, networks, era=request.param, extra=extra)
    digest = files.sha256(file)
    yield file, digest, call("import-checkpoint", file, run), run
    file.unlink()
    (run / checkpoint.NAME).unlink()


class TestImport:
    """A file of the released code becomes an avprep checkpoint."""

    def test_the_form_of_the_released_tensors_is_the_recorded_one(self, shared: Path) -> None:
        """Names and shapes that follow from avprep's networks are exactly those of the released ones."""
        recorded = json.loads((shared / "reference/networks/state_dict_layout.json").read_text())
        assert released_form.layout() == recorded

    def test_every_number_of_the_file_is_in_the_checkpoint(
        self, imported: tuple[Path, str, Result, Path], networks: released_form.Networks
    ) -> None:
        """Whatever the format of the file, its tensors are the checkpoint's, stacked where two became one."""
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
        assert loaded.dimensions == Dimensions().as_dict()

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
        """The epoch and the state of an optimizer are not imported, and the output says so."""
        _, _, result, run = imported
        *aside, then = result.stderr.splitlines()
        assert aside == ["left aside: epoch", "left aside: optimizer_G"]
        assert then.startswith(f"next: avprep generate {run} ")
        assert result.stdout.splitlines()[-1] == f"{run / checkpoint.NAME}: 500 words, 256×256, width 1"

    def test_the_file_is_named_in_the_checkpoint_and_not_changed(
        self, imported: tuple[Path, str, Result, Path]
    ) -> None:
        """The checkpoint records its source file by digest, and that file is unchanged."""
        file, digest, _, run = imported
        assert files.sha256(file) == digest
        source = {"form": "released", "file": file.name, "sha256": digest}
        assert checkpoint.load(run).settings["source"] == source

    def test_the_same_file_gives_the_same_bytes(self, imported: tuple[Path, str, Result, Path]) -> None:
        """A second import with --force writes exactly the same file; without it, it is refused."""
        file, _, _, run = imported
        target = run / checkpoint.NAME
        before = files.sha256(target), target.stat().st_ino
        assert_refused(call("import-checkpoint", file, run), 2, str(target), "--force")
        assert target.stat().st_ino == before[1]
        assert call("import-checkpoint", file, run, "--force").exit_code == 0
        assert files.sha256(target) == before[0]
        assert target.stat().st_ino != before[1]


class TestFindings:
    """Every missing or odd tensor is named, and then nothing is written."""

    @eras
    @pytest.mark.parametrize("prefix", ["module.", ""])
    def test_the_prefix_of_data_parallel_may_be_there_or_not(
        self, tmp_path: Path, domain: dict[str, Tensor], era: Era, prefix: str
    ) -> None:
        """Networks that were not wrapped in DataParallel are read like wrapped ones."""
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
        """If the two word classifiers are of different data sets, the second is named, with both shapes."""
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
        """A tensor of another shape, type or content is named with the fault; no RUN is made."""
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
        """With --partial the fitting tensors are imported, the rest is new, and the settings list what is missing."""
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
        """Weights in float16, bfloat16 or float64 become float32; transposed ones are made contiguous."""
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
        """Of hundreds of unknown entries ten are named and the rest counted."""
        extra = {f"entry{number}": number for number in range(200)}
        file = released_form.write(tmp_path / "file.tar", {DOMAIN: domain}, extra=extra)
        lines = call("import-checkpoint", file, tmp_path / "run").stderr.splitlines()
        assert lines[9:11] == ["left aside: entry9", "left aside: 190 more"]

    def test_without_a_seed_what_is_missing_cannot_be_saved(self, tmp_path: Path, domain: dict[str, Tensor]) -> None:
        """An incomplete import cannot be saved as a checkpoint."""
        found, _ = released.read(released_form.write(tmp_path / "file.tar", {DOMAIN: domain}))
        with pytest.raises(CheckpointError, match=r"run/checkpoint\.safetensors: not written: .* is missing"):
            checkpoint.save(tmp_path / "run", found)
        assert not (tmp_path / "run").exists()

    def test_words_that_a_file_only_claims_make_no_large_model(self, tmp_path: Path) -> None:
        """The number of words comes from a complete weight; otherwise it is LRW's and the weight is reported."""
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

    def test_each_form_is_told_from_the_other(self, tmp_path: Path, ours: Path, domain: dict[str, Tensor]) -> None:
        """An avprep checkpoint needs no import; the released one cannot be loaded without."""
        assert_refused(
            call("import-checkpoint", ours, tmp_path / "run"), 1, str(ours), "a checkpoint of avprep already"
        )
        for era in ("0.2", "now"):
            file = released_form.write(tmp_path / "file.tar", {DOMAIN: domain}, era=era)
            assert "import-checkpoint" in refusal(checkpoint.load, file)
