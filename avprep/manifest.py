"""The manifest: a JSON Lines file with a header and then one clip per line. It is the input of every run."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from avprep import untrusted
from avprep.errors import ManifestError, RunError, explained, plural, short
from avprep.schema import MANIFEST_VERSION

SPLITS = ("train", "val", "test")
MAX_KEY = 12_288
"""Maximum length of a key (characters): that of the longest path, 4096 bytes, with each byte escaped."""


TimedWord = tuple[str, float, float]
"""A word, its start and its end in the clip (s)."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of a data set.

    key: unique in the data set, made from the full relative path; holds no dot.
    video: path of the video file, relative to the manifest's root, with forward slashes.
    split: `train`, `val` or `test`.
    audio: path of the audio if it is in another file.
    start, duration: seconds into the video; None means the whole file.
    word, speaker: labels, None if unknown.
    track: path of a file with the data set's own face boxes.
    words: `(word, start, end)` of each annotated word of the clip, in order; seconds from the clip's start.
    labels: other labels of the clip, by name, such as `emotion`, `intensity` or `text`.
    """

    key: str
    video: str
    split: str
    audio: str | None = None
    start: float | None = None
    duration: float | None = None
    word: str | None = None
    speaker: str | None = None
    track: str | None = None
    words: tuple[TimedWord, ...] | None = None
    labels: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, in declaration order."""
        found = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}
        if self.words is not None:
            found["words"] = [list(word) for word in self.words]
        if self.labels is not None:
            found["labels"] = dict(self.labels)
        return found


_FIELDS = tuple(f.name for f in fields(Clip))
_LABEL = re.compile(r"[a-z_][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Manifest:
    """A data set: row `n` of a split belongs to shard `n // shard_size`.

    root: the folder to which clip paths are relative.
    seed: the seed with which the rows were shuffled.
    """

    dataset: str
    root: Path
    clips: tuple[Clip, ...]
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def header(self) -> dict[str, Any]:
        """Return the first line of the manifest file."""
        known = {"dataset": self.dataset, "root": str(self.root), "seed": self.seed}
        return {"avprep_manifest": MANIFEST_VERSION, **known, **self.extra}

    def split(self, name: str) -> tuple[Clip, ...]:
        """Return the clips of one split, in the manifest's order."""
        return tuple(clip for clip in self.clips if clip.split == name)

    def shards(self, shard_size: int) -> Iterator[tuple[str, tuple[Clip, ...]]]:
        """Yield `(name, clips)` of every shard, e.g. `("train-000000", …)`, in the manifest's order."""
        rows = {split: iter(self.split(split)) for split in SPLITS}
        for name, n_clips in shard_lengths(self.counts(), shard_size):
            yield name, tuple(islice(rows[name.partition("-")[0]], n_clips))

    def counts(self) -> dict[str, int]:
        """Return the number of clips of each split."""
        return {split: len(self.split(split)) for split in SPLITS}

    def limited(self, limit: int | None) -> Manifest:
        """Return the manifest cut to the first `limit` clips of each split."""
        if limit is None:
            return self
        clips = tuple(clip for split in SPLITS for clip in self.split(split)[:limit])
        return Manifest(self.dataset, self.root, clips, self.seed, self.extra)

    def digest(self) -> str:
        """Return the sha256 of the manifest. The root is left out: moving a data set does not change its shards."""
        return self._digest

    @cached_property
    def _digest(self) -> str:  # takes seconds for half a million clips
        rows = "\n".join(_dump(clip.to_json()) for clip in self.clips)
        return hashlib.sha256(f"{MANIFEST_VERSION}\n{self.dataset}\n{rows}".encode()).hexdigest()


def in_words(manifest: Manifest, beside: Manifest | None = None) -> str:
    """Return the data set and number of clips; if those of `beside` are the same, also how the two differ."""
    words = f"{manifest.dataset}, {plural(len(manifest.clips), 'clip')}"
    if beside is None or in_words(beside) != words:
        return words
    rows = {_dump(clip.to_json()) for clip in beside.clips}
    others = sum(_dump(clip.to_json()) not in rows for clip in manifest.clips)
    return f"{words}, {others} of them not in the other" if others else f"{words}, the same in another order"


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard, without its column and extension."""
    return f"{split}-{number:06d}"


def shard_lengths(clips: dict[str, int], shard_size: int) -> Iterator[tuple[str, int]]:
    """Yield the name of every shard and its number of clips, in the manifest's order.

    clips: the number of clips of each split.
    """
    for split in SPLITS:
        for n, first in enumerate(range(0, clips[split], shard_size)):
            yield shard_name(split, n), min(shard_size, clips[split] - first)


def make_key(relative: str) -> str:
    """Return the clip key of a relative path without its extension.

    WebDataset groups members by what precedes the first dot of the file name, so dots are written as `%2E`. Other
    characters that cause trouble in tar members, shells or JSON tools are escaped likewise. The map is one-to-one.
    """
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise ManifestError(f"{relative}: a clip's path must lie below the data set's root")
    return re.sub(r"[^\w/+=@,-]", lambda m: "".join(f"%{byte:02X}" for byte in m.group().encode()), str(path))


def shuffled(clips: Iterable[Clip], seed: int) -> tuple[Clip, ...]:
    """Return the clips grouped by split and shuffled within each, the same for every scan order."""
    ordered = sorted(clips, key=lambda clip: clip.key)
    result: list[Clip] = []
    for split in SPLITS:
        rows = [clip for clip in ordered if clip.split == split]
        random.Random(f"{seed}/{split}").shuffle(rows)
        result += rows
    return tuple(result)


def duplicate_keys(clips: Iterable[Clip]) -> dict[str, list[str]]:
    """Return the keys of more than one clip, each with the videos that share it."""
    videos: dict[str, list[str]] = {}
    for clip in clips:
        videos.setdefault(clip.key, []).append(clip.video)
    return {key: paths for key, paths in videos.items() if len(paths) > 1}


def render(manifest: Manifest) -> str:
    """Return the text of a manifest file."""
    return "".join(_dump(row) + "\n" for row in (manifest.header(), *(clip.to_json() for clip in manifest.clips)))


def read(path: Path) -> Manifest:
    """Read a manifest file; raises ManifestError as `scan` does, and for a duplicate key."""
    head, rows = scan(path)
    clips = tuple(rows)
    _check_keys(str(path), clips)
    return replace(head, clips=clips)


def scan(path: Path) -> tuple[Manifest, Iterator[Clip]]:
    """Open a manifest file: return its header, as a manifest without clips, and its clips, one in memory at a time.

    Raises ManifestError with file and line, here or at the clip, for a missing file, another format, another version,
    an unknown or invalid field.
    """
    rows = _rows(path)
    _, header = next(rows, (1, {}))
    version = header.get("avprep_manifest")
    if version is None:
        raise ManifestError(
            f"{path}: not a manifest (its first line has no avprep_manifest); see `avprep index --help`"
        )
    if version != MANIFEST_VERSION:
        raise ManifestError(
            f"{path}: manifest version {short(version)}, but this avprep reads version {MANIFEST_VERSION}"
        )
    head = _head(f"{path}:1", header)
    return head, (_clip(f"{path}:{number}", row) for number, row in rows)


def _dump(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(", ", ": "))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and content of each line that is not empty, and of the first line even if it is."""
    number = 0
    try:
        for number, line in enumerate(untrusted.json_lines(path), 1):
            if number == 1 or line.strip():
                row = untrusted.parse_json(line)
                if "\\" in line:
                    _dump(row).encode()  # an escape may be a lone surrogate, which is not text
                yield number, row
    except OSError as error:
        why = explained(error)
        raise ManifestError(f"{path}: cannot read the manifest ({why}); make one with `avprep index`") from error
    except UnicodeDecodeError as error:
        number += 1
        raise ManifestError(f"{path}:{number}: not UTF-8 text ({error.reason}){_no_manifest(number)}") from error
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"{path}:{number}: holds half a letter (\\u{ord(error.object[error.start]):04x})"
        ) from error
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise ManifestError(f"{path}:{number}: not JSON ({why}){_no_manifest(number)}") from error


def _no_manifest(line: int) -> str:
    """Return what to add to the fault of an unreadable line: with such a first line, the file is none of ours."""
    return "; MANIFEST is a file that `avprep index` writes" if line == 1 else ""


def _head(where: str, header: dict[str, Any]) -> Manifest:
    """Return the manifest of a header, without clips; ManifestError, beginning with `where`, for an invalid field."""
    if not isinstance(header.get("root"), str) or not isinstance(header.get("dataset"), str):
        raise ManifestError(f"{where}: the header needs the text fields dataset and root")
    seed = header.get("seed", 0)
    if not isinstance(seed, int):
        raise ManifestError(f"{where}: seed must be a whole number, not {short(seed)}")
    known = {"avprep_manifest", "dataset", "root", "seed"}
    extra = {name: value for name, value in header.items() if name not in known}
    return Manifest(header["dataset"], Path(header["root"]), (), seed, extra)


def check(manifest: Manifest) -> None:
    """Raise ManifestError, naming the clip by its number, for a manifest that `read` would refuse as a file."""
    where = "the manifest"
    _head(where, manifest.header())
    for number, clip in enumerate(manifest.clips):
        _clip(f"{where}: clip {number}", clip.to_json())
    _check_keys(where, manifest.clips)


def _check_keys(where: str, clips: Iterable[Clip]) -> None:
    for key, videos in duplicate_keys(clips).items():
        shown = ", ".join(video[:100] for video in videos[:3])
        raise ManifestError(f"{where}: the key {key[:100]} is there {len(videos)} times ({shown})")


def _clip(where: str, row: dict[str, Any]) -> Clip:
    """Return the clip of a row, checked; ManifestError, beginning with `where`, for an unknown or invalid field."""
    if unknown := sorted(row.keys() - _FIELDS):
        raise ManifestError(f"{where}: unknown field {short(unknown[0])}")
    for name in ("key", "video", "split"):
        if not row.get(name):
            raise ManifestError(f"{where}: the field {name!r} is missing")
    for name, value in row.items():
        if name in ("start", "duration"):
            least = 0 if name == "start" else 1e-9
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
                raise ManifestError(f"{where}: {name} must be a number of seconds, not {short(value)}")
        elif name == "words":
            row[name] = _timed_words(where, value)
        elif name == "labels":
            _check_labels(where, value)
        elif not isinstance(value, str):
            raise ManifestError(f"{where}: {name} must be text, not {short(value)}")
    if row["split"] not in SPLITS:
        raise ManifestError(f"{where}: split must be one of {', '.join(SPLITS)}, not {short(row['split'])}")
    if "." in row["key"] or row["key"].startswith("/") or row["key"].endswith("/"):
        raise ManifestError(f"{where}: a key holds no dot and no slash at either end: {short(row['key'])}")
    if len(row["key"]) > MAX_KEY or "\0" in row["key"]:  # a NUL would end the name in a tar
        raise ManifestError(f"{where}: a key has up to {MAX_KEY} characters, none of them NUL: {short(row['key'])}")
    for name in ("video", "audio", "track"):
        if "\0" in row.get(name, ""):
            raise ManifestError(f"{where}: {name} holds a NUL, which no path does: {short(row[name])}")
        if name in row and (row[name].startswith("/") or (".." in row[name] and ".." in row[name].split("/"))):
            raise ManifestError(f"{where}: {name} must be a path below the root, not {short(row[name])}")
    return Clip(**row)


def _check_labels(where: str, value: object) -> None:
    """Raise ManifestError unless the labels map names to texts and no name is that of a field."""
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: labels must be texts by their names, not {short(value)}")
    for name, text in value.items():
        if not _LABEL.fullmatch(name) or name in _FIELDS:
            raise ManifestError(
                f"{where}: a label's name is up to 40 letters, digits and _, and that of no field: {short(name)}"
            )
        if not isinstance(text, str) or not text:
            raise ManifestError(f"{where}: the label {name} must be text, not {short(text)}")


def _timed_words(where: str, value: object) -> tuple[TimedWord, ...]:
    """Return the words of a clip, checked; ManifestError for anything but `[[word, start, end], …]` in order."""
    rows = value if isinstance(value, list) else [value]
    words: list[TimedWord] = []
    for row in rows:
        match row:
            case [str(word), int() | float() as start, int() | float() as end] if (
                word and not isinstance(start, bool) and not isinstance(end, bool)
            ):
                words.append((word, start, end))
                continue
        raise ManifestError(f"{where}: words must be lists of a word, its start and its end, not {short(row)}")
    times = [time for _, start, end in words for time in (start, end)]
    if any(not 0 <= time < math.inf for time in times) or times != sorted(times):
        raise ManifestError(f"{where}: words must be in order, with times in seconds from 0 on")
    return tuple(words)


def opened(plan: Manifest | Path | str, root: Path | str | None = None, limit: int | None = None) -> Manifest:
    """Return a manifest with the given root, cut to `limit` clips of each split; a path is read as a manifest file.

    Raises ManifestError if it is not well-formed, RunError if its data set is missing.
    """
    if isinstance(plan, Manifest):
        check(plan)
    else:
        plan = read(Path(plan))
    return rooted(plan.limited(limit), root)


def rooted(plan: Manifest, root: Path | str | None) -> Manifest:
    """Return a manifest whose data set is at `root`, if given; RunError if that folder is missing."""
    plan = plan if root is None else Manifest(plan.dataset, Path(root).resolve(), plan.clips, plan.seed, plan.extra)
    if not plan.root.is_dir():
        raise RunError(f"{plan.root}: the data set is not there; give --root if it was moved")
    return plan
