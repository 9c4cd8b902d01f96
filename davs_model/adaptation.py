"""Fine-tuning of a model to a person before generation: to a photo, or to a few seconds of video, which helps more.

Adam at `RATE` updates only the networks of `TalkingModel.adapts`, with BatchNorm in eval mode. Speech encoders do not
change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from davs_model import precision
from davs_model.data.sampling import spread
from davs_model.models.base import EXPRESSION_FRAMES, TalkingModel

RATE = 1e-4
"""Learning rate of Adam: of 10⁻⁴, 5·10⁻⁴ and 10⁻³, on 3 s of two people with 100 steps, the one that helps both."""
TARGETS = 8
"""Number of frames of a video that are generated in a step."""


def to_photo(model: TalkingModel, photo: Tensor, speech: Tensor, steps: int, *, bf16: bool = False) -> None:
    """Fine-tune a model, in place, so that frames of some speech look like a photo outside the mouth.

    photo: `[K, 1, 3, S, S]` of K people. speech: features `[1, T, F]`. The mouth of each frame is kept as the model
    generated it before, because a photo does not show how it moves; see `TalkingModel.adaptation_loss`.
    """
    speech, encode = speech.expand(len(photo), -1, -1), _encoding(model, photo)

    def drawn() -> Tensor:
        return model.decode(encode(photo), speech)

    with torch.no_grad(), precision.autocast(photo.device, bf16=bf16):
        before = drawn()
    _tune(model, lambda: model.adaptation_loss(photo, drawn(), before), steps, photo.device, bf16)


def to_video(model: TalkingModel, frames: Tensor, speech: Tensor, steps: int, *, seed: int, bf16: bool) -> None:
    """Fine-tune a model, in place, to generate frames of a video, including the mouth, from one of them.

    frames: `[1, T, 3, S, S]`. speech: their features `[1, T, F]`. With the seed, each step draws an identity frame and
    `TARGETS` others, which are consecutive if the model is `in_order`; see `TalkingModel.imitation_loss`.
    """
    generator = torch.Generator().manual_seed(seed)
    length = frames.shape[1]
    encode = _encoding(model, frames[:, spread(length, EXPRESSION_FRAMES)])

    def draw(count: int) -> list[int]:
        return torch.randint(length, (count,), generator=generator).tolist()

    def run(count: int) -> list[int]:
        start = int(torch.randint(max(length - count, 0) + 1, (), generator=generator))
        return list(range(start, min(start + count, length)))

    def loss() -> Tensor:
        identity = encode(frames[:, draw(1)])
        targets = run(TARGETS) if model.in_order else draw(TARGETS)
        return model.imitation_loss(frames[:, targets], model.decode(identity, speech[:, targets]))

    _tune(model, loss, steps, frames.device, bf16)


def _encoding(model: TalkingModel, frames: Tensor) -> Callable[[Tensor], Any]:
    """Return `encode_identity`, with the expression of frames `[K, T, 3, S, S]` if the model takes one.

    With another expression, the model would learn that it looks like these frames, and could show neither afterwards.
    """
    if not model.expression_length:
        return model.encode_identity
    with torch.no_grad():
        expression = model.encode_expression(frames)
    return lambda one: model.expressing(model.encode_identity(one), expression)


def _tune(model: TalkingModel, loss: Callable[[], Tensor], steps: int, device: torch.device, bf16: bool) -> None:
    parameters = [each for name in model.adapts for each in model.get_submodule(name).parameters()]
    adam = torch.optim.Adam(parameters, lr=RATE)
    for _ in range(steps):
        with precision.autocast(device, bf16=bf16):
            value = loss()
        adam.zero_grad()
        torch.autograd.backward(value)
        adam.step()
