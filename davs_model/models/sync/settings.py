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
    """Frames in a row that are read of each clip; shorter clips are left out."""
    far: Annotated[int, Ge(2), Le(100)] = 8
    """Frames by which a negative is apart at least, in the first half of the first pass; falls to `near` from then."""
    near: Annotated[int, Ge(2), Le(100)] = 2
    """Frames by which a negative is apart at least, in the end; 2 leaves out the neighbours of a window alone."""
    others: Factor = 0.02
    """Weight of each window of other clips among the negatives; 0: only the clip itself is contrasted."""
    augment: Annotated[float, Ge(0), Le(1)] = 1.0
    """Strength of random changes: of place, size, angle and brightness of the mouth, and of noise in the MFCC."""


class Refine(Section):
    """Which clips the second pass leaves out."""

    offset: Annotated[float, Ge(0), Le(15)] = 1.0
    """Largest offset in frames of the clips that are kept."""
    confidence: Annotated[float, Ge(0), Le(1)] = 0.4
    """Lowest confidence of the clips that are kept, as a fraction of the median of all."""


class Steps(Section):
    """Length of the two passes; 0 leaves one out."""

    contrast: Count = 20_000
    """Optimizer steps on all clips."""
    refine: Count = 20_000
    """Optimizer steps without the clips that the first pass finds out of sync, or is unsure of."""


class Weights(Section):
    """Factors of the terms of the objective."""

    contrast: Factor = 1.0
    """Factor of the contrast of the first pass."""
    refine: Factor = 1.0
    """Factor of that of the second."""


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
        """Return also the pass in which negatives come nearer; see `RunSettings.paced`."""
        return super().paced() | ({"contrast"} if self.contrast.near < self.contrast.far else set())
