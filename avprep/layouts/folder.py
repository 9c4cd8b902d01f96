"""Any tree of talking-face videos; a pattern gives the meaning of its folders.

Source, terms: your own. Every file with a video suffix is one whole clip.
Splits: `{split}` of the pattern, or else a hash of the path or of the speaker.

A pattern is matched against a video's whole path below ROOT, without the file suffix:

    {split} {speaker} {word} {emotion} {intensity}
                        at least one character of one folder or file name, as few as possible; a repeated placeholder
                        must match the same text
    *                   any part of one folder or file name
    **                  on its own: any number of folders, or at the end everything below

Separate audio files are beside each video, or below a root of their own, at the same path. Folders that are only named
for a kind of file (video, mp4, audio, wav, …) may differ. If several cameras share one audio file, folders named for a
view (front, left_30, …) may differ, too: `M003/video/front/sad/1.mp4` and `M003/audio/sad/1.m4a`.

Without a pattern every video is taken, without labels. If the pattern has no {split}, a hash of the path, or of the
speaker, puts two fractions of the clips into val and test.

`{split}/{speaker}/{word}/*` matches `train/anna/hello/take 1.mp4`, and `**/{word}_*` matches `2024/may/hello_7.mov`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from avprep.errors import ManifestError
from avprep.layouts.scan import (
    AUDIO_SUFFIXES,
    Scan,
    is_video,
    preferred,
    stable_split,
    suffix_of,
    walk,
    walk_audio,
)
from avprep.manifest import Clip, make_key

EXPECTS = "video files that fit --pattern"

SplitBy = Literal["clip", "speaker"]
"""Unit that is never in more than one split."""

_KIND = r"(?:videos?|audios?|sounds?)?[ _-]?(?:mp4|mpe?g|avi|mov|mkv|flv|flash|wav|aac|m4a|mp3|flac)?"
_VIEW = r"front|down|top|(?:left|right)_\d+"
_RULES = (None, re.compile(_KIND, re.IGNORECASE), re.compile(f"{_KIND}|{_VIEW}", re.IGNORECASE))
"""Folders that may differ between the paths of a video and its audio: none, if that finds the audio; else those named
for a kind of file; else also those named for a camera's view."""
_LABELS = ("emotion", "intensity")
_PLACEHOLDERS = ("split", "speaker", "word", *_LABELS)
_SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def scan(
    root: Path,
    scan: Scan,
    *,
    pattern: str | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_by: SplitBy = "clip",
    audio_beside: bool = False,
    audio_root: Path | None = None,
) -> None:
    """Make a clip of every video.

    pattern: positions of the labels in the path, e.g. '{split}/{speaker}/{word}/*'.
    val_fraction: fraction of the clips for validation.
    test_fraction: fraction of the clips for testing.
    split_by: unit that is never in more than one split.
    audio_beside: audio is in a file beside each video.
    audio_root: the folder that holds the audio files, if not ROOT.

    Raises ManifestError for a malformed pattern and for options that contradict each other.
    Problems: `no_match`, `unknown_split`, `missing_audio`, `ambiguous_audio`.
    """
    if audio_beside and audio_root is not None:
        raise ManifestError("--audio-beside and --audio-root: give one of the two")
    _check_fractions(val_fraction, test_fraction)
    expression = compile_pattern("**" if pattern is None else pattern)
    if split_by == "speaker" and "speaker" not in expression.groupindex:
        raise ManifestError("--split-by speaker needs {speaker} in --pattern")

    paths = list(walk(root, scan))
    sounds = None
    if audio_root is not None:
        sounds = _Sounds(walk_audio(audio_root, scan), _RULES)
    elif audio_beside:
        sounds = _Sounds(paths, _RULES[:1])
    for path in filter(is_video, paths):
        stem = posixpath.splitext(path)[0]
        match = expression.fullmatch(stem)
        if match is None:
            scan.problem("no_match", path, f"does not fit --pattern {pattern}")
            continue
        labels = match.groupdict()
        speaker = labels.get("speaker")
        if "split" not in labels:
            hashed = speaker if split_by == "speaker" and speaker is not None else stem
            split = stable_split(hashed, val_fraction=val_fraction, test_fraction=test_fraction)
        elif labels["split"].lower() in _SPLITS:
            split = _SPLITS[labels["split"].lower()]
        else:
            scan.problem("unknown_split", path, f"{labels['split']!r} is none of {', '.join(_SPLITS)}")
            continue
        audio = None
        if sounds is not None:
            audio = sounds.only(path, "beside it" if audio_root is None else f"below {audio_root}", scan)
            if audio is None:
                continue
        scan.clips.append(_clip(path, split, audio, labels))


def _clip(path: str, split: str, audio: str | None, found: Mapping[str, str]) -> Clip:
    """Return the clip of a video. found: the text matched by each placeholder."""
    labels = {name: found[name] for name in _LABELS if name in found}
    key, word, speaker = make_key(posixpath.splitext(path)[0]), found.get("word"), found.get("speaker")
    return Clip(key, path, split, audio=audio, word=word, speaker=speaker, labels=labels or None)


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):  # also for NaN
        raise ManifestError(
            f"--val-fraction {val_fraction} and --test-fraction {test_fraction}: neither may be below 0, "
            "and their sum must be below 1, or nothing is left to train on"
        )


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern, with a group for each placeholder.

    Raises ManifestError for an unknown placeholder or a malformed pattern.
    """
    folders = pattern.split("/")
    seen: set[str] = set()
    expression = ""
    for position, folder in enumerate(folders):
        last = position == len(folders) - 1
        if folder == "**":
            expression += ".+" if last else "(?:[^/]+/)*"
        else:
            expression += _compile_name(pattern, folder, seen) + ("" if last else "/")
    return re.compile(expression, re.DOTALL)


def _compile_name(pattern: str, name: str, seen: set[str]) -> str:
    """Return the expression of one component of a pattern; `seen` collects the placeholders so far."""
    if name in ("", ".", "..") or "**" in name:
        raise ManifestError(f"--pattern {pattern}: {name!r} cannot stand between slashes; try * or a name, or ** alone")
    expression = ""
    for piece in re.split(r"(\{[^{}]*\}|\*)", name):
        if piece == "*":
            expression += "[^/]*"
        elif piece.startswith("{") and piece.endswith("}"):
            placeholder = piece[1:-1]
            if placeholder not in _PLACEHOLDERS:
                known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
                raise ManifestError(f"--pattern {pattern}: {piece} is none of {known}")
            expression += f"(?P={placeholder})" if placeholder in seen else f"(?P<{placeholder}>[^/]+?)"
            seen.add(placeholder)
        elif "{" in piece or "}" in piece:
            raise ManifestError(f"--pattern {pattern}: a brace in {name!r} has no partner")
        else:
            expression += re.escape(piece)
    return expression


class _Sounds:
    """Audio files by the remainder of their paths under each rule; the first rule that finds a video's decides."""

    def __init__(self, paths: Iterable[str], rules: Sequence[re.Pattern[str] | None]) -> None:
        self._found: dict[re.Pattern[str] | None, dict[str, list[str]]] = {rule: {} for rule in rules}
        for path in paths:
            if suffix_of(path) in AUDIO_SUFFIXES:
                for rule, found in self._found.items():
                    found.setdefault(_reduced(posixpath.splitext(path)[0], rule), []).append(path)

    def only(self, video: str, where: str, scan: Scan) -> str | None:
        """Return the audio of a video; if there is none or more than one, record a problem and return None.

        where: the place that was searched, in words.
        """
        found = self.of(posixpath.splitext(video)[0])
        if not found:
            scan.problem("missing_audio", video, f"no audio file of the same name {where} (.wav, .m4a, …)")
        elif len(found) > 1:
            scan.problem("ambiguous_audio", video, f"more than one audio file fits: {', '.join(found[:3])}")
        return found[0] if len(found) == 1 else None

    def of(self, stem: str) -> list[str]:
        """Return the audio of a video; several files of one kind if no rule distinguishes them."""
        for rule, found in self._found.items():
            if fitting := found.get(_reduced(stem, rule)):
                return preferred(fitting)
        return []


def _reduced(stem: str, ignored: re.Pattern[str] | None) -> str:
    """Return a path without the ignored folders."""
    *folders, name = stem.split("/")
    return "/".join([*(folder for folder in folders if not (ignored and ignored.fullmatch(folder))), name])
