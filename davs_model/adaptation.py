"""A model tuned to a person before it generates: to a photo, or to a few seconds of video, from which it learns more.

Only `TalkingModel.adapts` moves, by Adam at `RATE`, with BatchNorm in eval mode. Speech encoders stay as they are.
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
"""Step size of Adam. Of 10⁻⁴, 5·10⁻⁴ and 10⁻³, on 3 s of two people, 100 steps, the one that helps both."""
TARGETS = 8
"""Frames of a video that are generated in a step."""


def to_photo(model: TalkingModel, photo: Tensor, speech: Tensor, steps: int, *, bf16: bool = False) -> None:
    """Tune a model, in place, so that frames of some speech look like a photo where the mouth is not.

    photo: `[K, 1, 3, S, S]` of K people. speech: features `[1, T, F]`. The mouth of each frame is held to what the
    model generated before, for a photo does not show how it moves; see `TalkingModel.adaptation_loss`.
    """
    speech, encode = speech.expand(len(photo), -1, -1), _encoding(model, photo)

    def drawn() -> Tensor:
        return model.decode(encode(photo), speech)

    with torch.no_grad(), precision.autocast(photo.device, bf16=bf16):
        before = drawn()
    _tune(model, lambda: model.adaptation_loss(photo, drawn(), before), steps, photo.device, bf16)


def to_video(model: TalkingModel, frames: Tensor, speech: Tensor, steps: int, *, seed: int, bf16: bool) -> None:
    """Tune a model, in place, to generate frames of a video from one of them, the mouth too.

    frames: `[1, T, 3, S, S]`. speech: their features `[1, T, F]`. Each step draws by the seed an identity frame and
    `TARGETS` others, which are in a row where the model is `in_order`; see `TalkingModel.imitation_loss`.
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
    """Return `encode_identity`, with the expression of frames `[K, T, 3, S, S]` where the model takes one.

    With another one it would learn that this is how they look, and show neither afterwards.
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
