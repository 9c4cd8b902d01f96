"""A stage of training: what it reads, minimises and updates, and a single step of it.

Each step derives its random numbers from the seed, the stage and its own number, and reads the batch of that number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from avprep.errors import RunError, plural
from davs_model import precision
from davs_model.data.batch import RawBatch
from davs_model.data.batches import Batches
from davs_model.data.corpus import Corpus
from davs_model.data.loader import training_batches
from davs_model.data.reads import Batch, Shape
from davs_model.data.sources import Source
from davs_model.data.store import FrameStore
from davs_model.models.base import Stage, TalkingModel, term_of
from davs_model.settings import RunSettings
from davs_model.training import optimizers
from davs_model.training import state as states
from davs_model.training.distributed import World
from davs_model.training.optimizers import Optimizers
from davs_model.training.sources import label_problem, source_of, too_few, training_shape

Part = Literal["copy", "forward", "backward", "optimizer"]
"""The parts of a step after its batch is read. `copy` is the copy to the device with the conversion to [0, 1]."""
Tell = Callable[[Part], object]
"""Is called when a part of a step is done, or on a GPU is queued."""


LISTENED = 16
"""Number of batches for `TalkingModel.listen`, for a model that needs it before training."""


def _nobody(_: Part) -> None:
    pass


@dataclass(frozen=True)
class StageTrainer:
    """A stage of training with everything that its steps need.

    terms: factor of each term that is minimised. left_out: number of clips that the stage cannot use, by reason.
    batches: those of this process. phases: an optimizer for each.
    """

    stage: Stage
    model: TalkingModel
    settings: RunSettings
    world: World
    device: torch.device
    terms: dict[str, float]
    source: Source
    shape: Shape
    left_out: Counter[str]
    batches: Batches
    phases: Optimizers

    @classmethod
    def of(
        cls,
        stage: Stage,
        model: TalkingModel,
        corpus: Corpus,
        settings: RunSettings,
        world: World,
        device: torch.device,
        store: FrameStore | None = None,
    ) -> StageTrainer:
        """Prepare a stage; RunError if its clips, labels or weights do not allow a single step.

        stage: as `TalkingModel.plan` returns it. store: keeps frames in memory, also for later stages.
        """
        if problem := label_problem(stage, corpus):
            raise RunError(problem)
        terms = model.factors(stage, settings, people_are_speakers=not corpus.faces)
        if not terms:
            raise RunError(f"the {stage.name} stage has nothing to learn: every one of its weights is 0")
        shape = training_shape(type(model), model.dimensions, stage, settings)
        source, left_out = source_of(model, stage, shape, corpus, settings, terms, device, store)
        size, seed, window = settings.data.batch_size, settings.seed, settings.data.window
        batches = Batches(source, shape, batch_size=size, seed=seed, window=window, rank=world.rank, world=world.size)
        if not len(batches):
            reasons = "".join(f"; left out: {count} {reason}" for reason, count in left_out.items())
            if not len(source):
                raise RunError(f"{corpus.train.out}: no clip can be used in the {stage.name} stage{reasons}")
            raise RunError(
                f"{corpus.train.out}: {plural(len(source), 'clip')} can be used in the {stage.name} stage"
                f"{too_few(len(source), size)}{reasons}"
            )
        phases = optimizers.build(stage, model, settings)
        return cls(stage, model, settings, world, device, terms, source, shape, left_out, batches, phases)

    def initialise(self) -> None:
        """Fit the initial weights of the model to the first batch of all processes, in place."""
        self.model.initialise(self._first_batches(1)[0])

    def listen(self) -> None:
        """Call `TalkingModel.listen` with the first batches of all processes, in place."""
        self.model.listen(self._first_batches(LISTENED))

    def _first_batches(self, count: int) -> list[Batch]:
        """Return at most `count` of the first batches, each joined over all processes."""
        data = self.settings.data
        whole = Batches(
            self.source, self.shape, batch_size=data.batch_size, seed=self.settings.seed, window=data.window
        )
        return [whole[0, number].to(self.device) for number in range(min(count, len(whole)))]

    def read(self, first: int, last: int) -> Iterator[RawBatch]:
        """Yield the batches of the steps after step `first` up to step `last`; see `training_batches`."""
        pin = self.device.type == "cuda"
        return training_batches(self.batches, first=first, last=last, workers=self.settings.data.workers, pin=pin)

    def step(self, step: int, total: int, raw: RawBatch, done: Tell = _nobody) -> dict[str, Tensor]:
        """Take step number `step` of `total`, counted from 1, in every phase; return the unweighted terms."""
        self.model.train()
        for name in self.stage.frozen:
            if (network := getattr(self.model, name)) is not None:
                network.eval()
        torch.manual_seed(
            _seed(self.settings.seed, list(self.model.stages).index(self.stage.name), step, self.world.rank)
        )
        batch = raw.to(self.device)
        done("copy")
        values = self.differentiate(batch, step / total, done)
        self.world.average_gradients(self.model.parameters())
        optimizers.step(self.phases, optimizers.learning_rate(self.settings, step, total))
        done("optimizer")
        return values

    def differentiate(self, batch: Batch, progress: float, done: Tell = _nobody) -> dict[str, Tensor]:
        """Compute the gradient of the weighted sum of the terms for every parameter; return the unweighted terms.

        progress: fraction of the stage's steps that are done, this one included.
        """
        with precision.autocast(self.device, bf16=self.settings.machine.bf16):
            values = self.model.terms(batch, self.terms, self.settings, progress=progress, gather=self.world.gather)
        loss = sum(self.terms[term_of(name)] * value for name, value in values.items())
        assert isinstance(loss, Tensor)
        done("forward")
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        done("backward")
        return {name: value.detach() for name, value in values.items()}


class Sums:
    """Adds up the terms of steps, on their device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the terms of a step."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1

    def means(self, world: World) -> dict[str, float]:
        """Return the means over all processes since the last call; of a term that began in between, since it began."""
        sums = world.mean(torch.stack(list(self._sums.values()))).tolist()
        means = {name: total / self._counts[name] for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._counts = {}, Counter()
        return means


class StepCheck:
    """Ends a run if a term is not finite; it checks one step late, so that a GPU need not wait.

    stopping: whether any of several processes was asked to stop before its step was checked, so that all stop at the
        same step.
    """

    def __init__(self, run: Path, world: World) -> None:
        self.run, self.world, self.stopping = run, world, False
        self._pending: tuple[int, tuple[str, ...], list[str], Tensor] | None = None

    def begin(self, step: int, keys: tuple[str, ...], values: dict[str, Tensor], *, stop: bool) -> None:
        """Take the terms of a step, to be checked at the next one; stop: whether this process was asked to stop."""
        losses = torch.stack(list(values.values()))
        also = losses.new_full((1,), float(stop))  # travels with the losses, so that it costs nothing
        self._pending = (step, keys, list(values), torch.cat([losses, also]))

    def end(self, saved: bool) -> None:
        """Check the terms that were taken; RunError if one is not finite. saved: whether the run has a saved state."""
        if self._pending is None:
            return
        (step, keys, names, values), self._pending = self._pending, None
        *means, stopped = self.world.mean(values).tolist()
        self.stopping |= stopped > 0
        bad = [name for name, value in zip(names, means, strict=True) if not math.isfinite(value)]
        if bad:
            kept = f"the last good state, {self.run / states.NAME}, stays" if saved else "nothing was saved"
            raise RunError(
                f"{self.run}: step {step}: {', '.join(bad)} not finite, with the clips {', '.join(keys)}; {kept}: "
                "look at these clips, or lower optimizer.learning_rate"
            )


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
