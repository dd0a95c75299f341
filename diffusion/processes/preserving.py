"""Processes by a rate beta(t): the variance-preserving ones, and SubVP."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sdesolve.errors import message

from ..process import Process
from .parameters import check_positive
from .quadrature import integral

__all__ = ["VP", "Cosine", "SubVP", "VariancePreserving"]


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
            check_positive(name, getattr(self, name), "rate")
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
    integral : ``B(t)``, its integral from 0. Default: by Gauss-Legendre quadrature, see `processes.quadrature`.

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
        check_positive("s", self.s, "offset")
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
