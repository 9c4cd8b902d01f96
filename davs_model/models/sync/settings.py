"""The settings of the sync model: its networks, its two passes, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from davs_model.settings import Count, Data, Factor, Loop, Machine, Optimizer, RunSettings, Section


class Model(Section):
    """The networks."""

    width: Annotated[float, Gt(0), Le(16)] = 1.0
    """Multiplier of all channel counts."""
    mouth_size: Literal[32, 48, 64, 96] = 48
    """Side in pixels of the lower half of the face that the visual encoder sees."""


class Contrast(Section):
    """What is contrasted in a step."""

    frames: Annotated[int, Ge(13), Le(1000)] = 29
    """Number of consecutive frames that are read of each clip; shorter clips are left out."""
    far: Annotated[int, Ge(2), Le(100)] = 8
    """Minimum distance of negatives in frames, in the first half of the first pass; in its second, falls to `near`."""
    near: Annotated[int, Ge(2), Le(100)] = 2
    """Minimum distance of negatives in frames, at the end; 2 leaves out only the direct neighbours of a window."""
    others: Factor = 0.02
    """Weight of each window of other clips among the negatives; 0: all negatives are from the same clip."""
    augment: Annotated[float, Ge(0), Le(1)] = 1.0
    """Strength of augmentation: of position, size and angle of the mouth, and of noise in the MFCC."""


class Refine(Section):
    """Which clips the second pass leaves out."""

    offset: Annotated[float, Ge(0), Le(15)] = 1.0
    """Maximum offset in frames of the clips that are kept."""
    confidence: Annotated[float, Ge(0), Le(1)] = 0.4
    """Minimum confidence of the clips that are kept, as a fraction of the median of all clips."""


class Steps(Section):
    """Length of the two passes; 0 leaves one out."""

    contrast: Count = 20_000
    """Optimizer steps on all clips."""
    refine: Count = 20_000
    """Optimizer steps without the clips that are out of sync or uncertain by the model of the first pass."""


class Weights(Section):
    """Factors of the terms of the objective."""

    contrast: Factor = 1.0
    """Factor of the contrastive loss of the first pass."""
    refine: Factor = 1.0
    """Factor of the contrastive loss of the second pass."""


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "small": {
        "data": {"batch_size": 12, "workers": 0, "cache_mib": 2048},
        "steps": {"contrast": 450, "refine": 250},
        "loop": {"log_every": 25, "validate_every": 450, "save_every": 50, "validation_clips": 60, "talking_clips": 60},
        "machine": {"bf16": False},
    },
    "large": {
        "model": {"width": 2.0, "mouth_size": 96},
        "data": {"batch_size": 64, "jitter": 0.2},
        "optimizer": {"learning_rate": 5e-4, "warmup": 500},
    },
}
"""What each preset changes. small: minutes on a CPU. large: many people, on a GPU."""


class Settings(RunSettings):
    """Every setting of `avprep train --model sync`."""

    of_model: ClassVar[str] = "sync"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    bounds: ClassVar[Mapping[str, str]] = {"contrast.near": "contrast.far"}

    preset: Literal["small", "large"] = "small"
    """Name of the preset that the others started from."""
    model: Model = Model()
    contrast: Contrast = Contrast()
    refine: Refine = Refine()
    data: Data = Data()
    optimizer: Optimizer = Optimizer(learning_rate=1e-3, schedule="cosine", warmup=100)
    steps: Steps = Steps()
    weights: Weights = Weights()
    loop: Loop = Loop()
    machine: Machine = Machine()

    def paced(self) -> frozenset[str]:
        """Also return the pass in which the minimum distance of negatives falls; see `RunSettings.paced`."""
        return super().paced() | ({"contrast"} if self.contrast.near < self.contrast.far else set())
