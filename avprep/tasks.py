"""Array jobs: which part of the work a task does, read from the scheduler's variables; and arrays as text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from avprep.errors import RunError

# Scheduler, variable of the task's number, of the first, the last and the step; PBS tells only the number.
_SCHEDULERS = (
    ("Slurm", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP"),
    ("SGE", "SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
    ("LSF", "LSB_JOBINDEX", "", "LSB_JOBINDEX_END", "LSB_JOBINDEX_STEP"),
    ("PBS", "PBS_ARRAY_INDEX", "", "", ""),
    ("Torque", "PBS_ARRAYID", "", "", ""),
)


def select(index: int | None, count: int | None, environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (task index, number of tasks), from the command line or else from an array job's variables.

    Outside an array job and without options the one task does everything. Raises RunError where the two cannot be
    told, e.g. an array of single numbers (`--array=3,7`) without `--num-tasks`.
    """
    if index is None:
        index, count = _from_scheduler(count, environ)
    if count is None:
        raise RunError("--task-index needs --num-tasks")
    if not 0 <= index < count:
        raise RunError(f"--task-index {index} is not one of {count} tasks: they count from 0 to {count - 1}")
    return index, count


def expression(numbers: Iterable[int]) -> str:
    """Return task numbers as schedulers write them: `0-2,7`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _from_scheduler(count: int | None, environ: Mapping[str, str]) -> tuple[int, int]:
    for scheduler, number, first, last, step in _SCHEDULERS:
        value = environ.get(number, "")
        if not value.isdigit() or (scheduler == "LSF" and value == "0"):
            continue  # SGE says "undefined" and LSF 0 outside an array
        base = 1 if scheduler in ("SGE", "LSF") else 0  # these refuse a task number 0
        if count is not None:
            return int(value) - base, count
        low = int(environ.get(first) or base)
        if last not in environ:
            raise RunError(f"{scheduler} does not tell how many tasks the array {number} has: give --num-tasks")
        stride = int(environ.get(step) or 1)
        total = (int(environ[last]) - low) // stride + 1
        if environ.get("SLURM_ARRAY_TASK_COUNT", str(total)) != str(total):
            raise RunError("this array does not count evenly, so its tasks have no order: give --num-tasks")
        return (int(value) - low) // stride, total
    if count not in (None, 1):
        raise RunError("--num-tasks needs --task-index outside an array job")
    return 0, 1
