"""Faces that are found again by the movement that lays one picture over another."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from avprep.faces import align, registration
from avprep.faces.detectors.base import Face

POINTS = np.array([[132, 100], [188, 104], [158, 130], [138, 154], [176, 157]], np.float32)
FACE = Face(np.array([110, 70, 210, 180], np.float32), 0.9, POINTS)


def pictured(movement: NDArray[np.float64] | None = None, seed: int = 0) -> NDArray[np.uint8]:
    """Return a smooth random picture, uint8 (240, 320), moved by a transform (2, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (30, 40)).astype(np.uint8)
    picture = cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC)
    return np.asarray(picture if movement is None else align.warp(picture, movement, (320, 240)), np.uint8)


def about_the_face(degrees: float, scale: float, x: float, y: float) -> NDArray[np.float64]:
    """Return a turn and growth about the face and a movement, (2, 3)."""
    matrix = np.asarray(cv2.getRotationMatrix2D((160, 125), degrees, scale), np.float64)
    matrix[:, 2] += (x, y)
    return matrix


@given(st.floats(-4, 4), st.floats(0.95, 1.05), st.floats(-5, 5), st.floats(-5, 5))
def test_a_movement_is_told_to_a_fraction_of_a_pixel(degrees: float, scale: float, x: float, y: float) -> None:
    """Points and box follow a face that turned, grew and moved."""
    movement = about_the_face(degrees, scale, x, y)
    anchor = registration.anchor(FACE, pictured())
    assert anchor is not None
    found = anchor.find(pictured(movement), anchor.onto)
    assert found is not None
    face = anchor.face_at(found)
    np.testing.assert_allclose(face.points, align.apply(movement, POINTS), atol=0.3)
    middle = align.apply(movement, FACE.box.reshape(2, 2).mean(axis=0, keepdims=True))[0]
    np.testing.assert_allclose(face.box.reshape(2, 2).mean(axis=0), middle, atol=0.3)
    np.testing.assert_allclose(face.box[2] - face.box[0], 100 * scale, atol=0.5)


def test_light_does_not_matter() -> None:
    """The same face in a darker picture of less contrast is found where it is."""
    anchor = registration.anchor(FACE, pictured())
    assert anchor is not None
    movement = about_the_face(1, 1, 2, -1)
    dark = np.asarray(pictured(movement) * 0.5 + 20, np.uint8)
    found = anchor.find(dark, anchor.onto)
    assert found is not None
    np.testing.assert_allclose(anchor.face_at(found).points, align.apply(movement, POINTS), atol=0.3)


def test_another_picture_is_not_alike() -> None:
    """Where the picture shows something else, nothing is found."""
    anchor = registration.anchor(FACE, pictured())
    assert anchor is not None
    assert anchor.find(pictured(seed=1), anchor.onto) is None


@pytest.mark.parametrize("points", [POINTS, np.full((5, 2), 50, np.float32)])
def test_nothing_to_go_by(points: NDArray[np.float32]) -> None:
    """A face in a flat picture, or whose points fall together, cannot be remembered."""
    flat = np.full((240, 320), 90, np.uint8)
    assert registration.anchor(Face(FACE.box, 0.9, points), flat) is None


def test_points_that_a_detector_has_none_of_stay_unknown() -> None:
    """NaN stays NaN, and the other points move."""
    points = POINTS.copy()
    points[2] = np.nan
    anchor = registration.anchor(Face(FACE.box, 9, points), pictured())
    assert anchor is not None
    found = anchor.find(pictured(about_the_face(0, 1, 3, 0)), anchor.onto)
    assert found is not None
    moved = anchor.face_at(found).points
    assert np.isnan(moved[2]).all()
    np.testing.assert_allclose(moved[[0, 1, 3, 4]], points[[0, 1, 3, 4]] + [3, 0], atol=0.3)
