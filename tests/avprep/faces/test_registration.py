"""Faces are found again by registering one image onto another."""

from __future__ import annotations

import cmath
import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_faces import EYES_AND_MOUTH
from made_motion import FACE, filmed, moved
from numpy.typing import NDArray
from skimage import data

from avprep.faces import align
from avprep.faces.registration import ALIKE, FINE, UPPER_FACE, Anchor, Patch, Similarity

POINTS = np.array([[132, 100], [188, 104], [158, 130], [138, 154], [176, 157]], np.float32)
ONTO = Similarity.of(align.similarity(POINTS))

moderate = st.floats(-200, 200)
similarities = st.builds(
    lambda size, angle, x, y: Similarity(cmath.rect(size, angle), complex(x, y)),
    st.floats(0.1, 10),
    st.floats(-math.pi, math.pi),
    moderate,
    moderate,
)


def pictured(movement: NDArray[np.float64] | None = None, seed: int = 0) -> NDArray[np.uint8]:
    """Return a smooth random image, uint8 (240, 320), moved by a transform (2, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (30, 40)).astype(np.uint8)
    picture = cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC)
    return np.asarray(picture if movement is None else align.warp(picture, movement, (320, 240)), np.uint8)


def about_the_face(degrees: float, scale: float, x: float, y: float) -> NDArray[np.float64]:
    """Return a rotation and scaling about the face and a translation, (2, 3)."""
    matrix = np.asarray(cv2.getRotationMatrix2D((160, 125), degrees, scale), np.float64)
    matrix[:, 2] += (x, y)
    return matrix


def remembered(picture: NDArray[np.uint8]) -> Anchor:
    """Return the face of an image that is not flat."""
    anchor = Anchor.of(picture, ONTO)
    assert anchor is not None
    return anchor


@given(similarities, similarities, st.lists(st.tuples(moderate, moderate), min_size=1, max_size=6))
def test_similarities_are_their_transforms(first: Similarity, second: Similarity, points: list[Any]) -> None:
    """Applying, composing and inverting similarities agrees with the same operations on 2×3 matrices."""
    places = np.array(points, np.float64)
    once = align.apply(first.affine, places)
    np.testing.assert_allclose(first(places), once, rtol=1e-9, atol=1e-6)
    both = second.after(first)
    np.testing.assert_allclose(both.affine, align.chained(second.affine, first.affine), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(both(places), align.apply(second.affine, once), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(first.inverse()(once), places, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(first.inverse().affine, cv2.invertAffineTransform(first.affine), rtol=1e-6, atol=1e-6)
    assert cmath.isclose(Similarity.of(first.affine).turn, first.turn)
    assert cmath.isclose(Similarity.of(first.affine).shift, first.shift)


def test_a_blink_does_not_move_the_face() -> None:
    """While a talker with a still head blinks, the face stays in place to .1 px."""
    still = filmed(moved(np.zeros(44)))
    open_, *blinking = (np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in still[35:])
    onto = Similarity.of(align.similarity(np.stack([*FACE, *[FACE[2] + (0, 25)] * 2])))
    anchor = Anchor.of(open_, onto)
    assert anchor is not None
    assert max(np.abs(open_[100:120, 90:165].astype(int) - frame[100:120, 90:165]).max() for frame in blinking) > 100
    for frame in blinking:
        found = anchor.find(frame, onto)
        assert found is not None
        np.testing.assert_allclose(found[0].inverse()(onto(FACE)), FACE, atol=0.1)


@given(st.floats(-4, 4), st.floats(0.95, 1.05), st.floats(-5, 5), st.floats(-5, 5))
@settings(max_examples=30)
def test_a_movement_is_told_to_a_fraction_of_a_pixel(degrees: float, scale: float, x: float, y: float) -> None:
    """A face that rotated, grew and moved is registered to .3 px."""
    movement = about_the_face(degrees, scale, x, y)
    found = remembered(pictured()).find(pictured(movement), ONTO)
    assert found is not None
    onto, correlation = found
    assert correlation > 0.95
    back = onto.inverse()(ONTO(POINTS))
    np.testing.assert_allclose(back, align.apply(movement, POINTS), atol=0.3)


@pytest.mark.parametrize(("x", "y"), [(25, 0), (-25, 0), (0, 25), (0, -25), (18, 18)])
def test_a_jump_is_found_by_the_coarse_patch(x: int, y: int) -> None:
    """A face that moved by 25 px, beyond the reach of the fine patch alone, is found to a fraction of a pixel."""
    face = np.asarray(cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY), np.uint8)
    onto = Similarity.of(align.similarity(EYES_AND_MOUTH[[0, 1, 1, 2, 2]]))
    reach = abs(onto.turn)  # crop pixels per pixel of the portrait
    moved = align.warp(face, np.array([[1, 0, x / reach], [0, 1, y / reach]]), face.shape[::-1])
    anchor = Anchor.of(face, onto)
    assert anchor is not None
    found = anchor.find(moved, onto)
    assert found is not None
    shown = found[0](align.apply(np.array([[1, 0, x / reach], [0, 1, y / reach]]), EYES_AND_MOUTH))
    np.testing.assert_allclose(shown, onto(EYES_AND_MOUTH), atol=0.3)


def test_the_fine_patch_alone_does_not_reach_so_far() -> None:
    """Without the coarse patch a face that moved down by 25 px is lost; with it the face is found."""
    face = np.asarray(cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY), np.uint8)
    onto = Similarity.of(align.similarity(EYES_AND_MOUTH[[0, 1, 1, 2, 2]]))
    moved = align.warp(face, np.array([[1, 0, 0], [0, 1, 25 / abs(onto.turn)]]), face.shape[::-1])
    assert Patch(face, onto, FINE, UPPER_FACE).find(moved, onto)[1] < ALIKE
    anchor = Anchor.of(face, onto)
    assert anchor is not None
    assert anchor.find(moved, onto) is not None


def test_light_does_not_matter() -> None:
    """The same face in a darker image of less contrast is found where it is."""
    movement = about_the_face(1, 1, 2, -1)
    dark = np.asarray(pictured(movement) * 0.5 + 20, np.uint8)
    found = remembered(pictured()).find(dark, ONTO)
    assert found is not None
    np.testing.assert_allclose(found[0].inverse()(ONTO(POINTS)), align.apply(movement, POINTS), atol=0.3)


def test_another_picture_is_not_alike() -> None:
    """If the image shows something else, or nothing, no face is found."""
    anchor = remembered(pictured())
    for seed in range(1, 6):
        assert anchor.find(pictured(seed=seed), ONTO) is None
    assert anchor.find(np.full((240, 320), 90, np.uint8), ONTO) is None


def test_a_face_beyond_the_picture_is_not_alike() -> None:
    """A face that left the image is not found in what remains, and causes no error."""
    assert remembered(pictured()).find(pictured(about_the_face(0, 1, 400, 0)), ONTO) is None
    away = Similarity(ONTO.turn, ONTO.shift + 5000)
    assert remembered(pictured()).find(pictured(), away) is None


def test_nothing_to_go_by() -> None:
    """A face in a flat image, or of stripes that slide along themselves, cannot be remembered."""
    flat = np.full((240, 320), 90, np.uint8)
    assert Anchor.of(flat, ONTO) is None
    stripes = np.broadcast_to((127 + 90 * np.sin(np.arange(320) / 9)).astype(np.uint8), (240, 320))
    level = Similarity(complex(abs(ONTO.turn), 0), ONTO.shift)
    assert Anchor.of(np.ascontiguousarray(stripes), level) is None


def test_points_that_fall_together_are_no_face() -> None:
    """Coincident points have no transform, and give nothing to remember."""
    for value in (50.0, math.nan):
        onto = Similarity.of(align.similarity(np.full((5, 2), value)))
        assert Anchor.of(pictured(), onto) is None
