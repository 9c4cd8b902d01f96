"""Commands of the model. Heavy imports wait until a command runs."""

from __future__ import annotations

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
    if target.exists() and not force:
        raise click.UsageError(f"{target} is there already: give another RUN, or --force to replace it")
    imported, findings = released.read(file)
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


COMMANDS = (import_checkpoint,)
