"""Which frames are shown to a detector, and what close-ups return."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from avprep.errors import Reject
from avprep.faces import align, smoothing, track
from avprep.faces.detectors.base import CloseUp, Face, finite
from avprep.faces.following import SETTLED
from avprep.faces.keyframes import find_faces
from avprep.faces.track import Detections
from avprep.media.picture import Picture

GREEN, GREY = (0, 255, 0), (150, 150, 150)  # as bright as each other
RIGHT = np.array([4, 0], np.float32)
SHAPE = np.array([[-20.0, -18], [20, -18], [0, 0], [-14, 20], [14, 20]])


class Painted:
    """An image that a test paints; stands in for a decoded frame."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.image = image
        self.size = (image.shape[1], image.shape[0])
        self.nbytes = image.nbytes

    def rgb(self) -> NDArray[np.uint8]:
        """The image."""
        return self.image

    def rgba(self) -> NDArray[np.uint8]:
        """The image."""
        return np.asarray(cv2.cvtColor(self.image, cv2.COLOR_RGB2RGBA), np.uint8)

    def luma(self) -> NDArray[np.uint8]:
        """The image in grey."""
        return np.asarray(cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY), np.uint8)

    def small(self, side: int) -> NDArray[np.uint8]:
        """The image, shrunk to `side`."""
        scale = min(1.0, side / max(self.size))
        return np.asarray(cv2.resize(self.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)

    def thumbnail(self) -> NDArray[np.uint8]:
        """A few of its pixels."""
        return np.ascontiguousarray(self.image[::20, ::20, 0])


def painted(x: float, y: float = 120, scale: float = 1.0, background: int = 60, dots: Any = GREEN) -> Picture:
    """A 320×240 image with five dots in the shape of a face around (x, y)."""
    image = np.full((240, 320, 3), background, np.uint8)
    for point in SHAPE * scale + [x, y]:
        cv2.circle(image, tuple(np.round(point * 16).astype(int)), int(4 * scale * 16), dots, -1, cv2.LINE_AA, 4)
    return cast(Picture, Painted(image))


def empty(background: int = 60) -> Picture:
    """A 320×240 image without dots."""
    return cast(Picture, Painted(np.full((240, 320, 3), background, np.uint8)))


class DotDetector:
    """Finds the five green dots; counts the images it is shown."""

    picture_side = 160

    def __init__(self, *, close_ups: bool, batch_size: int = 1) -> None:
        self.search_sides: tuple[int, ...] = (160, 320, 640)
        self.close_up = CloseUp((96, 128), zoom=0.45, rise=4) if close_ups else None
        self.batch_size = batch_size
        self.shown: list[tuple[int, ...]] = []

    def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find dots by colour."""
        self.shown.append(frames.shape)
        return [self._one(frame) for frame in frames]

    detect_close = detect

    def _one(self, frame: NDArray[np.uint8]) -> list[Face]:
        green = frame[..., 1].astype(int) - frame[..., 0] > 60
        count, _, stats, centres = cv2.connectedComponentsWithStats(green.astype(np.uint8))
        dots = sorted((c for n, c in enumerate(centres) if n and stats[n, 4] >= 3), key=lambda c: c[1])
        if count < 6 or len(dots) != 5:
            return []
        eyes, mouth = sorted(dots[:2], key=lambda c: c[0]), sorted(dots[3:], key=lambda c: c[0])
        points = np.float32([*eyes, dots[2], *mouth])
        low, high = points.min(axis=0), points.max(axis=0)
        return [Face(np.float32([*(low - 5), *(high + 5)]), 0.9, points)]


def places(seen: Detections) -> NDArray[np.float64]:
    """Return the five points of the one face in each frame, (T, 5, 2)."""
    (one,) = track.link(seen)
    return smoothing.points_per_frame(one, seen.n_frames, seen.cuts).smoothed


@pytest.mark.parametrize("every", [2, 5])
def test_keyframes_are_those_that_are_detected_and_the_last(every: int) -> None:
    """A still clip is detected every few frames; its face is followed in all frames and recorded in the last one."""
    settled = every * SETTLED  # the detector has one size only
    n_frames = 2 * settled + 3
    seen = find_faces((painted(150) for _ in range(n_frames)), DotDetector(close_ups=True), every)
    assert list(seen.by_frame) == [0, settled, 2 * settled, n_frames - 1]
    assert [faces[0].look is not None for faces in seen.by_frame.values()] == [True, True, True, False]
    assert track.link(seen)[0].frames == list(range(n_frames))
    assert seen.n_frames == n_frames
    assert seen.size == (320, 240)
    assert not seen.cuts


@pytest.mark.parametrize("close_ups", [True, False])
def test_points_come_back_in_source_pixels(close_ups: bool) -> None:
    """Points and boxes found in close-ups are in pixels of the source image, to a fraction of a pixel."""
    seen = find_faces((painted(150.0 + n, 110) for n in range(11)), DotDetector(close_ups=close_ups), 5)
    for frame, (detection,) in seen.by_frame.items():
        expected = SHAPE + np.array([150 + frame, 110])
        np.testing.assert_allclose(detection.face.points, expected, atol=0.6 if close_ups else 1.2)
        assert (detection.face.box[:2] < expected.min(axis=0)).all()
        assert (detection.face.box[2:] > expected.max(axis=0)).all()


def test_a_followed_face_is_looked_at_close_up() -> None:
    """After the first search the whole image is not searched again while the face is followed."""
    detector = DotDetector(close_ups=True)
    find_faces((painted(150) for _ in range(50)), detector, 5)
    whole = [shape for shape in detector.shown if shape[2] > 128]
    assert len(whole) == 1
    assert len(detector.shown) >= 6


def test_a_face_is_followed_between_detections() -> None:
    """The face's position is known in every frame; detections become rarer once all sizes have been used."""
    detector = DotDetector(close_ups=True)
    seen = find_faces((painted(140.0 + 1.5 * n, 110 + 0.5 * n) for n in range(41)), detector, 5)
    looked = [frame for frame, faces in seen.by_frame.items() if faces[0].look is not None]
    assert looked[0] == 0
    assert len(looked) <= 5
    assert all(faces[0].number == 0 for faces in seen.by_frame.values())
    expected = SHAPE + np.stack([140 + 1.5 * np.arange(41), 110 + 0.5 * np.arange(41)], axis=1)[:, None]
    np.testing.assert_allclose(places(seen), expected, atol=0.7)


class TwoSizes(DotDetector):
    """Sees faces 4 pixels lower in close-ups of its second size than in those of its first."""

    looks = (CloseUp((96, 128), zoom=0.45, rise=4), CloseUp((112, 144), zoom=0.5, rise=4))

    def detect_close(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
        """Find the dots, moved down for the second size."""
        down = np.array([0, 4 * (frames.shape[2] == 112)], np.float32)
        return [[Face(face.box, face.score, face.points + down) for face in faces] for faces in self.detect(frames)]


@pytest.mark.parametrize("n_frames", [5, 12, 13, 40])
def test_a_face_has_the_same_points_however_short_its_shot(n_frames: int) -> None:
    """A shot too short for a second detection pass is also detected at all of the detector's sizes."""
    seen = find_faces((painted(150) for _ in range(n_frames)), TwoSizes(close_ups=True), 12)
    longer = find_faces((painted(150) for _ in range(50)), TwoSizes(close_ups=True), 12)
    np.testing.assert_allclose(places(seen)[0], places(longer)[0], atol=0.05)


def test_a_short_shot_before_a_cut_is_seen_at_all_sizes() -> None:
    """A shot that a cut ends is detected at all of the detector's sizes before the cut."""
    shots = [painted(100)] * 8 + [painted(220, background=200)] * 40
    seen = find_faces(iter(shots), TwoSizes(close_ups=True), 12)
    before = [one.look.size for frame, faces in seen.by_frame.items() if frame < 8 for one in faces if one.look]
    assert (seen.cuts, before) == ({8}, [0, 1])


def test_every_frame_is_detected_where_that_is_asked_for() -> None:
    """With a keyframe in each frame, every frame is detected."""
    detector = DotDetector(close_ups=True)
    find_faces((painted(150) for _ in range(10)), detector, 1)
    assert len(detector.shown) >= 11


def test_a_detector_that_changes_its_mind_moves_the_face_by_degrees() -> None:
    """Detections that jump by 4 crop pixels move the points gradually, by less than half of the jump per frame."""

    class Drifting(DotDetector):
        """Sees every face slightly further to the right from its ninth close-up on."""

        def detect_close(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
            """Find the dots, and move them to the right, or to the left in mirrored images."""
            found = self.detect(frames)
            step = RIGHT * (1 if len(self.shown) % 2 else -1) * (len(self.shown) > 8)
            return [[Face(face.box, face.score, face.points + step) for face in faces] for faces in found]

    drifting = places(find_faces((painted(150) for _ in range(41)), Drifting(close_ups=True), 5))
    steps = np.diff(drifting[:, 2, 0])
    assert np.abs(steps).max() < 1


def test_a_face_that_jumps_out_of_reach_is_detected_there() -> None:
    """If registration loses the face, the whole image is searched at once, and each frame has the face where it is."""
    where = [100] * 8 + [220] * 8
    for close_ups in (True, False):
        seen = find_faces((painted(x) for x in where), DotDetector(close_ups=close_ups), 5)
        before, after = track.link(seen)
        assert before.frames == list(range(8))
        assert after.frames == list(range(8, 16))
        for frame, (detection,) in seen.by_frame.items():
            assert abs(detection.face.points[2, 0] - where[frame]) < 2


@pytest.mark.parametrize("first", [1, 3, 7])
def test_a_face_that_enters_is_followed_back_to_where_it_enters(first: int) -> None:
    """A face that is found some frames after it entered is located from its first frame on, and no earlier."""
    pictures = [empty() for _ in range(first)] + [painted(150) for _ in range(12)]
    seen = find_faces(pictures, DotDetector(close_ups=True), 5)
    (one,) = track.link(seen)
    assert one.frames == list(range(first, first + 12))


def test_a_face_that_leaves_and_comes_back_is_one_track() -> None:
    """A face that is absent for ten frames continues as the same face, with the frames between missing."""
    pictures = [painted(150)] * 12 + [empty()] * 10 + [painted(160)] * 12
    seen = find_faces(pictures, DotDetector(close_ups=True), 5)
    (one,) = track.link(seen)
    assert one.frames == [*range(12), *range(22, 34)]
    track.check_gaps(one, [one], seen)
    assert places(seen)[:, 2, 0] == pytest.approx(np.interp(np.arange(34), [11, 22], [150, 160]), abs=1.0)


def test_what_registration_holds_on_to_is_dropped_when_no_face_is_detected_there() -> None:
    """Something that looks like the face, but that the detector rejects, is not followed beyond the next detection."""
    pictures = [painted(150)] * 10 + [painted(150, dots=GREY)] * 40
    seen = find_faces(pictures, DotDetector(close_ups=True), 5)
    (one,) = track.link(seen)
    assert one.last < 5 * SETTLED
    with pytest.raises(Reject, match="not detected"):
        track.check_gaps(one, [one], seen)


def test_a_face_that_one_detection_misses_is_not_lost() -> None:
    """If a detection fails in one frame, the earlier frames in which the face was followed still count."""
    for missed in (5 * SETTLED, 10 * SETTLED):
        pictures = [painted(150, dots=GREY if n == missed else GREEN) for n in range(15 * SETTLED)]
        seen = find_faces(pictures, DotDetector(close_ups=True), 5)
        (one,) = track.link(seen)
        track.check_gaps(one, [one], seen)
        np.testing.assert_allclose(
            places(seen), np.broadcast_to(SHAPE + np.array([150, 120]), (15 * SETTLED, 5, 2)), atol=0.7
        )


def test_pictures_that_repeat_are_followed() -> None:
    """A source of 9 fps shows images two or three times: the face moves in some frames only, and is located in all."""
    shown = np.floor(np.arange(40) * 9 / 25)
    seen = find_faces((painted(110 + 3 * n) for n in shown), DotDetector(close_ups=True), 5)
    np.testing.assert_allclose(places(seen)[:, 2, 0], 110 + 3 * shown, atol=0.8)
    assert not seen.cuts


def test_a_new_shot_begins_with_a_keyframe() -> None:
    """A cut is noticed and its first frame is searched anew; movement alone is no cut."""
    pictures = [painted(150) for _ in range(7)] + [painted(150, background=200) for _ in range(6)]
    seen = find_faces(pictures, DotDetector(close_ups=True), 5)
    assert seen.cuts == {7}
    assert 7 in seen.by_frame
    moving = find_faces((painted(100 + 4 * n) for n in range(20)), DotDetector(close_ups=True), 5)
    assert not moving.cuts


def test_a_small_face_is_found_by_a_finer_search() -> None:
    """If the shrunk image shows no face, it is searched once more at twice the size."""
    detector = DotDetector(close_ups=True)
    detector.search_sides = (60, 120)
    seen = find_faces((painted(150, scale=0.8) for _ in range(6)), detector, 5)
    assert all(seen.by_frame.values())


def test_the_same_face_looks_the_same() -> None:
    """The patch by which faces are compared still matches itself after a movement."""
    seen = find_faces((painted(150 + 3 * n) for n in range(11)), DotDetector(close_ups=True), 5)
    appearances = [faces[0].appearance for faces in seen.by_frame.values()]
    assert float(appearances[0] @ appearances[-1]) > 0.9
    assert abs(float(np.linalg.norm(appearances[0])) - 1) < 1e-5


def test_an_empty_clip_has_no_detections() -> None:
    """A clip without frames raises no error."""
    seen = find_faces([], DotDetector(close_ups=True), 5)
    assert seen.n_frames == 0
    assert not seen.by_frame


def test_dots_align_to_the_template() -> None:
    """The detected face fits the template as closely as its shape allows."""
    seen = find_faces((painted(150) for _ in range(6)), DotDetector(close_ups=True), 5)
    points = seen.by_frame[0][0].face.points
    placed = align.apply(align.similarity(points), align.three_points(points))
    exact = align.apply(align.similarity(SHAPE), align.three_points(SHAPE))
    np.testing.assert_allclose(placed, exact, atol=0.7)


@pytest.mark.parametrize("close_ups", [True, False])
@pytest.mark.parametrize("broken", ["box", "score", "eye", "nose"])
def test_what_is_no_number_is_no_face(close_ups: bool, broken: str) -> None:
    """A face whose box, score or points are not finite is ignored; an undefined nose is allowed."""

    class Undefined(DotDetector):
        """Sees, besides the dots, a larger face of which one value is not a number."""

        def detect(self, frames: NDArray[np.uint8]) -> list[list[Face]]:
            """Find the dots and the undefined face."""
            return [[*(self._wrong(face) for face in faces), *faces] for faces in super().detect(frames)]

        detect_close = detect

        def _wrong(self, face: Face) -> Face:
            points, box, score = face.points.copy(), face.box + np.float32([-9, -9, 9, 9]), face.score
            if broken == "eye":
                points[0, 1] = np.nan
            if broken == "nose":
                points[2] = np.inf
            if broken == "box":
                box[2] = np.inf
            return Face(box, float("nan") if broken == "score" else score, points)

    seen = find_faces((painted(150) for _ in range(11)), Undefined(close_ups=close_ups), 5)
    for (detection,) in seen.by_frame.values():
        np.testing.assert_allclose(detection.face.points, SHAPE + np.array([150, 120]), atol=1.2)
    without = Face(np.float32([0, 0, 9, 9]), 1.0, np.float32([[1, 1], [5, 1], [np.nan, np.nan], [1, 5], [5, 5]]))
    assert finite([without]) == [without]
