"""The state that processes which train together keep for a checkpoint, from eight clips: run by two, or called by one.

As a program it is one of two processes, with arguments NUMBER FOLDER: both meet in FOLDER, and each writes NUMBER.pt.
"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, distributed, nn

from davs_model.models.etgan import Settings, corruption
from davs_model.models.etgan.corruption import Inputs
from davs_model.models.etgan.dimensions import MODALITIES
from davs_model.models.etgan.networks import ETGAN
from davs_model.training.distributed import World, join, leave, synchronise_batchnorm

EMOTIONS = ((0, 1, 1, 0), (2, 0, 1, 2), (1, 1, 2, 0))
"""Emotions of the clips of each step."""
SPOILT = ((1, 0, 0, 0), (0, 0, 1, 1), (0, 0, 0, 1))
"""Clips whose expression is corrupted; in the second step, all clips of the second process."""
LAYERS = (
    ("BatchNorm2d", lambda: nn.BatchNorm2d(5), (-1, 5, 3, 3)),
    ("BatchNorm1d", lambda: nn.BatchNorm1d(5), (-1, 5, 9)),
    ("BatchNorm1d of features", lambda: nn.BatchNorm1d(45, affine=False), (-1, 45)),
)


def expressions(world: World) -> dict[str, Tensor]:
    """Return the mean expressions that a model remembers after three steps of two clips for each of two processes."""
    torch.manual_seed(0)
    model = ETGAN(n_words=3, n_people=3, n_speakers=3, n_emotions=3, width=0.05, image_size=64).train()
    part = slice(None) if world.size == 1 else slice(2 * world.rank, 2 * world.rank + 2)
    spoil = corruption.spoil
    for step, (emotions, spoilt) in enumerate(zip(EMOTIONS, SPOILT, strict=True)):
        torch.manual_seed(step)
        marks = torch.where(torch.tensor(spoilt) > 0, MODALITIES.index("expression"), -1)

        def drawn(whole: Inputs, _: float, marks: Tensor = marks) -> Inputs:
            return replace(spoil(whole, 0.0), spoilt=marks[part])

        batch = {
            "run": torch.rand(4, 8, 3, 64, 64),
            "run_windows": torch.randn(4, 8, 12, 20),
            "positions": torch.randn(4, 8, 14),
            "views": torch.rand(4, 1, 3, 64, 64),
            "expression": torch.rand(4, 8, 3, 64, 64),
            "expression_emotions": torch.tensor(emotions),
            **{f"expression_{name}": torch.zeros(4, dtype=torch.int64) for name in ("words", "speakers")},
        }
        own = {name: value[part] for name, value in batch.items()}
        changes = {"spoil": drawn, "disguised": lambda frames: frames}
        with mock.patch.multiple(corruption, **changes), torch.no_grad():
            model.terms(own, ("reconstruction", "emotion"), Settings.resolve("small"), gather=world.gather)
    return {"means": model.expressions, "seen": model.expressions_seen}


def normalised(world: World) -> dict[str, dict[str, Tensor]]:
    """Return the state and outputs of each kind of BatchNorm for maps, of which the second process has six in eight.

    The outputs are only those of its own maps, the gradient is that of all.
    """
    generator = torch.Generator().manual_seed(0)
    maps, wanted = torch.randn(2, 8, 5, 3, 3, generator=generator)
    maps = (maps * torch.arange(1, 9).view(-1, 1, 1, 1)).requires_grad_()
    part = slice(None) if world.size == 1 else (slice(0, 2), slice(2, 8))[world.rank]
    found: dict[str, dict[str, Tensor]] = {}
    for name, make, shape in LAYERS:
        layers = nn.Sequential(make())
        if world.size > 1:
            synchronise_batchnorm(layers, "cpu")
        given = layers(maps[part].reshape(shape))
        (gradient,) = torch.autograd.grad((given * wanted[part].reshape(shape)).sum(), maps)
        gradient = world.size * world.mean(gradient)
        found[name] = {"output": given.detach(), "gradient": gradient, **layers.state_dict()}
    return found


def main(number: int, folder: Path) -> None:
    """Run as one of two processes."""
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number)}
    meeting = f"file://{folder.resolve() / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=number, world_size=2)
    world = join("cpu")
    torch.save({"expressions": expressions(world), "normalised": normalised(world)}, folder / f"{number}.pt")
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
