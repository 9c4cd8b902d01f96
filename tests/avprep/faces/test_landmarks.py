"""The 68 landmarks of 300-W: their numbers, and how they are taken from crops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avprep.faces import align, landmarks
from avprep.faces.detectors import base


def face(x: float = 0.0, y: float = 0.0) -> NDArray[np.float32]:
    """Return landmarks that are each at the place of one of the template's three points, moved by the given offset."""
    placed = np.zeros((68, 2), np.float32)
    placed[36:42], placed[42:48], placed[48:] = align.TEMPLATE
    return (placed + np.array([x, y])).astype(np.float32)


class StandIn:
    """Stands in for a detector with known landmarks, frame by frame."""

    def __init__(self, answers: list[list[NDArray[np.float32]]], batch_size: int = 2) -> None:
        self.answers, self.batch_size, self.batches = answers, batch_size, list[tuple[int, ...]]()

    def landmarks(self, crops: NDArray[np.uint8]) -> list[list[NDArray[np.float32]]]:
        """Return the landmarks of the next crops."""
        self.batches.append(crops.shape)
        now, self.answers = self.answers[: len(crops)], self.answers[len(crops) :]
        return now


def blank(n_frames: int, channels: int = 3) -> NDArray[np.uint8]:
    """Return the given number of black crops."""
    return np.zeros((n_frames, 256, 256, channels), np.uint8)


def test_mirroring_exchanges_left_and_right() -> None:
    """Reordered, the points of a mirrored image are the image's own, for five points as for 68 landmarks."""
    for table, middle in ((base.MIRRORED, {2}), (landmarks.MIRRORED, {8, 27, 28, 29, 30, 33, 51, 57, 62, 66})):
        assert sorted(table) == list(range(len(table)))
        assert [table[n] for n in table] == list(range(len(table)))
        assert {n for n, other in enumerate(table) if n == other} == middle
    five = landmarks.five_points(face())
    mirrored = (face() * (-1, 1) + (255, 0))[list(landmarks.MIRRORED)]
    expected = (five * (-1, 1) + (255, 0))[list(base.MIRRORED)]
    np.testing.assert_allclose(landmarks.five_points(mirrored), expected, rtol=1e-6)


def test_the_face_in_its_place_is_taken() -> None:
    """Of several faces the one nearest the template is used; a crop without a finite face has NaN."""
    nothing = np.full((68, 2), np.nan, np.float32)
    found = landmarks.in_crops(blank(4), StandIn([[face(40), face(2, 1)], [], [nothing], [nothing, face(9)]]))
    assert (found.shape, found.dtype) == ((4, 68, 2), np.float32)
    np.testing.assert_array_equal(found[0], face(2, 1))
    assert np.isnan(found[1:3]).all()
    np.testing.assert_array_equal(found[3], face(9))
    assert landmarks.in_crops(blank(0), StandIn([])).shape == (0, 68, 2)


def test_crops_that_come_one_by_one_go_in_batches() -> None:
    """The landmarks of all crops come in order, whatever the detector's batch size; the alpha channel is ignored."""
    detector = StandIn([[face(n)] for n in range(5)])
    finder = landmarks.Landmarks(detector)
    for crop in blank(5, channels=4):
        finder.add(crop)
    np.testing.assert_array_equal(finder.finish(), [face(n) for n in range(5)])
    assert detector.batches == [(2, 256, 256, 3), (2, 256, 256, 3), (1, 256, 256, 3)]


def test_a_bias_moves_the_template() -> None:
    """Points that are a tenth too large and 3 pixels too low give the right crop by the template of that bias."""
    centre = align.TEMPLATE.mean(axis=0)
    seen = (align.TEMPLATE - centre) * 1.1 + centre + (0, 3)
    points = seen[[0, 1, 2, 2, 2]]
    affine = align.similarity(points, align.template(base.Bias(scale=1.1, down=3)))
    np.testing.assert_allclose(affine, [[1, 0, 0], [0, 1, 0]], atol=1e-9)
    np.testing.assert_array_equal(align.template(base.Bias()), align.TEMPLATE)
