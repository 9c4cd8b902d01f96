"""A batch as a loader process returns it, and on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from avprep.schema import N_COEFFICIENTS, WINDOW_STEPS
from davs_model.data.positions import POSITION
from davs_model.data.reads import LABELS, Batch, Reads, Shape


@dataclass(frozen=True)
class RawBatch:
    """B clips as a loader process returns them.

    tensors: by the names of their `Reads`: frames as RGB uint8 `[B, T, S, S, 3]`, windows float32 `[B, T, 12, 20]`; and
        the labels, int64 `[B]`, −1 where unknown.
    starts: the first frame of the part that is generated, by the name of its `Reads`.
    keys: the key of each clip. skipped: clips that could not be read, with the reason; other clips replace them.
    """

    tensors: Mapping[str, Tensor]
    starts: Mapping[str, int] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def first(self, count: int) -> RawBatch:
        """Return only the first `count` clips, in the same memory."""
        return replace(self, tensors={name: tensor[:count] for name, tensor in self.tensors.items()})

    def to(self, device: torch.device) -> Batch:
        """Copy to a device; frames become float32 `[B, T, 3, S, S]` in [0, 1], channels-last in memory."""
        starts = {f"{name}_start": torch.tensor(start) for name, start in self.starts.items()}
        return {name: _on(device, tensor) for name, tensor in self.tensors.items()} | starts


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.uint8:
        return tensor.to(device, non_blocking=True).permute(0, 1, 4, 2, 3).float() / 255
    return tensor.to(device, non_blocking=True, copy=True)


class Memory(Protocol):
    """Allocates tensors."""

    def __call__(self, size: tuple[int, ...], /, *, dtype: torch.dtype) -> Tensor:
        """Return a tensor with arbitrary contents."""
        ...


def empty_batch(shape: Shape, count: int, memory: Memory = torch.empty) -> RawBatch:
    """Return a batch with arbitrary contents; memory: allocates a tensor of a size and dtype."""

    def empty(reads: Reads) -> Tensor:
        side = reads.size or shape.image_size
        own: tuple[int, ...] = {
            "windows": (N_COEFFICIENTS, WINDOW_STEPS),
            "codes": (shape.features,),
            "statistics": (N_COEFFICIENTS,),
            "frames": (side, side, 3),
            "corners": (2, 2),
            "positions": (POSITION,),
            "valid": (),
            "heard": (),
        }[reads.source]
        dtype = torch.uint8 if reads.source == "frames" else torch.float32
        return memory((count, reads.length, *own), dtype=dtype)

    names = (*LABELS, *(f"{name}_{label}" for name in shape.of_emotions() for label in LABELS))
    labels = {name: memory((count,), dtype=torch.int64) for name in names}
    return RawBatch({name: empty(reads) for name, reads in shape.reads.items()} | labels)
