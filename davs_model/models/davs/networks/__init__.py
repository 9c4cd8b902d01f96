"""The networks of Figure 2, and `DAVS`, which wires them."""

from davs_model.models.davs.networks.classifiers import (
    DomainDiscriminator,
    IdentityWordClassifier,
    PersonClassifier,
    SpeechPersonClassifier,
    WordClassifier,
)
from davs_model.models.davs.networks.davs import DAVS
from davs_model.models.davs.networks.decoder import Decoder
from davs_model.models.davs.networks.discriminator import SequenceDiscriminator, SequenceLogits
from davs_model.models.davs.networks.identity import Identity, IdentityEncoder
from davs_model.models.davs.networks.speech import AudioSpeechEncoder, VisualSpeechEncoder

Model = DAVS
"""The name that every model has."""

__all__ = [
    "DAVS",
    "AudioSpeechEncoder",
    "Decoder",
    "DomainDiscriminator",
    "Identity",
    "IdentityEncoder",
    "IdentityWordClassifier",
    "Model",
    "PersonClassifier",
    "SequenceDiscriminator",
    "SequenceLogits",
    "SpeechPersonClassifier",
    "VisualSpeechEncoder",
    "WordClassifier",
]
