"""The whole objective in one pass: a batch through Figure 2 and Figure 3, every term by its name."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from davs_model import losses
from davs_model.losses import Form
from davs_model.networks import DAVS


class Batch(NamedTuple):
    """What one step reads of B clips; frames are RGB in [0, 1]."""

    identity_frame: Tensor
    """`[B, 1, 3, S, S]`, a random frame of the clip: who is to speak."""
    frames: Tensor
    """`[B, 12, 3, S, S]`, every second frame: what is said."""
    windows: Tensor
    """`[B, 12, 12, 20]`, their MFCC windows."""
    consecutive: Tensor
    """`[B, 20, 3, S, S]`, for the adversary on identity."""
    words: Tensor
    """int64 `[B]`."""
    speakers: Tensor
    """int64 `[B]`; not read by a model without `speech_person_classifier`."""
    start: int
    """The first of the 12 whose 6 are generated."""


def terms(model: DAVS, batch: Batch, *, form: Form = "paper") -> dict[str, Tensor]:
    """Compute every term of the paper but the softmax over people, which learns from pictures of its own.

    Both sides of each adversarial pair, none moving what the other trains: the sum of all, each with its weight, has
    the gradients of all phases of a step at once.
    """
    identity = model.encode_identity(batch.identity_frame)
    quarter = model.encode_identity(batch.consecutive).quarter
    video = model.encode_speech_from_video(batch.frames)
    audio = model.encode_speech_from_audio(batch.windows)

    domain, reader = model.domain_discriminator, model.identity_word_classifier
    found = {
        "word": losses.word_loss(model.word_classifier(video), model.word_classifier(audio), batch.words),
        "contrastive": losses.contrastive_loss(video, audio, form=form),
        "domain": losses.domain_loss(domain, video, audio),
        "domain_confusion": losses.domain_confusion(domain, video, audio, form=form),
        "identity_word": losses.identity_word_loss(reader, quarter, batch.words),
        "identity_word_confusion": losses.identity_word_confusion(reader, quarter, form=form),
    }
    if (reader_of_people := model.speech_person_classifier) is not None:
        found["speech_person"] = losses.speech_person_loss(reader_of_people, video, batch.speakers)
        found["speech_person_confusion"] = losses.speech_person_confusion(reader_of_people, video, form=form)

    judge = model.sequence_discriminator
    sequence = slice(batch.start, batch.start + judge.n_frames)
    real, windows = batch.frames[:, sequence], batch.windows[:, sequence]
    for source, speech in (("audio", audio), ("video", video)):
        generated = model.decode(identity, speech[:, sequence])
        found[f"reconstruction_{source}"] = losses.reconstruction_loss(real, generated, form=form)
        found[f"sequence_{source}"] = losses.sequence_loss(judge, real, generated, windows, form=form)
        found[f"sequence_confusion_{source}"] = losses.sequence_confusion(judge, generated, windows, form=form)
        if form == "released":
            found[f"stillness_{source}"] = losses.stillness_loss(batch.identity_frame, generated)
    return found


def random_batch(model: DAVS, size: int, *, seed: int = 0) -> Batch:
    """Make a batch of random soft pictures and windows of the right shapes, on the CPU, to measure with.

    Not white noise, all of which looks alike to the networks.
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

    return Batch(
        identity_frame=frames(1),
        frames=frames(n_frames),
        windows=torch.randn(size, n_frames, 12, 20, generator=generator) * 3,
        consecutive=frames(int(dimensions["identity_frames"])),
        words=labels(dimensions["n_words"]),
        speakers=labels(dimensions["n_speakers"]),
        start=(n_frames - int(dimensions["sequence_frames"])) // 2,
    )
