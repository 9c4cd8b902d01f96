"""Figure 2: the encoders, the decoder and their adversaries, connected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from davs_model.data.reads import Batch
from davs_model.models.base import SEQUENCE, WINDOWS, Stage
from davs_model.models.davs import losses, objective
from davs_model.models.davs import paper as own_paper
from davs_model.models.davs import settings as own
from davs_model.models.davs import stages as own_stages
from davs_model.models.davs.dimensions import Dimensions
from davs_model.models.davs.networks import sized
from davs_model.models.davs.networks.classifiers import (
    DomainDiscriminator,
    IdentityWordClassifier,
    PersonClassifier,
    SpeechPersonClassifier,
)
from davs_model.models.davs.networks.discriminator import SequenceDiscriminator
from davs_model.models.davs.networks.identity import Identity, IdentityEncoder
from davs_model.models.davs.networks.layers import FEATURES
from davs_model.models.davs.networks.mouth_reader import MouthReader
from davs_model.models.davs.speech_model import SpeechModel
from davs_model.models.davs.stages import LABELS, STAGES


class DAVS(SpeechModel):
    """The disentangled audio-visual system: person (pid space) and speech (wid space) are separated and recombined.

    Frames are RGB in [0, 1], `[B, T, 3, S, S]`; windows `[B, T, 12, 20]`, as in the shards; features 256 long.

    dimensions: those of `Dimensions`.
    """

    name: ClassVar[str] = "davs"
    Settings = own.Settings
    stages = STAGES
    labels = LABELS
    paper = own_paper.TABLES
    paper_data = own_paper.DATA
    code_length = FEATURES
    Dimensions = Dimensions
    reads = staticmethod(own_stages.reads)
    training_reads = staticmethod(own_stages.training_reads)
    plan = staticmethod(own_stages.plan)

    def __init__(self, **dimensions: Any) -> None:
        size = Dimensions(**dimensions)
        super().__init__(size)
        self.audio_smoothing, self.smooths = size.audio_smoothing, size.audio_smoothing > 0
        # Figure 2
        self.identity_encoder = IdentityEncoder(width=size.width, image_size=size.image_size)  # E_p^v
        normalised = bool(size.normalised)
        self.visual_speech_encoder = sized.visual_speech_encoder(size, normalised=normalised)  # E_w^v
        self.audio_speech_encoder = sized.audio_speech_encoder(size, normalised=normalised)  # E_w^a
        self.decoder = sized.decoder(size)  # G
        self.sequence_discriminator = SequenceDiscriminator(  # D_seq
            n_frames=size.sequence_frames, width=size.width, image_size=size.image_size
        )
        # Figure 3 (a)
        self.word_classifier = sized.word_classifier(size)  # C_w
        self.audio_word_classifier = sized.word_classifier(size) if size.n_word_classifiers == 2 else None
        self.domain_discriminator = DomainDiscriminator()  # D
        # Figure 3 (b)
        self.identity_word_classifier = IdentityWordClassifier(  # C_p^w
            n_words=size.n_words,
            n_frames=size.identity_frames,
            width=size.width,
            image_size=size.image_size,
            from_feature=bool(size.words_from_feature),
        )
        speakers, people = size.n_speakers, size.n_people
        self.speech_person_classifier = SpeechPersonClassifier(n_people=speakers) if speakers else None  # C_w^p
        self.person_classifier = PersonClassifier(n_people=people) if people else None
        self.mouth_reader = MouthReader() if size.reads_mouth else None

    @classmethod
    def drawn_from(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the drivers; with `generation.drive=alternate`, those that drive any clip."""
        generation = settings.get("generation")
        if not isinstance(generation, dict) or generation.get("drive") != "alternate":
            return cls.drivers
        never = {"audio": 1, "video": 0}
        return tuple(driver for driver in cls.drivers if generation.get("video") != never[driver])

    def initialise(self, batch: Batch) -> None:
        """Fit the last layers of the speech encoders to a batch, in place; to its targets if it has no `WINDOWS`."""
        windows = batch[WINDOWS if WINDOWS in batch else objective.TARGET_WINDOWS]
        super().initialise({**batch, WINDOWS: windows})

    def terms(
        self,
        batch: Batch,
        wanted: Collection[str],
        settings: own.Settings,
        *,
        progress: float = 1.0,
        gather: Callable[[Tensor], Tensor] = lambda features: features,
    ) -> dict[str, Tensor]:
        """Return the wanted terms that have begun; see `objective`."""
        wanted = objective.begun(wanted, settings, progress)
        if objective.TARGETS in batch:
            return objective.talking_terms(self, batch, settings, wanted=wanted, gather=gather)
        return objective.terms(self, batch, settings=settings, wanted=wanted, gather=gather)

    def factors(self, stage: Stage, settings: own.Settings, *, people_are_speakers: bool) -> dict[str, float]:
        """Return the factor of each term that a stage minimises; in the released form, times `RELEASED_WEIGHTS`."""
        found = super().factors(stage, settings, people_are_speakers=people_are_speakers)
        released = losses.RELEASED_WEIGHTS if settings.form == "released" else {}
        return {term: weight * released.get(term, 1.0) for term, weight in found.items()}

    def idle(self, stage: Stage, settings: own.Settings, *, people_are_speakers: bool) -> set[str]:
        """Return the terms whose classifier or reader the model does not have or need."""
        found = super().idle(stage, settings, people_are_speakers=people_are_speakers)
        if self.speech_person_classifier is None:
            found.add("speech_person")
        if self.mouth_reader is None or objective.AUDIO in stage.frozen:
            found.update(objective.READING)  # nothing but the reader would learn from it
        return found

    def embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """Return f_p^v of the portrait and of the consecutive frames, F_w^v, F_w^a and the logits of C_w for these."""
        found = super().embeddings(batch)
        if SEQUENCE in batch:
            found["identity_sequence"] = self.encode_identity(batch[SEQUENCE]).feature
        return found

    def encode_identity(self, frames: Tensor) -> Identity:
        """Encode the identity in frames `[B, T, 3, S, S]`: f_p^v and its maps."""
        return self.identity_encoder(frames)

    def encode_person(self, frames: Tensor) -> Identity:
        """Encode the identity in frames `[B, K, 3, S, S]`; see `merged`."""
        return self.merged(frames)

    def smooth_sound(self, speech: Tensor) -> Tensor:
        """Return F_w^a `[B, T, 256]` with the fraction `audio_smoothing` of each feature taken from its neighbours.

        The frames before and after contribute half of it each. An MFCC window is .2 s long. With smoothing, a frame
        depends on slightly more audio and jitters less.
        """
        around = torch.cat((speech[:, :1], speech, speech[:, -1:]), dim=1)
        beside = (around[:, :-2] + around[:, 2:]) / 2
        return speech.lerp(beside, self.audio_smoothing)

    def decode(self, identity: Identity, speech: Tensor) -> Tensor:
        """Generate frames `[B, T, 3, S, S]` from the identity, of one frame or T, and F_w^v or F_w^a `[B, T, 256]`."""
        return self.decoder(identity, speech)
