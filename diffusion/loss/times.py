"""How the times of a loss are drawn: laws on [first, last], each with a quantile and a density.

A law is uniform in t, or one of the log signal-to-noise ratio, whose density in t is density * speed with
speed = -d log_snr / dt = g^2 / sigma^2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..process import Process

__all__ = ["CappedLaw", "LogSnrLaw", "TimeLaw", "UniformLaw", "even_fractions", "log_snr_law"]

NODES = 2049
"""Of the table of `CappedLaw`."""


@dataclass(frozen=True)
class TimeLaw(ABC):
    """A law of times of a process.

    process : whose times. first, last : the span.
    """

    process: Process
    first: float
    last: float

    per_log_snr = False
    """Whether `density` is that of log_snr; else it is that of t."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """One time for each u in [0, 1), distributed by the law if u is uniform."""

    @abstractmethod
    def density(self, t: Tensor) -> Tensor:
        """At time t, of log_snr if `per_log_snr`, else of t."""


@dataclass(frozen=True)
class UniformLaw(TimeLaw):
    """Uniform in t."""

    def quantile(self, u: Tensor) -> Tensor:
        return self.first + (self.last - self.first) * u

    def density(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 / (self.last - self.first))


@dataclass(frozen=True)
class LogSnrLaw(TimeLaw):
    """Of log_snr: (1 - share) uniform + share N(mean, std^2), both cut to its span."""

    share: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    per_log_snr = True

    @property
    def width(self) -> float:
        """Of the span of log_snr; infinite where nothing is left of the data at the last time."""
        low, high = self._ends()
        return high - low

    def quantile(self, u: Tensor) -> Tensor:
        return self.process.time_of_log_snr(self._log_snr(u)).clamp(self.first, self.last)

    def density(self, t: Tensor) -> Tensor:
        uniform = (1 - self.share) / self.width
        if not self.share:
            return torch.full_like(t, uniform)
        low, high = self._tails()
        z = (self.process.log_snr(t) - self.mean) / self.std
        return uniform + self.share * torch.exp(-0.5 * z**2) / (self.std * math.sqrt(2 * math.pi) * (high - low))

    def _log_snr(self, u: Tensor) -> Tensor:
        """The normal part for u below share, the uniform part above."""
        low, high = self._ends()
        if not self.share:
            return low + (high - low) * u
        first, last = self._tails()
        inside = (first + (last - first) * (u / self.share).clamp(max=1).double()).clamp(first, last)
        normal = (self.mean + self.std * torch.special.ndtri(inside)).clamp(low, high).to(u.dtype)
        if self.share == 1:
            return normal
        uniform = low + (high - low) * (u - self.share) / (1 - self.share)
        return torch.where(u < self.share, normal, uniform)

    def _ends(self) -> tuple[float, float]:
        low, high = self.process.log_snr(torch.tensor([self.last, self.first], dtype=torch.float64)).tolist()
        return low, high

    def _tails(self) -> tuple[float, float]:
        """Mass of the normal below the span, and below its upper end."""
        low, high = (0.5 * (1 + math.erf((end - self.mean) / (self.std * math.sqrt(2)))) for end in self._ends())
        return low, high


def log_snr_law(process: Process, first: float, last: float, mean: float, std: float) -> LogSnrLaw:
    """log(sigma / alpha) ~ N(mean, std^2), cut to the span."""
    return LogSnrLaw(process, first, last, 1.0, -2 * mean, 2 * std)


@dataclass(frozen=True)
class CappedLaw(TimeLaw):
    """Density proportional to min(1, gamma exp(-log_snr)), piecewise linear between the nodes of a table.

    `density` is that of the table, so that what is drawn is what is said.
    """

    gamma: float = 5.0

    def quantile(self, u: Tensor) -> Tensor:
        # of a piece of height a, slope b and mass m:  a s + b s^2 / 2 = m
        nodes, heights, mass = (part.to(u.device) for part in self._table())
        wanted = u.double()
        piece = (torch.searchsorted(mass, wanted, right=True) - 1).clamp(0, NODES - 2)
        a, step = heights[piece], nodes[1] - nodes[0]
        b = (heights[piece + 1] - a) / step
        m = (wanted - mass[piece]).clamp(min=0)
        root = a + torch.sqrt((a**2 + 2 * b * m).clamp(min=0))
        s = torch.where(root > 0, 2 * m / torch.where(root > 0, root, 1.0), 0.0)
        return (nodes[piece] + s).clamp(self.first, self.last).to(u.dtype)

    def density(self, t: Tensor) -> Tensor:
        nodes, heights, _ = (part.to(t.device) for part in self._table())
        place = (t.double() - nodes[0]) / (nodes[1] - nodes[0])
        piece = place.floor().clamp(0, NODES - 2).long()
        return torch.lerp(heights[piece], heights[piece + 1], place - piece).to(t.dtype)

    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes, densities there, and the mass below each."""
        nodes = torch.linspace(self.first, self.last, NODES, dtype=torch.float64)
        heights = capped(self.process, nodes, self.gamma)
        mass = torch.cumulative_trapezoid(heights, nodes)
        total = mass[-1]
        return nodes, heights / total, torch.cat([torch.zeros_like(mass[:1]), mass / total])


def capped(process: Process, t: Tensor, gamma: float) -> Tensor:
    """min(1, gamma exp(-log_snr))."""
    return (gamma * torch.exp(-process.log_snr(t))).clamp(max=1)


def even_fractions(x0: Tensor, generator: torch.Generator | None) -> Tensor:
    """``(batch,)`` in [0, 1): evenly spaced with one random offset, in random order, of x0's dtype.

    References
    ----------
    Kingma, Salimans, Poole & Ho (2021). Variational diffusion models. NeurIPS. Appendix I.1.
    """
    n = x0.shape[0]
    offset = torch.rand((), dtype=x0.dtype, device=x0.device, generator=generator)
    order = torch.randperm(n, device=x0.device, generator=generator)
    return (order.to(x0) + offset) / n
