"""GRID: 1,000 six-word sentences by each of 34 speakers, such as "bin blue at f two now", with word times.

Source: M. Cooke, J. Barker, S. Cunningham and X. Shao, An audio-visual corpus for speech perception and automatic
speech recognition, JASA 120 (2006), https://zenodo.org/records/3625687
Terms: CC BY 4.0.
Splits: none is official. By sentence (the default), a hash puts about 80, 10 and 10 % of the sentences into train, val
and test. By speaker, s1, s2, s20 and s22 are the test speakers, as usual since LipNet (Assael et al., 2016), and a hash
of the others picks val. (There is no video of s21.)

    s1/bbaf2n.mpg               75 frames at 25 per second; or s1/video/…, and other kinds of video file
    alignments/s1/bbaf2n.align  or align/s1/…, s1/align/…, or beside the video

Copies also use other folder names: `S1`, `s01`, `speaker1`, `s1_processed`. All of these are the speaker s1.

A line of an `.align` is `start end word` in units of 1/25,000 s, where `sil` and `sp` are silence. Each word becomes a
clip like LRW's: 29 frames, the word in the middle.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Literal

from avprep.layouts.scan import Scan, is_video, nearest, read_annotation, stable_split, suffix_of, walk
from avprep.manifest import Clip, TimedWord, make_key

EXPECTS = "sN/*.mpg and, unless --sentences, alignments/sN/*.align"
SIGN = re.compile(r"(?:[^/]+/)*(?:s|speaker)\d+[^/]*/(?:[^/]+/)*[blps][bgrw][abiw][a-z][1-9z][anps]\.[^./]+", re.I)
"""A file below a speaker's folder, named by six letters, one for each word of the sentence."""
CLIP_SECONDS = 29 / 25  # LRW's
TIME_UNIT = 25_000  # of an .align, per second

_SPEAKER = re.compile(r"(?:s|spk|speaker)[ _-]?0*(\d+)(?:[ ._-].*)?", re.IGNORECASE | re.DOTALL)
_SEGMENT = re.compile(r"\s*([0-9]{1,9})\s+([0-9]{1,9})\s+([^\s/]+)\s*")
_SILENCE = ("sil", "sp")
_UNSEEN_SPEAKERS = ("s1", "s2", "s20", "s22")

Segment = tuple[int, int, str]
SplitBy = Literal["sentence", "speaker"]
"""Unit that is never in more than one split."""


def scan(root: Path, scan: Scan, *, sentences: bool = False, split_by: SplitBy = "sentence") -> None:
    """Make a clip of every word, or of every sentence.

    sentences: whole files instead of word segments, without a word label; an .align is optional and adds the times of
        the words, so that training can use words and sentences from the same shards.
    split_by: unit that is never in more than one split.

    Raises ManifestError for any other `split_by`.
    Problems: `unexpected_place`, `missing_align`, `bad_align`, `too_short`, `missing_video`.
    """
    videos: list[tuple[str, str, str]] = []  # path, speaker, sentence
    aligns: dict[tuple[str, str], list[str]] = {}
    for path in walk(root, scan):
        is_align = suffix_of(path) == ".align"
        if not is_align and not is_video(path):
            continue
        speaker = _speaker(path)
        sentence = posixpath.splitext(posixpath.basename(path))[0]
        if speaker is None:
            scan.problem("unexpected_place", path, "no folder above is named after a speaker, such as s1")
        elif is_align:
            aligns.setdefault((speaker, sentence), []).append(path)
        else:
            videos.append((path, speaker, sentence))
    for path, speaker, sentence in videos:
        split = _split(speaker, sentence, split_by)
        align = nearest(path, aligns.get((speaker, sentence), []))
        if sentences:
            words = None if align is None else _timed_words(root, align, scan)
            scan.clips.append(Clip(make_key(posixpath.splitext(path)[0]), path, split, speaker=speaker, words=words))
        elif align is None:
            scan.problem("missing_align", path, f"no {sentence}.align of {speaker}; --sentences needs none")
        else:
            scan.clips += _word_clips(root, path, align, split, speaker, scan)
    if not sentences:
        known = {(speaker, sentence) for _, speaker, sentence in videos}
        for speaker, sentence in sorted(aligns.keys() - known):
            scan.problem("missing_video", aligns[speaker, sentence][0], f"no video {sentence} of {speaker}")


def read_align(text: str) -> list[Segment]:
    """Return the rows `(start, end, word)` of an .align, silence included, in units of 1/25,000 s.

    Raises ValueError with one line if the text is damaged.
    """
    segments: list[Segment] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = _SEGMENT.fullmatch(line)
        if row is None or int(row[1]) > int(row[2]):
            raise ValueError(f"line {number}: expected 'start end word', with start not after end")
        segments.append((int(row[1]), int(row[2]), row[3]))
    if all(word in _SILENCE for _, _, word in segments):
        raise ValueError("line 1: no word is listed")
    return segments


def _segments(root: Path, align: str, scan: Scan) -> list[Segment]:
    """Return the rows of an .align; for a damaged one, record a problem and return none."""
    try:
        return read_align(read_annotation(root / align))
    except ValueError as error:
        scan.problem("bad_align", align, str(error))
        return []


def _timed_words(root: Path, align: str, scan: Scan) -> tuple[TimedWord, ...] | None:
    """Return the words of a sentence with their times in seconds; None if they overlap or are out of order."""
    segments = [segment for segment in _segments(root, align, scan) if segment[2] not in _SILENCE]
    times = [time for start, end, _ in segments for time in (start, end)]
    if segments and times != sorted(times):
        scan.problem("bad_align", align, "its words overlap or are out of order")
        return None
    return tuple((word, start / TIME_UNIT, end / TIME_UNIT) for start, end, word in segments) or None


def _word_clips(root: Path, path: str, align: str, split: str, speaker: str, scan: Scan) -> list[Clip]:
    segments = _segments(root, align, scan)
    if not segments:
        return []
    last = max(end for _, end, _ in segments) / TIME_UNIT
    if last < CLIP_SECONDS:
        scan.problem("too_short", path, f"the sentence lasts {last:.2f} s, a clip {CLIP_SECONDS:.2f} s")
        return []
    stem = posixpath.splitext(path)[0]
    words = [segment for segment in segments if segment[2] not in _SILENCE]
    return [
        Clip(
            key=make_key(f"{stem}/{position}-{word}"),
            video=path,
            split=split,
            start=_clip_start((start + end) / 2 / TIME_UNIT, last),
            duration=CLIP_SECONDS,
            word=word,
            speaker=speaker,
        )
        for position, (start, end, word) in enumerate(words)
    ]


def _clip_start(centre: float, last: float) -> float:
    """Return the start of a clip whose middle is `centre`, shifted to fit into 0 … `last`; all in seconds."""
    return round(max(0.0, min(centre - CLIP_SECONDS / 2, last - CLIP_SECONDS)), 6)


def _speaker(path: str) -> str | None:
    """Return the speaker of the lowest folder that is named after one, in GRID's form: `s1`."""
    matches = map(_SPEAKER.fullmatch, reversed(path.split("/")[:-1]))
    return next((f"s{match[1]}" for match in matches if match), None)


def _split(speaker: str, sentence: str, split_by: str) -> str:
    if split_by == "sentence":
        return stable_split(f"{speaker}/{sentence}")
    if speaker in _UNSEEN_SPEAKERS:
        return "test"
    return stable_split(speaker, test_fraction=0)
