"""A model measured on a split of OUT: the paper's tables, as numbers, figures and a page.

One pass over the split embeds every clip and draws it anew, from its own sound and from its own pictures, beginning
with a random frame of it; a pass over clips of the train split gives the SVM something to learn from. Memory grows with
the embeddings of the split, not with its frames.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep import __version__
from avprep.errors import RunError
from davs_model import checkpoint, precision
from davs_model.checkpoint import Checkpoint
from davs_model.data.batches import ClipSource, EvaluationBatches, Need, RawBatch, Shape, usable
from davs_model.data.clips import Clips, read_clips
from davs_model.data.loader import evaluation_batches
from davs_model.data.pictures import to_crops
from davs_model.evaluation import embed, embeddings, figures, page, samples
from davs_model.evaluation.embeddings import Embeddings
from davs_model.evaluation.metrics.leakage import cross_leakage, leakage
from davs_model.evaluation.metrics.mouth import mouth_distance
from davs_model.evaluation.metrics.recognition import recognise
from davs_model.evaluation.metrics.reconstruction import Reconstructions
from davs_model.evaluation.metrics.retrieval import ranks, summarise
from davs_model.generation import draws
from davs_model.models.davs.networks import DAVS
from davs_model.training import log
from davs_model.training.run_folder import Say

METRICS, PAGE, HTML, EMBEDDINGS = "metrics.json", "evaluation.md", "evaluation.html", "embeddings.h5"
SOURCES = ("audio", "video", "repeated")
"""What frames are drawn from: sound, pictures, or nothing: the identity frame again and again."""
RANKED = {
    "video_to_audio": "video → audio",
    "audio_to_video": "audio → video",
    "audio": "drawn from audio → original",
    "video": "drawn from video → original",
}
"""Curves of the figure of ranks."""
EVERY = 4
"""Of the identity features of frames in a row, the SVM reads every fourth."""

SAY_EVERY = 30.0
"""Seconds between lines of progress."""

Landmarks = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Finds mouths in crops, uint8 (N, 256, 256, 3): landmarks float32 (N, L, 2) in pixels, NaN where there are none."""


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    limit: most clips of the split; None: all. svm_clips: most clips of the train split that the SVM learns from.
    mouth_clips: most clips whose mouths are measured. seed: draws the identity frames.
    """

    split: str = "test"
    limit: int | None = None
    batch_size: int = 16
    workers: int = 2
    device: str = "cpu"
    bf16: bool = False
    svm_clips: int = 5000
    mouth_clips: int = 1000
    seed: int = 0


@dataclass
class _Drawn:
    """What is measured of the frames themselves, clip by clip."""

    landmarks: Landmarks | None
    mouth_clips: int
    quality: dict[str, Reconstructions] = field(default_factory=dict)
    mouths: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    _measured: int = 0

    def add(self, real: Tensor, drawn: dict[str, Tensor]) -> None:
        """Add frames `[B, T, 3, S, S]`, real ones and what was drawn in their place."""
        for name, frames in drawn.items():
            self.quality.setdefault(name, Reconstructions()).add(real.flatten(0, 1), frames.flatten(0, 1))
        clips = min(len(real), self.mouth_clips - self._measured)
        if self.landmarks is None or clips <= 0:
            return
        self._measured += clips
        for name, frames in {"real": real, **drawn}.items():
            self.mouths.setdefault(name, []).append(self.landmarks(to_crops(frames[:clips].flatten(0, 1))))


def evaluate(
    run: Path,
    out: Path,
    results: Path,
    settings: Settings,
    *,
    baselines: Sequence[Path] = (),
    landmarks: tuple[Landmarks, str] | str = "not asked for",
    say: Say = print,
) -> dict[str, Any]:
    """Measure the model of a run on the shards of OUT and write metrics.json, the page and figures into `results`.

    baselines: other runs, measured the same way without leakage and mouths. landmarks: what finds mouths, and what it
    is called; or why there is none.
    Errors are CheckpointError, ShardError or RunError, one line. Returns what metrics.json holds.
    """
    begin = time.monotonic()
    saved = checkpoint.load(run)
    model = precision.place(saved.model(), settings.device).eval()
    missing: dict[str, str] = {}
    clips, shape = clips_of(saved, out, settings.split)
    if problem := _words_problem(saved, clips):
        missing["recognition"] = problem
    finder = None if isinstance(landmarks, str) else landmarks[0]
    drawn = _Drawn(finder, settings.mouth_clips)
    path = results / EMBEDDINGS
    say(f"{settings.split}: {len(clips)} clips of {out}")
    with _sound(run):
        _embed(saved, model, clips, shape, settings, path, drawn, missing, say)
        found = Embeddings(path)
        places = _places(found)
    metrics: dict[str, Any] = {
        "run": str(run),
        "checkpoint": saved.digest(),
        "steps": saved.settings.get("steps", {}),
        "dimensions": saved.dimensions,
        "data": {
            "dataset": clips.dataset,
            "out": str(out),
            "split": settings.split,
            "clips": len(found.keys()),
            "words": len(clips.vocabulary),
            "speakers": len(set(found["speakers"].tolist()) - {-1}),
            "skipped": dict(clips.skipped),
        },
        "settings": asdict(settings),
        **_tables(found, places, missing),
        **_drawn_tables(drawn, landmarks, missing),
        "leakage": _leakage(saved, model, out, found, settings, missing, say),
    }
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
    shown = _figures(found, clips, places, results)
    if draws(saved):
        raw = EvaluationBatches(_source(clips, shape, settings), shape, batch_size=samples.CLIPS)[0]
        samples.write_png(results / "samples.png", samples.sheet(model, raw, torch.device(settings.device)))
        shown["samples"] = "samples.png"
    _write(results, metrics, shown)
    return metrics


def _write(results: Path, metrics: dict[str, Any], shown: dict[str, str]) -> None:
    """Write metrics.json and both forms of the page; shown: names of figures to their files."""
    text = json.dumps(_plain(metrics), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    samples.write(results / METRICS, text.encode())
    samples.write(results / PAGE, page.render(metrics, shown).encode())
    pictures = {name: (results / file).read_bytes() for name, file in shown.items()}
    samples.write(results / HTML, page.render_html(metrics, pictures).encode())


@contextlib.contextmanager
def _sound(run: Path) -> Iterator[None]:
    """Say of which run it is that what it gives cannot be measured: it is not finite, say."""
    try:
        yield
    except ValueError as error:
        raise RunError(f"{run}: cannot be measured: {error}") from error


def in_words(metrics: dict[str, Any]) -> str:
    """Return what was measured in one line."""
    parts = [log.in_words({"words": metrics.get("recognition"), **metrics["retrieval"]})]
    parts += [
        "{} frames PSNR {psnr:.1f} dB, SSIM {ssim:.3f}".format(name, **found)
        for name, found in metrics.get("reconstruction", {}).items()
    ]
    return "; ".join(part for part in parts if part)


def clips_of(
    saved: Checkpoint, out: Path, split: str, needs: Collection[Need] = ("identity", "speech", "consecutive")
) -> tuple[Clips, Shape]:
    """Return the clips of a split that a model can be measured on, labelled as it was trained, and what is read.

    RunError where there is none, or their windows are of another preset than the model's.
    """
    words = tuple(str(word) for word in saved.settings.get("words") or ())
    clips = read_clips(out, split, vocabulary=words or None)
    preset = saved.settings.get("mfcc_preset")
    if preset and clips.mfcc_preset and preset != clips.mfcc_preset:
        raise RunError(f"{out}: its windows are of the preset {clips.mfcc_preset}, the model's are of {preset}")
    sizes = ("image_size", "speech_frames", "identity_frames", "sequence_frames")
    side, speech, identity, sequence = (int(saved.dimensions[name]) for name in sizes)
    shape = Shape(frozenset(needs), side, speech, identity, sequence)
    clips = usable(clips, shape, words=False, speakers=False)
    if not len(clips):
        reasons = ", ".join(f"{count} {reason}" for reason, count in clips.skipped.items())
        raise RunError(f"{out}: no clip of the {split} split can be used ({reasons or 'there is none'})")
    return clips, shape


def _words_problem(saved: Checkpoint, clips: Clips) -> str | None:
    """Return why the words of clips cannot be told to be those of a model; None where they can."""
    known, n_words = saved.settings.get("words"), saved.dimensions["n_words"]
    if known is not None and not known:
        return "the model has learned no words"
    if known or len(clips.vocabulary) == n_words:
        return None
    return f"the model knows {n_words} words and not their names, these clips have {len(clips.vocabulary)}"


def _source(clips: Clips, shape: Shape, settings: Settings) -> ClipSource:
    return ClipSource(clips, shape, identity_seed=settings.seed)


def _read(clips: Clips, shape: Shape, settings: Settings, limit: int | None) -> Iterator[RawBatch]:
    batches = EvaluationBatches(_source(clips, shape, settings), shape, batch_size=settings.batch_size, limit=limit)
    return evaluation_batches(batches, workers=settings.workers, pin=settings.device.startswith("cuda"))


@torch.inference_mode()
def _embed(
    saved: Checkpoint,
    model: DAVS,
    clips: Clips,
    shape: Shape,
    settings: Settings,
    path: Path,
    drawn: _Drawn,
    missing: dict[str, str],
    say: Say,
) -> None:
    """Embed every clip, and what is drawn in its place, into a file; measure the frames on the way."""
    device = torch.device(settings.device)
    generates = draws(saved)
    if not generates:
        reason = "the model has not trained its full stage: it cannot draw"
        missing |= dict.fromkeys(("reconstruction", "generated_retrieval", "mouth"), reason)
    facts = {"checkpoint": saved.digest(), "out": str(clips.out), "settings": asdict(settings)}
    total = len(clips) if settings.limit is None else min(settings.limit, len(clips))
    told, done = time.monotonic(), 0
    with embeddings.writing(path, facts) as writer:
        for raw in _read(clips, shape, settings, settings.limit):
            batch = raw.to(device)
            with precision.autocast(device, bf16=settings.bf16):
                identity, found = embed.encode(model, batch)
                if generates and identity is not None:
                    frames = {name: model.decode(identity, found[name]) for name in ("audio", "video")}
                    frames["repeated"] = batch.identity_frame.expand_as(batch.frames)
                    for name in SOURCES:
                        found[f"generated_{name}"] = model.encode_speech_from_video(frames[name])
            if generates:
                drawn.add(batch.frames, frames)
            writer.add(raw.keys, {**found, "words": raw.words, "speakers": raw.speakers})
            for _, reason in raw.skipped:
                clips.skipped["cannot be read"] += 1
                say(f"skipped: {reason}")
            done += len(raw.keys)
            if time.monotonic() - told >= SAY_EVERY:
                told = time.monotonic()
                say(f"{done}/{total} clips")


def _places(found: Embeddings) -> dict[str, Tensor]:
    """Return the ranks of right clips: by the other modality, and by what was drawn in the place of the pictures."""
    video, audio = found["video"], found["audio"]
    places = {"video_to_audio": ranks(video, audio), "audio_to_video": ranks(audio, video)}
    if "generated_audio" in found:
        places |= {name: ranks(found[f"generated_{name}"], video) for name in SOURCES}
    return places


def _tables(found: Embeddings, places: dict[str, Tensor], missing: dict[str, str]) -> dict[str, Any]:
    """Return words recognised, and clips found again."""
    tables: dict[str, Any] = {}
    words = found["words"]
    if "recognition" not in missing:
        if bool((words >= 0).any()):
            tables["recognition"] = asdict(recognise(found["video_logits"], found["audio_logits"], words))
        else:
            missing["recognition"] = "no clip has a word that the model knows"
    judged = {name: asdict(summarise(of)) for name, of in places.items()}
    tables["retrieval"] = {name: judged.pop(name) for name in ("video_to_audio", "audio_to_video")}
    if judged:
        tables["generated_retrieval"] = judged
    return tables


def _drawn_tables(drawn: _Drawn, landmarks: tuple[Landmarks, str] | str, missing: dict[str, str]) -> dict[str, Any]:
    """Return how near frames come to the real ones, and their mouths."""
    tables: dict[str, Any] = {}
    if drawn.quality:
        tables["reconstruction"] = {name: asdict(kept.result()) for name, kept in drawn.quality.items()}
    if isinstance(landmarks, str):
        missing.setdefault("mouth", landmarks)
    elif drawn.mouths:
        mouths = {name: np.concatenate(parts) for name, parts in drawn.mouths.items()}
        tables["mouth"] = {"landmarks": landmarks[1]}
        tables["mouth"] |= {name: asdict(mouth_distance(mouths["real"], mouths[name])) for name in drawn.quality}
    return tables


def _leakage(
    saved: Checkpoint,
    model: DAVS,
    out: Path,
    found: Embeddings,
    settings: Settings,
    missing: dict[str, str],
    say: Say,
) -> dict[str, Any]:
    """Return what an SVM reads: words from identity features, people from speech features.

    Words: it learns from clips of the train split. People: from four fifths of these clips, for those of a test split
    need not be in the train split.
    """
    result: dict[str, Any] = {}
    speech, people = found["video"].mean(1), found["speakers"]
    try:
        result["people_from_speech"] = asdict(cross_leakage(speech, people, seed=settings.seed))
    except ValueError as error:
        missing["people_from_speech"] = str(error)
    try:
        features, words = _identity_of_train(saved, model, out, settings, say)
        judged = found["identity_sequence"][:, ::EVERY].flatten(1)
        result["words_from_identity"] = asdict(leakage(features, words, judged, found["words"], seed=settings.seed))
    except (RunError, ValueError) as error:
        missing["words_from_identity"] = str(error)
    return result


@torch.inference_mode()
def _identity_of_train(
    saved: Checkpoint, model: DAVS, out: Path, settings: Settings, say: Say
) -> tuple[Tensor, Tensor]:
    """Return identity features `[N, D]` and words `[N]` of clips of the train split, whose rows are shuffled."""
    clips, shape = clips_of(saved, out, "train", ["consecutive"])
    device = torch.device(settings.device)
    say(f"train: {min(len(clips), settings.svm_clips)} clips for the SVM")
    features, words = [], []
    for raw in _read(clips, shape, settings, settings.svm_clips):
        batch = raw.to(device)
        with precision.autocast(device, bf16=settings.bf16):
            _, encoded = embed.encode(model, batch)
        features.append(encoded["identity_sequence"][:, ::EVERY].float().flatten(1).cpu())
        words.append(raw.words.clone())
    return torch.cat(features), torch.cat(words)


def _baseline(run: Path, out: Path, settings: Settings, path: Path, say: Say) -> dict[str, Any]:
    """Measure another run by what the tables have columns for."""
    saved = checkpoint.load(run)
    model = precision.place(saved.model(), settings.device).eval()
    missing: dict[str, str] = {}
    clips, shape = clips_of(saved, out, settings.split)
    if problem := _words_problem(saved, clips):
        missing["recognition"] = problem
    drawn = _Drawn(None, 0)
    say(f"baseline {run}")
    with _sound(run):
        _embed(saved, model, clips, shape, settings, path, drawn, missing, say)
        found = Embeddings(path)
        places = _places(found)
    return {**_tables(found, places, missing), **_drawn_tables(drawn, "", missing), "missing": missing}


def _figures(found: Embeddings, clips: Clips, places: dict[str, Tensor], results: Path) -> dict[str, str]:
    """Draw the figures of the page; return their names and files."""
    shown: dict[str, str] = {}
    words, n = found["words"], len(clips.vocabulary)
    if n and found["video_logits"].shape[1] == n and bool((words >= 0).any()):
        counts = {kind: figures.confusion_matrix(found[f"{kind}_logits"], words, n) for kind in ("video", "audio")}
        for name, kind, title in (
            ("confusion_visual", "video", "Words read from lips"),
            ("confusion_audio", "audio", "Words heard"),
        ):
            shown[name] = f"{name}.png"
            figures.confusion(results / shown[name], counts[kind], clips.vocabulary, title)
        shown["by_word"] = "by_word.png"
        visual, audio = (figures.accuracy_by_word(counts[kind]) for kind in ("video", "audio"))
        figures.by_word(results / shown["by_word"], clips.vocabulary, visual, audio)
    shown["ranks"] = "ranks.png"
    curves = {title: places[name].numpy() for name, title in RANKED.items() if name in places}
    figures.ranks(results / shown["ranks"], curves, len(words))
    return shown


def _plain(value: Any) -> Any:
    """Return JSON without what JSON has no words for: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
