"""Networks for small images and for vectors, and the Gaussian that a network improves on.

- `ImageNet`: a residual convolutional network, time-conditioned, for images as small as 8x8
- `MLP`: dense layers, for data that are vectors
- `FourierMLP`: residual dense layers on sines and cosines, for few dimensions and fine detail
- `GaussianPreconditioned`: a network added to the exact denoiser of a Gaussian
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdesolve.errors import message

from .exact import Gaussian
from .process import Process, broadcast_time

__all__ = ["MLP", "FourierMLP", "GaussianPreconditioned", "ImageNet"]


class GaussianPreconditioned(nn.Module):
    """The exact denoiser of N(mean, S), and a network for what data have beyond their covariance; predicts
    noise.

    ::

        C = alpha^2 S + sigma^2 I,      w = C^-1/2 (x - alpha mean)
        noise(t, x) = sigma C^-1/2 w - (alpha^2 S C^-1)^1/2 net(c, [w, x]),      c = log_snr / 8

    All matrix functions are symmetric and share the eigenvectors of S. The input w has covariance I at every
    t, and so has what is left for the network to predict if the data are Gaussian: this is the
    preconditioning of Karras et al. (2022, section 5) with a full covariance in place of one variance. With a
    network that returns zero, it is the Gaussian's exact denoiser.

    Parameters
    ----------
    net : ``net(c, h) -> (batch, channels, *size)`` for c of shape ``(batch,)`` and h of shape
        ``(batch, 2 channels, *size)``, which holds w and x.
    process : the forward process.
    gaussian : the Gaussian, for states ``(channels, *size)``; typically :meth:`diffusion.exact.Gaussian.fit`
        of the training data.

    References
    ----------
    Karras, Aittala, Aila, Laine (2022). Elucidating the design space of diffusion-based generative models.
    NeurIPS.
    """

    mean: Tensor
    variances: Tensor
    basis: Tensor

    def __init__(self, net: nn.Module, process: Process, gaussian: Gaussian) -> None:
        super().__init__()
        self.net, self.process, self.state = net, process, tuple(gaussian.state)
        dtype = torch.get_default_dtype()
        self.register_buffer("mean", gaussian.means[0].to(dtype))
        self.register_buffer("variances", gaussian.variances[0].to(dtype))
        self.register_buffer("basis", gaussian.basis[0].to(dtype))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        if x.shape[1:] != self.state:
            accepted = f"(batch, {', '.join(map(str, self.state))})"
            raise ValueError(message("x", f"shape {tuple(x.shape)}", accepted))
        t = broadcast_time(t, x).reshape(-1).expand(x.shape[0])
        alpha, sigma = self.process.alpha(t)[:, None], self.process.sigma(t)[:, None]
        total = alpha**2 * self.variances + sigma**2
        whitened = ((x.flatten(1) - alpha * self.mean) @ self.basis) / total.sqrt()
        w = (whitened @ self.basis.T).reshape(x.shape)
        correction = self.net(self.process.log_snr(t) / 8, torch.cat([w, x], 1)).flatten(1) @ self.basis
        noise = (sigma * whitened - alpha * self.variances.sqrt() * correction) / total.sqrt()
        return (noise @ self.basis.T).reshape(x.shape)


class ImageNet(nn.Module):
    """A residual convolutional network at one resolution, with a learned position and time-dependent scales.

    Each block looks at neighbourhoods; a dense layer across all pixels follows it, which a small image can afford.

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
        pixels = size[0] * size[1]
        self.blocks = nn.ModuleList(ResidualBlock(width, features, dropout) for _ in range(depth))
        self.mixers = nn.ModuleList(PixelMixer(width, pixels) for _ in range(depth))
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        _zero(self.leave)

    def forward(self, c: Tensor, h: Tensor) -> Tensor:
        features = self.clock(c)
        h = self.enter(h) + self.position
        for block, mixer in zip(self.blocks, self.mixers, strict=True):
            h = mixer(block(h, features))
        return self.leave(F.silu(h))


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
        _zero(last)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.modulation(features)[:, :, None, None].chunk(2, 1)
        return h + self.second(self.norm(self.first(h)) * (1 + scale) + shift)


class PixelMixer(nn.Module):
    """h + A silu(P norm(h)): P acts across the pixels, the same for all channels; A across the channels.

    References
    ----------
    Tolstikhin et al. (2021). MLP-Mixer: an all-MLP architecture for vision. NeurIPS.
    """

    def __init__(self, width: int, pixels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.across_pixels = nn.Linear(pixels, pixels)
        self.across_channels = nn.Conv2d(width, width, 1)
        _zero(self.across_channels)

    def forward(self, h: Tensor) -> Tensor:
        mixed = self.across_pixels(self.norm(h).flatten(2)).reshape(h.shape)
        return h + self.across_channels(F.silu(mixed))


def _zero(layer: nn.Module) -> None:
    """A layer that returns zero before training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


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
        _zero(self.leave)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``(batch,)`` times and ``(batch, size)`` points to ``(batch, size)``."""
        c, phase = self.clock(8 * t), x @ self.frequencies.mT
        h = self.enter(torch.cat([x, phase.sin(), phase.cos()], 1))
        for time, block in zip(self.times, self.blocks, strict=True):
            h = h + block(F.silu(h + time(c)))
        return self.leave(F.silu(h))
