"""Devices, the fast forms of a model on them, and the maximum deviation of each from plain float32.

All frames of a batch already pass at once (`networks.layers.fold`). The remaining choices are the memory layout of
tensors, the arithmetic, and whether the graph is compiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

from avprep.errors import SettingsError

Model = TypeVar("Model", bound=nn.Module)

TOLERANCES = {"float32": 1e-3, "bf16": 0.2}
"""Maximum deviation of features, generated frames, losses and gradients from plain float32, in eval mode.

It is the Euclidean norm of the difference divided by that of the values. In float32, for any memory layout and compiled
or not, sums of thousands of products are accurate to 1e-5, and to 2e-4 through forty layers and back; bf16 keeps
8 bits, .4 % of each value.
"""


def best_device() -> str:
    """Return `cuda` if torch sees a CUDA device, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(wanted: str) -> str | None:
    """Return the name of a device, for `auto` the best one; None for `cuda` if torch sees no CUDA device."""
    best = best_device()
    if wanted == "auto":
        return best
    return None if wanted == "cuda" and best != "cuda" else wanted


def device(wanted: torch.device | str | None) -> torch.device:
    """Return a device, by default CUDA if it is available; SettingsError, one line, for a device that is not usable."""
    chosen = wanted or best_device()
    try:
        torch.zeros(1, device=chosen)
        return torch.device(chosen)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # as torch was built
        why = str(error).partition("\n")[0]
        raise SettingsError(f"device {chosen!r} cannot be used here: {why}") from error


def place(model: Model, device: torch.device | str, *, channels_last: bool = True, compiled: bool = False) -> Model:
    """Move a model to a device, in place, in the form that is fast there.

    channels_last: the memory layout that tensor cores, and convolutions on the CPU, read without a transposition.
    compiled: compile each network with `torch.compile`, which needs Triton (CUDA) or a C++ compiler, and makes the
        first step slow. Errors of compilation are raised in that step: see `compiling`.
    """
    model.to(device=device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:  # not 5-D weights of convolutions over time, which torch's `model.to` refuses
            tensor.data = tensor.data.to(memory_format=layout)
    if compiled:
        for network in model.children():
            network.compile()
    return model


@contextlib.contextmanager
def compiling(compiled: bool) -> Iterator[None]:
    """Raise SettingsError, one line, for errors of torch in compiling networks, such as a missing compiler."""
    try:
        yield
    except RuntimeError as error:
        if not compiled:
            raise
        from torch._dynamo.exc import TorchDynamoException  # takes seconds: only on this path

        if not isinstance(error, TorchDynamoException):
            raise
        why = str(getattr(error, "inner_exception", error)).partition("\n")[0]
        raise SettingsError(
            f"machine.compile = true: torch cannot compile the networks here: {why}: install a C++ compiler, such as "
            "g++, or train with machine.compile=false"
        ) from error


def autocast(device: torch.device | str, *, bf16: bool) -> torch.autocast:
    """Return the context of a forward pass: bfloat16 where that is safe, else float32; losses are always float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)
