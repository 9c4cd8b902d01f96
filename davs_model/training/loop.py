"""The training loop: build, and for each stage load, step, log, validate, sample, save; resumable at any point.

The model's stages define what is minimised, and `step` what a step is. Each step derives its random numbers from the
seed, the stage and its own number, and reads the batch of that number. A resumed run therefore takes the same steps as
an uninterrupted one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avprep.errors import CheckpointError, RunError, plural
from avprep.memory import keep_freed_memory
from avprep.signals import Stop, stop_signals
from davs_model import checkpoint, models, precision
from davs_model.checkpoint import Checkpoint
from davs_model.data.corpus import Corpus, read_corpus
from davs_model.data.loader import STOP_SIGNALS, living_readers
from davs_model.data.store import FrameStore
from davs_model.models.base import SOUND, Stage, TalkingModel
from davs_model.settings import RunSettings
from davs_model.training import distributed, left_out, optimizers
from davs_model.training import state as states
from davs_model.training.distributed import World
from davs_model.training.log import Clock
from davs_model.training.optimizers import Optimizers
from davs_model.training.reports import Reporter
from davs_model.training.run_folder import Say, check_free, check_same, locked, write_facts
from davs_model.training.sources import label_problem
from davs_model.training.step import StageTrainer, StepCheck, Sums

KEPT = 1 << 30
"""Maximum of freed memory that training keeps, in bytes."""


def device_of(settings: RunSettings) -> torch.device:
    """Return the device in the settings; RunError if it does not exist."""
    name = precision.device_name(settings.machine.device)
    if name is None:
        raise RunError("machine.device = cuda: torch sees no CUDA device here")
    return torch.device(name)


def train(
    out: Path | Sequence[Path],
    run: Path,
    settings: RunSettings,
    *,
    stages: Sequence[str],
    shares: Sequence[float] = (),
    init_from: Path | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Train the stages on the shards of OUT in RUN, or resume; return the metrics of the last validation.

    out: one OUT or several. shares: the proportions of their clips in training; empty: each clip occurs once.
    init_from: a checkpoint or run with the initial weights of a new run, as far as they fit.
    Errors are RunError, ShardError or CheckpointError, or SettingsError if torch cannot compile, one line each; what
    was trained until then is kept.
    """
    device = device_of(settings)
    check_free(run)
    if settings.machine.threads:
        torch.set_num_threads(settings.machine.threads)
    keep_freed_memory(KEPT)
    world = distributed.join(device.type)
    try:
        if settings.data.batch_size % world.size:
            raise RunError(f"data.batch_size = {settings.data.batch_size} is no multiple of {world.size} processes")
        if settings.data.batch_size == world.size and not settings.machine.sync_batchnorm:
            raise RunError(
                f"data.batch_size = {settings.data.batch_size} gives each of {world.size} processes one clip, of which "
                "BatchNorm has no statistics without machine.sync_batchnorm: give a larger one"
            )
        with (
            distributed.together(),
            living_readers(),
            locked(run) if world.first else contextlib.nullcontext(),
            precision.compiling(settings.machine.compile),
        ):
            corpus = read_corpus(out, settings, shares)
            going = _Run.start(corpus, run, settings, world, device, init_from, say if world.first else lambda _: None)
            try:
                # torchrun sends its processes a signal again that they may already have, and kills them after 30 s.
                with stop_signals(STOP_SIGNALS, again="ends" if world.size == 1 else "ignored") as stop:
                    for stage in (going.model.plan(name, settings) for name in stages):
                        if len(stages) > 1 and (problem := label_problem(stage, going.corpus)):
                            going.say(f"{stage.name}: left out: {problem}")
                        else:
                            going.train_stage(stage, stop)
            finally:
                if going.reporter is not None:
                    going.reporter.log.close()
            return going.reporter.validation if going.reporter is not None else {}
    finally:
        distributed.leave()


@dataclass
class _Run:
    """A run in progress: the model, its state, and its outputs."""

    run: Path
    settings: RunSettings
    corpus: Corpus
    world: World
    device: torch.device
    say: Say
    model: TalkingModel
    done: dict[str, int]
    state: states.TrainingState | None
    """The state from which the run was resumed; in the first process, the last saved state."""
    initialised: bool
    """Whether the weights that `TalkingModel.initialise` fits are fitted, or trained, already."""
    reporter: Reporter | None
    """None except in the first process."""
    about: dict[str, Any]
    """What checkpoints record of this run besides its settings."""
    check: StepCheck
    store: FrameStore | None
    """Frames in memory, if `data.cache_mib` allows any."""
    random: Tensor
    """State of torch's generator after building the model: the same in each process, and for new and resumed runs."""

    @classmethod
    def start(
        cls,
        corpus: Corpus,
        run: Path,
        settings: RunSettings,
        world: World,
        device: torch.device,
        init_from: Path | None,
        say: Say,
    ) -> _Run:
        """Build the model, new or from the saved state of the run."""
        kind = models.find(settings.of_model)
        dimensions = kind.dimensions_for(corpus, settings)
        loaded = states.load(run)
        state, problem = loaded or (None, "")
        if problem:
            say(f"{problem}; going on from the state before it")
        torch.manual_seed(settings.seed)
        model = models.build(kind.name, dimensions)
        random = torch.get_rng_state()
        about: dict[str, Any] = {
            "source": "avprep train",
            "mfcc_preset": corpus.train.mfcc_preset,
            **{label: list(names) for label, names in corpus.train.label_names.items()},
            "faces": list(corpus.faces),
            "data": corpus.digest(),
            "word_times": corpus.word_times_digest(),
            "columns": corpus.made_with(),
        }
        if state is not None:
            check_same(run, state, settings, dimensions, about)
        about |= _begin(model, run, state, init_from, corpus.train.mfcc_preset, say)
        if world.size > 1 and settings.machine.sync_batchnorm:
            distributed.synchronise_batchnorm(model, device.type)
        precision.place(model, device, channels_last=settings.machine.channels_last, compiled=settings.machine.compile)
        done = dict(state.done) if state is not None else {}
        reporter = None
        if world.first:
            write_facts(run, settings, corpus, world, device, say)
            talked = state.checkpoint.settings.get("talking") if state is not None else None
            reporter = Reporter(run, settings, corpus, model, device, done, say, dict(talked or {}))
        begun = any(done.get(stage.name, 0) for stage in model.stages.values() if stage.initialises)
        initialised = begun or ("init_from" in about and model.is_fitted)
        check, mib = StepCheck(run, world), settings.data.cache_mib
        store = FrameStore(mib << 20) if mib else None
        known = (run, settings, corpus, world, device, say, model, done, state)
        return cls(*known, initialised, reporter, about, check, store, random)

    def train_stage(self, stage: Stage, stop: Stop) -> None:
        """Train a stage to its last step."""
        total, first = getattr(self.settings.steps, stage.name), self.done.get(stage.name, 0)
        if first >= total:
            if self.reporter is not None and self.state is not None and self.state.stage == stage.name:
                _catch_up(self.run, self.state.checkpoint)
            self.say(f"{stage.name}: done, {first} steps")
            return
        trainer = self._prepare(stage, first, total)
        per_epoch, loop = len(trainer.batches), self.settings.loop
        clock, check, sums = Clock(self.settings.data.batch_size), self.check, Sums()
        read = trainer.read(first, total)
        for step in range(first + 1, total + 1):
            with clock.waiting():
                raw = next(read)
            if self.reporter is not None:
                self.reporter.count_skipped(raw)
            values = trainer.step(step, total, raw)
            check.end(self.state is not None)
            check.begin(step, raw.keys, values, stop=stop.is_set())
            sums.add(values)
            clock.step()
            stopping, last = stop.is_set() if self.world.size == 1 else check.stopping, step == total
            self.done[stage.name] = step
            if last or step % loop.log_every == 0:
                means = sums.means(self.world)
                if self.reporter is not None:
                    self.reporter.steps(stage, step, total, step // per_epoch, means, clock)
            validates, save = last or step % loop.validate_every == 0, last or step % loop.save_every == 0 or stopping
            draws = stage.generates and (last or step % loop.sample_every == 0)
            if validates or draws or save:
                with clock.stopped():
                    check.end(self.state is not None)
                    if self.reporter is not None and validates:
                        self.reporter.validate(stage, step)
                    if self.reporter is not None and draws:
                        self.reporter.draw(stage, step)
                    if save:
                        self._save(stage, step, trainer.phases)
            if stopping and not last:
                self.world.wait(self.device)  # for the saving process: torchrun kills all when one has ended
                by = stop.by if stop.is_set() else "a signal to another process"
                raise RunError(f"{self.run}: stopped by {by} at step {step}; the same command goes on from there")

    def _prepare(self, stage: Stage, first: int, total: int) -> StageTrainer:
        """Return the trainer of a stage, in the state of the run; RunError if the run is within another stage."""
        at = self.state
        begun = self.done.get(at.stage, 0) if at is not None else 0  # only the first process has the saved states
        if at is not None and at.stage != stage.name and begun < getattr(self.settings.steps, at.stage):
            raise RunError(
                f"{self.run}: is at step {begun} of its {at.stage} stage: finish that, or give another RUN and "
                f"--init-from {self.run}"
            )
        corpus = self._chosen(stage, first) if stage.chooses else self.corpus
        given = (stage, self.model, corpus, self.settings, self.world, self.device, self.store)
        trainer = StageTrainer.of(*given)
        if left_out := trainer.left_out:
            self.say(f"{stage.name}: left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items()))
        if stage.initialises and not self.initialised:
            torch.manual_seed(self.settings.seed)  # for GPUs, whose generator building the model did not use
            torch.set_rng_state(self.random)
            trainer.initialise()
            self.initialised = True
            if any(one.source == "codes" for one in trainer.shape.reads.values()):
                trainer = StageTrainer.of(*given)  # because its codes are from the encoder before it was fitted
        if self.model.listens and SOUND in stage.reads:
            try:
                trainer.listen()
            except ValueError as error:
                raise RunError(
                    f"{corpus.train.out}: {error}; give clips with speech, or model.standardise=clip"
                ) from error
        if at is not None and (at.stage, at.step) == (stage.name, first):
            optimizers.restore(trainer.phases, self.model, at.moments)
        self.say(
            f"{stage.name}: {plural(len(trainer.source), 'clip')}, batches of {self.settings.data.batch_size}: "
            f"{len(trainer.batches)} an epoch, steps {first} to {total}; "
            + ", ".join(f"{name} × {factor:g}" for name, factor in trainer.terms.items())
        )
        return trainer

    def _chosen(self, stage: Stage, first: int) -> Corpus:
        """Return the corpus without the clips that the model leaves out before the first step of the stage.

        RunError if fewer than a batch remain.
        """
        clips = self.corpus.train
        if first == 0:
            if self.world.first:
                left_out.measure(self.run, self.model, clips, self.device, self.settings)
            self.world.wait(self.device)
        kept = left_out.kept(self.run, clips)
        how_many = f"{len(clips) - len(kept)} of {plural(len(clips), 'clip')} {left_out.REASON}"
        if len(kept) < self.settings.data.batch_size:
            raise RunError(
                f"{self.run}: {how_many} ({left_out.NAME} lists them), so the {stage.name} stage has fewer than a "
                "batch: train the stage before for more steps in another RUN, or do without this one by "
                f"--set steps.{stage.name}=0"
            )
        self.say(f"{how_many}: {self.run / left_out.NAME}")
        return replace(self.corpus, train=kept)

    def _save(self, stage: Stage, step: int, phases: Optimizers) -> None:
        """Write the model and the state of the run."""
        if self.reporter is None:
            return
        about = {**self.about, "training": self.settings.to_json(), "steps": dict(self.done)}
        if self.reporter.talking:
            about["talking"] = self.reporter.talking
        made = Checkpoint.of(self.model, about)
        moments = optimizers.moments(phases, self.model)
        self.state = states.TrainingState(made, stage.name, step, dict(self.done), moments)
        states.save(self.run, self.state)
        checkpoint.save(self.run, made)
        self.reporter.log.flush()


def _begin(
    model: TalkingModel, run: Path, state: states.TrainingState | None, init_from: Path | None, preset: str, say: Say
) -> dict[str, Any]:
    """Load the weights of the run, or the initial ones of a new run; return what checkpoints record of these.

    preset: MFCC preset of the windows.
    """
    if state is not None:
        model.load_state_dict(state.checkpoint.weights)
        before = state.checkpoint.settings  # `init_from` as at the start of the run, so that the bytes are the same
        if init_from is not None:
            _check_begun(run, before, init_from)
        return {name: before[name] for name in ("init_from", "init_digest") if name in before}
    if init_from is not None:
        source = checkpoint.load(init_from)
        for line in _load_what_fits(model, source):
            say(line)
        there = source.settings.get("mfcc_preset")
        if there and preset and there != preset:
            say(f"it has learned from windows of the preset {there}, these are of {preset}: it hears other numbers")
        return {"init_from": str(init_from), "init_digest": source.digest()}
    if (run / checkpoint.NAME).exists():
        raise RunError(f"{run}: holds a checkpoint that no training run wrote: give another RUN, and --init-from {run}")
    return {}


def _check_begun(run: Path, before: dict[str, Any], init_from: Path) -> None:
    """Check that a resumed run was begun with these weights, if known; RunError if not, since they have no effect."""
    if "init_from" not in before:
        raise RunError(f"{run}: was begun without --init-from: leave it out, or give another RUN")
    digest = before.get("init_digest")  # unknown in runs of earlier versions
    if digest and init_from.exists() and checkpoint.load(init_from).digest() != digest:
        raise RunError(
            f"{run}: was begun with other weights than those of --init-from {init_from}: leave it out, or give another "
            "RUN"
        )


def _catch_up(run: Path, last: Checkpoint) -> None:
    """Write the last checkpoint of a run that was killed, or ran out of space, after writing its state."""
    with contextlib.suppress(CheckpointError):
        if checkpoint.load(run).digest() == last.digest():
            return
    checkpoint.save(run, last)


def _load_what_fits(model: TalkingModel, source: Checkpoint) -> list[str]:
    """Load all weights whose names and shapes agree; return lines that tell how many, and what was not loaded."""
    own = model.state_dict()
    fitting = {name: value for name, value in source.weights.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        why = "is it of another model.width?" if source.name == model.name else f"it is of the model {source.name}"
        raise CheckpointError(f"--init-from: nothing of that checkpoint fits this model: {why}")
    model.load_state_dict(fitting, strict=False)
    others = sorted({name.partition(".")[0] for name in own.keys() - fitting.keys()})
    lines = [f"begun with {len(fitting)} of {len(own)} tensors of that checkpoint"]
    return lines + [f"not in it, or of another shape, at least in part: {name}" for name in others]
