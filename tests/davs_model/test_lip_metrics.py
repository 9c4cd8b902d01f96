"""Whether lips open as they should, measured on landmarks whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from davs_model.evaluation.lips import LipMeasure
from davs_model.evaluation.metrics.lips import LipScores, lip_distance
from davs_model.evaluation.talk import WholeClip
from davs_model.models.base import FRAMES

T = 30


def mouths(apart: NDArray[np.float64], *, tilt: float = 0.0) -> NDArray[np.float64]:
    """Return 20 landmarks of a mouth `[T, 20, 2]` whose inner edges are `apart` pixels from each other, turned."""
    angle = np.linspace(np.pi, -np.pi, 12, endpoint=False)
    outer = np.stack([20 * np.cos(angle), -12 * np.sin(angle)], 1)
    x = np.array([-14, -6, 0, 6, 14, 6, 0, -6.0])
    side = np.array([0, -0.5, -0.5, -0.5, 0, 0.5, 0.5, 0.5])
    inner = np.stack([np.broadcast_to(x, (len(apart), 8)), apart[:, None] * side], -1)
    points = np.concatenate([np.broadcast_to(outer, (len(apart), 12, 2)), inner], 1)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    return points @ turn.T + (128, 200)


def opening(seed: int) -> NDArray[np.float64]:
    """Return the distance of the lips over time, in pixels."""
    return 2 + 8 * np.random.default_rng(seed).random(T)


def test_the_distance_of_the_lips_is_that_of_their_inner_edges() -> None:
    """The distance is in pixels, whatever the tilt of the mouth and its place."""
    apart = opening(0)
    assert lip_distance(mouths(apart)) == pytest.approx(apart)
    assert lip_distance(mouths(apart, tilt=0.4)) == pytest.approx(apart)
    with pytest.raises(ValueError, match=r"\[30, 2, 2\] should be \[T, 20, 2\]"):
        lip_distance(np.zeros((T, 2, 2)))


def test_lips_that_follow_have_r_1_and_the_ratio_of_their_movement() -> None:
    """Lips that open half as far at the same time have r 1 and amplitude 0.5; others' lips correlate by chance."""
    scores, wrong = LipScores(), LipScores()
    for n in range(20):
        scores.add(mouths(opening(n)), mouths(opening(n) / 2 + 1))
        wrong.add(mouths(opening(n)), mouths(opening(n + 100)))
    found, other = scores.result(), wrong.result()
    assert found is not None
    assert other is not None
    assert (found.opening_r, found.amplitude) == (pytest.approx(1), pytest.approx(0.5))
    assert abs(other.opening_r) < 0.15
    assert (found.n_videos, other.n_videos) == (20, 20)


def test_frames_without_a_mouth_are_left_out() -> None:
    """A frame in which either mouth was not found does not count; too few frames are no evidence of talking."""
    real, drawn = mouths(opening(1)), mouths(opening(1))
    real[:5], drawn[5:12] = np.nan, np.nan
    scores = LipScores()
    scores.add(real, drawn)
    drawn[12:-3] = np.nan
    scores.add(real, drawn)
    found = scores.result()
    assert found is not None
    assert (found.opening_r, found.n_videos) == (pytest.approx(0.5), 2)


def test_still_lips() -> None:
    """Generated lips that do not move have r 0; a video whose real lips do not move is not measured."""
    still, scores = mouths(np.full(T, 3.0)), LipScores()
    scores.add(still, mouths(opening(2)))
    assert scores.result() is None
    scores.add(mouths(opening(2)), still)
    found = scores.result()
    assert found is not None
    assert (found.opening_r, found.amplitude, found.n_videos) == (0, 0, 1)


def by_brightness(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stand in for a detector of lips: the brighter a crop, the farther they are apart."""
    assert crops.shape[1:] == (256, 256, 3)
    return mouths(crops.mean(axis=(1, 2, 3)) / 10).astype(np.float32)


def still_frames(apart: NDArray[np.float64]) -> Tensor:
    """Return frames `[T, 3, 64, 64]` of a brightness by which `by_brightness` finds lips `apart`."""
    levels = torch.from_numpy(apart / 25.5).float()
    return levels[:, None, None, None].expand(-1, 3, 64, 64)


def test_generated_clips_are_measured_by_what_drives_them() -> None:
    """Each clip is measured during speech, for each source of its videos, up to the maximum number of clips."""
    found = LipMeasure.by((by_brightness, "brightness"), 2)
    assert found is not None
    for n in range(3):
        real, other = opening(n), opening(n + 50)
        real[-5:], other[-5:] = 20, 2  # after the speech
        clip = WholeClip(n, {FRAMES: still_frames(real)[None]}, np.ones(T, bool), slice(0, T - 5), 0)
        found(clip, [("audio", still_frames(real)), *[("wrong_audio", still_frames(other))] * 3])
    table = found.table()
    assert table["landmarks"] == "brightness"
    assert table["audio"] == {"opening_r": pytest.approx(1), "amplitude": pytest.approx(1), "n_videos": 2}
    assert table["wrong_audio"]["n_videos"] == 6
    assert abs(table["wrong_audio"]["opening_r"]) < 0.4


def test_only_detectors_of_lips_measure_them() -> None:
    """Without a detector, and with one that finds only the corners of the mouth, there is no measure."""
    assert LipMeasure.by("no weights", 5) is None
    assert LipMeasure.by((lambda crops: np.zeros((len(crops), 2, 2), np.float32), "corners"), 5) is None
