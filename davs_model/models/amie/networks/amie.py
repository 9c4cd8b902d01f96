"""Figure 2: the next frame from a face, audio and the frame generated before; its discriminator and estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from davs_model.data.clips import Clips
from davs_model.data.pictures import MOUTH_REGION, WHOLE
from davs_model.data.reads import Batch
from davs_model.models.amie import curve, objective
from davs_model.models.amie import settings as own
from davs_model.models.amie import stages as own_stages
from davs_model.models.amie.dimensions import Dimensions
from davs_model.models.amie.masks import mask
from davs_model.models.amie.networks.attention import DynamicAttention
from davs_model.models.amie.networks.discriminator import FrameDiscriminator
from davs_model.models.amie.networks.estimator import Estimator
from davs_model.models.amie.networks.image import ImageEncoder
from davs_model.models.amie.paper import TABLES
from davs_model.models.amie.stages import LABELS, STAGES
from davs_model.models.base import Measure, Stage
from davs_model.models.davs.networks import sized
from davs_model.models.davs.networks.identity import Identity, IdentityEncoder
from davs_model.models.davs.networks.layers import FEATURES
from davs_model.models.davs.settings import STANDARDISE
from davs_model.models.davs.speech_model import SpeechModel


class FaceState(NamedTuple):
    """The identity of the speaker, and the state of the generation."""

    identity: Identity
    """Of the input face I_f."""
    frame: Tensor
    """The frame generated last, `[B, 1, 3, S, S]`; at first the input face."""


class Generated(NamedTuple):
    """Frames that were generated one after the other."""

    frames: Tensor
    """`[B, T, 3, S, S]`, RGB in [0, 1], float32."""
    attention: Tensor
    """Logits of P of all frames but the first, `[B, T − 1, S/4, S/4]`; of no frames if nothing is masked."""
    face: FaceState
    """The state from which the next frame is generated."""


class AMIE(SpeechModel):
    """Arbitrary talking faces by attentional audio-visual coherence.

    Frames are RGB in [0, 1], `[B, T, 3, S, S]`; windows `[B, T, 12, 20]`, as in the shards (the paper's are 13×20);
    features 256 long. The identity and speech encoders and the decoder are those of DAVS (ours: the paper names none).

    dimensions: those of `amie.dimensions.Dimensions`.
    """

    name: ClassVar[str] = "amie"
    Settings = own.Settings
    stages = STAGES
    labels = LABELS
    drivers = ("audio",)
    in_order = True
    paper = TABLES
    reads = staticmethod(own_stages.reads)
    training_reads = staticmethod(own_stages.training_reads)
    plan = staticmethod(own_stages.plan)
    Dimensions = Dimensions
    own_terms = objective.own_terms

    def __init__(self, **dimensions: Any) -> None:
        size = Dimensions(**dimensions)
        super().__init__(size)
        side = size.image_size
        self.identity_encoder = IdentityEncoder(width=size.width, image_size=side)
        self.visual_speech_encoder = sized.visual_speech_encoder(size)
        self.audio_speech_encoder = sized.audio_speech_encoder(size)
        self.image_encoder = ImageEncoder(width=size.width, size=side)
        self.decoder = sized.decoder(size, speech_length=2 * FEATURES)
        self.attention = DynamicAttention(image_size=side)
        self.estimator = Estimator(
            width=size.width,
            audio_width=size.audio_width or size.width,
            image_size=side,
            box=MOUTH_REGION if size.mouth_estimator else WHOLE,
            standardise=STANDARDISE[size.standardise],
        )
        self.frame_discriminator = FrameDiscriminator(width=size.width, image_size=side)
        sized.add_classifiers(self, size)

    def idle(self, stage: Stage, settings: own.Settings, *, people_are_speakers: bool) -> set[str]:
        """Return terms without a classifier, that of T without `mi`, and that of attention if there is none."""
        found = super().idle(stage, settings, people_are_speakers=people_are_speakers)
        if stage.generates and not settings.weights.mi:
            found.add("estimator")
        if settings.attention.on == "none" or settings.generation.frames < 2:
            found.add("mask")
        return found

    def measures(self, stage: str, clips: Clips, device: torch.device, *, limit: int) -> tuple[Measure, ...]:
        """Return the estimator's bound for matched and for shifted audio, once it is trained; see `curve`."""
        trained = any("estimator" in phase.networks for phase in STAGES[stage].phases)
        return curve.measure(self, clips, device, limit) if trained else ()

    def initialise(self, batch: Batch) -> None:
        """Fit the last layers of the speech encoders, and give T the statistics by which MFCC are standardised."""
        super().initialise(batch)
        mine, its = self.audio_speech_encoder, self.estimator.audio_encoder
        if mine.standardise == "corpus":
            its.mean.copy_(mine.mean)
            its.deviation.copy_(mine.deviation)

    @property
    def listens(self) -> bool:
        """Whether voices are moved to a reference voice that is not set yet, or that T does not have."""
        its = self.estimator.audio_encoder.voice
        return super().listens or (its is not None and not bool(its.precision.any()))

    def listen(self, batches: Sequence[Batch]) -> None:
        """Set the reference voice, unless there is one, and copy it to T."""
        if super().listens:
            super().listen(batches)
        mine, its = self.audio_speech_encoder.voice, self.estimator.audio_encoder.voice
        assert mine is not None
        assert its is not None
        its.precision.copy_(mine.precision)

    def encode_identity(self, frames: Tensor) -> FaceState:
        """Encode the identity in one frame per clip, `[B, 1, 3, S, S]`, which is also the frame before the first."""
        return FaceState(self.identity_encoder(frames), frames)

    def encode_person(self, frames: Tensor) -> FaceState:
        """Encode the identity in frames `[B, K, 3, S, S]`; their mean frame is the frame before the first."""
        identity = self.merged(frames)
        return FaceState(identity, identity.frames)

    def generate(
        self,
        face: FaceState,
        speech: Tensor,
        *,
        on: own.On = "previous",
        rates: Sequence[float] = (),
        taught: Tensor | None = None,
        teaches: Sequence[bool] = (),
    ) -> Generated:
        """Generate frames one after the other, each from the face, the speech `[B, T, 256]` and the frame before.

        on: what attention masks. rates: r of each frame; empty: 1, as after training: nothing is masked, and no
            attention is computed.
        taught: real frames `[B, T, 3, S, S]`; real frame i − 1 is fed to frame i if `teaches[i]`.
        No gradient passes from a frame to the one before.
        """
        frames: list[Tensor] = []
        logits: list[Tensor] = []
        attention = self.attention.first(len(face.frame), speech.device)
        for i, spoken in enumerate(speech.split(1, dim=1)):
            frame = face.frame if not (i and teaches and teaches[i] and taught is not None) else taught[:, i - 1 : i]
            frame = frame.detach()
            if i and rates:
                logits.append(self.attention(frame[:, 0], attention.detach()))
                attention = self.attention.attention(logits[-1])
            frames.append(self._draw(face.identity, frame, spoken, attention, rates[i] if rates else 1.0, on))
            face = FaceState(face.identity, frames[-1].detach())
        predicted = torch.cat(logits, dim=1) if logits else attention[:, :0]
        return Generated(torch.cat(frames, dim=1), predicted, face)

    def _draw(
        self, identity: Identity, frame: Tensor, spoken: Tensor, attention: Tensor, rate: float, on: own.On
    ) -> Tensor:
        """Generate the next frame `[B, 1, 3, S, S]`; attention: P_i; rate: 1 masks nothing."""
        if rate < 1:
            masked = mask(attention, rate, frame.shape[-1])[:, None]
            if on in ("face", "both"):
                identity = self.identity_encoder(identity.frames * masked)  # G keeps parts of the masked frame
            if on in ("previous", "both"):
                frame = frame * masked
        codes = torch.cat((self.image_encoder(frame), spoken.expand(len(frame), -1, -1)), dim=-1)
        return self.decoder(identity, codes)

    def decode(self, identity: FaceState, speech: Tensor) -> Tensor:
        """Generate frames `[B, T, 3, S, S]` of a face from f_a `[B, T, 256]`."""
        return self.decode_on(identity, speech)[0]

    def decode_on(self, identity: FaceState, speech: Tensor) -> tuple[Tensor, FaceState]:
        """Generate frames, and return the state from which the next ones are generated."""
        generated = self.generate(identity, speech)
        return generated.frames, generated.face
