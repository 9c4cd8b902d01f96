"""Every term of the paper's objective, one function each, with its equation.

`form="paper"` is what the paper writes, `form="released"` what the authors' code does where that differs. Terms of an
adversarial pair take the discriminator or classifier and hold still what they must not move: a function named `…_loss`
trains that network alone, its `…_confusion` only the encoders and the decoder. All are means over the batch unless said
otherwise, and float32 whatever they are given.
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
"""Most that the released code takes from a label of the sequence discriminator."""
IMITATED = 4.0
"""Factor of the mouth and of its motion, beside L_1, in tuning to a video: as in the presets that make faces talk."""
RELEASED_WEIGHTS = {"domain_confusion": 5.0, "identity_word_confusion": 1_000_000.0, "stillness": 5.0}
"""What the released code multiplies its forms by, where not by 1; the paper gives no weights but the name α (eq. 8)."""


def contrastive_loss(video: Tensor, audio: Tensor, *, form: Form = "paper") -> Tensor:
    """L_C, eq. 1: paired clips near, unpaired ones a margin apart; the *sum* over the N×N pairs.

    video, audio: F_w^v and F_w^a `[N, T, 256]`, row n of one paired with row n of the other; made unit length here.
    form="released": squared distances, divided by 2N, and the video side is not moved.
    """
    first, second = (functional.normalize(features.flatten(1).float()) for features in (video, audio))
    if form == "released":
        first = first.detach()
    # Without the shortcut over a matrix product, which cannot tell small distances from none.
    distance = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
    paired = torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    gap = (MARGIN - distance).clamp(min=0)
    if form == "released":
        return torch.where(paired, distance.square(), gap.square()).sum() / (2 * len(distance))
    return torch.where(paired, distance, gap).sum()


def word_loss(video_logits: Tensor, audio_logits: Tensor, words: Tensor) -> Tensor:
    """L_w: softmax cross-entropy of both modalities through the one C_w, added.

    video_logits, audio_logits: `[B, N_w]`. words: int64 `[B]`.
    """
    return functional.cross_entropy(video_logits.float(), words) + functional.cross_entropy(audio_logits.float(), words)


def person_loss(logits: Tensor, people: Tensor) -> Tensor:
    """Softmax cross-entropy over people, the supervision of the pid space.

    logits: `[B, T, N_p]`. people: int64 `[B]`, one a clip.
    """
    return functional.cross_entropy(logits.float().flatten(0, 1), people.repeat_interleave(logits.shape[1]))


def domain_loss(discriminator: nn.Module, video: Tensor, audio: Tensor) -> Tensor:
    """L_adv^D, the discriminator's side: cross-entropy of sound against pictures. Moves D alone.

    video, audio: features `[B, T, 256]`, classified one by one.
    """
    return _domain_cross_entropy(discriminator(video.detach()), discriminator(audio.detach()), sound=1.0)


def domain_confusion(discriminator: nn.Module, video: Tensor, audio: Tensor, *, form: Form = "paper") -> Tensor:
    """L_adv^D, the encoders' side: sound and pictures not to be told apart. Moves E_w^v and E_w^a, not D.

    video, audio: as of `domain_loss`.
    The paper writes no formula but calls it a simple version of its section 3.2: eq. 3 with two classes.
    form="released": cross-entropy with swapped labels.
    """
    with frozen(discriminator):
        logits = discriminator(video), discriminator(audio)
    if form == "released":
        return _domain_cross_entropy(*logits, sound=0.0)
    sound = torch.cat(logits).float().sigmoid()
    return _distance_from_uniform(torch.cat((sound, 1 - sound), dim=-1))


def identity_word_loss(classifier: nn.Module, identity: Tensor, words: Tensor) -> Tensor:
    """Eq. 2: cross-entropy of the words that C_p^w reads in the identity. Moves C_p^w alone.

    identity: what it reads of T frames, `IdentityWordClassifier.read`. words: int64 `[B]`.
    """
    return functional.cross_entropy(classifier(identity.detach()).float(), words)


def identity_word_confusion(classifier: nn.Module, identity: Tensor, *, form: Form = "paper") -> Tensor:
    """Eq. 3: squared distance of C_p^w's softmax from 1/N_w, summed over the words. Moves E_p^v alone.

    identity: as of `identity_word_loss`.
    form="released": the mean over the words instead of their sum.
    """
    with frozen(classifier):
        logits = classifier(identity)
    return _distance_from_uniform(logits.float().softmax(-1), form=form)


def speech_person_loss(classifier: nn.Module, speech: Tensor, people: Tensor) -> Tensor:
    """Eq. 4: cross-entropy of the people that C_w^p reads in visual speech. Moves C_w^p alone.

    speech: f_w^v `[B, T, 256]`. people: int64 `[B]`.
    """
    return person_loss(classifier(speech.detach()), people)


def speech_person_confusion(classifier: nn.Module, speech: Tensor, *, form: Form = "paper") -> Tensor:
    """Eq. 5: squared distance of C_w^p's softmax from 1/N_p, summed over the people. Moves E_w^v alone.

    speech: as of `speech_person_loss`.
    The released code has no such term; form="released" takes the mean over the people, as its eq. 3 does over words.
    """
    with frozen(classifier):
        logits = classifier(speech)
    return _distance_from_uniform(logits.float().softmax(-1), form=form)


def reconstruction_loss(real: Tensor, generated: Tensor, *, form: Form = "paper") -> Tensor:
    """L_1, eq. 6: mean absolute difference of all values, the paper's norm up to a factor that α holds.

    real, generated: frames `[B, T, 3, S, S]` in [0, 1].
    form="released": 4 × the mean on a scale of 0–255, plus 8 × that inside the mouth box.
    """
    difference = (real.float() - generated.float()).abs()
    if form == "paper":
        return difference.mean()
    rows, columns = mouth_box(real.shape[-1])
    return 255 * (4 * difference.mean() + 8 * difference[..., rows, columns].mean())


def mouth_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean absolute difference inside the mouth box of frames `[…, S, S]` in [0, 1]; in no paper."""
    box = (..., *mouth_box(real.shape[-1]))
    return (real[box].float() - generated[box].float()).abs().mean()


def motion_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean absolute difference of how the mouth box moves: of each pixel without its mean over a clip's frames.

    real, generated: frames `[B, T, 3, S, S]` in [0, 1], any T of a clip. In no paper: L_1 is content with a mouth that
    keeps its mean, for all the motion of a mouth is a few thousandths of it.
    """
    box = (..., *mouth_box(real.shape[-1]))
    moves = [frames[box].float() - frames[box].float().mean(1, keepdim=True) for frames in (real, generated)]
    return (moves[0] - moves[1]).abs().mean()


def mouth_reading_loss(read: Tensor, frames: Tensor, seen: Box = WHOLE) -> Tensor:
    """Mean absolute difference of how a mouth moves, in small grey pictures, and how it does by its sound alone.

    read: `[B, T, H, W]`, what was read from F_w^a. frames: `[B, T, 3, S, S]` in [0, 1] that show a box of the crop, any
    T of a clip. Both without their mean over the T, as in `motion_loss`, so that it does not matter who is seen. In no
    paper: C_w and L_C tell sounds apart that look alike, and what they learn of one voice does not hold for others.
    """
    box = (..., *region(MOUTH_BOX, frames.shape[-1], seen))
    small = functional.adaptive_avg_pool2d(grey_levels(frames[box]), (read.shape[-2], read.shape[-1]))
    moves = [pictures.float() - pictures.float().mean(1, keepdim=True) for pictures in (read, small)]
    return (moves[0] - moves[1]).abs().mean()


def imitation_loss(real: Tensor, generated: Tensor) -> Tensor:
    """L_1 and, four times each, the L1 of the mouth box and of how it moves, of frames of a person to be learned.

    real, generated: frames `[B, T, 3, S, S]` in [0, 1].
    """
    moves = motion_loss(real, generated)
    return reconstruction_loss(real, generated) + IMITATED * (mouth_loss(real, generated) + moves)


def stillness_loss(identity_frame: Tensor, generated: Tensor) -> Tensor:
    """Only in the released code: each frame like the one before it outside the mouth box, on a scale of 0–255.

    identity_frame: `[B, 1, 3, S, S]`, the frame before the first. generated: consecutive frames `[B, T, 3, S, S]`.
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
    """L_GAN, eq. 7, maximised by D_seq, so with its sign turned: both heads added, patches averaged. Moves D_seq alone.

    real, generated: 6 frames `[B, 6, 3, S, S]`. windows: their MFCC windows `[B, 6, 12, 20]`.
    form="released": labels are softened at random by up to .1, drawn from `generator`. form="hinge": hinge losses.
    wrong: windows of other moments; real frames beside them are out of sync, to the head that tells whether they are.
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
    """L_GAN, eq. 7, minimised by the encoders and G: E[log(1 − D_seq(G(…)))], both heads added. Does not move D_seq.

    form="released": −E[log D_seq(G(…))], whose gradient does not vanish where D_seq is sure. form="hinge": −E[logit].
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
    """What is computed inside passes gradients through a module and none to its parameters.

    BatchNorm in training mode goes on counting what it sees, as it does in the released code.
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
    """What is computed inside passes gradients through a module in eval mode, and neither moves nor changes it."""
    trains = module.training
    module.eval()
    with frozen(module):
        yield
    module.train(trains)


def mouth_box(image_size: int) -> tuple[slice, slice]:
    """Return the rows and columns of the mouth box in crops of another size."""
    return region(MOUTH_BOX, image_size)


def _domain_cross_entropy(video_logits: Tensor, audio_logits: Tensor, *, sound: float) -> Tensor:
    """Cross-entropy of single features, where those of sound have the label `sound` and those of pictures the other."""
    logits = torch.cat((video_logits, audio_logits)).float()
    labels = torch.full_like(logits, sound)
    labels[: len(video_logits)] = 1 - sound
    return functional.binary_cross_entropy_with_logits(logits, labels)


def _distance_from_uniform(probabilities: Tensor, *, form: Form = "paper") -> Tensor:
    """Σ_j (p_j − 1/N)² of `[…, N]`, averaged over the rest; the mean over j in the released form."""
    squares = (probabilities - 1 / probabilities.shape[-1]).square()
    return squares.mean() if form == "released" else squares.sum(-1).mean()
