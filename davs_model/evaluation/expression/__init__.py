"""Evaluation of an expressive model on unseen people: the axes of its paper, and tests of its mechanisms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from avprep.errors import ShardError, plural
from avprep.shards.image import write_png
from davs_model.data.clips import Clips, read_clips
from davs_model.evaluation.expression import axes, damage, mechanisms, steering
from davs_model.evaluation.expression.axes import Bench
from davs_model.evaluation.expression.readers import IdentityReader, Readers
from davs_model.evaluation.expression.sheet import sheet
from davs_model.evaluation.expression.targets import targets
from davs_model.evaluation.progress import progress_lines
from davs_model.models.base import Measure, TalkingModel
from davs_model.sync.load import load as load_sync

STEERED = 0.4
"""Fraction of the clips that are generated with every emotion."""
SPOILED = 0.2
"""Fraction of the clips whose modalities are corrupted."""


@dataclass(frozen=True)
class ExpressionSettings:
    """The settings of the measurement, as in `EvaluationSettings`; identity: a run whose encoder measures identity."""

    clips: int
    svm_clips: int
    seed: int = 0
    bf16: bool = False
    sync: str = ""
    identity: str = ""


def measure(
    model: TalkingModel,
    clips: Clips,
    out: Path,
    device: torch.device,
    settings: ExpressionSettings,
    *,
    missing: dict[str, str],
    say: Callable[[str], None],
    picture: Path | None = None,
) -> dict[str, Any]:
    """Return the measures of an expressive model, by name, like `model_measures.measure`.

    clips: whole clips of unseen people; out: the OUT to whose train split the readers are fitted.
    missing: receives what cannot be measured, with the reason. picture: path for `sheet`, a .png.
    CheckpointError or RunError for unsuitable runs.
    """
    if not (chosen := targets(clips, settings.clips, seed=settings.seed)):
        missing["expression"] = "it takes clips with emotions, of two speakers who show the same and have several each"
        return {}
    train = read_clips(out, "train", label_names={"emotions": clips.label_names["emotions"]})
    side = int(model.dimensions["image_size"])
    say(f"train: {plural(min(len(train), settings.svm_clips), 'clip')} for the reader of emotions")
    try:
        readers = Readers.fit(train, side, limit=settings.svm_clips, seed=settings.seed)
    except ValueError as error:
        missing["expression"] = str(error)
        return {}
    judge = load_sync(settings.sync, device=device, windows=clips.mfcc_preset) if settings.sync else None
    person = IdentityReader.load(Path(settings.identity), str(device)) if settings.identity else None
    if person is None:
        missing["expression: identity"] = "no other run encodes it: --identity RUN"
    bench = Bench(model.eval(), clips, device, readers, person, judge, settings.bf16, settings.seed)
    found: dict[str, Any] = {}
    with torch.inference_mode():
        try:
            for one in _measures(bench, settings, chosen, say):
                found[one.name] = asdict(one)
        except ShardError as error:
            missing["expression"] = f"no clip can be read for what is not there: {error}"
        if picture is not None and "steering" in found:
            write_png(picture, sheet(bench, chosen))
    return found


def _measures(
    bench: Bench, settings: ExpressionSettings, chosen: list[Any], say: Callable[[str], None]
) -> Iterator[Measure]:
    yield axes.measure(bench, chosen, progress_lines(say, len(chosen), "expression, both protocols: "))
    few = min(len(chosen), max(2, round(STEERED * len(chosen))))
    yield steering.measure(bench, chosen, progress_lines(say, few, "expression, every emotion: "), few)
    few = min(len(chosen), max(2, round(SPOILED * len(chosen))))
    yield damage.measure(bench, chosen, progress_lines(say, few, "expression, spoiled: "), few)
    many = targets(bench.clips, len(bench.clips), seed=bench.seed, views=mechanisms.COUNTS[-1])
    for one in (mechanisms.views(bench, many), mechanisms.leaks(bench, settings.svm_clips)):
        if one is not None:
            yield one
