"""Forward processes: how data turn into noise.

    x_t | x_0 ~ N(alpha(t) x_0 + shift(t), sigma(t)^2 I),      t from 0 (data) to `end` (noise)

is the law of the equation  dx = (f(t) x + b(t)) dt + g(t) dw  with

    f = alpha' / alpha,      b = shift' - f shift,      g^2 = (sigma^2)' - 2 f sigma^2

and log_snr = log(alpha^2 / sigma^2). alpha and sigma define a process; what follows from them is differentiated
automatically, and inverted by Newton's method, where a process gives no closed form of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.errors import message

from .prior import NormalPrior

__all__ = ["Process", "broadcast_time"]


STEEPEST = 1e6
"""|f| end beyond which f stands for an infinite rate."""


def broadcast_time(t: Tensor | float, x: Tensor) -> Tensor:
    """t in a shape that broadcasts against x, in x's dtype and on its device.

    Parameters
    ----------
    t : a number, or a tensor that is 0-d, ``(batch,)`` or ``(batch, 1, ..., 1)`` with x's rank; batch may be
        1.
    x : ``(batch, *state)``, or any shape when t is 0-d.

    Raises
    ------
    ValueError : t has another shape. TypeError : x is not of floating-point numbers.
    """
    if not x.is_floating_point():
        raise TypeError(message("x", str(x.dtype).removeprefix("torch."), "a tensor of floating-point numbers"))
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if t.ndim == 0:
        return t
    if x.ndim and t.shape[0] in (1, x.shape[0]) and t.numel() == t.shape[0] and t.ndim in (1, x.ndim):
        return t.reshape(-1, *(1,) * (x.ndim - 1))
    accepted = "a 0-d t, (batch,) or (batch, 1, ..., 1) with x's rank"
    raise ValueError(message("t", f"shape {tuple(t.shape)} beside x of shape {tuple(x.shape)}", accepted))


class Process(ABC):
    """A forward process with an affine drift and a noise that does not depend on the state.

    A subclass gives ``alpha`` and ``sigma``, and whatever else it knows in closed form. Functions of t take and return
    tensors of any shape, elementwise; methods that take x broadcast t against it (:func:`broadcast_time`).

    Examples
    --------
    >>> class Trigonometric(Process):
    ...     def alpha(self, t): return torch.cos(0.5 * torch.pi * t)
    ...     def sigma(self, t): return torch.sin(0.5 * torch.pi * t)
    >>> float(Trigonometric().drift_rate(torch.tensor(0.5, dtype=torch.float64))) + torch.pi / 2 < 1e-15
    True
    """

    end: float = 1.0
    """The time of pure noise."""

    grid: str = "uniform"
    """Where sampling places its steps unless it is told: a name of `diffusion.grid`."""

    @cached_property
    def rates_end(self) -> float:
        """The last time at which f and g are finite, where stochastic generation starts: `end`, or 0.999 of it where
        alpha is 0 at the end, up to rounding."""
        rate = float(self.drift_rate(torch.tensor(self.end, dtype=torch.float64)))
        return self.end if abs(rate) * self.end < STEEPEST else 0.999 * self.end

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Factor on the data at time t; 1 at t = 0."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time t; 0 at t = 0."""

    def shift(self, t: Tensor) -> Tensor:
        """Mean of x_t for data at 0. Default 0."""
        return torch.zeros_like(t)

    def variance(self, t: Tensor) -> Tensor:
        """sigma(t)^2."""
        return self.sigma(t) ** 2

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), strictly decreasing in t; infinite where sigma is zero."""
        alpha, variance = tensor(self.alpha, t), tensor(self.variance, t)
        return 2 * torch.log(alpha.clamp(min=0)) - torch.log(variance)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`log_snr`, between 0 and `end`; differentiable."""
        return inverse(self.log_snr, log_snr, self.end)

    def alpha_rate(self, t: Tensor) -> Tensor:
        """d alpha / dt."""
        return derivative(self.alpha, t)

    def sigma_rate(self, t: Tensor) -> Tensor:
        """d sigma / dt."""
        return self.variance_rate(t) / (2 * self.sigma(t))

    def variance_rate(self, t: Tensor) -> Tensor:
        """d sigma^2 / dt = g^2 + 2 f sigma^2."""
        return derivative(self.variance, t)

    def shift_rate(self, t: Tensor) -> Tensor:
        """d shift / dt."""
        return derivative(self.shift, t)

    def drift_rate(self, t: Tensor) -> Tensor:
        """f(t) = d log alpha / dt."""
        return self.alpha_rate(t) / self.alpha(t)

    def drift_shift(self, t: Tensor) -> Tensor:
        """b(t) = d shift / dt - f shift."""
        return self.shift_rate(t) - self.drift_rate(t) * self.shift(t)

    def diffusion_rate(self, t: Tensor) -> Tensor:
        """g(t)."""
        return torch.sqrt(self.variance_rate(t) - 2 * self.drift_rate(t) * self.variance(t))

    @property
    def prior(self) -> NormalPrior:
        """What the marginal at the end is close to, whatever the data: N(shift, sigma^2 I) there."""
        return self.prior_at(self.end)

    def prior_at(self, t: float) -> NormalPrior:
        """N(shift, sigma^2 I) at time t: the marginal of data at 0."""
        time = torch.tensor(t, dtype=torch.float64)
        return NormalPrior(float(self.sigma(time)), float(self.shift(time)))

    @property
    def shifted(self) -> bool:
        """Whether data at 0 may move away from 0."""
        return type(self).shift is not Process.shift

    def drift(self, t: Tensor | float, x: Tensor) -> Tensor:
        """f(t) x + b(t), of x's shape."""
        t = broadcast_time(t, x)
        scaled = self.drift_rate(t) * x
        return scaled + self.drift_shift(t) if self.shifted else scaled

    def diffusion(self, t: Tensor | float, x: Tensor) -> Tensor:
        """g(t), in a shape that broadcasts against x."""
        return self.diffusion_rate(broadcast_time(t, x))

    def forward_sde(self) -> ss.SDE:
        """dx = (f(t) x + b(t)) dt + g(t) dw, an additive Itô equation for states ``(batch, *state)``."""
        return ss.SDE(self.drift, self.diffusion, additive=True)

    def marginal(self, t: Tensor | float, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Mean alpha(t) x0 + shift(t) and standard deviation sigma(t) of x_t given x_0 = x0; the latter broadcasts
        against it."""
        t = broadcast_time(t, x0)
        scaled = self.alpha(t) * x0
        return scaled + self.shift(t) if self.shifted else scaled, self.sigma(t)

    def perturb(self, t: Tensor | float, x0: Tensor, noise: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + shift(t) + sigma(t) noise."""
        mean, std = self.marginal(t, x0)
        return mean + std * noise

    def centred(self, t: Tensor | float, x: Tensor) -> Tensor:
        """x - shift(t)."""
        return x - self.shift(broadcast_time(t, x)) if self.shifted else x

    def conditional_score(self, t: Tensor | float, x: Tensor, x0: Tensor) -> Tensor:
        """grad_x log p(x_t = x | x_0 = x0) = -(x - alpha(t) x0 - shift(t)) / sigma(t)^2; needs t > 0."""
        mean, std = self.marginal(t, x0)
        return (mean - x) / std**2


def tensor(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """function(t), of t's shape."""
    found = function(t)
    if isinstance(found, Tensor):
        return found
    name = getattr(function, "__qualname__", type(function).__name__)
    advice = "Use torch's functions, not those of math; a constant c is torch.full_like(t, c)."
    raise TypeError(message(name, f"a result of type {type(found).__name__}", "a tensor of t's shape", advice))


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """d function / dt of an elementwise function, in forward mode."""
    t = t.clone()  # an expanded tensor cannot carry a tangent
    found: Tensor = torch.func.jvp(lambda t: tensor(function, t), (t,), (torch.ones_like(t),))[1]
    return found.to(t.dtype)  # the tangent of a 0-d float32 tensor times a Python number is float64 (torch 2.13)


#: halvings of the logarithm of time, from 1e-30 of the end on, and the steps by Newton's method behind them
HALVINGS, NEWTON, EARLIEST = 40, 3, 1e-30


def inverse(log_snr: Callable[[Tensor], Tensor], value: Tensor, end: float) -> Tensor:
    """t in (0, end] with log_snr(t) = value, for a decreasing function; elementwise. Values outside give the ends.

    By halving in log t, which keeps small times relatively exact, and Newton's method in log t, whose last step has the
    derivative  dt = d value / log_snr'(t).
    """
    wanted = value.double()
    with torch.no_grad():
        fixed = wanted.detach()
        top = torch.log(torch.tensor(end, dtype=torch.float64, device=value.device))
        high = top.expand_as(fixed)
        low = high + torch.log(torch.tensor(EARLIEST, dtype=torch.float64))
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            late = log_snr(middle.exp()) < fixed
            low, high = torch.where(late, low, middle), torch.where(late, middle, high)
        u = 0.5 * (low + high)
        for _ in range(NEWTON):
            t = u.exp()
            step = (log_snr(t) - fixed) / (t * derivative(log_snr, t))
            u = torch.where(step.isfinite(), u - step, u).clamp(max=top)
        t, slope = u.exp(), derivative(log_snr, u.exp())
    if torch.is_grad_enabled() and value.requires_grad:
        t = t + (wanted - fixed) / slope
    return t.to(value.dtype)
