"""Clips of shards as rows that are read in any order: their frames, decoded, flipped and shifted, and their windows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import ShardError
from avprep.schema import ARRAYS, CROP_SIZE, N_POINTS, decode_array
from davs_model.data.batch import RawBatch
from davs_model.data.clips import NO_WORDS, Clips
from davs_model.data.pictures import WHOLE, Augmentation, Form, Frames, Tint, Warp, shown
from davs_model.data.reads import Reads, Shape
from davs_model.data.sampling import apart, moments, portrait_rng, sound_stretch, spoken_part, stretch, word_stretch
from davs_model.data.sound import noisy, warped_voice
from davs_model.data.store import FrameStore

WHOLE_SOUND = "all windows"
"""The windows of the whole sample, of which a clip may be a part."""
MIN_DEVIATION = 1e-3
"""Least standard deviation of a coefficient: that of silence is 0."""


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
    portrait_seed: draws the portrait even where nothing else is drawn; None: then it is the middle frame.
    store: frames in memory, which are not shifted. codes: of `Reads.source`, float32 `[T, F]` for each row.
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
        self.groups: list[NDArray[np.int64]] = _rows_of_each(clips.shard)
        self._of_speaker = {int(clips.speakers[rows[0]]): rows for rows in _rows_of_each(clips.speakers)}

    def __len__(self) -> int:
        return len(self.clips)

    def key(self, row: int) -> str:
        """Return a clip's key."""
        return self.clips.key(row)

    def load(self, row: int, into: RawBatch, place: int, rng: np.random.Generator | None) -> None:
        """Read a clip; ShardError for one that breaks the contract."""
        arrays = self._arrays(row) if self.shape.needs_windows() else {}
        down, up = self.shape.voice
        if (down or up) and rng is not None and arrays:
            matrix = warped_voice(float(rng.uniform(-up, down)), self.clips.mfcc_preset)
            arrays |= {name: matrix @ np.asarray(arrays[name], np.float32) for name in ("mfcc.npy", WHOLE_SOUND)}
        chosen: dict[str, tuple[int, Sequence[int]]] = {}
        into["words"][place] = int(self.clips.words[row])
        into["speakers"][place] = int(self.clips.speakers[row])
        for name, reads in self.shape.reads.items():
            if reads.beside:
                chosen[name] = chosen[reads.beside]
            else:
                of = self._partner(row, rng) if reads.of == "speaker" and rng is not None else row
                if reads.apart and of == row and rng is not None:
                    chosen[name] = of, [apart(int(self.clips.n_frames[row]), chosen[reads.apart][1], rng)]
                else:
                    chosen[name] = of, self._choose(reads, of, arrays, rng, into["words"][place : place + 1])
            if reads.source == "windows":
                windows = arrays["mfcc.npy"][chosen[name][1]]
                if self.shape.noise and rng is not None:
                    windows = noisy(windows, self.shape.noise * statistics(arrays[WHOLE_SOUND])[1], rng)
                into[name][place] = torch.from_numpy(windows)
            elif reads.source == "statistics":
                into[name][place] = torch.from_numpy(statistics(arrays[WHOLE_SOUND], reads.length))
            elif reads.source == "codes":
                into[name][place] = torch.from_numpy(self.codes[row][chosen[name][1]])
            elif reads.source == "heard":
                into[name][place] = torch.from_numpy(self._heard(row, arrays)[chosen[name][1]])
        seen = [name for name, reads in self.shape.reads.items() if reads.source == "frames"]
        if not seen:
            return
        change = Augmentation.draw(rng, shift=self.shape.shift, flip=self.shape.flip)
        corners = [name for name, reads in self.shape.reads.items() if reads.source == "corners"]
        members: dict[str, bytes] = {}
        for of in dict.fromkeys(chosen[name][0] for name in seen):
            wanted = {name: chosen[name][1] for name in seen if chosen[name][0] == of}
            members |= self._decode(of, wanted, into, place, change, arrays=bool(corners) and of == row)
        if self.shape.jitter and rng is not None:
            tint = Tint.draw(rng, self.shape.jitter)
            for name in seen:
                tint.apply(into[name][place].numpy())
        warp = Warp.draw(rng, self.shape.warp) if self.shape.warp and rng is not None else None
        if warp is not None:
            for name in seen:
                warp.apply(into[name][place].numpy(), self.shape.reads[name].box)
        for name in corners:
            points = change.points(self._corners(row, members)[chosen[name][1]])
            into[name][place] = torch.from_numpy(points if warp is None else warp.points(points))

    def valid(self, row: int) -> NDArray[np.generic]:
        """Return which frames of a clip have windows that hold real sound alone; ShardError."""
        return self._arrays(row)["valid.npy"]

    def read(self, row: int, column: str, frames: Collection[int], *, arrays: bool = False) -> dict[str, bytes]:
        """Read members of a clip; as `Clips.read`."""
        return self.clips.read(row, column, frames, arrays=arrays)

    def _partner(self, row: int, rng: np.random.Generator) -> int:
        """Return a clip of the same speaker, maybe the same one."""
        if self.clips.speakers[row] < 0:
            return row
        return int(rng.choice(self._of_speaker[int(self.clips.speakers[row])]))

    def _choose(
        self,
        reads: Reads,
        row: int,
        arrays: Mapping[str, NDArray[np.generic]],
        rng: np.random.Generator | None,
        label: Tensor,
    ) -> Sequence[int]:
        """Return which frames of a clip are read; label: takes the number of the word that they are around."""
        n_frames = int(self.clips.n_frames[row])
        words = self.clips.timed[row] if self.clips.timed else NO_WORDS
        if reads.source == "statistics":
            return ()
        if reads.at == "sound":
            if len(words) and rng is not None:
                word = words[rng.integers(len(words))]
                label[0] = int(word[0])
                return word_stretch(n_frames, word, reads.length, reads.every, rng)
            return sound_stretch(arrays["valid.npy"], reads.length, reads.every, rng)
        if reads.at == "moments":
            return moments(n_frames, spoken_part(n_frames, words, arrays["valid.npy"]), reads.length, rng)
        if reads.at == "portrait":
            if rng is None and self.portrait_seed is not None:
                rng = portrait_rng(self.portrait_seed, row)
            return [n_frames // 2 if rng is None else int(rng.integers(n_frames))]
        return stretch(n_frames, reads.length, reads.every, rng)

    def _heard(self, row: int, arrays: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Return 1 for each frame of a clip whose window holds real sound alone while somebody speaks, else 0."""
        n_frames, heard = int(self.clips.n_frames[row]), arrays["valid.npy"].astype(np.float32)
        words = self.clips.timed[row] if self.clips.timed else NO_WORDS
        first, end = spoken_part(n_frames, words, arrays["valid.npy"])
        heard[:first] = heard[end:] = 0
        return heard

    def _corners(self, row: int, members: Mapping[str, bytes]) -> NDArray[np.float32]:
        """Return the corners of the mouth of each frame of a clip in pixels of the crop, (T, 2, 2).

        members: arrays of the clip, if they were read.
        """
        first = int(self.clips.first[row])
        if "points.npy" not in members:
            members = self.read(row, "crop", ())
        points, affine = (decode_array(members[name]).astype(np.float32) for name in ("points.npy", "affine.npy"))
        if points.shape != (int(self.clips.whole[row]), N_POINTS, 2) or affine.shape != (len(points), 2, 3):
            raise ShardError(f"{self.key(row)}: points.npy {points.shape} and affine.npy {affine.shape} do not agree")
        crops = points[:, 3:] @ affine[:, :, :2].transpose(0, 2, 1) + affine[:, None, :, 2]
        return crops[first : first + int(self.clips.n_frames[row])]

    def _decode(
        self,
        row: int,
        wanted: Mapping[str, Sequence[int]],
        into: RawBatch,
        place: int,
        change: Augmentation,
        *,
        arrays: bool,
    ) -> dict[str, bytes]:
        """Decode frames, each once, all of them moved alike, into each form in which they are read.

        Returns what was read for it: nothing of a clip whose frames are held; arrays: those of the clip, too.
        """
        slots: dict[int, list[tuple[Form, Frames]]] = {}
        for name, frames in wanted.items():
            form = self.shape.form(self.shape.reads[name])
            for slot, frame in zip(into[name][place].numpy(), frames, strict=True):
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

    def _arrays(self, row: int) -> dict[str, NDArray[np.generic]]:
        """Read the windows of a clip and which of them hold real sound alone."""
        n_frames, first = int(self.clips.whole[row]), int(self.clips.first[row])
        members = self.read(row, "mfcc", ())
        found: dict[str, NDArray[np.generic]] = {}
        for name, (dtype, shape) in ARRAYS["mfcc"].items():
            array = decode_array(members[name])
            if array.dtype.str != dtype or array.shape != (n_frames, *shape):
                raise ShardError(f"{name} is {array.dtype.str} {array.shape}, expected {dtype} {(n_frames, *shape)}")
            if not np.isfinite(array).all():
                raise ShardError(f"{name} holds numbers that are not finite")
            if name == "mfcc.npy":
                found[WHOLE_SOUND] = array
            found[name] = array[first : first + int(self.clips.n_frames[row])]
        return found


def _rows_of_each(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows that have each number, in order."""
    order = np.argsort(numbers, kind="stable").astype(np.int64)
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []


def statistics(windows: NDArray[np.generic], length: int = 2) -> NDArray[np.float32]:
    """Return mean and standard deviation of each coefficient of a clip's windows (T, 12, 20): float32 (2, 12).

    length: `ALL_STATISTICS`: and their covariance, (14, 12).
    """
    mean, deviation = windows.mean((0, 2), dtype=np.float64), windows.std((0, 2), dtype=np.float64)
    rows = [mean, deviation.clip(MIN_DEVIATION)]
    if length > len(rows):
        steps = np.asarray(windows, np.float64).transpose(1, 0, 2).reshape(windows.shape[1], -1)
        rows += list(np.cov(steps, bias=True))
    return np.stack(rows).astype(np.float32)


def usable(clips: Clips, shape: Shape, *, words: bool, speakers: bool) -> Clips:
    """Return the clips that a stage can use; those that are too short or lack a label are counted as skipped."""
    clips = clips.where(clips.n_frames >= shape.shortest(), f"shorter than {shape.shortest()} frames")
    if words:
        spoken = np.array([len(found) > 0 for found in clips.timed] or [False] * len(clips), bool)
        clips = clips.where(spoken | (clips.words >= 0), "no word of the training set")
    if speakers:
        clips = clips.where(clips.speakers >= 0, "no speaker of the training set")
    return clips
