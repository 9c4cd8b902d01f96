"""Geometry of boxes."""

from __future__ import annotations

import numpy as np
import pytest

from avprep import boxes

UNIT = np.float32([10, 20, 30, 40])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([10, 20, 30, 40], 1.0),
        ([20, 20, 40, 40], 1 / 3),
        ([10, 20, 20, 30], 1 / 4),
        ([30, 20, 50, 40], 0.0),
        ([20, 30, 10, 20], 0.0),
    ],
)
def test_overlap_is_intersection_over_union(other: list[float], expected: float) -> None:
    """The overlap of boxes is their intersection over their union; inverted boxes have none."""
    assert boxes.overlap(UNIT, np.float32(other)) == pytest.approx(expected)
    assert boxes.overlap(np.float32(other), UNIT) == pytest.approx(expected)


def test_sizes() -> None:
    """Size, area and centre follow from the sides; an inverted box has no size."""
    assert boxes.size(UNIT) == 20
    assert boxes.area(UNIT) == 400
    assert boxes.middle(UNIT).tolist() == [20, 30]
    assert boxes.size(UNIT[[2, 3, 0, 1]]) == 0
    assert boxes.area(UNIT[[2, 3, 0, 1]]) == 0


def test_grown_boxes_keep_their_centre() -> None:
    """A box grows by a fraction of its size on each side."""
    assert boxes.grown(UNIT, 0.5).tolist() == [0, 10, 40, 50]


def test_boxes_meet_within_half_the_larger() -> None:
    """Boxes meet if their centres are at most half the larger box apart, in both directions."""
    small = np.float32([29, 29, 31, 31])
    assert boxes.meet(UNIT, small)
    assert boxes.meet(small, UNIT)
    assert not boxes.meet(UNIT, small + np.float32([1, 0, 1, 0]))
