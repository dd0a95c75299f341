"""elbo(): the variational lower bound of the reverse SDE on the log-density of data.

With eps_hat = noise(t, x_t), x_t = alpha x + shift + sigma eps, log_snr falling from L at t_min to l at t_max, and the
decoder N(data(t_min, x_t_min), (sigma / alpha)^2 I) at t_min,

    log p(x) >= -KL(q(x_T | x) || prior) - 1/2 int_l^L E|eps - eps_hat|^2 d log_snr
                - 1/2 E|eps - eps_hat|^2 at t_min - D/2 log(2 pi sigma^2 / alpha^2 at t_min)

The last mean square is one more unit of log_snr: one integral, from l to L + 1, over what is known at times from
t_min on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdesolve.errors import message

from .denoiser import Denoiser
from .prior import NormalPrior, log_density, trajectory_normals
from .process import Process
from .quantise import bits_per_dimension
from .request import check_span, check_states

__all__ = ["ELBO", "elbo"]


@dataclass(frozen=True)
class ELBO:
    """What :func:`elbo` returns; everything is ``(batch,)``.

    bound : an unbiased estimate of the lower bound on log p(x), in nats.
    std_error : its standard error over samples, itself without bias in the square; None for a single sample.
    prior_kl : KL(q(x_T | x) || prior), which the bound has lost: exact for a :class:`diffusion.NormalPrior`, else
        the mean over samples.
    dims : components of a state, D.
    """

    bound: Tensor
    std_error: Tensor | None
    prior_kl: Tensor
    dims: int

    def bits_per_dimension(self, *, levels: int, range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
        """Of data that :func:`diffusion.dequantise` made of so many levels, ``(batch,)``."""
        return bits_per_dimension(self.bound, self.dims, levels=levels, range=range)


def elbo(
    denoiser: Denoiser,
    x: Tensor,
    *,
    samples: int = 16,
    seed: int = 0,
    paths: Sequence[int] | Tensor | None = None,
    t_min: float = 1e-5,
    t_max: float | None = None,
    prior: Any = None,
    chunk: int | None = None,
) -> ELBO:
    """The variational lower bound on the log-density of x under the reverse SDE of a denoiser.

    Each sample is one call of the denoiser and no derivative. For the exact denoiser and the exact marginal as prior
    the bound is the log-density, up to the decoder's loss of second order in sigma(t_min)^2 / alpha(t_min)^2; for a
    network it is a bound on the density of its SDE, which is not that of its probability flow
    (:func:`diffusion.log_likelihood`). Differentiable with respect to x and the parameters of the denoiser.

    Times are uniform in log_snr: `samples` / 2 strata of equal width for each point, two draws in each, from whose
    differences the standard error follows. From |eps - eps_hat|^2 a multiple w^2 (|eps|^2 - D) of mean 0 is taken, with
    w = alpha^2 / (alpha^2 + sigma^2), the part of eps that the denoiser of data with variance 1 does not see.

    Parameters
    ----------
    denoiser : a :class:`diffusion.Denoiser`, in evaluation mode.
    x : ``(batch, *state)``.
    samples : draws for each point; even, or 1.
    seed, paths : the draws of trajectory i depend on seed and paths[i] (default i) alone.
    t_min, t_max : the span of times, 0 < t_min < t_max; default 1e-5 and ``process.rates_end``.
    prior : the density at t_max: an object with ``log_prob(x) -> (batch,)``, or such a function. Default: the prior of
        the process at t_max.
    chunk : samples of every point in one call of the denoiser, to bound memory. Default: all.

    Raises
    ------
    ValueError : an odd number of samples above 1, times out of order, at 0 or outside the process, chunk
        below 1, no states.

    References
    ----------
    Kingma, Salimans, Poole & Ho (2021). Variational diffusion models. NeurIPS. Eqs. (11), (17)-(18).
    Song, Durkan, Murray & Ermon (2021). Maximum likelihood training of score-based diffusion models. NeurIPS. Theorems
    2 and 3: the bound, and that it is tight for an exact score.
    Cochran (1977). Sampling techniques. Section 5.3, for the standard error over strata.

    Examples
    --------
    >>> from diffusion import VP, exact
    >>> law, process = exact.Gaussian(torch.zeros(2), torch.eye(2)), VP()
    >>> found = elbo(law.denoiser(process), torch.zeros(1, 2), samples=64)
    >>> bool((found.bound - law.log_prob(torch.zeros(1, 2))).abs() < 5 * found.std_error)
    True
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(message("denoiser", type(denoiser).__name__, "a diffusion.Denoiser"))
    process = denoiser.process
    t_max = process.rates_end if t_max is None else t_max
    if samples != 1 and (samples < 1 or samples % 2):
        raise ValueError(message("samples", repr(samples), "1, or an even number"))
    if not 0 < t_min < t_max:
        advice = "The decoder has a density for t_min > 0 alone."
        raise ValueError(message("t_min, t_max", f"{t_min!r} and {t_max!r}", "0 < t_min < t_max", advice))
    check_span(denoiser, False, t_min, t_max)
    check_states("x", x)
    if chunk is not None and chunk < 1:
        raise ValueError(message("chunk", repr(chunk), "at least 1, or None"))

    def normals(purpose: str, *state: int) -> Tensor:
        shape = (x.shape[0], samples, *state)
        return trajectory_normals(seed, f"elbo {purpose}", shape, paths=paths, dtype=x.dtype, device=x.device)

    span, noise = _Span.of(process, t_min, t_max), normals("noise", *x.shape[1:])
    if not math.isfinite(span.width):
        accepted = f"times where log_snr of {process} is finite, such as t_max={process.rates_end:g}"
        raise ValueError(message("t_min, t_max", f"{t_min!r} and {t_max!r}", accepted))
    t, log_snr = span.times(process, torch.special.ndtr(normals("times").double()))
    size = samples if chunk is None else chunk
    pieces = zip(*(part.split(size, 1) for part in (t, log_snr, noise)), strict=True)
    lost = torch.cat([_lost(denoiser, x, *piece) for piece in pieces], 1)
    kl = _prior_kl(process, x, t_max, prior, lambda: normals("prior", *x.shape[1:]))
    values = -kl - 0.5 * (span.width * lost + x[0].numel() * span.log_variance)
    return ELBO(values.mean(1), _std_error(values), kl.mean(1), x[0].numel())


@dataclass(frozen=True)
class _Span:
    """log_snr from low to high, and one unit more that counts for the decoder at t_min."""

    low: float
    high: float
    t_min: float
    t_max: float

    @classmethod
    def of(cls, process: Process, t_min: float, t_max: float) -> _Span:
        low, high = process.log_snr(torch.tensor([t_max, t_min], dtype=torch.float64)).tolist()
        return cls(low, high, t_min, t_max)

    @property
    def width(self) -> float:
        return self.high - self.low + 1

    @property
    def log_variance(self) -> float:
        """Of the decoder, log(2 pi sigma^2 / alpha^2)."""
        return math.log(2 * math.pi) - self.high

    def times(self, process: Process, u: Tensor) -> tuple[Tensor, Tensor]:
        """Times and their log_snr for u uniform in (0, 1), ``(batch, samples)``: columns 2 k and 2 k + 1 are
        independent draws of the k-th of equally wide strata."""
        strata = max(u.shape[1] // 2, 1)
        first = torch.arange(u.shape[1], device=u.device) // 2
        log_snr = (self.low + self.width * (first + u) / strata).clamp(max=self.high)
        t = process.time_of_log_snr(log_snr).clamp(self.t_min, self.t_max)
        return t, log_snr


def _lost(denoiser: Denoiser, x: Tensor, t: Tensor, log_snr: Tensor, noise: Tensor) -> Tensor:
    """|eps - eps_hat|^2 less what has mean 0, ``(batch, samples)``."""
    flat, clean = noise.flatten(0, 1), x[:, None].expand_as(noise).flatten(0, 1)
    clock = t.to(x.dtype).flatten()
    error = denoiser.noise(clock, denoiser.process.perturb(clock, clean, flat)) - flat
    weight = torch.sigmoid(log_snr).to(x.dtype) ** 2
    control = weight * (noise.flatten(2).square().sum(2) - x[0].numel())
    return error.flatten(1).square().sum(1).reshape(t.shape) - control


def _prior_kl(process: Process, x: Tensor, t_max: float, prior: Any, draw: Callable[[], Tensor]) -> Tensor:
    """KL(q(x_T | x) || prior): in closed form, ``(batch, 1)``, or a draw of it for each sample."""
    density = process.prior_at(t_max) if prior is None else prior
    mean, std = process.marginal(torch.as_tensor(t_max, dtype=x.dtype, device=x.device), x)
    dims = x[0].numel()
    if isinstance(density, NormalPrior):
        ratio = (std / density.scale) ** 2
        apart = ((mean - density.mean) / density.scale).flatten(1).square().sum(1, keepdim=True)
        return 0.5 * (apart + dims * (ratio - 1 - torch.log(ratio)))
    noise = draw()
    log_prior = log_density("prior", density)((mean[:, None] + std * noise).flatten(0, 1)).reshape(noise.shape[:2])
    return -0.5 * noise.flatten(2).square().sum(2) - dims * (torch.log(std) + 0.5 * math.log(2 * math.pi)) - log_prior


def _std_error(values: Tensor) -> Tensor | None:
    """Of the mean over strata with two values each: the variance of each stratum is half a squared difference."""
    if values.shape[1] == 1:
        return None
    pairs = values.unflatten(1, (-1, 2))
    return (pairs[:, :, 0] - pairs[:, :, 1]).square().sum(1).sqrt() / values.shape[1]
