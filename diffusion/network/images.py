"""A convolutional network for images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdesolve.errors import message

from .clock import ClockFeatures, zero

__all__ = ["ImageNet"]

#: most cells a side that a dense layer across pixels acts on: a million weights for a square image
GRID = 32


class ImageNet(nn.Module):
    """A residual convolutional network at one resolution, with a learned position and time-dependent scales.

    Each block looks at neighbourhoods; a dense layer across all pixels follows it, which a small image can afford. A
    large one is averaged over the cells of a grid for it, of at most `GRID` cells a side.

    Parameters
    ----------
    channels : of the images. size : ``(height, width)``.
    inputs : channels that come in; default `channels`.
    width : channels inside, a multiple of 8. depth : number of blocks, of two 3x3 convolutions each.
    dropout : probability, in training mode only.

    Called as ``net(c, h)`` with c of shape ``(batch,)``, of order 1, and h of shape ``(batch, inputs, height,
    width)``; returns ``(batch, channels, height, width)``, zero before training.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        inputs: int | None = None,
        width: int = 48,
        depth: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width <= 0 or width % 8:
            raise ValueError(message("width", repr(width), "a positive multiple of 8"))
        features = 2 * width
        self.clock = ClockFeatures(features)
        self.enter = nn.Conv2d(channels if inputs is None else inputs, width, 3, padding=1)
        self.position = nn.Parameter(0.02 * torch.randn(1, width, *size))
        self.blocks = nn.ModuleList(ResidualBlock(width, features, dropout) for _ in range(depth))
        self.mixers = nn.ModuleList(PixelMixer(width, size) for _ in range(depth))
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        zero(self.leave)

    def forward(self, c: Tensor, h: Tensor) -> Tensor:
        features = self.clock(c)
        h = self.enter(h) + self.position
        for block, mixer in zip(self.blocks, self.mixers, strict=True):
            h = mixer(block(h, features))
        return self.leave(F.silu(h))


class ResidualBlock(nn.Module):
    """h + conv(dropout(silu(scale * norm(conv(silu(norm(h)))) + shift))); scale and shift follow the
    clock."""

    def __init__(self, width: int, features: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.norm = nn.GroupNorm(8, width)
        self.modulation = nn.Linear(features, 2 * width)
        last = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), last)
        zero(last)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.modulation(features)[:, :, None, None].chunk(2, 1)
        return h + self.second(self.norm(self.first(h)) * (1 + scale) + shift)


class PixelMixer(nn.Module):
    """h + A silu(P norm(h)): P acts across the pixels, the same for all channels; A across the channels.

    size : ``(height, width)``. A side above `GRID` is brought to it by averages, and back by bilinear interpolation.

    References
    ----------
    Tolstikhin et al. (2021). MLP-Mixer: an all-MLP architecture for vision. NeurIPS.
    """

    def __init__(self, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.size, self.grid = size, (min(size[0], GRID), min(size[1], GRID))
        pixels = math.prod(self.grid)
        self.across_pixels = nn.Linear(pixels, pixels)
        self.across_channels = nn.Conv2d(width, width, 1)
        zero(self.across_channels)

    def forward(self, h: Tensor) -> Tensor:
        seen = self.norm(h)
        if self.grid != self.size:
            seen = F.adaptive_avg_pool2d(seen, self.grid)
        mixed = self.across_pixels(seen.flatten(2)).reshape(seen.shape)
        if self.grid != self.size:
            mixed = F.interpolate(mixed, size=self.size, mode="bilinear")
        return h + self.across_channels(F.silu(mixed))
