"""What OUT holds, as a table: each row a clip of both columns, with its labels and where it lies in the tars.

The table is made from the manifest and the sidecars alone. A clip's members are then read in one piece of each tar, so
clips can be taken in any order, by any number of processes, and resuming costs nothing. Tars are hostile: no path from
them is used, nothing is unpickled, nothing is read beyond the piece that the sidecar names.
"""

from __future__ import annotations

import functools
import io
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avprep import files, schema, untrusted
from avprep.errors import ShardError
from avprep.files import check_regular
from avprep.shards import tars

OPEN_TARS = 64
"""Tars that a process keeps open."""
SILENT = "silent"
"""Why clips are left out that hold silence alone."""
_UNREADABLE = "not a whole sample of a tar"
_ANOTHER_TAR = "the tar is not the one that its sidecar describes"

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Clips:
    """The clips of a split that both columns hold. Arrays, not objects: half a million rows, shared by processes.

    out: the folder. shards: names of shards. keys: `S`, UTF-8, (N,).
    shard, n_frames, words, speakers: int64 (N,); a label is an index into `vocabulary` or `people`, −1 where unknown.
    places: int64 (N, 2, 2): offset and length in bytes in the tar of crop and of mfcc.
    skipped: why clips of the plan are not here, with their number.
    mfcc_preset: `davs` or `syncnet`, "" where nothing says it. dataset: what the manifest calls it, "" likewise.
    """

    out: Path
    shards: tuple[str, ...]
    keys: NDArray[np.bytes_]
    shard: Ints
    n_frames: Ints
    words: Ints
    speakers: Ints
    places: Ints
    vocabulary: tuple[str, ...]
    people: tuple[str, ...]
    skipped: Counter[str]
    mfcc_preset: str
    dataset: str

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """Return a clip's key."""
        return bytes(self.keys[row]).decode()

    def where(self, keep: NDArray[np.bool_], reason: str) -> Clips:
        """Return the clips to keep; the others are counted as skipped for a reason."""
        if keep.all():
            return self
        rows = {
            name: getattr(self, name)[keep] for name in ("keys", "shard", "n_frames", "words", "speakers", "places")
        }
        return replace(self, **rows, skipped=self.skipped + Counter({reason: int((~keep).sum())}))

    def read(self, row: int, column: str, frames: Collection[int]) -> dict[str, bytes]:
        """Read what is wanted of a clip in a column: the arrays of `mfcc`, or frames of `crop`.

        Returns member name -> bytes; frames as `000.jpg` or `000.png`. ShardError, one line, for a piece of a tar that
        is not exactly this sample.
        """
        path = _tar(self.out, column, self.shards[self.shard[row]])
        offset, length = (int(value) for value in self.places[row, schema.COLUMNS.index(column)])
        try:
            data = os.pread(_open(path), length, offset)
            return _members(data, column, self.key(row), int(self.n_frames[row]), frames)
        except (OSError, ShardError) as error:
            raise ShardError(f"{path}: {self.key(row)}: {error}") from error


def read_clips(
    out: Path,
    split: str,
    *,
    vocabulary: tuple[str, ...] | None = None,
    people: tuple[str, ...] | None = None,
    keep_silent: bool = False,
) -> Clips:
    """Read the table of a split: the clips that are finished and `ok` in both columns.

    vocabulary, people: those of another split, whose numbers the labels are to have; None: this split's own, sorted.
    keep_silent: take clips that hold silence alone.
    Shards that are not finished or cut off, clips that failed in a column, and silent ones are left out and counted.
    ShardError for a folder that holds no shards of ours or was written by another version.
    """
    _opened.cache_clear()  # tars may have been made anew since
    dataset, labels = _read_labels(out / "manifest.jsonl", split)
    if not (out / "crop").is_dir() or not (out / "mfcc").is_dir():
        missing = "crop" if not (out / "crop").is_dir() else "mfcc"
        raise ShardError(f"{out}: there is no {missing} column: run `avprep {missing}` first")
    vocabulary = _names(vocabulary, (word for word, _ in labels.values()))
    people = _names(people, (speaker for _, speaker in labels.values()))
    word_numbers = {word: n for n, word in enumerate(vocabulary)}
    speaker_numbers = {speaker: n for n, speaker in enumerate(people)}

    names = sorted({path.stem for column in schema.COLUMNS for path in (out / column).glob(f"{split}-*.json")})
    skipped: Counter[str] = Counter()
    rows: list[tuple[bytes, int, int, int, int, int, int, int, int]] = []
    left = dict(labels)
    for number, name in enumerate(names):
        silent: set[str] = set()
        crop, mfcc = (_read_column(out, column, name, silent) for column in schema.COLUMNS)
        for key in list(dict.fromkeys((*crop, *mfcc))):
            if left.pop(key, None) is None:
                skipped["not in the manifest"] += 1
                continue
            found = crop.get(key), mfcc.get(key)
            failed = [f"{c}: {f}" for c, f in zip(schema.COLUMNS, found, strict=True) if isinstance(f, str)]
            failed += [f"{c}: not there" for c, f in zip(schema.COLUMNS, found, strict=True) if f is None]
            if failed:
                skipped[failed[0]] += 1
                continue
            seen, heard = found
            assert isinstance(seen, tuple)
            assert isinstance(heard, tuple)
            if seen[0] != heard[0]:
                skipped["crop and mfcc differ in length"] += 1
                continue
            if key in silent and not keep_silent:
                skipped[SILENT] += 1
                continue
            word, speaker = labels[key]
            word_number, speaker_number = word_numbers.get(word or "", -1), speaker_numbers.get(speaker or "", -1)
            rows.append((key.encode(), number, seen[0], word_number, speaker_number, *seen[1:], *heard[1:]))
    if left:
        skipped["in no finished shard"] += len(left)
    table = np.array([row[1:] for row in rows], np.int64).reshape(len(rows), 8)
    shard, n_frames, words, speakers = table[:, :4].T.copy()
    return Clips(
        out=out,
        shards=tuple(names),
        keys=np.array([row[0] for row in rows], np.bytes_),
        shard=shard,
        n_frames=n_frames,
        words=words,
        speakers=speakers,
        places=table[:, 4:].reshape(-1, 2, 2),
        vocabulary=vocabulary,
        people=people,
        skipped=skipped,
        mfcc_preset=_mfcc_preset(out),
        dataset=dataset,
    )


_Record = tuple[int, int, int]
"""Frames, offset, length."""


def _read_column(out: Path, column: str, name: str, silent: set[str]) -> dict[str, _Record | str]:
    """Return what a sidecar says of each clip: where it lies, or the reason of its failure.

    silent: takes the keys of those that hold silence alone.
    """
    path = out / column / f"{name}.json"
    tar = _tar(out, column, name)
    try:
        sidecar = untrusted.read_json(path)
        size = tar.stat().st_size
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot read the sidecar ({error}): run `avprep {column}` again") from error
    if (version := sidecar.get("avprep_sidecar")) != schema.SIDECAR_VERSION:
        raise ShardError(
            f"{path}: sidecar version {repr(version)[:40]}, this avprep reads {schema.SIDECAR_VERSION}: use the "
            "avprep that wrote it, or make the shards anew"
        )
    records: dict[str, _Record | str] = {}
    cut_off = sidecar.get("bytes") != size
    offset = 0
    places: dict[str, tuple[int, int]] | None = None
    clips = sidecar.get("clips")
    for clip in clips if isinstance(clips, list) else ():
        match clip:
            case {"key": str(key), "state": "failed", "reason": str(reason)}:
                records[key] = reason
            case {"key": str(key), "state": "ok", "n_frames": int(n_frames)} if n_frames > 0:
                length = clip.get("bytes")
                if clip.get("silent", clip.get("silent_share") == 1) is True:  # earlier avpreps told the share alone
                    silent.add(key)
                if cut_off:
                    records[key] = _ANOTHER_TAR
                elif type(length) is int and length > 0 and places is None:
                    records[key] = (n_frames, offset, length)
                    offset += length
                else:  # of an earlier avprep, whose sidecars don't tell where a clip lies
                    places = _scan(tar) if places is None else places
                    records[key] = (n_frames, *places[key]) if key in places else "not in the tar"
                match records[key]:  # before memory is taken for it; a frame of a crop is a member with its header
                    case (_, begin, length) if begin + length > size or (
                        column == "crop" and n_frames > length // tars.BLOCK
                    ):
                        records[key] = _ANOTHER_TAR
            case _:
                raise ShardError(f"{path}: damaged, a clip is neither ok nor failed: run `avprep {column}` again")
    return records


def _scan(path: Path) -> dict[str, tuple[int, int]]:
    """Return offset and length of each sample of a tar."""
    places: dict[str, tuple[int, int]] = {}
    try:
        with files.open_file(path) as file:
            for entry in tars.members(file):
                key = entry.name.partition(".")[0]
                first = places.get(key, (entry.first, 0))[0]
                places[key] = (first, entry.end - first)
    except (OSError, ShardError) as error:
        raise ShardError(f"{path}: cannot be read ({error}): run `avprep verify`") from error
    return places


def _members(data: bytes, column: str, key: str, n_frames: int, frames: Collection[int]) -> dict[str, bytes]:
    """Return what is wanted of a sample after a look at the names of all that it holds."""
    found: dict[str, bytes] = {}
    names: list[str] = []
    wanted = {f"{key}.{schema.frame_member(i, kind)}" for i in frames for kind in schema.IMAGE_FORMATS}
    wanted |= {f"{key}.{name}" for name in schema.ARRAYS["mfcc"]}
    try:
        for name, content in _files(data):
            names.append(name)
            if name in wanted:
                found[name[len(key) + 1 :]] = bytes(content)
    except ShardError as error:
        raise ShardError(f"{_UNREADABLE} ({error})") from error
    if len(set(names)) < len(names):
        raise ShardError("a member is there twice")
    formats = [kind for kind in schema.IMAGE_FORMATS if f"{key}.{schema.frame_member(0, kind)}" in names]
    expected = {schema.METADATA[column], *schema.ARRAYS[column]}
    if column == "crop":
        expected |= {schema.frame_member(i, formats[0] if formats else "jpg") for i in range(n_frames)}
    full_names = {f"{key}.{name}" for name in expected}
    if missing := sorted(full_names - set(names)):
        raise ShardError(f"{missing[0]!r} is missing")
    if surplus := sorted(set(names) - full_names):
        raise ShardError(f"{surplus[0]!r} does not belong to the sample")
    return found


def _files(data: bytes) -> Iterable[tuple[str, memoryview]]:
    """Return name and content of each file of a part of a tar."""
    view = memoryview(data)
    return _plain_files(data) or (
        (entry.name, view[entry.begin : entry.begin + entry.size])
        for entry in tars.members(io.BytesIO(data), 0, len(data))
    )


def _plain_files(data: bytes) -> list[tuple[str, memoryview]] | None:
    """Return name and content of each file of a tar whose headers are all of the plainest kind; None for any other.

    That is what avprep writes where keys are short and ASCII. It takes a third of the time of looking at all of a
    header, which for a clip of 29 frames is a twentieth of the time of decoding 12 of them.
    """
    view, place, found = memoryview(data), 0, []
    while place < len(data):
        header = data[place : place + tars.BLOCK]
        name, _, rest = header[:100].partition(b"\0")
        size = header[124:135]
        if header[156:157] != b"0" or header[257:263] != b"ustar\0" or header[345:346] != b"\0" or rest.strip(b"\0"):
            return None
        if not name.isascii() or not size.isdigit() or size.strip(b"01234567"):
            return None
        begin, length = place + tars.BLOCK, int(size, 8)
        if begin + length > len(data):
            return None
        found.append((name.decode("ascii"), view[begin : begin + length]))
        place = begin + -(-length // tars.BLOCK) * tars.BLOCK
    return found


def _read_labels(path: Path, split: str) -> tuple[str, dict[str, tuple[str | None, str | None]]]:
    """Read the data set's name, and key -> word, speaker of a split, from the frozen plan."""
    labels: dict[str, tuple[str | None, str | None]] = {}
    try:
        lines = untrusted.json_lines(path)
        header = untrusted.parse_json(next(lines, ""))
        if (version := header.get("avprep_manifest")) is None:
            raise ShardError(f"{path}: not a manifest")
        if version != schema.MANIFEST_VERSION:
            raise ShardError(
                f"{path}: manifest version {repr(version)[:40]}, this avprep reads {schema.MANIFEST_VERSION}: use the "
                "one that wrote it"
            )
        for line in lines:
            match untrusted.parse_json(line):
                case {"key": str(key), "split": str(of), **rest} if key.isprintable():  # text, on one line
                    if of == split:
                        labels[key] = (_label(rest.get("word")), _label(rest.get("speaker")))
                case _:
                    raise ShardError(f"{path}: a line is no clip")
    except FileNotFoundError as error:
        raise ShardError(f"{path.parent}: no shards here (no manifest.jsonl): run `avprep crop` and `mfcc`") from error
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be read ({error})") from error
    return _label(header.get("dataset")) or "", labels


def _label(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _names(given: tuple[str, ...] | None, found: Iterator[str | None]) -> tuple[str, ...]:
    return tuple(sorted({name for name in found if name})) if given is None else given


def _mfcc_preset(out: Path) -> str:
    try:
        settings = untrusted.read_json(out / "mfcc" / "run.json").get("settings")
    except (OSError, ValueError):  # shards without it are shards all the same
        return ""
    return str(settings.get("preset", "")) if isinstance(settings, dict) else ""


def _tar(out: Path, column: str, shard: str) -> Path:
    return out / column / f"{shard}.tar"


class _Opened(io.FileIO):
    """A file that is closed once it is forgotten."""

    def __del__(self) -> None:
        self.close()


@functools.lru_cache(OPEN_TARS)
def _opened(path: Path, process: int) -> io.FileIO:
    check_regular(path)
    return _Opened(path)


def _open(path: Path) -> int:
    """Return the descriptor of a tar, which stays open; each process has its own."""
    return _opened(path, os.getpid()).fileno()
