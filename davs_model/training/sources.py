"""The training data of a stage of a model, and what is read of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from avprep.errors import RunError, plural
from davs_model.data.clips import Clips
from davs_model.data.corpus import Corpus
from davs_model.data.faces import FaceFolder
from davs_model.data.reads import LABELS, Shape, chosen
from davs_model.data.sources import ClipSource, Source, usable
from davs_model.data.store import FrameStore
from davs_model.models.base import Stage, TalkingModel
from davs_model.settings import MIN_BATCH, RunSettings
from davs_model.training.codes import codes_of


def training_shape(
    kind: type[TalkingModel], dimensions: Mapping[str, int | float], stage: Stage, settings: RunSettings
) -> Shape:
    """Return what a stage of a model of these dimensions reads of each clip."""
    reads, data = chosen(kind.training_reads(dimensions, stage.name, settings), stage.reads), settings.data
    fixed = any(one.source == "codes" for one in reads.values())  # codes are of frames without augmentation
    return Shape(
        reads,
        int(dimensions["image_size"]),
        flip=data.flip and (not fixed or data.warp > 0),  # with a warp, codes need not fit exactly
        shift=0 if fixed or data.cache_mib else data.shift,
        jitter=data.jitter,
        warp=data.warp,
        voice=(data.voice_down, data.voice_up),
        noise=data.noise,
        features=kind.code_length,
    )


def validation_shape(model: TalkingModel, stage: Stage) -> Shape:
    """Return what is read to measure a stage, without augmentation."""
    names = stage.reads if stage.validation_reads is None else stage.validation_reads
    return Shape(chosen(model.reads(model.dimensions), names), int(model.dimensions["image_size"]))


def label_problem(stage: Stage, corpus: Corpus) -> str | None:
    """Return, in one line, why a stage lacks the people or emotions that it tells apart; None if it has them."""
    train = corpus.train
    if stage.emotions and (count := len(train.label_names["emotions"])) < 2:
        return (
            f"{train.out}: its clips are of {count} labelled emotions, and the {stage.name} stage tells emotions "
            "apart: index them with emotions"
        )
    if not stage.people or corpus.faces or (count := len(train.label_names["speakers"])) > 1:
        return None
    return (
        f"{train.out}: its clips are of {count} labelled people, and the {stage.name} stage tells people apart: "
        "give a folder of faces as data.faces"
    )


def source_of(
    model: TalkingModel,
    stage: Stage,
    shape: Shape,
    corpus: Corpus,
    settings: RunSettings,
    terms: Collection[str],
    device: torch.device,
    store: FrameStore | None,
) -> tuple[Source, Counter[str]]:
    """Return the training data of a stage, and the number of clips that it cannot use, by reason.

    terms: those that it minimises. device: of the model. store: is filled with the frames of the clips.
    RunError if the labels that the terms need are missing altogether.
    """
    if stage.people and corpus.faces:
        return FaceFolder(Path(settings.data.faces), shape), Counter()
    used = clips_of(model, stage, shape, corpus, settings, terms)
    if store is not None:
        store.fill(used, {shape.form(one) for one in model.reads(model.dimensions).values() if one.source == "frames"})
    codes: Sequence[NDArray[np.float32]] = ()
    if any(one.source == "codes" for one in shape.reads.values()):
        codes = codes_of(model, used, device, store=store, bf16=settings.machine.bf16)
    return ClipSource(used, shape, store=store, codes=codes), used.skipped - corpus.train.skipped


def clips_of(
    model: TalkingModel, stage: Stage, shape: Shape, corpus: Corpus, settings: RunSettings, terms: Collection[str]
) -> Clips:
    """Return the clips that a stage can use; RunError if there are no clips, or none has the labels that terms need."""
    clips = corpus.train
    clips.require("train")
    needed = {label: any(term in terms for term in model.labels.get(label, ())) for label in LABELS}
    if needed["words"] and not clips.label_names["words"]:
        switches = " ".join(f"--set weights.{term}=0" for term in model.labels["words"])
        raise RunError(
            f"{clips.out}: its clips have no words: index them with words, or train without these terms by {switches}"
        )
    kept = clips.where(model.uses(clips, stage.name, settings), "of people kept for another stage")
    return usable(kept, shape, **needed)


def foreseen(model: TalkingModel, stage: Stage, corpus: Corpus, settings: RunSettings) -> str:
    """Return in one line how many clips a stage can use and why not the others, or why it has none; reads nothing."""
    if problem := label_problem(stage, corpus):
        return f"{stage.name}: left out: {problem}"
    if stage.people and corpus.faces:
        return f"{stage.name}: {plural(len(corpus.faces), 'folder')} of faces"
    shape = training_shape(type(model), model.dimensions, stage, settings)
    terms = model.factors(stage, settings, people_are_speakers=not corpus.faces)
    try:
        used = clips_of(model, stage, shape, corpus, settings, terms)
    except RunError as error:
        return f"{stage.name}: cannot be trained: {error}"
    left_out = "".join(
        f", {count} left out: {reason}" for reason, count in (used.skipped - corpus.train.skipped).items()
    )
    few = too_few(len(used), settings.data.batch_size) if len(used) else ""
    return f"{stage.name}: {plural(len(used), 'clip')}{few}{left_out}"


def too_few(n_clips: int, batch_size: int) -> str:
    """Return what to do if there are fewer clips than a batch, to be added to their number; "" if there are enough."""
    if n_clips >= batch_size:
        return ""
    if n_clips < MIN_BATCH:
        return f", and training needs at least {MIN_BATCH}: give more clips"
    return f", fewer than a batch of {batch_size}: give a smaller data.batch_size"
