"""Commands for work over many tasks and days: status, retries, array jobs."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avprep.errors import REASONS, RunError, plural, speed
from avprep.runs import slurm, tasks
from avprep.schema import MEASURED
from avprep_cli import data, kinds, measure, options, say, summary

if TYPE_CHECKING:
    from avprep.columns import Filling
    from avprep.runs.fingerprint import ColumnStage
    from avprep.runs.status import ColumnStatus

FILLERS: dict[str, click.Command] = {"crop": data.crop, "mfcc": data.mfcc, "sync": measure.sync}
"""The commands that fill a column."""

TASK_OPTIONS = ("jobs", "task_index", "num_tasks", "dry_run", "as_json", "verbose", "quiet")
"""Options of `crop` and `mfcc` that each task sets itself, or that are useless in a script."""


@click.command()
@click.argument("out", type=options.EXISTING_OUT)
@options.as_json
def status(out: Path) -> None:
    """Count done, failed and missing clips of OUT.

    Shows the rate of all tasks together over the last hour, the time left, and the command that finishes OUT. It is
    fast because it reads only one line of each shard's sidecar and no shards; `avprep verify` reads everything.
    """
    from avprep.runs.status import status as read_status

    waiting = {column: slurm.script_path(out, column) for column in FILLERS}
    if not (out / "manifest.jsonl").exists() and (sent := [str(path) for path in waiting.values() if path.exists()]):
        say.echo("{}" if say.as_json() else f"{', '.join(sent)}: sent, and no task has begun yet")
        return
    found = {column.column: (column, _finish(out, column)) for column in read_status(out)}
    if say.as_json():
        say.echo(json.dumps({name: column.to_json() | finish for name, (column, finish) in found.items()}, indent=2))
        return
    for name, script in waiting.items():
        if name in found:
            _show(out, *found[name])
        elif script.exists():
            say.echo(f"{name}: {script} was sent, and no task has begun yet")
        elif name not in MEASURED:
            say.echo(f"{name}: not begun; {say.to_type(summary.line(name, out / 'manifest.jsonl', out))}")


@click.command()
@click.argument("out", type=options.EXISTING_OUT)
@click.option(
    "--reason",
    "wanted",
    type=kinds.Words(tuple(REASONS)),
    required=True,
    help=f"Reasons, separated by commas: {', '.join(REASONS)}.",
)
@click.option("--column", type=click.Choice(tuple(FILLERS)), help="Only this column.  [all]")
@click.option("--model", "run", type=options.EXISTING, help="The RUN of the sync model with which a column was made.")
@options.retry_options
def retry(out: Path, wanted: frozenset[str], column: str | None, run: Path | None, **given: Any) -> None:
    """Process failed clips again, with the same settings.

    Their shards are replaced. Other clips of these shards are copied, not computed. If a clip fails again, the new
    reason is recorded.

    \b
    avprep retry OUT --reason timeout,crashed --clip-timeout 600
    avprep retry OUT --reason missing --dry-run
    """
    from avprep.runs.status import status as read_status

    columns = read_status(out, columns=FILLERS if column is None else (column,))
    if not columns:
        raise RunError(f"{out}: no {column or 'column'} was ever started there")
    dry_run, strict, root, jobs = (given.pop(name) for name in ("dry_run", "strict", "root", "jobs"))
    task_index, num_tasks = options.selected_task(given.pop("task_index"), given.pop("num_tasks"))
    ok = failed = 0
    bad: dict[str, dict[str, int]] = {}
    ends: dict[str, dict[str, Any]] = {}
    for found in columns:
        again = {reason: count for reason, count in found.reasons.items() if reason in wanted}
        ends[found.column] = {"again": again}
        if not again or dry_run:
            summary.tell(f"{found.column}: {summary.tally('clip', again)} to run again")
            failed += sum(found.reasons.values())
            continue
        filling = _begun(out, found.column, data.chosen_jobs(jobs), root, run)
        data.show_settings(filling.stage)
        task: dict[str, Any] = {"task_index": task_index, "num_tasks": num_tasks, "verbosity": say.verbosity()}
        outcome = filling.run(retry=wanted, **task, **given)
        done, where, facts = summary.of_column(outcome, out, found.column)
        summary.tell(done, where)
        ends[found.column] |= facts
        failed += sum(outcome.failed.values())
        ok += outcome.ok
        bad |= {found.column: outcome.failed} if outcome.failed else {}
    if dry_run:
        summary.close([], {"columns": ends})
    else:
        then = summary.next_steps(out, summary.line("verify", out), tried=wanted)
        summary.close(then, {"columns": ends})
    if strict and failed and not dry_run:
        sys.exit(3)
    if bad and not ok:
        raise RunError("; ".join(summary.none_ok(name, counts) for name, counts in bad.items()))


def _begun(out: Path, column: str, jobs: int | None, root: Path | None, run: Path | None) -> Filling[ColumnStage]:
    """Return the Filling with which a column was started; run: of the sync model with which it was made."""
    from avprep import columns, manifest
    from avprep.runs.fingerprint import read_manifest, started

    if column != "sync":
        return columns.begun(out, column, jobs=jobs, root=root, judge=lambda: data.speaker(run, "--model"))
    if run is None:
        raise RunError("sync: give the RUN that measured it as --model, or --column for another column")
    from davs_model.sync import column as sync

    before, plan = started(out, column), manifest.rooted(read_manifest(out), root)
    device = options.chosen_device("cuda" if before.get("versions", {}).get("device") == "cuda" else "cpu")
    stage = sync.stage(out, run, before.get("settings", {}).get("scale", "ours"), device, plan.root)
    return columns.Filling(stage, plan, out, jobs or tasks.cores())


def _finish(out: Path, column: ColumnStatus) -> dict[str, Any]:
    """Return how to finish a column: `command` on one machine; `array`, `num_tasks` and `slurm` for the cluster.

    All are None if nothing is missing.
    """
    from avprep.shards import read_run

    if not column.unfinished:
        return dict.fromkeys(("command", "array", "num_tasks", "slurm"))
    run = read_run(out, column.column) or {}
    line = _command_line(FILLERS[column.column], out / "manifest.jsonl", out, run.get("settings", {}))
    if summary.follows_speaker(run.get("settings", {})):
        line += ["--sync", "RUN"]
    if column.column in MEASURED:
        scale = ["--scale", "syncnet"] if (run.get("settings") or {}).get("scale") == "syncnet" else []
        line = ["avprep", column.column, str(out), *scale, "--model", "RUN"]
    script = slurm.script_path(out, column.column)
    sent = slurm.sent_tasks(script)
    num_tasks, parallel = sent or (min(slurm.DEFAULT_TASKS, column.shards), None)
    array = column.array(num_tasks)
    if sent:
        send = ["sbatch", f"--array={array}" + (f"%{parallel}" if parallel else ""), str(script)]
    else:
        send = ["avprep", "slurm", *line[1:], "--tasks", str(num_tasks), "--submit"]
    return {"command": shlex.join(line), "array": array, "num_tasks": num_tasks, "slurm": shlex.join(send)}


def _show(out: Path, column: ColumnStatus, finish: dict[str, Any]) -> None:
    name = column.column
    for split, counts in column.splits.items():
        failed = f"{counts.failed} failed"
        say.echo(
            f"{name} {split:5}  {counts.shards_done}/{counts.shards} shards  {say.good(f'{counts.ok} ok')}"
            f"{summary.silent(counts.silent)}  "
            f"{say.bad(failed) if counts.failed else failed}  {counts.missing} missing  {counts.frames} frames"
        )
    for reason, count in column.reasons.items():
        say.echo(f"{name} failed {reason}: {say.bad(str(count))}")
    if again := summary.accidents(column):
        say.echo(f"{name}: {summary.tally('accident', again)}; to run these clips again:")
        say.echo(f"  {say.to_type(summary.retry_line(out, column, again))}")
    if not column.unfinished:
        return
    pace = []
    if column.rate is not None and column.eta_seconds is not None:
        eta = timedelta(seconds=round(column.eta_seconds))
        pace.append(f"{speed(column.rate)} in the last hour, ready in {eta} at that rate")
    if column.core_seconds_left is not None:
        hours = column.core_seconds_left / 3600
        amount = f"{hours:.1f} core-hours" if hours >= 1 else plural(max(1, round(60 * hours)), "core-minute")
        pace.append(f"about {amount} of work left")
    if pace:
        say.echo(f"{name}: {'; '.join(pace)}")
    say.echo(f"{name}: {summary.missing_shards(column)}; to finish here:")
    say.echo(f"  {say.to_type(finish['command'])}")
    say.echo(f"or on Slurm, --array={finish['array']} of {finish['num_tasks']} tasks:")
    say.echo(f"  {say.to_type(finish['slurm'])}")


def _command_line(command: click.Command, manifest_path: Path, out: Path, values: dict[str, Any]) -> list[str]:
    """Return the command line of a command with these values, without those that are its defaults."""
    names = {param.name for param in command.params if isinstance(param, click.Argument)}
    line = ["avprep", command.name or "", *([str(manifest_path)] if "manifest_path" in names else []), str(out)]
    for param in command.params:
        if isinstance(param, click.Option) and param.name in values and values[param.name] != param.default:
            name = max(param.opts, key=len)
            line += [name] if param.is_flag else [name, str(values[param.name])]
    return line


@click.group("slurm")
def slurm_group() -> None:
    """Print or submit an array job for missing shards.

    \b
    avprep slurm crop lrw.jsonl OUT --cpus 8 --partition short > crop.sbatch
    avprep slurm mfcc lrw.jsonl OUT --setup 'module load python/3.11' --submit
    """


def _array_command(command: click.Command) -> click.Command:
    """Return the command that runs another command as an array job, with the options of both."""

    def make(out: Path | None, manifest_path: Path | None = None, **given: Any) -> None:
        if out is None:
            raise click.UsageError("Missing argument 'OUT'.")
        asked = {option.name: given.pop(option.name) for option in SLURM_OPTIONS if option.name}
        submit, out = asked.pop("submit"), out.absolute()
        path = out / "manifest.jsonl" if manifest_path is None else manifest_path.absolute()
        _make_script(command, path, out, given, asked, submit=submit)

    left_out = {*TASK_OPTIONS, *(measure.OF_ONE_VIDEO if command is measure.sync else ())}
    own = [param for param in command.params if param.name not in left_out]
    arguments = [param for param in own if isinstance(param, click.Argument)]
    rest = [param for param in own if not isinstance(param, click.Argument)]
    name = command.name or ""
    return click.Command(
        name,
        callback=make,
        params=[*arguments, *SLURM_OPTIONS, *rest],
        short_help=f"Run `avprep {name}` as an array job.",
        help=f"""Run `avprep {name}` as an array job; print its script unless --submit is given.

        The array holds only tasks that have work left. A task that is preempted or reaches its time limit is requeued
        automatically. Logs go to OUT/logs, which is created because Slurm does not create it.
        """,
    )


SLURM_OPTIONS: tuple[click.Option, ...] = (
    click.Option(
        ["--tasks"],
        type=click.IntRange(1, kinds.MOST_TASKS),
        show_default=f"{slurm.DEFAULT_TASKS}, or one per shard",
        help="Number of tasks, up to the cluster's maximum.",
    ),
    click.Option(
        ["--time"],
        type=kinds.TimeLimit(),
        default=slurm.ArrayJob.time,
        help="Time limit per task.",
    ),
    click.Option(["--partition"], type=kinds.OneLine(200), help="Partition.  [the cluster's default]"),
    click.Option(
        ["--cpus"],
        type=click.IntRange(1, kinds.MOST_PROCESSES),
        default=slurm.ArrayJob.cpus,
        help="Cores per task.",
    ),
    click.Option(["--mem"], type=kinds.MemorySize(), show_default="2 GiB per core", help="Memory per task, e.g. 16G."),
    click.Option(["--gpus"], type=click.IntRange(1, 1024), help="GPUs per task; auto then means face-alignment."),
    click.Option(
        ["--max-parallel"], type=click.IntRange(1, kinds.MOST_TASKS), help="Maximum tasks that run at once.  [all]"
    ),
    click.Option(
        ["--setup"],
        type=kinds.OneLine(),
        multiple=True,
        help="A shell line before the command: 'module load …'. Repeatable.",
    ),
    click.Option(
        ["--sbatch"],
        type=kinds.OneLine(),
        multiple=True,
        help="Another sbatch option: --account=lab. Repeatable.",
    ),
    click.Option(["--submit"], is_flag=True, help="Submit it; the script is kept in OUT."),
)


def _make_script(
    command: click.Command,
    manifest_path: Path,
    out: Path,
    given: dict[str, Any],
    asked: dict[str, Any],
    *,
    submit: bool,
) -> None:
    """Print or submit the script of an array job."""
    from avprep import auto, columns, offsets
    from avprep.runs import arrays

    column = command.name or ""
    if wrong := [option for option in asked["sbatch"] if not option.startswith("-")]:
        raise click.UsageError(f"--sbatch {wrong[0]!r} is no option: write '--{wrong[0]}'")
    typed = {name: value for name, value in given.items() if not options.is_default(name)}
    if typed.get("root"):
        typed["root"] = typed["root"].absolute()
    filling: Filling[ColumnStage]
    workers: int | None = None
    if column == "sync":
        from davs_model.sync import column as sync

        device = "cuda" if asked["gpus"] else "cpu"
        typed |= {"run": given["run"].absolute(), "device": device}
        plan = data.opened(manifest_path, given)
        filling = columns.Filling(sync.stage(out, given["run"], given["scale"], device, plan.root), plan, out, 1)
    elif column == "crop":
        cropping = filling = data.cropping(manifest_path, out, given, "face-alignment" if asked["gpus"] else "auto")
        settings = cropping.stage.settings
        typed |= {"sync": typed["sync"].absolute()} if "sync" in typed else {}
        typed["detector"] = settings.detector  # another machine might resolve auto differently
        say.aside(f"crop: detector {settings.detector}, align {settings.align}")
        if (most := auto.workers(settings.detector, asked["cpus"])) < asked["cpus"]:
            workers = most
    else:
        filling = data.windows(manifest_path, out, given)
    line, anew = _command_line(command, manifest_path, out, typed), filling.anew
    how: dict[str, Any] = {"shard_size": given.get("shard_size"), "workers": workers, "anew": anew}
    job = arrays.plan(filling.stage, filling.manifest, out, line, arrays.Resources(**asked), **how, remark=say.aside)
    if job is None:
        return
    if anew:
        by = "" if submit and offsets.set_unmoved_aside(filling.stage) else " by the first task"
        say.aside(f"mfcc: the windows as they were are kept in {out / offsets.UNMOVED}{by}")
    if not submit:
        click.echo(job.script, nl=False)  # noqa: TID251 - a script, with the user's own paths as they are
        return
    say.echo(f"job {job.submit()}: {job.path}, {job.shards} shards, logs in {job.logs}")


for filler in FILLERS.values():
    slurm_group.add_command(_array_command(filler))

COMMANDS: tuple[click.Command, ...] = (status, retry, slurm_group)
