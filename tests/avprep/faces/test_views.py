"""Faces that are moved, turned and averaged between a picture and its close-ups."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from avprep.faces import views
from avprep.faces.detectors.base import Face

POINTS = np.float32([[40, 50], [60, 50], [50, 62], [43, 75], [57, 75]])


def face(x: float = 0.0, score: float = 0.9) -> Face:
    """Return an upright face in a box of 40×60 pixels, so far to the right."""
    return Face(np.float32([30 + x, 30, 70 + x, 90]), score, POINTS + np.float32([x, 0]))


def about(x: float, y: float, turn: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """Return the transform that turns and grows what lies around the middle of `face`, and brings that to a place."""
    return np.column_stack([size * turn, np.array([x, y]) - size * turn @ [50.0, 60.0]])


@pytest.mark.parametrize(
    ("turn", "box"),
    [
        ([[1, 0], [0, 1]], [140, 210, 260, 390]),
        ([[0, -1], [1, 0]], [110, 240, 290, 360]),
        ([[-1, 0], [0, 1]], [140, 210, 260, 390]),
    ],
)
def test_a_moved_face_has_its_box_about_it(turn: list[list[float]], box: list[float]) -> None:
    """The box is moved and grows with the face, and lies on its side where the face does; points go where they lie."""
    transform = about(200, 300, np.array(turn, np.float64), 3.0)
    found = views.moved(face(), transform)
    np.testing.assert_allclose(found.box, box, atol=1e-4)
    np.testing.assert_allclose(found.points, (POINTS - [50, 60]) @ np.transpose(turn) * 3 + [200, 300], atol=1e-4)


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_are_told_and_undone(turns: int) -> None:
    """A face that is turned clockwise tells as many turns counter-clockwise; the box stays about the same pixels."""
    middle, to = np.array([50.0, 60.0]), np.array([100.0, 100.0])
    turned = views.turned_face(face(), turns, middle, to)
    assert views.turns_upright(turned) == turns
    sides = (20, 30) if turns % 2 == 0 else (30, 20)
    np.testing.assert_allclose(turned.box, [100 - sides[0], 100 - sides[1], 100 + sides[0], 100 + sides[1]])
    back = views.turned_face(turned, -turns % 4, to, middle)
    np.testing.assert_allclose(back.points, POINTS, atol=1e-4)


def test_the_mean_of_a_faces_detections_is_of_all_there_are() -> None:
    """Box, points and score are those half way between two detections; a single one is taken as it is."""
    both = views.mean([face(0, 0.5), face(4, 0.9)])
    assert both is not None
    np.testing.assert_allclose(both.box, face(2).box)
    np.testing.assert_allclose(both.points, face(2).points)
    assert both.score == pytest.approx(0.7)
    single = face()
    assert views.mean([None, single]) is single
    assert views.mean([None, None]) is None
