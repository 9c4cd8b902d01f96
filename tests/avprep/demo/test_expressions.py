"""The emotions of the synthetic corpus: faces that detectors find, lips that do not depend on the emotion, labels."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from avprep import layouts
from avprep.demo import drawing, speech, synthetic
from avprep.demo.expression import EMOTIONS, INTENSITIES, Expression, expression

SEED = 5
UPPER = (slice(None), slice(60, 130), slice(80, 176))
"""Brows and eyes of a picture of 256×256."""
MOUTH = (slice(None), slice(150, 190), slice(100, 156))


@pytest.fixture(scope="module")
def takes() -> list[tuple[speech.Speaker, speech.Take]]:
    """Two people, one word each."""
    people = [speech.speaker(SEED, index) for index in (0, 3)]
    return [(who, speech.perform("ABOUT", who, 0)) for who in people]


@pytest.fixture(scope="module")
def faces(takes: list[tuple[speech.Speaker, speech.Take]]) -> dict[tuple[int, str], Any]:
    """Their videos in each emotion."""
    return {
        (n, emotion): drawing.render(take, who, face=expression(emotion, "high", who, 0)).astype(np.float32)
        for n, (who, take) in enumerate(takes)
        for emotion in EMOTIONS
    }


def test_each_emotion_shows_in_the_upper_face(takes: list[tuple[speech.Speaker, speech.Take]]) -> None:
    """Brows and eyes of any two emotions differ while the head is still, with the mouth left out."""
    who, take = takes[0]
    first = {name: getattr(take, name)[:1] for name in ("lips", "pose", "lids")}
    still = dataclasses.replace(take, **first)
    upper = {
        emotion: drawing.render(still, who, face=expression(emotion, "high", who, 0)).astype(np.float32)[UPPER]
        for emotion in EMOTIONS
    }
    for one, other in itertools.combinations(EMOTIONS, 2):
        assert np.abs(upper[one] - upper[other]).mean() > 2, (one, other)


def test_lips_move_the_same_with_every_emotion(faces: dict[tuple[int, str], Any]) -> None:
    """How far the mouth is open does not depend on the emotion."""
    for n in range(2):
        dark = {}
        for emotion in EMOTIONS:
            grey = faces[n, emotion][MOUTH].mean(3)
            dark[emotion] = (grey < 0.55 * np.median(grey)).mean((1, 2))
        for emotion in EMOTIONS:
            assert np.corrcoef(dark["neutral"], dark[emotion])[0, 1] > 0.85, emotion


def test_intensity_is_a_share_of_the_expression(takes: list[tuple[speech.Speaker, speech.Take]]) -> None:
    """A low intensity lies between the face at rest and the high intensity; each person and take differs slightly."""
    who, _ = takes[0]
    low, high = (expression("happy", name, who, 0) for name in ("low", "high"))
    assert 0 < low.corners < high.corners
    assert low.corners / high.corners == pytest.approx(INTENSITIES["low"] / INTENSITIES["high"])
    assert expression("neutral", "high", who, 0) == Expression()
    assert len({expression("happy", "high", one, take).corners for one, _ in takes for take in range(2)}) == 4
    with pytest.raises(KeyError):
        expression("bored", "high", who, 0)


def test_detectors_find_every_face(faces: dict[tuple[int, str], Any]) -> None:
    """OpenCV's own cascade finds one face in each video, at the right place."""
    find = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))
    for key, film in faces.items():
        for frame in film[::14].astype(np.uint8):
            found = find.detectMultiScale(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 1.1, 4, minSize=(60, 60))
            assert len(found) == 1, key


def test_labels_reach_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each clip's .txt has the emotion and its intensity, as has the manifest; a neutral face has no intensity."""
    nothing = np.zeros((29, 128, 128, 3), np.uint8), np.zeros(speech.SAMPLES, np.int16)
    monkeypatch.setattr(synthetic, "utterance", lambda *_, **__: nothing)
    synthetic.make_corpus(tmp_path / "corpus", words=1, speakers=1, takes=2, emotions=True, size=128)
    plan, scan = layouts.index("lrw", tmp_path / "corpus")
    labels = [dict(clip.labels or {}) for clip in sorted(plan.clips, key=lambda clip: clip.key)]
    wanted = [
        {"emotion": emotion} | ({} if emotion == "neutral" else {"intensity": intensity})
        for emotion in EMOTIONS
        for intensity in ("high", "low")
    ]
    assert labels == wanted
    assert {problem.kind for problem in scan.problems} == {"missing_split"}


def test_corpora_with_and_without_emotions_do_not_mix(tmp_path: Path) -> None:
    """A folder that holds a corpus of one kind is refused by the other; clips without emotions have no such labels."""
    synthetic.make_corpus(tmp_path, words=1, speakers=1, takes=1, size=128)
    assert layouts.index("lrw", tmp_path)[0].clips[0].labels is None
    with pytest.raises(Exception, match="use an empty folder"):
        synthetic.make_corpus(tmp_path, words=1, speakers=1, takes=1, emotions=True, size=128)
