"""The processes of the literature, in closed form.

======================  =================================  ===============================================
process                 alpha                              sigma^2
======================  =================================  ===============================================
`VP`                    exp(-B/2), B = int beta            1 - exp(-B)
`SubVP`                 exp(-B/2)                          (1 - exp(-B))^2
`VE`                    1                                  sigma_min^2 ((sigma_max / sigma_min)^(2 t) - 1)
`RectifiedFlow`         1 - t                              t^2
`EDM`                   1                                  t^2
======================  =================================  ===============================================

`VariancePreserving` is VP with any beta(t), `Cosine` the one whose alpha is a cosine.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sdesolve.errors import message

from .process import Process
from .quadrature import integral

__all__ = ["EDM", "VE", "VP", "Cosine", "RectifiedFlow", "SubVP", "VariancePreserving"]


class _Preserving(Process):
    """dx = -beta(t)/2 x dt + sqrt(beta(t)) dw: a subclass gives beta and its integral B(t) from 0.

    ::

        alpha^2 = exp(-B),      sigma^2 = 1 - exp(-B),      log_snr = -log(exp(B) - 1)

    References
    ----------
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eq. (11).
    """

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """The rate of the noise."""

    @abstractmethod
    def beta_integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.beta_integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.variance(t))

    def variance(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.beta_integral(t))

    def log_snr(self, t: Tensor) -> Tensor:
        B = self.beta_integral(t)
        return -B - torch.log(-torch.expm1(-B))

    def alpha_rate(self, t: Tensor) -> Tensor:
        return self.drift_rate(t) * self.alpha(t)

    def variance_rate(self, t: Tensor) -> Tensor:
        return self.beta(t) * torch.exp(-self.beta_integral(t))

    def drift_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def diffusion_rate(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.beta(t))


class _LinearRate:
    """beta(t) = beta_min + t (beta_max - beta_min)."""

    beta_min: float
    beta_max: float

    def __post_init__(self) -> None:
        for name in ("beta_min", "beta_max"):
            _check_positive(name, getattr(self, name), "rate")
        if self.beta_max < self.beta_min:
            raise ValueError(message("beta_max", repr(self.beta_max), f"at least beta_min = {self.beta_min!r}"))

    def beta(self, t: Tensor) -> Tensor:
        """The rate of the noise."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def beta_integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _time_of_integral(self, B: Tensor) -> Tensor:
        """The root of the quadratic B(t) = B, in the form that does not cancel."""
        return 2 * B / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * B))


@dataclass(frozen=True)
class VP(_LinearRate, _Preserving):
    """The variance-preserving process with a linear rate.

    ::

        dx = -beta(t)/2 x dt + sqrt(beta(t)) dw,      beta(t) = beta_min + t (beta_max - beta_min)
        B(t) = int_0^t beta,      alpha^2 = exp(-B),      sigma^2 = 1 - exp(-B),      log_snr = -log(exp(B) - 1)

    Parameters
    ----------
    beta_min, beta_max : rates at t = 0 and t = 1, positive; default 0.1 and 20.

    Raises
    ------
    ValueError : a rate that is not positive and finite, or beta_max < beta_min.

    References
    ----------
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eqs.
    (32)-(33).

    Examples
    --------
    >>> process = VP()
    >>> t = torch.linspace(0, 1, 5, dtype=torch.float64)
    >>> torch.allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, torch.ones_like(t))
    True
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return self._time_of_integral(F.softplus(-log_snr))


@dataclass(frozen=True)
class SubVP(_LinearRate, Process):
    """The process of less noise than VP with the same mean.

    ::

        dx = -beta(t)/2 x dt + sqrt(beta(t) (1 - exp(-2 B(t)))) dw,      alpha = exp(-B/2),      sigma = 1 - exp(-B)

    Parameters
    ----------
    beta_min, beta_max : rates at t = 0 and t = 1, positive; default 0.1 and 20.

    Raises
    ------
    ValueError : a rate that is not positive and finite, or beta_max < beta_min.

    References
    ----------
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eqs. (27)-(29).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.beta_integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.beta_integral(t))

    def log_snr(self, t: Tensor) -> Tensor:
        return -self.beta_integral(t) - 2 * torch.log(self.sigma(t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # of  (1 - s) / s^2 = exp(log_snr), where s = sigma
        root = torch.exp(0.5 * log_snr)
        s = 2 / (1 + torch.hypot(torch.ones_like(root), 2 * root))
        some = s < 0.5
        B = torch.where(some, -torch.log1p(-torch.where(some, s, 0.0)), -log_snr - 2 * torch.log(s))
        return self._time_of_integral(B)

    def alpha_rate(self, t: Tensor) -> Tensor:
        return self.drift_rate(t) * self.alpha(t)

    def sigma_rate(self, t: Tensor) -> Tensor:
        return self.beta(t) * torch.exp(-self.beta_integral(t))

    def variance_rate(self, t: Tensor) -> Tensor:
        return 2 * self.sigma(t) * self.sigma_rate(t)

    def drift_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def diffusion_rate(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.beta(t) * -torch.expm1(-2 * self.beta_integral(t)))


class VariancePreserving(_Preserving):
    """The variance-preserving process with any rate.

    Parameters
    ----------
    beta : ``beta(t)``, positive and smooth on [0, 1], elementwise.
    integral : ``B(t)``, its integral from 0. Default: by Gauss-Legendre quadrature, see `diffusion.quadrature`.

    Raises
    ------
    TypeError : beta or integral cannot be called.
    """

    def __init__(self, beta: Callable[[Tensor], Tensor], integral: Callable[[Tensor], Tensor] | None = None) -> None:
        for name, given in (("beta", beta), ("integral", integral)):
            if not (callable(given) or (given is None and name == "integral")):
                raise TypeError(message(name, type(given).__name__, "a function of t"))
        self._beta, self._integral = beta, integral

    def beta(self, t: Tensor) -> Tensor:
        return self._beta(t)

    def beta_integral(self, t: Tensor) -> Tensor:
        return integral(self._beta, t) if self._integral is None else self._integral(t)


@dataclass(frozen=True)
class Cosine(_Preserving):
    """The variance-preserving process whose alpha is a cosine.

    ::

        alpha(t) = cos(theta(t)) / cos(theta(0)),      theta(t) = pi/2 (t + s) / (1 + s)
        beta(t) = pi / (1 + s) tan(theta(t))

    Parameters
    ----------
    s : offset that keeps the noise near t = 0 from being too small, positive; default 0.008.
    end : the time of pure noise, below 1, where alpha is 0 and beta infinite; default 0.999, where alpha is 0.0016.

    Raises
    ------
    ValueError : s is not positive, or end not between 0 and 1.

    References
    ----------
    Nichol & Dhariwal (2021). Improved denoising diffusion probabilistic models. ICML. Eq. (17).
    """

    s: float = 0.008
    end: float = 0.999

    def __post_init__(self) -> None:
        _check_positive("s", self.s, "offset")
        if not 0 < self.end < 1:
            raise ValueError(message("end", repr(self.end), "a time between 0 and 1"))

    @property
    def _first(self) -> float:
        """theta(0)."""
        return 0.5 * math.pi * self.s / (1 + self.s)

    def _angle(self, t: Tensor) -> Tensor:
        """theta(t) - theta(0)."""
        return t * (0.5 * math.pi / (1 + self.s))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._first + self._angle(t)) / math.cos(self._first)

    def variance(self, t: Tensor) -> Tensor:
        # cos(a)^2 - cos(b)^2 = sin(b - a) sin(b + a)
        angle = self._angle(t)
        return torch.sin(angle) * torch.sin(angle + 2 * self._first) / math.cos(self._first) ** 2

    def beta(self, t: Tensor) -> Tensor:
        return math.pi / (1 + self.s) * torch.tan(self._first + self._angle(t))

    def beta_integral(self, t: Tensor) -> Tensor:
        return -torch.log1p(-self.variance(t))

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * torch.log(self.alpha(t)) - torch.log(self.variance(t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        alpha, variance = torch.sqrt(torch.sigmoid(log_snr)), torch.sigmoid(-log_snr)
        sine, cosine = math.sin(self._first), math.cos(self._first)
        # sine and cosine of theta(t), then of theta(t) - theta(0)
        high, wide = torch.sqrt(sine**2 + cosine**2 * variance), cosine * alpha
        total = high * cosine + wide * sine
        angle = torch.atan2(cosine**2 * variance / total, wide * cosine + high * sine)
        return angle * ((1 + self.s) / (0.5 * math.pi))


@dataclass(frozen=True)
class VE(Process):
    """The variance-exploding process with a geometric rate.

    ::

        dx = sigma_min r^t sqrt(2 log r) dw,      r = sigma_max / sigma_min
        alpha = 1,      sigma^2 = sigma_min^2 (r^(2 t) - 1)

    Data at t = 0 have no noise: this is the equation's own variance. Where sigma_min r^t is used for sigma, as in the
    discrete chain, data at t = 0 are already blurred by sigma_min.

    Parameters
    ----------
    sigma_min, sigma_max : positive; default 0.01 and 50.

    Raises
    ------
    ValueError : one that is not positive and finite, or sigma_max <= sigma_min.

    References
    ----------
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eqs. (9), (30).
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        for name in ("sigma_min", "sigma_max"):
            _check_positive(name, getattr(self, name), "standard deviation")
        if self.sigma_max <= self.sigma_min:
            raise ValueError(message("sigma_max", repr(self.sigma_max), f"above sigma_min = {self.sigma_min!r}"))

    @property
    def _rate(self) -> float:
        """2 log r."""
        return 2 * math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.variance(t))

    def variance(self, t: Tensor) -> Tensor:
        return self.sigma_min**2 * torch.expm1(self._rate * t)

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(self.variance(t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return F.softplus(-log_snr - 2 * math.log(self.sigma_min)) / self._rate

    def alpha_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def variance_rate(self, t: Tensor) -> Tensor:
        return self.diffusion_rate(t) ** 2

    def drift_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion_rate(self, t: Tensor) -> Tensor:
        return self.sigma_min * math.sqrt(self._rate) * torch.exp(0.5 * self._rate * t)


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """The straight line from data to noise, x_t = (1 - t) x_0 + t eps.

    ::

        dx = -x / (1 - t) dt + sqrt(2 t / (1 - t)) dw,      t < 1

    At t = 1 nothing is left of the data, and the rates of the equation are infinite: stochastic generation starts a
    little before, at `rates_end` = 0.999; the probability flow of data, velocity, flow and edm predictions starts at 1.

    References
    ----------
    Liu, Gong & Liu (2023). Flow straight and fast: learning to generate and transfer data with rectified flow. ICLR.
    Lipman et al. (2023). Flow matching for generative modeling. ICLR.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t + 0.0

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)

    def alpha_rate(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def variance_rate(self, t: Tensor) -> Tensor:
        return 2 * t

    def drift_rate(self, t: Tensor) -> Tensor:
        return -1 / (1 - t)

    def diffusion_rate(self, t: Tensor) -> Tensor:
        return torch.sqrt(2 * t / (1 - t))


@dataclass(frozen=True)
class EDM(Process):
    """Noise whose standard deviation is the time itself: dx = sqrt(2 t) dw, alpha = 1, sigma = t.

    Parameters
    ----------
    end : the largest sigma, positive; default 80.

    Raises
    ------
    ValueError : end is not positive and finite.

    References
    ----------
    Karras, Aittala, Aila & Laine (2022). Elucidating the design space of diffusion-based generative models. NeurIPS.
    Table 1.
    """

    end: float = 80.0

    def __post_init__(self) -> None:
        _check_positive("end", self.end, "standard deviation")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t + 0.0

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-0.5 * log_snr)

    def alpha_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def variance_rate(self, t: Tensor) -> Tensor:
        return 2 * t

    def drift_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion_rate(self, t: Tensor) -> Tensor:
        return torch.sqrt(2 * t)


def _check_positive(name: str, value: float, what: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(message(name, repr(value), f"a positive, finite {what}"))
