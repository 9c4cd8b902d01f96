"""A batch as a loader process hands it over, and on a device."""

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
    """B clips as a loader process hands them over.

    tensors: by the name of its `Reads`: frames as RGB uint8 `[B, T, S, S, 3]`, windows float32 `[B, T, 12, 20]`; and
        the labels, int64 `[B]`, −1 where unknown.
    starts: by the name of its `Reads`, the first frame of the part that is generated.
    keys: where each clip comes from. skipped: clips that could not be read, and why; others took their places.
    """

    tensors: Mapping[str, Tensor]
    starts: Mapping[str, int] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def first(self, count: int) -> RawBatch:
        """Return the first clips alone, in the same memory."""
        return replace(self, tensors={name: tensor[:count] for name, tensor in self.tensors.items()})

    def to(self, device: torch.device) -> Batch:
        """Copy to a device, frames as float32 in [0, 1] `[B, T, 3, S, S]`, channels last in memory."""
        starts = {f"{name}_start": torch.tensor(start) for name, start in self.starts.items()}
        return {name: _on(device, tensor) for name, tensor in self.tensors.items()} | starts


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.uint8:
        return tensor.to(device, non_blocking=True).permute(0, 1, 4, 2, 3).float() / 255
    return tensor.to(device, non_blocking=True, copy=True)


class Memory(Protocol):
    """Makes tensors."""

    def __call__(self, size: tuple[int, ...], /, *, dtype: torch.dtype) -> Tensor:
        """Return a tensor of any content."""
        ...


def empty_batch(shape: Shape, count: int, memory: Memory = torch.empty) -> RawBatch:
    """Return a batch whose contents are whatever its memory holds; memory: makes a tensor of a size and dtype."""

    def empty(reads: Reads) -> Tensor:
        side = reads.size or shape.image_size
        own: tuple[int, ...] = {
            "windows": (N_COEFFICIENTS, WINDOW_STEPS),
            "codes": (shape.features,),
            "statistics": (N_COEFFICIENTS,),
            "frames": (side, side, 3),
            "corners": (2, 2),
            "positions": (POSITION,),
            "heard": (),
        }[reads.source]
        dtype = torch.uint8 if reads.source == "frames" else torch.float32
        return memory((count, reads.length, *own), dtype=dtype)

    names = (*LABELS, *(f"{name}_{label}" for name in shape.of_emotions() for label in LABELS))
    labels = {name: memory((count,), dtype=torch.int64) for name in names}
    return RawBatch({name: empty(reads) for name, reads in shape.reads.items()} | labels)
