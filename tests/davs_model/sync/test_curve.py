"""Offsets from curves: their sign, their fractions, and missing features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davs_model.models.sync import curve
from davs_model.sync.film import in_words


def unit(count: int, seed: int = 0, smooth: int = 1) -> np.ndarray:
    """Random unit vectors (count, 32); `smooth` neighbours are similar."""
    features = np.random.default_rng(seed).normal(size=(count + smooth - 1, 32))
    features = sum(features[n : n + count] for n in range(smooth))
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def measure(video: np.ndarray, audio: np.ndarray, seen: np.ndarray | None = None) -> curve.Offset | None:
    """Return the offset of features that all exist, or of which only some video features do."""
    every = np.ones(len(video), bool)
    return curve.offset(curve.distances(video, audio, every if seen is None else seen, every))


@given(st.integers(-12, 12))
def test_the_sign_says_that_audio_is_early(lead: int) -> None:
    """Audio whose every instant comes `lead` frames before its frame has the lead `lead`."""
    every = unit(100)
    found = measure(every[20:70], every[20 + lead : 70 + lead])  # the audio at i belongs to the frame at i + lead
    assert found is not None
    assert found.audio_lead_frames == pytest.approx(lead, abs=0.5)
    assert found.audio_lead_ms == pytest.approx(40 * found.audio_lead_frames)
    assert found.distance == pytest.approx(0, abs=1e-4)
    assert found.confidence > 1
    assert found.curve[15 + lead] == found.distance
    assert found.n_windows == 50


def test_the_curve_is_a_mean_over_pairs_that_exist() -> None:
    """Each point is the mean distance of the existing pairs at that lead, whatever the other values."""
    video, audio = unit(20, 1), unit(20, 2)
    seen, heard = np.zeros(20, bool), np.ones(20, bool)
    seen[2:18], heard[:3] = True, False
    expected = [np.linalg.norm(video[i] - audio[i - 4]) for i in range(20) if seen[i] and i >= 4 and heard[i - 4]]
    video[~seen], audio[~heard] = np.inf, np.inf
    found = curve.offset(curve.distances(video, audio, seen, heard))
    assert found is not None
    assert found.curve[15 + 4] == pytest.approx(np.mean(expected), abs=1e-4)
    assert found.n_windows == 15


def test_fewer_than_five_pairs_are_no_point() -> None:
    """A lead with fewer than five pairs is undefined, and a clip with no other lead has no offset."""
    video = unit(9)
    found = measure(video, video)
    assert found is not None
    assert [n - 15 for n, value in enumerate(found.curve) if value is not None] == [-4, -3, -2, -1, 0, 1, 2, 3, 4]
    assert measure(video[:4], video[:4]) is None
    assert measure(video[:0], video[:0]) is None


def test_a_lead_beyond_a_short_curve_is_not_found_at_its_end() -> None:
    """For a lead beyond a short clip the curve's minimum is at its end and marked `cut_off`; one inside is found."""
    every = unit(40, smooth=4)
    late = measure(every[10:20], every[3:13])
    assert late is not None
    assert late.cut_off
    alone = measure(every[:5], every[:5])
    assert alone is not None
    assert alone.cut_off  # a single point is no minimum
    inside = measure(every[10:20], every[8:18])
    assert inside is not None
    assert (inside.cut_off, round(inside.audio_lead_frames)) == (False, -2)
    longest = measure(every, np.concatenate([unit(15, 1), every[:-15]]))
    assert longest is not None
    assert (longest.cut_off, longest.audio_lead_frames) == (False, -15)


def test_the_largest_lead_may_be_larger() -> None:
    """In text, a lead at the end of the search range is given as that much or more."""
    found = curve.Offset(-15.0, 0.21, 0.6, 60, ())
    assert in_words(found) == "audio late by 15 frames or more (-600 ms), confidence 0.210"
    assert "more" not in in_words(replace(found, audio_lead_frames=-14.5))


def test_tenths_by_a_parabola() -> None:
    """Between two frames the lead is the minimum of a parabola through the three lowest points."""
    leads = np.arange(-15, 16)
    found = curve.offset(np.tile(1 + 0.01 * (leads - 2.3) ** 2, (10, 1)))
    assert found is not None
    assert found.audio_lead_frames == 2.3
    at_the_end = curve.offset(np.tile(2 - leads / 20, (10, 1)))
    assert at_the_end is not None
    assert at_the_end.audio_lead_frames == 15


def test_foreign_audio_has_little_confidence() -> None:
    """Unrelated features have far less confidence than matching ones."""
    video = unit(60, 1)
    true, foreign = measure(video, video), measure(video, unit(60, 2))
    assert true is not None
    assert foreign is not None
    assert foreign.confidence < 0.2 * true.confidence


def test_a_last_second_that_cannot_show_the_lead_has_none() -> None:
    """If the truncated last second is too short for the audio's delay, the lead is found in all other seconds."""
    angles = 0.03 * np.arange(137)
    video, audio = (np.stack((np.cos(a), np.sin(a)), 1) for a in (angles, angles - 0.03 * 8))
    found = curve.seconds(curve.distances(video, audio, np.ones(137, bool), np.ones(137, bool)))
    assert [(second, one.audio_lead_frames) for second, one in found] == [(n, -8) for n in range(5)]


def test_seconds_are_measured_from_five_seconds_on() -> None:
    """A clip of 5 s has an offset for each second, which shows a shift within it; a shorter clip has none."""
    every = unit(200)
    audio = np.concatenate([every[20:70], every[73:178]])  # early by 3 frames from the third second on
    found = curve.seconds(curve.distances(every[20:175], audio, np.ones(155, bool), np.ones(155, bool)))
    assert [second for second, _ in found] == [0, 1, 2, 3, 4, 5, 6]
    assert [round(one.audio_lead_frames) for _, one in found[:1] + found[3:6]] == [0, 3, 3, 3]
    assert curve.seconds(curve.distances(every[:124], every[:124], np.ones(124, bool), np.ones(124, bool))) == []
