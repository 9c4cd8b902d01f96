"""The command of a paper's ablation. Heavy imports wait until it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from avprep.errors import plural
from avprep_cli import kinds, options, say, summary

if TYPE_CHECKING:
    from davs_model.settings import RunSettings


@click.command()
@click.argument("out", type=options.EXISTING_OUT)
@click.argument("folder", type=options.OUT)
@click.option("--model", type=kinds.ModelName(), default="davs", help="A model that has an ablation.")
@click.option("--row", "rows", type=kinds.OneLine(200), multiple=True, help="Only this row. Repeatable.  [all]")
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=2,
    help="Number of runs per row, with the seeds 0, 1, … or from that of --set seed on.",
)
@options.preset("Settings that all rows start from, as in `avprep train`.")
@click.option("--config", "config_file", type=options.FILE, help="A TOML file of settings; it overrides the preset.")
@options.setting("A setting of all rows; it overrides all others except those of a row. Repeatable.")
@click.option("--init-from", type=options.EXISTING, help="A run or checkpoint with the initial weights of all runs.")
@click.option("--limit", type=click.IntRange(1, kinds.MOST), help="Evaluate only the first clips of the test split.")
@click.option("--sync", type=options.EXISTING, help="A RUN of a sync model that measures generated clips.")
@click.option("--identity", type=options.EXISTING, help="A RUN whose identity encoder measures clips with expressions.")
@options.detector
@options.device
@options.as_json
@options.verbosity
def ablate(
    out: Path,
    folder: Path,
    model: str,
    rows: tuple[str, ...],
    seeds: int,
    preset: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    init_from: Path | None,
    limit: int | None,
    sync: Path | None,
    identity: Path | None,
    detector: str,
    device: str,
) -> None:
    """Train and evaluate every row of a paper's ablation.

    The rows of DAVS's Table 3 differ in the speech stage, those of AMIE's Table 3 in the talk stage, and those of
    etgan, which are ours, in the full stage. Earlier stages are trained once for each seed. Every row is a RUN in
    FOLDER, with its evaluation. ablation.md and ablation.html contain the table of all evaluated rows in FOLDER, and
    are written after each run. If it is interrupted, run the same command again: finished work is kept.

    \b
    avprep ablate OUT FOLDER --model amie --preset small --sync SYNC_RUN
    avprep ablate OUT FOLDER --row 'L_C + SC' --row 'L_C + SC + L_adv'
    """
    from davs_model import models
    from davs_model.settings import ablation_of

    options.check_preset(preset, models.settings(model).presets)

    def resolve(more: Sequence[str]) -> RunSettings:
        return models.settings(model).resolve(preset, config_file, [*overrides, *more])

    ablation_of(resolve(()), rows)  # settings are checked before torch is loaded, which takes seconds
    from avprep import auto
    from davs_model import ablation
    from davs_model.evaluation import evaluate

    chosen = options.chosen_device(device)
    by, whom = (str(judge or "") for judge in (sync, identity))
    how = evaluate.EvaluationSettings(limit=limit, device=chosen, sync=by, identity=whom)
    mouths = auto.mouth_finder(detector, say.once, say.detail)
    done = ablation.ablate(
        out, folder, resolve, rows=rows, seeds=seeds, init_from=init_from, how=how, landmarks=mouths, say=say.story
    )
    where = [folder / name for name in (ablation.PAGE, ablation.HTML, ablation.TABLE)]
    summary.show(
        f"{plural(len(done), 'run')} of {plural(len({one.row for one in done}), 'row')}",
        where=where,
        facts={"runs": [one.run for one in done], "where": [str(path) for path in where]},
    )


COMMANDS = (ablate,)
