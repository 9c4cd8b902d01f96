"""Data set layouts: one module each, whose name is its name on the command line.

A layout module has `scan(root, scan, **options)`, which walks a data set and hands what it finds to a `Scan`, and
`EXPECTS`, which says in one line what it looks for. Only names and text annotations are read, never a video.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from avprep.errors import ManifestError
from avprep.manifest import Clip, Manifest, duplicate_keys, shuffled

NAMES = ("lrw", "voxceleb1", "voxceleb2", "grid", "folder")

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mkv", ".mov", ".avi", ".mpg", ".mpeg", ".webm", ".m4v", ".mts", ".ts", ".wmv", ".flv", ".3gp")
)
"""What a video file's name ends in, in lower case."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the data set that a clip could not be made from.

    kind: a short code that problems are counted by, e.g. `missing_audio`.
    path: the file, relative to the root.
    message: one line of explanation.
    """

    kind: str
    path: str
    message: str


@dataclass
class Scan:
    """What a layout found: clips, and problems by name."""

    clips: list[Clip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, kind: str, path: str, message: str) -> None:
        """Record a file that no clip could be made from, or whose annotation is damaged."""
        self.problems.append(Problem(kind, path, message))

    def counts(self) -> dict[str, int]:
        """Return the number of problems of each kind."""
        return dict(Counter(problem.kind for problem in self.problems))


def index(layout: str, root: Path, *, seed: int = 0, limit: int | None = None, **options: Any) -> tuple[Manifest, Scan]:
    """Scan a data set into a shuffled manifest; also return the scan, which holds the problems.

    limit: keep the first so many clips of each split, after shuffling.
    options: keyword options of the layout's `scan`.

    Raises ManifestError where the root is missing, no clip is found, or several clips share a key.
    """
    if layout not in NAMES:
        raise ManifestError(f"{layout}: no such layout; choose one of {', '.join(NAMES)}")
    if limit is not None and limit < 1:
        raise ManifestError(f"--limit must be at least 1, not {limit}")
    if not os.path.isdir(root):  # Path.is_dir raises below a closed folder
        raise ManifestError(f"{root}: not a folder; ROOT is the folder that holds the data set")
    root = root.resolve()
    if not _is_unicode(str(root)):
        raise ManifestError(f"{_printable(str(root))}: the name is not UTF-8, which a manifest cannot hold; rename it")
    module = importlib.import_module(f"{__name__}.{layout}")
    found = Scan()
    module.scan(root, found, **options)
    if not found.clips:
        problems = ", ".join(f"{count} {kind}" for kind, count in sorted(found.counts().items())) or "none"
        raise ManifestError(
            f"{root}: no clip found; the layout {layout} expects {module.EXPECTS} under ROOT (problems: {problems})"
        )
    _refuse_duplicates(root, found.clips)
    return Manifest(layout, root, shuffled(found.clips, seed), seed).limited(limit), found


def walk(root: Path, scan: Scan) -> Iterator[str]:
    """Yield every file below `root`, relative and with forward slashes, in an order that only names decide.

    Links are followed, except to a folder that they lie in. What cannot be followed, read or named in a manifest is
    recorded as a problem: `unreadable_folder`, `link_loop`, `not_a_file`, `bad_name`.
    """
    top = root.resolve()
    pending = [("", frozenset(_identity(folder) for folder in top.parents))]
    while pending:
        folder, above = pending.pop()
        try:
            here = _identity(top / folder)
            with os.scandir(top / folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            scan.problem("unreadable_folder", folder or ".", f"the folder cannot be read ({error.strerror})")
            continue
        if here in above:
            scan.problem("link_loop", folder, "a link to a folder that it lies in")
            continue
        subfolders = []
        above |= {here}
        for entry in entries:
            path = posixpath.join(folder, entry.name)
            kind = _kind(entry)
            if not _is_unicode(entry.name):
                scan.problem("bad_name", _printable(path), "the name is not UTF-8, which a manifest cannot hold")
            elif kind == "file":
                yield path
            elif kind == "folder":
                subfolders.append((path, above))
            else:
                scan.problem("not_a_file", path, "neither a file nor a folder; a broken link?")
        pending += reversed(subfolders)


def check_split_by(value: str, allowed: Any) -> None:
    """Refuse a `split_by` that is none of a layout's own: a typo would put one person into several splits.

    allowed: the Literal of the layout. Raises ManifestError.
    """
    if value not in get_args(allowed):
        raise ManifestError(f"--split-by {value!r} is none of this layout's: {', '.join(get_args(allowed))}")


def is_video(path: str) -> bool:
    """Tell whether a file's name ends like a video's."""
    return posixpath.splitext(path)[1].lower() in VIDEO_SUFFIXES


def read_annotation(path: Path) -> str:
    """Return the text of an annotation file.

    Raises ValueError with one line where it cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from error


def nearest(path: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate that shares the most folders with `path` and is least deep below them.

    So one beside `path` comes first. None where there is no candidate.
    """
    folders = path.split("/")[:-1]

    def rank(candidate: str) -> tuple[int, int, str]:
        others = candidate.split("/")[:-1]
        return -len(posixpath.commonprefix([folders, others])), len(others), candidate

    return min(candidates, key=rank, default=None)


def stable_split(name: str, *, val_share: float = 0.1, test_share: float = 0.1) -> str:
    """Return the split of a name by its hash: the same for every seed, machine and set of other files."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64  # even over [0, 1)
    if draw < test_share:
        return "test"
    return "val" if draw < test_share + val_share else "train"


def _refuse_duplicates(root: Path, clips: Sequence[Clip]) -> None:
    duplicates = duplicate_keys(clips)
    if duplicates:
        examples = "; ".join(f"{key} ({', '.join(videos[:3])})" for key, videos in list(duplicates.items())[:3])
        raise ManifestError(
            f"{root}: {len(duplicates)} keys would be there more than once: {examples}; "
            "rename, remove or set apart all but one of each"
        )


def _kind(entry: os.DirEntry[str]) -> str:
    """Return `file`, `folder` or `other`, seen through links."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself, or into a folder that is closed to us
        return "other"


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_unicode(name: str) -> bool:
    """Tell whether a name was UTF-8 on disk; bytes that were not arrive as lone surrogates."""
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
