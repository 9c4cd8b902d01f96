"""Commands of the model. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import click

from avprep.errors import CheckpointError, RunError
from avprep_cli import kinds, options, say, summary

SHOWN_ASIDE = 10


@click.command("import-checkpoint")
@click.argument("file", type=options.FILE)
@click.argument("run", type=options.OUT)
@click.option("--partial", is_flag=True, help="Import the tensors that fit; the rest is newly initialised.")
@click.option("--force", is_flag=True, help="Replace the checkpoint that RUN has.")
@options.verbosity
def import_checkpoint(file: Path, run: Path, partial: bool, force: bool) -> None:
    """Convert the released DAVS weights into a checkpoint.

    FILE is 101_DAVS_checkpoint.pth.tar as published by its authors (a torch file despite its name), or one trained with
    their code on any number of words. The command writes RUN/checkpoint.safetensors. Only tensors are read: code in a
    file is refused, never run. Every tensor that is missing or does not fit is named; in that case nothing is written
    without --partial.

    \b
    avprep import-checkpoint 101_DAVS_checkpoint.pth.tar runs/released
    """
    from davs_model import checkpoint, released

    target = run / checkpoint.NAME
    if os.path.exists(target) and not force:  # False, not an error, without permission to look
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
@click.argument("outs", metavar="OUT...", type=options.EXISTING_OUT, nargs=-1, required=True)
@click.argument("run", type=options.OUT)
@click.option(
    "--share",
    "shares",
    type=kinds.Number(0, 1_000, min_open=True),
    multiple=True,
    help="Relative weight of an OUT in training; one for each OUT, in their order.  [their numbers of clips]",
)
@click.option(
    "--model",
    type=kinds.ModelName(),
    default="davs",
    help="davs, amie, etgan: talking faces; sync: offsets between audio and video.",
)
@click.option(
    "--stage",
    type=kinds.OneLine(100),
    default="all",
    metavar="STAGE",
    help="The stage of the model to train; all: one after the other.",
)
@options.preset("Settings to start from: paper, small, medium or large, as far as the model has them.")
@click.option("--config", "config_file", type=options.FILE, help="A TOML file of settings; it overrides the preset.")
@options.setting("A setting; it overrides all others. Repeatable.")
@click.option("--init-from", type=options.EXISTING, help="A run or checkpoint with the initial weights.")
@options.dry_run
@options.as_json
@options.verbosity
def train(
    outs: tuple[Path, ...],
    run: Path,
    shares: tuple[float, ...],
    model: str,
    stage: str,
    preset: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    init_from: Path | None,
    dry_run: bool,
) -> None:
    """Train a model on the shards of one or more OUT.

    DAVS has three stages: identity (face recognition on labelled faces), speech (the shared space of audio and video)
    and full (generation, with identity and words disentangled). AMIE has the first two, then coherence (what audio and
    video have in common) and talk (generation, frame after frame). etgan has the first two, then judge (an emotion
    classifier, on its own speakers), expression and full (generation with an expression). sync has two: contrast (on
    all clips) and refine (without those found to be out of sync); `avprep sync` measures with it. If training is
    interrupted at any point, run the same command again: it resumes from the last saved state.
    RUN/checkpoint.safetensors is the model. RUN/metrics.jsonl and RUN/tensorboard hold its history, RUN/samples
    generated frames, RUN/settings.toml all settings. Clips that hold only silence are left out, unless --set
    data.keep_silent=true.

    \b
    avprep train OUT RUN --dry-run                    settings and clip counts
    avprep train OUT RUN --preset small               on a CPU
    avprep train OUT RUN --stage speech --set weights.domain=0
    avprep train OUT RUN --init-from OTHER_RUN        begin with its weights
    avprep train OUT OTHER_OUT RUN --share 1 --share 1
    avprep train OUT RUN --model amie --preset small
    avprep train OUT RUN --model etgan --preset small
    avprep train OUT RUN --model sync                 to measure offsets
    torchrun --nproc-per-node 8 --no-python avprep train OUT RUN
    """
    from davs_model import models

    if shares and len(shares) != len(outs):
        raise click.UsageError(f"{len(outs)} OUT and {len(shares)} --share: give one for each, or none")
    kind = models.settings(model)
    if stage not in (*kind.stages(), "all"):
        raise click.UsageError(f"--stage {stage}: the model {model} has {', '.join(kind.stages())}")
    options.check_preset(preset, kind.presets)
    settings = kind.resolve(preset, config_file, overrides)  # before the seconds that torch takes
    from davs_model.data import corpus
    from davs_model.training import distributed, loop, run_folder

    stages = [name for name in kind.stages() if stage in (name, "all")]
    first = distributed.rank() == 0  # one process speaks for all
    if dry_run and first:
        tell = say.aside if say.as_json() else lambda text: say.echo(say.folded(text))
        run_folder.describe(run, settings, corpus.read_corpus(outs, settings, shares), tell, stages)
        summary.close([], {"settings": tomllib.loads(settings.to_toml())})
    if dry_run:
        return
    found = loop.train(outs, run, settings, stages=stages, shares=shares, init_from=init_from, say=say.story)
    if first:
        _show_run(run, model, outs[0], found)


def _show_run(run: Path, model: str, out: Path, found: dict[str, Any]) -> None:
    """Print the path of a trained model, the results of its last validation, and the next command.

    Raises RunError if no stage has trained one.
    """
    from davs_model import checkpoint
    from davs_model.evaluation.embed import in_words

    path = run / checkpoint.NAME
    if not path.exists():
        raise RunError(f"{run}: nothing was trained: every stage has no steps, or is left out")
    measured = in_words(found)
    text = f"{path}: {measured}" if measured else str(path)
    summary.show(
        text if say.quiet() else say.folded(text),
        then=[
            summary.line("sync", out, "--model", run)
            if model == "sync"
            else summary.line("evaluate", run, out, "-o", "RESULTS")
        ],
        facts={"validation": found, "where": [str(path)]},
    )


COMMANDS = (train, import_checkpoint)
