"""Several processes that train one model, started by torchrun: their ranks, and their collective operations."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as differentiable
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from avprep.errors import RunError

MEETING = timedelta(minutes=30)
"""How long processes wait at the start for others that have not joined yet."""
ALONE = timedelta(days=1)
"""How long processes wait while the first one validates, generates samples or measures all clips.

The default of torch is 10 or 30 minutes. They do not wait for a process that has ended: torchrun then ends all."""


@dataclass(frozen=True)
class World:
    """This process among `size` processes; local: its number on this machine, and thus its GPU."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def gather(self, features: Tensor) -> Tensor:
        """Concatenate the features `[B, …]` of all processes, `[size·B, …]`; gradients flow back to each process."""
        return features if self.size == 1 else torch.cat(differentiable.all_gather(features.contiguous()))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over all processes, in one message."""
        if self.size == 1:
            return
        held = [parameter for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([parameter.grad.reshape(-1) for parameter in held if parameter.grad is not None])
        distributed.all_reduce(flat)
        flat /= self.size
        for parameter, mean in zip(held, flat.split([parameter.numel() for parameter in held]), strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(mean.view(parameter.shape))

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes; it carries no gradient."""
        if self.size > 1:
            values = values.detach().clone()
            distributed.all_reduce(values)
            values /= self.size
        return values

    def wait(self, device: torch.device) -> None:
        """Return when all processes have reached this call."""
        self.mean(torch.zeros(1, device=device)).tolist()


def join(device: str) -> World:
    """Join the processes that torchrun has started, if any; RunError if there are fewer GPUs than processes.

    RunError also if the environment names other processes without their address, holds an invalid number, or names an
    address at which they cannot meet.
    """
    if (size := _number("WORLD_SIZE", "1")) == 1:
        return World()
    needed = ["RANK"] if distributed.is_initialized() else ["RANK", "MASTER_ADDR", "MASTER_PORT"]
    if missing := [name for name in needed if name not in os.environ]:
        raise RunError(
            f"WORLD_SIZE is {size} and {', '.join(missing)} not set: start with torchrun, or unset WORLD_SIZE"
        )
    world = World(rank(), size, _number("LOCAL_RANK", "0"))
    if world.rank >= size:  # otherwise all processes would wait for each other
        raise RunError(f"RANK is {world.rank} and WORLD_SIZE {size}: start with torchrun, or unset both")
    if device == "cuda":
        if world.local >= torch.cuda.device_count():
            raise RunError(f"process {world.local} of this machine has no GPU of its own: start fewer")
        torch.cuda.set_device(world.local)
    # Torch recommends functions of a private module, which the oldest supported torch does not have.
    warnings.filterwarnings("ignore", r"torch\.distributed\.nn\.functional\.\w+ is deprecated", FutureWarning)
    if not distributed.is_initialized():
        try:
            store, number, count = next(rendezvous("env://", timeout=MEETING))
            backend = "nccl" if device == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=ALONE, store=store, rank=number, world_size=count)
        except (ValueError, RuntimeError) as error:  # an invalid port, a port in use, or processes that never joined
            why, at = str(error).partition("\n")[0], f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise RunError(f"the processes of this run cannot meet at MASTER_ADDR:MASTER_PORT, {at}: {why}") from error
    return world


def rank() -> int:
    """Return the rank of this process among those that torchrun has started, 0 without any; RunError as in `join`."""
    return _number("RANK", "0")


def _number(name: str, default: str) -> int:
    text = os.environ.get(name, default)
    try:
        if (number := int(text)) >= 0:
            return number
    except ValueError:
        pass
    raise RunError(f"{name} is {text[:60]!r} in the environment, no number: start with torchrun, or unset {name}")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Turn the error that gloo raises when another process has ended into one line; that process prints the reason."""
    try:
        yield
    except RuntimeError as error:
        if "by peer" not in str(error):  # closed or reset: gloo has no type for it
            raise
        raise RunError("another process of this run has ended: see what was printed of that one") from error


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def synchronise_batchnorm(model: nn.Module, device: str) -> None:
    """Make every BatchNorm of a model compute its statistics over all processes, in place."""
    if device == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, CpuSyncBatchNorm.of(child))


class CpuSyncBatchNorm(_BatchNorm):
    """BatchNorm over all processes on the CPU, which torch lacks; processes may have different numbers of values."""

    @classmethod
    def of(cls, other: _BatchNorm) -> CpuSyncBatchNorm:
        """Return one that shares the weights, statistics and mode of another."""
        made = cls(other.num_features, other.eps, other.momentum, other.affine, device="meta")
        made._parameters, made._buffers, made.training = other._parameters, other._buffers, other.training
        return made

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise `[N, C]`, `[N, C, T]` or `[N, C, H, W]`."""
        if not self.training:
            return super().forward(maps)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        axes = (0, *range(2, maps.dim()))
        shape = (1, -1, *(1,) * (maps.dim() - 2))
        values = maps.float()
        own = values.new_tensor([values.numel() // values.shape[1]])
        sums, count = differentiable.all_reduce(torch.cat((values.sum(axes), own))).split((self.num_features, 1))
        mean = sums / count
        centred = values - mean.view(shape)
        variance = differentiable.all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scaled = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(maps.dtype)

    def _check_input_dim(self, maps: Tensor) -> None:
        """Accept maps of any dimension."""
