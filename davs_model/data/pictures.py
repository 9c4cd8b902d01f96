"""Pictures as they are moved on their way into a batch, and as they come out of a decoder."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avprep.schema import CROP_SIZE

Frames = NDArray[np.uint8]


class Move(NamedTuple):
    """How all frames of a clip are moved: x, y in pixels of the 256×256 crop, then mirrored or not."""

    x: int = 0
    y: int = 0
    mirror: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator | None, *, shift: int, flip: bool) -> Move:
        """Draw a move of at most `shift` pixels each way; none without random numbers."""
        if rng is None:
            return cls()
        x, y = (int(value) for value in rng.integers(-shift, shift + 1, 2))
        return cls(x, y, bool(rng.integers(2)) and flip)

    def into(self, target: Frames, picture: Frames) -> None:
        """Write a 256×256 RGB picture, moved and made smaller, into `[S, S, 3]`; the picture itself is used up."""
        if self.mirror:
            cv2.flip(picture, 1, dst=picture)
        x, y = self.x, self.y
        inner = picture[max(-y, 0) : CROP_SIZE - max(y, 0), max(-x, 0) : CROP_SIZE - max(x, 0)]
        whole = target if len(target) == CROP_SIZE else np.empty_like(picture)
        borders = max(y, 0), max(-y, 0), max(x, 0), max(-x, 0)
        cv2.copyMakeBorder(inner, *borders, cv2.BORDER_REPLICATE, dst=whole)
        if whole is not target:
            cv2.resize(whole, target.shape[1::-1], dst=target, interpolation=cv2.INTER_AREA)


def to_crops(frames: Tensor) -> Frames:
    """Return frames float `[…, 3, S, S]` in [0, 1], as a decoder draws them, as crops uint8 (…, 256, 256, 3), RGB."""
    pictures = frames.float().mul(255).round().byte().movedim(-3, -1).cpu().numpy()
    if pictures.shape[-2] == CROP_SIZE:
        return np.ascontiguousarray(pictures)
    large = resized(pictures.reshape(-1, *pictures.shape[-3:]), CROP_SIZE, cv2.INTER_CUBIC)
    return large.reshape(*pictures.shape[:-3], *large.shape[1:])


def resized(pictures: Frames, side: int, interpolation: int) -> Frames:
    """Return pictures (N, H, W, 3) as squares (N, side, side, 3)."""
    return np.stack([cv2.resize(one, (side, side), interpolation=interpolation) for one in pictures]).astype(np.uint8)
