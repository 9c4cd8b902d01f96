"""Every term of the paper's objective, one function each, with its equation.

`form="paper"` is the loss of the paper, `form="released"` that of the authors' code where it differs. The functions of
an adversarial pair take the discriminator or classifier and keep the other side fixed: a function named `…_loss` trains
that network only, its `…_confusion` only the encoders and the decoder. All losses are means over the batch unless
stated otherwise, and are computed in float32 for inputs of any dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from davs_model.data.pictures import MOUTH_BOX, WHOLE, Box, grey_levels, region
from davs_model.models.davs.settings import Form, GanForm

if TYPE_CHECKING:
    from davs_model.models.davs.networks import SequenceLogits

MARGIN = 1.0
"""Distance beyond which unpaired clips no longer repel (eq. 1)."""
SOFTENING = 0.1
"""Maximum softening of a label of the sequence discriminator, in the released code."""
IMITATED = 4.0
"""Factor, relative to L_1, of `mouth_loss` and `motion_loss` in fine-tuning to a video; as in the presets that talk."""
RELEASED_WEIGHTS = {"domain_confusion": 5.0, "identity_word_confusion": 1_000_000.0, "stillness": 5.0}
"""Factors, where not 1, of the released forms of the terms; the paper gives no values, and only names α (eq. 8)."""


def contrastive_loss(video: Tensor, audio: Tensor, *, form: Form = "paper") -> Tensor:
    """L_C, eq. 1: paired clips are pulled together, unpaired ones a margin apart; the *sum* over the N×N pairs.

    video, audio: F_w^v and F_w^a `[N, T, 256]`, row n paired with row n; scaled to unit length here.
    form="released": squared distances, divided by 2N, without a gradient for the video side.
    """
    first, second = (functional.normalize(features.flatten(1).float()) for features in (video, audio))
    if form == "released":
        first = first.detach()
    # Not by a matrix product, which is faster but cannot resolve small distances.
    distance = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
    paired = torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    gap = (MARGIN - distance).clamp(min=0)
    if form == "released":
        return torch.where(paired, distance.square(), gap.square()).sum() / (2 * len(distance))
    return torch.where(paired, distance, gap).sum()


def word_loss(video_logits: Tensor, audio_logits: Tensor, words: Tensor) -> Tensor:
    """L_w: the sum of the softmax cross-entropies of both modalities, by the shared C_w.

    video_logits, audio_logits: `[B, N_w]`. words: int64 `[B]`.
    """
    return functional.cross_entropy(video_logits.float(), words) + functional.cross_entropy(audio_logits.float(), words)


def person_loss(logits: Tensor, people: Tensor) -> Tensor:
    """Softmax cross-entropy over people, the supervision of the pid space.

    logits: `[B, T, N_p]`. people: int64 `[B]`, one per clip.
    """
    return functional.cross_entropy(logits.float().flatten(0, 1), people.repeat_interleave(logits.shape[1]))


def domain_loss(discriminator: nn.Module, video: Tensor, audio: Tensor) -> Tensor:
    """L_adv^D, the discriminator's side: cross-entropy of audio against video features. Trains D only.

    video, audio: features `[B, T, 256]`, classified one by one.
    """
    return _domain_cross_entropy(discriminator(video.detach()), discriminator(audio.detach()), sound=1.0)


def domain_confusion(discriminator: nn.Module, video: Tensor, audio: Tensor, *, form: Form = "paper") -> Tensor:
    """L_adv^D, the encoders' side: audio and video features become indistinguishable. Trains E_w^v and E_w^a, not D.

    video, audio: as in `domain_loss`.
    The paper gives no formula, but calls it a simple version of its section 3.2: eq. 3 with two classes.
    form="released": cross-entropy with swapped labels.
    """
    with frozen(discriminator):
        logits = discriminator(video), discriminator(audio)
    if form == "released":
        return _domain_cross_entropy(*logits, sound=0.0)
    sound = torch.cat(logits).float().sigmoid()
    return _distance_from_uniform(torch.cat((sound, 1 - sound), dim=-1))


def identity_word_loss(classifier: nn.Module, identity: Tensor, words: Tensor) -> Tensor:
    """Eq. 2: cross-entropy of the words that C_p^w predicts from the identity. Trains C_p^w only.

    identity: its input from T frames, of `IdentityWordClassifier.read`. words: int64 `[B]`.
    """
    return functional.cross_entropy(classifier(identity.detach()).float(), words)


def identity_word_confusion(classifier: nn.Module, identity: Tensor, *, form: Form = "paper") -> Tensor:
    """Eq. 3: squared distance of C_p^w's softmax from 1/N_w, summed over the words. Trains E_p^v only.

    identity: as in `identity_word_loss`.
    form="released": the mean over the words instead of the sum.
    """
    with frozen(classifier):
        logits = classifier(identity)
    return _distance_from_uniform(logits.float().softmax(-1), form=form)


def speech_person_loss(classifier: nn.Module, speech: Tensor, people: Tensor) -> Tensor:
    """Eq. 4: cross-entropy of the people that C_w^p predicts from visual speech. Trains C_w^p only.

    speech: f_w^v `[B, T, 256]`. people: int64 `[B]`.
    """
    return person_loss(classifier(speech.detach()), people)


def speech_person_confusion(classifier: nn.Module, speech: Tensor, *, form: Form = "paper") -> Tensor:
    """Eq. 5: squared distance of C_w^p's softmax from 1/N_p, summed over the people. Trains E_w^v only.

    speech: as in `speech_person_loss`.
    The released code has no such term; form="released" takes the mean over the people, as its eq. 3 does over words.
    """
    with frozen(classifier):
        logits = classifier(speech)
    return _distance_from_uniform(logits.float().softmax(-1), form=form)


def reconstruction_loss(real: Tensor, generated: Tensor, *, form: Form = "paper") -> Tensor:
    """L_1, eq. 6: mean absolute difference of all values: the paper's norm up to a factor, which α absorbs.

    real, generated: frames `[B, T, 3, S, S]` in [0, 1].
    form="released": 4 × the mean on a scale of 0–255, plus 8 × that inside the mouth box.
    """
    difference = (real.float() - generated.float()).abs()
    if form == "paper":
        return difference.mean()
    rows, columns = mouth_box(real.shape[-1])
    return 255 * (4 * difference.mean() + 8 * difference[..., rows, columns].mean())


def mouth_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean absolute difference inside the mouth box of frames `[…, S, S]` in [0, 1]; not from a paper."""
    box = (..., *mouth_box(real.shape[-1]))
    return (real[box].float() - generated[box].float()).abs().mean()


def motion_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean absolute difference of the motion in the mouth box: of each pixel minus its mean over a clip's frames.

    real, generated: frames `[B, T, 3, S, S]` in [0, 1], any T frames of a clip.
    Not from a paper. L_1 alone tolerates a mouth that stays at its mean, because all the motion of the mouth is only a
    few thousandths of L_1.
    """
    box = (..., *mouth_box(real.shape[-1]))
    moves = [frames[box].float() - frames[box].float().mean(1, keepdim=True) for frames in (real, generated)]
    return (moves[0] - moves[1]).abs().mean()


def mouth_reading_loss(read: Tensor, frames: Tensor, seen: Box = WHOLE) -> Tensor:
    """Mean absolute difference between the motion of a mouth, in small grey images, and its prediction from audio.

    read: `[B, T, H, W]`, predicted from F_w^a. frames: `[B, T, 3, S, S]` in [0, 1] that show the box `seen` of the
    crop, any T frames of a clip. The mean over the T frames is subtracted from both, as in `motion_loss`, so that the
    appearance of the person does not matter.
    Not from a paper. C_w and L_C separate sounds that look alike on the lips, and what they learn from one voice does
    not hold for others.
    """
    box = (..., *region(MOUTH_BOX, frames.shape[-1], seen))
    small = functional.adaptive_avg_pool2d(grey_levels(frames[box]), (read.shape[-2], read.shape[-1]))
    moves = [pictures.float() - pictures.float().mean(1, keepdim=True) for pictures in (read, small)]
    return (moves[0] - moves[1]).abs().mean()


def imitation_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Fine-tuning to a person: L_1, plus four times the L1 inside the mouth box and four times that of its motion.

    real, generated: frames `[B, T, 3, S, S]` in [0, 1].
    """
    moves = motion_loss(real, generated)
    return reconstruction_loss(real, generated) + IMITATED * (mouth_loss(real, generated) + moves)


def stillness_loss(identity_frame: Tensor, generated: Tensor) -> Tensor:
    """Only in the released code: L1 of each frame to the previous one outside the mouth box, on a scale of 0–255.

    identity_frame: `[B, 1, 3, S, S]`, taken as the frame before the first. generated: consecutive frames
    `[B, T, 3, S, S]`.
    """
    frames = torch.cat((identity_frame, generated), dim=1)
    return 255 * outside_mouth_loss(frames[:, :-1], frames[:, 1:])


def outside_mouth_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean absolute difference outside the mouth box of frames `[…, S, S]` in [0, 1]; shapes are broadcast."""
    difference = (real.float() - generated.float()).abs()
    outside = torch.ones(difference.shape[-2:], dtype=torch.bool, device=difference.device)
    outside[mouth_box(difference.shape[-1])] = False
    return (difference * outside).sum() / (difference[..., 0, 0].numel() * outside.sum())


def sequence_loss(
    discriminator: nn.Module,
    real: Tensor,
    generated: Tensor,
    windows: Tensor,
    *,
    form: GanForm = "paper",
    wrong: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """L_GAN, eq. 7, negated, because D_seq maximises it: patches averaged, both heads added. Trains D_seq only.

    real, generated: 6 frames `[B, 6, 3, S, S]`. windows: their MFCC windows `[B, 6, 12, 20]`.
    form="released": labels are softened at random by up to .1, drawn from `generator`. form="hinge": hinge losses.
    wrong: windows that do not belong to the frames; the sync head is trained to reject real frames with them.
    """
    total = real.new_zeros((), dtype=torch.float32)
    shown = [(real, windows, 1.0), (generated.detach(), windows, 0.0)]
    for frames, beside, label in shown if wrong is None else (*shown, (real, wrong, 0.0)):
        logits: SequenceLogits = discriminator(frames, beside)
        for head in logits if beside is windows else (logits.in_step,):
            if form == "hinge":
                total = total + functional.relu(1 + (1 - 2 * label) * head.float()).mean()
                continue
            target = torch.full_like(head, label, dtype=torch.float32)
            if form == "released":
                softening = torch.rand(head.shape, generator=generator, device=head.device) * SOFTENING
                target = (target - softening).abs()
            total = total + functional.binary_cross_entropy_with_logits(head.float(), target)
    return total


def sequence_confusion(
    discriminator: nn.Module, generated: Tensor, windows: Tensor, *, form: GanForm = "paper"
) -> Tensor:
    """L_GAN, eq. 7, minimised by the encoders and G: E[log(1 − D_seq(G(…)))], both heads added. Does not train D_seq.

    form="released": −E[log D_seq(G(…))], whose gradient does not vanish when D_seq is sure. form="hinge": −E[logit].
    """
    with frozen(discriminator):
        logits: SequenceLogits = discriminator(generated, windows)
    heads = [head.float() for head in logits]
    if form == "hinge":
        return -torch.stack([head.mean() for head in heads]).sum()
    if form == "released":
        return -torch.stack([functional.logsigmoid(head).mean() for head in heads]).sum()
    return torch.stack([functional.logsigmoid(-head).mean() for head in heads]).sum()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Context in which gradients pass through a module, but not to its parameters.

    BatchNorm in training mode still updates its running statistics, as it does in the released code.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Context in which gradients pass through a module in eval mode; its parameters and statistics do not change."""
    trains = module.training
    module.eval()
    with frozen(module):
        yield
    module.train(trains)


def mouth_box(image_size: int) -> tuple[slice, slice]:
    """Return the rows and columns of the mouth box in crops of this size."""
    return region(MOUTH_BOX, image_size)


def _domain_cross_entropy(video_logits: Tensor, audio_logits: Tensor, *, sound: float) -> Tensor:
    """Cross-entropy of single features; those of audio have the label `sound`, those of video 1 − `sound`."""
    logits = torch.cat((video_logits, audio_logits)).float()
    labels = torch.full_like(logits, sound)
    labels[: len(video_logits)] = 1 - sound
    return functional.binary_cross_entropy_with_logits(logits, labels)


def _distance_from_uniform(probabilities: Tensor, *, form: Form = "paper") -> Tensor:
    """Σ_j (p_j − 1/N)² of `[…, N]`, averaged over the rest; the mean over j in the released form."""
    squares = (probabilities - 1 / probabilities.shape[-1]).square()
    return squares.mean() if form == "released" else squares.sum(-1).mean()
