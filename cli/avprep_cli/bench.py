"""`avprep bench`: the speed of each step on this machine. Heavy imports wait until it runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from avprep_cli import kinds, options, say

if TYPE_CHECKING:
    from avprep.manifest import Manifest
    from davs_model.models.davs import Settings


class Measured(Protocol):
    """The result of a benchmark."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        ...

    def table(self) -> str:
        """Return the result as text."""
        ...


SHARDS, MODEL = ("crop", "mfcc"), ("load", "train")
"""The steps that make shards, and those that read them."""


@click.command()
@click.argument("what", type=click.Choice((*SHARDS, *MODEL, "all")), default="all")
@click.option("--clips", type=options.EXISTING_OUT, help="Folder tree of videos to measure with.  [a synthetic corpus]")
@click.option("--shards", type=options.EXISTING_OUT, help="OUT that load and train read.  [made from the clips]")
@options.detector
@click.option("--repeat", type=click.IntRange(1, 1000), default=3, help="Passes, of which the median counts.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=24, help="Clips to measure with.")
@click.option(
    "--as-lrw", is_flag=True, help="Cut a clip in the format of LRW from each video: 29 frames, 256×256, H.264."
)
@options.jobs
@click.option(
    "--stage",
    type=click.Choice(("identity", "speech", "full", "all")),
    default="all",
    help="load, train: the training stage.",
)
@click.option("--steps", type=click.IntRange(1, 10_000), default=2, help="train: steps per pass.")
@click.option(
    "--batches", type=click.IntRange(10, 1_000_000), default=20, help="load: batches over which memory is measured."
)
@options.preset("load, train: settings of DAVS to start from.", "small")
@options.setting("load, train: a setting. Repeatable.")
@click.option("--batch", type=click.IntRange(2, kinds.MOST_BATCH), help="load, train: clips per step.  [the preset's]")
@click.option(
    "--workers", type=click.IntRange(0, kinds.MOST_PROCESSES), help="load, train: loader processes.  [the preset's]"
)
@options.device
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with a member for each step.")
def bench(
    what: str,
    clips: Path | None,
    shards: Path | None,
    detector: str,
    repeat: int,
    limit: int,
    as_lrw: bool,
    jobs: int,
    stage: str,
    steps: int,
    batches: int,
    preset: str,
    overrides: tuple[str, ...],
    batch: int | None,
    workers: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure the speed of each step on this machine.

    Speeds are given relative to a floor: the minimum work of any tool.

    WHAT is crop, mfcc, load, train or all. The floor of crop is to decode the same clips and encode as many JPEGs; that
    of mfcc is to decode the audio; that of load, the training loader, is to decode the same JPEGs in as many processes;
    that of train is forward and backward of a batch already on the device. Steps and floors alternate, so that a noisy
    machine slows both. crop and mfcc also measure the speed-up of -j processes, and estimate the hours for LRW and
    VoxCeleb2.

    \b
    avprep bench                     everything, small, on a synthetic corpus
    avprep bench crop --clips /data/lrw/ABOUT/val --detector yunet
    avprep bench crop --clips /data/grid/s1 --as-lrw
    avprep bench load --shards OUT --preset paper --workers 8
    avprep bench train --shards OUT --preset paper --batch 32 \\
        --set machine.compile=true
    """
    from avprep import auto
    from avprep.demo import bench as library

    given = {"data.batch_size": batch, "data.workers": workers, "machine.device": None if device == "auto" else device}
    settings = None if what in SHARDS else _settings(preset, overrides, given)
    wanted = [name for name in (*SHARDS, *MODEL) if what in (name, "all")]
    if (busy := library.busy()) is not None:  # before our own work, which takes minutes
        say.aside(busy)
    with tempfile.TemporaryDirectory(prefix="avprep-bench-") as temporary:
        chosen = cache(lambda: auto.detector(detector, say.once))  # neither is needed if shards are given
        plan = cache(lambda: library.plan_of(clips, Path(temporary), limit, as_lrw=as_lrw))

        def measured() -> Iterator[tuple[str, Measured]]:
            if "crop" in wanted:
                yield "crop", library.bench_crop(plan(), chosen(), repeat=repeat, jobs=jobs)
            if "mfcc" in wanted:
                yield "mfcc", library.bench_mfcc(plan(), repeat=repeat, jobs=jobs)
            if settings is not None:
                out = shards or _made_shards(plan(), chosen(), jobs, Path(temporary))
                yield from _measured_learning(wanted, out, settings, stage, repeat, steps, batches)

        _show(measured(), as_json)


def _settings(preset: str, overrides: tuple[str, ...], given: dict[str, Any]) -> Settings:
    """Return the settings of DAVS with which load and train are measured; crop and mfcc need no model.

    An unavailable device is refused here, not after crop and mfcc were measured.
    """
    from davs_model.models.davs import Settings
    from davs_model.training.loop import device_of

    options.check_preset(preset, Settings.presets)
    overrides += tuple(f"{name}={value}" for name, value in given.items() if value is not None)
    settings = Settings.resolve(preset, None, overrides)
    device_of(settings)
    return settings


def _show(measured: Iterator[tuple[str, Measured]], as_json: bool) -> None:
    """Print each result as soon as it is there, because all of them take minutes; or all as JSON."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, result in measured:
        if not as_json:
            say.echo(("\n" if found else "") + result.table())
        found.setdefault(name, []).append(result.to_json())
    if as_json:
        say.echo(json.dumps({name: rows if name == "load" else rows[0] for name, rows in found.items()}, indent=2))


def _measured_learning(
    wanted: list[str], out: Path, settings: Settings, stage: str, repeat: int, steps: int, batches: int
) -> Iterator[tuple[str, Measured]]:
    """Measure the loader, with a result for each stage, training or both."""
    from davs_model.benchmarks import training
    from davs_model.models.davs import Model

    stages = [name for name in Model.stages if stage in (name, "all")]
    for name in stages if "load" in wanted else ():
        yield "load", training.bench_load(out, settings, name, repeat=repeat, batches=batches)
    if "train" in wanted:
        yield "train", training.bench_train(out, settings, stages=stages, steps=steps, repeat=repeat)


def _made_shards(plan: Manifest, detector: str, jobs: int, temporary: Path) -> Path:
    """Make shards of the clips by a normal run, all in the train split; those without a word get the same one."""
    from avprep import columns

    plan = replace(plan, clips=tuple(replace(clip, split="train", word=clip.word or "any") for clip in plan.clips))
    out = temporary / "shards"
    crop = columns.crop(plan, out, jobs=jobs, remark=say.once, detector=detector, subject="largest")
    for filling in (crop, columns.mfcc(plan, out, jobs=jobs)):
        filling.run(verbosity=-1)
    return out


COMMANDS = (bench,)
