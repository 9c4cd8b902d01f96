"""MEAD, Multi-view Emotional Audio-visual Dataset: actors in eight emotions at three intensities, seven cameras.

Source: K. Wang et al., MEAD, ECCV 2020, https://wywu.github.io/projects/MEAD/MEAD.html
Terms: research only.
Splits: none is official. A hash of the actor puts about 80, 10 and 10 % of the actors into train, val and test.

    M003/video/front/angry/level_1/001.mp4      video, 30 frames per second, without audio
    M003/audio/angry/level_1/001.m4a            its audio, the same for all cameras

The labels are `emotion` and `intensity`: low, medium and high are the levels 1, 2 and 3.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Literal

from avprep.errors import plural
from avprep.layouts.scan import AUDIO_SUFFIXES, Scan, is_video, nearest, preferred, stable_split, suffix_of, walk
from avprep.manifest import Clip, make_key

EXPECTS = "M003/video/front/angry/level_1/001.mp4 and M003/audio/angry/level_1/001.m4a"
SIGN = re.compile(r"(?:[^/]+/)*[MW]\d{3}/(?:[^/]+/)*level_[123]/\d{3}\.[^./]+")

_TAKE = r"(?P<emotion>[a-z]+)/level_(?P<level>[123])/(?P<take>[^/.]+)\.[^/]+"
_VIDEO = re.compile(rf"(?:[^/]+/)*(?P<actor>[MW]\d{{3}})/(?:video/)+(?P<view>[^/]+)/{_TAKE}")
_AUDIO = re.compile(rf"(?:[^/]+/)*(?P<actor>[MW]\d{{3}})/(?:audio/)+{_TAKE}")
_EMOTIONS = {
    "angry": "angry",
    "contempt": "contemptuous",
    "disgusted": "disgusted",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprised": "surprised",
}
_LEVELS = {"1": "low", "2": "medium", "3": "high"}

View = Literal["front", "left_30", "right_30", "left_60", "right_60", "top", "down", "all"]
"""Camera view."""


def scan(root: Path, scan: Scan, *, view: View = "front") -> None:
    """Make a clip of every video of a camera for which there is audio.

    view: the camera; all takes the videos of all cameras.

    Problems: `unexpected_place`, `missing_audio`; with the clip kept, `unknown_name`; `other_view`, in one line that
    counts the videos.
    """
    videos: list[re.Match[str]] = []
    sounds: dict[tuple[str, str, str, str], list[str]] = {}
    others: list[str] = []
    for path in walk(root, scan):
        if is_video(path):
            place = _VIDEO.fullmatch(path)
            if place is None:
                scan.problem("unexpected_place", path, f"expected {EXPECTS}")
            elif view in ("all", place["view"]):
                videos.append(place)
            else:
                others.append(path)
        elif suffix_of(path) in AUDIO_SUFFIXES and (place := _AUDIO.fullmatch(path)):
            sounds.setdefault(_utterance(place), []).append(path)
    for place in videos:
        path, emotion = place[0], _EMOTIONS.get(place["emotion"])
        found = sounds.get(_utterance(place))
        sound = nearest(path, preferred(found)) if found else None
        if sound is None:
            scan.problem(
                "missing_audio", path, "no audio of this emotion, level and number below the actor's audio folder"
            )
            continue
        if emotion is None:
            scan.problem(
                "unknown_name", path, f"{place['emotion']} is none of {', '.join(_EMOTIONS)}; the clip is kept"
            )
        labels = {"emotion": emotion or place["emotion"], "intensity": _LEVELS[place["level"]]}
        key, actor = make_key(posixpath.splitext(path)[0]), place["actor"]
        scan.clips.append(Clip(key, path, stable_split(actor), audio=sound, speaker=actor, labels=labels))
    if others:
        scan.problem(
            "other_view",
            others[0],
            f"{plural(len(others), 'video')} of other cameras passed over; see --view",
            len(others),
        )


def _utterance(place: re.Match[str]) -> tuple[str, str, str, str]:
    return place["actor"], place["emotion"], place["level"], place["take"]
