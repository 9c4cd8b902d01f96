"""What OUT holds, as a table: each row a clip of both columns, with its labels and where it lies in the tars.

The table is made from the manifest and the sidecars alone. A clip's members are then read in one piece of each tar, so
clips can be taken in any order, by any number of processes, and resuming costs nothing. Tars are hostile: no path from
them is used, nothing is unpickled, nothing is read beyond the piece that the sidecar names.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avprep import manifest, schema, shards, untrusted
from avprep.errors import ManifestError, ShardError
from avprep.shards import tars

SILENT = "silent"
"""Why clips are left out that hold silence alone."""
_Record = tuple[int, int, int]
"""Frames, offset, length."""
_UNREADABLE = "not a whole sample of a tar"
_NOT_THERE = "not there"
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
        path, key = shards.tar_path(self.out, column, self.shards[self.shard[row]]), self.key(row)
        place = shards.Stretch(*self.places[row, schema.COLUMNS.index(column)].tolist())
        try:
            found = shards.read_at(path, key, place)
        except ShardError as error:
            raise ShardError(f"{path}: {key}: {_UNREADABLE} ({error})") from error
        except OSError as error:
            raise ShardError(f"{path}: {key}: {error}") from error
        image_format = "jpg" if schema.frame_member(0, "jpg") in found else "png"
        expected = _expected(column, int(self.n_frames[row]), image_format)
        for names, problem in (
            (expected - found.keys(), "is missing"),
            (found.keys() - expected, "does not belong to the sample"),
        ):
            if names:
                raise ShardError(f"{path}: {key}: {f'{key}.{min(names)}'!r} {problem}")
        wanted = (schema.frame_member(i, image_format) for i in frames) if column == "crop" else schema.ARRAYS["mfcc"]
        return {name: bytes(found[name]) for name in wanted if name in found}


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
    shards.close_tars()  # others may have taken their places since
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
    rows: list[tuple[int, ...]] = []
    keys: list[bytes] = []
    left = dict(labels)
    for number, name in enumerate(names):
        silent: set[str] = set()
        crop, mfcc = (_read_column(out, column, name, silent) for column in schema.COLUMNS)
        for key in dict.fromkeys((*crop, *mfcc)):
            found = crop.get(key, _NOT_THERE), mfcc.get(key, _NOT_THERE)
            if left.pop(key, None) is None:
                skipped["not in the manifest"] += 1
            elif reason := _unusable(found):
                skipped[reason] += 1
            elif key in silent and not keep_silent:
                skipped[SILENT] += 1
            else:
                word, speaker = labels[key]
                numbers = word_numbers.get(word or "", -1), speaker_numbers.get(speaker or "", -1)
                (n_frames, *seen), (_, *heard) = (one for one in found if not isinstance(one, str))
                rows.append((number, n_frames, *numbers, *seen, *heard))
                keys.append(key.encode())
    if left:
        skipped["in no finished shard"] += len(left)
    table = np.array(rows, np.int64).reshape(len(rows), 8)
    shard, lengths, spoken, by = table[:, :4].T.copy()
    places = table[:, 4:].reshape(-1, 2, 2)
    facts = (vocabulary, people, skipped, _mfcc_preset(out), dataset)
    return Clips(out, tuple(names), np.array(keys, np.bytes_), shard, lengths, spoken, by, places, *facts)


def _unusable(found: tuple[_Record | str, ...]) -> str:
    """Return why a clip whose columns are these is left out; nothing where both have it."""
    reasons = [(one, column) for column, one in zip(schema.COLUMNS, found, strict=True) if isinstance(one, str)]
    if reasons:
        reason, column = min(reasons, key=lambda one: one[0] == _NOT_THERE)
        return f"{column}: {reason}"
    return "" if found[0][0] == found[1][0] else "crop and mfcc differ in length"


def _read_column(out: Path, column: str, name: str, silent: set[str]) -> dict[str, _Record | str]:
    """Return where a column has each clip of a shard, or the reason of its failure; nothing of an unfinished shard.

    silent: takes the keys of those that hold silence alone.
    """
    path, tar = shards.sidecar_path(out, column, name), shards.tar_path(out, column, name)
    try:
        sidecar = shards.read_sidecar(out, column, name)
        size = tar.stat().st_size
        places = shards.places(path, sidecar["clips"]) if sidecar is not None else {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ShardError(f"{tar}: cannot be read ({error.strerror}): run `avprep {column}` again") from error
    except ShardError as error:
        raise ShardError(f"{error}: run `avprep {column}` again") from error
    if sidecar is None:
        return {}
    records: dict[str, _Record | str] = {}
    for clip in sidecar["clips"]:
        key = clip["key"]
        if clip["state"] == "failed":
            records[key] = clip["reason"]
            continue
        n_frames, place = clip["n_frames"], places[key]
        if n_frames <= 0:
            raise ShardError(f"{path}: damaged, {key} has {n_frames} frames")
        if clip.get("silent") is True:
            silent.add(key)
        # Before memory is taken for it; a frame of a crop is a member with its header.
        inside = place.offset + place.length <= size and (column != "crop" or n_frames <= place.length // tars.BLOCK)
        records[key] = (n_frames, place.offset, place.length) if inside and sidecar["bytes"] == size else _ANOTHER_TAR
    return records


@functools.lru_cache(1024)
def _expected(column: str, n_frames: int, image_format: str) -> frozenset[str]:
    """Return the names of all members of a sample."""
    names = {schema.METADATA[column], *schema.ARRAYS[column]}
    if column == "crop":
        names |= {schema.frame_member(i, image_format) for i in range(n_frames)}
    return frozenset(names)


def _read_labels(path: Path, split: str) -> tuple[str, dict[str, tuple[str | None, str | None]]]:
    """Read the data set's name, and key -> word, speaker of a split, from the frozen plan."""
    if not path.exists():
        raise ShardError(f"{path.parent}: no shards here (no manifest.jsonl): run `avprep crop` and `mfcc`")
    labels: dict[str, tuple[str | None, str | None]] = {}
    try:
        head, clips = manifest.scan(path)
        for clip in clips:
            if not clip.key.isprintable():  # text, on one line
                raise ShardError(f"{path}: a line is no clip")
            if clip.split == split:
                labels[clip.key] = (clip.word or None, clip.speaker or None)
    except ManifestError as error:
        raise ShardError(str(error)) from error
    return head.dataset, labels


def _names(given: tuple[str, ...] | None, found: Iterator[str | None]) -> tuple[str, ...]:
    return tuple(sorted({name for name in found if name})) if given is None else given


def _mfcc_preset(out: Path) -> str:
    try:
        settings = untrusted.read_json(out / "mfcc" / "run.json").get("settings")
    except (OSError, ValueError):  # shards without it are shards all the same
        return ""
    return str(settings.get("preset", "")) if isinstance(settings, dict) else ""
