"""C_w, C_p^w, C_w^p, the person softmax and the domain discriminator: the classifiers of words, people and modalities.

All return logits, not probabilities: the losses take softmax and sigmoid in float32, where they cannot overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from davs_model.models.davs.networks.identity import Identity
from davs_model.models.davs.networks.layers import FEATURES, channels, check_image_size, expect, fold, unfold, unused


class WordClassifier(nn.Module):
    """C_w, the word classifier that both modalities share.

    n_words: N_w. n_frames: T, number of features that it reads at once.
    """

    def __init__(self, *, n_words: int, n_frames: int = 12) -> None:
        super().__init__()
        self.n_frames = n_frames
        self.fc1 = nn.Linear(n_frames * FEATURES, 512)
        self.fc2 = nn.Linear(512, n_words)
        self.unused = unused(real=nn.Linear(512, 1))

    def forward(self, speech: Tensor) -> Tensor:
        """Map F_w^v or F_w^a `[B, T, 256]` to logits `[B, N_w]`."""
        expect(speech, self.n_frames, FEATURES)
        return self.fc2(self.fc1(speech.flatten(1)).relu())


class IdentityWordClassifier(nn.Module):
    """C_p^w, the adversary of eq. 2 and 3: can the word still be read from the identity features?

    n_words: N_w. n_frames: T, number of consecutive frames that it reads. width, image_size: of the identity encoder.
    from_feature: read f_p^v instead of the maps that the released code reads; not in the paper. The features are scaled
        to variance 1 over clips and frames, and their mean over the T frames, the person, is subtracted. In training,
        noise is added. Changes smaller than the noise cannot be read, so the encoder hides words by keeping its
        features nearly constant. This does not hide them from another classifier that first rescales the changes.
    """

    NOISE = 0.1
    """Standard deviation of the noise; that of the features is 1."""

    def __init__(
        self,
        *,
        n_words: int,
        n_frames: int = 20,
        width: float = 1.0,
        image_size: int = 256,
        from_feature: bool = False,
    ) -> None:
        super().__init__()
        check_image_size(image_size)
        self.from_feature = from_feature
        self.shape = (FEATURES,) if from_feature else (channels(64, width), image_size // 4, image_size // 4)
        self.n_frames = n_frames
        self.norm = nn.BatchNorm1d(FEATURES, affine=False) if from_feature else nn.Identity()
        self.frame = (
            nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(inplace=True), nn.Linear(FEATURES, 128))
            if from_feature
            else nn.Sequential(
                nn.Conv2d(self.shape[0], 1, 3, 2, 1),
                nn.ReLU(inplace=True),
                nn.Flatten(),
                nn.Linear((image_size // 8) ** 2, 128),
            )
        )
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(n_frames * 128, n_words)

    def read(self, identity: Identity) -> Tensor:
        """Return the part of an identity that it reads: `Identity.quarter`, or the feature."""
        return identity.feature if self.from_feature else identity.quarter

    def forward(self, identity: Tensor) -> Tensor:
        """Map the output of `read` for T frames, `[B, T, 64, S/4, S/4]` or `[B, T, 256]`, to logits `[B, N_w]`."""
        frames = self.norm(fold(identity, *self.shape))
        if self.from_feature:
            frames = self._changes(unfold(frames, len(identity))).flatten(0, 1)
        vectors = unfold(self.frame(frames), len(identity))
        return self.fc(self.dropout(vectors.flatten(1)))

    def _changes(self, features: Tensor) -> Tensor:
        changes = features - features.mean(1, keepdim=True)
        return changes + self.NOISE * torch.randn_like(changes) if self.training else changes


class SpeechPersonClassifier(nn.Module):
    """C_w^p, the adversary of eq. 4 and 5: can the person still be read from the visual speech features?

    The released code has no such network.

    n_people: N_p of the talking clips.
    """

    def __init__(self, *, n_people: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(inplace=True), nn.Linear(FEATURES, n_people))

    def forward(self, speech: Tensor) -> Tensor:
        """Map f_w^v `[B, T, 256]` to logits `[B, T, N_p]`."""
        return self.layers(speech)


class PersonClassifier(nn.Module):
    """The softmax over people that supervises the identity encoder.

    n_people: N_p of the labelled faces.
    """

    def __init__(self, *, n_people: int) -> None:
        super().__init__()
        self.fc = nn.Linear(FEATURES, n_people)

    def forward(self, identity: Tensor) -> Tensor:
        """Map f_p^v `[B, T, 256]` to logits `[B, T, N_p]`."""
        return self.fc(identity)


class DomainDiscriminator(nn.Module):
    """D of the domain GAN: does a feature come from audio or from video?"""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(inplace=True), nn.Linear(FEATURES, 1))

    def forward(self, speech: Tensor) -> Tensor:
        """Map single features `[B, T, 256]` to logits `[B, T, 1]` of audio."""
        return self.layers(speech)
