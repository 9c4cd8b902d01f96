"""Commands of the model. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from avprep.errors import CheckpointError
from avprep_cli import options

SHOWN_ASIDE = 10


@click.command("import-checkpoint")
@click.argument("file", type=options.FILE)
@click.argument("run", type=options.OUT)
@click.option("--partial", is_flag=True, help="Import what fits; the rest keeps fresh initial values.")
@click.option("--force", is_flag=True, help="Replace the checkpoint that RUN has.")
def import_checkpoint(file: Path, run: Path, partial: bool, force: bool) -> None:
    """Turn the released DAVS weights into a checkpoint of ours, RUN/checkpoint.pt.

    FILE is 101_DAVS_checkpoint.pth.tar as its authors publish it (a torch file despite its name), or one trained with
    their code on any number of words. Only tensors are read: code in a file is refused, never run. Every tensor that is
    missing or does not fit is named, and then nothing is written, unless you say --partial.

    \b
    avprep import-checkpoint 101_DAVS_checkpoint.pth.tar runs/released
    """
    from davs_model import checkpoint, released

    target = run / checkpoint.NAME
    if os.path.exists(target) and not force:  # False, not an error, where one may not look
        raise click.UsageError(f"{target} is there already: give another RUN, or --force to replace it")
    imported, findings = released.read(file, seed=0 if partial else None)
    for network, count in findings.loaded.items():
        click.echo(f"{network:20} {count / 1e6:6.2f} M parameters -> {released.NETWORKS[network]}")
    for name in findings.aside[:SHOWN_ASIDE]:
        click.echo(f"left aside: {name}", err=True)
    if len(findings.aside) > SHOWN_ASIDE:
        click.echo(f"left aside: {len(findings.aside) - SHOWN_ASIDE} more", err=True)
    for name in findings.missing:
        click.echo(f"missing: {name}", err=True)
    for line in findings.odd:
        click.echo(f"odd: {line}", err=True)
    if not findings.whole and not partial:
        counts = f"{len(findings.missing)} missing, {len(findings.odd)} odd"
        raise CheckpointError(f"{file}: not imported: {counts} (named above); --partial imports the rest")
    click.echo(f"{checkpoint.save(run, imported)}: {imported.dimensions['n_words']} words, 256×256, width 1")


@click.command("bench-model")
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True, help="Where.")
@click.option("--width", type=click.FloatRange(0, 4, min_open=True), default=1.0, show_default=True, help="Channels.")
@click.option("--image-size", type=click.Choice((64, 128, 256)), default=256, show_default=True, help="Of the frames.")
@click.option("--batch", type=click.IntRange(min=2), default=16, show_default=True, help="Clips a step.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Steps of each form.")
@click.option("--compile", "compiled", is_flag=True, help="Also by torch.compile; the first steps take minutes.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def bench_model(
    device: str, width: float, image_size: int, batch: int, repeat: int, compiled: bool, as_json: bool
) -> None:
    """Measure the model's fast forms on this machine: clips a second, and how far each is from plain float32.

    A step is forward and backward of the whole objective, on random pictures: the networks' share of training, without
    reading shards and without the optimizer. Forms take turns.

    \b
    avprep bench-model                                        the released size, on CUDA if there is one
    avprep bench-model --width 0.25 --image-size 64 --batch 4
    """
    import torch

    from davs_model import bench as library

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch sees no CUDA device here")
    result = library.bench(
        {"n_speakers": 10, "width": width, "image_size": image_size},
        device=device,
        batch=batch,
        repeat=repeat,
        compiled=compiled,
    )
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.table())


COMMANDS = (import_checkpoint, bench_model)
