"""The contents of OUT as a table: each row is a clip of both columns, with its labels and its place in the tars.

The table is built only from the manifest and the sidecars. A clip's members are then read in one piece of each tar.
Clips can therefore be read in any order, by any number of processes, and resuming costs nothing. Tars are untrusted: no
path from them is used, nothing is unpickled, nothing is read beyond the piece that the sidecar names.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avprep import manifest, schema, shards
from avprep.errors import ManifestError, RunError, ShardError, explained
from avprep.manifest import TimedWord
from avprep.shards import tars
from avprep.shards.image import decode_picture
from davs_model.data.reads import LABELS

SILENT = "silent"
"""Reason for leaving out clips that hold only silence."""
_Record = tuple[int, int, int]
"""Frames, offset, length."""
_UNREADABLE = "not a whole sample of a tar"
_NOT_THERE = "not there"
_ANOTHER_TAR = "the tar is not the one that its sidecar describes"

Ints = NDArray[np.int64]
_ARRAYS = ("keys", "shard", "n_frames", *LABELS, "places", "first", "whole")
NO_WORDS = np.zeros((0, 3))
"""The timed words of a clip whose words have no times."""
WORD_FRAMES = 29
"""Number of frames of a clip around a word, as in LRW."""
MOST_ROWS = 20_000_000
"""Maximum number of rows of tables joined by shares, which repeat clips: some GB, forty times LRW."""


class _Labels(NamedTuple):
    """The names of a clip's labels in the manifest, in the order of `LABELS`, "" if unknown; words with their times."""

    names: tuple[str, ...]
    timed: tuple[TimedWord, ...]


@dataclass(frozen=True)
class Clips:
    """The clips of a split that both columns hold. Arrays, not objects: half a million rows, shared by processes.

    out: the folder. shards: names of shards; folders: the folder of each. keys: dtype `S`, UTF-8, (N,).
    shard, n_frames, words, speakers, emotions: int64 (N,); a label is an index into its names, −1 where unknown.
    label_names: the names of each of `LABELS`.
    places: int64 (N, 2, 2): offset and length in bytes in the tar of crop and of mfcc.
    timed: the words of each clip whose times are known and within it, float64 (M, 3): index in `label_names` or −1,
        start and end in frames of the clip; empty if no clip has any.
    first, whole: int64 (N,): the first frame of a clip in its sample, and the number of frames of the sample.
    skipped: number of clips of the manifest that are not here, by reason.
    mfcc_preset: `davs` or `syncnet`, "" if unknown. dataset: name in the manifest, "" if unknown.
    """

    out: Path
    shards: tuple[str, ...]
    keys: NDArray[np.bytes_]
    shard: Ints
    n_frames: Ints
    words: Ints
    speakers: Ints
    emotions: Ints
    places: Ints
    label_names: Mapping[str, tuple[str, ...]]
    skipped: Counter[str]
    mfcc_preset: str
    dataset: str
    first: Ints
    whole: Ints
    folders: tuple[Path, ...]
    timed: tuple[NDArray[np.float64], ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def require(self, split: str) -> None:
        """Check that there are clips of a split; RunError, with the reasons, if not."""
        if not len(self):
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
            raise RunError(f"{self.out}: no clip of the {split} split can be used ({reasons or 'there is none'})")

    def key(self, row: int) -> str:
        """Return a clip's key."""
        return bytes(self.keys[row]).decode()

    def folder(self, row: int) -> Path:
        """Return the OUT that holds a clip."""
        return self.folders[self.shard[row]]

    def sample(self, row: int) -> tuple[Path, bytes]:
        """Return the sample that a clip is, or is a part of: its OUT and its key."""
        return self.folder(row), bytes(self.keys[row])

    def name(self, row: int) -> str:
        """Return a clip's key, with the number of its OUT if that is not the first: keys are unique only in an OUT."""
        if self.folder(row) == self.folders[0]:
            return self.key(row)
        return f"{self.key(row)} of OUT {list(dict.fromkeys(self.folders)).index(self.folder(row)) + 1}"

    def where(self, keep: NDArray[np.bool_], reason: str) -> Clips:
        """Return the clips to keep; the others are counted as skipped for this reason."""
        if keep.all():
            return self
        return replace(self.rows(np.flatnonzero(keep)), skipped=self.skipped + Counter({reason: int((~keep).sum())}))

    def rows(self, which: Ints) -> Clips:
        """Return the clips of some rows, in their order."""
        arrays = {name: getattr(self, name)[which] for name in _ARRAYS}
        return replace(self, **arrays, timed=tuple(self.timed[row] for row in which) if self.timed else ())

    def spoken_words(self) -> Clips:
        """Return a clip of LRW's length around each known word with known times; clips without any are unchanged."""
        if not self.timed:
            return self
        known = [words[words[:, 0] >= 0] for words in self.timed]
        whole = [np.array([[word, 0, 0]]) for word in self.words]  # without times: the word of all frames
        apart = [len(words) > 0 for words in known]
        words = np.concatenate([words if split else one for words, split, one in zip(known, apart, whole, strict=True)])
        rows = np.repeat(np.arange(len(self)), [max(1, len(words)) for words in known])
        cut = np.array(apart)[rows]
        length = np.where(cut, np.minimum(self.n_frames[rows], WORD_FRAMES), self.n_frames[rows])
        middle = np.round(words[:, 1:].mean(1) - WORD_FRAMES / 2).astype(np.int64)
        start = np.clip(middle, 0, self.n_frames[rows] - length)
        found = replace(self.rows(rows), timed=())
        return replace(found, words=words[:, 0].astype(np.int64), n_frames=length, first=found.first + start)

    def pictures(
        self, row: int, frames: Collection[int], members: Mapping[str, bytes] | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield frames of a sample as uint8 (256, 256, 3), RGB; ShardError. members: the frames, if already read."""
        members = self.read(row, "crop", frames) if members is None else members
        for frame in frames:
            name = schema.frame_member(frame, schema.image_format(members, frame))
            try:
                yield decode_picture(members[name], (schema.CROP_SIZE, schema.CROP_SIZE))
            except ShardError as error:
                raise ShardError(f"{self.key(row)}: {name}: {error}") from error

    def read(self, row: int, column: str, frames: Collection[int], *, arrays: bool = False) -> dict[str, bytes]:
        """Read members of a clip in a column: frames of `crop`; its arrays if `arrays`, or if no frames are given.

        Returns member name -> bytes; frames as `000.jpg` or `000.png`. ShardError, one line, for a piece of a tar that
        is not exactly this sample.
        """
        path, key = shards.tar_path(self.folder(row), column, self.shards[self.shard[row]]), self.key(row)
        place = shards.Stretch(*self.places[row, schema.COLUMNS.index(column)].tolist())
        try:
            found = shards.read_at(path, key, place)
        except ShardError as error:
            raise ShardError(f"{path}: {key}: {_UNREADABLE} ({error})") from error
        except OSError as error:
            raise ShardError(f"{path}: {key}: {explained(error)}") from error
        image_format = schema.image_format(found)
        expected = _expected(column, int(self.whole[row]), image_format)
        for names, problem in (
            (expected - found.keys(), "is missing"),
            (found.keys() - expected - schema.OPTIONAL_ARRAYS[column].keys(), "does not belong to the sample"),
        ):
            if names:
                raise ShardError(f"{path}: {key}: {f'{key}.{min(names)}'!r} {problem}")
        wanted = [schema.frame_member(i, image_format) for i in frames]
        wanted += schema.ARRAYS[column] if arrays or not frames else ()
        return {name: bytes(found[name]) for name in wanted if name in found}


def read_clips(
    out: Path,
    split: str,
    *,
    label_names: Mapping[str, tuple[str, ...]] | None = None,
    keep_silent: bool = False,
) -> Clips:
    """Read the table of a split: the clips that are finished and `ok` in both columns.

    label_names: of another split, by which some of `LABELS` are numbered; the others are by this split's own, sorted.
    keep_silent: keep clips that hold only silence.
    Unfinished and truncated shards, clips that failed in a column, and silent ones are left out and counted.
    ShardError for a folder that holds no shards of avprep, or that another version wrote.
    """
    shards.close_tars()  # the files may have been replaced since
    dataset, labels = _read_labels(out / "manifest.jsonl", split)
    for column in schema.COLUMNS:
        if not (out / column).is_dir():
            raise ShardError(f"{out}: there is no {column} column: run `avprep {column}` first")
    said = {label: [one.names[n] for one in labels.values()] for n, label in enumerate(LABELS)}
    said["words"] += [word for one in labels.values() for word, _, _ in one.timed]
    label_names = {label: _sorted(said[label]) for label in LABELS} | dict(label_names or {})
    names = sorted({path.stem for column in schema.COLUMNS for path in (out / column).glob(f"{split}-*.json")})
    rows, skipped = _read_rows(out, names, labels.keys(), keep_silent=keep_silent)
    table = np.array([places for _, places in rows], np.int64).reshape(len(rows), 6)
    shard, lengths = table[:, :2].T.copy()
    numbers = {label: {name: n for n, name in enumerate(label_names[label])} for label in LABELS}
    found = [labels[key] for key, _ in rows]
    of_clips: dict[str, Any] = {
        label: np.array([numbers[label].get(one.names[n], -1) for one in found], np.int64)
        for n, label in enumerate(LABELS)
    }
    timed = tuple(
        _in_frames(one.timed, numbers["words"], n_frames) for one, n_frames in zip(found, lengths.tolist(), strict=True)
    )
    return Clips(
        out=out,
        shards=tuple(names),
        keys=np.array([key.encode() for key, _ in rows], np.bytes_),
        shard=shard,
        n_frames=lengths,
        places=table[:, 2:].reshape(-1, 2, 2),
        label_names=label_names,
        skipped=skipped,
        mfcc_preset=str(column_settings(out, "mfcc").get("preset", "")),
        dataset=dataset,
        first=np.zeros_like(lengths),
        whole=lengths.copy(),
        folders=(out,) * len(names),
        timed=timed if any(map(len, timed)) else (),
        **of_clips,
    )


def joined(tables: Sequence[Clips], shares: Sequence[float] = ()) -> Clips:
    """Join several tables, with labels numbered anew; a name stands for the same person in all of them.

    shares: proportions of the tables among the clips; clips of smaller tables are repeated, so that none is left out.
        Empty: each clip once. ShardError if the windows are of different presets, a table with a share is empty, or the
        shares differ so much that there would be more than `MOST_ROWS`.
    """
    if len(tables) == 1:
        return tables[0]
    if len(presets := {table.mfcc_preset for table in tables}) > 1:
        outs = ", ".join(f"{table.out} ({table.mfcc_preset or 'unknown'})" for table in tables)
        raise ShardError(f"windows of different presets: {outs}: make them with one `avprep mfcc --preset`")
    label_names = {label: _sorted(name for table in tables for name in table.label_names[label]) for label in LABELS}
    sizes = zip(tables, _sizes(tables, shares), strict=True)
    rows = [np.arange(size, dtype=np.int64) % max(1, len(table)) for table, size in sizes]
    parts = [_renumbered(table.rows(which), label_names) for table, which in zip(tables, rows, strict=True)]
    first_shard = np.cumsum([0, *(len(table.shards) for table in tables[:-1])])
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS if name != "shard"}
    return Clips(
        out=tables[0].out,
        shards=tuple(name for table in tables for name in table.shards),
        folders=tuple(folder for table in tables for folder in table.folders),
        shard=np.concatenate([part.shard + first for part, first in zip(parts, first_shard, strict=True)]),
        label_names=label_names,
        skipped=sum((table.skipped for table in tables), Counter()),
        mfcc_preset=presets.pop(),
        dataset=" + ".join(dict.fromkeys(table.dataset for table in tables)),
        timed=tuple(words for part in parts for words in (part.timed or (NO_WORDS,) * len(part)))
        if any(part.timed for part in parts)
        else (),
        **arrays,
    )


def _sizes(tables: Sequence[Clips], shares: Sequence[float]) -> list[int]:
    """Return the number of rows of each table in the joined one: at least its number of clips."""
    if not shares:
        return [len(table) for table in tables]
    if empty := [table for table in tables if not len(table)]:
        raise ShardError(
            f"{empty[0].out}: holds no clips to learn from, so they cannot be a part of those that are seen"
        )
    total = max(len(table) / share for table, share in zip(tables, shares, strict=True))
    if (seen := total * sum(shares)) > MOST_ROWS:
        raise ShardError(
            f"shares {', '.join(f'{share:g}' for share in shares)}: for every clip to be seen, an epoch would have "
            f"{seen:.2g} clips: give shares that differ less"
        )
    return [round(total * share) for share in shares]


def _renumbered(clips: Clips, label_names: Mapping[str, tuple[str, ...]]) -> Clips:
    """Return the clips with labels as indices into other names, among which are all of theirs."""
    numbers = {  # the last one maps −1 to −1
        label: np.array([*(label_names[label].index(name) for name in clips.label_names[label]), -1], np.int64)
        for label in LABELS
    }
    timed = tuple(
        np.column_stack((numbers["words"][of[:, 0].astype(np.int64)].astype(np.float64), of[:, 1:]))
        for of in clips.timed
    )
    of_clips: dict[str, Any] = {label: numbers[label][getattr(clips, label)] for label in LABELS}
    return replace(clips, label_names=label_names, timed=timed, **of_clips)


def _read_rows(
    out: Path, names: Sequence[str], wanted: Collection[str], *, keep_silent: bool
) -> tuple[list[tuple[str, tuple[int, ...]]], Counter[str]]:
    """Return the key of each usable clip with its shard's number, frames and places, and the reasons of the others."""
    rows: list[tuple[str, tuple[int, ...]]] = []
    skipped: Counter[str] = Counter()
    left = set(wanted)
    for number, name in enumerate(names):
        for key, found in _read_shard(out, name, keep_silent=keep_silent):
            if key not in left:
                skipped["not in the manifest"] += 1
            elif isinstance(found, str):
                skipped[found] += 1
            else:
                rows.append((key, (number, *found)))
            left.discard(key)
    if left:
        skipped["in no finished shard"] += len(left)
    return rows, skipped


def _read_shard(out: Path, name: str, *, keep_silent: bool) -> Iterator[tuple[str, tuple[int, ...] | str]]:
    """Yield the key of each clip of a shard, with its frames and places in both tars, or the reason to leave it out."""
    silent: set[str] = set()
    crop, mfcc = (_read_column(out, column, name, silent) for column in schema.COLUMNS)
    for key in dict.fromkeys((*crop, *mfcc)):
        seen, heard = crop.get(key, _NOT_THERE), mfcc.get(key, _NOT_THERE)
        if isinstance(seen, str) or isinstance(heard, str):
            reasons = [
                (one, column) for column, one in zip(schema.COLUMNS, (seen, heard), strict=True) if isinstance(one, str)
            ]
            reason, column = min(reasons, key=lambda one: one[0] == _NOT_THERE)
            yield key, f"{column}: {reason}"
        elif seen[0] != heard[0]:
            yield key, "crop and mfcc differ in length"
        elif key in silent and not keep_silent:
            yield key, SILENT
        else:
            yield key, (*seen, *heard[1:])


def _read_column(out: Path, column: str, name: str, silent: set[str]) -> dict[str, _Record | str]:
    """Return the place of each clip of a shard in a column, or the reason of its failure; nothing if it is unfinished.

    silent: receives the keys of the clips that hold only silence.
    """
    tar = shards.tar_path(out, column, name)
    try:
        shard = shards.ColumnShard.read(out, column, name)
        size = tar.stat().st_size
        places = shard.places if shard is not None else {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ShardError(f"{tar}: cannot be read ({error.strerror}): run `avprep {column}` again") from error
    except ShardError as error:
        raise ShardError(f"{error}: run `avprep {column}` again") from error
    if shard is None:
        return {}
    records: dict[str, _Record | str] = {}
    for clip in shard.clips:
        key = clip["key"]
        if clip["state"] == "failed":
            records[key] = clip["reason"]
            continue
        n_frames, place = clip["n_frames"], places[key]
        if n_frames <= 0:
            raise ShardError(f"{tar.with_suffix('.json')}: damaged, {key} has {n_frames} frames")
        if clip.get("silent") is True:
            silent.add(key)
        # Checked before memory is allocated; each frame of a crop is a member with a header of its own.
        inside = place.offset + place.length <= size and (column != "crop" or n_frames <= place.length // tars.BLOCK)
        records[key] = (
            (n_frames, place.offset, place.length) if inside and shard.sidecar["bytes"] == size else _ANOTHER_TAR
        )
    return records


@functools.lru_cache(1024)
def _expected(column: str, n_frames: int, image_format: str) -> frozenset[str]:
    """Return the names of all members of a sample."""
    names = {schema.METADATA[column], *schema.ARRAYS[column]}
    if column == "crop":
        names |= {schema.frame_member(i, image_format) for i in range(n_frames)}
    return frozenset(names)


def _in_frames(words: tuple[TimedWord, ...], numbers: Mapping[str, int], n_frames: int) -> NDArray[np.float64]:
    """Return the number of each word, or −1, with start and end in frames: float64 (M, 3).

    Words whose middle is beyond the clip's last frame are left out: a video that breaks off does not show them.
    """
    rows = [(numbers.get(word, -1), start * schema.FPS, end * schema.FPS) for word, start, end in words]
    found = np.array(rows, np.float64).reshape(len(rows), 3)
    return found[found[:, 1:].mean(1) < n_frames]


def _read_labels(path: Path, split: str) -> tuple[str, dict[str, _Labels]]:
    """Read the name of the data set, and key -> labels of a split, from the frozen manifest."""
    if not path.exists():
        raise ShardError(f"{path.parent}: no shards here (no manifest.jsonl): run `avprep crop` and `mfcc`")
    labels: dict[str, _Labels] = {}
    try:
        head, clips = manifest.scan(path)
        for clip in clips:
            if not clip.key.isprintable():  # one line of text
                raise ShardError(f"{path}: a line is no clip")
            if clip.split == split:
                emotion = (clip.labels or {}).get("emotion")
                labels[clip.key] = _Labels((clip.word or "", clip.speaker or "", emotion or ""), clip.words or ())
    except ManifestError as error:
        raise ShardError(str(error)) from error
    return head.dataset, labels


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names) - {""}))


def column_settings(out: Path, column: str) -> dict[str, Any]:
    """Return the settings that a column of OUT was made with; empty if they are unknown."""
    try:
        run = shards.read_run(out, column) or {}
    except RunError:  # shards are usable without it
        return {}
    return dict(run.get("settings", {}))
