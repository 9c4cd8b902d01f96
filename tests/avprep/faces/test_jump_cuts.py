"""Cuts inside a clip: the same person continues, another does not, and the error message gives the cause."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_track import FACE_A, FACE_B, detection, detections

from avprep.demo import synthetic
from avprep.errors import Reject
from avprep.faces import detectors, track
from avprep.faces.detectors.base import Detector
from avprep.faces.track import Detections
from avprep.stages import Aligned, CropSettings, align_clip
from avprep.talking import photo

Pixels = NDArray[np.uint8]


def take(seed: int) -> Pixels:
    """Return the frames of a synthetic speaker."""
    frames: Pixels = synthetic.utterance("ABOUT", synthetic.speaker(seed), 0, 256)[0]
    return frames


@pytest.fixture
def detector(yunet: str) -> Detector:
    """YuNet, if its weights are there."""
    return detectors.build(yunet)


def aligned(frames: Pixels, detector: Detector) -> Aligned:
    """Find the subject of these frames."""
    pictures: Any = [photo._picture(frame) for frame in frames]
    return align_clip(pictures, detector, CropSettings("yunet"), name="a.mp4")


def test_one_person_goes_on_over_a_jump_cut(detector: Detector) -> None:
    """If the same face is visible right before and after a cut, the clip is kept and the cut is counted."""
    frames = take(3)
    jump = np.concatenate([frames[:13], np.roll(frames[13:], 25, axis=2) // 2 + 60])  # other light, another place
    found = aligned(jump, detector)
    assert found.detections.cuts == {13}
    assert found.subject.frames == list(range(29))
    assert np.abs(np.diff(found.points[:, 0, 0])[12] - 25) < 1.5  # the movement is at the cut, not smeared before it


@pytest.mark.parametrize(("one", "other"), list(combinations((0, 2, 5, 9), 2)))
def test_two_people_are_never_one_subject(one: int, other: int, detector: Detector) -> None:
    """If a cut puts another speaker in the same place, the clip is rejected and the message names the cut."""
    frames = np.concatenate([take(one)[:15], take(other)[15:]])
    with pytest.raises(Reject) as caught:
        aligned(frames, detector)
    assert caught.value.reason == "face_lost"
    assert "cuts at frame 15" in caught.value.message
    assert "not detected" not in caught.value.message


def dissolved(one: Pixels, other: Pixels, length: int, through: int | None = None) -> Pixels:
    """Return a dissolve of the given length, between two shots of that length, or through an empty frame."""
    shares = np.clip((np.arange(60 + length) - 29) / (length + 1), 0, 1)[:, None, None, None]
    before, after = ([shot[n % len(shot)] for n in range(len(shares))] for shot in (one, other))
    parts = (1 - shares, shares) if through is None else (np.clip(1 - 2 * shares, 0, 1), np.clip(2 * shares - 1, 0, 1))
    light = (1 - parts[0] - parts[1]) * (through or 0)
    return np.asarray(np.rint(parts[0] * before + parts[1] * after + light), np.uint8)


@pytest.mark.parametrize(("length", "through"), [(5, None), (25, None), (12, 0), (12, 255)])
def test_a_dissolve_between_two_people_is_refused(length: int, through: int | None, detector: Detector) -> None:
    """If one speaker dissolves or fades into another, no clip contains both."""
    with pytest.raises(Reject) as caught:
        aligned(dissolved(take(0), take(5), length, through), detector)
    assert caught.value.reason == "face_lost"


@pytest.mark.parametrize(("length", "through"), [(8, None), (25, 0)])
def test_one_person_goes_on_over_a_dissolve(length: int, through: int | None, detector: Detector) -> None:
    """A dissolve, or a fade out and in, that leads to the same speaker keeps the clip whole, without a cut."""
    found = aligned(dissolved(take(3), take(3)[::-1] // 2 + 60, length, through), detector)
    assert not found.detections.cuts


@pytest.mark.parametrize("between", ["two mixes", "three mixes"])
def test_mixed_pictures_do_not_lead_from_one_person_to_another(between: str, detector: Detector) -> None:
    """A face that is followed through frames that mix two shots must look as it did before them."""
    one, other = take(0), take(5)
    shares = {"two mixes": (0.33, 0.67), "three mixes": (0.25, 0.5, 0.75)}[between]
    mixes = [np.asarray(np.rint((1 - share) * one[14] + share * other[14]), np.uint8) for share in shares]
    with pytest.raises(Reject, match="cuts at frame"):
        aligned(np.concatenate([one[:15], mixes, other[14:]]), detector)


def test_a_face_that_is_hidden_is_missing_where_it_is_hidden(detector: Detector) -> None:
    """The message names the stretch in which no face is visible, not everything before the longer part."""
    frames = np.concatenate([take(3), take(3)])
    frames[10:30] = 128
    with pytest.raises(Reject, match="not detected for 20 frames from frame 10 "):
        aligned(frames, detector)


def lost(what: Detections) -> str:
    """Return why the largest subject cannot be cropped."""
    tracks = track.link(what)
    subject = track.choose(tracks, what, "largest", {})
    with pytest.raises(Reject) as caught:
        track.check_gaps(subject, tracks, what)
    return caught.value.message


def test_a_bystander_does_not_hide_the_stretch() -> None:
    """A second face that is visible all the time is not taken for the hidden face, even if that reappears elsewhere."""
    faces = {n: [detection(350, size=20)] for n in range(0, 80, 5)}
    for n in [*range(0, 20, 5), *range(40, 80, 5)]:
        faces[n].append(detection(100 if n < 20 else 220))
    assert "not detected for 24 frames from frame 16 " in lost(detections(faces, 80))


def test_a_face_in_every_frame_is_never_out_of_sight() -> None:
    """For a face that does not look the same, the message names the cut, or without a cut the jump."""
    there = {n: [detection(100, appearance=FACE_A if n < 20 else FACE_B)] for n in range(0, 50, 5)}
    assert "cuts at frame 20," in lost(detections(there, 50, cuts=(20,)))
    elsewhere = {n: [detection(100 if n < 20 else 300)] for n in range(0, 50, 5)}
    assert "not where it was for 20 frames from frame 0 " in lost(detections(elsewhere, 50))
