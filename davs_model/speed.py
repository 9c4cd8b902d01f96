"""Fast forms of a model, and how far each may be from plain float32.

All frames of a batch pass in one go already (`networks.layers.fold`). What is left is how tensors lie in memory, which
arithmetic is used and whether the graph is compiled.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from davs_model.networks import DAVS

TOLERANCES = {"channels_last": 1e-4, "compile": 1e-4, "bf16": 0.05}
"""Most that features and generated frames may differ from eager float32 in eval mode, as Euclidean norms, relative.

A float32 sum of thousands of products is good to 1e-5; bf16 keeps 8 bits, .4 % of each value.
"""


def place(
    model: DAVS, device: torch.device | str, *, channels_last: bool | None = None, compiled: bool = False
) -> DAVS:
    """Move a model to a device, in place, in the form that is fast there.

    channels_last: by default on CUDA, whose tensor cores read it without a transposition.
    compiled: each network by `torch.compile`, which needs Triton (CUDA) or a C++ compiler and minutes at the first step.
    """
    on_cuda = torch.device(device).type == "cuda"
    channels_last = on_cuda if channels_last is None else channels_last
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(device=device)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    if compiled:
        for network in model.children():
            network.compile()
    return model


def autocast(device: torch.device | str, *, bf16: bool) -> AbstractContextManager[None]:
    """Return the context of a forward pass: bfloat16 where that is safe, else float32; losses are float32 always."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16) if bf16 else nullcontext()
