"""Batches that are read ahead by processes in memory shared with the training process.

A process decodes directly into a slot of memory that all processes share from the start, and sends only the number of
the slot. Nothing is copied, memory pages are touched once, and the small /dev/shm of containers is sufficient.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import mmap
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from avprep.errors import RunError, ShardError
from davs_model.data.batch import RawBatch, empty_batch
from davs_model.data.batches import Batches, EvaluationBatches

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask a run to stop."""
AHEAD = 2
"""Number of batches that a process reads ahead."""
SLOTS = AHEAD + 3
"""Number of batches of a process in memory: those ahead, one being read, one in use, one that a GPU still copies."""


def training_batches(batches: Batches, *, first: int, last: int, workers: int, pin: bool = False) -> Iterator[RawBatch]:
    """Yield the batches of the steps `first` … `last − 1`, epoch after epoch.

    workers: number of reading processes, limited to the number of cores; 0: this process reads.
    pin: let a GPU copy from the slots while it computes.
    The memory of a batch is reused once the next batch but one is requested: use or copy the batch before that.
    """
    return _read_ahead(batches, _Steps(first, last, len(batches)), workers, pin)


def evaluation_batches(batches: EvaluationBatches, *, workers: int, pin: bool = False) -> Iterator[RawBatch]:
    """Yield all batches in order; arguments and memory as in `training_batches`.

    A batch of which nothing can be read is empty. ShardError at the end if nothing at all could be read.
    """
    some, problem = False, ""
    for batch in _read_ahead(batches, range(len(batches)), workers, pin):
        some |= bool(batch.keys)
        problem = problem or next((reason for _, reason in batch.skipped), "")
        yield batch
    if problem and not some:
        raise ShardError(f"none of {batches.count} clips can be read, the first because: {problem}")


def first_batch(batches: EvaluationBatches) -> RawBatch:
    """Return the first batch of which something can be read; ShardError if there is none."""
    return next(batch for batch in evaluation_batches(batches, workers=0) if batch.keys)


def processes(workers: int) -> int:
    """Return the number of reading processes: `workers`, limited to the number of cores."""
    return min(workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else workers)


def begin_reading(_: int = 0) -> None:
    """Initialise a reading process: it ignores STOP_SIGNALS.

    A scheduler sends these signals to every process of a job, and a terminal to all processes in the foreground; only
    the training process handles them.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Context in which forked processes decode in one thread each, because there are enough processes.

    The number is set before the fork: a process that is forked while OpenCV's threads run does not have these threads,
    and waits for them forever when it is set to use fewer.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextlib.contextmanager
def living_readers() -> Iterator[None]:
    """Turn the error of torch when a reading process has been killed, as for want of memory, into RunError, one line.

    torch raises it from a signal handler, wherever the process that uses the batches is.
    """
    try:
        yield
    except RuntimeError as error:
        if not (text := str(error)).startswith("DataLoader worker"):  # torch has no type for it
            raise
        how = text.partition(".")[0].rpartition(") ")[2].removeprefix("is ")
        raise RunError(
            f"a process that reads batches has ended ({how}): if memory ran out, use fewer workers"
        ) from error


class _Read(NamedTuple):
    """What a process has read, and the slot that holds it."""

    worker: int
    slot: int
    clips: int
    starts: Mapping[str, int]
    keys: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


class _Slots(Dataset[_Read | str]):
    """Reads batches into the slots in turn; a ShardError is returned as its text, because torch would extend it."""

    def __init__(self, batches: Batches | EvaluationBatches, slots: list[list[RawBatch]]) -> None:
        self.batches, self.slots = batches, slots
        self._next = 0

    def __getitem__(self, place: tuple[int, int] | int) -> _Read | str:
        info = get_worker_info()
        assert info is not None
        slot, self._next = self._next, (self._next + 1) % SLOTS
        try:
            read = self.batches.read(place, self.slots[info.id][slot])  # type: ignore[arg-type] # places match batches
        except ShardError as error:
            return str(error)
        return _Read(info.id, slot, len(read.keys), read.starts, read.keys, read.skipped)


def _as_it_is(read: Any) -> Any:
    return read  # torch's default would convert its tuples to lists


class _Steps:
    """Epoch and number of the batch of each step."""

    def __init__(self, first: int, last: int, per_epoch: int) -> None:
        self.steps, self.per_epoch = range(first, last), per_epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return (divmod(step, self.per_epoch) for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def _read_ahead(
    batches: Batches | EvaluationBatches, places: _Steps | range, workers: int, pin: bool
) -> Iterator[RawBatch]:
    """Yield batches in order."""
    if not workers:
        for place in places:
            yield batches[place]  # type: ignore[index] # places match batches
        return
    workers = processes(workers)
    memory = _SharedMemory(pin)
    slots = [[empty_batch(batches.shape, batches.share, memory) for _ in range(SLOTS)] for _ in range(workers)]
    reader: DataLoader[_Read | str] = DataLoader(
        _Slots(batches, slots),
        batch_size=None,
        collate_fn=_as_it_is,
        sampler=places,
        num_workers=workers,
        prefetch_factor=AHEAD,
        worker_init_fn=begin_reading,
        multiprocessing_context="fork",  # so that the memory is shared
    )
    with contextlib.ExitStack() as at_end:
        at_end.callback(memory.release)
        with one_thread():
            running = iter(reader)
        stop = running._shutdown_workers  # type: ignore[attr-defined]
        # A traceback may keep this generator alive until Python exits. Python then sends the processes a SIGTERM, which
        # they ignore, and waits for them forever.
        atexit.register(stop)
        at_end.callback(atexit.unregister, stop)
        at_end.callback(stop)
        for read in running:
            if isinstance(read, str):
                raise ShardError(read)
            batch = slots[read.worker][read.slot].first(read.clips)
            yield replace(batch, starts=read.starts, keys=read.keys, skipped=read.skipped)


class _SharedMemory:
    """Allocates tensors whose memory is shared with processes that are forked later; a GPU may copy from them."""

    def __init__(self, pin: bool) -> None:
        self.pin = pin
        self._pinned: list[int] = []

    def __call__(self, size: tuple[int, ...], /, *, dtype: torch.dtype) -> Tensor:
        """Return a tensor of zeros."""
        if not (count := math.prod(size)):
            return torch.empty(size, dtype=dtype)
        tensor = torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize), dtype=dtype).view(size)
        if self.pin:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0))
            self._pinned.append(tensor.data_ptr())
        return tensor

    def release(self) -> None:
        """Unpin the memory, once no copy is in progress."""
        if self._pinned:
            torch.cuda.synchronize()
        for address in self._pinned:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))
        self._pinned.clear()
