"""Augmentation of the images of a batch, and conversion and sheets of generated images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avprep.schema import CROP_SIZE

Frames = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Top, bottom, left and right edge of a part of a 256×256 crop."""
Form = tuple[Box, int]
"""The part of a crop that images show, and their side in pixels."""
WHOLE: Box = (0, CROP_SIZE, 0, CROP_SIZE)
MOVED = 40
"""Maximum shift of a face in pixels of the crop, per unit of the amount of a `Warp`."""
MOUTH_BOX: Box = (170, 234, 64, 192)
"""The mouth, as the released code of DAVS has it."""
MOUTH_REGION: Box = (144, 248, 76, 180)
"""Mouth, chin and the tip of the nose: what E_w^v sees if it sees only the mouth region."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel, ITU-R BT.601."""


def region(box: Box, image_size: int, seen: Box = WHOLE) -> tuple[slice, slice]:
    """Return the rows and columns of a box of the crop in square images of another size, as far as they show it.

    seen: the square box of the crop that the images show.
    """
    (top, left), side = (seen[0], seen[2]), seen[1] - seen[0]
    edges = (box[0] - top, box[1] - top, box[2] - left, box[3] - left)
    first, last, before, after = (min(max(round(edge * image_size / side), 0), image_size) for edge in edges)
    return slice(first, last), slice(before, after)


class Augmentation(NamedTuple):
    """A shift of all frames of a clip by x, y pixels of the 256×256 crop; then they are mirrored or not."""

    x: int = 0
    y: int = 0
    mirror: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator | None, *, shift: int, flip: bool) -> Augmentation:
        """Draw a shift of at most `shift` pixels in each direction; without `rng`, nothing changes."""
        if rng is None:
            return cls()
        x, y = (int(value) for value in rng.integers(-shift, shift + 1, 2))
        return cls(x, y, bool(rng.integers(2)) and flip)

    def into(self, target: Frames, picture: Frames) -> None:
        """Write a 256×256 RGB image, augmented and resized, into `[S, S, 3]`; the image itself is overwritten."""
        shown(self.moved(picture, target if len(target) == CROP_SIZE else None), WHOLE, target)

    def moved(self, picture: Frames, target: Frames | None = None) -> Frames:
        """Return an augmented 256×256 RGB image, in `target` if there is one; the image itself is overwritten."""
        if self.mirror:
            cv2.flip(picture, 1, dst=picture)
        x, y = self.x, self.y
        inner = picture[max(-y, 0) : CROP_SIZE - max(y, 0), max(-x, 0) : CROP_SIZE - max(x, 0)]
        whole = np.empty_like(picture) if target is None else target
        borders = max(y, 0), max(-y, 0), max(x, 0), max(-x, 0)
        cv2.copyMakeBorder(inner, *borders, cv2.BORDER_REPLICATE, dst=whole)
        return whole

    def points(self, pairs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Transform pairs of a left and a right point (T, 2, 2) of a crop, x and y in its pixels, like the frames."""
        if self.mirror:
            pairs = pairs[:, ::-1] * np.array((-1, 1), np.float32) + np.array((CROP_SIZE - 1, 0), np.float32)
        return pairs + np.array((self.x, self.y), np.float32)


def shown(crop: Frames, box: Box, target: Frames) -> None:
    """Write the box of a 256×256 crop into `[S, S, 3]`, unless it is there already."""
    if crop is target:
        return
    rows, columns = region(box, CROP_SIZE)
    cv2.resize(crop[rows, columns], target.shape[1::-1], dst=target, interpolation=cv2.INTER_AREA)


class Tint(NamedTuple):
    """A colour change of all frames of a clip: a look-up table of 256 levels per channel, uint8 (1, 256, 3)."""

    levels: Frames

    @classmethod
    def draw(cls, rng: np.random.Generator, jitter: float) -> Tint:
        """Draw a gain of 1 ± jitter and an offset of ± jitter / 3 of the range for each channel."""
        gain, offset = rng.uniform(1 - jitter, 1 + jitter, 3), rng.uniform(-jitter / 3, jitter / 3, 3)
        levels = np.arange(256)[None, :, None] * gain + 255 * offset
        return cls(levels.round().clip(0, 255).astype(np.uint8))

    def apply(self, frames: Frames) -> None:
        """Change frames (T, S, S, 3) in place."""
        cv2.LUT(frames.reshape(len(frames), -1, 3), self.levels, dst=frames.reshape(len(frames), -1, 3))


class Warp(NamedTuple):
    """An affine change of the shape of a face, the same in all frames of a clip.

    matrix: (2, 3), maps points of the warped 256×256 crop to where they were before.
    """

    matrix: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, amount: float) -> Warp:
        """Draw factors of the width and of the height within 1 ± amount, a rotation and a shift."""
        wide, high = np.exp(rng.uniform(-amount, amount, 2))
        turn, move = rng.uniform(-amount / 2, amount / 2), rng.uniform(-amount, amount, 2) * MOVED
        cos, sin = np.cos(turn), np.sin(turn)
        linear = np.array([[cos * wide, -sin * high], [sin * wide, cos * high]])
        middle = np.full(2, CROP_SIZE / 2)
        return cls(np.column_stack((linear, middle + move - linear @ middle)))

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return points of the crop (…, 2), x and y in its pixels, after the warp."""
        linear, offset = self.matrix[:, :2], self.matrix[:, 2]
        # Pixel centres lie at halves.
        moved = (points + 0.5 - offset) @ np.linalg.inv(linear).T - 0.5
        return moved.astype(np.float32)

    def apply(self, frames: Frames, box: Box) -> None:
        """Warp frames (T, S, S, 3), which show a box of the crop, in place."""
        top, bottom, left, _ = box
        scale = len(frames[0]) / (bottom - top)
        corner = np.array([left, top])
        linear, offset = self.matrix[:, :2], self.matrix[:, 2]
        # Pixel centres lie at halves: a point p of the image is (p + ½) / scale + corner in the crop.
        shift = scale * (linear @ (0.5 / scale + corner) + offset - corner) - 0.5
        matrix = np.column_stack((linear, shift))
        for frame in frames:
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            frame[:] = cv2.warpAffine(frame, matrix, frame.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def change_looks(
    shown: Sequence[tuple[Frames, Box]], rng: np.random.Generator | None, *, jitter: float, warp: float
) -> Warp | None:
    """Tint and warp all frames of a clip alike, in place; return the warp, or None if there is none.

    shown: frames (T, S, S, 3) and the box of the crop that they show. rng: None: nothing is changed.
    jitter, warp: maximum changes; one that is 0 draws no random number.
    """
    if rng is None:
        return None
    if jitter:
        tint = Tint.draw(rng, jitter)
        for frames, _ in shown:
            tint.apply(frames)
    if not warp:
        return None
    moved = Warp.draw(rng, warp)
    for frames, box in shown:
        moved.apply(frames, box)
    return moved


def grey_levels(frames: Tensor) -> Tensor:
    """Return the brightness of the pixels of RGB frames `[…, 3, H, W]`: `[…, H, W]`, float32."""
    return torch.einsum("...chw,c->...hw", frames.float(), frames.new_tensor(GREY, dtype=torch.float32))


def as_read(frames: Tensor, box: Box, size: int) -> Tensor:
    """Convert frames `[B, T, 3, S, S]` to the form of `Reads` with this box and size, unless they have it already.

    size: side in pixels; 0: that of the frames.
    """
    if box == WHOLE and size in (0, frames.shape[-1]):
        return frames
    rows, columns = region(box, frames.shape[-1])
    part = frames[..., rows, columns].flatten(0, 1)
    side = size or frames.shape[-1]
    resized = functional.interpolate(part.float(), (side, side), mode="bilinear", antialias=True)
    return resized.unflatten(0, frames.shape[:2])


def to_pictures(frames: Tensor) -> Frames:
    """Convert float frames `[…, 3, S, S]` in [0, 1] to uint8 (…, S, S, 3), RGB."""
    return frames.float().mul(255).round().byte().movedim(-3, -1).cpu().numpy()


def to_crops(frames: Tensor) -> Frames:
    """Convert generated float frames `[…, 3, S, S]` in [0, 1] to crops, uint8 (…, 256, 256, 3), RGB."""
    pictures = to_pictures(frames)
    if pictures.shape[-2] == CROP_SIZE:
        return np.ascontiguousarray(pictures)
    large = resized(pictures.reshape(-1, *pictures.shape[-3:]), CROP_SIZE, cv2.INTER_CUBIC)
    return large.reshape(*pictures.shape[:-3], *large.shape[1:])


def tiled(pictures: Frames, gap: int = 0) -> Frames:
    """Join images (rows, columns, H, W, 3) into one, with `gap` white pixels around each."""
    framed = np.pad(pictures, ((0, 0), (0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255)
    n_rows, n_columns, height, width, _ = framed.shape
    return framed.transpose(0, 2, 1, 3, 4).reshape(n_rows * height, n_columns * width, 3)


def resized(pictures: Frames, side: int, interpolation: int) -> Frames:
    """Resize images (N, H, W, 3) to squares (N, side, side, 3)."""
    return np.stack([cv2.resize(one, (side, side), interpolation=interpolation) for one in pictures]).astype(np.uint8)
