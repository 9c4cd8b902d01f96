"""RAVDESS, Ryerson Audio-Visual Database of Emotional Speech and Song: 24 actors, two sentences, eight emotions.

Source: S. R. Livingstone and F. A. Russo, PLoS ONE 13 (2018), https://zenodo.org/records/1188976
Terms: CC BY-NC-SA 4.0.
Splits: none is official. A hash of the actor puts about 80, 10 and 10 % of the actors into train, val and test.

    Video_Speech_Actor_01/Actor_01/01-01-03-02-01-01-01.mp4

A name has seven numbers: modality (01 audio and video, 02 video only, 03 audio only), channel (01 speech, 02 song),
emotion, intensity (01 normal, 02 strong), sentence, repetition, actor. The video-only clips repeat those with audio and
are skipped. The labels are `emotion`, `intensity` and `text`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from avprep.errors import plural
from avprep.layouts.scan import Scan, is_video, stable_split, walk
from avprep.manifest import Clip, make_key

EXPECTS = "Actor_01/01-01-03-02-01-01-01.mp4"
SIGN = re.compile(r"(?:[^/]+/)*0[1-3]-0[12]-0[1-8]-0[12]-0[12]-0[12]-\d\d\.[^./]+")

_NAME = re.compile(
    r"(?P<modality>0[123])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])-(?P<sentence>0[12])-0[12]-(?P<actor>\d\d)"
)
_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
_INTENSITIES = ("normal", "strong")
_SENTENCES = ("Kids are talking by the door", "Dogs are sitting by the door")


def scan(root: Path, scan: Scan, *, songs: bool = False) -> None:
    """Make a clip of every video with audio.

    songs: include sung sentences.

    Problems: `unexpected_place`; `no_sound` and `song`, each in one line that counts the videos.
    """
    passed: dict[str, list[str]] = {"no_sound": [], "song": []}
    for path in filter(is_video, walk(root, scan)):
        stem = posixpath.splitext(path)[0]
        name = _NAME.fullmatch(posixpath.basename(stem))
        if name is None:
            scan.problem("unexpected_place", path, f"expected {EXPECTS}")
        elif name["modality"] != "01":
            passed["no_sound"].append(path)
        elif name["channel"] == "02" and not songs:
            passed["song"].append(path)
        else:
            of = (("emotion", _EMOTIONS), ("intensity", _INTENSITIES))
            labels = {label: texts[int(name[label]) - 1] for label, texts in of}
            labels["text"] = _SENTENCES[int(name["sentence"]) - 1]
            actor = f"Actor_{name['actor']}"
            scan.clips.append(Clip(make_key(stem), path, stable_split(actor), speaker=actor, labels=labels))
    for kind, why in (("no_sound", "picture alone"), ("song", "songs; --songs takes them")):
        if paths := passed[kind]:
            scan.problem(kind, paths[0], f"{plural(len(paths), 'video')} passed over: {why}", len(paths))
