"""VoxCeleb2: a million utterances of 6,112 celebrities, as face tracks cut from YouTube interviews.

Source: J. S. Chung, A. Nagrani and A. Zisserman, VoxCeleb2: Deep Speaker Recognition, Interspeech 2018,
https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html
Terms: CC BY 4.0; the copyright remains with the owners of the videos.
Splits: official, by speaker: dev (5,994 speakers, here `train`) and test (118).

    dev/mp4/id00012/21Uxsk56VDQ/00001.mp4       the picture, 224×224, 25 frames a second, without sound
    dev/aac/id00012/21Uxsk56VDQ/00001.m4a       its sound (or a .wav made from it)

ROOT holds `dev` and `test`, or is one of them. The boxes in the `.txt` files of VoxCeleb2 belong to the uncut videos
and are not used.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from avprep.layouts import Scan, is_video, walk
from avprep.manifest import Clip, make_key

EXPECTS = "[dev|test]/mp4/idXXXXX/VIDEO/00001.mp4 and [dev|test]/aac/idXXXXX/VIDEO/00001.m4a"

_PLACE = re.compile(r"(?P<above>(?:[^/]+/)*)(?P<tree>mp4|aac)/(?P<utterance>(?P<speaker>id\d+)/[^/]+/[^/]+)\.[^./]+")
_SOUND_SUFFIXES = (".m4a", ".wav")  # in order of preference


def scan(root: Path, scan: Scan) -> None:
    """Make a clip of every picture that has its sound.

    Problems: `missing_audio`, `missing_video`, `unexpected_place`.
    """
    pictures: dict[str, str] = {}  # path -> utterance, e.g. dev/id00012/21Uxsk56VDQ/00001
    sounds: dict[str, dict[str, str]] = {}  # utterance -> suffix -> path
    for path in walk(root, scan):
        suffix = posixpath.splitext(path)[1].lower()
        if not is_video(path) and suffix not in _SOUND_SUFFIXES:
            continue
        place = _PLACE.fullmatch(path)
        if place is None or (place["tree"] == "mp4") != is_video(path):
            scan.problem("unexpected_place", path, f"expected {EXPECTS}")
            continue
        # Without the tree's name, picture and sound of an utterance are called the same, and no two pictures are.
        utterance = place["above"] + place["utterance"]
        if place["tree"] == "mp4":
            pictures[path] = utterance
        else:
            sounds.setdefault(utterance, {})[suffix] = path
    for path, utterance in pictures.items():
        found = sounds.get(utterance, {})
        sound = next((found[suffix] for suffix in _SOUND_SUFFIXES if suffix in found), None)
        if sound is None:
            scan.problem("missing_audio", path, "no .m4a or .wav of the same name in the aac tree")
            continue
        speaker = utterance.split("/")[-3]
        scan.clips.append(Clip(make_key(utterance), path, _split(root, utterance), audio=sound, speaker=speaker))
    for utterance in sorted(sounds.keys() - set(pictures.values())):
        for path in sorted(sounds[utterance].values()):
            scan.problem("missing_video", path, "no .mp4 of the same name in the mp4 tree")


def _split(root: Path, utterance: str) -> str:
    """Return the split that the lowest folder named `dev` or `test` decides; the root's own name comes last."""
    for folder in (*reversed(utterance.split("/")[:-3]), root.name):
        if folder in ("dev", "test"):
            return "test" if folder == "test" else "train"
    return "train"
