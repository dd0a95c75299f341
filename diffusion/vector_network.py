"""A residual network for vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .network import ClockFeatures, zero

__all__ = ["VectorNet"]


class VectorNet(nn.Module):
    """A residual network of dense layers with time-dependent scales, for vectors: what `ImageNet` is for images.

    Parameters
    ----------
    size : components that go out. inputs : components that come in; default `size`.
    width : of the layers. depth : number of blocks, of two layers each.

    Called as ``net(c, h)`` with c of shape ``(batch,)``, of order 1, and h of shape ``(batch, inputs)``; returns
    ``(batch, size)``, zero before training.
    """

    def __init__(self, size: int, *, inputs: int | None = None, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.clock = ClockFeatures(width)
        self.enter = nn.Linear(size if inputs is None else inputs, width)
        self.blocks = nn.ModuleList(DenseBlock(width) for _ in range(depth))
        self.leave = nn.Linear(width, size)
        zero(self.leave)

    def forward(self, c: Tensor, h: Tensor) -> Tensor:
        features = self.clock(c)
        h = self.enter(h)
        for block in self.blocks:
            h = block(h, features)
        return self.leave(F.silu(h))


class DenseBlock(nn.Module):
    """h + linear(silu(scale * linear(silu(norm(h))) + shift)); scale and shift follow the clock."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, width)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.modulation(features).chunk(2, 1)
        return h + self.last(F.silu(self.first(h) * (1 + scale) + shift))
