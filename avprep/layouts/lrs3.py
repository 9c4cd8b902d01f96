"""LRS3-TED: 400 hours of TED talks, whole sentences with their text and the times of words.

Source: T. Afouras, J. S. Chung and A. Zisserman, LRS3-TED, arXiv 1809.00496 (2018),
https://www.robots.ox.ac.uk/~vgg/data/lip_reading/lrs3.html
Terms: CC BY-NC-ND 4.0, for research; no longer distributed by its authors.
Splits: official: pretrain and trainval (here `train`) and test; a hash of the talk takes val out of the first two.

    pretrain/0Fi83BHQsMA/00001.mp4      224×224, 25 frames per second, the face in the middle
    pretrain/0Fi83BHQsMA/00001.txt      "Text:  …", and a table of words: WORD START END ASDSCORE, in the clip's seconds

The talk serves as the speaker. The label is `text`; timed words go into the manifest, so that training can use words
and sentences from the same shards.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from avprep.layouts.scan import Scan, is_video, read_annotation, stable_split, suffix_of, walk
from avprep.manifest import Clip, TimedWord, make_key

EXPECTS = "{pretrain,trainval,test}/TALK/00001.mp4, and a .txt beside it"
SIGN = re.compile(r"(?:[^/]+/)*(?:pretrain|trainval|test)/[\w-]{11}/\d{5}\.[^./]+")

_PLACE = re.compile(r"(?:[^/]+/)*(?P<part>pretrain|trainval|test)/(?P<talk>[^/]+)/[^/]+")
_TEXT = re.compile(r"^Text:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_WORDS = re.compile(r"^WORD[ \t]+START[ \t]+END\b.*$", re.MULTILINE)
_WORD = re.compile(r"(\S+)[ \t]+(\d+(?:\.\d+)?)[ \t]+(\d+(?:\.\d+)?)(?:[ \t]+\S+)?\s*")


def scan(root: Path, scan: Scan, *, val_fraction: float = 0.05) -> None:
    """Make a clip of every video.

    val_fraction: fraction of the talks of pretrain and trainval for validation.

    Problems: `unexpected_place`; with the clip kept, `missing_annotation`, `bad_annotation`.
    """
    paths = list(walk(root, scan))
    texts = {posixpath.splitext(path)[0]: path for path in paths if suffix_of(path) == ".txt"}
    for path in filter(is_video, paths):
        place = _PLACE.fullmatch(path)
        if place is None:
            scan.problem("unexpected_place", path, f"expected {EXPECTS}")
            continue
        stem, talk = posixpath.splitext(path)[0], place["talk"]
        split = "test" if place["part"] == "test" else stable_split(talk, val_fraction=val_fraction, test_fraction=0)
        text, words = _annotation(root, texts.get(stem), path, scan)
        labels = {"text": text} if text else None
        scan.clips.append(Clip(make_key(stem), path, split, speaker=talk, words=words, labels=labels))


def _annotation(root: Path, path: str | None, video: str, scan: Scan) -> tuple[str, tuple[TimedWord, ...] | None]:
    """Return the text and the timed words of a clip, and record a missing or damaged annotation."""
    if path is None:
        scan.problem("missing_annotation", video, "no .txt beside the video; the clip is kept, without its text")
        return "", None
    try:
        content = "\n".join(read_annotation(root / path).splitlines())
    except ValueError as error:
        scan.problem("bad_annotation", path, f"the .txt {error}; the clip is kept, without its text")
        return "", None
    text = _TEXT.search(content)
    if text is None:
        scan.problem("bad_annotation", path, 'the .txt has no line "Text:"; the clip is kept')
    return (text[1] if text else ""), _timed_words(content, path, scan)


def _timed_words(content: str, path: str, scan: Scan) -> tuple[TimedWord, ...] | None:
    head = _WORDS.search(content)
    if head is None:  # some copies of trainval and test have only the text
        return None
    rows = [_WORD.fullmatch(line) for line in content[head.end() :].splitlines() if line.strip()]
    found = tuple((row[1], float(row[2]), float(row[3])) for row in rows if row)
    times = [time for _, start, end in found for time in (start, end)]
    if None in rows or times != sorted(times):
        scan.problem("bad_annotation", path, "its words have no times in order; the clip is kept, without them")
        return None
    return found or None
