"""CREMA-D, Crowd-sourced Emotional Multimodal Actors Dataset: 91 actors say 12 sentences in six emotions.

Source: H. Cao et al., CREMA-D, IEEE Transactions on Affective Computing 5 (2014),
https://github.com/CheyneyComputerScience/CREMA-D
Terms: Open Database License.
Splits: none is official. A hash of the actor puts about 80, 10 and 10 % of the actors into train, val and test.

    VideoFlash/1001_DFA_ANG_XX.flv        ACTOR_SENTENCE_EMOTION_LEVEL, with audio; or any other kind of video file
    processedResults/summaryTable.csv     raters' votes on each clip, for --labels rated

The labels are `emotion`, `intensity` (low, medium or high, if the actor was given one) and `text`. There are 7,442
clips at 30 frames per second, 480×360; four of them are damaged and are left out.
"""

from __future__ import annotations

import csv
import posixpath
import re
from pathlib import Path
from typing import Literal

from avprep.layouts.scan import Scan, is_video, nearest, read_annotation, stable_split, walk
from avprep.manifest import Clip, make_key

EXPECTS = "VideoFlash/1001_DFA_ANG_XX.flv"
SIGN = re.compile(r"(?:[^/]+/)*10\d\d_[A-Z]{3}_(?:ANG|DIS|FEA|HAP|NEU|SAD)_(?:LO|MD|HI|XX?)\.[^./]+")
RATINGS = "summaryTable.csv"

_NAME = re.compile(
    r"(?P<actor>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>LO|MD|HI|XX?)", re.IGNORECASE
)
_EMOTIONS = {"ANG": "angry", "DIS": "disgusted", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_VOTES = {code[0]: emotion for code, emotion in _EMOTIONS.items()}
_LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}
_SENTENCES = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_DAMAGED = {
    "1064_IEO_DIS_MD": "it holds every emotion of the sentence",
    "1064_TIE_SAD_XX": "it has no length",
    "1076_MTI_NEU_XX": "it is nearly empty",
    "1076_MTI_SAD_XX": "its sound is missing",
}

Labels = Literal["acted", "rated"]
"""Source of the emotion label."""


def scan(root: Path, scan: Scan, *, labels: Labels = "acted") -> None:
    """Make a clip of every video.

    labels: source of the emotion label: acted, what the actor was told, or rated, what most raters chose from audio and
        video together, with their mean intensity from 0 to 100, according to summaryTable.csv.

    Problems: `unexpected_place`, `damaged`; with the clip kept, `unknown_name` and, for rated emotions, `no_majority`,
    `missing_rating`, `bad_annotation`.
    """
    paths = list(walk(root, scan))
    rated = _ratings(root, paths, scan) if labels == "rated" else None
    for path in filter(is_video, paths):
        stem = posixpath.splitext(path)[0]
        name = _NAME.fullmatch(posixpath.basename(stem))
        if name is None:
            scan.problem("unexpected_place", path, f"expected {EXPECTS}")
            continue
        take = name[0].upper()
        if take in _DAMAGED:
            scan.problem("damaged", path, f"left out: {_DAMAGED[take]}")
            continue
        found = _acted(name, path, scan) if rated is None else _rated(rated, take, path, scan)
        if sentence := _SENTENCES.get(name["sentence"].upper()):
            found["text"] = sentence
        actor = name["actor"]
        scan.clips.append(Clip(make_key(stem), path, stable_split(actor), speaker=actor, labels=found or None))


def _acted(name: re.Match[str], path: str, scan: Scan) -> dict[str, str]:
    """Return the emotion and intensity that the actor was told."""
    emotion, level = _EMOTIONS.get(name["emotion"].upper()), _LEVELS.get(name["level"].upper())
    if emotion is None:
        scan.problem("unknown_name", path, f"{name['emotion']} is none of {', '.join(_EMOTIONS)}; the clip is kept")
    return {key: text for key, text in (("emotion", emotion), ("intensity", level)) if text}


def _rated(ratings: dict[str, tuple[str, str]], take: str, path: str, scan: Scan) -> dict[str, str]:
    """Return the emotion that most raters chose for a clip, and its intensity."""
    if take not in ratings:
        scan.problem("missing_rating", path, f"{RATINGS} does not have it; the clip is kept, without an emotion")
        return {}
    vote, level = ratings[take]
    if vote not in _VOTES:  # such as A:D
        scan.problem("no_majority", path, f"as many people say one as the other: {vote[:20]}; the clip is kept")
        return {}
    return {"emotion": _VOTES[vote]} | ({"intensity": level} if level.replace(".", "", 1).isdecimal() else {})


def _ratings(root: Path, paths: list[str], scan: Scan) -> dict[str, tuple[str, str]]:
    """Return the ratings of audio and video together: letter and level of each clip."""
    table = nearest("", [path for path in paths if posixpath.basename(path) == RATINGS])
    if table is None:
        scan.problem("missing_annotation", RATINGS, "the table of what people found is not there")
        return {}
    try:
        rows = list(csv.DictReader(read_annotation(root / table).splitlines()))
        return {
            row["FileName"].strip(): (row["MultiModalVote"].strip(), row["MultiModalLevel"].strip()) for row in rows
        }
    except (ValueError, csv.Error) as error:
        scan.problem("bad_annotation", table, f"the table {error}")
    except (KeyError, AttributeError):
        scan.problem(
            "bad_annotation", table, "the table has no FileName, MultiModalVote and MultiModalLevel in each row"
        )
    return {}
