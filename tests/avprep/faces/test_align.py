"""Geometry: similarity transforms and crops, tested against recorded values and by properties."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from avprep.faces import align
from avprep.media.video import Frames

FACE = np.array([[129.0, 159.4], [180.8, 157.3], [158.4, 191.1], [133.7, 212.9], [180.4, 211.5]])


def five_on_the_template() -> NDArray[np.float64]:
    """Five points whose eyes and mouth centre lie exactly on the template."""
    left, right, mouth = align.TEMPLATE
    across = np.array([20, 0])
    return np.stack([left, right, mouth - np.array([0, 30]), mouth - across, mouth + across])


def test_template_is_the_contract() -> None:
    """Eyes and mouth are placed at (91.1, 114.4), (168.7, 114.4) and (129.9, 188.1)."""
    np.testing.assert_allclose(align.TEMPLATE, [[91.1, 114.4], [168.7, 114.4], [129.9, 188.1]], atol=0.05)


def test_crops_equal_the_released_aligner(shared: Path) -> None:
    """From the same points, the crops agree with the released aligner's to 35 dB or better."""
    with np.load(shared / "reference" / "align" / "golden.npz") as golden:
        pictures = list(Frames(shared / "clips" / "grid" / "s1" / "bbaf2n.mpg"))
        for index, points, theirs in zip(
            golden["frame_index"], golden["points5_xy"], golden["crop_256_bgr"], strict=True
        ):
            ours = align.crop(pictures[index].rgb(), align.similarity(points))[..., ::-1]
            error = np.mean((ours.astype(float) - theirs.astype(float)) ** 2)
            assert 10 * np.log10(255**2 / error) > 40


@given(
    st.floats(0.2, 5),
    st.floats(-np.pi, np.pi),
    st.floats(-500, 500),
    st.floats(-500, 500),
)
def test_similarity_undoes_any_similarity(scale: float, angle: float, x: float, y: float) -> None:
    """Points moved off the template by any rotation, scale and translation are mapped back onto it."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = five_on_the_template() @ turn.T + [x, y]
    affine = align.similarity(moved)
    np.testing.assert_allclose(align.apply(affine, align.three_points(moved)), align.TEMPLATE, atol=1e-6)
    np.testing.assert_allclose(align.scale(affine), 1 / scale)


@given(st.lists(st.floats(-30, 30), min_size=10, max_size=10))
@settings(max_examples=50)
def test_similarity_is_the_least_squares_fit(noise: list[float]) -> None:
    """No small change of the four parameters brings the three points closer to the template."""
    points = FACE + np.reshape(noise, (5, 2))
    affine = align.similarity(points)
    three = align.three_points(points)

    def error(a: float, b: float, x: float, y: float) -> float:
        moved = three @ np.array([[a, b], [-b, a]]) + [x, y]
        return float(np.sum((moved - align.TEMPLATE) ** 2))

    best = (affine[0, 0], affine[1, 0], affine[0, 2], affine[1, 2])
    least = error(*best)
    for n in range(4):
        for step in (-1e-3, 1e-3):
            changed = list(best)
            changed[n] += step
            assert error(*changed) >= least - 1e-9


def test_similarity_never_mirrors() -> None:
    """A mirrored face is rotated, not mirrored: the transform's determinant stays positive."""
    mirrored = FACE * [-1, 1]
    affine = align.similarity(mirrored)
    assert np.linalg.det(affine[:, :2]) > 0


def test_similarity_takes_many_frames_at_once() -> None:
    """A stack of points gives the stack of transforms."""
    points = np.stack([FACE, FACE * 2 + 7])
    together = align.similarity(points)
    for one, affine in zip(points, together, strict=True):
        np.testing.assert_allclose(align.similarity(one), affine)


def test_missing_nose_does_not_matter() -> None:
    """A detector without a nose point aligns just the same."""
    points = FACE.copy()
    points[2] = np.nan
    np.testing.assert_array_equal(align.similarity(points), align.similarity(FACE))


def test_points_that_fall_together_have_no_fit() -> None:
    """Five coincident points give a non-finite transform, alone and in a stack, and no error."""
    together = np.full((5, 2), 7.0)
    assert not np.isfinite(align.similarity(together)).any()
    assert not np.isfinite(align.similarity(np.stack([together, together]))).any()


def test_points_are_not_changed_by_being_fitted() -> None:
    """Fitting a stack of transforms does not change the five points, noses included."""
    points = np.stack([FACE, FACE * 2 + 7])
    before = points.copy()
    align.similarity(points)
    np.testing.assert_array_equal(points, before)


def test_distance_from_the_template_is_the_mean_of_three() -> None:
    """A mouth 6 px from its place is a mean error of 2 px, as both eyes are right."""
    points = five_on_the_template()
    points[3:] += (0, 6)
    assert align.off_template(points) == pytest.approx(2)


def test_zooming_counts_from_a_pixels_edge() -> None:
    """The centre of the first pixel lies between the two pixels that it becomes in an image twice as large."""
    np.testing.assert_allclose(align.zoomed(np.array([[0.0, 10.0]]), 2), [[0.5, 20.5]])


def test_crops_are_bilinear() -> None:
    """A crop pixel a quarter of the way between two source pixels is their bilinear mix."""
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, 100:] = 200
    crop = align.crop(image, np.array([[1.0, 0, 0.75], [0, 1, 0]]))
    np.testing.assert_array_equal(crop[100, 98:103, 0], [0, 0, 50, 200, 200])


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_low_pass_sees_beyond_the_crop(sigma: float) -> None:
    """A low-passed crop equals the crop of the low-passed image, up to the crop's edges."""
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    affine = np.array([[1.0, 0, -70], [0, 1, -60]])
    whole = cv2.GaussianBlur(image, (0, 0), sigma)
    np.testing.assert_array_equal(align.crop(image, affine, sigma=sigma), whole[60:316, 70:326])


def test_low_pass_is_the_same_through_a_picture_of_the_sources_size() -> None:
    """An image of the source's own size gives the same crop with `to_image` as without."""
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    affine, same = np.array([[0.6, 0, 0], [0, 0.6, 0]]), np.eye(2, 3)
    np.testing.assert_allclose(
        align.crop(image, affine, sigma=0.7, to_image=same).astype(int), align.crop(image, affine, sigma=0.7), atol=1
    )


@pytest.mark.parametrize("to_image", [[[2.0, 0, 0], [0, 1, 0]], [[0, 2.0, 0], [1, 0, 0]]], ids=["upright", "turned"])
def test_only_the_axis_that_shrinks_is_low_passed(to_image: list[list[float]]) -> None:
    """In an image twice as wide as its source, upright or turned, only stripes along the widened axis blur."""
    stripes = np.repeat((np.arange(600)[:, None] % 2 * 255).astype(np.uint8), 600, axis=1)
    rows, columns = (np.repeat(one[..., None], 3, axis=2) for one in (stripes, stripes.T))
    affine, picture = np.array([[1.0, 0, -10], [0, 1, -10]]), np.array(to_image)
    assert align.crop(rows, affine, to_image=picture).std() > 120
    assert align.crop(columns, affine, to_image=picture).std() < 20


def test_low_passed_crop_beside_the_picture_is_grey() -> None:
    """A crop entirely outside the image is grey 127, low-passed or not."""
    far = np.array([[0.5, 0, 2000], [0, 0.5, 2000]])
    assert (align.crop(np.zeros((100, 100, 3), np.uint8), far, sigma=0.8) == 127).all()


def test_outside_of_the_picture_is_grey() -> None:
    """Crop pixels outside the source image are grey 127."""
    affine = np.array([[1.0, 0, 200], [0, 1, 0]])
    crop = align.crop(np.full((256, 256, 3), 255, np.uint8), affine)
    assert (crop[:, :199] == 127).all()
    assert (crop[:, 202:] == 255).all()


@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_crop_puts_a_source_pixel_where_the_transform_says(sigma: float) -> None:
    """A bright dot of the source is placed by the transform, with and without the low-pass."""
    image = np.zeros((400, 500, 3), np.uint8)
    image[201:204, 302:305] = 255
    affine = np.array([[0.6, -0.1, -40.0], [0.1, 0.6, 20.0]])
    grey = align.crop(image, affine, sigma=sigma)[..., 0].astype(float)
    expected = align.apply(affine, np.array([[303.0, 202.0]]))[0]
    inside = np.zeros_like(grey)
    x, y = np.round(expected).astype(int)
    inside[y - 8 : y + 9, x - 8 : x + 9] = grey[y - 8 : y + 9, x - 8 : x + 9]
    rows, columns = np.indices(grey.shape)
    centre = [(columns * inside).sum() / inside.sum(), (rows * inside).sum() / inside.sum()]
    np.testing.assert_allclose(centre, expected, atol=0.15)


def test_strong_shrinking_does_not_alias() -> None:
    """A fine checkerboard shrunk five times becomes even grey instead of moiré."""
    board = (np.indices((1600, 1600)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[..., None], 3, axis=2)
    affine = np.array([[[0.2, 0.0, 0.0], [0.0, 0.2, 0.0]]])
    crop = align.crop(image, affine[0], sigma=align.blur_sigma(affine))
    assert crop[20:-20, 20:-20].std() < 3


@pytest.mark.parametrize(
    ("scales", "sigma"), [([1.5], 0), ([0.76], 0), ([0.74], 0.4545), ([0.5, 0.5, 0.1], 0.8660), ([0.9, 0.9, 0.1], 0)]
)
def test_low_pass_is_that_of_the_median_scale(scales: list[float], sigma: float) -> None:
    """Only faces that shrink to below three quarters are low-passed, by √(1/s² − 1)/2 for the clip's median scale s."""
    affine = np.array([[[s, 0, 0], [0, s, 0]] for s in scales])
    assert align.blur_sigma(affine) == pytest.approx(sigma, abs=1e-4)


def test_jitter_measures_what_the_crop_shows() -> None:
    """Transforms that follow a moving face have no jitter; noise added to them is measured in crop pixels."""
    rng = np.random.default_rng(0)
    points = FACE + np.linspace(0, 40, 50)[:, None, None]
    affine = align.similarity(points)
    assert align.jitter(affine, points) < 1e-6
    shaken = affine.copy()
    shaken[:, :, 2] += rng.normal(0, 1, (50, 2))
    assert 1.4 < align.jitter(shaken, points) < 2.2  # the mean step of white noise of 1 px is √π ≈ 1.8
    assert align.jitter(affine[:1], points[:1]) == 0
    twitching = points.copy()
    twitching[1::2, 2, 0] += 3 / align.scale(affine)[1::2]
    assert align.jitter(affine, twitching) == pytest.approx(1)  # a nose that jumps by 3 px, while the eyes stay still
