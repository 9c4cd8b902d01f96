"""The logs of a run: progress lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avprep import untrusted
from avprep.errors import RunError

METRICS = "metrics.jsonl"
"""One JSON object per line: `stage`, `step` and the values measured there."""


class MetricsLog:
    """Writes the records of a run; those of steps after the resumed state are dropped, because they will be repeated.

    done: steps of each stage from which the run resumes. RunError, one line, if the disk is full.
    """

    def __init__(self, run: Path, done: dict[str, int]) -> None:
        # If TensorFlow is installed, TensorBoard loads it to write files, and it prints remarks about the processor.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from torch.utils.tensorboard import SummaryWriter  # a second of imports

        self._path = run / METRICS
        self._hook = threading.excepthook
        with self._writing():
            self._forget(done)
            first = sum(done.values()) + 1  # TensorBoard drops its records of this step and later ones
            self._board: SummaryWriter = SummaryWriter(str(run / "tensorboard"), purge_step=first)
        threading.excepthook = self._in_a_thread

    def write(self, stage: str, step: int, *, overall: int, **values: Any) -> None:
        """Record nested values at a step; overall: the step counted over all stages. RunError if it cannot write."""
        line = json.dumps({"stage": stage, "step": step, **values}, allow_nan=False)
        with self._writing():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            for name, value in _scalars(values):
                self._board.add_scalar(f"{stage}/{name}", value, overall)

    def samples(self, stage: str, rgb: Any, *, overall: int) -> None:
        """Show generated samples, one image uint8 (H, W, 3), in TensorBoard."""
        with self._writing():
            self._board.add_image(f"{stage}/samples", rgb, overall, dataformats="HWC")

    def flush(self) -> None:
        """Write everything to disk."""
        with self._writing():
            self._board.flush()

    def close(self) -> None:
        """Close the log; what was flushed is on disk, even if the rest can no longer be written."""
        with contextlib.suppress(OSError):
            self._board.close()
        threading.excepthook = self._hook

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn an error of writing, such as a full disk, into one line."""
        try:
            yield
        except OSError as error:
            raise RunError(f"{error.filename or self._path.parent}: cannot be written ({error.strerror})") from error

    def _in_a_thread(self, args: threading.ExceptHookArgs) -> None:
        """Print the exception that ends a thread, except OSError, which TensorBoard's thread also passes on."""
        if not issubclass(args.exc_type, OSError):
            self._hook(args)

    def _forget(self, done: dict[str, int]) -> None:
        """Drop the records of steps after the resumed state: they will be repeated."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                match untrusted.parse_json(line):
                    case {"stage": str(stage), "step": int(step)} if line.endswith("\n") and step <= done.get(stage, 0):
                        kept.append(line)
            except ValueError:  # cut off by a kill
                continue
        part = self._path.with_name(f".{METRICS}.part")
        part.write_text("".join(kept), encoding="utf-8")
        os.replace(part, self._path)


def _scalars(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, float(value)))
    return found


class Clock:
    """Measures the speed of steps, without the time between them."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._waited = 0.0
        self._steps = 0
        self._begin = time.monotonic()

    def step(self) -> None:
        """Count a step."""
        self._steps += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context whose time counts as waiting for data."""
        begin = time.monotonic()
        yield
        self._waited += time.monotonic() - begin

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Context whose time is left out."""
        begin = time.monotonic()
        yield
        self._begin += time.monotonic() - begin

    def lap(self) -> tuple[float, float]:
        """Return clips/s and the fraction of time spent waiting for data, since the last lap."""
        now = time.monotonic()
        spent = max(now - self._begin, 1e-9)
        result = self._steps * self._batch_size / spent, self._waited / spent
        self._begin, self._waited, self._steps = now, 0.0, 0
        return result


def duration(seconds: float) -> str:
    """Return seconds as 1:02:03 or 02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
