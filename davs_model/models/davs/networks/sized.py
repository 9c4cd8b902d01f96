"""Builds the networks that AMIE and ET-GAN share with DAVS, with the dimensions of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from davs_model.models.davs.dimensions import SharedDimensions
from davs_model.models.davs.networks.classifiers import DomainDiscriminator, PersonClassifier, WordClassifier
from davs_model.models.davs.networks.decoder import Decoder
from davs_model.models.davs.networks.layers import FEATURES
from davs_model.models.davs.networks.speech import AudioSpeechEncoder, VisualSpeechEncoder
from davs_model.models.davs.settings import STANDARDISE

if TYPE_CHECKING:
    from davs_model.models.davs.speech_model import SpeechModel


def visual_speech_encoder(size: SharedDimensions, *, normalised: bool = False) -> VisualSpeechEncoder:
    """Return E_w^v."""
    width, side = size.visual_width or size.width, size.mouth_size or size.image_size
    return VisualSpeechEncoder(width=width, image_size=side, normalised=normalised)


def audio_speech_encoder(size: SharedDimensions, *, normalised: bool = False) -> AudioSpeechEncoder:
    """Return E_w^a."""
    width, standardise = size.audio_width or size.width, STANDARDISE[size.standardise]
    return AudioSpeechEncoder(width=width, normalised=normalised, standardise=standardise)


def decoder(size: SharedDimensions, speech_length: int = FEATURES) -> Decoder:
    """Return G."""
    return Decoder(
        width=size.width,
        image_size=size.image_size,
        identity_scales=size.identity_scales or 1,
        blend=bool(size.blend),
        flow=bool(size.flow),
        speech_map=size.speech_map,
        speech_length=speech_length,
    )


def word_classifier(size: SharedDimensions) -> WordClassifier:
    """Return C_w."""
    return WordClassifier(n_words=size.n_words, n_frames=size.speech_frames)


def add_classifiers(model: SpeechModel, size: SharedDimensions) -> None:
    """Add the classifiers that the first two stages of AMIE and ET-GAN need; both modalities share C_w."""
    model.word_classifier = word_classifier(size)
    model.audio_word_classifier = None
    model.domain_discriminator = DomainDiscriminator()
    model.person_classifier = PersonClassifier(n_people=size.n_people) if size.n_people else None
