"""Speed and memory of the loader, against decoding the same JPEGs in as many processes and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avprep.errors import RunError
from davs_model import models
from davs_model.data.batches import Batches
from davs_model.data.clips import Clips
from davs_model.data.corpus import read_corpus
from davs_model.data.loader import begin_reading, one_thread, processes, training_batches
from davs_model.data.reads import Shape
from davs_model.data.sources import ClipSource, usable
from davs_model.settings import Settings
from davs_model.training.sources import training_shape

LRW_CLIPS = 488_766
"""Clips of LRW's training split."""
WARM_UP = 2
"""Batches of each process before the clock starts: it begins, files come into memory."""
AT_LEAST, AT_MOST = 8, 32
"""Batches of a pass: about an epoch, within these bounds, as many for each process."""


@dataclass
class Result:
    """What was measured.

    clips_per_s, decoded_per_s: of the loader, and of decoding the same frames alone; medians of the repeats.
    ratio: the median of decoding's rate over the loader's, repeat by repeat: 1 is a loader that costs nothing.
    lrw_epoch_h: hours of reading an epoch of LRW at this speed.
    memory_mib: resident memory of all processes of the loader, each page once, after each tenth of the batches.
    """

    stage: str
    workers: int
    batches: int
    frames_per_clip: float
    clips_per_s: float
    decoded_per_s: float
    ratio: float
    lrw_epoch_h: float
    memory_mib: list[float]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return lines to read."""
        memory = " ".join(f"{value:.0f}" for value in self.memory_mib)
        return (
            f"{self.stage} stage, {self.workers} loader processes, {self.frames_per_clip:.1f} frames of a clip\n"
            f"loader           {self.clips_per_s:8.1f} clips/s\n"
            f"decoding alone   {self.decoded_per_s:8.1f} clips/s\n"
            f"ratio            {self.ratio:8.2f}\n"
            f"an epoch of LRW  {self.lrw_epoch_h:8.2f} h\n"
            f"memory (MiB) over {self.batches} batches: {memory}"
        )


def bench(out: Path, settings: Settings, stage: str, *, repeat: int = 5, batches: int = 1000) -> Result:
    """Measure the loader of a stage on the train split of OUT, in loader processes alone.

    batches: over how many the memory is watched. The two take turns, so that a noisy machine slows both. RunError where
    there are too few clips.
    """
    kind, corpus = models.find(settings.of_model), read_corpus(out, settings)
    shape = training_shape(kind, kind.dimensions_for(corpus, settings), kind.stages[stage], settings)
    batch_size = settings.data.batch_size
    workers = max(1, processes(settings.data.workers))
    clips = usable(corpus.train, shape, words=False, speakers=False)
    source = _Watched(clips, shape)
    watched = Batches(source, shape, batch_size=batch_size, seed=0)
    made = Batches(ClipSource(clips, shape), shape, batch_size=batch_size, seed=0)
    if not len(made):
        raise RunError(f"{out}: {len(clips)} clips of the train split can be used, fewer than a batch of {batch_size}")
    count = -(-max(AT_LEAST, min(len(made), AT_MOST)) // workers) * workers
    n_clips = sum(len(watched[divmod(number, len(made))].keys) for number in range(count))
    pictures = source.pictures
    ratios, rates, floors = [], [], []
    context = multiprocessing.get_context("fork")
    for _ in range(repeat):
        with one_thread(), ProcessPoolExecutor(workers, context, begin_reading) as pool:
            parts = [pictures[k::workers] for k in range(workers)]
            list(pool.map(_decode, [part[:20] for part in parts]))
            begin = time.perf_counter()
            list(pool.map(_decode, parts))
            floors.append(n_clips / (time.perf_counter() - begin))
        rates.append(_rate(made, count, workers))
        ratios.append(floors[-1] / rates[-1])
    rate = statistics.median(rates)
    return Result(
        stage=stage,
        workers=workers,
        batches=batches,
        frames_per_clip=len(pictures) / n_clips,
        clips_per_s=rate,
        decoded_per_s=statistics.median(floors),
        ratio=statistics.median(ratios),
        lrw_epoch_h=LRW_CLIPS / rate / 3600,
        memory_mib=_memory(made, batches, workers),
    )


class _Watched(ClipSource):
    """Clips that remember the pictures that were read of them."""

    def __init__(self, clips: Clips, shape: Shape) -> None:
        super().__init__(clips, shape)
        self.pictures: list[bytes] = []

    def read(self, row: int, column: str, frames: Collection[int]) -> dict[str, bytes]:
        """Read members of a clip."""
        members = super().read(row, column, frames)
        if column == "crop":
            self.pictures += members.values()
        return members


def _decode(pictures: list[bytes]) -> None:
    for data in pictures:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def _rate(batches: Batches, count: int, workers: int) -> float:
    """Return clips/s of the loader once it runs."""
    clips, begin, first = 0, 0.0, WARM_UP * workers
    for number, raw in enumerate(training_batches(batches, first=0, last=first + count, workers=workers)):
        if number == first - 1:
            begin = time.perf_counter()
        elif number >= first:
            clips += len(raw.keys)
    return clips / (time.perf_counter() - begin)


def _memory(batches: Batches, count: int, workers: int) -> list[float]:
    """Return the resident memory of this process and the loader's after each tenth of so many batches."""
    found = []
    for number, _ in enumerate(training_batches(batches, first=0, last=count, workers=workers), start=1):
        if number % max(1, count // 10) == 0:
            children = multiprocessing.active_children()
            found.append(sum(_proportional(pid) for pid in (os.getpid(), *(c.pid for c in children if c.pid))) / 1024)
    return found


def _proportional(pid: int) -> float:
    """Return the memory of a process in KiB, pages that several share being shared out (Linux)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:")))
