"""Overdamped Langevin dynamics as a problem of the solver, and the Metropolis-adjusted algorithm as a method for it.

    dx = s(x) dt + sqrt(2 T) dw,      s = grad log p

has the stationary law p^(1/T). A step of length h of the adjusted algorithm proposes

    x' = x + h s(x) + sqrt(2 T h) z

and takes it with probability min(1, a), else it stays:

    log a = [log p(x') - log p(x)] / T - [|x - x' - h s(x')|^2 - |x' - x - h s(x)|^2] / (4 T h)

That law is then exact, whatever h.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.methods import Method
from sdesolve.methods.method import Increments, State, Step
from sdesolve.system import System

__all__ = ["MALA", "Overdamped"]


class Overdamped(ss.SDE):
    """dx = s(x) dt + sqrt(2 T) dw, for T > 0 with the log-density whose gradient s is, if it is known.

    Parameters
    ----------
    drift : ``s(t, x)``; t has no meaning.
    temperature : T >= 0.
    log_prob : ``(batch, *state) -> (batch,)``, log p up to a constant.
    like : a tensor of the states' dtype and device.
    """

    temperature: Tensor

    def __init__(
        self,
        drift: Callable[[Tensor, Tensor], Tensor],
        temperature: float,
        log_prob: Callable[[Tensor], Tensor] | None = None,
        *,
        like: Tensor,
    ) -> None:
        super().__init__(drift, additive=True)
        self.register_buffer("temperature", like.new_tensor(temperature), persistent=False)
        if log_prob is not None:
            self.given = ("drift", "diffusion", "log_prob")
            self.log_prob = log_prob

    def diffusion(self, t: Tensor, x: Tensor) -> Tensor:
        """sqrt(2 T), 0-d."""
        return (2 * self.temperature).sqrt()

    def log_density(self, x: Tensor) -> Tensor:
        """log_prob, ``(batch,)``, checked."""
        found = self.log_prob(x)
        if found.shape != x.shape[:1]:
            got = f"a function that returns shape {tuple(found.shape)} for x of shape {tuple(x.shape)}"
            raise ValueError(message("log_prob", got, f"shape ({x.shape[0]},), one number a trajectory"))
        return found


class Mala(Method):
    """The increment W makes the proposal. The space-time area H, which is independent of it, makes the decision: of its
    first channel, normalised, the distribution function is uniform."""

    name, problem = "mala", "sde"
    order, weak_order = 0.5, 1.0
    calculus, noise, additive_only = ("ito", "stratonovich"), ("diagonal",), True
    levy = "space-time"
    first_evaluations = drift_evaluations = diffusion_evaluations = 1
    source = "Roberts & Tweedie 1996, Bernoulli 2:341"

    def init(self, system: System, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return system.drift(t, y).clone(), _target(system).log_density(y).clone()

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        x, (score, height), h, T = state.y, state.cache, inc.h, _target(system).temperature
        assert inc.w is not None and inc.H is not None
        moved = x + h * score + system.noise_term(system.diffusion(inc.t0, x), inc.w)
        score1, height1 = system.drift(inc.t1, moved), _target(system).log_density(moved)
        there = (moved - x - h * score).reshape(len(x), -1).square().sum(1)
        back = (x - moved - h * score1).reshape(len(x), -1).square().sum(1)
        log_a = (height1 - height) / T - (back - there) / (4 * T * h)
        decision = torch.special.log_ndtr(inc.H.reshape(len(x), -1)[:, 0] * (12 / h).sqrt())
        taken = decision < log_a
        wide = taken.reshape(-1, *(1,) * (x.ndim - 1))
        cache = torch.where(wide, score1, score), torch.where(taken, height1, height)
        return Step(State(torch.where(wide, moved, x), cache))


def _target(system: System) -> Overdamped:
    assert isinstance(system.problem, Overdamped)
    return system.problem


MALA = Mala()
