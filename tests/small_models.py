"""Models small enough to train and run in a test."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from davs_model.models.base import FRAMES, PORTRAIT, SEQUENCE, WINDOWS
from davs_model.models.davs.initialise import fit_speech_encoders
from davs_model.models.davs.networks import DAVS
from davs_model.models.davs.stages import reads

READS = reads({"speech_frames": 12, "identity_frames": 20, "sequence_frames": 6})
"""The frames that the released model reads."""
SIZES = {"n_words": 3, "width": 0.05, "image_size": 64}


def made_model(seed: int = 0, **sizes: float) -> DAVS:
    """Make a model whose BatchNorm statistics match its later inputs, so that its frames are not all alike."""
    torch.manual_seed(seed)
    model = DAVS(**{**SIZES, **sizes})  # type: ignore[arg-type]
    batch = random_batch(model, 6, seed=seed)
    fit_speech_encoders(model, batch)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # average over all inputs with equal weight
        for _ in range(3):
            identity = model.encode_identity(batch["identity_frame"])
            model.decode(identity, model.encode_sound(batch["windows"]))
        model.decoder.last[-1].weight.mul_(3)
    return model.eval()


def random_batch(model: DAVS, size: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Make a batch of random smooth pictures and windows of the right shapes, on the CPU, to measure with.

    White noise would not do: all of it looks alike to the networks.
    """
    generator = torch.Generator().manual_seed(seed)
    dimensions = model.dimensions
    side, n_frames = int(dimensions["image_size"]), int(dimensions["speech_frames"])

    def frames(count: int) -> Tensor:
        person, moments = (torch.rand(size, n, 3, 4, 4, generator=generator) for n in (1, count))
        coarse = ((person + moments) / 2).flatten(0, 1)
        return functional.interpolate(coarse, side, mode="bilinear").view(size, count, 3, side, side)

    def labels(count: int | float) -> Tensor:
        return torch.randint(max(1, int(count)), (size,), generator=generator)

    return {
        PORTRAIT: frames(1),
        FRAMES: frames(n_frames),
        WINDOWS: torch.randn(size, n_frames, 12, 20, generator=generator) * 3,
        SEQUENCE: frames(int(dimensions["identity_frames"])),
        "words": labels(dimensions["n_words"]),
        "speakers": labels(dimensions["n_speakers"]),
        f"{FRAMES}_start": torch.tensor((n_frames - int(dimensions["sequence_frames"])) // 2),
    }


def draw(model: DAVS) -> None:
    """Give a model random weights with which every input affects every output, as in a trained model.

    The variance is 1 / inputs, and 2 / inputs in the decoder, whose ReLUs halve the signal twenty times; BatchNorm is
    close to the identity. With the usual initial weights the signal vanishes in eval mode, and zeros would be compared.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()  # a shift could silence the one map at the end of the visual speech encoder
            elif parameter.dim() == 1:  # of BatchNorm
                parameter.normal_(1, 0.1)
            else:
                parameter.normal_(0, ((2 if name.startswith("decoder") else 1) / parameter[0].numel()) ** 0.5)


PLAIN = (
    "model.identity_scales=1",
    "model.blend=false",
    "model.speech_map=0",
    "model.mouth_size=0",
    "model.audio_width=0",
    "model.standardise=none",
    "generation.targets=0",
    "generation.drive=both",
    "generation.visual=train",
    "data.cache_mib=0",
    "data.noise=0",
    "weights.contrastive=0.1",
    "weights.domain=1",
    "weights.identity_word=200",
    "weights.speech_person=20",
    "weights.reconstruction=100",
    "weights.mouth=0",
    "weights.motion=0",
    "weights.sequence=1",
)
"""The paper's networks and objective, over the preset `small`."""
SMALL = (
    *PLAIN,
    "model.width=0.05",
    "model.speech_frames=8",
    "model.identity_frames=9",
    "model.sequence_frames=4",
    "data.batch_size=4",
    "data.workers=0",
    "loop.log_every=1",
    "loop.talking_clips=2",
    "loop.validate_every=100",
    "loop.sample_every=100",
    "loop.save_every=100",
    "machine.threads=1",
    "machine.bf16=false",
    "steps.identity=2",
    "steps.speech=4",
    "steps.full=2",
)
