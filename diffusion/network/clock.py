"""What the networks share: features of time, and layers that return zero before training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ClockFeatures", "zero"]


class ClockFeatures(nn.Module):
    """Sines and cosines of c at frequencies k pi / 8, k = 1 .. 8, and two dense layers."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi / 8 * torch.arange(1, 9), persistent=False)
        self.layers = nn.Sequential(nn.Linear(17, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, c: Tensor) -> Tensor:
        phase = c[:, None] * self.frequencies
        return self.layers(torch.cat([c[:, None], phase.sin(), phase.cos()], 1))


def zero(layer: nn.Module) -> None:
    """A layer that returns zero before training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
