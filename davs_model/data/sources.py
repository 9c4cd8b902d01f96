"""Clips of shards as rows that can be read in any order: decoded and augmented frames, and their windows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import ShardError
from avprep.schema import CROP_SIZE
from davs_model.data.arrays import WHOLE_SOUND, heard, points_of, statistics, windows_of
from davs_model.data.batch import RawBatch, empty_batch
from davs_model.data.clips import NO_WORDS, Clips
from davs_model.data.partners import Partners, rows_of_each
from davs_model.data.pictures import WHOLE, Augmentation, Form, Frames, change_looks, shown
from davs_model.data.positions import positions
from davs_model.data.reads import LABELS, Reads, Shape
from davs_model.data.sampling import (
    apart,
    moments,
    portrait_rng,
    sound_stretch,
    spoken_part,
    spread,
    stretch,
    word_stretch,
)
from davs_model.data.sound import noisy, warped_voice
from davs_model.data.store import FrameStore

POINTS = ("corners", "positions")
"""Sources that are computed from the landmarks of a face."""
Chosen = list[tuple[int, int]]
"""The frames to read: the row and the number of each."""


class Source(Protocol):
    """Rows that can be read in any order."""

    groups: list[NDArray[np.int64]]
    """Rows that are stored together; whole groups are shuffled, then the rows of some groups together."""

    def __len__(self) -> int: ...

    def key(self, row: int) -> str:
        """Return a name of where a row comes from."""
        ...

    def load(self, row: int, into: RawBatch, place: int, rng: np.random.Generator | None) -> None:
        """Read a row into a place of a batch; rng: for all random choices; None: the middle of the clip, unchanged."""
        ...


class ClipSource:
    """Clips of shards.

    clips: must not be shorter than `shape.shortest()`.
    portrait_seed: draws the portrait at random even without `rng`; None: the portrait is then the middle frame.
    store: frames in memory, which are not shifted. codes: see `Reads.source`, float32 `[T, F]` for each row; `[0, F]`
        for a clip without codes.
    """

    def __init__(
        self,
        clips: Clips,
        shape: Shape,
        *,
        portrait_seed: int | None = None,
        store: FrameStore | None = None,
        codes: Sequence[NDArray[np.float32]] = (),
    ) -> None:
        self.clips, self.shape, self.portrait_seed, self.store, self.codes = clips, shape, portrait_seed, store, codes
        self.groups: list[NDArray[np.int64]] = rows_of_each(clips.shard)
        self._partners = Partners(clips)

    def __len__(self) -> int:
        return len(self.clips)

    def key(self, row: int) -> str:
        """Return a clip's key."""
        return self.clips.key(row)

    def load(self, row: int, into: RawBatch, place: int, rng: np.random.Generator | None) -> None:
        """Read a clip; ShardError for one that violates the format."""
        arrays = self._arrays(row) if self.shape.needs_windows() else {}
        down, up = self.shape.voice
        if (down or up) and rng is not None and arrays:
            matrix = warped_voice(float(rng.uniform(-up, down)), self.clips.mfcc_preset)
            arrays |= {name: matrix @ np.asarray(arrays[name], np.float32) for name in ("mfcc.npy", WHOLE_SOUND)}
        for label in LABELS:
            into[label][place] = int(getattr(self.clips, label)[row])
        said = _SaidWord(into["words"][place : place + 1])
        chosen: dict[str, Chosen] = {}
        for name, reads in self.shape.reads.items():
            if reads.beside:
                chosen[name] = chosen[reads.beside]
            elif reads.at == "portrait":
                chosen[name] = self._portraits(reads, row, chosen.get(reads.apart), rng)
            else:
                of = self._partners.draw(reads.of, row, rng)
                frames = _choose(self.clips, reads, of, arrays, rng, said)
                chosen[name] = [(of, frame) for frame in frames]
            self._arrays_into(into[name][place], name, row, arrays, [frame for _, frame in chosen[name]], rng)
        for name in self.shape.of_emotions():
            for label in LABELS:
                into[f"{name}_{label}"][place] = int(getattr(self.clips, label)[chosen[name][0][0]])
        if any(reads.source in ("frames", *POINTS) for reads in self.shape.reads.values()):
            self._crop_into(into, place, row, chosen, rng)

    def _arrays_into(
        self,
        target: Tensor,
        name: str,
        row: int,
        arrays: Mapping[str, NDArray[np.generic]],
        frames: Sequence[int],
        rng: np.random.Generator | None,
    ) -> None:
        """Write data of a clip's audio, or its codes, if this `Reads` is of that kind."""
        reads = self.shape.reads[name]
        if (source := reads.source) == "windows":
            windows = arrays["mfcc.npy"][frames]
            if self.shape.noise and rng is not None:
                windows = noisy(windows, self.shape.noise * statistics(arrays[WHOLE_SOUND])[1], rng)
            target[:] = torch.from_numpy(windows)
        elif source == "statistics":
            target[:] = torch.from_numpy(statistics(arrays[WHOLE_SOUND], reads.length))
        elif source == "codes":
            if not len(self.codes[row]):
                raise ShardError(f"{self.key(row)}: a frame of it cannot be read, so it has no features")
            target[:] = torch.from_numpy(self.codes[row][frames])
        elif source == "valid":
            target[:] = torch.from_numpy(arrays["valid.npy"][frames])
        elif source == "heard":
            target[:] = torch.from_numpy(heard(self.clips, row, arrays)[frames])

    def _crop_into(
        self, into: RawBatch, place: int, row: int, chosen: Mapping[str, Chosen], rng: np.random.Generator | None
    ) -> None:
        """Write frames and their landmarks, all augmented alike."""
        reads = self.shape.reads
        seen = [name for name, one in reads.items() if one.source == "frames"]
        pointed = [name for name, one in reads.items() if one.source in POINTS]
        change = Augmentation.draw(rng, shift=self.shape.shift, flip=self.shape.flip)
        members: dict[str, bytes] = {}
        for of in dict.fromkeys(of for name in seen for of, _ in chosen[name]):
            wanted = {name: {n: frame for n, (by, frame) in enumerate(chosen[name]) if by == of} for name in seen}
            found = self._decode(of, wanted, into, place, change, arrays=bool(pointed) and of == row)
            members = found if of == row else members
        frames_of = [(into[name][place].numpy(), reads[name].box) for name in seen]
        warp = change_looks(frames_of, rng, jitter=self.shape.jitter, warp=self.shape.warp)
        if not pointed:
            return
        points, affine = points_of(self.clips, row, members if "points.npy" in members else self.read(row, "crop", ()))
        eyes, nose, corners = (change.points(part) for part in np.split(points, (2, 3), axis=1))
        moved = np.concatenate((eyes, nose, corners), axis=1)
        moved = moved if warp is None else warp.points(moved)
        for name in pointed:
            frames = [frame for _, frame in chosen[name]]
            of_clip = (
                moved[:, 3:] if reads[name].source == "corners" else positions(moved, affine, mirrored=change.mirror)
            )
            into[name][place] = torch.from_numpy(of_clip[frames])

    def _arrays(self, row: int) -> dict[str, NDArray[np.generic]]:
        """Read the windows of a clip, and which of them hold nothing but real audio."""
        return windows_of(self.clips, row, self.read(row, "mfcc", ()))

    def read(self, row: int, column: str, frames: Collection[int], *, arrays: bool = False) -> dict[str, bytes]:
        """Read members of a clip; see `Clips.read`."""
        return self.clips.read(row, column, frames, arrays=arrays)

    def _portraits(self, reads: Reads, row: int, apart_from: Chosen | None, rng: np.random.Generator | None) -> Chosen:
        """Return frames that are drawn independently, each from its own partner clip."""
        if rng is None:
            n_frames = int(self.clips.n_frames[row])
            if self.portrait_seed is None:
                return [(row, n_frames // 2)] * reads.length
            drawn = portrait_rng(self.portrait_seed, row)
            return [(row, int(drawn.integers(n_frames))) for _ in range(reads.length)]
        found: Chosen = []
        for _ in range(reads.length):
            of = self._partners.draw(reads.of, row, rng)
            n_frames = int(self.clips.n_frames[of])
            away = apart_from is not None and of == row
            frame = apart(n_frames, [one for _, one in apart_from or ()], rng) if away else int(rng.integers(n_frames))
            found.append((of, frame))
        return found

    def _decode(
        self,
        row: int,
        wanted: Mapping[str, Mapping[int, int]],
        into: RawBatch,
        place: int,
        change: Augmentation,
        *,
        arrays: bool,
    ) -> dict[str, bytes]:
        """Decode frames, each only once and all augmented alike, into each form in which they are read.

        wanted: for each name of a read, the frame at each of its places.
        Returns the members that were read, with the clip's arrays if `arrays`; none for a clip whose frames are in the
        store.
        """
        slots: dict[int, list[tuple[Form, Frames]]] = {}
        for name, frames in wanted.items():
            form = self.shape.form(self.shape.reads[name])
            target = into[name][place].numpy()
            for number, frame in frames.items():
                slot = target[number]
                slots.setdefault(frame + int(self.clips.first[row]), []).append((form, slot))
        held = self.store.get(self.clips, row) if self.store is not None else None
        if held is not None:
            for frame, places in slots.items():
                for form, slot in places:
                    slot[:] = held[form][frame][:, ::-1] if change.mirror else held[form][frame]
            return {}
        members = self.read(row, "crop", slots.keys(), arrays=arrays)
        pictures = self.clips.pictures(row, slots.keys(), members)
        for places, picture in zip(slots.values(), pictures, strict=True):
            direct = next((slot for form, slot in places if form == (WHOLE, CROP_SIZE)), None)
            crop = change.moved(picture, direct)
            done: dict[Form, Frames] = {}
            for form, slot in places:
                if form in done:
                    slot[:] = done[form]
                else:
                    shown(crop, form[0], slot)
                    done[form] = slot
        return members


def read_whole(
    clips: Clips, row: int, reads: Mapping[str, Reads], image_size: int, *, store: FrameStore | None = None
) -> RawBatch:
    """Read a clip from its first frame to its last, as a batch of one; see `Reads.whole`. ShardError."""
    shape = Shape({name: one.whole(int(clips.n_frames[row])) for name, one in reads.items()}, image_size)
    raw = empty_batch(shape, 1)
    alone = clips.rows(np.array([row]))  # a source sorts its whole table
    ClipSource(alone, shape, store=store).load(0, raw, 0, None)
    return raw


def usable(clips: Clips, shape: Shape, *, words: bool = False, speakers: bool = False, emotions: bool = False) -> Clips:
    """Return the clips that a stage can use; clips that are too short or lack a label are counted as skipped."""
    clips = clips.where(clips.n_frames >= shape.shortest(), f"shorter than {shape.shortest()} frames")
    if words:
        spoken = np.array([bool((found[:, 0] >= 0).any()) for found in clips.timed] or [False] * len(clips), bool)
        clips = clips.where(spoken | (clips.words >= 0), "no word of the training set")
    if speakers:
        clips = clips.where(clips.speakers >= 0, "no speaker of the training set")
    if emotions:
        clips = clips.where(clips.emotions >= 0, "no emotion of the training set")
    return clips


@dataclass
class _SaidWord:
    """The word of a clip around which frames are read: the same for all reads, so that the clip has one label.

    label: int64 `[1]`, receives its number. drawn: its index among the clip's words.
    """

    label: Tensor
    drawn: int | None = None

    def among(self, words: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return its number, start and end; the first call draws it from words `[N, 3]`."""
        if self.drawn is None:
            self.drawn = int(rng.integers(len(words)))
            self.label[0] = int(words[self.drawn, 0])
        return words[self.drawn]


def _choose(
    clips: Clips,
    reads: Reads,
    row: int,
    arrays: Mapping[str, NDArray[np.generic]],
    rng: np.random.Generator | None,
    said: _SaidWord,
) -> Sequence[int]:
    """Return the frames of a clip that are read."""
    n_frames = int(clips.n_frames[row])
    words = clips.timed[row] if clips.timed else NO_WORDS
    if reads.source == "statistics":
        return ()
    known = words[words[:, 0] >= 0]
    if reads.at in ("sound", "word") and len(known) and rng is not None:
        return word_stretch(n_frames, said.among(known, rng), reads.length, reads.every, rng)
    if reads.at == "sound":
        return sound_stretch(arrays["valid.npy"], reads.length, reads.every, rng)
    if reads.at == "moments":
        return moments(n_frames, spoken_part(n_frames, words, arrays["valid.npy"]), reads.length, rng)
    if reads.at == "spread":
        return spread(n_frames, reads.length)
    return stretch(n_frames, reads.length, reads.every, rng)
