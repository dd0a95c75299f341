"""Processes that add noise and leave the data as they are: VE and EDM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sdesolve.errors import message

from ..process import Process
from .parameters import check_positive

__all__ = ["EDM", "VE"]


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
            check_positive(name, getattr(self, name), "standard deviation")
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
    grid = "karras"

    def __post_init__(self) -> None:
        check_positive("end", self.end, "standard deviation")

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
