"""Commands of the model. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import click

from avprep.errors import CheckpointError
from avprep_cli import options, say, summary

SHOWN_ASIDE = 10


@click.command("import-checkpoint")
@click.argument("file", type=options.FILE)
@click.argument("run", type=options.OUT)
@click.option("--partial", is_flag=True, help="Import what fits; the rest keeps fresh initial values.")
@click.option("--force", is_flag=True, help="Replace the checkpoint that RUN has.")
@options.verbosity
def import_checkpoint(file: Path, run: Path, partial: bool, force: bool) -> None:
    """Turn the released DAVS weights into a checkpoint of ours, RUN/checkpoint.safetensors.

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
        say.story(f"{network:20} {count / 1e6:6.2f} M parameters -> {released.NETWORKS[network]}")
    shown = len(findings.aside) if say.verbosity() == say.VERBOSE else SHOWN_ASIDE
    for name in findings.aside[:shown]:
        say.aside(f"left aside: {name}")
    if len(findings.aside) > shown:
        say.aside(f"left aside: {len(findings.aside) - shown} more")
    for name in findings.missing:
        say.echo(f"missing: {name}", err=True)
    for line in findings.odd:
        say.echo(f"odd: {line}", err=True)
    if not findings.whole and not partial:
        counts = f"{len(findings.missing)} missing, {len(findings.odd)} odd"
        raise CheckpointError(f"{file}: not imported: {counts} (named above); --partial imports the rest")
    summary.show(
        f"{checkpoint.save(run, imported)}: {imported.dimensions['n_words']} words, 256×256, width 1",
        then=[summary.line("generate", run, *summary.SOME_FILM)],
    )


@click.command()
@click.argument("out", type=options.EXISTING_OUT)
@click.argument("run", type=options.OUT)
@click.option(
    "--stage",
    type=click.Choice(("identity", "speech", "full", "all")),
    default="all",
    show_default=True,
    help="What to train; all: one after the other.",
)
@click.option("--preset", type=click.Choice(("paper", "small")), help="Settings to begin with.  [paper]")
@click.option("--config", "config_file", type=options.FILE, help="A TOML file of settings, over those of the preset.")
@options.setting("One setting, over all others.")
@click.option("--init-from", type=options.EXISTING, help="A run or checkpoint to begin with.")
@options.dry_run
@options.as_json
@options.verbosity
def train(
    out: Path,
    run: Path,
    stage: str,
    preset: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    init_from: Path | None,
    dry_run: bool,
) -> None:
    """Train DAVS on the shards of OUT; everything that comes of it goes into RUN.

    Three stages: identity (who is it, on labelled faces), speech (the shared space of sound and picture) and full
    (generation, with the person and the words taken apart). Killed or stopped, the same command goes on where the last
    state was saved. RUN/checkpoint.safetensors is the model, RUN/metrics.jsonl and RUN/tensorboard its history,
    RUN/samples what it draws, RUN/settings.toml all settings.

    \b
    avprep train OUT RUN --dry-run                                        the settings, and what there is to learn from
    avprep train OUT RUN --preset small                                   on a CPU
    avprep train OUT RUN --stage speech --set weights.domain=0            without the domain GAN
    avprep train OUT RUN --init-from OTHER_RUN                            other clips, the weights of another run
    torchrun --nproc-per-node 8 --no-python avprep train OUT RUN          on eight GPUs
    """
    from davs_model.models.davs import Settings

    settings = Settings.resolve(preset, config_file, overrides)  # before the seconds that torch takes
    from davs_model import checkpoint
    from davs_model.data import corpus
    from davs_model.evaluation.embed import in_words
    from davs_model.models.davs import Model
    from davs_model.training import loop, run_folder

    stages = [name for name in Model.stages if stage in (name, "all")]
    if dry_run:
        run_folder.describe(run, settings, corpus.read_corpus(out, settings), say.aside if say.as_json() else say.echo)
        summary.close([], {"settings": tomllib.loads(settings.to_toml())})
        return
    found = loop.train(out, run, settings, stages=stages, init_from=init_from, say=say.story)
    if int(os.environ.get("RANK", "0")):  # torchrun's: one process speaks for all
        return
    path = run / checkpoint.NAME
    measured = in_words(found)
    summary.show(
        f"{path}: {measured}" if measured else str(path),
        then=[summary.line("evaluate", run, out, "-o", "RESULTS")],
        facts={"validation": found, "where": [str(path)]},
    )


COMMANDS = (train, import_checkpoint)
