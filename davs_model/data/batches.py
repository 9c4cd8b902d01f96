"""Shards or a folder of faces -> batches: which frames of which clips, decoded, flipped and shifted.

The order of an epoch is a function of the seed and the epoch, and a batch of its place in it: the same batches come out
whatever the number of loader processes, wherever a run is resumed, and however many training processes share them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import ShardError
from avprep.schema import ARRAYS, CROP_SIZE, N_COEFFICIENTS, WINDOW_COLUMNS, decode_array, frame_member
from avprep.shards.image import decode_picture
from davs_model.data.clips import Clips
from davs_model.data.pictures import Frames, Move
from davs_model.models.davs.objective import Batch

Need = Literal["identity", "speech", "consecutive"]
"""What a stage reads of a clip: one frame; every second frame and its window; frames in a row."""
EVERY = 2
"""Words and sound are read from every second frame."""
SUBSTITUTES = 20
"""Clips that are tried in the place of one that cannot be read."""
_SHUFFLE, _DRAW, _SEQUENCE, _IDENTITY = range(4)
"""Streams of random numbers, so that no two draws share one."""


class RawBatch(NamedTuple):
    """What a loader process hands over: B clips, frames as RGB uint8 `[B, T, S, S, 3]`; T is 0 for what is not read."""

    identity_frame: Tensor
    """`[B, 1, S, S, 3]`."""
    frames: Tensor
    """`[B, 12, S, S, 3]`, every second frame."""
    windows: Tensor
    """float32 `[B, 12, 12, 20]`, of those frames."""
    consecutive: Tensor
    """`[B, 20, S, S, 3]`."""
    words: Tensor
    """int64 `[B]`, −1 where unknown."""
    speakers: Tensor
    """int64 `[B]`, −1 where unknown."""
    start: int = 0
    """The first of the 12 whose 6 are generated."""
    keys: tuple[str, ...] = ()
    """Where each clip comes from."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Clips that could not be read, and why; others took their places."""

    def first(self, count: int) -> RawBatch:
        """Return the first clips alone, in the same memory."""
        return RawBatch(*(part[:count] if isinstance(part, Tensor) else part for part in self))  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Batch:
        """Copy to a device, frames as float32 in [0, 1] `[B, T, 3, S, S]`, channels last in memory."""

        def pictures(frames: Tensor) -> Tensor:
            return frames.to(device, non_blocking=True).permute(0, 1, 4, 2, 3).float() / 255

        windows, words, speakers = (
            tensor.to(device, non_blocking=True, copy=True) for tensor in (self.windows, self.words, self.speakers)
        )
        return Batch(
            pictures(self.identity_frame),
            pictures(self.frames),
            windows,
            pictures(self.consecutive),
            words,
            speakers,
            self.start,
        )


@dataclass(frozen=True)
class Shape:
    """What is read of each clip; names as in `davs_model.settings`."""

    needs: frozenset[Need]
    image_size: int = CROP_SIZE
    speech_frames: int = 12
    identity_frames: int = 20
    sequence_frames: int = 6
    flip: bool = False
    shift: int = 0

    def shortest(self) -> int:
        """Return the frames that a clip must have."""
        lengths = {"identity": 1, "speech": EVERY * (self.speech_frames - 1) + 1, "consecutive": self.identity_frames}
        return max(lengths[need] for need in self.needs)


class Source(Protocol):
    """Rows that can be drawn in any order."""

    groups: list[NDArray[np.int64]]
    """Rows that lie together; whole groups are shuffled, then the rows of some of them."""

    def __len__(self) -> int: ...

    def key(self, row: int) -> str:
        """Return where a row comes from."""
        ...

    def load(self, row: int, into: RawBatch, place: int, rng: np.random.Generator | None) -> None:
        """Read a row into a batch's place; rng: of what is drawn, None: the middle of the clip as it is."""
        ...


class ClipSource:
    """Clips of shards.

    clips: must not be shorter than `shape.shortest()`.
    identity_seed: draws the identity frame even where nothing else is drawn; None: then it is the middle one.
    """

    def __init__(self, clips: Clips, shape: Shape, *, identity_seed: int | None = None) -> None:
        self.clips, self.shape, self.identity_seed = clips, shape, identity_seed
        order = np.argsort(clips.shard, kind="stable").astype(np.int64)
        self.groups: list[NDArray[np.int64]] = (
            np.split(order, np.flatnonzero(np.diff(clips.shard[order])) + 1) if len(clips) else []
        )

    def __len__(self) -> int:
        return len(self.clips)

    def key(self, row: int) -> str:
        """Return a clip's key."""
        return self.clips.key(row)

    def load(self, row: int, into: RawBatch, place: int, rng: np.random.Generator | None) -> None:
        """Read a clip; ShardError for one that breaks the contract."""
        shape, clips = self.shape, self.clips
        n_frames = int(clips.n_frames[row])
        speech: list[int] = []
        consecutive: list[int] = []
        identity: list[int] = []
        if "speech" in shape.needs:
            arrays = self.read(row, "mfcc", ())
            windows, valid = (self._array(arrays, name, n_frames) for name in ("mfcc.npy", "valid.npy"))
            speech = speech_frames(valid, shape.speech_frames, rng)
            into.windows[place] = torch.from_numpy(windows[speech])
        if "consecutive" in shape.needs:
            consecutive = stretch(n_frames, shape.identity_frames, 1, rng)
        if "identity" in shape.needs:
            drawn = rng
            if rng is None and self.identity_seed is not None:
                drawn = np.random.default_rng((_IDENTITY, self.identity_seed, row))
            identity = [n_frames // 2 if drawn is None else int(drawn.integers(n_frames))]
        members = self.read(row, "crop", {*speech, *consecutive, *identity})
        move = Move.draw(rng, shift=shape.shift, flip=shape.flip)
        decoded: dict[int, Frames] = {}
        for frames, target in (
            (speech, into.frames),
            (consecutive, into.consecutive),
            (identity, into.identity_frame),
        ):
            slots = target[place].numpy()
            for slot, frame in enumerate(frames):
                if frame in decoded:
                    slots[slot] = decoded[frame]
                    continue
                name = frame_member(frame, "jpg" if frame_member(frame, "jpg") in members else "png")
                try:
                    move.into(slots[slot], decode_picture(members[name], (CROP_SIZE, CROP_SIZE)))
                except ShardError as error:
                    raise ShardError(f"{clips.key(row)}: {name}: {error}") from error
                decoded[frame] = slots[slot]
        into.words[place] = int(clips.words[row])
        into.speakers[place] = int(clips.speakers[row])

    def read(self, row: int, column: str, frames: Collection[int]) -> dict[str, bytes]:
        """Read members of a clip; as `Clips.read`."""
        return self.clips.read(row, column, frames)

    @staticmethod
    def _array(members: dict[str, bytes], name: str, n_frames: int) -> NDArray[np.generic]:
        dtype, shape = ARRAYS["mfcc"][name]
        array = decode_array(members[name])
        if array.dtype.str != dtype or array.shape != (n_frames, *shape):
            raise ShardError(f"{name} is {array.dtype.str} {array.shape}, expected {dtype} {(n_frames, *shape)}")
        if not np.isfinite(array).all():
            raise ShardError(f"{name} holds numbers that are not finite")
        return array


class FaceFolder:
    """Pictures of people, a folder each: FOLDER/PERSON/….jpg or .png, aligned as crops are, of any size.

    people: sorted names of the folders that hold pictures. ShardError where there are none.
    """

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder, self.shape = folder, shape
        found = sorted(
            path.relative_to(folder)
            for path in folder.glob("*/**/*")
            if path.suffix.lower() in (".jpg", ".jpeg", ".png") and path.is_file()
        )
        if not found:
            raise ShardError(f"{folder}: no pictures, expected PERSON/*.jpg or *.png")
        self.people = tuple(sorted({path.parts[0] for path in found}))
        numbers = {name: n for n, name in enumerate(self.people)}
        self._person = np.array([numbers[path.parts[0]] for path in found])
        self._paths = np.array([os.fsencode(path) for path in found], np.bytes_)
        self.groups: list[NDArray[np.int64]] = [np.arange(len(found), dtype=np.int64)]

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, row: int) -> str:
        """Return a picture's path below the folder."""
        return os.fsdecode(bytes(self._paths[row]))

    def load(self, row: int, into: RawBatch, place: int, rng: np.random.Generator | None) -> None:
        """Read a picture; ShardError for a file that is none."""
        path = self.folder / self.key(row)
        try:
            picture = decode_picture(path.read_bytes())
        except (OSError, ShardError) as error:
            raise ShardError(f"{path}: {error}") from error
        square = cv2.resize(picture, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)
        move = Move.draw(rng, shift=self.shape.shift, flip=self.shape.flip)
        move.into(into.identity_frame[place].numpy()[0], square.astype(np.uint8, copy=False))
        into.words[place] = -1
        into.speakers[place] = int(self._person[row])


def stretch(n_frames: int, length: int, every: int, rng: np.random.Generator | None, first: int = 0) -> list[int]:
    """Return `length` frames, every `every`-th, from `first` on: at a random place, or in the middle."""
    free = n_frames - first - (every * (length - 1) + 1)
    assert free >= 0, (n_frames, length, every, first)
    begin = first + (free // 2 if rng is None else int(rng.integers(free + 1)))
    return list(range(begin, begin + every * length, every))


def speech_frames(valid: NDArray[np.generic], length: int, rng: np.random.Generator | None) -> list[int]:
    """Return every second frame of a stretch, of those whose windows are made of real sound where that is possible."""
    real = np.flatnonzero(valid)
    span = EVERY * (length - 1) + 1
    if len(real) and (within := int(real[-1]) - int(real[0]) + 1) >= span:
        return stretch(int(real[0]) + within, length, EVERY, rng, first=int(real[0]))
    return stretch(len(valid), length, EVERY, rng)


def epoch_order(groups: Sequence[NDArray[np.int64]], *, seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    """Return all rows in the order of an epoch: groups are shuffled, then the rows of each `window` of them together.

    So reading stays within a few tars at a time, which disks and their caches like.
    """
    rng = np.random.default_rng((_SHUFFLE, seed, epoch))
    order = rng.permutation(len(groups))
    parts = [
        rng.permutation(np.concatenate([groups[g] for g in order[first : first + window]]))
        for first in range(0, len(order), window)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


class Batches:
    """The batches of this process: item `(epoch, number)` is its share of batch `number` of that epoch.

    batch_size: clips of a whole batch, which `world` processes share; rank: this one. A last batch that is not whole is
    left out (other clips fall into it in each epoch).
    """

    def __init__(
        self,
        source: Source,
        shape: Shape,
        *,
        batch_size: int,
        seed: int,
        window: int = 32,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        assert batch_size % world == 0, (batch_size, world)
        self.source, self.shape, self.seed, self.window = source, shape, seed, window
        self.batch_size, self.rank, self.share = batch_size, rank, batch_size // world
        self._order = functools.lru_cache(2)(self._order_of)

    def __len__(self) -> int:
        return len(self.source) // self.batch_size

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        return epoch_order(self.source.groups, seed=self.seed, epoch=epoch, window=self.window)

    def __getitem__(self, place: tuple[int, int]) -> RawBatch:
        """Read a batch into memory of its own; ShardError where nothing in it can be read."""
        return self.read(place, empty_batch(self.shape, self.share))

    def read(self, place: tuple[int, int], into: RawBatch) -> RawBatch:
        """Read a batch into memory that is there already, and return it."""
        epoch, number = place
        first = number * self.batch_size + self.rank * self.share
        rows = self._order(epoch)[first : first + self.share]
        choices = self.shape.speech_frames - self.shape.sequence_frames + 1
        rng = np.random.default_rng((_SEQUENCE, self.seed, epoch, number))
        return _read_batch(
            self.source,
            [int(row) for row in rows],
            into._replace(start=int(rng.integers(choices))),
            draw=lambda row: np.random.default_rng((_DRAW, self.seed, epoch, row)),
        )


class EvaluationBatches:
    """All clips in order, the middle of each, as they are; the last batch may be smaller."""

    def __init__(self, source: Source, shape: Shape, *, batch_size: int, limit: int | None = None) -> None:
        self.source, self.shape, self.batch_size = source, shape, batch_size
        self.count = len(source) if limit is None else min(limit, len(source))

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __getitem__(self, number: int) -> RawBatch:
        """Read a batch into memory of its own; ShardError where nothing in it can be read."""
        return self.read(number, empty_batch(self.shape, self.batch_size))

    def read(self, number: int, into: RawBatch) -> RawBatch:
        """Read a batch into memory that is there already, and return it."""
        rows = list(range(number * self.batch_size, min(self.count, (number + 1) * self.batch_size)))
        start = (self.shape.speech_frames - self.shape.sequence_frames) // 2
        return _read_batch(self.source, rows, into._replace(start=start), draw=None)


def _read_batch(
    source: Source, rows: list[int], into: RawBatch, *, draw: Callable[[int], np.random.Generator] | None
) -> RawBatch:
    """Read rows of a source; for a row that cannot be read another is drawn, or its place is left out without `draw`.

    ShardError where no row can be read.
    """
    keys: list[str] = []
    skipped: list[tuple[str, str]] = []
    for row in rows:
        for candidate in (row,) if draw is None else _candidates(row, len(source)):
            try:
                source.load(candidate, into, len(keys), None if draw is None else draw(candidate))
            except ShardError as error:
                skipped.append((source.key(candidate), str(error)))
                continue
            keys.append(source.key(candidate))
            break
        else:
            if draw is not None:  # no batch of training is smaller than it should be: other processes count on it
                raise ShardError(f"none of {SUBSTITUTES + 1} clips can be read, the last because: {skipped[-1][1]}")
    if not keys:
        raise ShardError(f"none of {len(rows)} clips can be read, the first because: {skipped[0][1]}")
    return into.first(len(keys))._replace(keys=tuple(keys), skipped=tuple(skipped))


def _candidates(row: int, count: int) -> Iterator[int]:
    """Yield a row and then a few others, always the same, to take its place."""
    yield row
    rng = np.random.default_rng(row)
    for _ in range(SUBSTITUTES):
        yield int(rng.integers(count))


def empty_batch(shape: Shape, count: int, memory: Memory = torch.empty) -> RawBatch:
    """Return a batch whose contents are whatever its memory holds; memory: makes a tensor of a size and dtype."""
    side = shape.image_size

    def frames(need: Need, length: int) -> Tensor:
        return memory((count, length if need in shape.needs else 0, side, side, 3), dtype=torch.uint8)

    n_windows = shape.speech_frames if "speech" in shape.needs else 0
    return RawBatch(
        identity_frame=frames("identity", 1),
        frames=frames("speech", shape.speech_frames),
        windows=memory((count, n_windows, N_COEFFICIENTS, WINDOW_COLUMNS), dtype=torch.float32),
        consecutive=frames("consecutive", shape.identity_frames),
        words=memory((count,), dtype=torch.int64),
        speakers=memory((count,), dtype=torch.int64),
    )


class Memory(Protocol):
    """Makes tensors."""

    def __call__(self, size: tuple[int, ...], /, *, dtype: torch.dtype) -> Tensor:
        """Return a tensor of any content."""
        ...


def usable(clips: Clips, shape: Shape, *, words: bool, speakers: bool) -> Clips:
    """Return the clips that a stage can use; those that are too short or lack a label are counted as skipped."""
    clips = clips.where(clips.n_frames >= shape.shortest(), f"shorter than {shape.shortest()} frames")
    if words:
        clips = clips.where(clips.words >= 0, "no word of the training set")
    if speakers:
        clips = clips.where(clips.speakers >= 0, "no speaker of the training set")
    return clips
