"""Batches of a source: in the order of an epoch for training, in the order of the rows for evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from avprep.errors import ShardError
from davs_model.data.batch import RawBatch, empty_batch
from davs_model.data.reads import Shape
from davs_model.data.sampling import SUBSTITUTES, candidates, clip_rng, drawn_starts, epoch_order, middle_starts
from davs_model.data.sources import Source


class Batches:
    """The batches of this process: item `(epoch, number)` is its part of batch `number` of that epoch.

    batch_size: clips of a whole batch, which is divided among `world` processes; rank: number of this process. An
    incomplete last batch is left out (it has other clips in each epoch).
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
        """Read a batch into newly allocated memory; ShardError if nothing in it can be read."""
        return self.read(place, empty_batch(self.shape, self.share))

    def read(self, place: tuple[int, int], into: RawBatch) -> RawBatch:
        """Read a batch into existing memory, and return it."""
        epoch, number = place
        first = number * self.batch_size + self.rank * self.share
        rows = self._order(epoch)[first : first + self.share]
        return _read_batch(
            self.source,
            [int(row) for row in rows],
            replace(into, starts=drawn_starts(self.shape, seed=self.seed, epoch=epoch, number=number)),
            draw=lambda row: clip_rng(self.seed, epoch, row),
        )


class EvaluationBatches:
    """All clips in order, the middle of each, without augmentation; the last batch may be smaller.

    One process reads them all, so its share of a batch, as of `Batches`, is the whole.
    """

    def __init__(self, source: Source, shape: Shape, *, batch_size: int, limit: int | None = None) -> None:
        self.source, self.shape, self.share = source, shape, batch_size
        self.count = len(source) if limit is None else min(limit, len(source))

    def __len__(self) -> int:
        return -(-self.count // self.share)

    def __getitem__(self, number: int) -> RawBatch:
        """Read a batch into newly allocated memory."""
        return self.read(number, empty_batch(self.shape, self.share))

    def read(self, number: int, into: RawBatch) -> RawBatch:
        """Read a batch into existing memory, and return it; it is empty if nothing can be read."""
        rows = list(range(number * self.share, min(self.count, (number + 1) * self.share)))
        return _read_batch(self.source, rows, replace(into, starts=middle_starts(self.shape)), draw=None)


def _read_batch(
    source: Source, rows: list[int], into: RawBatch, *, draw: Callable[[int], np.random.Generator] | None
) -> RawBatch:
    """Read rows of a source; a row that cannot be read is replaced by another one, or left out without `draw`.

    ShardError if no replacement can be read.
    """
    keys: list[str] = []
    skipped: list[tuple[str, str]] = []
    for row in rows:
        for candidate in (row,) if draw is None else candidates(row, len(source)):
            try:
                source.load(candidate, into, len(keys), None if draw is None else draw(candidate))
            except ShardError as error:
                skipped.append((source.key(candidate), str(error)))
                continue
            keys.append(source.key(candidate))
            break
        else:
            if draw is not None:  # a training batch must be complete: other processes depend on its size
                raise ShardError(f"none of {SUBSTITUTES + 1} clips can be read, the last because: {skipped[-1][1]}")
    return replace(into.first(len(keys)), keys=tuple(keys), skipped=tuple(skipped))
