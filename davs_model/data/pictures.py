"""Pictures as they come out of shards or folders, and how they are moved."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import ShardError
from avprep.schema import CROP_SIZE, costly, picture_size

Frames = NDArray[np.uint8]
_MOST_PIXELS = 64_000_000


class Augmentation(NamedTuple):
    """A shift of all frames of a clip by x, y pixels of the 256×256 crop, after which they are mirrored or not."""

    x: int = 0
    y: int = 0
    mirror: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator | None, *, shift: int, flip: bool) -> Augmentation:
        """Draw a shift of at most `shift` pixels each way; without random numbers, nothing changes."""
        if rng is None:
            return cls()
        x, y = (int(value) for value in rng.integers(-shift, shift + 1, 2))
        return cls(x, y, bool(rng.integers(2)) and flip)

    def into(self, target: Frames, picture: Frames) -> None:
        """Write a 256×256 RGB picture, changed and made smaller, into `[S, S, 3]`; the picture itself is used up."""
        if self.mirror:
            cv2.flip(picture, 1, dst=picture)
        x, y = self.x, self.y
        inner = picture[max(-y, 0) : CROP_SIZE - max(y, 0), max(-x, 0) : CROP_SIZE - max(x, 0)]
        whole = target if len(target) == CROP_SIZE else np.empty_like(picture)
        borders = max(y, 0), max(-y, 0), max(x, 0), max(-x, 0)
        cv2.copyMakeBorder(inner, *borders, cv2.BORDER_REPLICATE, dst=whole)
        if whole is not target:
            cv2.resize(whole, target.shape[1::-1], dst=target, interpolation=cv2.INTER_AREA)


def decode_picture(data: bytes, size: tuple[int, int] | None = None) -> Frames:
    """Decode a JPEG or PNG as RGB uint8 (H, W, 3).

    size: width and height that it must have. Its header is looked at before memory is taken. ShardError, one line.
    """
    found = picture_size(data)
    if found is None:
        raise ShardError("not a JPEG or PNG picture")
    if size is not None and found != size:
        raise ShardError(f"the picture is {found[0]}×{found[1]}, expected {size[0]}×{size[1]}")
    if size is not None and costly(data):
        raise ShardError("the picture asks for more than any crop: it is damaged or hostile")
    if found[0] * found[1] > _MOST_PIXELS:
        raise ShardError(f"the picture is {found[0]}×{found[1]}: too large")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ShardError(f"the picture cannot be decoded ({error.err})") from error
    if picture is None or picture.shape[1::-1] != found:
        raise ShardError("the picture cannot be decoded")
    return picture.astype(np.uint8, copy=False)


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
