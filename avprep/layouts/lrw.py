"""LRW, Lip Reading in the Wild: 500 English words from BBC television, each in up to 1,000 clips.

Source: J. S. Chung and A. Zisserman, Lip Reading in the Wild, ACCV 2016,
https://www.robots.ox.ac.uk/~vgg/data/lip_reading/lrw1.html
Terms: non-commercial academic research, after an agreement with BBC Research & Development.
Splits: official, 488,766 train, 25,000 val and 25,000 test clips.

    lipread_mp4/ABOUT/train/ABOUT_00001.mp4     29 frames, the word in the middle
    lipread_mp4/ABOUT/train/ABOUT_00001.txt     its broadcast, and "Duration: 0.45 seconds" of the word

The label and the split come from the path, so a clip with a damaged `.txt` is kept, and the damage is still counted.
LRW does not identify speakers; a line "Speaker: NAME" in a `.txt`, as in the synthetic corpus, becomes the clip's
speaker, and lines "Emotion: NAME" and "Intensity: NAME" become its labels.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from avprep.layouts.scan import Scan, is_video, read_annotation, suffix_of, walk
from avprep.manifest import SPLITS, Clip, make_key

EXPECTS = "WORD/{train,val,test}/WORD_00001.mp4, at any depth"
SIGN = re.compile(r"(?:[^/]+/)*([^/]+)/(?:train|val|test)/\1_\d{5}\.[^./]+")
SHOWN_WORDS = 10

_PLACE = re.compile(r"(?:[^/]+/)*(?P<word>[^/]+)/(?P<split>train|val|test)/[^/]+")
_SPEAKER = re.compile(r"^Speaker:[ \t]*(\S+)", re.MULTILINE)
_LABELS = {name: re.compile(rf"^{name.capitalize()}:[ \t]*(\S+)", re.MULTILINE) for name in ("emotion", "intensity")}
_DURATION = re.compile(r"^Duration:\s*\d*\.?\d+\s*seconds", re.MULTILINE)


def scan(root: Path, scan: Scan) -> None:
    """Make a clip of every video.

    Problems: `unexpected_place`, `missing_video`; with the clip kept, `missing_annotation`, `bad_annotation`; and
    `missing_split`, one line for each split in which some words have no clip, with the number of these words.
    """
    paths = list(walk(root, scan))
    # By the stem, because a suffix may be in capitals.
    annotations = {
        posixpath.splitext(path)[0]: path for path in paths if suffix_of(path) == ".txt" and _PLACE.fullmatch(path)
    }
    described = set()
    for path in filter(is_video, paths):
        place = _PLACE.fullmatch(path)
        if place is None:
            scan.problem("unexpected_place", path, f"expected {EXPECTS}")
            continue
        stem = posixpath.splitext(path)[0]
        described.add(stem)
        if stem in annotations:
            speaker, labels = _read_speaker(root, annotations[stem], scan)
        else:
            speaker, labels = None, None
            scan.problem("missing_annotation", stem + ".txt", "no .txt beside the video; the clip is kept")
        scan.clips.append(
            Clip(make_key(stem), path, place["split"], word=place["word"], speaker=speaker, labels=labels)
        )
    for stem in sorted(annotations.keys() - described):
        scan.problem("missing_video", annotations[stem], "no video beside the .txt")
    _count_missing_splits(scan)


def _count_missing_splits(scan: Scan) -> None:
    """Record the words that have no clip in a split: the tree is a part of LRW, or a download was interrupted."""
    words = {clip.word for clip in scan.clips if clip.word is not None}
    for split in SPLITS:
        missing = sorted(words - {clip.word for clip in scan.clips if clip.split == split})
        if missing:
            names = ", ".join(missing[:SHOWN_WORDS]) + (", …" if len(missing) > SHOWN_WORDS else "")
            message = f"{len(missing)} of {len(words)} words have no clip here: {names}"
            scan.problem("missing_split", split, message, len(missing))


def _read_speaker(root: Path, path: str, scan: Scan) -> tuple[str | None, dict[str, str] | None]:
    """Return the speaker and the labels, if the annotation has any, and record a damaged annotation."""
    try:
        text = read_annotation(root / path)
    except ValueError as error:
        scan.problem("bad_annotation", path, f"the .txt {error}; the clip is kept")
        return None, None
    if not _DURATION.search(text):
        scan.problem("bad_annotation", path, 'the .txt has no line "Duration: … seconds"; the clip is kept')
    speaker = _SPEAKER.search(text)
    labels = {name: found[1] for name, form in _LABELS.items() if (found := form.search(text))}
    return speaker[1] if speaker else None, labels or None
