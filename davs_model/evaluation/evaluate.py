"""Evaluation of a model on a split of OUT: the paper's tables, as metrics, figures and a page.

One pass over the split embeds every clip and generates it from its own audio and from its own video, with a random
frame of it as the identity frame. A pass over clips of the train split provides the training data of the SVM. Memory
grows with the embeddings of the split, not with its frames.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avprep import __version__, files
from avprep.errors import RunError, plural
from avprep.shards.image import write_png
from davs_model import checkpoint, models, precision
from davs_model.checkpoint import Checkpoint
from davs_model.data.batch import RawBatch
from davs_model.data.batches import EvaluationBatches
from davs_model.data.clips import Clips, read_clips
from davs_model.data.loader import evaluation_batches, first_batch
from davs_model.data.pictures import as_read
from davs_model.data.reads import Shape, chosen
from davs_model.data.sources import ClipSource, usable
from davs_model.evaluation import (
    embed,
    embeddings,
    expression,
    figures,
    model_measures,
    moving,
    page,
    samples,
    talk,
)
from davs_model.evaluation.embeddings import EmbeddingsFile
from davs_model.evaluation.frame_quality import FrameQuality, Landmarks
from davs_model.evaluation.judges import digests, require
from davs_model.evaluation.lips import LipMeasure
from davs_model.evaluation.metrics import talking
from davs_model.evaluation.metrics.leakage import cross_leakage, leakage
from davs_model.evaluation.metrics.recognition import recognise
from davs_model.evaluation.metrics.retrieval import ranks, summarise
from davs_model.evaluation.progress import progress_lines
from davs_model.evaluation.section import plain
from davs_model.generation import draws, generating_stage
from davs_model.models.base import EVALUATED, FRAMES, PORTRAIT, REAL, SEQUENCE, TalkingModel

METRICS, PAGE, HTML, EMBEDDINGS = "metrics.json", "evaluation.md", "evaluation.html", "embeddings.h5"
EXPRESSIONS = "expressions.png"
SOURCES = ("audio", "video", "repeated")
"""What frames are generated from: audio, video, or nothing: the identity frame repeated."""
EVERY = 4
"""The SVM reads every fourth of the identity features of consecutive frames."""

Say = Callable[[str], None]
"""Shows a line."""


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of an evaluation.

    limit: maximum clips of the split; None: all. svm_clips: maximum clips of the train split for the SVM.
    mouth_clips: maximum clips whose mouths are measured. talking_clips: maximum clips that are generated whole, to
        measure whether they talk. seed: draws the identity frames. sync: a run whose sync model measures the generated
        clips, too; "": none. identity: a run whose identity encoder measures frames of an expressive model; "": none.
        speech_scale: factor of the audio features of these clips.
    """

    split: str = "test"
    limit: int | None = None
    batch_size: int = 16
    workers: int = 2
    device: str = "cpu"
    bf16: bool = False
    svm_clips: int = 5000
    mouth_clips: int = 1000
    talking_clips: int = 100
    seed: int = 0
    sync: str = ""
    identity: str = ""
    speech_scale: float = 1.0

    @property
    def whole_clips(self) -> int:
        """Maximum number of clips that are read whole."""
        return min(self.talking_clips, self.limit or self.talking_clips)


@dataclass(frozen=True)
class _Subject:
    """A model under evaluation, the clips and their reads; missing: the tables that are missing, with the reasons.

    clips: one clip per word, if the times of words are known; whole: the clips as they are in the shards.
    """

    run: Path
    saved: Checkpoint
    model: TalkingModel
    clips: Clips
    whole: Clips
    shape: Shape
    missing: dict[str, str]

    @classmethod
    def load(cls, run: Path, out: Path, settings: EvaluationSettings) -> _Subject:
        """Load the model of a run and the table of a split."""
        saved = checkpoint.load(run)
        model = precision.place(saved.model(), settings.device).eval()
        whole, shape = clips_of(saved, out, settings.split)
        problem, clips = _words_problem(saved, whole), whole.spoken_words()
        return cls(run, saved, model, clips, whole, shape, {"recognition": problem} if problem else {})

    def measure(
        self, settings: EvaluationSettings, path: Path, quality: FrameQuality, say: Say
    ) -> tuple[EmbeddingsFile, dict[str, Tensor]]:
        """Embed every clip into a file; return it, and the ranks of matching clips."""
        try:
            _embed(self, settings, path, quality, say)
            found = EmbeddingsFile(path)
            return found, _places(found)
        except ValueError as error:  # it is not finite, say
            raise RunError(f"{self.run}: cannot be measured: {error}") from error


def evaluate(
    run: Path,
    out: Path,
    results: Path,
    settings: EvaluationSettings,
    *,
    baselines: Sequence[Path] = (),
    landmarks: tuple[Landmarks, str] | str = "not asked for",
    say: Say = print,
) -> dict[str, Any]:
    """Measure the model of a run on the shards of OUT, and write metrics.json, the page and figures into `results`.

    baselines: other runs, measured the same way, without leakage and mouths. landmarks: the detector of mouth landmarks
    and its name; or the reason why there is none.
    Errors are CheckpointError, ShardError or RunError, one line. Returns the contents of metrics.json.
    """
    begin = time.monotonic()
    subject = _Subject.load(run, out, settings)
    require(settings.sync, settings.identity, subject.whole.mfcc_preset)
    judges = digests(settings.sync, settings.identity)
    for other in baselines:
        _Subject.load(other, out, settings)  # to report a problem now, and not after hours
    saved, clips, missing = subject.saved, subject.clips, subject.missing
    quality = FrameQuality(None if isinstance(landmarks, str) else landmarks[0], settings.mouth_clips)
    say(f"{settings.split}: {plural(min(len(clips), settings.limit or len(clips)), 'clip')} of {out}")
    found, places = subject.measure(settings, results / EMBEDDINGS, quality, say)
    metrics: dict[str, Any] = {
        **_about(subject, out, found, settings),
        "settings": asdict(settings),
        "judges": judges,
        **_tables(found, places, missing),
        **quality.tables(landmarks, missing),
        **_talking(subject, settings, say, LipMeasure.by(landmarks, settings.mouth_clips)),
        "leakage": _leakage(subject, out, found, settings, say),
        "own": model_measures.measure(saved, subject.model, subject.whole, settings.device, settings.whole_clips)
        | _expression(subject, out, settings, say, results / EXPRESSIONS),
    }
    if settings.sync and not metrics.get("sync"):
        missing["sync"] = missing.get("talking", "no clip was generated whole of which an offset can be found")
    if baselines:
        metrics["baselines"] = {
            str(other): _baseline(other, out, settings, results / f"baseline-{n}.h5", say)
            for n, other in enumerate(baselines)
        }
    metrics |= {
        "missing": missing,
        "versions": {"avprep": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "seconds": round(time.monotonic() - begin, 1),
    }
    shown = figures.draw(found, clips.label_names["words"], places, results)
    if draws(saved):
        raw = first_batch(_batches(clips, subject.shape, settings, samples.CLIPS))
        write_png(results / "samples.png", samples.sheet(subject.model, raw, torch.device(settings.device)))
        shown["samples"] = "samples.png"
    if "steering" in metrics["own"]:
        shown["expressions"] = EXPRESSIONS
    _write(results, metrics, shown)
    return metrics


def _about(subject: _Subject, out: Path, found: EmbeddingsFile, settings: EvaluationSettings) -> dict[str, Any]:
    """Return the model that was measured, and the data."""
    saved, clips = subject.saved, subject.clips
    return {
        "run": str(subject.run),
        "model": saved.name,
        "checkpoint": saved.digest(),
        "steps": saved.settings.get("steps", {}),
        "training": saved.settings.get("training", {}),
        "dimensions": saved.dimensions,
        "data": {
            "dataset": clips.dataset,
            "out": str(out),
            "split": settings.split,
            "clips": len(found.keys()),
            "words": len(set(found["words"].tolist()) - {-1}),
            "speakers": len(set(found["speakers"].tolist()) - {-1}),
            "skipped": dict(clips.skipped),
        },
    }


def _write(results: Path, metrics: dict[str, Any], shown: dict[str, str]) -> None:
    """Write metrics.json and both forms of the page; shown: the file of each figure, by name."""
    text = json.dumps(plain(metrics), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    files.write_whole(results / METRICS, text.encode())
    files.write_whole(results / PAGE, page.render(metrics, shown).encode())
    pictures = {name: (results / file).read_bytes() for name, file in shown.items()}
    files.write_whole(results / HTML, page.render_html(metrics, pictures).encode())


def in_words(metrics: dict[str, Any]) -> str:
    """Return the main metrics in one line of text."""
    parts = [embed.in_words({"words": metrics.get("recognition"), **metrics["retrieval"]})]
    parts += [
        "{} frames PSNR {psnr:.1f} dB, SSIM {ssim:.3f}".format(name, **found)
        for name, found in metrics.get("reconstruction", {}).items()
    ]
    if talks := metrics.get("talking"):
        parts.append(talking.summary(talks))
    return "; ".join(part for part in parts if part)


def clips_of(
    saved: Checkpoint, out: Path, split: str, reads: Sequence[str] = EVALUATED, vocabulary: tuple[str, ...] = ()
) -> tuple[Clips, Shape]:
    """Return the clips of a split on which a model can be measured, with the label numbers of its training, and reads.

    reads: names of `TalkingModel.reads`; those that the model has are read. vocabulary: numbers the words for a model
        that does not store its own; empty: by the words of the split.
    RunError if there are no such clips, or their windows have another preset than the model's.
    """
    numbered_by = {"words": saved.settings.get("words") or vocabulary, "emotions": saved.settings.get("emotions")}
    clips = read_clips(out, split, label_names={label: tuple(map(str, of)) for label, of in numbered_by.items() if of})
    preset = saved.settings.get("mfcc_preset")
    if preset and clips.mfcc_preset and preset != clips.mfcc_preset:
        raise RunError(f"{out}: its windows are of the preset {clips.mfcc_preset}, the model's are of {preset}")
    shape = Shape(chosen(models.find(saved.name).reads(saved.dimensions), reads), int(saved.dimensions["image_size"]))
    clips = usable(clips, shape)
    clips.require(split)
    return clips, shape


def _words_problem(saved: Checkpoint, clips: Clips) -> str | None:
    """Return why the words of clips cannot be matched with those of a model; None if they can."""
    known, n_words = saved.settings.get("words"), saved.dimensions.get("n_words", 0)
    if known is not None and not known:
        return "the model has learned no words"
    if known or len(clips.label_names["words"]) == n_words:
        return None
    return f"the model knows {n_words} words and not their names, these clips have {len(clips.label_names['words'])}"


def _batches(
    clips: Clips, shape: Shape, settings: EvaluationSettings, size: int, limit: int | None = None
) -> EvaluationBatches:
    return EvaluationBatches(ClipSource(clips, shape, portrait_seed=settings.seed), shape, batch_size=size, limit=limit)


def _read(clips: Clips, shape: Shape, settings: EvaluationSettings, limit: int | None) -> Iterator[RawBatch]:
    batches = _batches(clips, shape, settings, settings.batch_size, limit)
    return evaluation_batches(batches, workers=settings.workers, pin=settings.device.startswith("cuda"))


@torch.inference_mode()
def _embed(subject: _Subject, settings: EvaluationSettings, path: Path, quality: FrameQuality, say: Say) -> None:
    """Embed every clip and its generated frames into a file; also measure these frames."""
    saved, clips, generates = subject.saved, subject.clips, draws(subject.saved)
    if not generates:
        stage = generating_stage(saved)
        reason = f"the model has not trained its {stage} stage: it cannot draw" if stage else "the model draws nothing"
        subject.missing.update(dict.fromkeys(("talking", "reconstruction", "generated_retrieval", "mouth"), reason))
    facts = {"checkpoint": saved.digest(), "out": str(clips.out), "settings": asdict(settings)}
    total = len(clips) if settings.limit is None else min(settings.limit, len(clips))
    progress, done = progress_lines(say, total), 0
    with embeddings.writing(path, facts) as writer:
        for raw in _read(clips, subject.shape, settings, settings.limit):
            if raw.keys:
                found = _embedded(subject, settings, raw, quality if generates else None)
                writer.add(raw.keys, {**found, "words": raw["words"], "speakers": raw["speakers"]})
            for _, reason in raw.skipped:
                clips.skipped["cannot be read"] += 1
                say(f"skipped: {reason}")
            done += len(raw.keys)
            progress(done)


def _embedded(
    subject: _Subject, settings: EvaluationSettings, raw: RawBatch, quality: FrameQuality | None
) -> dict[str, Tensor]:
    """Embed the clips of a batch; quality: measures their generated frames, which are then embedded, too."""
    model, form, device = subject.model, subject.shape.reads[FRAMES], torch.device(settings.device)
    batch = raw.to(device)
    with precision.autocast(device, bf16=settings.bf16):
        found = model.embeddings(batch)
        if quality is not None:
            identity = model.conditioned(model.encode_identity(batch[PORTRAIT]), batch)
            frames = {
                name: model.decode(identity, talk.as_generated(model, name, found[name])) for name in model.drivers
            }
            real = batch.get(REAL, batch[FRAMES])
            frames["repeated"] = batch[PORTRAIT].expand_as(real)
            for name, pictures in frames.items():
                seen = as_read(pictures, form.box, form.size)
                found[f"generated_{name}"] = model.encode_speech(frames=seen)
    if quality is not None:
        quality.add(real, frames)
    return found


def _places(found: EmbeddingsFile) -> dict[str, Tensor]:
    """Return the ranks of the correct clips: by the other modality, and by frames generated in place of real ones."""
    video, audio = found["video"], found["audio"]
    places = {"video_to_audio": ranks(video, audio), "audio_to_video": ranks(audio, video)}
    generated = {name: f"generated_{name}" for name in SOURCES}
    places |= {name: ranks(found[of], video) for name, of in generated.items() if of in found}
    return places


def _tables(found: EmbeddingsFile, places: dict[str, Tensor], missing: dict[str, str]) -> dict[str, Any]:
    """Return the tables of word recognition and clip retrieval."""
    tables: dict[str, Any] = {}
    words = found["words"]
    if "recognition" not in missing:
        if "video_logits" not in found:
            missing["recognition"] = "the model does not recognise words"
        elif bool((words >= 0).any()):
            unknown = {"n_unknown": n} if (n := int((words < 0).sum())) else {}
            tables["recognition"] = asdict(recognise(found["video_logits"], found["audio_logits"], words)) | unknown
        else:
            missing["recognition"] = "no clip has a word that the model knows"
    judged = {name: asdict(summarise(of)) for name, of in places.items()}
    tables["retrieval"] = {name: judged.pop(name) for name in ("video_to_audio", "audio_to_video")}
    if judged:
        tables["generated_retrieval"] = judged
    return tables


def _talking(
    subject: _Subject, settings: EvaluationSettings, say: Say, lips: LipMeasure | None = None
) -> dict[str, Any]:
    """Return how the mouths of whole clips move, from their own audio and video and from wrong audio."""
    if not draws(subject.saved) or not settings.talking_clips:
        return {}
    return moving.tables(subject.model, subject.whole, settings, lips=lips, missing=subject.missing, say=say)


def _leakage(
    subject: _Subject, out: Path, found: EmbeddingsFile, settings: EvaluationSettings, say: Say
) -> dict[str, Any]:
    """Return what an SVM reads: words from identity features, people from speech features.

    Words: it is trained on clips of the train split. People, and words if the split is train itself: on four fifths of
    the measured clips, because the people of a test split need not be in the train split.
    """
    result: dict[str, Any] = {}
    missing = subject.missing
    speech, people = found["video"].mean(1), found["speakers"]
    try:
        result["people_from_speech"] = asdict(cross_leakage(speech, people, seed=settings.seed))
    except ValueError as error:
        missing["people_from_speech"] = str(error)
    if "identity_sequence" not in found:
        missing["words_from_identity"] = "the model does not encode the identity of frames in a row"
        return result
    judged, known = found["identity_sequence"][:, ::EVERY].flatten(1), found["words"]
    try:
        if settings.split == "train":
            read = cross_leakage(judged, known, seed=settings.seed, most=settings.svm_clips)
        else:
            features, words = _identity_of_train(subject, out, settings, say)
            read = leakage(features, words, judged, known, seed=settings.seed)
        result["words_from_identity"] = asdict(read)
    except (RunError, ValueError) as error:
        missing["words_from_identity"] = str(error)
    return result


@torch.inference_mode()
def _identity_of_train(subject: _Subject, out: Path, settings: EvaluationSettings, say: Say) -> tuple[Tensor, Tensor]:
    """Return identity features `[N, D]` and words `[N]` of clips of the train split, in shuffled order."""
    clips, shape = clips_of(subject.saved, out, "train", [SEQUENCE], subject.clips.label_names["words"])
    clips, device = clips.spoken_words(), torch.device(settings.device)
    say(f"train: {plural(min(len(clips), settings.svm_clips), 'clip')} for the SVM; with many words it takes minutes")
    features, words = [], []
    for raw in _read(clips, shape, settings, settings.svm_clips):
        if not raw.keys:
            continue
        batch = raw.to(device)
        with precision.autocast(device, bf16=settings.bf16):
            encoded = subject.model.embeddings(batch)
        features.append(encoded["identity_sequence"][:, ::EVERY].float().flatten(1).cpu())
        words.append(raw["words"].clone())
    if not words:
        raise ValueError(f"{out}: no clip of the train split with a word can be read")
    return torch.cat(features), torch.cat(words)


def _expression(subject: _Subject, out: Path, settings: EvaluationSettings, say: Say, picture: Path) -> dict[str, Any]:
    """Return the measures that only expressive models have, and write a sheet of generated emotions."""
    if not (subject.model.expression_length and draws(subject.saved) and settings.talking_clips):
        return {}
    device = torch.device(settings.device)
    how = expression.ExpressionSettings(
        settings.whole_clips, settings.svm_clips, settings.seed, settings.bf16, settings.sync, settings.identity
    )
    return expression.measure(
        subject.model, subject.whole, out, device, how, missing=subject.missing, say=say, picture=picture
    )


def _baseline(run: Path, out: Path, settings: EvaluationSettings, path: Path, say: Say) -> dict[str, Any]:
    """Measure another run for the columns of the tables."""
    subject, quality = _Subject.load(run, out, settings), FrameQuality(None, 0)
    missing = subject.missing
    say(f"baseline {run}")
    found, places = subject.measure(settings, path, quality, say)
    tables = {**_tables(found, places, missing), **quality.tables("", missing)}
    return {**tables, **_talking(subject, settings, say), "missing": missing}
