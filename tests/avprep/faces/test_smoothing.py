"""The points of a followed face in every frame: detections are smoothed relative to the face, its motion is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from avprep.faces import align, smoothing
from avprep.faces.detectors.base import Face
from avprep.faces.registration import Similarity
from avprep.faces.track import Detection, Look, Track

Floats = NDArray[np.float64]
SHAPE = np.array([[91.0, 114], [169, 114], [130, 150], [105, 188], [155, 188]])  # in crop pixels
NO_CUTS: frozenset[int] = frozenset()


def detection(
    onto: Similarity,
    look: Floats | None = SHAPE,
    *,
    number: int | None = 0,
    noise: float = 1.0,
    size: int = 0,
    path: tuple[tuple[int, Similarity], ...] = (),
) -> Detection:
    """Return a face that was followed to a position, and the points that a detection gave in its frame of reference."""
    points = onto.inverse()(SHAPE).astype(np.float32)
    face = Face(np.concatenate([points.min(axis=0), points.max(axis=0)]), 0.9, points)
    seen = None if look is None else Look(look, noise, size)
    return Detection(face, np.zeros(1, np.float32), onto, number, seen, path)


def at(x: float, y: float = 0.0) -> Similarity:
    """Return the place in the image of a face of half a crop's size."""
    return Similarity(2, complex(-2 * x, -2 * y))


def followed(places: Floats, looks: dict[int, Floats], noises: tuple[float, ...] = (1.0,)) -> Track:
    """Return a face that was at these positions, (T,), detected in some frames and recorded in them and the last.

    noises: one for each of the alternating sizes.
    """
    one, path = Track(), list[tuple[int, Similarity]]()
    for frame, x in enumerate(places.tolist()):
        if frame in looks or frame == len(places) - 1:
            size = sorted(looks).index(frame) % len(noises) if frame in looks else 0
            one.detections[frame] = detection(at(x), looks.get(frame), noise=noises[size], size=size, path=tuple(path))
            path = []
        else:
            path.append((frame, at(x)))
    return one


def dense(values: Floats, noise: Floats, drift: Floats) -> Floats:
    """Return the minimiser of the smoother's formula, by a dense linear least-squares system."""
    observed = np.diag(1 / noise)
    walked = np.diff(np.eye(len(values)), axis=0) / drift[:, None]
    left = np.concatenate([observed, walked])
    right = np.concatenate([observed @ values, np.zeros((len(drift), values.shape[1]))])
    return np.asarray(np.linalg.lstsq(left, right, rcond=None)[0])


@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_smoother_is_its_formula(n: int, columns: int, seed: int) -> None:
    """The smoothed curve minimises the sum of squares, whatever the noise and the drift."""
    rng = np.random.default_rng(seed)
    values, noise, drift = rng.normal(100, 20, (n, columns)), rng.uniform(0.3, 4, n), rng.uniform(0.1, 3, n - 1)
    np.testing.assert_allclose(smoothing.whittaker(values, noise, drift), dense(values, noise, drift), atol=1e-6)


@given(st.integers(1, 60), st.floats(-500, 500), st.integers(0, 2**32 - 1))
def test_what_does_not_change_comes_back(n: int, value: float, seed: int) -> None:
    """A constant curve is left unchanged, and the input is not written to."""
    rng = np.random.default_rng(seed)
    values = np.full((n, 3), value)
    course = smoothing.whittaker(values, rng.uniform(0.3, 4, n), rng.uniform(0.1, 3, n - 1))
    np.testing.assert_allclose(course, value, atol=1e-6)
    assert (values == value).all()


def test_noise_shrinks() -> None:
    """Smoothing cuts white noise of detections to less than half, at the ends too, and its steps to about a tenth."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (400, 10))
    course = smoothing.whittaker(noise, np.ones(400), np.full(399, smoothing.DRIFT))
    assert course.std(axis=0).max() < 0.5
    assert np.abs(np.diff(course, axis=0)).std() < 0.15
    ends = [
        smoothing.whittaker(rng.normal(0, 1, (30, 1)), np.ones(30), np.full(29, smoothing.DRIFT))[0, 0]
        for _ in range(200)
    ]
    assert np.std(ends) < 0.6


def test_movement_stays_and_noise_goes() -> None:
    """Points follow the image's shaking exactly; the noise of detections is spread over the frames between them."""
    rng, t = np.random.default_rng(2), np.arange(100)
    places = 100 + 6 * np.sin(t * 0.75)
    looks = {n: SHAPE + rng.normal(0, 1, (5, 2)) for n in range(0, 100, 5)}
    points = smoothing.points_per_frame(followed(places, looks), 100, NO_CUTS).smoothed
    within = np.stack([at(x)(each) for x, each in zip(places, points, strict=True)])
    assert np.linalg.norm(np.diff(within, axis=0), axis=2).mean() < 0.15
    assert np.abs(within - SHAPE).mean() < 0.6


def test_looks_that_are_taken_as_they_are_move_more() -> None:
    """Without smoothing, the landmarks in the frame of a detection are those of the detection."""
    rng = np.random.default_rng(3)
    looks = {n: SHAPE + rng.normal(0, 1, (5, 2)) for n in range(0, 60, 5)}
    one = followed(np.full(60, 100.0), looks)
    raw = smoothing.points_per_frame(one, 60, NO_CUTS).detected
    for frame, look in looks.items():
        np.testing.assert_allclose(raw[frame], at(100.0).inverse()(look), atol=1e-9)
    smooth = smoothing.points_per_frame(one, 60, NO_CUTS).smoothed
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.5 * np.abs(np.diff(raw, axis=0)).mean()


@pytest.mark.parametrize("n_frames", [6, 11, 30, 100])
def test_a_clip_of_any_length_estimates_the_same(n_frames: int) -> None:
    """However often each size was used, points are the sizes' mean, weighted by confidence, and do not jitter."""
    looks = {n: SHAPE + (2.0 if n // 5 % 2 else -1.0) for n in range(0, n_frames, 5)}
    both = smoothing.points_per_frame(followed(np.full(n_frames, 100.0), looks, (1.0, 4.0)), n_frames, NO_CUTS)
    for points in both:
        np.testing.assert_allclose(at(100.0)(points), np.broadcast_to(SHAPE, points.shape), atol=1e-9)


def test_a_head_that_turns_aside_is_followed_by_its_looks() -> None:
    """While the face appears to grow, points may move by 0.35 of how far that moves points 55 px from its centre."""
    grown = [at(0), Similarity(2.4, 0)]
    shifted = SHAPE + np.array([6, 0])

    def end(onto: Similarity) -> float:
        one = Track({0: detection(grown[0], SHAPE), 6: detection(onto, shifted, path=((1, onto),))})
        points = smoothing.points_per_frame(one, 7, NO_CUTS).smoothed
        return float(onto(points[6])[0, 0] - SHAPE[0, 0])

    for onto in grown:
        seeming = 55 * np.log(onto.turn.real / 2)
        drift = 0.2**2 * 6 + (0.35 * seeming) ** 2
        assert end(onto) == pytest.approx(3 + 3 * drift / (drift + 2))  # of two looks, each with a noise of 1


def test_looks_that_lie_further_apart_may_differ_more() -> None:
    """Points may move by 0.2 crop pixels per frame, as in a random walk: more in fifty frames than in one."""

    def end(frame: int) -> float:
        one = followed(np.full(frame + 1, 100.0), {0: SHAPE, frame: SHAPE + 3.0})
        return float(at(100)(smoothing.points_per_frame(one, frame + 1, NO_CUTS).smoothed[frame])[0, 0] - SHAPE[0, 0])

    for frame in (1, 50):
        drift = 0.2**2 * frame
        assert end(frame) == pytest.approx(1.5 + 1.5 * drift / (drift + 2))


@pytest.mark.parametrize("followed_over", [False, True])
def test_nothing_is_smoothed_over_a_cut_that_was_not_followed(followed_over: bool) -> None:
    """A face found anew after a cut starts from its own detections; one followed over the cut continues smoothly."""
    before, after = {0: detection(at(100), SHAPE)}, detection(at(200), SHAPE + 5.0, number=0 if followed_over else 1)
    one = Track({**before, 5: detection(at(100), SHAPE, path=tuple((n, at(100)) for n in range(1, 5))), 6: after})
    points = smoothing.points_per_frame(one, 7, frozenset({6})).smoothed
    last, first = at(100)(points[5]), at(200)(points[6])
    if followed_over:
        assert (last - SHAPE).min() > 0.02
        assert (first - SHAPE).max() < 4.9
    else:
        np.testing.assert_allclose(last, SHAPE, atol=1e-9)
        np.testing.assert_allclose(first, SHAPE + 5.0, atol=1e-9)


@pytest.mark.parametrize("cuts", [(), (3,)])
def test_gaps_are_interpolated_and_ends_are_held(cuts: tuple[int, ...]) -> None:
    """Points move linearly while the face is missing, also after its shot's first frame, and are held at both ends."""
    one = Track({3: detection(at(100)), 9: detection(at(112), number=1)})
    points = smoothing.points_per_frame(one, 14, frozenset(cuts)).smoothed
    moved = points[:, 0, 0] - at(100).inverse()(SHAPE)[0, 0]
    np.testing.assert_allclose(moved, np.interp(np.arange(14), [3, 9], [0, 12]), atol=1e-6)


@pytest.mark.parametrize("cuts", [(7,), (2, 7, 8, 11)])
def test_a_gap_around_a_cut_is_held_up_to_the_cut(cuts: tuple[int, ...]) -> None:
    """Nothing is interpolated over a cut: the old position holds up to the first cut, the new one from it on."""
    one = Track({3: detection(at(100)), 9: detection(at(160), number=1)})
    points = smoothing.points_per_frame(one, 12, frozenset(cuts)).smoothed
    assert np.ptp(points[:7, 0, 0]) < 1e-9
    assert np.ptp(points[7:, 0, 0]) < 1e-9
    assert points[7, 0, 0] - points[6, 0, 0] == pytest.approx(60)


def test_a_missing_nose_stays_missing() -> None:
    """A point that the detector does not give is NaN in every frame; the other points do not change."""
    without = SHAPE.copy()
    without[2] = np.nan
    places, looks = np.linspace(100, 120, 30), dict.fromkeys(range(0, 30, 5), without)
    points = smoothing.points_per_frame(followed(places, looks), 30, NO_CUTS).smoothed
    assert np.isnan(points[:, 2]).all()
    whole = smoothing.points_per_frame(followed(places, dict.fromkeys(looks, SHAPE)), 30, NO_CUTS).smoothed
    np.testing.assert_allclose(points[:, [0, 1, 3, 4]], whole[:, [0, 1, 3, 4]])
    assert np.isfinite(align.similarity(points)).all()
