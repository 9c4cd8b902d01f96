"""The common part of all layouts: walking a data set, and recording what is found."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from avprep.files import check_regular
from avprep.manifest import Clip

_VIDEO = (
    "mp4 m4v mp4v mov qt f4v ismv mj2 3gp 3gpp 3g2 3gp2 mkv mk3d webm avi divx flv wmv asf mpg mpeg mpe m2p vob tod ts "
    "mts m2ts m2t trp ogv ogm mxf gxf dv rm rmvb nut ivf m1v m2v h264 264 avc h265 265 hevc"
)


_AUDIO = "wav m4a aac flac mp3 ogg oga opus mka aif aiff w64 wma ac3"


_OTHER = "gif apng swf y4m yuv wtv dvr-ms amv nsv bik smk roq mod evo ivr viv vro dav mlv r3d braw m3u m3u8 mpd avs"


VIDEO_SUFFIXES = frozenset(f".{kind}" for kind in _VIDEO.split())
"""Suffixes of video files, in lower case: the containers that `avprep.media.container.FORMATS` reads."""


AUDIO_SUFFIXES = tuple(f".{kind}" for kind in _AUDIO.split())
"""Suffixes of audio files, in lower case, in order of preference."""


OTHER_VIDEO_SUFFIXES = frozenset(f".{kind}" for kind in _OTHER.split())
"""Suffixes of videos and playlists that are not read."""


UNFINISHED_SUFFIXES = frozenset((".part", ".partial", ".crdownload", ".download", ".aria2", ".ytdl"))
"""Suffixes that downloaders append to the names of incomplete files."""


_MAC_FOLDERS = ("__MACOSX", ".AppleDouble")


_MAC_MESSAGE = "{} named ._* or __MACOSX, which a Mac leaves beside the files that it copies; passed over"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the data set from which no clip could be made.

    kind: a short code by which problems are counted, e.g. `missing_audio`.
    path: the file, relative to the root; absolute if it is below another folder.
    message: one line of explanation.
    count: the number of problems that this one stands for.
    """

    kind: str
    path: str
    message: str
    count: int = 1


@dataclass
class Scan:
    """The results of a layout: clips and problems."""

    clips: list[Clip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, kind: str, path: str, message: str, count: int = 1) -> None:
        """Record a file from which no clip could be made, or whose annotation is damaged; or `count` of them."""
        self.problems.append(Problem(kind, path, message, count))

    def counts(self) -> dict[str, int]:
        """Return the number of problems of each kind."""
        counted: Counter[str] = Counter()
        for problem in self.problems:
            counted[problem.kind] += problem.count
        return dict(counted)


def walk(root: Path, scan: Scan) -> Iterator[str]:
    """Yield every file below `root`, relative and with forward slashes, in an order that depends only on names.

    Links are followed, except to a folder that contains them. Anything that cannot be followed, read or named in a
    manifest is recorded as a problem: `unreadable_folder`, `link_loop`, `not_a_file`, `bad_name`. So is a video of an
    unsupported kind, `unsupported_video`. The extra files of copies by a Mac are one problem, `mac_leftover`.
    """
    top = root.resolve()
    leftovers: list[str] = []
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
            if entry.name.startswith("._") or entry.name in _MAC_FOLDERS:
                leftovers.append(path)
            elif not is_unicode(entry.name):
                scan.problem("bad_name", printable(path), "the name is not UTF-8, which a manifest cannot hold")
            elif kind == "file":
                if unread := _why_unread(path):
                    scan.problem("unsupported_video", path, unread)
                yield path
            elif kind == "folder":
                subfolders.append((path, above))
            else:
                scan.problem("not_a_file", path, "neither a file nor a folder; a broken link?")
        pending += reversed(subfolders)
    if leftovers:
        scan.problem("mac_leftover", printable(leftovers[0]), _MAC_MESSAGE.format(len(leftovers)), len(leftovers))


def walk_audio(audio_root: Path, scan: Scan) -> Iterator[str]:
    """Yield every file below the folder of audio files, as `walk` does; paths of problems are absolute."""
    other = Scan()
    yield from walk(audio_root, other)
    scan.problems += [replace(problem, path=str(audio_root / problem.path)) for problem in other.problems]


def is_video(path: str) -> bool:
    """Return whether a file's name has the suffix of a video."""
    return suffix_of(path) in VIDEO_SUFFIXES


def read_annotation(path: Path) -> str:
    """Return the text of an annotation file.

    Raises ValueError, one line, if it cannot be read or is not UTF-8.
    """
    try:
        check_regular(path)
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from error


def nearest(path: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate with the most folders in common with `path`, and the fewest folders below these.

    So one in the same folder comes first. None if there is no candidate.
    """
    folders = path.split("/")[:-1]

    def rank(candidate: str) -> tuple[int, int, str]:
        others = candidate.split("/")[:-1]
        return -len(posixpath.commonprefix([folders, others])), len(others), candidate

    return min(candidates, key=rank, default=None)


def stable_split(name: str, *, val_fraction: float = 0.1, test_fraction: float = 0.1) -> str:
    """Return the split of a name by its hash: the same for every seed, machine and set of other files."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64  # uniform in [0, 1)
    if draw < test_fraction:
        return "test"
    return "val" if draw < test_fraction + val_fraction else "train"


def preferred(candidates: Sequence[str], suffixes: Sequence[str] = AUDIO_SUFFIXES) -> list[str]:
    """Return the audio files with the most preferred suffix."""
    rank = {suffix: n for n, suffix in enumerate(suffixes)}
    ranks = [rank[suffix_of(path)] for path in candidates]
    return [path for path, its_rank in zip(candidates, ranks, strict=True) if its_rank == min(ranks)]


def suffix_of(path: str) -> str:
    """Return the suffix of a file's name in lower case, with its dot."""
    return posixpath.splitext(path)[1].lower()


def _why_unread(path: str) -> str | None:
    """Return the remedy for an unsupported video or an unfinished download, by its name; None for others."""
    stem, suffix = posixpath.splitext(path.lower())
    if suffix in OTHER_VIDEO_SUFFIXES:
        return f"{suffix} is not read: convert it, e.g. to .mp4"
    if suffix in UNFINISHED_SUFFIXES and is_video(stem):
        return "an unfinished download: fetch the file again"
    return None


def _kind(entry: os.DirEntry[str]) -> str:
    """Return `file`, `folder` or `other`, following links."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself, or into a folder without permission
        return "other"


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def is_unicode(name: str) -> bool:
    """Return whether a name was UTF-8 on disk; other bytes arrive as lone surrogates."""
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)


def printable(name: str) -> str:
    """Return a name in printable form: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
