"""The course of a stage: what it reads, minimises and moves, and how it gets from one step to the next.

Each step draws its random numbers from the seed, the stage and its own number, and reads the batch of that number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from avprep.errors import RunError
from davs_model import precision
from davs_model.data.batches import Batches, RawBatch, Shape, Source
from davs_model.data.corpus import Corpus, people_problem, shape_of, source_of
from davs_model.data.loader import training_batches
from davs_model.models.davs import objective
from davs_model.models.davs.initialise import fit_speech_encoders
from davs_model.models.davs.networks import DAVS
from davs_model.models.davs.objective import Batch
from davs_model.models.davs.stages import STAGES, Stage, factors
from davs_model.settings import Settings
from davs_model.training import optimizers
from davs_model.training.distributed import World
from davs_model.training.optimizers import Optimizers

Part = Literal["copy", "forward", "backward", "optimizer"]
"""What a step consists of once its batch is read: to the device and to numbers in [0, 1], then as they are called."""
Tell = Callable[[Part], object]
"""Is told when a part of a step has been done, or on a GPU has been ordered."""


def _nobody(_: Part) -> None:
    pass


@dataclass(frozen=True)
class Course:
    """A stage of training with everything that its steps need.

    terms: factor of each term that is minimised. left_out: clips that the stage cannot use, by reason. batches: this
    process's share of them. phases: an optimizer each.
    """

    stage: Stage
    model: DAVS
    settings: Settings
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
        cls, stage: Stage, model: DAVS, corpus: Corpus, settings: Settings, world: World, device: torch.device
    ) -> Course:
        """Prepare a stage; RunError where the clips, labels or weights of it do not allow a single step."""
        if stage.name == "identity" and (problem := people_problem(corpus)):
            raise RunError(problem)
        people_are_speakers = not corpus.faces
        terms = factors(stage, model, settings.weights, settings.form, people_are_speakers=people_are_speakers)
        if not terms:
            raise RunError(f"the {stage.name} stage has nothing to learn: every one of its weights is 0")
        shape = shape_of(stage, settings)
        source, left_out = source_of(stage, corpus, settings, terms)
        size, seed, window = settings.data.batch_size, settings.seed, settings.data.window
        batches = Batches(source, shape, batch_size=size, seed=seed, window=window, rank=world.rank, world=world.size)
        if not len(batches):
            reasons = "".join(f"; left out: {count} {reason}" for reason, count in left_out.items())
            raise RunError(
                f"{corpus.train.out}: {len(source)} clips can be used in the {stage.name} stage, fewer than a "
                f"batch of {size}: give a smaller data.batch_size{reasons}"
            )
        phases = optimizers.build(stage, model, settings)
        return cls(stage, model, settings, world, device, terms, source, shape, left_out, batches, phases)

    def fit_encoders(self) -> None:
        """Fit the first weights of the speech encoders to the first batch of all processes, in place."""
        data = self.settings.data
        whole = Batches(
            self.source, self.shape, batch_size=data.batch_size, seed=self.settings.seed, window=data.window
        )
        fit_speech_encoders(self.model, whole[0, 0].to(self.device))

    def read(self, first: int, last: int) -> Iterator[RawBatch]:
        """Yield the batches of the steps after step `first` up to step `last`; see `training_batches`."""
        pin = self.device.type == "cuda"
        return training_batches(self.batches, first=first, last=last, workers=self.settings.data.workers, pin=pin)

    def step(self, step: int, total: int, raw: RawBatch, done: Tell = _nobody) -> dict[str, Tensor]:
        """Take step number `step` of `total`, counted from 1, in every phase; return the terms, without factors."""
        self.model.train()
        torch.manual_seed(_seed(self.settings.seed, list(STAGES).index(self.stage.name), step, self.world.rank))
        batch = raw.to(self.device)
        done("copy")
        values = self.differentiate(batch, done)
        self.world.average_gradients(self.model.parameters())
        optimizers.step(self.phases, optimizers.learning_rate(self.settings, step, total))
        done("optimizer")
        return values

    def differentiate(self, batch: Batch, done: Tell = _nobody) -> dict[str, Tensor]:
        """Give every parameter its gradient of the weighted sum of the terms; return the terms, without factors."""
        with precision.autocast(self.device, bf16=self.settings.machine.bf16):
            values = objective.terms(
                self.model, batch, form=self.settings.form, wanted=self.terms, gather=self.world.gather
            )
        loss = sum(self.terms[objective.term_of(name)] * value for name, value in values.items())
        assert isinstance(loss, Tensor)
        done("forward")
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        done("backward")
        return {name: value.detach() for name, value in values.items()}


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
