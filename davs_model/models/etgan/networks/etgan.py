"""ET-GAN-ACW: frames from views of a face, an expression, audio and positions, which are weighted and fused."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from davs_model.data.clips import Clips
from davs_model.data.reads import Batch
from davs_model.models.base import EXPRESSION, Measure, Stage
from davs_model.models.davs.networks import sized
from davs_model.models.davs.networks.identity import Identity, IdentityEncoder
from davs_model.models.davs.networks.layers import FEATURES
from davs_model.models.davs.speech_model import SpeechModel
from davs_model.models.etgan import objective, readings
from davs_model.models.etgan import settings as own
from davs_model.models.etgan import stages as own_stages
from davs_model.models.etgan.dimensions import MODALITIES, Dimensions
from davs_model.models.etgan.networks import expression as expressions
from davs_model.models.etgan.networks import position
from davs_model.models.etgan.networks.discriminators import ClipDiscriminator, FrameDiscriminator
from davs_model.models.etgan.networks.expression import EmotionReader, ExpressionEncoder, classifier
from davs_model.models.etgan.networks.position import PositionEncoder
from davs_model.models.etgan.networks.views import ViewMerge
from davs_model.models.etgan.networks.weighting import CrossModalWeighting
from davs_model.models.etgan.stages import LABELS, STAGES

MEMORY = 0.005
"""Minimum weight of a new clip in the running mean expression of its emotion."""


class ExpressiveFace(NamedTuple):
    """The identity of the speaker, and the expression."""

    identity: Identity
    """From one frame, or from several merged ones: `[B, 1, …]`."""
    expression: Tensor
    """e_exp `[B, 64]`."""


class ETGAN(SpeechModel):
    """Expression-tailored talking faces with adaptive cross-modal weighting.

    Frames are RGB in [0, 1], `[B, T, 3, S, S]`; windows `[B, T, 12, 20]`, as in the shards; features 256 long, e_exp
    64. Identity and speech encoders and the decoder are those of DAVS (ours: the abstract names none). The first half
    of the fused features takes the place of the identity feature in the decoder, the second that of speech.

    dimensions: those of `etgan.dimensions.Dimensions`.
    """

    name: ClassVar[str] = "etgan"
    Settings = own.Settings
    stages = STAGES
    labels = LABELS
    drivers = ("audio",)
    modalities = MODALITIES
    Dimensions = Dimensions
    expression_length = expressions.EXPRESSION
    adapts = ("identity_encoder", "decoder")
    reads = staticmethod(own_stages.reads)
    training_reads = staticmethod(own_stages.training_reads)
    uses = staticmethod(own_stages.uses)
    plan = staticmethod(own_stages.plan)
    own_terms = objective.own_terms

    def __init__(self, **dimensions: Any) -> None:
        size = Dimensions(**dimensions)
        super().__init__(size)
        width, side = size.width, size.image_size
        self.identity_encoder = IdentityEncoder(width=width, image_size=side)  # E_id
        self.merge = ViewMerge()
        self.expression_encoder = ExpressionEncoder(width=width, image_size=side, rank=size.expression_rank)  # E_exp
        self.audio_speech_encoder = sized.audio_speech_encoder(size)  # E_aud
        self.position_encoder = PositionEncoder()  # E_pos
        lengths = (FEATURES, expressions.EXPRESSION, FEATURES, position.FEATURES)
        self.weighting = CrossModalWeighting(lengths, adaptive=bool(size.weighting))
        self.decoder = sized.decoder(size)
        self.frame_discriminator = FrameDiscriminator(width=width, image_size=side)
        self.clip_discriminator = ClipDiscriminator(width=width)
        several = size.n_emotions > 1
        self.judge = EmotionReader(n_emotions=size.n_emotions, width=width, image_size=side) if several else None
        self.emotion_classifier = classifier(size.n_emotions) if several else None
        self.expression_person_classifier = classifier(size.n_speakers) if size.n_speakers > 1 else None
        self.expression_word_classifier = classifier(size.n_words) if size.n_words > 1 else None
        self.visual_speech_encoder = sized.visual_speech_encoder(size)
        sized.add_classifiers(self, size)
        # The mean of each emotion, and of all clips.
        self.expressions: Tensor
        self.expressions_seen: Tensor
        self.register_buffer("expressions", torch.zeros(size.n_emotions + 1, expressions.EXPRESSION))
        self.register_buffer("expressions_seen", torch.zeros(size.n_emotions + 1))

    def idle(self, stage: Stage, settings: own.Settings, *, people_are_speakers: bool) -> set[str]:
        """Return terms whose classifier the model lacks for want of labels, and that of the weighting if it is off."""
        found = super().idle(stage, settings, people_are_speakers=people_are_speakers)
        readers = {
            "judge": self.judge,
            "read": self.judge,
            "emotion": self.emotion_classifier,
            "expression_person": self.expression_person_classifier,
            "expression_word": self.expression_word_classifier,
            "doubt": self.weighting if self.weighting.adaptive else None,
        }
        return found | {term for term, reader in readers.items() if reader is None}

    def measures(self, stage: str, clips: Clips, device: torch.device, *, limit: int) -> tuple[Measure, ...]:
        """Return how well emotions are recognised in real and in generated frames; see `readings`."""
        return readings.measure(self, stage, clips, device, limit)

    @torch.no_grad()
    def remember(self, code: Tensor, emotions: Tensor) -> None:
        """Update the mean e_exp of each emotion in training. code: `[B, 64]`; emotions: `[B]`, −1 where unknown.

        The clips must be those of all processes, or the means would differ between processes.
        """
        if not self.training:
            return
        for row in range(len(self.expressions)):
            some = code if row == len(self.expressions) - 1 else code[emotions == row]
            if len(some):
                self.expressions_seen[row] += len(some)
                rate = max(len(some) / float(self.expressions_seen[row]), min(1.0, MEMORY * len(some)))
                self.expressions[row].lerp_(some.float().mean(0), rate)

    def embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embeddings by DAVS's encoders, and e_exp `[B, 64]` as `expression`."""
        found = super().embeddings(batch)
        if EXPRESSION in batch:
            found["expression"] = self.encode_expression(batch[EXPRESSION])
        return found

    def encode_identity(self, frames: Tensor) -> ExpressiveFace:
        """Encode the identity in one frame per clip, `[B, 1, 3, S, S]`, with the mean expression of all clips."""
        return self.encode_person(frames[:, :1])

    def encode_person(self, frames: Tensor) -> ExpressiveFace:
        """Encode the identity in frames `[B, K, 3, S, S]`, in any order; see `ViewMerge` for which of them is shown."""
        identity, _ = self.merge(self.identity_encoder(frames))
        return self.expressing(ExpressiveFace(identity, frames.new_empty(0)), self.mean_expression())

    def person_features(self, frames: Tensor) -> Tensor:
        """Return the merged identity feature `[B, 256]` of frames `[B, K, 3, S, S]`, in any order."""
        return self.merge(self.identity_encoder(frames))[0].feature[:, 0]

    def encode_expression(self, frames: Tensor) -> Tensor:
        """Encode the expression in frames of any person `[B, T, 3, S, S]`, best evenly spread, as e_exp `[B, 64]`."""
        return self.expression_encoder(frames)

    def mean_expression(self, emotion: int | None = None) -> Tensor:
        """Return the mean e_exp of an emotion, or of all clips, `[1, 64]`."""
        row = len(self.expressions) - 1 if emotion is None else emotion
        return self.expressions[row : row + 1]

    def expressing(self, identity: ExpressiveFace, expression: Tensor) -> ExpressiveFace:
        """Return the identity with another e_exp, `[B, 64]` or `[1, 64]`."""
        return identity._replace(expression=expression.expand(len(identity.identity.feature), -1))

    def conditioned(self, identity: ExpressiveFace, batch: Batch) -> ExpressiveFace:
        """Return the identity with the expression of the clips of a batch."""
        return self.expressing(identity, self.encode_expression(batch[EXPRESSION])) if EXPRESSION in batch else identity

    def fuse(
        self, identity: Identity, expression: Tensor, audio: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weight and fuse all modalities; return the fused features `[B, T, 512]` and w `[B, T, 4, 8]`.

        expression: `[B, 64]`. audio: `[B, T, 256]`. positions: output of E_pos, `[B, T, 64]`; None: unknown.
        """
        return self.weighting(*self._of_frames(identity, expression, audio, positions))

    def doubts(self, identity: Identity, expression: Tensor, audio: Tensor, positions: Tensor) -> Tensor:
        """Return the logit `[B, T, 4]` that each modality of each frame is corrupted; arguments as in `fuse`."""
        return self.weighting.doubts(*self._of_frames(identity, expression, audio, positions))

    def _of_frames(
        self, identity: Identity, expression: Tensor, audio: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return the features `[B, T, …]` of each modality for each frame."""
        shape = audio.shape[:2]
        where = self.position_encoder.neutral() if positions is None else positions
        return (
            identity.feature.expand(*shape, -1),
            expression[:, None].expand(*shape, -1),
            audio,
            where.expand(*shape, -1),
        )

    def draw(self, identity: Identity, fused: Tensor) -> Tensor:
        """Generate frames `[B, T, 3, S, S]` of a person from fused features `[B, T, 512]`."""
        person, speech = fused.split(FEATURES, -1)
        return self.decoder(identity._replace(feature=person), speech)

    def decode(self, identity: ExpressiveFace, speech: Tensor) -> Tensor:
        """Generate frames `[B, T, 3, S, S]` of a face from speech features `[B, T, 256]`, with positions unknown."""
        return self.draw(identity.identity, self.fuse(identity.identity, identity.expression, speech)[0])

    def modality_weights(self, identity: ExpressiveFace, speech: Tensor) -> Tensor:
        """Return w of each frame, averaged over the groups of channels: `[B, T, 4]`."""
        return self.fuse(identity.identity, identity.expression, speech)[1].mean(-1)
