"""Array jobs of a column: which tasks have work left, and the script that runs them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avprep.errors import RunError, plural
from avprep.manifest import Manifest
from avprep.runs import fingerprint, slurm
from avprep.runs.fingerprint import ColumnStage
from avprep.runs.status import column_status

SHORTEST_SECONDS = 600
"""A shorter time limit causes a remark: a task must start, read its manifest and finish a shard before the warning."""


@dataclass(frozen=True)
class Resources:
    """The resources that an array job requests from Slurm; None leaves a choice to the cluster.

    tasks: number of tasks among which shards are divided; None: `slurm.DEFAULT_TASKS`, or one per shard. max_parallel:
    tasks that run at once. mem: memory per task; None: 2 GiB per core. sbatch: further options of sbatch. setup: shell
    lines that run first.
    """

    tasks: int | None = None
    time: str = slurm.ArrayJob.time
    cpus: int = slurm.ArrayJob.cpus
    mem: str | None = None
    partition: str | None = None
    gpus: int | None = None
    max_parallel: int | None = None
    sbatch: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArrayPlan:
    """An array job that is ready to be submitted.

    script: its text. path: where it is kept once submitted. shards: those that are missing. logs: the folder of logs.
    """

    script: str
    path: Path
    shards: int
    logs: Path

    def submit(self) -> str:
        """Submit it and keep its script; return the job number. Raises RunError, one line, if that fails."""
        return slurm.keep_and_submit(self.script, self.path)


def plan(
    stage: ColumnStage,
    manifest: Manifest,
    out: Path,
    command: Sequence[str],
    resources: Resources,
    *,
    shard_size: int | None = None,
    workers: int | None = None,
    anew: bool = False,
    remark: Callable[[str], None],
) -> ArrayPlan | None:
    """Return the array job for the missing shards of a column, None if none are missing. Creates its folder of logs.

    command: the command line of a task, without its number. workers: processes per task; None: one per core.
    anew: treat everything as missing: the existing column is going to be set aside.
    Raises RunError if `out` belongs to another run or cannot be written.
    """
    size = fingerprint.check(stage, manifest, out, shard_size, ignore=("versions",), anew=anew)
    column = stage.column
    found = column_status(out, column, manifest.counts(), size, anew=anew)
    if not found.unfinished:
        remark(f"{column}: nothing is missing, so there is nothing to send")
        return None
    num_tasks = min(resources.tasks or slurm.DEFAULT_TASKS, found.shards)
    if num_tasks > (limit := slurm.array_limit()):
        remark(f"{num_tasks} tasks are more than Slurm's MaxArraySize allows: {limit} instead")
        num_tasks = limit
    if (seconds := slurm.seconds(resources.time)) is not None and seconds < SHORTEST_SECONDS:
        remark(
            f"--time {resources.time} is short: Slurm warns a task {slurm.WARNING_SECONDS} s or more before the end, "
            "and one that has not finished a shard by then begins again, for ever"
        )
    done = found.shards - len(found.unfinished)
    script = slurm.render(
        slurm.ArrayJob(
            name=f"avprep-{column}",
            command=list(command),
            array=found.array(num_tasks),
            num_tasks=num_tasks,
            work=f"{column}: {plural(len(manifest.clips), 'clip')} in {plural(found.shards, 'shard')}, {done} done.",
            logs=out / "logs",
            time=resources.time,
            cpus=resources.cpus,
            workers=workers,
            mem=resources.mem or f"{2 * resources.cpus}G",
            partition=resources.partition,
            gpus=resources.gpus,
            max_parallel=resources.max_parallel,
            sbatch=resources.sbatch,
            setup=(*environment(), *resources.setup),
        )
    )
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out / 'logs'}: cannot make the folder of the logs ({error.strerror})") from error
    return ArrayPlan(script, slurm.script_path(out, column), len(found.unfinished), out / "logs")


def environment() -> list[str]:
    """Return the shell lines with which a task finds this command and its weights."""
    beside = Path(sys.executable).with_name("avprep")
    found = str(beside) if beside.exists() else shutil.which("avprep")
    lines = [f"export PATH={shlex.quote(str(Path(found).parent))}:$PATH"] if found else []
    if folder := os.environ.get("AVPREP_WEIGHTS"):
        lines.append(f"export AVPREP_WEIGHTS={shlex.quote(str(Path(folder).absolute()))}")
    return lines
