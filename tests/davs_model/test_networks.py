"""The networks equal the released ones, at any size, in any fast form."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import released_form
import torch
from avprep_cli.main import main
from click.testing import CliRunner
from numpy.typing import NDArray
from small_models import draw, random_batch
from torch import Tensor, nn

from davs_model import checkpoint, released
from davs_model.data.reads import Batch
from davs_model.models.davs import Settings, objective
from davs_model.models.davs.networks import (
    DAVS,
    AudioSpeechEncoder,
    Decoder,
    Identity,
    IdentityEncoder,
    IdentityWordClassifier,
    SequenceDiscriminator,
    VisualSpeechEncoder,
    WordClassifier,
)

SMALL = {"n_words": 7, "n_people": 5, "n_speakers": 3, "width": 0.125, "image_size": 64}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, NDArray[np.float32]]:
    """The outputs of the authors' networks."""
    with np.load(shared / "reference" / "networks" / "golden.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def imported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DAVS]:
    """The model that the command line imports from a file in the released form."""
    folder = tmp_path_factory.mktemp("released")
    file = folder / "101_DAVS_checkpoint.pth.tar"
    released_form.write(file, released_form.fill(read_layout(shared)))
    result = CliRunner().invoke(main, ["import-checkpoint", str(file), str(folder / "run")])
    assert result.exit_code == 0, result.output
    file.unlink()
    yield checkpoint.load(folder / "run").model()
    (folder / "run" / checkpoint.NAME).unlink()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    """The recorded inputs, drawn in the order of their recipe, in our shapes."""
    draw = np.random.RandomState(7)  # the recipe's generator
    return {
        "identity_frames": single(draw.rand(2, 3, 256, 256)).unsqueeze(1),
        "windows": single(draw.randn(2, 12, 1, 20, 12) * 3).squeeze(2).transpose(2, 3),
        "frames": single(draw.rand(1, 12, 3, 256, 256)),
        "sequence": single(draw.rand(1, 18, 256, 256)).view(1, 6, 3, 256, 256),
        "sequence_windows": single(draw.randn(1, 6, 20, 12) * 3).transpose(2, 3),
        "quarter": single(draw.rand(1, 20 * 64, 64, 64)).view(1, 20, 64, 64, 64),
    }


def read_layout(shared: Path) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the released tensors, network by network."""
    layout: dict[str, dict[str, list[int]]] = json.loads(
        (shared / "reference" / "networks" / "state_dict_layout.json").read_text(encoding="utf-8")
    )
    return layout


def single(array: NDArray[np.float64]) -> Tensor:
    """Return the recorded inputs in float32."""
    return torch.from_numpy(array.astype(np.float32))


@pytest.mark.slow
def test_the_outputs_are_those_of_the_released_networks(
    imported: DAVS, inputs: dict[str, Tensor], golden: dict[str, NDArray[np.float32]]
) -> None:
    """Every recorded output of the released networks is reproduced to 1e-4 by the imported checkpoint."""
    with torch.no_grad():
        identity = imported.encode_identity(inputs["identity_frames"])
        audio = imported.encode_sound(inputs["windows"])
        video = imported.encode_speech(frames=inputs["frames"])
        first = Identity(*(part[:1] for part in identity))
        sequence = imported.sequence_discriminator(inputs["sequence"], inputs["sequence_windows"])
        found = {
            "id_feature": identity.feature[:, 0],
            "id_map_256": identity.thirty_second[:, 0, :8],
            "id_map_320": identity.sixteenth[:, 0, ::40],
            "id_map_160": identity.eighth[:, 0, ::40, ::4, ::4],
            "id_map_64": identity.quarter[:, 0, ::16, ::8, ::8],
            "audio_feature": audio,
            "video_feature": video,
            "frame_from_audio": imported.decode(identity, audio[:, :1])[:, 0, :, ::4, ::4],
            "frame_from_video": imported.decode(first, video[:, 3:4])[:, 0, :, ::4, ::4],
            "word_logits": imported.word_classifier(audio),
            "domain_prob": imported.domain_discriminator(audio).sigmoid().flatten(0, 1),
            "seq_patch": sequence.patch.sigmoid(),
            "seq_sync": sequence.in_step.sigmoid(),
            "pid_word_logits": imported.identity_word_classifier(inputs["quarter"]),
        }
    assert found.keys() == golden.keys()
    for name, wanted in golden.items():
        assert found[name].shape == wanted.shape, name
        assert np.abs(found[name].numpy() - wanted).max() < 1e-4, name


def test_the_parameters_are_those_of_the_released_networks(shared: Path) -> None:
    """At width 1 and 256 pixels each network has exactly as many parameters as the released one."""
    model = checkpoint.skeleton("davs", {"n_words": 500, "width": 1.0, "image_size": 256})
    for network, layout in read_layout(shared).items():
        wanted = sum(math.prod(shape) for name, shape in layout.items() if "running_" not in name)
        assert parameters(getattr(model, released.NETWORKS[network])) == wanted, network


@pytest.mark.parametrize(
    ("network", "millions"),
    [(IdentityEncoder, 15.62), (Decoder, 22.40), (AudioSpeechEncoder, 1.60), (VisualSpeechEncoder, 8.41)],
)
def test_the_defaults_are_the_released_size(network: type[nn.Module], millions: float) -> None:
    """Without arguments a network has the released number of parameters."""
    with torch.device("meta"):
        assert round(parameters(network()) / 1e6, 2) == millions


def parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("width", "image_size"), [(0.05, 64), (0.05, 128), (0.05, 256), (0.25, 64)])
def test_small_models_have_the_same_outputs(width: float, image_size: int) -> None:
    """Any width and image size gives features of 256, images of that size in [0, 1] and logits of all classifiers."""
    torch.manual_seed(0)
    model = DAVS(n_words=7, n_people=5, n_speakers=3, width=width, image_size=image_size)
    frames, windows = torch.rand(2, 12, 3, image_size, image_size), torch.randn(2, 12, 12, 20)
    with torch.no_grad():
        identity = model.encode_identity(frames[:, :1])
        video, audio = model.encode_speech(frames=frames), model.encode_sound(windows)
        generated = model.decode(identity, audio[:, :6])
        sequence = model.sequence_discriminator(generated, windows[:, :6])
        quarter = identity.quarter.expand(-1, 20, -1, -1, -1)
        read = model.identity_word_classifier(quarter)
    assert identity.feature.shape == (2, 1, 256)
    sides = [part.shape[-1] for part in (identity.quarter, identity.eighth, identity.sixteenth, identity.thirty_second)]
    assert sides == [image_size // 4, image_size // 8, image_size // 16, image_size // 32]
    assert video.shape == audio.shape == (2, 12, 256)
    assert generated.shape == (2, 6, 3, image_size, image_size)
    assert generated.dtype == torch.float32
    assert 0 <= generated.min() < generated.max() <= 1
    patches = image_size // 8 - 2
    assert sequence.patch.shape == (2, 1, patches, patches)
    assert sequence.in_step.shape == (2, 1)
    assert model.word_classifier(video).shape == read.shape == (2, 7)
    assert model.domain_discriminator(video).shape == (2, 12, 1)
    assert model.speech_person_classifier is not None
    assert model.speech_person_classifier(video).shape == (2, 12, 3)
    assert model.person_classifier is not None
    assert model.person_classifier(identity.feature).shape == (2, 1, 5)


def test_people_are_told_apart_only_where_there_are_any() -> None:
    """Without labelled people or speakers there is no classifier for them."""
    model = checkpoint.skeleton("davs", {"n_words": 7})
    assert model.person_classifier is None
    assert model.speech_person_classifier is None


@pytest.mark.parametrize(
    ("image_size", "form"),
    [(64, "paper"), (128, "released"), pytest.param(256, "paper", marks=pytest.mark.slow)],
)
def test_everything_learns(image_size: int, form: objective.Form) -> None:
    """The whole objective, in either form, gives a finite gradient to every parameter but the unused ones."""
    torch.manual_seed(0)
    model = DAVS(**{**SMALL, "width": 0.05, "image_size": image_size})
    batch = random_batch(model, 2)
    terms = objective.terms(model, batch, settings=Settings(form=form))
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in model.named_parameters():
        if ".unused." in name or name.startswith("person_classifier."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_all_frames_at_once_are_frame_by_frame() -> None:
    """Frames that are encoded at once give the numbers of a loop over them."""
    model, batch = small_model()
    with torch.no_grad():
        identity = model.encode_identity(batch["identity_frame"])
        video = model.encode_speech(frames=batch["frames"])
        audio = model.encode_sound(batch["windows"])
        generated = model.decode(identity, audio)
        for i in range(12):
            one = slice(i, i + 1)
            close(model.encode_speech(frames=batch["frames"][:, one]), video[:, one])
            close(model.encode_sound(batch["windows"][:, one]), audio[:, one])
            close(model.decode(identity, audio[:, one]), generated[:, one])


def test_one_identity_speaks_for_all_frames() -> None:
    """An identity of one frame, and the same one repeated, give the same images; different identities differ."""
    model, batch = small_model()
    with torch.no_grad():
        audio = model.encode_sound(batch["windows"])
        identity = model.encode_identity(batch["identity_frame"])
        repeated = Identity(*(part.repeat_interleave(12, dim=1) for part in identity))
        close(model.decode(repeated, audio), model.decode(identity, audio))
        other = model.encode_identity(batch["identity_frame"].flip(0))
        assert (model.decode(other, audio) - model.decode(identity, audio)).abs().max() > 1e-3


def small_model() -> tuple[DAVS, Batch]:
    """A small model in eval mode whose outputs depend on its inputs, and a batch."""
    model = DAVS(**SMALL)
    draw(model)
    return model.eval(), random_batch(model, 2)


def close(found: Tensor, wanted: Tensor) -> None:
    """Assert that two tensors are equal up to rounding."""
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_factors_of_the_released_code_can_be_had_alone() -> None:
    """With the settings in docs/training.md, every term has the released factor, with no person softmax."""
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if "--set form=released --set" in line)
    settings = Settings.resolve("paper", None, re.findall(r"--set ([a-z_.]+=\w+)", line))
    model = DAVS(**{**SMALL, "n_speakers": 2})
    factors = model.factors(DAVS.plan("full", settings), settings, people_are_speakers=True)
    ones = dict.fromkeys(("person", "word", "contrastive", "domain", "identity_word", "reconstruction"), 1.0)
    ones |= dict.fromkeys(("sequence", "sequence_confusion"), 1.0)
    assert factors == ones | {"domain_confusion": 5, "identity_word_confusion": 1_000_000, "stillness": 5}


def test_what_is_set_of_d_seq_and_of_drivers_holds_for_frames_in_a_row() -> None:
    """Without targets, too, the settings of L_GAN (hinge, wrong audio) and drivers apply to consecutive frames."""
    model, batch = small_model()
    model.requires_grad_(False)

    def found(*overrides: str) -> dict[str, float]:
        settings = Settings.resolve("paper", None, overrides)
        wanted = ("reconstruction", *objective.SEQUENCE_GAN)
        return {name: loss.item() for name, loss in model.terms(batch, wanted, settings).items()}

    plain, drawn = found(), ("reconstruction_audio", "reconstruction_video")
    for change in ("adversaries.gan_loss=hinge", "adversaries.wrong_sound=true"):
        changed = found(change)
        assert changed.keys() == plain.keys()
        assert all(changed[f"sequence_{driver}"] != plain[f"sequence_{driver}"] for driver in ("audio", "video"))
        assert [changed[name] for name in drawn] == [plain[name] for name in drawn]
    turns = ("reconstruction_audio", "sequence", "sequence_confusion", "reconstruction_video")
    assert found("generation.drive=alternate").keys() == set(turns)
    alone = {"reconstruction_audio", "sequence_audio", "sequence_confusion_audio"}
    assert found("generation.drive=alternate", "generation.video=0").keys() == alone


def test_unused_layers_are_never_used() -> None:
    """Layers that the released networks contain but never use do not affect any output, and are not trained."""
    model, batch = small_model()
    before = objective.terms(model, batch)
    unused = [parameter for name, parameter in model.named_parameters() if ".unused." in name]
    assert unused
    for parameter in unused:
        assert not parameter.requires_grad
        parameter.fill_(math.nan)
    after = objective.terms(model, batch)
    assert {name: loss.item() for name, loss in after.items()} == {name: loss.item() for name, loss in before.items()}


@pytest.mark.parametrize(
    ("network", "given", "expected"),
    [
        (lambda: IdentityEncoder(width=0.05, image_size=64), (torch.zeros(2, 3, 64, 64),), r"\[B, T, 3, 64, 64\]"),
        (lambda: IdentityEncoder(width=0.05), (torch.zeros(1, 1, 3, 128, 128),), r"\[B, T, 3, 256, 256\]"),
        (lambda: AudioSpeechEncoder(width=0.05), (torch.zeros(1, 1, 20, 12),), r"\[B, T, 12, 20\]"),
        (lambda: WordClassifier(n_words=3), (torch.zeros(1, 11, 256),), r"\[B, 12, 256\]"),
        (lambda: IdentityWordClassifier(n_words=3), (torch.zeros(1, 20, 3, 64, 64),), r"\[B, T, 64, 64, 64\]"),
        (
            lambda: SequenceDiscriminator(width=0.05, image_size=64),
            (torch.zeros(1, 5, 3, 64, 64), torch.zeros(1, 6, 12, 20)),
            r"\[B, 6, 3, 64, 64\]",
        ),
    ],
)
def test_a_wrong_shape_is_named(network: object, given: tuple[Tensor, ...], expected: str) -> None:
    """Frames, windows or features of the wrong shape are refused with the expected shape."""
    assert callable(network)
    with pytest.raises(ValueError, match=expected):
        network()(*given)


@pytest.mark.parametrize("network", [IdentityEncoder, VisualSpeechEncoder, Decoder, SequenceDiscriminator])
def test_other_picture_sizes_are_refused(network: type[nn.Module]) -> None:
    """An image size that the networks do not support is refused."""
    with pytest.raises(ValueError, match="image_size 96: one of 64, 128, 256"):
        network(image_size=96)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_a_width_is_above_zero(width: float) -> None:
    """Networks without channels are refused."""
    with pytest.raises(ValueError, match="above 0"):
        AudioSpeechEncoder(width=width)


@pytest.mark.slow
def test_every_network_is_one_graph() -> None:
    """`torch.compile` traces each network completely, without a graph break, and the result is the same."""
    model, batch = small_model()
    with torch.no_grad():
        wanted = objective.terms(model, batch)
        for network in model.children():
            network.compile(fullgraph=True, backend="eager")
        found = objective.terms(model, batch)
    for name, loss in wanted.items():
        close(found[name], loss)
