"""From faces in keyframes to one subject's points in every frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from avprep.errors import Reject
from avprep.faces import track
from avprep.faces.detectors.base import Face
from avprep.faces.track import Detection, Detections, Track

FACE_A, FACE_B = np.float32([1, 0]), np.float32([0, 1])


def detection(x: float, y: float = 100, size: float = 60, appearance: NDArray[np.float32] = FACE_A) -> Detection:
    """A face of `size` pixels in the middle of which lies (x, y)."""
    box = np.float32([x - size / 2, y - size / 2, x + size / 2, y + size / 2])
    shape = np.float32([[-0.2, -0.15], [0.2, -0.15], [0, 0], [-0.15, 0.25], [0.15, 0.25]])
    return Detection(Face(box, 0.9, shape * size + np.float32([x, y])), appearance)


def detections(faces: dict[int, list[Detection]], n_frames: int, cuts: tuple[int, ...] = ()) -> Detections:
    """What a detector saw of a 400×200 clip."""
    return Detections(n_frames, (400, 200), faces, frozenset(cuts))


def frames_of(tracks: list[Track]) -> list[list[int]]:
    """The frames of each track."""
    return [list(one.detections) for one in tracks]


def test_two_people_make_two_tracks() -> None:
    """Faces are joined by overlap, whatever their order in a frame."""
    a, b = [detection(100 + n) for n in range(3)], [detection(300 - n) for n in range(3)]
    tracks = track.link(detections({0: [a[0], b[0]], 5: [b[1], a[1]], 10: [a[2], b[2]]}, 11))
    assert [[s.face.box[0] < 150 for s in one.detections.values()] for one in tracks] == [[True] * 3, [False] * 3]


def test_a_gap_of_more_than_twelve_frames_ends_a_track() -> None:
    """A face that comes back after 12 missing frames is the same track, after 13 another."""
    assert frames_of(track.link(detections({0: [detection(100)], 13: [detection(100)]}, 20))) == [[0, 13]]
    assert frames_of(track.link(detections({0: [detection(100)], 14: [detection(100)]}, 20))) == [[0], [14]]


def test_a_cut_separates_people_in_the_same_place() -> None:
    """Over a cut a track goes on only if the face also looks the same."""
    other = {0: [detection(100)], 5: [detection(100, appearance=FACE_B)]}
    same = {0: [detection(100)], 5: [detection(100)]}
    assert frames_of(track.link(detections(other, 6, cuts=(3,)))) == [[0], [5]]
    assert frames_of(track.link(detections(same, 6, cuts=(3,)))) == [[0, 5]]
    assert frames_of(track.link(detections(other, 6))) == [[0, 5]]


def test_largest_subject_has_the_most_area_in_total() -> None:
    """A large face that is there for an instant loses against a smaller one that stays."""
    faces = {n: [detection(100, size=60)] for n in range(0, 50, 5)}
    faces[20].append(detection(300, size=120))
    what = detections(faces, 50)
    assert len(track.choose(track.link(what), what, "largest", {}).detections) == 10


def test_central_subject_is_nearest_to_the_middle() -> None:
    """With `central` the face in the middle wins, though another is larger, unless it is only there for an instant."""
    faces = {n: [detection(190, size=40), detection(320, size=100)] for n in range(0, 30, 5)}
    faces[0].append(detection(200, y=30, size=20))
    what = detections(faces, 30)
    subject = track.choose(track.link(what), what, "central", {})
    assert subject.detections[0].face.box[0] == 170


def test_the_data_sets_own_boxes_decide() -> None:
    """Where the data set names the face, that one is the subject."""
    faces = {n: [detection(100, size=60), detection(300, size=120)] for n in range(0, 30, 5)}
    what = detections(faces, 30)
    hints = {n: np.float32([70, 70, 130, 130]) for n in range(30)}
    assert track.choose(track.link(what), what, "largest", hints).detections[0].face.box[0] == 70


def test_no_face_is_rejected() -> None:
    """A clip without any face ends as `no_face`."""
    what = detections({0: [], 5: []}, 6)
    with pytest.raises(Reject) as caught:
        track.choose(track.link(what), what, "largest", {})
    assert caught.value.reason == "no_face"


@pytest.mark.parametrize(
    ("frames", "n_frames", "lost"),
    [([0, 13], 14, False), ([0, 14], 15, True), ([12], 13, False), ([13], 14, True), ([0], 13, False), ([0], 14, True)],
)
def test_gaps_up_to_twelve_frames_are_filled(frames: list[int], n_frames: int, lost: bool) -> None:
    """Up to 12 frames without the face are interpolated, at the ends held; more lose the clip."""
    one = Track({frame: detection(100 + frame) for frame in frames})
    if lost:
        with pytest.raises(Reject) as caught:
            track.check_gaps(one, [one], detections({}, n_frames))
        assert caught.value.reason == "face_lost"
    else:
        track.check_gaps(one, [one], detections({}, n_frames))
        assert np.isfinite(track.points_per_frame(one, n_frames)).all()


def test_frames_between_keyframes_are_interpolated() -> None:
    """Points move in a straight line from one detection to the next; a missing nose stays missing."""
    one = Track({0: detection(100), 5: detection(110)})
    for found in one.detections.values():
        found.face.points[2] = np.nan
    points = track.points_per_frame(one, 6)
    np.testing.assert_allclose(np.diff(points[:, 0, 0]), 2, atol=1e-5)
    assert np.isnan(points[:, 2]).all()


@given(st.integers(1, 80), st.floats(-3, 3), st.floats(0.5, 8))
@settings(max_examples=50)
def test_smoothing_keeps_steady_movement(n_frames: int, speed: float, sigma: float) -> None:
    """Points that move steadily are left as they are, at the clip's ends too: nothing lags, nothing bends."""
    points = np.full((n_frames, 5, 2), 50.0) + speed * np.arange(n_frames)[:, None, None]
    np.testing.assert_allclose(track.smooth(points, sigma), points, atol=1e-6)


def test_smoothing_removes_noise() -> None:
    """White noise is left at less than half, mouth and eyes alike."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (200, 5, 2))
    assert track.smooth(noise).std(axis=0).max() < 0.5


def test_smoothing_is_the_weighted_line_fit() -> None:
    """Each smoothed value is that of the line fitted around it with Gaussian weights."""
    rng = np.random.default_rng(2)
    points = rng.normal(0, 1, (30, 5, 2))
    ours = track.smooth(points, 2.0)
    for t in (0, 3, 17, 29):
        around = np.arange(max(0, t - 6), min(30, t + 7))
        weights = np.exp(-0.5 * ((around - t) / 2.0) ** 2)
        line = np.polynomial.Polynomial.fit(around, points[around, 1, 0], 1, w=np.sqrt(weights))
        np.testing.assert_allclose(ours[t, 1, 0], line(t), atol=1e-9)


def test_face_size_is_the_median_over_the_track() -> None:
    """One detection of the wrong size does not change a track's face size."""
    one = Track({n: detection(100, size=60 if n else 300) for n in range(5)})
    assert track.face_size(one) == pytest.approx(60)
