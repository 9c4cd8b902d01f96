"""Speed and rounding of the fast forms: forward and backward of the whole objective, each form in turn."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avprep.errors import RunError
from davs_model import precision
from davs_model.data.reads import Batch
from davs_model.models.base import FRAMES, PORTRAIT, WINDOWS
from davs_model.models.davs import objective
from davs_model.models.davs.networks import DAVS


@dataclass(frozen=True)
class FastForm:
    """One way to compute the same thing."""

    name: str
    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False


FORMS = (
    FastForm("float32"),
    FastForm("float32, channels_last", channels_last=True),
    FastForm("bf16", bf16=True),
    FastForm("bf16, channels_last", bf16=True, channels_last=True),
)
COMPILED = (
    FastForm("float32, channels_last, compile", channels_last=True, compiled=True),
    FastForm("bf16, channels_last, compile", bf16=True, channels_last=True, compiled=True),
)


@dataclass
class Row:
    """One form's speed in training mode, and its differences from the first form: Euclidean norms, relative.

    Differences are taken in eval mode. In training mode BatchNorm divides by the deviations of the batch, layer after
    layer, and in a network that has learned nothing that multiplies any rounding: gradients of float32 in another
    memory layout differ by a tenth there.
    """

    form: str
    first_s: float
    """Seconds of the first step, compilation included."""
    step_s: float
    """Seconds of a forward and backward pass, the best of the repeats."""
    clips_per_s: float
    features: float
    """Difference of f_p^v, F_w^v and F_w^a, the largest of the three."""
    frames: float
    """Difference of the generated frames, each less its mean grey."""
    losses: float
    """Difference of the losses, the largest."""
    gradients: float
    """Difference of the gradients of everything."""


@dataclass
class Result:
    """What was measured, on what."""

    device: str
    dimensions: dict[str, int | float]
    batch: int
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return a table to read, speeds as ratios to the first form."""
        width, size = self.dimensions["width"], self.dimensions["image_size"]
        lines = [
            f"{self.device}: width {width}, {size}×{size}, batch {self.batch}; differences are relative to float32",
            f"{'form':32} {'clips/s':>8} {'ratio':>6} {'first s':>8} "
            f"{'features':>9} {'frames':>8} {'losses':>8} {'gradients':>9}",
        ]
        for row in self.rows:
            ratio = row.clips_per_s / self.rows[0].clips_per_s
            lines.append(
                f"{row.form:32} {row.clips_per_s:8.2f} {ratio:6.2f} {row.first_s:8.1f} "
                f"{row.features:9.1e} {row.frames:8.1e} {row.losses:8.1e} {row.gradients:9.1e}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Outcome:
    features: tuple[Tensor, ...]
    frames: Tensor
    losses: dict[str, Tensor]
    gradients: Tensor


def bench(
    dimensions: dict[str, Any], *, device: str = "cpu", batch: int = 16, repeat: int = 5, compiled: bool = False
) -> Result:
    """Measure a fresh model of these dimensions; forms take turns, so that a noisy machine slows all.

    RunError where a batch does not fit into the memory of the device.

    device: `cpu` or `cuda`. compiled: also by `torch.compile`, which takes minutes.
    The reference is float32 in earnest: TF32 is off for all forms.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    original = DAVS(**dimensions)
    draw(original)
    for module in original.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # drawn differently in each form
    samples = objective.random_batch(original, batch)
    on_device = {name: tensor.to(device) if tensor.ndim else tensor for name, tensor in samples.items()}
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    try:
        rows = _measure(original, on_device, device, FORMS + (COMPILED if compiled else ()), repeat)
    except torch.OutOfMemoryError as error:
        raise RunError(f"{name}: a batch of {batch} does not fit into memory: give a smaller --batch") from error
    return Result(name, original.dimensions, batch, rows)


def _measure(original: DAVS, batch: Batch, device: str, forms: tuple[FastForm, ...], repeat: int) -> list[Row]:
    models = [
        precision.place(copy.deepcopy(original), device, channels_last=form.channels_last, compiled=form.compiled)
        for form in forms
    ]
    pairs = list(zip(models, forms, strict=True))
    outcomes = [_outcome(model, batch, form) for model, form in pairs]
    first = [_step(model, batch, form) for model, form in pairs]
    best = list(first)
    for _ in range(repeat):
        best = [min(b, _step(model, batch, form)) for b, (model, form) in zip(best, pairs, strict=True)]
    clips = len(batch["words"])
    return [
        Row(form.name, first[i], best[i], clips / best[i], *_differences(outcomes[i], outcomes[0]))
        for i, form in enumerate(forms)
    ]


def _step(model: DAVS, batch: Batch, form: FastForm) -> float:
    """Return the seconds of one forward and backward pass in training mode."""
    model.train().zero_grad(set_to_none=True)
    _wait(batch)
    start = time.perf_counter()
    with precision.autocast(batch[FRAMES].device, bf16=form.bf16):
        losses = objective.terms(model, batch)
    torch.autograd.backward(list(losses.values()))
    _wait(batch)
    return time.perf_counter() - start


def _outcome(model: DAVS, batch: Batch, form: FastForm) -> _Outcome:
    """Return what a form computes in eval mode."""
    model.eval().zero_grad(set_to_none=True)
    with precision.autocast(batch[FRAMES].device, bf16=form.bf16):
        # Not under no_grad: a compiled network would be compiled once more for that.
        identity = model.encode_identity(batch[PORTRAIT])
        video = model.encode_speech_from_video(batch[FRAMES])
        audio = model.encode_speech_from_audio(batch[WINDOWS])
        frames = model.decode(identity, audio).detach()
        features = tuple(feature.detach().float().cpu() for feature in (identity.feature, video, audio))
        del identity, video, audio
        losses = objective.terms(model, batch)
    torch.autograd.backward(list(losses.values()))
    return _Outcome(
        features=features,
        frames=(frames - frames.mean((-2, -1), keepdim=True)).cpu(),
        losses={name: loss.detach().cpu() for name, loss in losses.items()},
        gradients=torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]),
    )


def draw(model: DAVS) -> None:
    """Give a model random weights with which every input shows in every output, as in a trained one.

    Variance 1 / inputs, 2 / inputs in the decoder, whose ReLUs halve the signal twenty times; BatchNorm close to doing
    nothing. With the usual initial weights the signal dies out on the way in eval mode, and zeros would be compared.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()  # a shift could silence the one map at the end of the visual speech encoder
            elif parameter.dim() == 1:  # of BatchNorm
                parameter.normal_(1, 0.1)
            else:
                parameter.normal_(0, ((2 if name.startswith("decoder") else 1) / parameter[0].numel()) ** 0.5)


def _wait(batch: Batch) -> None:
    if batch[FRAMES].is_cuda:
        torch.cuda.synchronize()


def _differences(found: _Outcome, wanted: _Outcome) -> tuple[float, float, float, float]:
    pairs = zip(found.features, wanted.features, strict=True)
    return (
        max(relative_difference(a, b) for a, b in pairs),
        relative_difference(found.frames, wanted.frames),
        max(relative_difference(found.losses[name], wanted.losses[name]) for name in wanted.losses),
        relative_difference(found.gradients, wanted.gradients),
    )


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    """Return the Euclidean norm of the difference over that of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())
