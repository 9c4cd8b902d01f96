"""The networks of Figure 2, and `DAVS`, which wires them."""

from davs_model.networks.classifiers import (
    DomainDiscriminator,
    IdentityWordClassifier,
    PersonClassifier,
    SpeechPersonClassifier,
    WordClassifier,
)
from davs_model.networks.davs import DAVS
from davs_model.networks.decoder import Decoder
from davs_model.networks.discriminator import SequenceDiscriminator, SequenceLogits
from davs_model.networks.identity import Identity, IdentityEncoder
from davs_model.networks.speech import AudioSpeechEncoder, VisualSpeechEncoder

__all__ = [
    "DAVS",
    "AudioSpeechEncoder",
    "Decoder",
    "DomainDiscriminator",
    "Identity",
    "IdentityEncoder",
    "IdentityWordClassifier",
    "PersonClassifier",
    "SequenceDiscriminator",
    "SequenceLogits",
    "SpeechPersonClassifier",
    "VisualSpeechEncoder",
    "WordClassifier",
]
