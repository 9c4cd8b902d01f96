"""The log of a training run: TensorBoard's view of a resumed run, and a full disk."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avprep.errors import RunError
from davs_model.training.log import MetricsLog


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
