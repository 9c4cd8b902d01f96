"""The common part of all talking-face models: the speech space of Figure 3 (a), and the first stages of training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from davs_model.data.corpus import Corpus
from davs_model.data.pictures import MOUTH_REGION, WHOLE, Box
from davs_model.data.reads import Batch
from davs_model.models.base import FRAMES, PORTRAIT, SOUND, WINDOWS, Gather, Stage, TalkingModel
from davs_model.models.davs import losses
from davs_model.models.davs.dimensions import SharedDimensions
from davs_model.models.davs.initialise import fit_speech_encoders, has_learned, lacks_statistics
from davs_model.models.davs.settings import Form

if TYPE_CHECKING:  # the package of the networks imports DAVS, which imports this module
    from davs_model.models.davs.networks.classifiers import DomainDiscriminator, PersonClassifier, WordClassifier
    from davs_model.models.davs.networks.identity import Identity, IdentityEncoder
    from davs_model.models.davs.networks.speech import AudioSpeechEncoder, VisualSpeechEncoder

ALIKE = 0.01
"""Mean squared difference up to which images are averaged: 20 dB. Frames of a GRID sentence differ by 33 dB."""


class SpeechModel(TalkingModel):
    """A model with DAVS's encoders and a shared speech space.

    Frames are RGB in [0, 1], `[B, T, 3, S, S]`; windows `[B, T, 12, 20]`, as in the shards; features 256 long.
    A subclass builds the networks. Their order determines which random numbers become whose initial weights.
    """

    adapts = ("identity_encoder", "decoder")
    Dimensions: ClassVar[type[SharedDimensions]]

    identity_encoder: IdentityEncoder
    visual_speech_encoder: VisualSpeechEncoder
    audio_speech_encoder: AudioSpeechEncoder
    word_classifier: WordClassifier
    audio_word_classifier: WordClassifier | None
    """None: `word_classifier` is shared by both modalities."""
    domain_discriminator: DomainDiscriminator
    person_classifier: PersonClassifier | None

    def __init__(self, size: SharedDimensions) -> None:
        super().__init__()
        self.dimensions = size.as_dict()

    @classmethod
    def dimensions_for(cls, corpus: Corpus, settings: Any) -> dict[str, int | float]:
        """Return the arguments that fit these clips and settings."""
        return cls.Dimensions.of(corpus, settings).as_dict()

    def terms(
        self,
        batch: Batch,
        wanted: Collection[str],
        settings: Any,
        *,
        progress: float = 1.0,
        gather: Gather = lambda features: features,
    ) -> dict[str, Tensor]:
        """Return the wanted terms of the first two stages, and the model's `own_terms`."""
        found = first_terms(self, batch, wanted, gather)
        found |= self.own_terms(batch, wanted, settings, progress, gather)
        return {name: loss for name, loss in found.items() if name in wanted}

    def own_terms(
        self, batch: Batch, wanted: Collection[str], settings: Any, progress: float, gather: Gather
    ) -> dict[str, Tensor]:
        """Compute the wanted terms of later stages, and nothing that they do not need; may return other terms, too."""
        return {}

    def idle(self, stage: Stage, settings: Any, *, people_are_speakers: bool) -> set[str]:
        """Return `person` if the people of the stage are not those of the classifier."""
        people = self.person_classifier is not None and (stage.people or people_are_speakers)
        return set() if people else {"person"}

    @property
    def sees(self) -> Box:
        """The box of a crop that E_w^v sees."""
        return MOUTH_REGION if self.dimensions.get("mouth_size") else WHOLE

    @property
    def is_fitted(self) -> bool:
        """Whether a speech encoder has been trained, and E_w^a has the statistics that it needs."""
        audio = self.audio_speech_encoder
        return not lacks_statistics(audio) and (has_learned(audio) or has_learned(self.visual_speech_encoder))

    def initialise(self, batch: Batch) -> None:
        """Fit the last layers of the speech encoders to a batch, in place, if neither has been trained."""
        fit_speech_encoders(self, batch)

    @property
    def listens(self) -> bool:
        """Whether voices are moved to a reference voice that is not set yet."""
        voice = self.audio_speech_encoder.voice
        return voice is not None and not bool(voice.precision.any())

    def listen(self, batches: Sequence[Batch]) -> None:
        """Take the voice of the speaker with the most clips as the reference, or of all clips if no speaker is known.

        Silent clips do not count. ValueError if all clips are silent.
        """
        voice = self.audio_speech_encoder.voice
        assert voice is not None
        speakers = torch.cat([batch["speakers"] for batch in batches])
        covariance = torch.cat([batch[SOUND] for batch in batches])[:, 2:]
        heard = voice.heard(covariance)
        if not bool(heard.any()):
            raise ValueError(f"all of the first {len(heard)} clips are silent: there is no voice to move others to")
        known = heard & (speakers >= 0)
        chosen = known & (speakers == speakers[known].mode().values) if bool(known.any()) else heard
        voice.fit(covariance[chosen])

    def encode_speech(self, *, frames: Tensor | None = None, windows: Tensor | None = None) -> Tensor:
        """Encode speech in frames `[B, T, 3, S, S]` or windows `[B, T, 12, 20]`: F_w^v or F_w^a `[B, T, 256]`."""
        if frames is not None:
            return self.visual_speech_encoder(frames)
        assert windows is not None
        return self.encode_sound(windows)

    def encode_sound(self, windows: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Encode speech in windows `[B, T, 12, 20]`: F_w^a `[B, T, 256]`; statistics: `SOUND` of the batch."""
        return self.audio_speech_encoder(windows, statistics)

    def merged(self, frames: Tensor) -> Identity:
        """Encode the identity in frames `[B, K, 3, S, S]`: the mean of f_p^v, and the maps of a mean frame.

        Frames similar to the first, as those of one video are, average to a frame whose mouth and eyes are at rest.
        Other frames are left out of the mean frame.
        """
        alike = ((frames - frames[:, :1]).square().mean((2, 3, 4), keepdim=True) < ALIKE).float()
        mean = (frames * alike).sum(1, keepdim=True) / alike.sum(1, keepdim=True)
        feature = self.identity_encoder(frames).feature.mean(1, keepdim=True)
        return self.identity_encoder(mean)._replace(feature=feature)

    def adaptation_loss(self, photo: Tensor, generated: Tensor, before: Tensor) -> Tensor:
        """Return the L1 to the photo outside the mouth box plus, to preserve the lips, the L1 to `before` inside it."""
        return losses.outside_mouth_loss(photo, generated) + losses.mouth_loss(before, generated)

    def imitation_loss(self, real: Tensor, generated: Tensor) -> Tensor:
        """Return L_1 plus the L1 of the mouth box and that of its motion, in the proportions of the presets."""
        return losses.imitation_loss(real, generated)

    def words_from_video(self, speech: Tensor) -> Tensor:
        """Map F_w^v `[B, T, 256]` to word logits `[B, N_w]`."""
        return self.word_classifier(speech)

    def words_from_audio(self, speech: Tensor) -> Tensor:
        """Map F_w^a `[B, T, 256]` to word logits `[B, N_w]`, by the same classifier if it is shared."""
        return (self.audio_word_classifier or self.word_classifier)(speech)

    def embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """Return f_p^v of the portrait, F_w^v, F_w^a and the logits of C_w for these."""
        found: dict[str, Tensor] = {}
        if PORTRAIT in batch:
            found["identity"] = self.identity_encoder(batch[PORTRAIT]).feature[:, 0]
        if FRAMES in batch:
            found["video"] = self.encode_speech(frames=batch[FRAMES])
            found["audio"] = self.encode_sound(batch[WINDOWS], batch.get(SOUND))
            found["video_logits"] = self.words_from_video(found["video"])
            found["audio_logits"] = self.words_from_audio(found["audio"])
        return found


def first_terms(model: SpeechModel, batch: Batch, wanted: Collection[str], gather: Gather) -> dict[str, Tensor]:
    """Return the terms of the first two stages of AMIE and ET-GAN, as in DAVS: people, and the speech space."""
    found: dict[str, Tensor] = {}
    if "person" in wanted and PORTRAIT in batch and model.person_classifier is not None:
        feature = model.identity_encoder(batch[PORTRAIT]).feature
        found["person"] = losses.person_loss(model.person_classifier(feature), batch["speakers"])
    if any(name in wanted for name in ("word", "contrastive", "domain", "domain_confusion")):
        video = model.encode_speech(frames=batch[FRAMES])
        audio = model.encode_sound(batch[WINDOWS], batch.get(SOUND))
        found |= speech_terms(model, batch, video, audio, wanted, gather)
    return found


def speech_terms(
    model: SpeechModel,
    batch: Batch,
    video: Tensor,
    audio: Tensor,
    wanted: Collection[str],
    gather: Gather,
    *,
    form: Form = "paper",
) -> dict[str, Tensor]:
    """Return the wanted ones of L_w, L_C and both sides of L_adv^D, of F_w^v and F_w^a `[B, T, 256]`."""
    found: dict[str, Tensor] = {}
    if "word" in wanted:
        found["word"] = losses.word_loss(model.words_from_video(video), model.words_from_audio(audio), batch["words"])
    if "contrastive" in wanted:
        found["contrastive"] = losses.contrastive_loss(gather(video), gather(audio), form=form)
    if "domain" in wanted or "domain_confusion" in wanted:
        found["domain"] = losses.domain_loss(model.domain_discriminator, video, audio)
        found["domain_confusion"] = losses.domain_confusion(model.domain_discriminator, video, audio, form=form)
    return found
