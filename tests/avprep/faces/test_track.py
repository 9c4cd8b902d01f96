"""From faces in keyframes to the points of one subject in every frame."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from avprep.errors import Reject
from avprep.faces import align, smoothing, track
from avprep.faces.detectors.base import Face
from avprep.faces.registration import Similarity
from avprep.faces.track import Detection, Detections, Look, Track

FACE_A, FACE_B = np.float32([1, 0]), np.float32([0, 1])


def detection(x: float, y: float = 100, size: float = 60, appearance: NDArray[np.float32] = FACE_A) -> Detection:
    """A face of `size` pixels, centred at (x, y)."""
    box = np.float32([x - size / 2, y - size / 2, x + size / 2, y + size / 2])
    shape = np.float32([[-0.2, -0.15], [0.2, -0.15], [0, 0], [-0.15, 0.25], [0.15, 0.25]])
    points = (shape * size + np.float32([x, y])).astype(np.float32)
    onto = Similarity.of(align.similarity(points))
    return Detection(Face(box, 0.9, points), appearance, onto, look=Look(onto(points), 1.0))


def followed(x: float, frames: range, number: int, **given: Any) -> Detection:
    """A face that was followed from the first frame of a range to its last, at the same position."""
    alone = detection(x, **given)
    path = tuple((frame, alone.onto) for frame in frames[:-1])
    return Detection(alone.face, alone.appearance, alone.onto, number, alone.look, path)


def detections(faces: dict[int, list[Detection]], n_frames: int, cuts: tuple[int, ...] = ()) -> Detections:
    """The detections of a 400×200 clip."""
    return Detections(n_frames, (400, 200), faces, frozenset(cuts))


def frames_of(tracks: list[Track]) -> list[list[int]]:
    """The frames of each track."""
    return [list(one.detections) for one in tracks]


def test_two_people_make_two_tracks() -> None:
    """Faces are joined by overlap, whatever their order in a frame."""
    a, b = [detection(100 + n) for n in range(3)], [detection(300 - n) for n in range(3)]
    tracks = track.link(detections({0: [a[0], b[0]], 5: [b[1], a[1]], 10: [a[2], b[2]]}, 11))
    assert [[s.face.box[0] < 150 for s in one.detections.values()] for one in tracks] == [[True] * 3, [False] * 3]


def test_the_face_that_overlaps_most_goes_on() -> None:
    """Of two faces that overlap a track, the nearer one belongs to it, whichever comes first."""
    near, beside = detection(102), detection(115)
    for faces in ([near, beside], [beside, near]):
        first, _ = track.link(detections({0: [detection(100)], 5: faces}, 6))
        assert first.detections[5] is near


@pytest.mark.parametrize(("shift", "tracks"), [(39, 1), (41, 2)])
def test_a_face_must_overlap_a_fifth_to_go_on(shift: float, tracks: int) -> None:
    """Boxes that share a fifth of their union are the same face; boxes that share less are not."""
    assert len(track.link(detections({0: [detection(100)], 5: [detection(100 + shift)]}, 6))) == tracks


@pytest.mark.parametrize(("x", "alike", "tracks"), [(100, 0.76, 1), (100, 0.74, 2), (300, 0.86, 1), (300, 0.84, 2)])
def test_a_face_that_a_cut_moves_must_look_more_alike(x: float, alike: float, tracks: int) -> None:
    """Over a cut a face continues in the same place with a correlation of .75, and elsewhere with .85."""
    look = np.float32([alike, np.sqrt(1 - alike**2)])
    faces = {0: [detection(100)], 5: [detection(x, appearance=look)]}
    assert len(track.link(detections(faces, 6, cuts=(3,)))) == tracks


def test_a_gap_of_more_than_twelve_frames_ends_a_track() -> None:
    """A face that reappears after 12 missing frames is the same track; after 13 it is another."""
    assert frames_of(track.link(detections({0: [detection(100)], 13: [detection(100)]}, 20))) == [[0, 13]]
    assert frames_of(track.link(detections({0: [detection(100)], 14: [detection(100)]}, 20))) == [[0], [14]]


def test_a_cut_separates_people_in_the_same_place() -> None:
    """Over a cut a track continues only if the face also looks the same."""
    other = {0: [detection(100)], 5: [detection(100, appearance=FACE_B)]}
    same = {0: [detection(100)], 5: [detection(100)]}
    assert frames_of(track.link(detections(other, 6, cuts=(3,)))) == [[0], [5]]
    assert frames_of(track.link(detections(same, 6, cuts=(3,)))) == [[0, 5]]
    assert frames_of(track.link(detections(other, 6))) == [[0, 5]]


def test_a_picture_that_shows_two_people_at_once_does_not_make_them_one() -> None:
    """Over frames that each begin a shot, a face is compared with the last one before all of them."""
    mixed = np.float32([1, 1]) / np.sqrt(np.float32(2)) * np.float32(1.2)
    faces = {4: [detection(100)], 5: [detection(100, appearance=mixed)], 6: [detection(100, appearance=FACE_B)]}
    assert frames_of(track.link(detections(faces, 7, cuts=(5, 6)))) == [[4, 5], [6]]
    faces[6] = [detection(100)]
    assert frames_of(track.link(detections(faces, 7, cuts=(5, 6)))) == [[4, 5, 6]]


def test_a_face_that_is_followed_through_mixed_pictures_must_look_as_before() -> None:
    """Registration that moves from one person to another through frames that show both does not merge them."""
    mixed = np.float32([1, 1]) / np.sqrt(np.float32(2)) * np.float32(1.2)
    looks = {4: FACE_A, 5: mixed, 6: FACE_B}
    faces = {n: [followed(100, range(n, n + 1), 0, appearance=look)] for n, look in looks.items()}
    assert frames_of(track.link(detections(faces, 7, cuts=(5, 6)))) == [[4, 5], [6]]
    faces[6] = [followed(100, range(6, 7), 0)]
    assert frames_of(track.link(detections(faces, 7, cuts=(5, 6)))) == [[4, 5, 6]]


def test_largest_subject_has_the_most_area_in_total() -> None:
    """A large face that appears for an instant loses against a smaller one that stays."""
    faces = {n: [detection(100, size=60)] for n in range(0, 50, 5)}
    faces[20].append(detection(300, size=120))
    what = detections(faces, 50)
    assert len(track.choose(track.link(what), what, "largest", {}).detections) == 10


def test_central_subject_is_nearest_to_the_middle() -> None:
    """With `central` the face in the middle wins over a larger one, unless it is visible only for an instant."""
    faces = {n: [detection(190, size=40), detection(320, size=100)] for n in range(0, 30, 5)}
    faces[0].append(detection(200, y=30, size=20))
    what = detections(faces, 30)
    subject = track.choose(track.link(what), what, "central", {})
    assert subject.detections[0].face.box[0] == 170


@pytest.mark.parametrize(("there", "chosen"), [(3, 170), (2, 270)])
def test_central_subject_is_there_for_half_as_long_as_the_longest(there: int, chosen: float) -> None:
    """A face in the middle is the subject if it is visible in half of the frames, but not in fewer."""
    faces = {n: [detection(300), *([detection(200)] if n < there else [])] for n in range(6)}
    what = detections(faces, 6)
    assert track.choose(track.link(what), what, "central", {}).detections[0].face.box[0] == chosen


def test_central_subject_is_where_it_stays() -> None:
    """A face that is in the middle for most frames beats one that always keeps some distance from it."""
    one = Track({0: detection(380), 20: followed(200, range(1, 21), 0)})
    other = Track({20: followed(250, range(21), 1)})
    assert track.choose([other, one], detections({}, 21), "central", {}) is one


def test_the_data_sets_own_boxes_decide() -> None:
    """If the data set gives the face's box, that face is the subject."""
    faces = {n: [detection(100, size=60), detection(300, size=120)] for n in range(0, 30, 5)}
    what = detections(faces, 30)
    hints = {n: np.float32([70, 70, 130, 130]) for n in range(30)}
    assert track.choose(track.link(what), what, "largest", hints).detections[0].face.box[0] == 70


def test_boxes_that_show_no_face_do_not_decide() -> None:
    """If the data set's own boxes match no face, the subject is chosen as without them."""
    faces = {n: [detection(100, size=60), detection(300, size=120)] for n in range(0, 30, 5)}
    what = detections(faces, 30)
    hints = {n: np.float32([0, 180, 10, 190]) for n in range(30)}
    assert track.choose(track.link(what), what, "largest", hints).detections[0].face.box[0] == 240


def test_the_data_sets_own_boxes_count_for_every_frame() -> None:
    """A face that is followed for long near the boxes is chosen over one that is in them for an instant."""
    hints = {20: np.float32([70, 70, 130, 130])}
    long, short = Track({20: followed(110, range(21), 0)}), Track({20: detection(100)})
    assert track.choose([short, long], detections({}, 21), "largest", hints) is long
    assert track.overlap(long, hints) == pytest.approx(50 / 70)


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
    """Up to 12 frames without the face are interpolated, or held at the ends; more lose the clip."""
    one = Track({frame: detection(100 + frame) for frame in frames})
    if lost:
        with pytest.raises(Reject) as caught:
            track.check_gaps(one, [one], detections({}, n_frames))
        assert caught.value.reason == "face_lost"
    else:
        track.check_gaps(one, [one], detections({}, n_frames))
        assert np.isfinite(smoothing.points_per_frame(one, n_frames, frozenset()).smoothed).all()


@pytest.mark.parametrize(
    ("there", "other", "cuts", "message"),
    [
        (range(20, 40), None, (), "the face is not detected for 20 frames from frame 0 (at most 12)"),
        (range(20, 40), range(7), (), "the face is not detected for 13 frames from frame 7 (at most 12)"),
        (range(20, 40), range(8), (), "the face is not where it was for 20 frames from frame 0 (at most 12)"),
        (range(20), range(32, 40), (), "the face is not where it was for 20 frames from frame 20 (at most 12)"),
        (range(20, 40), range(20), (20,), "the picture cuts at frame 20"),
        (range(20, 40), range(20), (21,), "the face is not where it was for 20 frames"),
    ],
)
def test_a_lost_face_is_said_to_be_hidden_cut_away_or_elsewhere(
    there: range, other: range | None, cuts: tuple[int, ...], message: str
) -> None:
    """The message for a gap says whether no face is visible, a cut begins or ends it, or a face is elsewhere."""
    subject = Track({frame: detection(100) for frame in there})
    tracks = [subject, *([] if other is None else [Track({frame: detection(300) for frame in other})])]
    with pytest.raises(Reject, match=re.escape(message)):
        track.check_gaps(subject, tracks, detections({}, 40, cuts))


def test_a_followed_face_is_one_track_wherever_it_went() -> None:
    """A followed face is one track however far it moves, and over a cut; all frames of its path count."""
    faces = {5: [followed(100, range(6), 0)], 11: [followed(300, range(6, 12), 0)]}
    for cuts in ((), (8,)):
        (one,) = track.link(detections(faces, 12, cuts=cuts))
        assert one.frames == list(range(12))
        track.check_gaps(one, [one], detections(faces, 12, cuts=cuts))


def test_a_followed_face_is_not_given_up_for_one_that_comes_into_its_place() -> None:
    """If a track's face was followed to another place, a new face in its old place does not join the track."""
    away, there = followed(300, range(6, 12), 0), detection(100)
    first, _ = track.link(detections({5: [followed(100, range(6), 0)], 11: [there, away]}, 12))
    assert first.detections[11] is away


def test_a_face_found_again_is_the_same_track() -> None:
    """A lost face that is followed under another number continues its track if it overlaps, and not otherwise."""
    there = {5: [followed(100, range(6), 0)], 15: [followed(105, range(10, 16), 1)]}
    (one,) = track.link(detections(there, 16))
    assert one.frames == [*range(6), *range(10, 16)]
    elsewhere = {5: [followed(100, range(6), 0)], 15: [followed(300, range(10, 16), 1)]}
    assert len(track.link(detections(elsewhere, 16))) == 2


def test_the_gap_before_a_followed_face_is_up_to_where_it_begins() -> None:
    """A gap ends where following begins, not at the keyframe that records it."""
    for first, tracks in ((18, 1), (19, 2)):
        faces = {5: [followed(100, range(6), 0)], 30: [followed(100, range(first, 31), 1)]}
        assert len(track.link(detections(faces, 31))) == tracks


def test_the_face_that_is_followed_longest_is_the_largest() -> None:
    """A detection counts for all frames in which its face was followed."""
    faces = {20: [followed(100, range(21), 0), detection(300, size=120)]}
    what = detections(faces, 21)
    assert track.choose(track.link(what), what, "largest", {}).detections[20].number == 0


def test_detections_alone_are_interpolated() -> None:
    """Points move linearly from one detection to the next; a missing nose stays missing."""
    one = Track({0: detection(100), 5: detection(110)})
    for found in one.detections.values():
        assert found.look is not None
        found.look.points[2] = np.nan
    points = smoothing.points_per_frame(one, 6, frozenset()).smoothed
    np.testing.assert_allclose(np.diff(points[:, 0, 0]), 2, atol=1e-5)
    assert np.isnan(points[:, 2]).all()


def test_face_size_is_the_median_over_the_track() -> None:
    """A single detection of the wrong size does not change a track's face size."""
    one = Track({n: detection(100, size=60 if n else 300) for n in range(5)})
    assert track.face_size(one) == pytest.approx(60)
