"""Array jobs: each scheduler's variables are read, and tasks divide the work without loss or repetition."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avprep.errors import RunError
from avprep.manifest import SPLITS, Clip, Manifest
from avprep.runs import tasks


def slurm(number: int, low: int, high: int, step: int = 1, count: int | None = None) -> dict[str, str]:
    """Return the variables of Slurm."""
    total = len(range(low, high + 1, step)) if count is None else count
    names = {"ID": number, "MIN": low, "MAX": high, "STEP": step, "COUNT": total}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}


def sge(number: int | str, low: int | str, high: int | str, step: int | str = 1) -> dict[str, str]:
    """Return the variables of Grid Engine."""
    names = {"SGE_TASK_ID": number, "SGE_TASK_FIRST": low, "SGE_TASK_LAST": high, "SGE_TASK_STEPSIZE": step}
    return {name: str(value) for name, value in names.items()}


def lsf(number: int, high: int, step: int = 1) -> dict[str, str]:
    """Return the variables of LSF."""
    return {"LSB_JOBINDEX": str(number), "LSB_JOBINDEX_END": str(high), "LSB_JOBINDEX_STEP": str(step)}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1)),
        (slurm(0, 0, 9), (0, 10)),
        (slurm(10, 1, 10), (9, 10)),
        (slurm(7, 5, 8), (2, 4)),
        (slurm(9, 1, 11, step=4), (2, 3)),
        (slurm(9, 1, 12, step=4), (2, 3)),
        (sge(1, 1, 10), (0, 10)),
        (sge(9, 3, 12, 3), (2, 4)),
        (sge("undefined", "undefined", "undefined", "undefined"), (0, 1)),
        (lsf(1, 10), (0, 10)),
        (lsf(7, 10, step=3), (2, 4)),
        (lsf(0, 0), (0, 1)),
        ({"SLURM_ARRAY_TASK_ID": ""}, (0, 1)),
    ],
)
def test_an_array_job_knows_its_task(environ: dict[str, str], expected: tuple[int, int]) -> None:
    """Offset and step of an array are removed; outside an array one task does everything."""
    assert tasks.select(None, None, environ) == expected


@pytest.mark.parametrize(("number", "first", "expected"), [("0", None, (0, 4)), ("3", "0", (3, 4)), ("4", "1", (3, 4))])
def test_slurms_count_is_enough(number: str, first: str | None, expected: tuple[int, int]) -> None:
    """If a shell passed on an array's number and count, but not its last number, the count is used."""
    environ = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "4"}
    assert tasks.select(None, None, environ | ({"SLURM_ARRAY_TASK_MIN": first} if first else {})) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (slurm(7, 3, 7, count=2), (7, 10)),
        ({"PBS_ARRAY_INDEX": "3"}, (3, 10)),
        ({"PBS_ARRAYID": "3"}, (3, 10)),
        (sge(10, 1, 10), (9, 10)),
        (lsf(1, 10), (0, 10)),
    ],
)
def test_num_tasks_makes_numbers_absolute(environ: dict[str, str], expected: tuple[int, int]) -> None:
    """With --num-tasks the scheduler's number is that of the task; SGE and LSF, which have no 0, count from 1."""
    assert tasks.select(None, 10, environ) == expected


@pytest.mark.parametrize("environ", [{}, slurm(3, 0, 9), sge(3, 1, 9), {"SLURM_ARRAY_TASK_ID": "three"}])
def test_the_command_line_comes_first(environ: dict[str, str]) -> None:
    """--task-index and --num-tasks override the scheduler."""
    assert tasks.select(2, 4, environ) == (2, 4)


@pytest.mark.parametrize(
    ("index", "count", "environ", "message"),
    [
        (None, None, slurm(7, 3, 7, count=2), "does not count evenly.*--num-tasks"),
        (None, None, {"PBS_ARRAY_INDEX": "3"}, "PBS does not tell how many tasks.*PBS_ARRAY_INDEX.*--num-tasks"),
        (None, None, {"PBS_ARRAYID": "3"}, "Torque does not tell how many tasks"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "3"}, "Slurm does not tell how many tasks"),
        (3, None, {}, "--task-index needs --num-tasks"),
        (4, 4, {}, "--task-index 4 is not one of 4 tasks: they count from 0 to 3"),
        (-1, 4, {}, "--task-index -1 is not one of 4 tasks"),
        (None, 4, {}, "--num-tasks needs --task-index outside an array job"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "three"}, "SLURM_ARRAY_TASK_ID is 'three', not the number"),
        (None, 4, {"SLURM_ARRAY_TASK_ID": "-1"}, "SLURM_ARRAY_TASK_ID is '-1', not the number"),
        (None, 4, {"SLURM_ARRAY_TASK_ID": "²"}, "SLURM_ARRAY_TASK_ID is '²', not the number"),
        (None, 4, {"SLURM_ARRAY_TASK_ID": "9" * 5000}, "SLURM_ARRAY_TASK_ID is '9{40}', not the number"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "undefined"}, "SLURM_ARRAY_TASK_ID is 'undefined'"),
        (None, None, slurm(1, 0, 3) | {"SLURM_ARRAY_TASK_MAX": "many"}, "SLURM_ARRAY_TASK_MAX is 'many'"),
        (None, None, slurm(1, 0, 3) | {"SLURM_ARRAY_TASK_STEP": "0"}, "SLURM_ARRAY_TASK_STEP is 0"),
        (None, None, {"PBS_ARRAY_INDEX": "x"}, "PBS_ARRAY_INDEX is 'x'"),
        (None, 4, slurm(4, 1, 4), "SLURM_ARRAY_TASK_ID 4 is not one of 4 tasks: they count from 0 to 3"),
        (None, 3, {"PBS_ARRAY_INDEX": "3"}, "^PBS_ARRAY_INDEX 3 is not one of 3 tasks: they count from 0 to 2"),
        (None, 3, {"SGE_TASK_ID": "4"}, "^SGE_TASK_ID 4 is not one of 3 tasks: they count from 1 to 3"),
    ],
)
def test_what_cannot_be_told_is_refused(
    index: int | None, count: int | None, environ: dict[str, str], message: str
) -> None:
    """If a task's part cannot be determined, nothing is guessed: one line names the option that helps."""
    with pytest.raises(RunError, match=message) as caught:
        tasks.select(index, count, environ)
    assert re.search("\n", str(caught.value)) is None


@given(st.lists(st.sampled_from(SPLITS), max_size=60), st.integers(1, 9), st.integers(1, 30))
def test_every_shard_is_some_tasks(splits: list[str], shard_size: int, count: int) -> None:
    """Each shard belongs to exactly one of the tasks, and no two tasks differ by more than a shard."""
    plan = Manifest("x", Path("/x"), tuple(Clip(str(n), f"{n}.mp4", split) for n, split in enumerate(splits)))
    whole = list(plan.shards(shard_size))
    parts = [whole[index::number] for index, number in (tasks.select(n, count, {}) for n in range(count))]
    assert sorted(name for part in parts for name, _ in part) == sorted(name for name, _ in whole)
    assert {clip.key for part in parts for _, clips in part for clip in clips} == {clip.key for clip in plan.clips}
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def expanded(text: str) -> list[int]:
    """Return the numbers that a scheduler reads from an array's expression, in its order."""
    ends = [part.partition("-")[::2] for part in text.split(",") if part]
    return [number for first, last in ends for number in range(int(first), int(last or first) + 1)]


@given(st.lists(st.integers(0, 40) | st.integers(0, 10_000)))
def test_an_expression_holds_its_numbers(numbers: list[int]) -> None:
    """Expanding an expression gives the numbers back, each once and in ascending order."""
    assert expanded(tasks.expression(numbers)) == sorted(set(numbers))


@given(st.lists(st.integers(0, 40)))
def test_an_expression_is_short(numbers: list[int]) -> None:
    """Consecutive numbers are one range: two ranges never touch."""
    ranges = [expanded(part) for part in tasks.expression(numbers).split(",") if part]
    assert all(right[0] > left[-1] + 1 for left, right in pairwise(ranges))


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([7], "7"), ([2, 0, 1, 7, 2], "0-2,7"), (range(64), "0-63"), ([1, 2], "1-2")]
)
def test_expressions_as_schedulers_write_them(numbers: Iterable[int], text: str) -> None:
    """A range has a dash, ranges are separated by commas, and no numbers give an empty text."""
    assert tasks.expression(numbers) == text
