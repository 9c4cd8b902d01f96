"""The loop: build, and for each stage load, step, log, validate, draw, save; killed at any moment, it goes on.

What is minimised stands in the model's stages, what a step is in `step`. Each step draws its random numbers from the
seed, the stage and its own number, and reads the batch of that number, so a run that goes on after a kill takes the
steps that it would have taken.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avprep.errors import CheckpointError, RunError
from davs_model import checkpoint, models, precision
from davs_model.checkpoint import Checkpoint
from davs_model.data.batch import RawBatch
from davs_model.data.batches import EvaluationBatches
from davs_model.data.corpus import Corpus, read_corpus
from davs_model.data.loader import evaluation_batches
from davs_model.data.reads import Shape
from davs_model.data.sources import ClipSource, Source, usable
from davs_model.evaluation import embed, samples
from davs_model.models.base import Stage, TalkingModel
from davs_model.settings import Settings
from davs_model.training import distributed, optimizers
from davs_model.training import state as states
from davs_model.training.distributed import World
from davs_model.training.log import Clock, MetricsLog, duration
from davs_model.training.optimizers import Optimizers
from davs_model.training.run_folder import Say, check_same, locked, stop_signals, write_facts
from davs_model.training.sources import people_problem, validation_shape
from davs_model.training.step import StageTrainer


def device_of(settings: Settings) -> torch.device:
    """Return the device that the settings name; RunError where it is not there."""
    name = settings.machine.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("machine.device = cuda: torch sees no CUDA device here")
    return torch.device(name)


def train(
    out: Path,
    run: Path,
    settings: Settings,
    *,
    stages: Sequence[str],
    init_from: Path | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Train the stages on the shards of OUT, or go on with it, in RUN; return the last validation.

    init_from: a checkpoint or a run whose weights a new run begins with, where they fit.
    Errors are RunError, ShardError or CheckpointError, one line each; what was learned until then is kept.
    """
    device = device_of(settings)
    if settings.machine.threads:
        torch.set_num_threads(settings.machine.threads)
    world = distributed.join(device.type)
    try:
        if settings.data.batch_size % world.size:
            raise RunError(f"data.batch_size = {settings.data.batch_size} is no multiple of {world.size} processes")
        with locked(run) if world.first else contextlib.nullcontext():
            going = _Run.start(out, run, settings, world, device, init_from, say if world.first else lambda _: None)
            try:
                # torchrun repeats to its processes a signal that all of them may have had, and kills after 30 s.
                with stop_signals(again="ends" if world.size == 1 else "ignored") as stop:
                    for stage in (going.model.stages[name] for name in stages):
                        if len(stages) > 1 and (problem := people_problem(stage, going.corpus)):
                            going.say(f"{stage.name}: left out: {problem}")
                        else:
                            going.train_stage(stage, stop)
            finally:
                if going.log is not None:
                    going.log.close()
            return going.validation
    finally:
        distributed.leave()


@dataclass
class _Run:
    """A run as it goes: the model, where it stands, and what it writes to."""

    run: Path
    settings: Settings
    corpus: Corpus
    world: World
    device: torch.device
    say: Say
    model: TalkingModel
    done: dict[str, int]
    state: states.TrainingState | None
    """What the run went on from."""
    initialised: bool
    """Whether something was learned with the weights that `TalkingModel.initialise` fits."""
    log: MetricsLog | None
    about: dict[str, Any]
    """What checkpoints say of this run besides its settings."""
    validation: dict[str, Any] = field(default_factory=dict)
    _skipped: dict[str, str] = field(default_factory=dict)
    _pending: tuple[int, tuple[str, ...], list[str], Tensor] | None = None
    _stopping: bool = False
    """Whether any of several processes had been told to stop before its step was checked: so all know at one step."""

    @classmethod
    def start(
        cls,
        out: Path,
        run: Path,
        settings: Settings,
        world: World,
        device: torch.device,
        init_from: Path | None,
        say: Say,
    ) -> _Run:
        """Build the model, new or as the run left it."""
        corpus = read_corpus(out, settings)
        kind = models.find(settings.of_model)
        dimensions = kind.dimensions_for(corpus, settings)
        loaded = states.load(run)
        state, problem = loaded or (None, "")
        if problem:
            say(f"{problem}; going on from the state before it")
        torch.manual_seed(settings.seed)
        model = models.build(kind.name, dimensions)
        about: dict[str, Any] = {
            "source": "avprep train",
            "mfcc_preset": corpus.train.mfcc_preset,
            "words": list(corpus.train.vocabulary),
            "speakers": list(corpus.train.people),
            "faces": list(corpus.faces),
            "data": corpus.digest(),
        }
        if state is not None:
            check_same(run, state, settings, dimensions, about)
            model.load_state_dict(state.checkpoint.weights)
            if "init_from" in state.checkpoint.settings:  # absent where it was, so that the file's bytes are the same
                about["init_from"] = state.checkpoint.settings["init_from"]
        elif init_from is not None:
            for line in _load_what_fits(model, checkpoint.load(init_from)):
                say(line)
            about["init_from"] = str(init_from)
        elif (run / checkpoint.NAME).exists():
            raise RunError(
                f"{run}: holds a checkpoint that no training run wrote: give another RUN, and --init-from {run}"
            )
        if world.size > 1 and settings.machine.sync_batchnorm:
            distributed.synchronise_batchnorm(model, device.type)
        precision.place(model, device, channels_last=settings.machine.channels_last, compiled=settings.machine.compile)
        done = dict(state.done) if state is not None else {}
        log = None
        if world.first:
            write_facts(run, settings, corpus, world, device, say)
            log = MetricsLog(run, done)
        begun = any(done.get(stage.name, 0) for stage in model.stages.values() if stage.initialises)
        initialised = init_from is not None or begun
        return cls(run, settings, corpus, world, device, say, model, done, state, initialised, log, about)

    def train_stage(self, stage: Stage, stop: dict[str, str]) -> None:
        """Train a stage to its last step."""
        total, first = getattr(self.settings.steps, stage.name), self.done.get(stage.name, 0)
        if first >= total:
            self.say(f"{stage.name}: done, {first} steps")
            return
        at = self.state
        if at is not None and at.stage != stage.name and at.step < getattr(self.settings.steps, at.stage):
            raise RunError(
                f"{self.run}: is at step {at.step} of its {at.stage} stage: finish that, or give another RUN and "
                f"--init-from {self.run}"
            )
        trainer = StageTrainer.of(stage, self.model, self.corpus, self.settings, self.world, self.device)
        if left_out := trainer.left_out:
            self.say(f"{stage.name}: left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items()))
        if stage.initialises and not self.initialised:
            trainer.initialise()
            self.initialised = True
        phases, batch_size, per_epoch = trainer.phases, self.settings.data.batch_size, len(trainer.batches)
        if self.state is not None and (self.state.stage, self.state.step) == (stage.name, first):
            optimizers.restore(phases, self.model, self.state.moments)
        self.say(
            f"{stage.name}: {len(trainer.source)} clips, {per_epoch} batches of {batch_size} an epoch, "
            f"steps {first} to {total}; " + ", ".join(f"{name} × {factor:g}" for name, factor in trainer.terms.items())
        )
        clock = Clock(batch_size)
        sums: Tensor | None = None
        count = 0
        read = trainer.read(first, total)
        for step in range(first + 1, total + 1):
            with clock.waiting():
                raw = next(read)
            self._count_skipped(raw)
            values = trainer.step(step, total, raw)
            self._check()
            names, losses = list(values), torch.stack(list(values.values()))
            told = losses.new_full((1,), float(bool(stop)))  # travels with the losses, so that it costs nothing
            self._pending = (step, raw.keys, names, torch.cat([losses, told]))
            stopping = bool(stop) if self.world.size == 1 else self._stopping
            sums, count = losses if sums is None else sums + losses, count + 1
            clock.step()
            loop, last = self.settings.loop, step == total
            self.done[stage.name] = step
            if last or step % loop.log_every == 0:
                means = dict(zip(names, (self.world.mean(sums) / count).tolist(), strict=True))
                self._log(stage, step, total, step // per_epoch, means, clock)
                sums, count = None, 0
            due = {
                self._validate: last or step % loop.validate_every == 0,
                self._draw: stage.generates and (last or step % loop.sample_every == 0),
            }
            save = last or step % loop.save_every == 0 or stopping
            if save or any(due.values()):
                with clock.stopped():
                    self._check()
                    for act, is_due in due.items():
                        if is_due:
                            act(stage, step)
                    if save:
                        self._save(stage, step, phases)
            if stopping and not last:
                self.world.wait(self.device)  # for the process that saves: torchrun kills all when one has ended
                by = stop.get("by", "a signal to another process")
                raise RunError(f"{self.run}: stopped by {by} at step {step}; the same command goes on from there")

    def _save(self, stage: Stage, step: int, phases: Optimizers) -> None:
        """Write the model and the state of the run."""
        if not self.world.first:
            return
        about = {**self.about, "training": self.settings.to_json(), "steps": dict(self.done)}
        made = Checkpoint.of(self.model, about)
        self.state = states.TrainingState(
            made, stage.name, step, dict(self.done), optimizers.moments(phases, self.model)
        )
        states.save(self.run, self.state)
        checkpoint.save(self.run, made)
        if self.log is not None:
            self.log.flush()

    def _overall(self) -> int:
        return sum(self.done.values())

    def _log(self, stage: Stage, step: int, total: int, epoch: int, means: dict[str, float], clock: Clock) -> None:
        if self.log is None:
            return
        rate, wait = clock.lap()
        eta = duration((total - step) * self.settings.data.batch_size / rate)
        text = "  ".join(f"{name} {value:.3g}" for name, value in means.items())
        self.say(f"{stage.name} {step}/{total}  {text}  {rate:.1f} clips/s  data {wait:.0%}  ETA {eta}")
        self.log.write(
            stage.name,
            step,
            overall=self._overall(),
            epoch=epoch,
            terms={name: _finite(value) for name, value in means.items()},
            learning_rate=optimizers.learning_rate(self.settings, step, total),
            clips_per_s=round(rate, 2),
            data_wait=round(wait, 4),
            skipped=len(self._skipped),
        )

    def _validate(self, stage: Stage, step: int) -> None:
        """Measure the model on clips of the val split, in the first process."""
        if self.log is None:
            return
        shape = validation_shape(self.model, stage)
        clips = usable(self.corpus.val, shape, words=False, speakers=False)
        if not len(clips):
            return
        found = embed.embed(
            self.model,
            self._read_in_order(ClipSource(clips, shape), shape, self.settings.loop.validation_clips),
            self.device,
            bf16=self.settings.machine.bf16,
            generate=stage.generates,
        )
        try:
            self.validation = embed.measure(found)
        except ValueError as error:
            raise RunError(f"{self.run}: step {step}: the validation cannot be measured: {error}") from error
        if self.validation:
            n_clips = len(found["words"])
            self.say(f"{stage.name} {step} validation, {n_clips} clips: {embed.in_words(self.validation)}")
            self.log.write(stage.name, step, overall=self._overall(), validation=self.validation)

    def _draw(self, stage: Stage, step: int) -> None:
        """Draw a sheet of generated frames of clips of the val split, or of train where there is none."""
        if self.log is None:
            return
        shape = validation_shape(self.model, stage)
        for table in (self.corpus.val, self.corpus.train):
            clips = usable(table, shape, words=False, speakers=False)
            if len(clips):
                break
        raw = EvaluationBatches(ClipSource(clips, shape), shape, batch_size=samples.CLIPS)[0]
        picture = samples.sheet(self.model, raw, self.device, bf16=self.settings.machine.bf16)
        path = self.run / "samples" / f"{stage.name}-{step:06d}.png"
        samples.write_png(path, picture)
        self.log.picture(stage.name, "samples", picture, overall=self._overall())
        self.say(f"{stage.name} {step} sample grid: {path}")

    def _read_in_order(self, source: Source, shape: Shape, limit: int) -> Iterator[RawBatch]:
        batches = EvaluationBatches(source, shape, batch_size=self.settings.data.batch_size, limit=limit)
        return evaluation_batches(batches, workers=self.settings.data.workers, pin=self.device.type == "cuda")

    def _count_skipped(self, raw: RawBatch) -> None:
        for key, reason in raw.skipped:
            if key not in self._skipped:
                self._skipped[key] = reason
                self.say(f"skipped, {len(self._skipped)} in all: {reason}")

    def _check(self) -> None:
        """End the run if a term of the step before was not finite: one step late, so that a GPU need not wait.

        All processes also learn here whether one of them was told to stop.
        """
        if self._pending is None:
            return
        (step, keys, names, values), self._pending = self._pending, None
        *means, told = self.world.mean(values).tolist()
        self._stopping |= told > 0
        bad = [name for name, value in zip(names, means, strict=True) if not math.isfinite(value)]
        if bad:
            kept = f"the last good state, {self.run / states.NAME}, stays" if self.state else "nothing was saved"
            raise RunError(
                f"{self.run}: step {step}: {', '.join(bad)} not finite, with the clips {', '.join(keys)}; {kept}: "
                "look at these clips, or lower optimizer.learning_rate"
            )


def _load_what_fits(model: TalkingModel, source: Checkpoint) -> list[str]:
    """Take over all weights whose names and shapes agree; return what was taken and what not, a line each."""
    own = model.state_dict()
    fitting = {name: value for name, value in source.weights.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise CheckpointError("--init-from: nothing of that checkpoint fits this model: is it of another model.width?")
    model.load_state_dict(fitting, strict=False)
    others = sorted({name.partition(".")[0] for name in own.keys() - fitting.keys()})
    lines = [f"begun with {len(fitting)} of {len(own)} tensors of that checkpoint"]
    return lines + [f"not in it, or of another shape, at least in part: {name}" for name in others]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
