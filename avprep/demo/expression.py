"""Facial expressions of the synthetic corpus's people: brows, eye opening, cheeks, furrows and mouth corners.

An expression is constant over a clip and does not depend on what is said. A face with an expression is rendered
differently from a face without one: its hairline is higher and its brows are drawn, since the portrait's own are hardly
visible.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.demo.speech import Floats, Speaker


class Expression(NamedTuple):
    """The difference between a face and a face at rest, in pixels of a 256×256 picture unless stated otherwise.

    inner, arch, outer: upward motion of three points of each brow. knit: motion of the inner ends towards each other.
    eyes: relative change of their height; negative: they narrow. cheeks: upward motion.
    corners: upward motion of the mouth's corners. width: factor of the mouth's width.
    frown, lines, folds: visibility of vertical furrows between the brows, lines across the forehead and folds beside
    the mouth, 0 … 1.
    """

    inner: float = 0.0
    arch: float = 0.0
    outer: float = 0.0
    knit: float = 0.0
    eyes: float = 0.0
    cheeks: float = 0.0
    corners: float = 0.0
    width: float = 1.0
    frown: float = 0.0
    lines: float = 0.0
    folds: float = 0.0


EMOTIONS = {
    "neutral": Expression(),
    "happy": Expression(1.5, 2.5, 1.5, eyes=-0.45, cheeks=3.5, corners=8.5, width=1.12, folds=1.0),
    "sad": Expression(8.0, 0.5, -4.5, 2.0, eyes=-0.3, cheeks=-1.0, corners=-6.5, width=0.95, lines=0.35),
    "angry": Expression(-6.5, -1.5, 3.5, 4.5, eyes=-0.2, corners=-3.0, width=0.93, frown=1.0),
    "surprised": Expression(8.5, 10.0, 8.0, eyes=0.42, width=0.9, lines=1.0),
}
"""The emotions of the corpus, each as an expression at full intensity."""
INTENSITIES = {"low": 0.6, "high": 1.0}
"""Fraction of the full expression by intensity."""

_EYES = ((133.0, 142.0), (187.0, 142.0))
_BROW = ((11.0, -10.5), (-4.0, -14.5), (-19.0, -9.0))
"""Inner end, arch and outer end of the left brow, relative to the centre of its eye."""
_HAIRLINE = 13.0
"""Pixels by which the hair is raised, so that brows have room to move."""


def expression(emotion: str, intensity: str, who: Speaker, take_seed: int) -> Expression:
    """Return a speaker's expression of an emotion in one take; it varies a little between speakers and takes.

    Raises KeyError for an emotion that is not in `EMOTIONS` or an intensity that is not in `INTENSITIES`.
    """
    number = list(EMOTIONS).index(emotion) if emotion in EMOTIONS else -1
    rest, full = Expression(), EMOTIONS[emotion]
    own = np.random.default_rng([who.seed, 3, number]).uniform(0.85, 1.15, len(full))
    now = np.random.default_rng([who.seed, 4, number, take_seed]).uniform(0.93, 1.07, len(full))
    amounts = INTENSITIES[intensity] * own * now
    return Expression(
        *(float(still + share * (moved - still)) for still, moved, share in zip(rest, full, amounts, strict=True))
    )


def bump(x: Floats, y: Floats, centre: tuple[float, float] | Floats, sigma: tuple[float, float]) -> Floats:
    """Return a Gaussian of height 1."""
    return np.exp(-0.5 * (((x - centre[0]) / sigma[0]) ** 2 + ((y - centre[1]) / sigma[1]) ** 2)).astype(np.float32)


def shift(face: Expression, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the displacement by an expression of the points (x, y) of the average face, in pixels."""
    dx, dy = np.zeros_like(x), np.zeros_like(y)
    dy -= _HAIRLINE * bump(x, y, (160, 100), (70, 15))
    for (eye_x, eye_y), side in zip(_EYES, (1, -1), strict=True):
        for (off_x, off_y), up in zip(_BROW, (face.inner, face.arch, face.outer), strict=True):
            dy -= 0.2 * up * bump(x, y, (eye_x + side * off_x, eye_y + off_y), (8, 4.5))
        dx += 0.4 * face.knit * side * bump(x, y, (eye_x + side * 11, eye_y - 10), (8, 6))
        dy += face.eyes * (y - eye_y) * bump(x, y, (eye_x, eye_y), (13, 7))
        dy -= face.cheeks * bump(x, y, (eye_x - side * 3, eye_y + 32), (18, 15))
        dy -= 0.4 * face.corners * bump(x, y, (160 - side * 27, 190), (11, 11))
    return dx, dy


def without_brows(portrait: Floats) -> Floats:
    """Remove the thin dark brows from a portrait (H, W, channels) by a morphological closing."""
    closed = cv2.morphologyEx(portrait, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    closed = cv2.GaussianBlur(closed, (0, 0), 1.0)
    y, x = np.mgrid[: portrait.shape[0], : portrait.shape[1]].astype(np.float32)
    weight = np.zeros_like(x)
    for eye_x, eye_y in _EYES:
        weight = np.maximum(weight, 1.5 * np.exp(-(((x - eye_x) / 30) ** 6) - ((y - eye_y + 15.5) / 7.5) ** 4))
    return np.asarray(portrait + (closed - portrait) * np.clip(weight, 0, 1)[..., None], np.float32)


def brows(face: Expression, eyes: Floats, shape: tuple[int, int]) -> Floats:
    """Return the coverage of each pixel by both brows, 0 … 1: float32 of this shape; eyes: (2, 2), x y."""
    ink = np.zeros(shape, np.float32)
    for (eye_x, eye_y), side in zip(eyes, (1, -1), strict=True):
        points = np.array(_BROW) - np.array([(0, face.inner), (0, face.arch), (0, face.outer)])
        points[0, 0] += face.knit
        ink = np.maximum(ink, _stroke(points * (side, 1) + (eye_x, eye_y), (2.9, 2.5, 0.9), shape))
    return ink


def furrows(face: Expression, x: Floats, y: Floats) -> Floats:
    """Return the darkening of the skin at the points (x, y), 0 … 1."""
    away = np.abs(x - 160)
    dark = face.frown * 0.8 * np.exp(-(((away - 5.5 + 0.1 * (y - 128)) / 1.3) ** 2) - ((y - 128) / 8) ** 2)
    for line in (106.0, 112.5):
        dark += face.lines * 0.5 * np.exp(-(((y - line - 0.0012 * (x - 160) ** 2) / 1.2) ** 2) - (away / 30) ** 4)
    fold = 27 + 0.28 * (y - 178) + 0.012 * (y - 178) ** 2
    dark += face.folds * 0.4 * np.exp(-(((away - fold) / 1.8) ** 2) - ((y - 182) / 13) ** 4)
    return np.clip(dark, 0, 1).astype(np.float32)


def _stroke(points: NDArray[np.float64], half_widths: tuple[float, ...], shape: tuple[int, int]) -> Floats:
    """Return a curve through three points, with the given half widths there, as coverage 0 … 1."""
    along = np.linspace(0, 2, 25)
    curve = np.stack([np.polyval(np.polyfit([0, 1, 2], points[:, k], 2), along) for k in range(2)], axis=1)
    half = np.interp(along, range(3), half_widths)[:, None]
    across = np.gradient(curve, axis=0)[:, ::-1] * (1, -1)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    outline = np.concatenate([curve + half * across, (curve - half * across)[::-1]])
    ink = np.zeros(shape, np.uint8)
    cv2.fillPoly(ink, [np.rint(16 * outline).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(ink.astype(np.float32) / 255, (0, 0), 0.7), np.float32)
