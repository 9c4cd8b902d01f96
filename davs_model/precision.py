"""Devices, the fast forms of a model on them, and how far each may be from plain float32.

All frames of a batch pass in one go already (`networks.layers.fold`). What is left is how tensors lie in memory, which
arithmetic is used and whether the graph is compiled.
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
"""Most that features, generated frames, losses and gradients may differ from plain float32, in eval mode.

The Euclidean norm of the difference over that of the values. In float32, whatever the memory layout and compiled or
not, sums of thousands of products are good to 1e-5, and through forty layers and back to 2e-4; bf16 keeps 8 bits, .4 %
of each value.
"""


def best_device() -> str:
    """Return `cuda` where torch sees a CUDA device, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(wanted: str) -> str | None:
    """Return the name of a device, for `auto` the best one; None for `cuda` where torch sees no CUDA device."""
    best = best_device()
    if wanted == "auto":
        return best
    return None if wanted == "cuda" and best != "cuda" else wanted


def device(wanted: torch.device | str | None) -> torch.device:
    """Return a device, CUDA by default where there is one; SettingsError, one line, where it cannot be used here."""
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
    compiled: each network by `torch.compile`, which needs Triton (CUDA) or a C++ compiler, and time at the first step.
        What it cannot compile it raises there: see `compiling`.
    """
    model.to(device=device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:  # not those of convolutions over time, too: torch's own `model.to` refuses them
            tensor.data = tensor.data.to(memory_format=layout)
    if compiled:
        for network in model.children():
            network.compile()
    return model


@contextlib.contextmanager
def compiling(compiled: bool) -> Iterator[None]:
    """What torch raises where it cannot compile networks, for want of a compiler say, is SettingsError, one line."""
    try:
        yield
    except RuntimeError as error:
        if not compiled:
            raise
        from torch._dynamo.exc import TorchDynamoException  # seconds, which who does not compile is spared

        if not isinstance(error, TorchDynamoException):
            raise
        why = str(getattr(error, "inner_exception", error)).partition("\n")[0]
        raise SettingsError(
            f"machine.compile = true: torch cannot compile the networks here: {why}: install a C++ compiler, such as "
            "g++, or train with machine.compile=false"
        ) from error


def autocast(device: torch.device | str, *, bf16: bool) -> torch.autocast:
    """Return the context of a forward pass: bfloat16 where that is safe, else float32; losses are float32 always."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)
