"""Slurm array jobs: the text of the script, the cluster's maximum array size, and submitting the script."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avprep import files
from avprep.errors import RunError, explained

DEFAULT_TASKS = 64
DEFAULT_ARRAY_LIMIT = 1001
"""Slurm's default MaxArraySize, if a cluster does not set another."""

WARNING_SECONDS = 120
"""Seconds before the time limit at which Slurm is asked to warn; it may do so up to a minute earlier or later."""

_REQUEUE = f"""\
# Slurm sends USR1 {WARNING_SECONDS} s before the time limit. avprep then drops the clips in hand, and this task goes
# back into the queue. A task that is preempted or loses its node is put back by Slurm itself; on TERM, which Slurm
# sends to every process of the task, this shell only waits for avprep to tidy up. An avprep that is just being
# started could miss a signal and stay behind; it has nothing to tidy up and is killed.
requeue() {{
    kill -USR1 "$avprep" 2> /dev/null || kill -KILL "$!" 2> /dev/null
    wait "$!"
    status=$?
    [ "$status" -eq 0 ] || scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    exit "$status"
}}
trap requeue USR1
trap '[ "$avprep" ] || kill -KILL "$!"; wait "$!"; exit $?' TERM"""


@dataclass(frozen=True)
class ArrayJob:
    """The work and the resources of an array job.

    command: the command line of one task, without its task number and workers.
    workers: worker processes per task; None: one per core.
    array: the tasks that have work, such as `0-2,7`, of `num_tasks`. max_parallel: how many run at once.
    work: one line that describes the work.
    logs: the folder of the logs, one file per task.
    time, partition, mem, gpus, cpus: as for sbatch, per task. sbatch: further options, such as `--account=lab`.
    setup: shell lines before the command.
    """

    name: str
    command: Sequence[str]
    array: str
    num_tasks: int
    work: str
    logs: Path
    time: str = "04:00:00"
    cpus: int = 4
    mem: str = "8G"
    workers: int | None = None
    partition: str | None = None
    gpus: int | None = None
    max_parallel: int | None = None
    sbatch: Sequence[str] = ()
    setup: Sequence[str] = ()


def render(job: ArrayJob) -> str:
    """Return the text of the script for `sbatch`.

    Raises RunError for an option with a line break.
    """
    options: list[tuple[str, object]] = [
        ("job-name", job.name),
        ("array", job.array if job.max_parallel is None else f"{job.array}%{job.max_parallel}"),
        ("time", job.time),
        ("cpus-per-task", job.cpus),
        ("mem", job.mem),
        ("partition", job.partition),
        ("gpus", job.gpus),
        ("output", f"{_log_folder(job.logs)}/{job.name}-%A_%a.log"),
        ("open-mode", "append"),
        ("signal", f"B:USR1@{WARNING_SECONDS}"),
    ]
    directives = [f"--{name}={_quoted(str(value))}" for name, value in options if value is not None]
    directives += ["--requeue", *job.sbatch]
    if broken := [text for text in (*directives, *job.setup) if "\n" in text or "\r" in text]:
        raise RunError(f"an option of a script must be one line: {broken[0]!r}")
    n, workers = job.num_tasks, '"$SLURM_CPUS_PER_TASK"' if job.workers is None else job.workers
    parts = [
        "#!/bin/bash\n" + "\n".join(f"#SBATCH {directive}" for directive in directives),
        f"# {job.work}\n"
        f"# Task I of {n} makes shards I, I + {n}, I + {2 * n}, … of the manifest, but for those that are done: this\n"
        "# script can be sent again at any time, and some of its tasks with `sbatch --array=3,7-9 SCRIPT`.",
        _REQUEUE,
        "\n".join(job.setup),
        f'{shlex.join(job.command)} \\\n    --num-tasks {n} --jobs {workers} &\navprep=$!\nwait "$avprep"',
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def array_limit() -> int:
    """Ask Slurm for the maximum number of tasks of an array; without Slurm, return its default.

    Raises RunError if the cluster does not accept arrays.
    """
    try:
        answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        answer = ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    limit = int(found[1]) if found else DEFAULT_ARRAY_LIMIT
    if limit < 1:
        raise RunError("this cluster takes no array jobs (MaxArraySize is 0)")
    return limit


def seconds(limit: str) -> int | None:
    """Return the seconds of a time limit in Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; None for any other."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if found is None:
        return None
    days, *fields = (int(field) for field in found.groups(default="0"))
    n_fields = sum(field is not None for field in found.groups()[1:])
    if found[1] is None and n_fields < 3:  # without days and hours the first number is minutes
        fields = [0, *fields[:2]]
    hours, minutes, rest = fields
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def script_path(out: Path, column: str) -> Path:
    """Return the path of the script that was last submitted for a column."""
    return out / f"{column}.sbatch"


def sent_tasks(script: Path) -> tuple[int, int | None] | None:
    """Return the number of tasks of a submitted script, and how many of them run at once; None without a script."""
    try:
        text = script.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{script}: cannot be read ({explained(error)})") from error
    tasks = re.search(r"^    --num-tasks (\d+) --jobs ", text, re.MULTILINE)
    parallel = re.search(r"^#SBATCH --array=\S+%(\d+)$", text, re.MULTILINE)
    return None if tasks is None else (int(tasks[1]), int(parallel[1]) if parallel else None)


def keep_and_submit(script: str, path: Path) -> str:
    """Submit the text of a script and keep it as `path`, whose folder must exist; return the job number.

    It is written before it is submitted, so that no job runs whose script cannot be kept, and gets its name once sbatch
    has accepted it. Concurrent calls wait for each other: the file that stays is the script of the last job.
    Raises RunError if it cannot be written, and as `submit` does.
    """
    from avprep.runs import workfolder

    if path.exists() and not path.is_file():
        raise RunError(f"{path}: not a plain file, where the script is to be kept; nothing was sent")
    aside = files.own_aside(path)
    try:
        with workfolder.one_at_a_time(path.parent):
            files.write_aside(aside, script.encode("utf-8", "surrogateescape"))
            job = submit(script)
            try:
                aside.replace(path)
            except OSError as error:
                raise RunError(f"job {job} was sent, but {path} cannot be written ({error.strerror})") from error
    except OSError as error:
        raise RunError(f"{path}: cannot write, so nothing was sent ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return job


def submit(script: str) -> str:
    """Submit the text of a script; return the job number. Raises RunError with sbatch's message."""
    text = script.encode("utf-8", "surrogateescape")
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise RunError("there is no sbatch here: without --submit the script is printed") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").replace("sbatch: error: ", "").split())
        raise RunError(f"sbatch refuses the script: {said or f'exit status {done.returncode}'}")
    return done.stdout.decode(errors="replace").strip().partition(";")[0]


def _log_folder(folder: Path) -> str:
    """Escape a folder for `--output`, in which % begins a pattern."""
    return str(folder).replace("%", "%%")


def _quoted(value: str) -> str:
    """Quote what sbatch would split, truncate or unquote: blanks, `#`, quotes and backslashes."""
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"' if re.search(r"""[\s#"'\\]""", value) else value
