"""Networks for small images and for vectors, and the Gaussian that a network improves on.

- `ImageNet`: a residual convolutional network, time-conditioned, for images as small as 8x8
- `MLP`: dense layers, for data that are vectors (a residual network: `diffusion.vector_network`)
- `GaussianPreconditioned`: a network added to the exact denoiser of a Gaussian
- `Rescaled`: a network that sees states of order 1 and a time of order 1, whatever the process
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdesolve.errors import message

from .exact import Gaussian
from .prediction import Prediction
from .process import Process, broadcast_time

__all__ = ["GaussianPreconditioned", "MLP", "ImageNet", "Rescaled"]


class GaussianPreconditioned(nn.Module):
    """The exact denoiser of N(mean, S), and a network for what data have beyond their covariance.

    ::

        C = alpha^2 S + sigma^2 I,      w = C^-1/2 (x - alpha mean)
        noise(t, x) = sigma C^-1/2 w - alpha (S C^-1)^1/2 net(c, [w, x]),      c = log_snr / 8
        data(t, x) = mean + alpha S C^-1/2 w + sigma (S C^-1)^1/2 net(c, [w, x])

    The two are one statement, as x = alpha data + sigma noise. All matrix functions are symmetric and share the
    eigenvectors of S. The input w has covariance I at every t, and so has what is left for the network to predict if
    the data are Gaussian: this is the preconditioning of Karras et al. (2022, section 5) with a full covariance in
    place of one variance. With a network that returns zero, it is the Gaussian's exact denoiser.

    Parameters
    ----------
    net : ``net(c, h) -> (batch, channels, *size)`` for c of shape ``(batch,)`` and h of shape
        ``(batch, 2 channels, *size)``, which holds w and x (over sqrt(alpha^2 + sigma^2), for a process whose noise
        grows beyond 1).
    process : the forward process, of data that are not shifted.
    gaussian : the Gaussian, for states ``(channels, *size)``; typically :meth:`diffusion.exact.Gaussian.fit`
        of the training data.
    prediction : what is returned: ``"noise"``, ``"data"``, ``"velocity"``, ``"score"`` or ``"flow"``, as of
        :class:`diffusion.Denoiser`.

    Raises
    ------
    ValueError : another prediction, or states of another shape.

    References
    ----------
    Karras, Aittala, Aila, Laine (2022). Elucidating the design space of diffusion-based generative models.
    NeurIPS.
    """

    mean: Tensor
    variances: Tensor
    basis: Tensor

    def __init__(self, net: nn.Module, process: Process, gaussian: Gaussian, prediction: str = "noise") -> None:
        super().__init__()
        if prediction not in ("noise", "data", "velocity", "score", "flow"):
            accepted = "'noise', 'data', 'velocity', 'score' or 'flow'"
            advice = "The prediction 'edm' has scalings of its own, for a network alone."
            raise ValueError(message("prediction", repr(prediction), accepted, advice))
        self.net, self.process, self.state, self.prediction = net, process, tuple(gaussian.state), prediction
        self.grows = process.prior.scale > 1.01
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
        seen = _rescaled(self.process, t, x) if self.grows else x
        correction = self.net(self.process.log_snr(t) / 8, torch.cat([w, seen], 1)).flatten(1) @ self.basis
        spread = self.variances.sqrt()
        noise = self._turned((sigma * whitened - alpha * spread * correction) / total.sqrt(), x)
        if self.prediction == "noise":
            return noise
        data = self._turned(spread * (alpha * spread * whitened + sigma * correction) / total.sqrt(), x)
        both = BothKnown(self.process, t, x, self.mean.reshape(x.shape[1:]) + data, noise)
        found: Tensor = getattr(both, self.prediction)
        return found

    def _turned(self, z: Tensor, x: Tensor) -> Tensor:
        """From the eigenvectors' coordinates back to states."""
        return (z @ self.basis.T).reshape(x.shape)


class BothKnown(Prediction):
    """What follows from data and noise that are both known, without a division by alpha."""

    def __init__(self, process: Process, t: Tensor, x: Tensor, data: Tensor, noise: Tensor) -> None:
        super().__init__(process, t, x, noise)
        self._data, self._noise = data, noise

    @property
    def data(self) -> Tensor:
        return self._data

    @property
    def noise(self) -> Tensor:
        return self._noise

    @property
    def flow(self) -> Tensor:
        return self.process.alpha_rate(self.t) * self.data + self.process.sigma_rate(self.t) * self.noise


class Rescaled(nn.Module):
    """net(c, x / sqrt(alpha^2 + sigma^2)), c = log_snr / 8: a network's output as it is, between inputs of order 1."""

    def __init__(self, net: nn.Module, process: Process) -> None:
        super().__init__()
        self.net, self.process = net, process

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``(batch,)`` times and ``(batch, *state)`` to the network's prediction, ``(batch, *state)``."""
        found: Tensor = self.net(self.process.log_snr(t) / 8, _rescaled(self.process, t, x))
        return found


def _rescaled(process: Process, t: Tensor, x: Tensor) -> Tensor:
    t = broadcast_time(t, x)
    return x / torch.sqrt(process.alpha(t) ** 2 + process.variance(t))


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
        zero(last)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.modulation(features)[:, :, None, None].chunk(2, 1)
        return h + self.second(self.norm(self.first(h)) * (1 + scale) + shift)


#: most cells a side that a dense layer across pixels acts on: a million weights for a square image
GRID = 32


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


def zero(layer: nn.Module) -> None:
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
