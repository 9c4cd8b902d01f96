"""Array jobs: the task's number and count, from the scheduler's environment variables; arrays as text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from avprep.errors import RunError

# Scheduler; variables of the task's number, the first, the last and the step. PBS gives only the number.
_SCHEDULERS = (
    ("Slurm", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP"),
    ("SGE", "SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
    ("LSF", "LSB_JOBINDEX", "", "LSB_JOBINDEX_END", "LSB_JOBINDEX_STEP"),
    ("PBS", "PBS_ARRAY_INDEX", "", "", ""),
    ("Torque", "PBS_ARRAYID", "", "", ""),
)

_OUTSIDE = {"SGE": "undefined", "LSF": "0"}
"""The task number that a scheduler gives to a job that is not an array."""


class TaskOptionError(RunError):
    """A task number out of range, or only one of the two options that name a task."""


def select(index: int | None, count: int | None, environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (task index, number of tasks), from the command line or else from an array job's variables.

    Outside an array job and without options a single task does everything. Raises RunError if they cannot be
    determined, e.g. for an array of single numbers (`--array=3,7`) without `--num-tasks`, or a variable that is not a
    number.
    """
    if index is None:
        index, count = _from_scheduler(count, environ)
    if count is None:
        raise TaskOptionError("--task-index needs --num-tasks")
    if not 0 <= index < count:
        raise TaskOptionError(f"--task-index {index} is not one of {count} tasks: they count from 0 to {count - 1}")
    return index, count


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def expression(numbers: Iterable[int]) -> str:
    """Return task numbers in the schedulers' notation: `0-2,7`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _from_scheduler(count: int | None, environ: Mapping[str, str]) -> tuple[int, int]:
    for scheduler, number, first, last, step in _SCHEDULERS:
        if environ.get(number, "") in ("", _OUTSIDE.get(scheduler)):
            continue
        value = _whole(environ, number)
        base = 1 if scheduler in ("SGE", "LSF") else 0  # these do not allow task number 0
        if count is not None:
            if not base <= value < base + count:
                numbers = f"they count from {base} to {base + count - 1}"
                raise TaskOptionError(f"{number} {value} is not one of {count} tasks: {numbers}")
            return value - base, count
        low = _whole(environ, first, base)
        told = environ.get("SLURM_ARRAY_TASK_COUNT") if scheduler == "Slurm" else None
        if last not in environ and told is None:
            raise RunError(f"{scheduler} does not tell how many tasks the array {number} has: give --num-tasks")
        stride = _whole(environ, step, 1)
        if stride < 1:
            raise RunError(f"{step} is 0, which is no step of an array job: give --task-index and --num-tasks")
        if last not in environ:  # a shell that passes on only some of Slurm's variables
            return (value - low) // stride, _whole(environ, "SLURM_ARRAY_TASK_COUNT")
        total = (_whole(environ, last) - low) // stride + 1
        if told not in (None, str(total)):
            raise RunError("this array does not count evenly, so its tasks have no order: give --num-tasks")
        return (value - low) // stride, total
    if count not in (None, 1):
        raise TaskOptionError("--num-tasks needs --task-index outside an array job")
    return 0, 1


def _whole(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return the number in a scheduler's variable; the default if it is not set."""
    text = environ.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch("[0-9]{1,9}", text):
        raise RunError(
            f"{name} is {text[:40]!r}, not the number of an array job: give --task-index and --num-tasks, or unset it"
        )
    return int(text)
