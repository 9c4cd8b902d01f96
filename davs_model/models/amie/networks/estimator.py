"""T: the estimator of the mutual information of a frame and its audio."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from davs_model.data.pictures import WHOLE, Box, as_read
from davs_model.models.amie.networks.image import ImageEncoder
from davs_model.models.davs.networks.layers import FEATURES
from davs_model.models.davs.networks.speech import AudioSpeechEncoder


class Estimator(nn.Module):
    """T, an image and an audio encoder of the generator's architectures, and a classifier of three layers.

    width, audio_width: channel multipliers. image_size: S of its input frames.
    box: the part of the frames that it sees; a part smaller than the frame is seen at S/2.
    standardise: as in the generator's audio encoder.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        audio_width: float = 1.0,
        image_size: int = 256,
        box: Box = WHOLE,
        standardise: str = "none",
    ) -> None:
        super().__init__()
        self.box, self.size = box, image_size if box == WHOLE else image_size // 2
        self.image_encoder = ImageEncoder(width=width, size=self.size)
        self.audio_encoder = AudioSpeechEncoder(width=audio_width, standardise=standardise)
        self.classifier = nn.Sequential(
            nn.Linear(2 * FEATURES, 256),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(256, 64),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(64, 1),
        )

    def encode(self, frames: Tensor, windows: Tensor, sound: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode frames `[B, T, 3, S, S]` and windows `[B, N, 12, 20]` as `[B, T, 256]` and `[B, N, 256]`.

        sound: mean and standard deviation of the coefficients of each clip, for `standardise` by clip.
        """
        return self.image_encoder(as_read(frames, self.box, self.size)), self.audio_encoder(windows, sound)

    def forward(self, images: Tensor, sounds: Tensor) -> Tensor:
        """Return T of every frame with every window of its clip, `[B, T, N]`, from the features of `encode`."""
        n_frames, n_windows = images.shape[1], sounds.shape[1]
        pairs = torch.cat(
            (
                images[:, :, None].expand(-1, -1, n_windows, -1),
                sounds[:, None].expand(-1, n_frames, -1, -1),
            ),
            dim=-1,
        )
        return self.classifier(pairs)[..., 0].float()
