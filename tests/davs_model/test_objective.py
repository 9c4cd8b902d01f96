"""The objective in one pass: every term is the loss of what Figures 2 and 3 of the paper feed it."""

from __future__ import annotations

import pytest
import torch
from small_models import SIZES, draw, random_batch
from torch import Tensor

from davs_model.models.davs import Settings, losses, objective
from davs_model.models.davs.losses import Form
from davs_model.models.davs.networks import DAVS

pytestmark = pytest.mark.usefixtures("one_thread")
WANTED = (*objective.PERSON, *objective.SPEECH, *objective.DISENTANGLING, *objective.GENERATION)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_every_term_sees_its_own_frames_windows_and_labels(form: Form) -> None:
    """Each classifier reads its own features and labels; six of the twelve frames are generated, with their windows."""
    davs = DAVS(**{**SIZES, "n_words": 5}, n_people=4, n_speakers=4, n_word_classifiers=2)
    draw(davs)
    davs.eval().requires_grad_(False)
    batch = random_batch(davs, 3) | {"words": torch.tensor([4, 0, 2]), "speakers": torch.tensor([3, 1, 0])}
    batch["frames_start"] = torch.tensor(4)
    torch.manual_seed(0)  # the softening of labels in the released form
    found = davs.terms(batch, WANTED, Settings.resolve("paper", None, [f"form={form}"]))

    identity = davs.identity_encoder(batch["identity_frame"])
    video, audio = davs.visual_speech_encoder(batch["frames"]), davs.audio_speech_encoder(batch["windows"])
    people, domain = davs.speech_person_classifier, davs.domain_discriminator
    assert davs.audio_word_classifier is not None
    assert davs.person_classifier is not None
    assert people is not None
    seen, heard = davs.word_classifier(video), davs.audio_word_classifier(audio)
    maps = davs.identity_encoder(batch["consecutive"]).quarter
    expected: dict[str, Tensor] = {
        "person": losses.person_loss(davs.person_classifier(identity.feature), batch["speakers"]),
        "word": losses.word_loss(seen, heard, batch["words"]),
        "contrastive": losses.contrastive_loss(video, audio, form=form),
        "domain": losses.domain_loss(domain, video, audio),
        "domain_confusion": losses.domain_confusion(domain, video, audio, form=form),
        "identity_word": losses.identity_word_loss(davs.identity_word_classifier, maps, batch["words"]),
        "identity_word_confusion": losses.identity_word_confusion(davs.identity_word_classifier, maps, form=form),
        "speech_person": losses.speech_person_loss(people, video, batch["speakers"]),
        "speech_person_confusion": losses.speech_person_confusion(people, video, form=form),
    }
    real, windows = batch["frames"][:, 4:10], batch["windows"][:, 4:10]
    torch.manual_seed(0)
    for name, speech in (("audio", audio), ("video", video)):
        generated, judge = davs.decoder(identity, speech[:, 4:10]), davs.sequence_discriminator
        expected[f"reconstruction_{name}"] = losses.reconstruction_loss(real, generated, form=form)
        expected[f"sequence_{name}"] = losses.sequence_loss(judge, real, generated, windows, form=form)
        expected[f"sequence_confusion_{name}"] = losses.sequence_confusion(judge, generated, windows, form=form)
        if form == "released":
            expected[f"stillness_{name}"] = losses.stillness_loss(batch["identity_frame"], generated)
    added = {f"{term}_{name}" for term in ("mouth", "motion") for name in ("audio", "video")}  # ours
    assert found.keys() == expected.keys() | added
    for name, loss in expected.items():
        assert float(found[name]) == pytest.approx(float(loss), rel=1e-5), name
