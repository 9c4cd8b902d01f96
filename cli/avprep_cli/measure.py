"""Commands that measure clips and select them by the measurements. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from avprep import files, manifest
from avprep.errors import AvprepError, plural
from avprep_cli import data, kinds, options, say, summary

PRESETS = ("latentsync", "wav2lip")
"""The presets of `avprep.quality.select`."""
OF_ONE_VIDEO = ("video", "output", "detector", "audio_track", "audio_channel", "max_seconds", "device", "threads")
"""Options of `sync` that an array job does not take."""


@click.command()
@click.argument("out", type=options.EXISTING_OUT, required=False)
@click.option(
    "--model",
    "run",
    type=options.EXISTING,
    required=True,
    help="A RUN of avprep train --model sync, or syncnet_v2.model.",
)
@click.option(
    "--scale",
    type=click.Choice(("ours", "syncnet")),
    default="ours",
    help="syncnet: LSE-D and LSE-C with the released weights, as in their evaluation code.",
)
@click.option("--video", type=options.FILE, help="Measure this video instead of an OUT.")
@click.option("-o", "--output", type=kinds.Output(".png"), help="With --video: draw the curve, .png.")
@options.detector
@options.audio_track
@options.audio_channel
@options.max_length
@options.device
@options.threads
@options.root
@options.sync_run_options
def sync(
    out: Path | None,
    run: Path,
    scale: str,
    video: Path | None,
    output: Path | None,
    detector: str,
    audio_track: int | None,
    audio_channel: int | None,
    max_seconds: float,
    device: str,
    root: Path | None,
    jobs: int,
    **given: Any,
) -> None:
    """Measure the offset between audio and video.

    For each clip of OUT: by how many frames the audio is early (late, if negative), the confidence, and the curve over
    ±15 frames; for clips of 5 s and more also for each second. The results go into OUT/sync. After any interruption,
    run the same command again. The scale of the confidence depends on the model.

    \b
    avprep sync OUT --model RUN
    avprep sync --video talk.mp4 --model RUN -o curve.png
    avprep sync OUT --scale syncnet --model syncnet_v2.model
    avprep mfcc MANIFEST OUT --audio-offset sync      to move the audio
    avprep select OUT --preset wav2lip -o good.jsonl
    """
    if (out is None) == (video is None):
        raise click.UsageError("give an OUT, or --video FILE")
    any_given = output or detector != "auto" or audio_track is not None or audio_channel is not None
    if video is None and (any_given or not options.is_default("max_seconds")):
        raise click.UsageError("-o, --detector, --audio-track, --audio-channel and --max-seconds go with --video")
    options.folder_there(output)
    device = options.chosen_device(device)
    if video is not None:
        chosen = {"detector": detector, "track": audio_track, "channel": audio_channel, "max_seconds": max_seconds}
        _video(video, run, output, device, scale, **chosen)
        return
    assert out is not None
    from avprep import auto, columns
    from avprep.runs.fingerprint import read_manifest
    from davs_model.sync import column

    if device == "cuda" and options.is_default("jobs"):
        jobs = min(jobs, auto.GPU_WORKERS)
    plan = read_manifest(out)
    if scale == "syncnet":  # its audio features are not those of the shards
        plan = manifest.rooted(plan, root)
    say.aside(f"sync: {device}, {plural(jobs, 'worker')}")
    filling = columns.Filling(column.stage(out, run, scale, device, plan.root), plan, out, jobs)
    data.fill(filling, {**given, "shard_size": None})


def _video(video: Path, run: Path, output: Path | None, device: str, scale: str, **given: Any) -> None:
    from davs_model.sync import column, film
    from davs_model.sync.load import load
    from davs_model.sync.syncnet import SyncNet

    options.spare(output, video)
    model = SyncNet.load(run, device) if scale == "syncnet" else load(run, device=device)
    found = film.measure_video(video, model, remark=say.once, **given)
    lines = [f"{video}: {film.in_words(found.whole)}, {found.whole.n_windows} windows"]
    lines += [f"  second {second}: {film.in_words(one)}" for second, one in found.seconds]
    if output is not None:
        from avprep.shards.image import write_png

        write_png(output, film.draw(found, video.name))
        lines.append(str(output))
    seconds = [{"second": second, **column.figures(one)} for second, one in found.seconds]
    summary.show("\n".join(lines), facts={**column.figures(found.whole), "seconds": seconds, "where": [str(video)]})


@click.command()
@click.argument("out", type=options.EXISTING_OUT)
@click.option(
    "--where",
    "wheres",
    type=kinds.OneLine(),
    multiple=True,
    metavar="EXPR",
    help="Keep clips for which this holds: 'abs(audio_lead_frames) <= 1 and jitter < 2'. Repeatable.",
)
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="A published selection: latentsync (minimum confidence, offset at most 6 frames), wav2lip (at most 1).",
)
@click.option("-o", "--output", type=kinds.Output(".jsonl"), required=True, help="The manifest to write, .jsonl.")
@click.option("--force", is_flag=True, help="Replace an existing manifest.")
@options.as_json
@options.verbosity
def select(out: Path, wheres: tuple[str, ...], preset: str | None, output: Path, force: bool) -> None:
    """Write a manifest of the clips that satisfy a condition.

    Conditions use the values recorded by columns: audio_lead_frames, confidence, distance, n_windows of sync; jitter,
    slip, face_size, score of crop; silent_share, n_valid of mfcc; and key, split, word, speaker, seconds and the labels
    of the manifest, such as emotion. COLUMN.NAME distinguishes equal names. Clips that failed in a column of OUT, or
    lack a value, are left out. The scale of the confidence depends on the model: LatentSync's 3 is on SyncNet's scale.

    \b
    avprep select OUT --where 'confidence > 0.2' -o sure.jsonl
    avprep select OUT --preset wav2lip --where 'seconds >= 2' -o good.jsonl
    """
    from avprep.quality import select as library

    if not wheres and preset is None:
        raise click.UsageError("give --where EXPR or --preset, or both")
    options.spare(output, out / "manifest.jsonl")
    if output.exists() and not force:
        raise click.UsageError(f"{output} is there already: give another -o, or --force to replace it")
    try:
        parsed = [library.Where.parse(text) for text in wheres]
    except AvprepError as error:
        raise click.UsageError(str(error)) from error
    if preset:
        parsed.append(library.preset(out, preset))
        say.aside(f"{preset}: {parsed[-1].text} (the scale of confidence is that of the model)")
    found = library.select(out, parsed)
    files.write_text(output, manifest.render(found.manifest), replace=force)
    kept, left = len(found.manifest.clips), found.left_out.total()
    for reason, count in sorted(found.left_out.items()):
        say.aside(f"left out: {count}: {reason}")
    summary.show(
        f"{output}: {plural(kept, 'clip')} of {kept + left}",
        then=[summary.line("crop", output, "OUT2")] if kept else [],
        facts={"kept": kept, "left_out": dict(found.left_out), "where": [str(output)]},
    )


COMMANDS: tuple[click.Command, ...] = (sync, select)
