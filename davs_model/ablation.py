"""The ablation of a model's paper: its rows are trained one after the other, evaluated, and collected in one table.

The rows begin with the same first stages and differ in the settings of one stage; each is trained with several seeds.
Finished work is kept: after an interruption, the same command resumes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from avprep import files, shards, untrusted
from avprep.errors import RunError, SettingsError, explained, short
from davs_model import checkpoint
from davs_model.data.clips import read_clips
from davs_model.evaluation import evaluate as evaluation
from davs_model.evaluation import page
from davs_model.evaluation.frame_quality import Landmarks
from davs_model.evaluation.judges import digests, require
from davs_model.evaluation.section import PageSection, Row, figure
from davs_model.settings import Ablation, RunSettings, ablation_of, dotted
from davs_model.training import loop

RESULTS, TABLE, PAGE, HTML = "results", "ablation.json", "ablation.md", "ablation.html"
COLUMNS: Mapping[str, tuple[str, str]] = {
    "PSNR": ("reconstruction.audio.psnr", ".2f"),
    "SSIM": ("reconstruction.audio.ssim", ".3f"),
    "LMD": ("mouth.audio.distance_px", ".2f"),
    "opening r": ("talking.audio.opening_r", ".3f"),
    "opening r, wrong audio": ("talking.wrong_audio.opening_r", ".3f"),
    "motion r": ("talking.audio.motion_r", ".3f"),
    "amplitude": ("talking.audio.amplitude", ".2f"),
    "R@1": ("talking.audio.r1", ".1%"),
    "mouth PSNR": ("talking.audio.mouth_psnr", ".2f"),
    "flicker": ("talking.audio.flicker", ".2f"),
    "sync confidence": ("sync.audio.confidence", ".3f"),
    "sync confidence, real": ("sync.real.confidence", ".3f"),
    "dependence on the reference": ("reference.dependence", ".3f"),
    "words seen": ("recognition.visual", ".1%"),
    "words heard": ("recognition.audio", ".1%"),
    "words, both": ("recognition.both", ".1%"),
    "video → audio R@1": ("retrieval.video_to_audio.r1", ".1%"),
    "audio → video R@1": ("retrieval.audio_to_video.r1", ".1%"),
}
"""Columns of the table: the place of each in metrics.json, and its number format."""
FREE = frozenset({"preset", "seed", "data.workers", "loop", "machine"})
"""Settings, and sections of them, in which runs may differ and be comparable."""
OWN_FORM = ".3f"
"""Number format of the measures that only one model has."""


@dataclass(frozen=True)
class Trained:
    """A row that was trained with one seed and evaluated.

    figures: results by column. how: the settings of its evaluation, and the digests of the models that measured it.
    trained: the settings of its training, by their dotted names.
    """

    row: str
    seed: int
    run: str
    figures: Mapping[str, float]
    how: Mapping[str, Any] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)


def ablate(
    out: Path,
    folder: Path,
    resolve: Callable[[Sequence[str]], RunSettings],
    *,
    rows: Sequence[str] = (),
    seeds: int = 2,
    init_from: Path | None = None,
    how: evaluation.EvaluationSettings,
    landmarks: tuple[Landmarks, str] | str = "not asked for",
    say: evaluation.Say = print,
) -> list[Trained]:
    """Train and evaluate rows of an ablation on the shards of OUT, each in its own run in `folder`.

    resolve: returns the common settings of all rows, overridden by the given `name=value`. rows: their names; empty:
    all. seeds: number of runs of each row; their seeds begin with that of the common settings. init_from: a run or
        checkpoint with which all begin.
    how, landmarks: see `davs_model.evaluation.evaluate.evaluate`.
    Returns every run that was evaluated. After each it writes `ablation.json`, `ablation.md` and `ablation.html`, with
    all rows that have results in `folder`, including those of earlier calls.
    Raises SettingsError for an unknown row, and the errors of training and evaluation.
    """
    common = resolve(())
    plan = ablation_of(common, rows)
    if not getattr(common.steps, plan.stage):
        raise SettingsError(f"steps.{plan.stage} = 0, but this is the stage in which the rows differ: give it steps")
    made = (shards.read_run(out, "mfcc") or {}).get("settings", {})
    require(how.sync, how.identity, str(made.get("preset", "")))  # before a row is trained
    judges = digests(how.sync, how.identity)
    read_clips(out, how.split).require(how.split)
    done: list[Trained] = []
    for seed in range(common.seed, common.seed + seeds):
        begin = _first_stages(out, folder, resolve((f"seed={seed}",)), plan, init_from, say)
        for row in (row for row in plan.rows if row in rows or not rows):
            run, settings = folder / f"{_slug(row)}-{seed}", resolve((f"seed={seed}", *plan.rows[row]))
            say(f"{row}, seed {seed}: {run}")
            loop.train(out, run, settings, stages=[plan.stage], init_from=begin, say=say)
            _evaluated(run, out, how, judges, landmarks, say)
            done.append(_trained(row, seed, run))
            write(folder, plan, settings.of_model, _results(folder, plan))
    return done


def _results(folder: Path, plan: Ablation) -> list[Trained]:
    """Return all runs of the plan's rows in `folder` that were evaluated, in its order."""
    names = {_slug(row): row for row in plan.rows}
    found = []
    for path in folder.glob(f"*/{RESULTS}/{evaluation.METRICS}"):
        name, _, seed = path.parts[-3].rpartition("-")
        if name in names and seed.isdecimal():
            found.append(_trained(names[name], int(seed), path.parents[1]))
    order = list(plan.rows)
    return sorted(found, key=lambda one: (order.index(one.row), one.seed))


def _trained(row: str, seed: int, run: Path) -> Trained:
    """Return a run by what its evaluation wrote."""
    metrics = _read(run / RESULTS / evaluation.METRICS)
    judges = {f"{name} model": digest for name, digest in metrics.get("judges", {}).items()}
    clips = {"clips": metrics.get("data", {}).get("clips")}  # other ones, if shards of the split were unfinished
    how = {**_without_paths(metrics.get("settings", {})), **judges, **clips}
    trained = metrics.get("training") or {"steps": metrics.get("steps", {})}  # only steps: of an earlier version
    return Trained(row, seed, str(run), figures(metrics), how, dotted(trained))


def _read(path: Path) -> dict[str, Any]:
    """Read the results of an evaluation; RunError if they are damaged."""
    try:
        return untrusted.read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({explained(error)}): delete it and run the same again") from error


def _first_stages(
    out: Path, folder: Path, settings: RunSettings, plan: Ablation, init_from: Path | None, say: evaluation.Say
) -> Path | None:
    """Train the stages with which all rows begin; return their run, or `init_from` if there is nothing to train."""
    if not any(getattr(settings.steps, stage) for stage in plan.before):
        return init_from
    run = folder / f"first-{settings.seed}"
    say(f"what all rows begin with, seed {settings.seed}: {run}")
    loop.train(out, run, settings, stages=plan.before, init_from=init_from, say=say)
    return run if (run / checkpoint.NAME).exists() else init_from


def _evaluated(
    run: Path,
    out: Path,
    how: evaluation.EvaluationSettings,
    judges: Mapping[str, str],
    landmarks: tuple[Landmarks, str] | str,
    say: evaluation.Say,
) -> None:
    """Evaluate a run, unless that is done; judges: the digests of the models that measure it, see `digests`."""
    results = run / RESULTS
    path = results / evaluation.METRICS
    if path.exists():
        found = _read(path)
        before = (found.get("checkpoint"), _without_paths(found.get("settings", {})), found.get("judges", {}))
        same = before == (checkpoint.load(run).digest(), _without_paths(asdict(how)), judges)
        if same and _has_mouths(found, landmarks):
            return
    evaluation.evaluate(run, out, results, how, landmarks=landmarks, say=say)


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an evaluation without the paths of judges, whose digests are compared instead."""
    return {name: value for name, value in settings.items() if name not in ("sync", "identity")}


def _has_mouths(metrics: Mapping[str, Any], landmarks: tuple[Landmarks, str] | str) -> bool:
    """Whether mouths were measured with these landmarks, if there are any and the model generates frames."""
    if isinstance(landmarks, str) or "reconstruction" not in metrics:
        return True
    mouth = metrics.get("mouth") or {}
    return bool(mouth.get("landmarks") == landmarks[1])


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the columns that metrics.json has, and the measures that only this model has."""
    places = {column: figure(metrics, place) for column, (place, _) in COLUMNS.items()}
    found = {column: value for column, value in places.items() if value is not None}
    for name, measured in metrics.get("own", {}).items():
        found |= {f"{name}: {key}": value for key, value in measured["facts"].items() if isinstance(value, float)}
    return found


def write(folder: Path, plan: Ablation, model: str, done: Sequence[Trained]) -> None:
    """Write the table of the runs so far, as JSON, Markdown and HTML."""
    text = json.dumps([asdict(one) for one in done], indent=2, ensure_ascii=False) + "\n"
    shown = _page(folder, plan, model, done)
    for name, content in ((TABLE, text), (PAGE, page.markdown(shown)), (HTML, page.html(shown))):
        files.write_whole(folder / name, content.encode())


def _page(folder: Path, plan: Ablation, model: str, done: Sequence[Trained]) -> page.Page:
    columns = dict.fromkeys(column for one in done for column in one.figures)
    rows: list[Row] = []
    for row in plan.rows:
        runs = [one for one in done if one.row == row]
        if runs:
            cells = ([one.figures[column] for one in runs if column in one.figures] for column in columns)
            settings = ", ".join(plan.rows[row]) or "as they are"
            rows.append([row, settings, str(len(runs)), *map(_cell, columns, cells)])
    notes = ["Mean over the seeds ± half of how far they lie apart."]
    if apart := _evaluated_apart(done):
        notes.append(f"Not all runs were evaluated alike: they differ in {', '.join(apart)}.")
    if trained := _trained_apart(plan, done):
        notes.append(f"Not comparable, because the runs were trained with different settings: {'; '.join(trained)}.")
    sections = [PageSection("Rows", tuple(notes), (), ("row", "settings", "seeds", *columns), tuple(rows))]
    if plan.paper:
        names = dict.fromkeys(name for found in plan.paper.values() for name in found)
        theirs = tuple([row, *(str(found.get(name, "–")) for name in names)] for row, found in plan.paper.items())
        note = "On the paper's data, at its size: for reference only, not comparable."
        sections.append(PageSection("The paper's figures", (note,), (), ("row", *names), theirs))
    return page.Page(f"Ablation of {model}: {folder}", (), "", tuple(sections))


def _evaluated_apart(done: Sequence[Trained]) -> list[str]:
    """Return the settings of evaluation in which runs differ."""
    names = dict.fromkeys(name for one in done for name in one.how)
    return [name for name in names if any(one.how.get(name) != done[0].how.get(name) for one in done)]


def _trained_apart(plan: Ablation, done: Sequence[Trained]) -> list[str]:
    """Return each setting of training in which runs differ, other than by the plan, with the values and their rows.

    What is in `FREE`, and the steps of stages that the plan does not train, are left out.
    """
    own = {row: {setting.partition("=")[0] for setting in settings} for row, settings in plan.rows.items()}
    lines = []
    for name in dict.fromkeys(name for one in done for name in one.trained):
        section, _, stage = name.partition(".")
        if name in FREE or section in FREE or (section == "steps" and stage not in (*plan.before, plan.stage)):
            continue
        rows: dict[str, dict[str, None]] = {}  # for each value, its rows
        for one in done:
            if name in one.trained and name not in own[one.row]:
                rows.setdefault(short(one.trained[name]), {})[one.row] = None
        if len(rows) > 1:
            lines.append(f"{name} = " + ", ".join(f"{value} ({', '.join(of)})" for value, of in rows.items()))
    return lines


def _cell(column: str, values: Sequence[float]) -> str:
    if not values:
        return "–"
    form = COLUMNS[column][1] if column in COLUMNS else OWN_FORM
    spread = f" ± {format((max(values) - min(values)) / 2, form)}" if len(values) > 1 else ""
    return f"{format(mean(values), form)}{spread}"


def _slug(row: str) -> str:
    """Return the name of a row in a form for folders."""
    return re.sub(r"\W+", "-", row.lower()).strip("-")
