"""The fast forms of a model equal plain float32 within the stated tolerances."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from small_models import draw, random_batch
from torch import Tensor, nn

from davs_model import precision
from davs_model.data.reads import Batch
from davs_model.models.base import FRAMES, PORTRAIT, WINDOWS
from davs_model.models.davs import objective
from davs_model.models.davs.networks import DAVS

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Form:
    """One way to compute the same thing."""

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False


FORMS = (Form(channels_last=True), Form(bf16=True), Form(bf16=True, channels_last=True))
COMPILED = (Form(channels_last=True, compiled=True), Form(bf16=True, channels_last=True, compiled=True))

Outcome = dict[str, Tensor]
"""Features, generated frames, losses and gradients by name."""


@pytest.mark.slow
def test_fast_forms_are_within_their_tolerances() -> None:
    """Channels-last and bf16, forward and backward, are within the stated tolerance of plain float32."""
    sizes = {"n_words": 5, "n_people": 3, "n_speakers": 3, "width": 0.1, "image_size": 64}
    assert_near(sizes, FORMS, batch_size=2, device="cpu")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fast_forms_on_cuda_are_within_their_tolerances(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the released size and batch 16 on CUDA, compiled too, results are within the stated tolerance of float32."""
    for library in (torch.backends.cuda.matmul, torch.backends.cudnn):
        monkeypatch.setattr(library, "allow_tf32", False)  # real float32
    assert_near({"n_speakers": 10}, FORMS + COMPILED, batch_size=16, device="cuda")


def assert_near(sizes: dict[str, Any], forms: tuple[Form, ...], *, batch_size: int, device: str) -> None:
    """Assert that each form is within its tolerance of plain float32, and that rounding does show."""
    original = DAVS(**sizes)
    draw(original)
    for module in original.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # random in each form
    samples = random_batch(original, batch_size)
    batch = {name: tensor.to(device) if tensor.ndim else tensor for name, tensor in samples.items()}
    wanted = outcome(original, batch, Form(), device)
    for form in forms:
        found = outcome(original, batch, form, device)
        differences = {name: relative_difference(found[name], wanted[name]) for name in wanted}
        print(form, {name: f"{difference:.1e}" for name, difference in differences.items()})
        assert max(differences.values()) < precision.TOLERANCES["bf16" if form.bf16 else "float32"], form
        assert not form.bf16 or differences["gradients"] > 1e-4, form


def outcome(original: DAVS, batch: Batch, form: Form, device: str) -> Outcome:
    """Return the results of a form in eval mode.

    In training mode BatchNorm divides by the deviations of the batch, layer after layer, and in an untrained
    network that multiplies any rounding: gradients of float32 in another memory layout differ by a tenth there.
    """
    model = copy.deepcopy(original)
    precision.place(model, device, channels_last=form.channels_last, compiled=form.compiled)
    model.eval()
    with precision.autocast(device, bf16=form.bf16):
        # Not under no_grad: a compiled network would be compiled once more for that.
        identity = model.encode_identity(batch[PORTRAIT])
        found = {
            "identity": identity.feature,
            "video": model.encode_speech(frames=batch[FRAMES]),
            "audio": model.encode_sound(batch[WINDOWS]),
        }
        frames = model.decode(identity, found["audio"]).detach()
        found["frames"] = frames - frames.mean((-2, -1), keepdim=True)  # each minus its mean grey
        found = {name: value.detach().float().cpu() for name, value in found.items()}
        del identity
        losses = objective.terms(model, batch)
    torch.autograd.backward(list(losses.values()))
    gradients = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
    return {**found, **{name: loss.detach().cpu() for name, loss in losses.items()}, "gradients": gradients}


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    """Return the Euclidean norm of the difference over that of the expected values."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())
