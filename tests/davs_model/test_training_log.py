"""The log of a training run: speeds and means, TensorBoard's view of a resumed run, and a full disk."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avprep.errors import RunError
from davs_model.training import log as training_log
from davs_model.training.distributed import World
from davs_model.training.log import Clock, MetricsLog, duration
from davs_model.training.step import Sums


def fill(log: MetricsLog, values: dict[str, Any]) -> None:
    """Write more than there is room for."""
    for step in range(1000):
        log.write("speech", step, overall=step, **values)
        log.flush()


@pytest.mark.parametrize(
    "values", [{"text": "x" * 100}, {str(n): n for n in range(30)}], ids=["metrics.jsonl", "tensorboard"]
)
def test_a_full_disk_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], values: dict[str, Any]) -> None:
    """If the disk is full for any file of a log, one line says so, and no thread prints anything."""
    log = MetricsLog(tmp_path, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as on a full disk
    try:
        with pytest.raises(RunError, match=rf"^{tmp_path}: cannot be written \(File too large\)$"):
            fill(log, values)
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Traceback" not in capfd.readouterr().err


def test_tensorboard_keeps_the_step_that_a_run_goes_on_from(tmp_path: Path) -> None:
    """TensorBoard shows each step of a resumed run once, including the step it resumes from and later repeated ones."""
    for done, steps in ((0, (1, 2, 3)), (2, (3, 4)), (4, ())):
        log = MetricsLog(tmp_path, {"speech": done})
        for step in steps:
            log.write("speech", step, overall=step, done=done)
        log.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("speech/done")] == [(1, 0), (2, 0), (3, 2), (4, 2)]


def test_speed_is_of_the_steps_since_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips/s and the fraction of waiting are of the time since the last line, without validations and sheets."""
    now = 100.0
    monkeypatch.setattr(training_log.time, "monotonic", lambda: now)
    clock = Clock(6)
    for busy, waited, stopped in ((9.0, 1.0, 0.0), (6.0, 4.0, 30.0)):
        now += busy
        with clock.waiting():
            now += waited
        clock.step()
        clock.step()
        with clock.stopped():
            now += stopped
        assert clock.lap() == pytest.approx((12 / 10, waited / 10))


def test_times_are_shown_as_of_a_clock() -> None:
    """Seconds are rounded; hours are there where there are any."""
    assert [duration(seconds) for seconds in (0, 59.6, 3599, 3600, 36_061)] == [
        "00:00",
        "01:00",
        "59:59",
        "1:00:00",
        "10:01:01",
    ]


def test_a_term_that_began_meanwhile_counts_since_then() -> None:
    """Means are of the steps since the last time, of each term of those that had it."""
    sums = Sums()
    for values in ({"word": 1.0}, {"word": 3.0, "frame": 10.0}, {"word": 5.0, "frame": 20.0}):
        sums.add({name: torch.tensor(value) for name, value in values.items()})
    assert sums.means(World()) == {"word": 3.0, "frame": 15.0}
    sums.add({"word": torch.tensor(7.0)})
    assert sums.means(World()) == {"word": 7.0}
