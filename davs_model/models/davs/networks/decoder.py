"""G: the decoder, from an identity feature and a speech feature to a frame."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from davs_model.models.davs.networks.identity import Identity
from davs_model.models.davs.networks.layers import (
    FEATURES,
    channels,
    check_image_size,
    conv_bn_relu,
    double,
    fold,
    unfold,
)

BLOCKS = ((2, 512), (3, 512), (4, 256), (4, 256), (3, 128), (2, 64))
"""Convolutions and channels of each block; every block is followed by ×2 upsampling."""
JOINED = 3
"""Block (from 0) to whose input the identity maps of S/8 are prepended."""
JOINED_ALSO = {4: "quarter", 5: "half"}
"""Blocks to whose input larger identity maps are prepended too, depending on `identity_scales`."""
MAP_CHANNELS = {"eighth": 160, "quarter": 64, "half": 32}
"""Channels of the identity maps at width 1."""
KEPT = 2.0
"""Initial logit of α, the part of the identity frame that a blended frame keeps: .88."""


FLOWS = 4
"""Block (from 0) after which, at S/2, the flow is computed from the maps, if there is `flow`."""
REACH = 0.1
"""Unit of the flow, in half sides of the frame: outputs of a new network then move the frame by some pixels."""


class Decoder(nn.Module):
    """G, convolutions and bilinear upsampling from a vector to an image.

    width: channel multiplier; the features stay 256 long.
    image_size: S, 64, 128 or 256; the first maps are S/64 wide, so that six doublings give S.

    The other arguments are not in the paper. By default they are off, which gives the released network.

    identity_scales: identity maps that are joined: 1: those of S/8, 2: of S/4 too, 3: of S/2, 4: the frame itself.
    blend: output a fourth map α; the frame is α · identity frame + (1 − α) · output.
    flow: warp the identity frame, before it is joined and blended, by a flow that is computed at S/2. This frame is all
        the information about an unseen face; how lips and chin move is learned from other people.
    speech_map: channels of a map of S/8 that a linear layer computes from the speech feature; joined with the identity
        maps.
    speech_length: length of the speech feature, which may carry more than speech.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        image_size: int = 256,
        identity_scales: int = 1,
        blend: bool = False,
        speech_map: int = 0,
        speech_length: int = FEATURES,
        flow: bool = False,
    ) -> None:
        super().__init__()
        check_image_size(image_size)
        if identity_scales not in range(1, 5):
            raise ValueError(f"identity_scales {identity_scales}: 1 to 4")
        self.image_size, self.blend, self.frame_joined = image_size, blend, identity_scales == 4
        self.speech_length = speech_length
        self.joined = {JOINED: "eighth", **dict(list(JOINED_ALSO.items())[: identity_scales - 1])}
        self.to_map = nn.Linear(speech_length, speech_map * (image_size // 8) ** 2) if speech_map else None
        in_channels = channels(512, width)
        self.first = nn.Sequential(
            nn.ConvTranspose2d(FEATURES + speech_length, in_channels, image_size // 2 ** len(BLOCKS)),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList()
        for number, (count, out_channels) in enumerate(BLOCKS):
            if number in self.joined:
                in_channels += channels(MAP_CHANNELS[self.joined[number]], width)
            if number == JOINED:
                in_channels += speech_map
            out_channels = channels(out_channels, width)
            widths = (in_channels, *(out_channels,) * count)
            self.blocks.append(nn.Sequential(*(conv_bn_relu(*pair) for pair in pairwise(widths))))
            in_channels = out_channels
        c32 = channels(32, width)
        in_channels += 3 * self.frame_joined
        self.last = nn.Sequential(
            nn.ConvTranspose2d(in_channels, c32, 3, padding=1),
            nn.BatchNorm2d(c32),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(c32, 3 + blend, 3, padding=1),
        )
        self.to_flow = nn.Conv2d(channels(BLOCKS[FLOWS][1], width), 2, 3, padding=1) if flow else None
        if self.to_flow is not None:
            for parameter in self.to_flow.parameters():
                nn.init.zeros_(parameter)
        if blend:
            self._keep_the_frame()

    @torch.no_grad()
    def _keep_the_frame(self) -> None:
        """Initialise the last layer so that output frames are nearly the identity frame."""
        last = self.last[-1]
        assert isinstance(last, nn.ConvTranspose2d)
        assert last.bias is not None
        last.bias[3] = KEPT
        last.weight[:, 3] *= 0.1

    def forward(self, identity: Identity, speech: Tensor) -> Tensor:
        """Generate RGB frames `[B, T, 3, S, S]` in [0, 1], float32.

        identity: of one frame per clip, `[B, 1, …]`, or of T frames, `[B, T, …]`.
        speech: f_w^v or f_w^a, `[B, T, 256]`, or of length `speech_length`.
        """
        batch, n_frames = speech.shape[:2]

        def each(maps: Tensor) -> Tensor:
            return maps.expand(batch, n_frames, *maps.shape[2:]).flatten(0, 1)

        person = identity.feature.expand(batch, n_frames, FEATURES)
        vectors = torch.cat((fold(person, FEATURES), fold(speech, self.speech_length)), dim=1)
        maps = self.first(vectors[:, :, None, None])
        frame = each(identity.frames)
        for number, block in enumerate(self.blocks):
            if number in self.joined:
                maps = torch.cat((each(getattr(identity, self.joined[number])), maps), dim=1)
            if number == JOINED and self.to_map is not None:
                side = self.image_size // 8
                maps = torch.cat((self.to_map(speech.flatten(0, 1)).unflatten(1, (-1, side, side)), maps), dim=1)
            maps = double(block(maps))
            if number == FLOWS and self.to_flow is not None:
                frame = moved(frame, REACH * self.to_flow(maps).float())
        if self.frame_joined:
            maps = torch.cat((frame, maps), dim=1)
        # In float32 also under autocast: half precision has fewer steps than an image has grey levels.
        drawn = self.last(maps).float()
        picture = (drawn[:, :3].tanh() + 1) / 2
        if self.blend:
            kept = drawn[:, 3:].sigmoid()
            picture = kept * frame.float() + (1 - kept) * picture
        return unfold(picture, batch)


def moved(frames: Tensor, flow: Tensor) -> Tensor:
    """Warp frames: sample each pixel bilinearly from where the flow points to; float32 `[N, 3, S, S]`.

    flow: `[N, 2, s, s]`, x and y, in half sides of the frame; positions beyond the edge are clamped to it.
    """
    side = frames.shape[-1]
    flow = functional.interpolate(flow, size=(side, side), mode="bilinear", align_corners=False)
    centres = (torch.arange(side, device=flow.device) + 0.5) * (2 / side) - 1
    down, across = torch.meshgrid(centres, centres, indexing="ij")
    where = torch.stack((across, down), dim=-1) + flow.movedim(1, -1)
    return functional.grid_sample(frames.float(), where, padding_mode="border", align_corners=False)
