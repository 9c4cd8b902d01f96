"""From five points to similarity transforms and 256×256 crops: the paper's geometry, with a single resampling.

The released aligner places the eyes at (140, 224) and (220, 224) and the mouth at (180, 300) of a 356×436 picture, cuts
the 268×268 box at (44, 104), resizes it to 260 and crops 256 at offset 2. `TEMPLATE` is the result for these points.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from avprep.faces.detectors.base import Bias
from avprep.schema import CROP_SIZE

BORDER = 127
"""Grey level of a crop outside the source picture."""

_RELEASED = np.array([[140.0, 224.0], [220.0, 224.0], [180.0, 300.0]])
_BOX, _BOX_SIDE, _RESIZED, _OFFSET = np.array([44.0, 104.0]), 268, 260, 2
# Pixel centres lie at +0.5 of the grid that a resize scales.
TEMPLATE: NDArray[np.float64] = (_RELEASED - _BOX + 0.5) * (_RESIZED / _BOX_SIDE) - 0.5 - _OFFSET
"""Left eye, right eye and mouth centre in the crop, float64 (3, 2), x y in pixels: about (91.1, 114.4), (168.7, 114.4)
and (129.9, 188.1)."""

_ANTI_ALIAS_BELOW = 0.75  # crop pixels per source pixel


def three_points(points: ArrayLike) -> NDArray[np.float64]:
    """Return the left eye, right eye and mouth centre, float64 (…, 3, 2), from the five points (…, 5, 2)."""
    five = np.asarray(points, np.float64)
    three = five[..., :3, :].copy()
    three[..., 2, :] = (five[..., 3, :] + five[..., 4, :]) / 2
    return three


def similarity(points: ArrayLike, target: ArrayLike = TEMPLATE) -> NDArray[np.float64]:
    """Fit similarity transforms from points to the template by least squares, without reflection.

    points: (…, 5, 2), x y in source pixels.
    target: (3, 2), the target positions of the eyes and the mouth centre.
    Returns float64 (…, 2, 3), source → target pixels; not finite if the points coincide.

    With points as complex numbers z and targets w, both minus their means, the best w ≈ a·z has a = Σ z̄w / Σ |z|².
    """
    points = np.asarray(points)
    if points.ndim == 2:
        return _one_similarity(points, np.asarray(target))
    z, w = _complex(three_points(points)), _complex(np.asarray(target, np.float64))
    z_mean, w_mean = z.sum(axis=-1) / 3, w.sum() / 3
    z_centred = z - z_mean[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (z_centred.conj() @ (w - w_mean)) / (np.abs(z_centred) ** 2).sum(axis=-1)
    b = w_mean - a * z_mean
    affine = np.empty((*a.shape, 2, 3))
    affine[..., 0, 0] = affine[..., 1, 1] = a.real
    affine[..., 1, 0] = a.imag
    affine[..., 0, 1] = -a.imag
    affine[..., 0, 2] = b.real
    affine[..., 1, 2] = b.imag
    return affine


def _one_similarity(points: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """As `similarity` for one face (5, 2), in a fifth of the time that numpy needs for so few numbers."""
    left, right, _, left_mouth, right_mouth = (complex(x, y) for x, y in points.tolist())
    z = left, right, (left_mouth + right_mouth) / 2
    w = [complex(x, y) for x, y in target.tolist()]
    z_mean, w_mean = sum(z) / 3, sum(w) / 3
    squares = sum(abs(one - z_mean) ** 2 for one in z)
    if not squares:
        return np.full((2, 3), np.nan)
    a = sum((one - z_mean).conjugate() * (other - w_mean) for one, other in zip(z, w, strict=True)) / squares
    b = w_mean - a * z_mean
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def template(bias: Bias) -> NDArray[np.float64]:
    """Return where a detector with this bias places eyes and mouth centre in a correct crop, float64 (3, 2)."""
    centre = TEMPLATE.mean(axis=0)
    return np.asarray((TEMPLATE - centre) * bias.scale + centre + (0, bias.down), np.float64)


def off_template(points: ArrayLike) -> float:
    """Return the mean distance (pixels) of eyes and mouth, of five points (5, 2), from their template positions."""
    return float(np.linalg.norm(three_points(points) - TEMPLATE, axis=-1).mean())


def zoomed(points: NDArray[Any], zoom: Any) -> NDArray[Any]:
    """Return the points (…, 2) in a picture that is `zoom` times as large; pixel centres lie at +0.5 of the grid."""
    enlarged: NDArray[Any] = (points + 0.5) * zoom - 0.5
    return enlarged


def apply(affine: NDArray[Any], points: NDArray[Any]) -> NDArray[np.float64]:
    """Map points (…, N, 2) by transforms (…, 2, 3)."""
    moved = np.asarray(points, np.float64) @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]
    return np.asarray(moved, np.float64)


def chained(second: NDArray[Any], first: NDArray[Any]) -> NDArray[np.float64]:
    """Return the composition (2, 3) of two transforms: `first`, then `second`."""
    return np.asarray(second[:, :2] @ first + second * [0, 0, 1], np.float64)


def scale(affine: NDArray[Any]) -> NDArray[np.float64]:
    """Return the scale of similarity transforms (…, 2, 3) in crop pixels per source pixel, (…)."""
    return np.asarray(np.hypot(affine[..., 0, 0], affine[..., 1, 0]), np.float64)


def blur_sigma(affine: NDArray[Any]) -> float:
    """Return the sigma (source pixels) of the low-pass that a clip needs before it is shrunk into crops; 0: none.

    affine: (T, 2, 3), source → crop pixels.
    There is one value per clip, from its median scale, so that sharpness does not flicker.
    """
    s = float(np.median(scale(affine)))
    return 0.5 * float(np.sqrt(1 / s**2 - 1)) if s < _ANTI_ALIAS_BELOW else 0.0


def crop(
    image: NDArray[np.uint8],
    affine: NDArray[Any],
    *,
    sigma: float = 0.0,
    to_image: NDArray[np.float64] | None = None,
) -> NDArray[np.uint8]:
    """Warp a picture to its crop: one bilinear resampling, grey 127 outside the picture.

    image: uint8 (H, W, C), three or four channels in any order.
    affine: (2, 3), source → crop pixels.
    sigma: low-pass against aliasing, see `blur_sigma`.
    to_image: (2, 3), source → image pixels, if the image is not the source picture as displayed.
    Returns uint8 (256, 256, C).
    """
    matrix = np.asarray(affine, np.float64)
    if not sigma and to_image is None:
        return warp(image, matrix, (CROP_SIZE, CROP_SIZE))
    sigmas = np.array([sigma, sigma])
    if to_image is not None:
        matrix = chained(matrix, cv2.invertAffineTransform(to_image))
        # As `blur_sigma` along each axis of the image.
        larger = np.hypot(to_image[:, 0], to_image[:, 1])
        sigmas = 0.5 * np.sqrt(np.maximum((4 * sigma**2 + 1) * larger**2 - 1, 0))
    if sigmas.any():
        image, matrix = _blurred_region(image, matrix, sigmas)
    return warp(image, matrix, (CROP_SIZE, CROP_SIZE))


def warp(image: NDArray[np.uint8], affine: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Warp a picture, uint8 (H, W, C), by a transform (2, 3) to a picture of `size`, width and height in pixels.

    Bilinear, grey 127 outside the picture.
    """
    warped = cv2.warpAffine(
        image, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(BORDER,) * 4
    )
    return np.asarray(warped, np.uint8)


def jitter(affine: NDArray[Any], points: NDArray[Any]) -> float:
    """Return the jitter of crops: the mean frame-to-frame movement of a face's eyes and nose, in crop pixels.

    affine: (T, 2, 3), the transforms of the crops.
    points: (T, 5, 2), the true positions in the face; the nose may be missing. Returns 0 for a single frame.
    """
    rigid = points[:, :3]
    rigid = rigid[:, ~np.isnan(rigid).any(axis=(0, 2))]
    steps = np.linalg.norm(np.diff(apply(affine, rigid), axis=0), axis=-1)
    return float(steps.mean()) if steps.size else 0.0


def _complex(points: NDArray[np.float64]) -> NDArray[np.complex128]:
    return np.asarray(points[..., 0] + 1j * points[..., 1])


def _blurred_region(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], sigmas: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Low-pass only the part of the picture that the crop shows; sigmas along its x and y axes."""
    corners = np.array([[0.0, 0.0], [CROP_SIZE, 0.0], [0.0, CROP_SIZE], [CROP_SIZE, CROP_SIZE]])
    seen = apply(cv2.invertAffineTransform(matrix), corners)
    margin = np.ceil(4 * sigmas).astype(int) + 2
    x0, y0 = np.maximum(np.floor(seen.min(axis=0)).astype(int) - margin, 0)
    x1, y1 = np.maximum(np.ceil(seen.max(axis=0)).astype(int) + margin, 0)
    region = image[y0:y1, x0:x1]
    if not region.size:
        return image, matrix
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (x0, y0)
    x, y = np.maximum(sigmas, 0.01).tolist()  # OpenCV would choose a sigma itself for 0
    return np.asarray(cv2.GaussianBlur(region, (0, 0), x, sigmaY=y), np.uint8), moved
