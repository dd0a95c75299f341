"""From noise back to data: the family of equations that share the marginals of the forward process.

    dx = [f(t) x - (1 + eta^2)/2 g(t)^2 score(t, x)] dt + eta g(t) dw,      t from 1 down to t_min

with f, g of the forward process. eta = 1 is the reverse SDE, eta = 0 the probability-flow ODE. Read backwards
in time, dw is the increment of a Brownian motion that runs from 1 to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

import sdesolve as ss
from sdesolve.errors import message

from .process import Process

__all__ = ["Score", "probability_flow", "reverse_sde"]

Score = Callable[[Tensor, Tensor], Tensor]
"""``score(t, x)``: the gradient of log p_t at x, of x's shape; t is 0-d or ``(batch, 1, ..., 1)``."""


def reverse_sde(process: Process, score: Score, eta: float = 1.0) -> ss.SDE:
    """The reverse SDE, an additive Itô equation, to be solved with ``ts`` running from 1 (noise) down to
    t_min.

    Parameters
    ----------
    process : the forward process.
    score : ``score(t, x)``, such as a denoiser's method ``score``; t is 0-d, or ``(batch, 1, ..., 1)`` when
        each trajectory has a clock of its own.
    eta : amount of noise, >= 0; every value gives the same marginals. Default 1.

    References
    ----------
    Anderson (1982). Reverse-time diffusion equation models. Stochastic Processes and their Applications 12.
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eq.
    (6). Zhang & Chen (2023). Fast sampling of diffusion models with exponential integrator. ICLR. Eq. (6),
    for eta.
    """
    if not (math.isfinite(eta) and eta >= 0):
        raise ValueError(message("eta", repr(eta), "a finite number >= 0"))
    return ss.SDE(_Drift(process, score, eta), _Diffusion(process, eta), additive=True)


def probability_flow(process: Process, score: Score) -> ss.ODE:
    """dx/dt = f(t) x - 1/2 g(t)^2 score(t, x): the ODE whose solutions have the marginals of the forward
    process.

    From 1 down to t_min it turns noise into data; upwards, data into noise. Arguments as for
    :func:`reverse_sde`.

    References
    ----------
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eq.
    (13).
    """
    return ss.ODE(_Drift(process, score, 0.0))


class _Drift(nn.Module):
    """f x - (1 + eta^2)/2 g^2 score."""

    def __init__(self, process: Process, score: Score, eta: float) -> None:
        super().__init__()
        if not isinstance(process, Process):
            raise TypeError(message("process", repr(process), "a diffusion.Process, such as diffusion.VP()"))
        if not callable(score):
            accepted = "a function score(t, x) -> tensor, such as denoiser.score"
            raise TypeError(message("score", type(score).__name__, accepted))
        self.process, self.score, self.factor = process, score, 0.5 * (1 + eta**2)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        g = self.process.diffusion(t, x)
        return self.process.drift(t, x) - self.factor * g**2 * self.score(t, x)


class _Diffusion(nn.Module):
    """eta g."""

    def __init__(self, process: Process, eta: float) -> None:
        super().__init__()
        self.process, self.eta = process, eta

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.eta * self.process.diffusion(t, x)
