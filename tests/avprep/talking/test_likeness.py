"""Notes on photos that differ from the frames that models are trained on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from avprep.talking import likeness
from avprep.talking.photo import Photo

CROP = np.zeros((256, 256, 3), np.uint8)


def photo(scale: float = 1.0, degrees: float = 0.0, turned: float | None = 0.0, x: float = 0.0) -> Photo:
    """Make a photo whose face is enlarged, tilted, turned aside or beyond the left border by the given amount."""
    turn = math.radians(degrees)
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    middle = np.array([500.0, 500.0])
    affine = np.column_stack([linear, 128 - linear @ middle + (x, 0)])
    return Photo(np.zeros((1000, 1000, 3), np.uint8), affine, CROP, 1, turned)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (photo(), []),
        (photo(turned=None), []),
        (photo(scale=3), ["the face is small, and enlarged 3.0 times"]),
        (photo(degrees=-30), ["the head is tilted by 30°"]),
        (photo(turned=-0.35), ["the face is turned aside"]),
        (photo(x=500), ["50% of the crop lies outside the photo"]),
        (photo(scale=3, turned=0.3), ["the face is small, and enlarged 3.0 times", "the face is turned aside"]),
    ],
)
def test_each_difference_is_named(given: Photo, words: list[str]) -> None:
    """Small, tilted, turned and cut-off faces each get their note; a frontal face of full size gets none."""
    assert likeness.differences(given) == words


def test_an_aligned_photo_is_taken_as_it_is() -> None:
    """A photo that is already a crop gets no note."""
    assert likeness.differences(Photo(CROP, np.eye(2, 3) * 9, CROP)) == []
