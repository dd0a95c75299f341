"""From noise back to data: the family of equations that share the marginals of the forward process.

    dx = [f(t) x + b(t) - (1 + eta^2)/2 g(t)^2 score(t, x)] dt + eta(t) g(t) dw,      t from its end down to t_min

with f, b, g of the forward process. eta = 1 is the reverse SDE, eta = 0 the probability-flow ODE. Read backwards
in time, dw is the increment of a Brownian motion that runs from the end to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn

import sdesolve as ss
from sdesolve.errors import message

from .denoiser import Denoiser
from .prediction import Prediction, ScorePrediction
from .process import Process, broadcast_time

__all__ = ["Eta", "ReverseDrift", "Score", "amount", "probability_flow", "reverse_sde"]

Score = Callable[[Tensor, Tensor], Tensor]
"""``score(t, x)``: the gradient of log p_t at x, of x's shape; t is 0-d or ``(batch, 1, ..., 1)``."""

Eta = float | Callable[[Tensor], Tensor]
"""The amount of noise: a number (or 0-d tensor), or an elementwise function of t."""


def reverse_sde(process: Process, score: Score | Denoiser, eta: Eta = 1.0) -> ss.SDE:
    """The reverse SDE, an additive Itô equation, to be solved with ``ts`` running from noise down to data.

    It may start and stop at any two times; noise has its end at ``process.rates_end``.

    Parameters
    ----------
    process : the forward process.
    score : a denoiser; or ``score(t, x)`` with t 0-d, or ``(batch, 1, ..., 1)`` when each trajectory has a clock of its
        own. A denoiser's own prediction goes into the form of the drift that stays finite longest
        (`diffusion.prediction`).
    eta : amount of noise, >= 0, or such a function of t, elementwise; every one gives the same marginals. Default 1.
        Compiled, a number is a constant of the graph, a 0-d tensor an input.

    References
    ----------
    Anderson (1982). Reverse-time diffusion equation models. Stochastic Processes and their Applications 12.
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eq.
    (6). Zhang & Chen (2023). Fast sampling of diffusion models with exponential integrator. ICLR. Eq. (6),
    for eta.

    Raises
    ------
    ValueError : eta is negative or not finite, or not elementwise; a denoiser of another process.
    TypeError : process, score or eta is of another kind.
    """
    if not callable(eta):
        if not (isinstance(eta, Real) or (isinstance(eta, Tensor) and eta.ndim == 0)):
            raise TypeError(message("eta", type(eta).__name__, "a number, or a function of t"))
        if not (math.isfinite(eta) and eta >= 0):
            raise ValueError(message("eta", repr(eta), "a finite number >= 0, or a function of t"))
    return ss.SDE(ReverseDrift(process, score, eta), _Diffusion(process, eta), additive=True)


def probability_flow(process: Process, score: Score | Denoiser) -> ss.ODE:
    """dx/dt = f(t) x + b(t) - 1/2 g(t)^2 score(t, x): the ODE whose solutions have the marginals of the forward
    process.

    Downwards it turns noise into data; upwards, data into noise. Arguments as for :func:`reverse_sde`. The
    same velocity is alpha' data + sigma' noise + shift', finite at the end of `RectifiedFlow` for denoisers that
    predict data, velocity, flow or edm.

    References
    ----------
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eq.
    (13).
    """
    return ss.ODE(ReverseDrift(process, score, 0.0))


class ReverseDrift(nn.Module):
    """f x + b - (1 + eta^2)/2 g^2 score."""

    def __init__(self, process: Process, score: Score, eta: Eta) -> None:
        super().__init__()
        if not isinstance(process, Process):
            raise TypeError(message("process", repr(process), "a diffusion.Process, such as diffusion.VP()"))
        if not callable(score):
            accepted = "a denoiser, or a function score(t, x) -> tensor"
            raise TypeError(message("score", type(score).__name__, accepted))
        if isinstance(score, Denoiser) and not _same(score.process, process):
            raise ValueError(message("score", f"a denoiser of {score.process}", f"one of {process}"))
        self.process, self.score, self.eta = process, score, eta
        self.noiseless = not callable(eta) and float(eta) == 0

    def predict(self, t: Tensor, x: Tensor) -> Prediction:
        """All quantities at (t, x), from one evaluation of the score."""
        if isinstance(self.score, Denoiser):
            return self.score.predict(t, x)
        return ScorePrediction(self.process, t, x, self.score(t, x))

    def eta_at(self, t: Tensor) -> Tensor | float:
        """eta(t)."""
        return amount(self.eta, t)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        found = self.predict(t, x)
        return found.flow if self.noiseless else found.reverse_drift(self.eta_at(broadcast_time(t, x)))


class _Diffusion(nn.Module):
    """eta g."""

    def __init__(self, process: Process, eta: Eta) -> None:
        super().__init__()
        self.process, self.eta = process, eta

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return amount(self.eta, broadcast_time(t, x)) * self.process.diffusion(t, x)


def amount(eta: Eta, t: Tensor) -> Tensor | float:
    """eta(t), checked."""
    if not callable(eta):
        return eta
    found = eta(t)
    if isinstance(found, Tensor) and found.shape not in ((), t.shape):
        got = f"a function that returns shape {tuple(found.shape)} for t of shape {tuple(t.shape)}"
        raise ValueError(message("eta", got, "an elementwise function of t, or a number"))
    if not isinstance(found, Tensor | Real):
        raise TypeError(message("eta", f"a function that returns {type(found).__name__}", "a tensor or a number"))
    return found


def _same(one: Process, other: Process) -> bool:
    """Whether two processes are equal, or have the same alpha, sigma and shift, as copies have."""
    if one == other:
        return True
    t = one.end * torch.linspace(0, 1, 9, dtype=torch.float64)
    parts = (lambda p: p.alpha(t)), (lambda p: p.sigma(t)), (lambda p: p.shift(t))
    return one.end == other.end and all(torch.equal(part(one), part(other)) for part in parts)
