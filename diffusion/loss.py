"""Denoising score matching.

With x_t = alpha x_0 + sigma eps, D components, and m(t) = |noise(t, x_t) - eps|^2 / D, every loss is

    int_{t_min}^{t_max} w(t) E[m(t)] dt

and each is least for the exact denoiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdesolve.errors import message

from .denoiser import Denoiser
from .process import Process

__all__ = ["DenoisingLoss"]

WEIGHTINGS = ("simple", "likelihood", "balanced", "data", "min_snr")
TIMES = ("uniform", "log_snr", "balanced")
SPREAD = 3.0  # standard deviation, in log_snr, of where "balanced" puts its stress


@dataclass(frozen=True)
class DenoisingLoss:
    """An unbiased estimate of the weighted denoising loss, one number for each example.

    Parameters
    ----------
    weighting : the function w.

        - ``"simple"``: w = 1 / (t_max - t_min), the mean squared error of the noise (Ho et al. 2020);
        - ``"likelihood"``: w = g^2 / (2 sigma^2), so that the loss is 1/2 int g^2 |score - conditional
          score|^2 dt / D, the part of the negative log-likelihood bound that depends on the denoiser, in nats
          a component (Song et al. 2021, theorem 1);
        - ``"balanced"``: w = q(log_snr) g^2 / sigma^2 with q half the uniform density over the span of log_snr
          and half the normal density N(0, 3^2) cut to it: likelihood at every scale, and stress on those where
          the shape of an image is decided (compare Karras et al. 2022, section 5);
        - ``"data"``: w = exp(-log_snr) / (t_max - t_min), the mean squared error of the data;
        - ``"min_snr"``: w = min(1, 5 exp(-log_snr)) / (t_max - t_min) (Hang et al. 2023).
    times : how times are drawn: ``"uniform"`` in t; ``"log_snr"``, uniform in the log signal-to-noise ratio; or
        ``"balanced"``, log_snr with the density q above. It changes the variance of the estimate, not its mean:
        ``"log_snr"`` makes the likelihood weight constant, as g^2 / sigma^2 = -d log_snr / dt, and ``"balanced"``
        the balanced one. The draws of a batch are evenly spaced with one random offset (Kingma et al. 2021,
        appendix I.1), which lowers the variance further.
    t_min, t_max : the span of times, ``0 < t_min < t_max``, at most the process's end; default 1e-5 and 1.

    Raises
    ------
    ValueError : a name that is not listed above, or times out of order.

    References
    ----------
    Vincent (2011). A connection between score matching and denoising autoencoders. Neural Computation 23.
    Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. NeurIPS.
    Song, Durkan, Murray, Ermon (2021). Maximum likelihood training of score-based diffusion models. NeurIPS.
    Kingma, Salimans, Poole, Ho (2021). Variational diffusion models. NeurIPS.
    Karras, Aittala, Aila, Laine (2022). Elucidating the design space of diffusion-based generative models.
    Hang et al. (2023). Efficient diffusion training via min-SNR weighting strategy. ICCV.
    """

    weighting: str = "simple"
    times: str = "uniform"
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(message("weighting", repr(self.weighting), " or ".join(map(repr, WEIGHTINGS))))
        if self.times not in TIMES:
            raise ValueError(message("times", repr(self.times), " or ".join(map(repr, TIMES))))
        if not 0 < self.t_min < self.t_max < math.inf:
            got = f"{self.t_min!r} and {self.t_max!r}"
            raise ValueError(message("t_min, t_max", got, "0 < t_min < t_max, at most the process's end"))

    def __call__(self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Losses ``(batch,)`` of the examples x0, ``(batch, *state)``; their mean estimates the loss.

        Times and noise come from `generator` (default: torch's global one).
        """
        t, density = self.draw_times(denoiser.process, x0, generator)
        noise = torch.randn(x0.shape, dtype=x0.dtype, device=x0.device, generator=generator)
        error = denoiser.noise(t, denoiser.process.perturb(t, x0, noise)) - noise
        return self.weight(denoiser.process, t) / density * error.flatten(1).square().mean(1)

    def draw_times(
        self, process: Process, x0: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Times ``(batch,)`` and their density: n evenly spaced fractions of the span, shifted and
        shuffled."""
        n = x0.shape[0]
        offset = torch.rand((), dtype=x0.dtype, device=x0.device, generator=generator)
        order = torch.randperm(n, device=x0.device, generator=generator)
        fraction = (order.to(x0) + offset) / n
        if self.times == "uniform":
            t = self.t_min + (self.t_max - self.t_min) * fraction
            return t, torch.full_like(t, 1 / (self.t_max - self.t_min))
        law = self._log_snr_law(process, self.times)
        t = process.time_of_log_snr(law.quantile(fraction)).clamp(self.t_min, self.t_max)
        return t, law.density(process.log_snr(t)) * _log_snr_speed(process, t)

    def weight(self, process: Process, t: Tensor) -> Tensor:
        """w(t)."""
        if self.weighting == "likelihood":
            return 0.5 * _log_snr_speed(process, t)
        if self.weighting == "balanced":
            law = self._log_snr_law(process, "balanced")
            return law.density(process.log_snr(t)) * _log_snr_speed(process, t)
        noise_to_signal = torch.exp(-process.log_snr(t))
        weights = {
            "simple": torch.ones_like(t),
            "data": noise_to_signal,
            "min_snr": (5 * noise_to_signal).clamp(max=1),
        }
        return weights[self.weighting] / (self.t_max - self.t_min)

    def _log_snr_law(self, process: Process, name: str) -> _LogSnrLaw:
        ends = process.log_snr(torch.tensor([self.t_max, self.t_min], dtype=torch.float64)).tolist()
        return _LogSnrLaw(ends[0], ends[1], 0.5 if name == "balanced" else 0.0)


@dataclass(frozen=True)
class _LogSnrLaw:
    """(1 - stress) uniform + stress N(0, SPREAD^2), both on [low, high]."""

    low: float
    high: float
    stress: float

    def quantile(self, u: Tensor) -> Tensor:
        """One draw for each u in [0, 1): the normal part for u below stress, the uniform part above."""
        uniform = self.low + (self.high - self.low) * (u - self.stress) / (1 - self.stress)
        if not self.stress:
            return uniform
        first, last = self._tails()
        inside = (first + (last - first) * (u / self.stress).clamp(max=1).double()).clamp(first, last)
        return torch.where(u < self.stress, (SPREAD * torch.special.ndtri(inside)).to(u.dtype), uniform)

    def density(self, log_snr: Tensor) -> Tensor:
        uniform = (1 - self.stress) / (self.high - self.low)
        if not self.stress:
            return torch.full_like(log_snr, uniform)
        first, last = self._tails()
        normal = torch.exp(-0.5 * (log_snr / SPREAD) ** 2) / (SPREAD * math.sqrt(2 * math.pi) * (last - first))
        return uniform + self.stress * normal

    def _tails(self) -> tuple[float, float]:
        """Mass of the normal below low, and below high."""
        first, last = (0.5 * (1 + math.erf(end / (SPREAD * math.sqrt(2)))) for end in (self.low, self.high))
        return first, last


def _log_snr_speed(process: Process, t: Tensor) -> Tensor:
    """-d log_snr / dt = g^2 / sigma^2."""
    return (process.diffusion_rate(t) / process.sigma(t)) ** 2
