"""Adam for each phase of a stage: the networks that it updates, the learning rate, and saved moments."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from davs_model.models.base import Stage, TalkingModel
from davs_model.settings import RunSettings

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Adam's state of a parameter."""

Optimizers = dict[str, torch.optim.Adam]
"""By the name of the phase."""


def build(stage: Stage, model: TalkingModel, settings: RunSettings) -> Optimizers:
    """Return an optimizer for each phase, with the parameters of the networks that the model has."""
    optimizer = settings.optimizer
    return {
        phase.name: torch.optim.Adam(
            [
                parameter
                for network in phase.networks
                if (module := getattr(model, network)) is not None
                for parameter in module.parameters()
                if parameter.requires_grad
            ],
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            fused=True,
        )
        for phase in stage.phases
    }


def step(optimizers: Optimizers, rate: float) -> None:
    """Take a step of every optimizer at a learning rate."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def learning_rate(settings: RunSettings, step: int, total: int) -> float:
    """Return the learning rate of a step, counted from 1."""
    optimizer = settings.optimizer
    rate = optimizer.learning_rate * min(1.0, step / max(1, optimizer.warmup))
    if optimizer.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * (step - 1) / total))
    return rate


def moments(optimizers: Optimizers, model: TalkingModel) -> dict[str, Tensor]:
    """Return the state of the optimizers, as `PHASE/PARAMETER/exp_avg` and so on -> tensor on the CPU."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{phase}/{names[parameter]}/{name}": held[name].detach().to("cpu", copy=True).contiguous()
        for phase, optimizer in optimizers.items()
        for parameter, held in optimizer.state.items()
        for name in MOMENTS
    }


def restore(optimizers: Optimizers, model: TalkingModel, saved: dict[str, Tensor]) -> None:
    """Restore the state that `moments` returned."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for phase, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                prefix = f"{phase}/{names[parameter]}"
                if f"{prefix}/step" in saved:
                    steps, *averages = (saved[f"{prefix}/{name}"] for name in MOMENTS)
                    optimizer.state[parameter] = {
                        "step": steps.to(parameter.device),
                        "exp_avg": torch.empty_like(parameter).copy_(averages[0]),  # in the parameter's memory format
                        "exp_avg_sq": torch.empty_like(parameter).copy_(averages[1]),
                    }
