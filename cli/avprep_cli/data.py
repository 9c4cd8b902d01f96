"""Commands that make and inspect shards. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avprep import files, layouts, manifest
from avprep.errors import RunError, plural
from avprep_cli import kinds, options, say, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avprep.columns import Filling
    from avprep.layouts.scan import Problem
    from avprep.runs.fingerprint import ColumnStage
    from avprep.stages import CropStage, MfccStage
    from davs_model.sync.speaker import SpeakerJudge

SHOWN_PROBLEMS = 20
MIN_CONFIDENCE = 0.2
"""As in `avprep.offsets`, which is too slow to import for a help text."""


@click.command()
@click.argument("layout", type=click.Choice(layouts.NAMES))
@click.argument("root", type=options.OUT)
@click.option("-o", "--output", type=kinds.Output(".jsonl"), required=True, help="The manifest to write, .jsonl.")
@options.seed("Random seed; it shuffles the rows within each split.")
@click.option(
    "--limit", type=click.IntRange(1, kinds.MOST), help="Keep only the first clips of each split, after shuffling."
)
@click.option(
    "--problems",
    type=kinds.Output(".jsonl"),
    help="Write every problem to this file, .jsonl: one JSON object per line.",
)
@click.option("--force", is_flag=True, help="Replace an existing manifest.")
@options.of_layouts
@options.as_json
@options.verbosity
def index(
    layout: str,
    root: Path,
    output: Path,
    seed: int,
    limit: int | None,
    problems: Path | None,
    force: bool,
    **layout_options: Any,
) -> None:
    """Scan a data set into a manifest, one clip per line.

    LAYOUT is the structure of the folders below ROOT. Nothing is decoded. Files from which no clip can be made are
    named and counted.

    \b
    avprep index lrw       /data/lipread_mp4 -o lrw.jsonl
    avprep index voxceleb2 /data/voxceleb2   -o vox2.jsonl
    avprep index grid      /data/grid        -o grid.jsonl
    avprep index folder    /data/mine        -o mine.jsonl \\
        --pattern '{speaker}/{word}/*'
    """
    given = {name: value for name, value in layout_options.items() if value is not None}
    known = {option.name for option in layouts.options() if layout in option.help}
    for name in given.keys() - known:
        raise click.UsageError(f"--{name.replace('_', '-')} is not an option of the layout {layout}")
    if output.exists() and not force:
        raise click.UsageError(f"{output} is there already: give another -o, or --force to replace it")
    if problems is not None and problems.resolve() == output.resolve():
        raise click.UsageError("-o and --problems are the same file: the problems would take the manifest's place")
    try:
        found, scan = layouts.index(layout, root, seed=seed, limit=limit, **given)
    except layouts.NoClipError as nothing:
        _tell_problems(nothing.problems, problems)
        raise
    files.write_text(output, manifest.render(found), replace=force)
    _tell_problems(scan.problems, problems)
    splits = found.counts()
    counts = ", ".join(f"{split} {count}" for split, count in splits.items())
    tally = summary.tally("problem", scan.counts())
    clips = say.good(plural(len(found.clips), "clip"))
    summary.show(
        f"{output}: {clips} ({counts}), {say.bad(tally) if scan.problems else tally}",
        then=[summary.line("crop", output, "OUT")],
        facts={
            "dataset": found.dataset,
            "clips": len(found.clips),
            "splits": splits,
            "problems": scan.counts(),
            "where": [str(output)],
        },
    )


def _tell_problems(found: Sequence[Problem], path: Path | None) -> None:
    """Print the first problems of a data set, and write all of them to a file if one is given."""
    if path is not None:
        rows = ({"kind": p.kind, "path": p.path, "message": p.message, "count": p.count} for p in found)
        files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    shown = len(found) if say.verbosity() == say.VERBOSE else SHOWN_PROBLEMS
    for problem in found[:shown]:
        say.aside(f"{problem.kind}: {problem.path}: {problem.message}")
    if len(found) > shown:
        say.aside(f"… and {len(found) - shown} more problems (--problems FILE lists them)")


@click.command()
@click.argument("manifest_path", metavar="MANIFEST", type=options.MANIFEST)
@click.argument("out", type=options.OUT)
@options.detector
@click.option(
    "--align",
    type=click.Choice(("smooth", "per-frame", "per-clip")),
    default="smooth",
    help="One transform per frame from smoothed points, one per frame from raw points, or one per clip.",
)
@click.option(
    "--every",
    type=click.IntRange(1, 12),
    default=12,
    help="Detect faces in every n-th frame, less often later in a shot; follow them by registration in between.",
)
@click.option("--min-face", type=kinds.Number(0, 10_000), default=32.0, help="Minimum face size in source pixels.")
@click.option(
    "--format", "image_format", type=click.Choice(("jpg", "png")), default="jpg", help="Image format of the crops."
)
@click.option(
    "--subject",
    type=click.Choice(("auto", "largest", "central", "speaking")),
    default="auto",
    help="Which face to follow if several are visible; auto is central for lrw and lrs3, else largest.",
)
@options.sync_judge
@options.run_options
def crop(manifest_path: Path, out: Path, **given: Any) -> None:
    """Crop aligned 256×256 faces into OUT/crop.

    Faces are detected, tracked and aligned. After any interruption, run the same command again: finished shards are
    kept, and only missing ones are made.

    \b
    avprep crop lrw.jsonl OUT                         all cores of this machine
    avprep crop lrw.jsonl OUT --detector yunet -j 8
    avprep crop lrw.jsonl OUT --limit 20 --dry-run    what would be done
    """
    filling = cropping(manifest_path, out, given)
    settings = filling.stage.settings
    say.aside(f"crop: detector {settings.detector}, align {settings.align}, {plural(filling.jobs, 'worker')}")
    fill(filling, given)


@click.command()
@click.argument("manifest_path", metavar="MANIFEST", type=options.MANIFEST)
@click.argument("out", type=options.OUT)
@click.option(
    "--preset",
    type=click.Choice(("davs", "syncnet")),
    default="davs",
    help="davs: the released MATLAB chain; syncnet: python_speech_features. Not interchangeable.",
)
@click.option(
    "--audio-shift-ms", type=kinds.Number(-60_000, 60_000), default=0.0, help="Delay the audio by N ms.", metavar="N"
)
@options.audio_track
@options.audio_channel
@click.option(
    "--audio-offset",
    type=click.Choice(("sync",)),
    help="Delay the audio of each clip by the lead that avprep sync measured; existing windows are kept aside.",
)
@click.option(
    "--min-confidence",
    type=kinds.Number(0, 100),
    default=MIN_CONFIDENCE,
    help="With --audio-offset: do not delay clips with a lower confidence.",
)
@options.run_options
def mfcc(manifest_path: Path, out: Path, **given: Any) -> None:
    """Compute a 12×20 MFCC window per video frame.

    The windows go into OUT/mfcc. After any interruption, run the same command again.

    \b
    avprep mfcc lrw.jsonl OUT
    avprep mfcc vox2.jsonl OUT --preset syncnet -j 8
    avprep mfcc mine.jsonl OUT --audio-offset sync    after avprep sync
    """
    filling = windows(manifest_path, out, given)
    say.aside(f"mfcc: preset {filling.stage.settings.preset}, {plural(filling.jobs, 'worker')}")
    fill(filling, given)


@click.command()
@click.argument("out", type=options.EXISTING_OUT)
@options.jobs
@options.as_json
@options.verbosity
def verify(out: Path, jobs: int) -> None:
    """Read every shard again and check each clip.

    It checks digests, keys and their order, dtypes, shapes and every image, and that each clip of the manifest is
    accounted for. If there are problems, the exit status is 1, with one line per problem.
    """
    from avprep.quality.verify import verify as find_problems
    from avprep.runs.status import status as read_status

    columns: dict[str, dict[str, int]] = {}
    lines: list[str] = []
    problems = find_problems(out, jobs, quiet=say.quiet())
    facts = {"columns": columns, "problems": problems, "where": [str(out)]}
    if problems:
        summary.close([], facts)
        refuse(out, problems)
    for column in read_status(out):
        total = column.total
        ok, failed, silent = total.ok, total.failed, total.silent
        columns[column.column] = {"clips": ok + failed, "ok": ok, "failed": failed, "silent": silent}
        counts = f"{plural(ok + failed, 'clip')} = {ok} ok{summary.silent(silent)} + "
        counts += summary.tally("failed", column.reasons)
        verdict = say.good("verified") if ok or not failed else say.bad("verified, but no clip is ok")
        lines.append(f"{column.column}: {verdict}: {counts}")
    then = summary.next_steps(out, summary.line("report", out, "-o", "report.html"))
    summary.show("\n".join(lines), then=then, facts=facts)


@click.group()
def weights() -> None:
    """List or download detector weights, pinned by sha256.

    No other command downloads anything. For nodes without a network, run `avprep weights fetch --to DIR` on a machine
    with one, then `export AVPREP_WEIGHTS=DIR`.
    """


@weights.command("list")
@options.as_json
def weights_list() -> None:
    """List the weights, their licences, and their paths on this machine."""
    from avprep.faces import weights as library

    rows = library.table()
    if say.as_json():
        say.echo(json.dumps({row["name"]: row for row in rows}, indent=2))
        return
    for row in rows:
        say.echo(f"{row['name']}: {row['state']}")
        for name in ("detector", "file", "bytes", "sha256", "licence", "source", "url"):
            say.echo(f"  {name:9} {row[name] or 'unknown'}")


@weights.command("fetch")
@click.argument("names", nargs=-1, type=kinds.OneLine(100))
@click.option("--to", type=options.OUT, help="Folder to write to.  [AVPREP_WEIGHTS or the user's cache]")
@options.verbosity
def weights_fetch(names: tuple[str, ...], to: Path | None) -> None:
    """Download weights and check their digests.

    Without NAMES, it downloads all weights that do not come with a package.
    """
    from avprep.faces import weights as library
    from avprep.runs.progress import download

    with download(quiet=say.quiet()) as arrived:
        lines = [
            f"{one.name}: {path}{'' if new else ' (was there)'}"
            for one, path, new in library.fetch(names or library.downloadable(), to, arrived)
        ]
    there = f"export AVPREP_WEIGHTS={shlex.quote(str(to))}"  # no command reads another folder without it
    then = [there] if to is not None else [summary.line("crop", "MANIFEST", "OUT")]
    summary.show("\n".join(lines), then=then, facts={})


def cropping(manifest_path: Path, out: Path, given: dict[str, Any], otherwise: str = "auto") -> Filling[CropStage]:
    """Return the Filling of the crop column; its options are removed from `given`."""
    from avprep import columns
    from avprep.stages import CropSettings

    sync = given.pop("sync")
    if sync is not None and not summary.follows_speaker(given):
        raise click.UsageError("--sync is for --subject speaking: give both, or neither")
    plan = opened(manifest_path, given)
    how: dict[str, Any] = {"judge": lambda: speaker(sync), "otherwise": otherwise, "remark": say.once}
    return columns.crop(plan, out, **_taken(CropSettings, given), **how)


def windows(manifest_path: Path, out: Path, given: dict[str, Any]) -> Filling[MfccStage]:
    """Return the Filling of the mfcc column; its options are removed from `given`."""
    from avprep import columns
    from avprep.stages import MfccSettings

    moved = {name: given.pop(name) for name in ("audio_offset", "min_confidence")}
    return columns.mfcc(opened(manifest_path, given), out, **_taken(MfccSettings, given), **moved)


def _taken(kind: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Remove the number of workers and the settings of a column from `given`, and return them."""
    return {"jobs": chosen_jobs(given.pop("jobs", None))} | {one.name: given.pop(one.name) for one in fields(kind)}


def opened(path: Path, given: dict[str, Any]) -> manifest.Manifest:
    """Read a manifest; the options that change it are removed from `given`."""
    return manifest.opened(path, given.pop("root"), given.pop("limit", None))


def chosen_jobs(jobs: int | None) -> int | None:
    """Return --jobs; None if it was not given."""
    return None if options.is_default("jobs") else jobs


def speaker(sync: Path | None, option: str = "--sync") -> SpeakerJudge:
    """Return the builder of the active-speaker model; UsageError, which names the option, without a sync model."""
    if sync is None:
        raise click.UsageError(f"--subject speaking needs {option} RUN, of `avprep train --model sync`")
    from davs_model.sync.speaker import SpeakerJudge

    return SpeakerJudge(sync.absolute())


def fill(filling: Filling[ColumnStage], given: dict[str, Any]) -> None:
    """Fill this task's shards of a column and print a summary."""
    stage, out, strict, dry_run = filling.stage, filling.out, given.pop("strict"), given.pop("dry_run")
    given["task_index"], given["num_tasks"] = options.selected_task(given["task_index"], given["num_tasks"])
    if dry_run:
        del given["clip_timeout"]
        _show_plan(*filling.planned(**given))
        return
    filling.set_aside(say.aside, **given)
    show_settings(stage)
    if given["accept_versions"]:
        tell_versions(stage, out)
    outcome = filling.run(verbosity=say.verbosity(), **given)
    then = summary.next_steps(out, summary.line("verify", out))
    done, where, facts = summary.of_column(outcome, out, stage.column)
    summary.show(done, where=where, then=then, facts=facts)
    if strict and outcome.failed:
        sys.exit(3)
    if outcome.failed and not outcome.ok:
        raise RunError(summary.none_ok(stage.column, outcome.failed))


def _show_plan(fingerprint: dict[str, Any], task: dict[str, Any]) -> None:
    """Print what decides the bytes of a column, and what a task would do."""
    if say.as_json():
        say.echo(json.dumps(fingerprint | task, indent=2))
        return
    say.echo(json.dumps(fingerprint, indent=2, ensure_ascii=False))
    work = f"{plural(len(task['planned']), 'shard')}, {plural(task['planned_clips'], 'clip')}"
    done = plural(len(task["done"]), "shard")
    say.echo(f"task {task['task_index']} of {task['num_tasks']}: {work}; {done} done")


def show_settings(stage: ColumnStage) -> None:
    """With -v, print what decides the bytes of a column: its settings and the library versions.

    AvprepError if what the column needs is missing, such as another column.
    """
    if say.verbosity() < say.VERBOSE:
        return
    from avprep.runs.fingerprint import Demanding

    if isinstance(stage, Demanding):
        stage.require()
    for name, values in (("settings", stage.resolved()), ("versions", stage.versions())):
        say.detail(f"{stage.column}: {name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))


def tell_versions(stage: ColumnStage, out: Path) -> None:
    """Print a remark if a run continues a folder that was started with other versions."""
    from avprep.runs.fingerprint import other_versions

    if other_versions(stage, out):
        say.aside(
            f"{stage.column}: {out} was begun with other versions of libraries; the sidecars of new shards say so"
        )


def refuse(out: Path, problems: list[str]) -> None:
    """End a command with a line for each problem of a run's folder, if there is any."""
    for problem in problems:
        say.echo(say.one_line(problem), err=True)
    if problems:
        raise RunError(f"{out}: {len(problems)} problem{'s' if len(problems) > 1 else ''}")


COMMANDS: tuple[click.Command, ...] = (index, crop, mfcc, verify, weights)
