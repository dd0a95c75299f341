"""Forward processes: how data turn into noise.

dx = f(t) x dt + g(t) dw,      x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I),      t from 0 (data) to 1 (noise)

f = alpha' / alpha,      g^2 = (sigma^2)' - 2 f sigma^2,      log_snr = log(alpha^2 / sigma^2)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

import sdesolve as ss
from sdesolve.errors import message

from .prior import NormalPrior

__all__ = ["VP", "Process", "broadcast_time"]


def broadcast_time(t: Tensor | float, x: Tensor) -> Tensor:
    """t in a shape that broadcasts against x, in x's dtype and on its device.

    Parameters
    ----------
    t : a number, or a tensor that is 0-d, ``(batch,)`` or ``(batch, 1, ..., 1)`` with x's rank; batch may be
        1.
    x : ``(batch, *state)``, or any shape when t is 0-d.

    Raises
    ------
    ValueError : t has another shape.
    """
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if t.ndim == 0:
        return t
    if x.ndim and t.shape[0] in (1, x.shape[0]) and t.numel() == t.shape[0] and t.ndim in (1, x.ndim):
        return t.reshape(-1, *(1,) * (x.ndim - 1))
    accepted = "a 0-d t, (batch,) or (batch, 1, ..., 1) with x's rank"
    raise ValueError(message("t", f"shape {tuple(t.shape)} beside x of shape {tuple(x.shape)}", accepted))


class Process(ABC):
    """A forward process with an affine drift and a noise that does not depend on the state.

    A subclass gives the five functions of t below; all else follows from them. They take and return tensors
    of any shape, elementwise; methods that take x broadcast t against it (:func:`broadcast_time`).
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Factor on the data at time t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time t."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), strictly decreasing in t; infinite where sigma is zero."""

    @abstractmethod
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`log_snr`."""

    @abstractmethod
    def drift_rate(self, t: Tensor) -> Tensor:
        """f(t) = d log alpha / dt."""

    @abstractmethod
    def diffusion_rate(self, t: Tensor) -> Tensor:
        """g(t)."""

    @property
    def prior(self) -> NormalPrior:
        """What the marginal at t = 1 is close to, whatever the data: here N(0, sigma(1)^2 I)."""
        return NormalPrior(float(self.sigma(torch.tensor(1.0, dtype=torch.float64))))

    def drift(self, t: Tensor | float, x: Tensor) -> Tensor:
        """f(t) x, of x's shape."""
        return self.drift_rate(broadcast_time(t, x)) * x

    def diffusion(self, t: Tensor | float, x: Tensor) -> Tensor:
        """g(t), in a shape that broadcasts against x."""
        return self.diffusion_rate(broadcast_time(t, x))

    def forward_sde(self) -> ss.SDE:
        """dx = f(t) x dt + g(t) dw, an additive Itô equation for states ``(batch, *state)``."""
        return ss.SDE(self.drift, self.diffusion, additive=True)

    def marginal(self, t: Tensor | float, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Mean alpha(t) x0 and standard deviation sigma(t) of x_t given x_0 = x0; the latter broadcasts
        against it."""
        t = broadcast_time(t, x0)
        return self.alpha(t) * x0, self.sigma(t)

    def perturb(self, t: Tensor | float, x0: Tensor, noise: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) noise."""
        mean, std = self.marginal(t, x0)
        return mean + std * noise

    def conditional_score(self, t: Tensor | float, x: Tensor, x0: Tensor) -> Tensor:
        """grad_x log p(x_t = x | x_0 = x0) = -(x - alpha(t) x0) / sigma(t)^2; needs t > 0."""
        mean, std = self.marginal(t, x0)
        return (mean - x) / std**2


@dataclass(frozen=True)
class VP(Process):
    """The variance-preserving process with a linear rate.

    ::

        dx = -beta(t)/2 x dt + sqrt(beta(t)) dw,      beta(t) = beta_min + t (beta_max - beta_min)
        B(t) = int_0^t beta,      alpha^2 = exp(-B),      sigma^2 = 1 - exp(-B),      log_snr = -log(exp(B) -
        1)

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

    def __post_init__(self) -> None:
        for name in ("beta_min", "beta_max"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(message(name, repr(value), "a positive, finite rate"))
        if self.beta_max < self.beta_min:
            raise ValueError(message("beta_max", repr(self.beta_max), f"at least beta_min = {self.beta_min!r}"))

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def beta_integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.beta_integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.beta_integral(t)))

    def log_snr(self, t: Tensor) -> Tensor:
        B = self.beta_integral(t)
        return -B - torch.log(-torch.expm1(-B))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        B = F.softplus(-log_snr)
        # the root of the quadratic B(t) = B, in the form that does not cancel
        return 2 * B / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * B))

    def drift_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def diffusion_rate(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.beta(t))
