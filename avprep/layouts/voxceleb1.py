"""VoxCeleb1: 153,516 utterances of 1,251 celebrities in YouTube interviews, with a face track for each.

Source: A. Nagrani, J. S. Chung and A. Zisserman, VoxCeleb: a large-scale speaker identification dataset,
Interspeech 2017, https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html
Terms: CC BY 4.0; the copyright remains with the owners of the videos.
Splits: two official ones. Verification (the default) keeps the 40 speakers id10270 … id10309 for test. Identification
splits every speaker's utterances into train, val and test by `iden_split.txt`.

Either each utterance is a file, with its track beside it or in a tree of tracks:

    id10270/5r0dWxy17C8/00001.mp4       or [dev|test]/id10270/…
    id10270/5r0dWxy17C8/00001.txt       or txt/id10270/5r0dWxy17C8/00001.txt

or the videos are uncut, and the tracks give the positions of the utterances:

    id10270/5r0dWxy17C8.mp4
    txt/id10270/5r0dWxy17C8/00001.txt   or id10270/5r0dWxy17C8/00001.txt

A track counts frames at 25 per second, from the beginning of the uncut video. Its boxes are in pixels of that video:

    Identity  :     id10270
    Reference :     5r0dWxy17C8
    Offset    :     -3
    FV Conf   :     16.647  (1)
    ASD Conf  :     4.465

    FRAME   X       Y       W       H
    000190  149     68      171     171
"""

from __future__ import annotations

import math
import posixpath
import re
from pathlib import Path

from avprep.errors import ManifestError
from avprep.layouts.scan import Scan, is_video, nearest, read_annotation, suffix_of, walk
from avprep.manifest import Clip, make_key

EXPECTS = "idXXXXX/VIDEO/00001.mp4, or idXXXXX/VIDEO.mp4 with idXXXXX/VIDEO/00001.txt"
SIGN = re.compile(r"(?:[^/]+/)*id1[01]\d{3}/[^/]+/\d{5}\.[^./]+|(?:[^/]+/)*id1[01]\d{3}/[^/]{11}\.[^./]+")
FRAME_RATE = 25  # of the tracks

_PLACE = re.compile(r"(?P<above>(?:[^/]+/)*)(?P<speaker>id\d{5})/(?P<video>[^/]+?)(?:/(?P<name>[^/]+))?\.[^./]+")
_VERIFICATION_TEST = frozenset(f"id{number}" for number in range(10270, 10310))
_IDENTIFICATION = {"1": "train", "2": "val", "3": "test"}

Box = tuple[int, float, float, float, float]
Utterance = tuple[str, str, str]  # speaker, video, name: unique in the data set, wherever its files are


def read_track(text: str) -> list[Box]:
    """Return the rows `(frame, x, y, w, h)` of a track: frame numbers at 25 per second, boxes in pixels.

    Raises ValueError with one line if the track is damaged.
    """
    rows: list[Box] = []
    heading = False
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not heading:
            heading = fields == ["FRAME", "X", "Y", "W", "H"]
        elif fields:
            row = _read_row(number, fields)
            if rows and row[0] <= rows[-1][0]:
                raise ValueError(f"line {number}: frame {row[0]} does not come after frame {rows[-1][0]}")
            rows.append(row)
    if not rows:
        raise ValueError("no frame is listed" if heading else "there is no line FRAME X Y W H")
    return rows


def scan(root: Path, scan: Scan, *, identification: bool = False) -> None:
    """Make a clip of every utterance, cut from an uncut video or in a file of its own.

    identification: use the splits of ROOT/iden_split.txt.

    Problems: `unexpected_place`, `missing_track` (the clip is kept if it is a file of its own), `bad_track` (likewise),
    `missing_video`, `not_in_split`, `other_corpus`.
    """
    listed = _read_identification(root / "iden_split.txt") if identification else None
    videos, tracks = _find(root, scan)
    of_video: dict[tuple[str, str], list[Utterance]] = {}
    for utterance in sorted(tracks):
        of_video.setdefault(utterance[:2], []).append(utterance)

    used: set[Utterance] = set()
    for path, place in videos:
        speaker, video, name = place["speaker"], place["video"], place["name"]
        utterances = of_video.get((speaker, video), []) if name is None else [(speaker, video, name)]
        if not utterances:
            scan.problem("missing_track", path, "a whole video without a .txt that says where its utterances lie")
        used.update(utterances)
        for utterance in utterances:
            split = _split(place["above"], utterance, listed)
            track = nearest(path, tracks.get(utterance, []))
            if split is None:
                scan.problem("not_in_split", path, f"{'/'.join(utterance)} is not in iden_split.txt")
            elif name is None:
                scan.clips += _cut(root, path, split, utterance, track, scan)
            else:
                scan.clips.append(_file(root, path, split, speaker, track, scan))
    for utterance in sorted(tracks.keys() - used):
        scan.problem("missing_video", tracks[utterance][0], "a track without its video")


def is_own_speaker(speaker: str) -> bool:
    """Return whether a speaker, such as `id10270`, is one of VoxCeleb1: id10001 to id11251."""
    return 10_000 < int(speaker[2:]) < 11_252


def _find(root: Path, scan: Scan) -> tuple[list[tuple[str, re.Match[str]]], dict[Utterance, list[str]]]:
    """Return the videos, each with its parsed path, and the tracks of each utterance."""
    videos: list[tuple[str, re.Match[str]]] = []
    tracks: dict[Utterance, list[str]] = {}
    for path in walk(root, scan):
        place = _PLACE.fullmatch(path)
        if place and place["speaker"] < "id10000" and (is_video(path) or suffix_of(path) == ".txt"):
            speaker = place["speaker"]
            scan.problem("other_corpus", path, f"{speaker} is of VoxCeleb2: use `avprep index voxceleb2`")
        elif is_video(path):
            if place:
                videos.append((path, place))
            else:
                scan.problem("unexpected_place", path, f"expected {EXPECTS}")
        elif place and place["name"] and suffix_of(path) == ".txt":
            tracks.setdefault((place["speaker"], place["video"], place["name"]), []).append(path)
    return videos, tracks


def _file(root: Path, path: str, split: str, speaker: str, track: str | None, scan: Scan) -> Clip:
    """Return the clip of an utterance that is a file of its own; its track is checked but not needed."""
    if track is None:
        scan.problem("missing_track", path, "no .txt of the same name; the clip is kept")
    else:
        try:
            read_track(read_annotation(root / track))
        except ValueError as error:
            scan.problem("bad_track", track, f"{error}; the clip is kept")
            track = None
    return Clip(make_key(posixpath.splitext(path)[0]), path, split, speaker=speaker, track=track)


def _cut(root: Path, path: str, split: str, utterance: Utterance, track: str | None, scan: Scan) -> list[Clip]:
    """Return the clip that a track defines in an uncut video; none if the track is damaged."""
    assert track is not None  # the utterance is known only from its track
    try:
        rows = read_track(read_annotation(root / track))
    except ValueError as error:
        scan.problem("bad_track", track, str(error))
        return []
    speaker, _, name = utterance
    first, last = rows[0][0], rows[-1][0]
    return [
        Clip(
            key=make_key(f"{posixpath.splitext(path)[0]}/{name}"),
            video=path,
            split=split,
            start=first / FRAME_RATE,
            duration=(last - first + 1) / FRAME_RATE,
            speaker=speaker,
            track=track,
        )
    ]


def _split(above: str, utterance: Utterance, listed: dict[Utterance, str] | None) -> str | None:
    if listed is not None:
        return listed.get(utterance)
    for folder in reversed(above.split("/")):
        if folder in ("dev", "test"):
            return "test" if folder == "test" else "train"
    return "test" if utterance[0] in _VERIFICATION_TEST else "train"


def _read_identification(path: Path) -> dict[Utterance, str]:
    """Read lines like `1 id10001/1zcIwhmdeo4/00001.wav`."""
    try:
        text = read_annotation(path)
    except ValueError as error:
        raise ManifestError(f"{path}: --identification needs this file, which {error}") from error
    splits: dict[Utterance, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        split, _, utterance = line.strip().partition(" ")
        parts = posixpath.splitext(utterance.strip())[0].split("/")
        if split not in _IDENTIFICATION or len(parts) != 3:
            raise ManifestError(f"{path}:{number}: expected a line like '1 id10001/1zcIwhmdeo4/00001.wav'")
        splits[parts[0], parts[1], parts[2]] = _IDENTIFICATION[split]
    return splits


def _read_row(number: int, fields: list[str]) -> Box:
    try:
        frame, (x, y, w, h) = int(fields[0]), map(float, fields[1:])
    except ValueError:
        raise ValueError(f"line {number}: expected five numbers, frame x y w h") from None
    if not 0 <= frame < 10**9 or not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise ValueError(f"line {number}: no such frame or box")
    return frame, x, y, w, h
