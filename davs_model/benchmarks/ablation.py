"""What a model learns from shards, as a table: the supervisions of Table 3, and words in identity features.

Each row is a training run of its own, in a folder of its own, which goes on where it was stopped; what is measured is
the test split, all of it, which no run has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avprep.errors import RunError
from davs_model import checkpoint, precision
from davs_model.data.batches import EvaluationBatches
from davs_model.data.loader import evaluation_batches
from davs_model.data.sources import ClipSource, usable
from davs_model.evaluation import embed
from davs_model.evaluation.evaluate import clips_of
from davs_model.evaluation.metrics.leakage import leakage
from davs_model.models.base import FRAMES, PORTRAIT, SEQUENCE, WINDOWS
from davs_model.models.davs.settings import Settings
from davs_model.training import loop
from davs_model.training.run_folder import Say

SUPERVISIONS = {
    "L_C": (False, False),
    "L_C + SC": (True, False),
    "L_C + L_adv": (False, True),
    "L_C + SC + L_adv": (True, True),
}
"""Rows of Table 3: shared classifier, domain GAN."""
BASE = "identity-and-speech"
SWITCHES = {"off": 0.0, "on": 1.0}
"""Factors of eq. 2 and 3, as multiples of their weight."""


def supervisions(out: Path, work: Path, settings: Settings, *, say: Say) -> list[dict[str, Any]]:
    """Train the speech stage under each supervision and measure it on the test split; return a row each."""
    rows = []
    for name, (shared, adversarial) in SUPERVISIONS.items():
        weights = settings.weights if adversarial else settings.weights.model_copy(update={"domain": 0.0})
        model = settings.model.model_copy(update={"shared_classifier": shared})
        run = run_of(work, name)
        row_settings = settings.model_copy(update={"weights": weights, "model": model})
        say(f"== {name}")
        loop.train(out, run, row_settings, stages=("speech",), say=say)
        found = embed.measure(_embed(run, out, "test", settings, (FRAMES, WINDOWS)))
        rows.append({"supervision": name, **found})
        say(str(rows[-1]))
    return rows


def run_of(work: Path, supervision: str) -> Path:
    """Return the folder of a row of `SUPERVISIONS`."""
    return work / supervision.replace(" + ", "-").lower()


def disentangling(
    out: Path, work: Path, settings: Settings, *, say: Say, speech: Path | None = None
) -> list[dict[str, Any]]:
    """Train the full stage with eq. 2 and 3 on and off, from the same first two stages; return a row each.

    speech: a run of the speech stage to take; None: it is trained, too.

    A linear SVM learns the words from the identity features F_p^v of the train split (every fourth of 20 frames in a
    row) and reads them in the test split. The first row is the model before the full stage.
    """
    base = work / BASE
    say(f"== {BASE}")
    if speech is None:
        loop.train(out, base, settings, stages=("identity", "speech"), say=say)
    else:
        loop.train(out, base, settings, stages=("identity",), init_from=speech, say=say)
    rows = [{"eq. 2, 3": "before the full stage", **_leak(base, out, settings)}]
    for name, factor in SWITCHES.items():
        say(f"== eq. 2 and 3 {name}")
        weights = settings.weights.model_copy(update={"identity_word": factor * settings.weights.identity_word})
        switched = settings.model_copy(update={"weights": weights})
        run = work / f"disentangling-{name}"
        loop.train(out, run, switched, stages=("full",), init_from=base, say=say)
        rows.append({"eq. 2, 3": name, **_leak(run, out, settings)})
        say(str(rows[-1]))
    return rows


def _leak(run: Path, out: Path, settings: Settings) -> dict[str, Any]:
    train, test = (_embed(run, out, split, settings, (PORTRAIT, SEQUENCE)) for split in ("train", "test"))
    found = leakage(
        train["identity_sequence"][:, ::4].flatten(1),
        train["words"],
        test["identity_sequence"][:, ::4].flatten(1),
        test["words"],
    )
    return {"leakage": asdict(found), **embed.measure(test)}


def _embed(run: Path, out: Path, split: str, settings: Settings, reads: Sequence[str]) -> embed.Embeddings:
    """Run a split through the model of a run."""
    saved = checkpoint.load(run)
    device = loop.device_of(settings)
    model = precision.place(saved.model(), device)
    clips, shape = clips_of(saved, out, split, reads)
    clips = usable(clips, shape, words=True, speakers=False)
    if not len(clips):
        raise RunError(f"{out}: no clip of the {split} split has a word that was learned")
    batches = EvaluationBatches(ClipSource(clips, shape), shape, batch_size=settings.data.batch_size)
    read = evaluation_batches(batches, workers=settings.data.workers)
    return embed.embed(model, read, device, bf16=settings.machine.bf16)


def supervision_table(rows: list[dict[str, Any]]) -> str:
    """Return Markdown in the layout of Table 3, with the level of chance below."""
    lines = [
        "| supervision | visual | audio | both | video → audio R@1 | R@10 | MedR | audio → video R@1 | R@10 | MedR |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        words, there, back = row["words"], row["video_to_audio"], row["audio_to_video"]
        shares = [f"{100 * words[name]:.1f}" for name in ("visual", "audio", "both")]
        for figures in (there, back):
            shares += [f"{100 * figures['r1']:.1f}", f"{100 * figures['r10']:.1f}", str(figures["median_rank"])]
        lines.append(f"| {row['supervision']} | " + " | ".join(shares) + " |")
    words, there = rows[0]["words"], rows[0]["video_to_audio"]
    chance, n = 100 * words["chance"], there["n_clips"]
    guess = [f"{100 / n:.2f}", f"{min(100.0, 1000 / n):.1f}", str(n // 2 + 1)]
    lines.append("| *chance* | " + " | ".join([f"{chance:.1f}"] * 3 + guess * 2) + " |")
    return "\n".join(lines)


def disentangling_table(rows: list[dict[str, Any]]) -> str:
    """Return Markdown: what the SVM reads, with the level of chance and the ratio off to on."""
    lines = ["| eq. 2 and 3 | words from identity features | same person nearest |", "|---|---|---|"]
    for row in rows:
        people = row.get("people")
        nearest = "–" if people is None else f"{100 * people['same_person']:.1f}"
        lines.append(f"| {row['eq. 2, 3']} | {100 * row['leakage']['accuracy']:.1f} | {nearest} |")
    people = rows[0].get("people")
    nearest = "–" if people is None else f"{100 * people['chance']:.1f}"
    lines.append(f"| *chance* | {100 * rows[0]['leakage']['chance']:.1f} | {nearest} |")
    off, on = (next(r for r in rows if r["eq. 2, 3"] == name)["leakage"]["accuracy"] for name in ("off", "on"))
    ratio = f"{off / on:.1f}" if on else "∞"
    return "\n".join(lines) + f"\n\nOff / on: {100 * off:.1f} % / {100 * on:.1f} % = {ratio}"
