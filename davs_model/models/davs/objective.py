"""The objective in one pass: a batch through Figure 2 and Figure 3, every term by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from davs_model.data.pictures import WHOLE, Box
from davs_model.data.reads import Batch
from davs_model.models.base import FRAMES, PORTRAIT, REAL, SEQUENCE, SOUND, WINDOWS, term_of
from davs_model.models.davs import losses
from davs_model.models.davs.settings import Form, GanForm, Settings
from davs_model.models.davs.speech_model import speech_terms

if TYPE_CHECKING:
    from davs_model.models.davs.networks import DAVS, Identity

PERSON = ("person",)
SPEECH = ("word", "contrastive", "domain", "domain_confusion")
READING = ("mouth_reading",)
DISENTANGLING = ("identity_word", "identity_word_confusion", "speech_person", "speech_person_confusion")
PICTURES = ("reconstruction", "mouth", "motion")
SEQUENCE_GAN = ("sequence", "sequence_confusion")
AUDIO = "audio_speech_encoder"
GENERATION = ("reconstruction", *SEQUENCE_GAN, "stillness", "mouth", "motion")
"""Names of the terms; those of generation occur once for audio and once for video."""
TARGETS, TARGET_WINDOWS, TARGET_FRAMES = "targets", "target_windows", "target_frames"
"""Frames at random moments that are generated, their MFCC windows, and what E_w^v sees of them."""
CODES, TARGET_CODES = "codes", "target_codes"
"""f_w^v of `FRAMES` and of `TARGETS`, precomputed by a frozen encoder."""
RUN, RUN_WINDOWS, RUN_FRAMES, RUN_CODES = "run", "run_windows", "run_frames", "run_codes"
"""The same four for consecutive frames, which D_seq reads if the targets are at random moments."""
KINDS = (
    (WINDOWS, FRAMES, CODES),
    (TARGET_WINDOWS, TARGET_FRAMES, TARGET_CODES),
    (RUN_WINDOWS, RUN_FRAMES, RUN_CODES),
)
"""Windows, frames and features of the words, of the targets and of the run."""
PAPER = Settings()


def terms(
    model: DAVS,
    batch: Batch,
    *,
    settings: Settings = PAPER,
    wanted: Collection[str] = (*SPEECH, *DISENTANGLING, *GENERATION),
    gather: Callable[[Tensor], Tensor] = lambda features: features,
) -> dict[str, Tensor]:
    """Compute the wanted terms, and no more of Figure 2 than they need.

    Both sides of each adversarial pair are computed, and neither trains the networks of the other. The weighted sum of
    all terms therefore has the gradients of all phases of a step at once. Even if wanted, `speech_person` terms are
    left out without a `speech_person_classifier`, and `stillness` is left out in the paper's form.

    gather: concatenates the features `[B, …]` of all processes, because L_C compares all clips of a batch.
    """
    found: dict[str, Tensor] = {}
    form = settings.form
    generates = any(name in wanted for name in GENERATION)
    identity = model.encode_identity(batch[PORTRAIT]) if generates or "person" in wanted else None
    if "person" in wanted and identity is not None and model.person_classifier is not None:
        logits = model.person_classifier(identity.feature)
        found["person"] = losses.person_loss(logits, batch["speakers"])
    if any(name in wanted for name in ("identity_word", "identity_word_confusion")):
        found |= _identity_word_terms(model, batch, form)
    reads = "mouth_reading" in wanted
    speaks = generates or any(name in wanted for name in (*SPEECH, "speech_person", "speech_person_confusion"))
    if speaks or reads:
        video = model.encode_speech(frames=batch[FRAMES]) if speaks else None
        audio = model.encode_sound(batch[WINDOWS], batch.get(SOUND))
        if reads:
            found |= _reading_terms(model, audio, batch[FRAMES], model.sees)
        if video is not None:
            found |= _speech_terms(model, batch, video, audio, form, wanted, gather)
            if identity is not None and generates:
                found |= _generation_terms(model, batch, identity, video, audio, settings, wanted)
    return {name: loss for name, loss in found.items() if term_of(name) in wanted}


def _identity_word_terms(model: DAVS, batch: Batch, form: Form) -> dict[str, Tensor]:
    """The terms that remove words from the identity."""
    reader = model.identity_word_classifier
    read = reader.read(model.encode_identity(batch[SEQUENCE]))
    return {
        "identity_word": losses.identity_word_loss(reader, read, batch["words"]),
        "identity_word_confusion": losses.identity_word_confusion(reader, read, form=form),
    }


def _speech_terms(
    model: DAVS,
    batch: Batch,
    video: Tensor,
    audio: Tensor,
    form: Form,
    wanted: Collection[str],
    gather: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The terms of Figure 3 (a), and those that remove the person from visual speech."""
    found = speech_terms(model, batch, video, audio, wanted, gather, form=form)
    reader = model.speech_person_classifier
    if reader is not None and ("speech_person" in wanted or "speech_person_confusion" in wanted):
        found["speech_person"] = losses.speech_person_loss(reader, video, batch["speakers"])
        found["speech_person_confusion"] = losses.speech_person_confusion(reader, video, form=form)
    return found


def _reading_terms(model: DAVS, audio: Tensor, frames: Tensor, seen: Box) -> dict[str, Tensor]:
    """The loss of the motion of the mouth, predicted from F_w^a; frames show the box `seen` of the crop."""
    assert model.mouth_reader is not None
    return {"mouth_reading": losses.mouth_reading_loss(model.mouth_reader(audio), frames, seen)}


def _generation_terms(
    model: DAVS,
    batch: Batch,
    identity: Identity,
    video: Tensor,
    audio: Tensor,
    settings: Settings,
    wanted: Collection[str],
) -> dict[str, Tensor]:
    """Figure 2: generate six of the frames from each kind of speech or from one of them; include the terms of D_seq."""
    found: dict[str, Tensor] = {}
    sequence, judges = model.generated_part(batch), any(name in wanted for name in SEQUENCE_GAN)
    real, windows = batch.get(REAL, batch[FRAMES])[:, sequence], batch[WINDOWS][:, sequence]
    by_driver: list[Tensor] = []
    for driver, clips, generated in _generated(
        model, identity, len(real), video[:, sequence], audio[:, sequence], settings
    ):
        found |= _picture_terms(driver, real[clips], generated, settings.form, wanted)
        if settings.form == "released":
            found[f"stillness_{driver}"] = losses.stillness_loss(batch[PORTRAIT][clips], generated)
        if judges and len(generated) == len(real):
            found |= _sequence_terms(model, real, generated, windows, settings, f"_{driver}")
        by_driver.append(generated)
    if judges and len(by_driver[0]) < len(real):
        found |= _sequence_terms(model, real, torch.cat(by_driver[::-1]), windows, settings)  # video's clips are first
    return found


def talking_terms(
    model: DAVS,
    batch: Batch,
    settings: Settings,
    *,
    wanted: Collection[str],
    gather: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Compute the wanted terms when the frames to generate are at random moments of a clip.

    The speech features of the words and of these frames come from one pass of each encoder, so that BatchNorm sees
    both. E_w^v gets no gradient if its features are precomputed. L_GAN is computed on consecutive frames, which are
    generated in addition.
    """
    judges = any(name in wanted for name in SEQUENCE_GAN)
    audio, video = _features(model, batch, settings, judges=judges)
    identity = model.encode_identity(batch[PORTRAIT])
    found: dict[str, Tensor] = {}
    if WINDOWS in batch:
        found |= _speech_terms(model, batch, video[WINDOWS], audio[WINDOWS], settings.form, wanted, gather)
    if "person" in wanted and model.person_classifier is not None:
        found["person"] = losses.person_loss(model.person_classifier(identity.feature), batch["speakers"])
    if SEQUENCE in batch:
        found |= _identity_word_terms(model, batch, settings.form)
    if "mouth_reading" in wanted:
        found |= _reading_terms(model, audio[TARGET_WINDOWS], batch[TARGETS], WHOLE)
    if any(name in wanted for name in PICTURES):
        real, both = batch[TARGETS], (video[TARGET_WINDOWS], audio[TARGET_WINDOWS])
        for driver, clips, generated in _generated(model, identity, len(real), *both, settings):
            found |= _picture_terms(driver, real[clips], generated, settings.form, wanted)
    if judges:
        speech = _alternated(video[RUN_WINDOWS], audio[RUN_WINDOWS], settings)
        found |= _sequence_terms(model, batch[RUN], model.decode(identity, speech), batch[RUN_WINDOWS], settings)
    return {name: loss for name, loss in found.items() if term_of(name) in wanted}


def _features(
    model: DAVS, batch: Batch, settings: Settings, *, judges: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return F_w^a and F_w^v of the words, the targets and the run, if they are read, by the names of their windows.

    If no video is read, F_w^a takes the place of F_w^v: nothing is then generated from video.
    """
    kinds = [kind for kind in KINDS if kind[0] in batch and (judges or kind[0] != RUN_WINDOWS)]
    windows, frames, codes = zip(*kinds, strict=True)
    lengths = [batch[name].shape[1] for name in windows]
    with torch.set_grad_enabled(settings.generation.audio == "train" and torch.is_grad_enabled()):
        audio = model.encode_sound(torch.cat([batch[name] for name in windows], dim=1), batch.get(SOUND))
    heard = dict(zip(windows, audio.split(lengths, 1), strict=True))
    if TARGET_CODES in batch:
        return heard, {name: batch[code] for name, code in zip(windows, codes, strict=True)}
    if TARGET_FRAMES not in batch:
        return heard, heard
    with torch.set_grad_enabled(settings.generation.visual == "train" and torch.is_grad_enabled()):
        video = model.encode_speech(frames=torch.cat([batch[name] for name in frames], dim=1))
    return heard, dict(zip(windows, video.split(lengths, 1), strict=True))


def _sequence_terms(
    model: DAVS, real: Tensor, generated: Tensor, windows: Tensor, settings: Settings, ending: str = ""
) -> dict[str, Tensor]:
    """Both sides of L_GAN; `ending` is appended to their names."""
    form: GanForm = "hinge" if settings.adversaries.gan_loss == "hinge" else settings.form
    discriminator = model.sequence_discriminator
    wrong = windows.roll(1, 0) if settings.adversaries.wrong_sound and len(windows) > 1 else None
    return {
        f"sequence{ending}": losses.sequence_loss(discriminator, real, generated, windows, form=form, wrong=wrong),
        f"sequence_confusion{ending}": losses.sequence_confusion(discriminator, generated, windows, form=form),
    }


def _from_video(count: int, settings: Settings) -> int:
    """Return how many clips of a batch, from the first on, are generated from video."""
    return min(max(round(count * settings.generation.video), 0), count)


def _alternated(video: Tensor, audio: Tensor, settings: Settings) -> Tensor:
    """Return the video features of the first clips and the audio features of the others."""
    seen = _from_video(len(audio), settings)
    return torch.cat((video[:seen], audio[seen:]))


def _generated(
    model: DAVS, identity: Identity, count: int, video: Tensor, audio: Tensor, settings: Settings
) -> Iterator[tuple[str, slice, Tensor]]:
    """Yield each driver with the slice of clips that it drives, all or some, and their generated frames."""
    if settings.generation.drive == "both" or count < 2:
        for driver, speech in (("audio", audio), ("video", video)):
            yield driver, slice(None), model.decode(identity, speech)
        return
    seen = _from_video(count, settings)
    generated = model.decode(identity, _alternated(video, audio, settings))
    for driver, clips in (("audio", slice(seen, None)), ("video", slice(seen))):
        if len(generated[clips]):
            yield driver, clips, generated[clips]


def _picture_terms(
    driver: str, real: Tensor, generated: Tensor, form: Form, wanted: Collection[str]
) -> dict[str, Tensor]:
    found = {f"reconstruction_{driver}": losses.reconstruction_loss(real, generated, form=form)}
    if "mouth" in wanted:
        found[f"mouth_{driver}"] = losses.mouth_loss(real, generated)
    if "motion" in wanted:
        found[f"motion_{driver}"] = losses.motion_loss(real, generated)
    return found


def begun(wanted: Collection[str], settings: Settings, progress: float) -> Collection[str]:
    """Return the terms that have begun at a fraction of a stage; if none has, all of them, so that each step trains."""
    begins = {"sequence": settings.adversaries.gan_from, "domain": settings.adversaries.domain_from}
    found = [term for term in wanted if progress >= begins.get(term.removesuffix("_confusion"), 0.0)]
    return found or wanted
