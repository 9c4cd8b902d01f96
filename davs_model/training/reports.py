"""The reports of a run: log lines, validations, sheets of generated frames, and skipped clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from avprep.errors import RunError, plural, speed
from avprep.shards.image import write_png
from davs_model.data.batch import RawBatch
from davs_model.data.batches import EvaluationBatches
from davs_model.data.clips import Clips
from davs_model.data.corpus import Corpus
from davs_model.data.loader import evaluation_batches, first_batch
from davs_model.data.sources import ClipSource, usable
from davs_model.evaluation import embed, samples, talk
from davs_model.evaluation.metrics import talking
from davs_model.evaluation.section import plain
from davs_model.models.base import Measure, Stage, TalkingModel
from davs_model.settings import RunSettings
from davs_model.training import optimizers
from davs_model.training.log import Clock, MetricsLog, duration
from davs_model.training.run_folder import Say
from davs_model.training.sources import validation_shape


class Reporter:
    """Reports on a run, in its first process.

    done: steps of each stage, which the loop updates.
    validation: metrics of the last validation. talking: talking metrics of the last validation that generated clips,
        at first `talked`; empty if it had too few clips. Checkpoints store them, so that generation can warn users.
    """

    def __init__(
        self,
        run: Path,
        settings: RunSettings,
        corpus: Corpus,
        model: TalkingModel,
        device: torch.device,
        done: dict[str, int],
        say: Say,
        talked: dict[str, Any],
    ) -> None:
        self.run, self.settings, self.corpus, self.model, self.device = run, settings, corpus, model, device
        self.done, self.say = done, say
        self.log = MetricsLog(run, done)
        self.validation: dict[str, Any] = {}
        self.talking = talked
        self._skipped: dict[str, str] = {}

    def steps(self, stage: Stage, step: int, total: int, epoch: int, means: dict[str, float], clock: Clock) -> None:
        """Log the means of the terms since the last log line."""
        rate, wait = clock.lap()
        eta = duration((total - step) * self.settings.data.batch_size / rate)
        text = "  ".join(f"{name} {value:.3g}" for name, value in means.items())
        self.say(f"{stage.name} {step}/{total}  {text}  {speed(rate)}  data {wait:.0%}  ETA {eta}")
        self.log.write(
            stage.name,
            step,
            overall=self._overall(),
            epoch=epoch,
            terms=plain(means),
            learning_rate=optimizers.learning_rate(self.settings, step, total),
            clips_per_s=round(rate, 2),
            data_wait=round(wait, 4),
            skipped=len(self._skipped),
        )

    def validate(self, stage: Stage, step: int) -> None:
        """Measure the model on clips of the val split; RunError if its outputs cannot be measured."""
        shape, data = validation_shape(self.model, stage), self.settings.data
        clips = usable(self.corpus.val.spoken_words(), shape)
        if not len(clips):
            return
        limit = self.settings.loop.validation_clips
        batches = EvaluationBatches(ClipSource(clips, shape), shape, batch_size=data.batch_size, limit=limit)
        found = embed.embed(
            self.model,
            evaluation_batches(batches, workers=data.workers, pin=self.device.type == "cuda"),
            self.device,
            bf16=self.settings.machine.bf16,
            generate=stage.generates,
        )
        try:
            self.validation = embed.measure(found)
        except ValueError as error:
            raise RunError(f"{self.run}: step {step}: the validation cannot be measured: {error}") from error
        whole = usable(self.corpus.val, shape)
        if stage.generates:
            self._talk(whole)
        if self.validation:
            n_clips = len(found["words"])
            self.say(f"{stage.name} {step} validation, {plural(n_clips, 'clip')}: {embed.in_words(self.validation)}")
            for one in self._own(stage, whole):
                self.say(f"{stage.name} {step} validation, {one.summary}")
            self.log.write(stage.name, step, overall=self._overall(), validation=self.validation)

    def _own(self, stage: Stage, clips: Clips) -> tuple[Measure, ...]:
        """Take the measures that only this model has, of whole clips."""
        measured = self.model.measures(stage.name, clips, self.device, limit=self.settings.loop.talking_clips)
        self.validation |= {one.name: dict(one.facts) for one in measured}
        return measured

    def _talk(self, clips: Clips) -> None:
        """Measure whether generated whole clips talk, with the `cheap` option."""
        limit, bf16 = self.settings.loop.talking_clips, self.settings.machine.bf16
        found = talk.measure(self.model, clips, self.device, limit=limit, bf16=bf16, cheap=True)
        self.talking = plain({**found, "talks": talking.talks(found)}) if found else {}
        if found:
            self.validation["talking"] = self.talking

    def draw(self, stage: Stage, step: int) -> None:
        """Write a sheet of generated frames of clips of the val split, or of train if there is no val split."""
        shape = validation_shape(self.model, stage)
        for table in (self.corpus.val, self.corpus.train):
            clips = usable(table.spoken_words(), shape)
            if len(clips):
                break
        if not len(clips):
            return
        raw = first_batch(EvaluationBatches(ClipSource(clips, shape), shape, batch_size=samples.CLIPS))
        picture = samples.sheet(self.model, raw, self.device, bf16=self.settings.machine.bf16)
        path = self.run / "samples" / f"{stage.name}-{step:06d}.png"
        write_png(path, picture)
        self.log.samples(stage.name, picture, overall=self._overall())
        self.say(f"{stage.name} {step} sample grid: {path}")

    def count_skipped(self, raw: RawBatch) -> None:
        """Report each clip that could not be read, once."""
        for key, reason in raw.skipped:
            if key not in self._skipped:
                self._skipped[key] = reason
                self.say(f"skipped, {len(self._skipped)} in all: {reason}")

    def _overall(self) -> int:
        return sum(self.done.values())
