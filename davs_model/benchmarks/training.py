"""Speed of training on real shards: its loader and its steps, each compared with the minimum time for the same work.

The floor of the loader is decoding the same JPEGs in as many processes; that of a step is the arithmetic that no
trainer can omit. Step and floor alternate, so that a noisy machine slows both.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from avprep.errors import RunError
from avprep.schema import ARRAYS
from davs_model import models, precision
from davs_model.data.batches import Batches
from davs_model.data.clips import Clips
from davs_model.data.corpus import read_corpus
from davs_model.data.loader import AHEAD, begin_reading, one_thread, processes, training_batches
from davs_model.data.reads import Shape
from davs_model.data.sources import ClipSource, usable
from davs_model.settings import RunSettings
from davs_model.training.distributed import World
from davs_model.training.loop import device_of
from davs_model.training.sources import label_problem, training_shape
from davs_model.training.step import Part, StageTrainer

LRW_CLIPS = 488_766
"""Clips of LRW's training split."""
WARM_UP = 2
"""Batches of each process before the clock starts, while it starts up and files are cached."""
AT_LEAST, AT_MOST = 8, 32
"""Bounds of the batches of a pass: about an epoch, and the same number for each process."""
FIRST_STEPS = 1
"""Slow steps before the clock starts: memory is allocated, kernels are chosen or compiled."""
PARTS = ("loader", "copy", "forward", "backward", "optimizer")
"""The parts of a step: `loader` waits for the batch, `copy` brings it to the device as values in [0, 1]."""


@dataclass
class LoaderSpeed:
    """The measured speed of a loader.

    clips_per_s, decoded_per_s: of the loader, and of only decoding the same frames; medians of the repeats.
    ratio: the median of decoding's rate over the loader's, repeat by repeat: 1 is a loader that costs nothing.
    lrw_epoch_h: hours for reading an epoch of LRW at this speed.
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
        """Return the results as lines of text."""
        memory = " ".join(f"{value:.0f}" for value in self.memory_mib)
        return (
            f"{self.stage} stage, {self.workers} loader processes, {self.frames_per_clip:.1f} frames of a clip\n"
            f"loader           {self.clips_per_s:8.1f} clips/s\n"
            f"decoding alone   {self.decoded_per_s:8.1f} clips/s\n"
            f"ratio            {self.ratio:8.2f}\n"
            f"an epoch of LRW  {self.lrw_epoch_h:8.2f} h\n"
            f"memory (MiB) over {self.batches} batches: {memory}"
        )


@dataclass
class StageSpeed:
    """The speed of one stage.

    step_s: seconds of a step as in `avprep train`, median of the passes. floor_s: seconds of forward and backward of
    one batch that is already on the device, likewise. ratio: median of the passes' step / floor.
    parts, shares: seconds and fraction of each part of a step, with a synchronisation of the device after each; on a
    GPU the sum exceeds step_s, because otherwise it works on one part while the next is queued.
    memory_mib: peak of tensors on a GPU; None on a CPU. lrw_epoch_h: hours for an epoch of LRW at this speed.
    """

    stage: str
    step_s: float
    clips_per_s: float
    floor_s: float
    ratio: float
    parts: dict[str, float]
    shares: dict[str, float]
    memory_mib: float | None
    lrw_epoch_h: float


@dataclass
class TrainingSpeed:
    """The measured speeds, and the hardware and data; left_out: stages that these shards cannot train, and why."""

    device: str
    settings: dict[str, Any]
    steps: int
    stages: list[StageSpeed]
    left_out: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return the results as a table of text."""
        model, machine, data = (self.settings[section] for section in ("model", "machine", "data"))
        forms = [name for name in ("bf16", "channels_last", "compile") if machine[name]]
        lines = [
            f"{self.device}: width {model['width']:g}, {model['image_size']}×{model['image_size']}, batch "
            f"{data['batch_size']}, {data['workers']} loader processes, {', '.join(forms) or 'float32'}",
            f"{'stage':9}{'clips/s':>8}{'ms a step':>11}{'ratio':>7}"
            + "".join(f"{part:>10}" for part in PARTS)
            + f"{'GPU MiB':>9}{'h an epoch of LRW':>19}",
        ]
        for row in self.stages:
            memory = "–" if row.memory_mib is None else f"{row.memory_mib:.0f}"
            lines.append(
                f"{row.stage:9}{row.clips_per_s:8.1f}{row.step_s * 1e3:11.1f}{row.ratio:7.2f}"
                + "".join(f"{row.shares[part]:10.1%}" for part in PARTS)
                + f"{memory:>9}{row.lrw_epoch_h:19.1f}"
            )
        return "\n".join([*lines, *(f"{stage}: left out: {reason}" for stage, reason in self.left_out.items())])


def bench_load(out: Path, settings: RunSettings, stage: str, *, repeat: int = 5, batches: int = 1000) -> LoaderSpeed:
    """Measure the loader of a stage on the train split of OUT, only in loader processes.

    batches: number of batches over which memory is watched. Loading and decoding alternate, so that a noisy machine
    slows both. RunError for too few clips.
    """
    kind, corpus = models.find(settings.of_model), read_corpus(out, settings)
    shape = training_shape(kind, kind.dimensions_for(corpus, settings), kind.plan(stage, settings), settings)
    batch_size = settings.data.batch_size
    workers = max(1, processes(settings.data.workers))
    clips = usable(corpus.train, shape)
    source = _Watched(clips, shape)
    watched = Batches(source, shape, batch_size=batch_size, seed=0)
    made = Batches(ClipSource(clips, shape, codes=_any_codes(clips, shape)), shape, batch_size=batch_size, seed=0)
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
    return LoaderSpeed(
        stage=stage,
        workers=workers,
        batches=batches,
        frames_per_clip=len(pictures) / n_clips,
        clips_per_s=rate,
        decoded_per_s=statistics.median(floors),
        ratio=statistics.median(ratios),
        lrw_epoch_h=LRW_CLIPS / rate / 3600,
        memory_mib=_resident(made, batches, workers),
    )


def _any_codes(clips: Clips, shape: Shape) -> Sequence[NDArray[np.float32]]:
    """Return features of the right shapes for stages that read codes; their values do not affect the time."""
    if all(reads.source != "codes" for reads in shape.reads.values()):
        return ()
    return [np.zeros((n_frames, shape.features), np.float32) for n_frames in clips.n_frames.tolist()]


class _Watched(ClipSource):
    """Clips that keep the images that were read from them."""

    def __init__(self, clips: Clips, shape: Shape) -> None:
        super().__init__(clips, shape, codes=_any_codes(clips, shape))
        self.pictures: list[bytes] = []

    def read(self, row: int, column: str, frames: Collection[int], *, arrays: bool = False) -> dict[str, bytes]:
        """Read members of a clip."""
        members = super().read(row, column, frames, arrays=arrays)
        if column == "crop":
            self.pictures += [data for name, data in members.items() if name not in ARRAYS[column]]
        return members


def _decode(pictures: list[bytes]) -> None:
    for data in pictures:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def _rate(batches: Batches, count: int, workers: int) -> float:
    """Return clips/s of the loader after it has started up."""
    clips, begin, first = 0, 0.0, WARM_UP * workers
    for number, raw in enumerate(training_batches(batches, first=0, last=first + count, workers=workers)):
        if number == first - 1:
            begin = time.perf_counter()
        elif number >= first:
            clips += len(raw.keys)
    return clips / (time.perf_counter() - begin)


def _resident(batches: Batches, count: int, workers: int) -> list[float]:
    """Return the resident memory of this process and the loader's processes after each tenth of `count` batches."""
    found = []
    for number, _ in enumerate(training_batches(batches, first=0, last=count, workers=workers), start=1):
        if number % max(1, count // 10) == 0:
            children = multiprocessing.active_children()
            found.append(sum(_proportional(pid) for pid in (os.getpid(), *(c.pid for c in children if c.pid))) / 1024)
    return found


def _proportional(pid: int) -> float:
    """Return the proportional memory of a process in KiB: shared pages are divided among their processes (Linux)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:")))


def bench_train(
    out: Path, settings: RunSettings, *, stages: Sequence[str] | None = None, steps: int = 2, repeat: int = 3
) -> TrainingSpeed:
    """Train each stage for some steps on the train split of OUT; nothing is written.

    stages: None: all stages of the model. steps: of a pass; repeat: number of passes, each followed by a pass of the
    floor, so that a noisy machine slows both.
    RunError if a stage cannot be trained (one that tells people apart is then left out, unless it is the only one), if
    the device does not exist, or if a batch does not fit in its memory. SettingsError if torch cannot compile.
    """
    device = device_of(settings)
    threads = torch.get_num_threads()
    if settings.machine.threads:
        torch.set_num_threads(settings.machine.threads)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    corpus = read_corpus(out, settings)
    left_out: dict[str, str] = {}
    found = []
    torch.manual_seed(settings.seed)
    kind = models.find(settings.of_model)
    model = kind(**kind.dimensions_for(corpus, settings))
    precision.place(model, device, channels_last=settings.machine.channels_last, compiled=settings.machine.compile)
    try:
        stages = tuple(kind.stages) if stages is None else stages
        for stage in (kind.plan(name, settings) for name in stages):
            if len(stages) > 1 and (problem := label_problem(stage, corpus)):
                left_out[stage.name] = problem
            else:
                trainer = StageTrainer.of(stage, model, corpus, settings, World(), device)
                with precision.compiling(settings.machine.compile):
                    found.append(_measure(trainer, steps, repeat))
    except torch.OutOfMemoryError as error:
        size = settings.data.batch_size
        raise RunError(f"{name}: a batch of {size} does not fit into memory: give a smaller --batch") from error
    finally:
        torch.set_num_threads(threads)
    return TrainingSpeed(name, settings.to_json(), steps, found, left_out)


def _measure(trainer: StageTrainer, steps: int, repeat: int) -> StageSpeed:
    if trainer.stage.initialises:
        trainer.initialise()
    memory = _memory(trainer)
    pairs = [(_train(trainer, steps), _floor(trainer, steps)) for _ in range(repeat)]
    step_s = statistics.median(step for step, _ in pairs)
    parts = _parts(trainer, steps)
    rate = trainer.settings.data.batch_size / step_s
    return StageSpeed(
        stage=trainer.stage.name,
        step_s=step_s,
        clips_per_s=rate,
        floor_s=statistics.median(floor for _, floor in pairs),
        ratio=statistics.median(step / floor for step, floor in pairs),
        parts=parts,
        shares={part: seconds / sum(parts.values()) for part, seconds in parts.items()},
        memory_mib=memory,
        lrw_epoch_h=LRW_CLIPS / rate / 3600,
    )


def _memory(trainer: StageTrainer) -> float | None:
    """Return the peak memory of tensors on a GPU during the first steps, in MiB; None on a CPU."""
    if trainer.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    _train(trainer, 1)
    return torch.cuda.max_memory_allocated() / 2**20


def _train(trainer: StageTrainer, steps: int) -> float:
    """Return the seconds of a step; as in training, its terms are checked after the next step is queued."""
    begin, before, first = 0.0, torch.zeros(0), _warm_up(trainer)
    for step, raw in enumerate(trainer.read(0, first + steps), start=1):
        values = trainer.step(step, first + steps, raw)
        before.tolist()
        before = torch.stack(list(values.values()))
        if step == first:
            _wait(trainer)
            begin = time.perf_counter()
    _wait(trainer)
    return (time.perf_counter() - begin) / steps


def _floor(trainer: StageTrainer, steps: int) -> float:
    """Return the seconds of forward and backward of one batch that is on the device."""
    trainer.model.train()
    batch = trainer.batches[0, 0].to(trainer.device)
    trainer.differentiate(batch, 1.0)
    _wait(trainer)
    begin = time.perf_counter()
    for _ in range(steps):
        trainer.differentiate(batch, 1.0)
    _wait(trainer)
    return (time.perf_counter() - begin) / steps


def _parts(trainer: StageTrainer, steps: int) -> dict[str, float]:
    """Return the mean seconds of each part of a step, with a synchronisation of the device after each."""
    spent = dict.fromkeys(PARTS, 0.0)
    at, first = 0.0, _warm_up(trainer)

    def done(part: Part | Literal["loader"]) -> None:
        nonlocal at
        _wait(trainer)
        now = time.perf_counter()
        if step > first:
            spent[part] += now - at
        at = now

    for step, raw in enumerate(trainer.read(0, first + steps), start=1):
        done("loader")
        trainer.step(step, first + steps, raw, done)
    return {part: seconds / steps for part, seconds in spent.items()}


def _warm_up(trainer: StageTrainer) -> int:
    """Return the number of steps before the clock starts: the slow ones, and as many as were read ahead meanwhile."""
    return FIRST_STEPS + AHEAD * processes(trainer.settings.data.workers)


def _wait(trainer: StageTrainer) -> None:
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
