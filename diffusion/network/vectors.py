"""Networks of dense layers, for data that are vectors."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .clock import ClockFeatures, zero

__all__ = ["MLP", "FourierMLP", "VectorNet"]


class MLP(nn.Module):
    """Dense layers on [x, features of t], for data that are vectors.

    Parameters
    ----------
    size : components of a data point. width, depth : of the hidden layers.
    """

    def __init__(self, size: int, *, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.clock = ClockFeatures(width)
        sizes = [size + width, *[width] * depth]
        hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, size))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``(batch,)`` times and ``(batch, size)`` points to ``(batch, size)``."""
        return self.layers(torch.cat([x, self.clock(8 * t)], 1))


class FourierMLP(nn.Module):
    """Residual dense layers on sines and cosines of x, for densities in few dimensions with edges and gaps.

    ::

        h = A [x, sin(F x), cos(F x)],      h <- h + B_l silu(h + C_l clock(t))  for each block l,      out = D silu(h)

    with F drawn once from N(0, scale^2) and D zero before training. Without the sines and cosines dense layers learn
    what is smooth in x long before what is not.

    Parameters
    ----------
    size : components of a data point. width, depth : of the blocks. features : rows of F. scale : of F, in radians a
        unit of x, which should have a variance near 1, as ``prediction="edm"`` sees to. clock : features of t.

    References
    ----------
    Tancik et al. (2020). Fourier features let networks learn high frequency functions in low dimensional domains.
    NeurIPS.
    """

    frequencies: Tensor

    def __init__(
        self, size: int, *, width: int = 128, depth: int = 3, features: int = 32, scale: float = 2.0, clock: int = 32
    ) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(features, size))
        self.clock = ClockFeatures(clock)
        self.enter = nn.Linear(size + 2 * features, width)
        self.times = nn.ModuleList(nn.Linear(clock, width) for _ in range(depth))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, size)
        zero(self.leave)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``(batch,)`` times and ``(batch, size)`` points to ``(batch, size)``."""
        c, phase = self.clock(8 * t), x @ self.frequencies.mT
        h = self.enter(torch.cat([x, phase.sin(), phase.cos()], 1))
        for time, block in zip(self.times, self.blocks, strict=True):
            h = h + block(F.silu(h + time(c)))
        return self.leave(F.silu(h))


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
