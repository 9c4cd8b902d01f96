"""VoxCeleb2: a million utterances of 6,112 celebrities, as face tracks cut from YouTube interviews.

Source: J. S. Chung, A. Nagrani and A. Zisserman, VoxCeleb2: Deep Speaker Recognition, Interspeech 2018,
https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html
Terms: CC BY 4.0; the copyright remains with the owners of the videos.
Splits: official, by speaker: dev (5,994 speakers, here `train`) and test (118).

    dev/mp4/id00012/21Uxsk56VDQ/00001.mp4       video, 224×224, 25 frames per second, without audio
    dev/aac/id00012/21Uxsk56VDQ/00001.m4a       its audio (or a .wav made from it)

ROOT holds `dev` and `test`, or is one of them; names after the archives, such as `vox2_test_mp4`, also work. The two
trees may be in separate folders below ROOT, into which two archives were unpacked: an utterance is found by its
speaker, video and number. If the audio has a root of its own, neither tree needs its folder `mp4` or `aac`.

The boxes in the `.txt` files of VoxCeleb2 belong to the uncut videos and are not used.
"""

from __future__ import annotations

import re
from pathlib import Path

from avprep.layouts import voxceleb1
from avprep.layouts.scan import AUDIO_SUFFIXES, Scan, is_video, nearest, preferred, suffix_of, walk, walk_audio
from avprep.manifest import Clip, make_key

EXPECTS = "[dev|test]/mp4/idXXXXX/VIDEO/00001.mp4 and [dev|test]/aac/idXXXXX/VIDEO/00001.m4a"
SIGN = re.compile(r"(?:[^/]+/)*(?:mp4|aac)/id0\d{4}/[^/]+/\d{5}\.[^./]+")

_PLACE = re.compile(r"(?P<above>(?:[^/]+/)*)(?P<tree>mp4|aac)/(?P<utterance>(?P<speaker>id\d+)/[^/]+/[^/]+)\.[^./]+")
_BARE_PLACE = re.compile(r"(?P<above>(?:[^/]+/)*)(?P<utterance>(?P<speaker>id\d+)/[^/]+/[^/]+)\.[^./]+")
_ARCHIVE = re.compile(r"vox(?:celeb)?2[_-](dev|test)(?:[_-](?:mp4|aac))?", re.IGNORECASE)
"""A folder that an archive was unpacked into: `vox2_test_mp4.zip` holds no folder `test`."""
_ROOTS = "ROOT holds mp4 and aac, or it is the folder of the videos and --audio-root that of the audio"
_PREFERENCE = (".m4a", *(suffix for suffix in AUDIO_SUFFIXES if suffix != ".m4a"))  # the original first


def scan(root: Path, scan: Scan, *, audio_root: Path | None = None) -> None:
    """Make a clip of every video that has its audio.

    audio_root: the folder that holds the audio files, if not ROOT.

    Problems: `missing_audio`, `missing_video`, `unexpected_place`, `other_corpus`.
    """
    videos: dict[str, re.Match[str]] = {}
    sounds: dict[str, list[str]] = {}  # utterance, e.g. id00012/21Uxsk56VDQ/00001 -> paths
    for path in walk(root, scan):
        if is_video(path) or (audio_root is None and suffix_of(path) in AUDIO_SUFFIXES):
            place = _find(path, "mp4" if is_video(path) else "aac", scan, bare=audio_root is not None)
            if place is not None and is_video(path):
                videos[path] = place
            elif place is not None:
                sounds.setdefault(place["utterance"], []).append(path)
    if audio_root is not None:
        for path in walk_audio(audio_root, scan):
            if suffix_of(path) in AUDIO_SUFFIXES:
                place = _find(path, "aac", scan, bare=True, shown=str(audio_root / path))
                if place is not None:
                    sounds.setdefault(place["utterance"], []).append(path)
    for path, place in videos.items():
        above, utterance = place["above"], place["utterance"]
        sound = _choose(path, above, sounds.get(utterance, []))
        if sound is None:
            if audio_root is None:
                message = f"no {utterance}.m4a or .wav in the aac tree; --audio-root names another folder"
            else:
                message = f"no {utterance}.m4a or .wav below {audio_root}"
            scan.problem("missing_audio", path, message)
            continue
        # Without the tree's name, video and audio of an utterance have the same name, and no two videos have.
        key = make_key(above + utterance)
        scan.clips.append(Clip(key, path, _split(root, above), audio=sound, speaker=place["speaker"]))
    for utterance in sorted(sounds.keys() - {place["utterance"] for place in videos.values()}):
        for path in sorted(sounds[utterance]):
            shown = path if audio_root is None else str(audio_root / path)
            scan.problem("missing_video", shown, "no .mp4 of the same name in the mp4 tree")


def _find(path: str, tree: str, scan: Scan, *, bare: bool, shown: str | None = None) -> re.Match[str] | None:
    """Return the parsed path of a file of a tree; if it is out of place, record a problem and return None.

    bare: the tree's name may be missing. shown: the path to give in a problem.
    """
    place = _PLACE.fullmatch(path)
    if place is not None and place["tree"] != tree:
        place = None
    elif place is None and bare:
        place = _BARE_PLACE.fullmatch(path)
    if place is None:
        treeless = _PLACE.fullmatch(path) is None and _BARE_PLACE.fullmatch(path) is not None
        message = f"no folder above it is named {tree}: {_ROOTS}" if treeless else f"expected {EXPECTS}"
        scan.problem("unexpected_place", shown or path, message)
    elif voxceleb1.is_own_speaker(place["speaker"]):
        scan.problem("other_corpus", shown or path, f"{place['speaker']} is of VoxCeleb1: use `avprep index voxceleb1`")
        return None
    return place


def _choose(video: str, above: str, sounds: list[str]) -> str | None:
    """Return the audio of a video: from its own tree if there is any, otherwise the nearest; the original first."""
    own = [path for path in sounds if path.startswith(f"{above}aac/")]
    return nearest(video, preferred(own or sounds, _PREFERENCE)) if sounds else None


def _split(root: Path, above: str) -> str:
    """Return the split of the lowest folder named `dev`, `test` or after an archive; ROOT's own name comes last."""
    own = root.parent if root.name == "mp4" else root  # ROOT may be the tree of videos itself
    for folder in (*reversed(above.split("/")), own.name):
        archive = _ARCHIVE.fullmatch(folder)
        name = archive[1].lower() if archive else folder
        if name in ("dev", "test"):
            return "test" if name == "test" else "train"
    return "train"
