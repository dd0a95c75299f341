"""Steps of the exact kernels as methods of the solver: forwards, and backwards with a denoiser's data for the data."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.errors import message
from sdesolve.methods import Increments, Method, State, Step
from sdesolve.system import System

from .kernels import posterior, transition
from .process import Process, broadcast_time
from .reverse import ReverseDrift

__all__ = ["Ancestral", "Transitions"]

VARIANCES = ("posterior", "forward")


class Transitions(Method):
    """Steps of ``process.forward_sde()`` whose law is exact, however long:  x_t = a x_s + shift + sqrt(v) xi.

    xi = W / sqrt(h); a, shift and v are those of :func:`diffusion.kernels.transition`.
    """

    name, problem = "transitions", "sde"
    order, weak_order = 1.0, float("inf")
    calculus, noise, additive_only = ("ito", "stratonovich"), ("diagonal",), True
    drift_evaluations = diffusion_evaluations = 0
    source = "Song et al. 2021, appendix B"

    def __init__(self, process: Process) -> None:
        self.process = process

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        kernel = transition(self.process, inc.t0, inc.t1)
        return Step(State(kernel.mean(state.y) + _noise(kernel.std, inc, state.y)))


class Ancestral(Method):
    """Ancestral steps of :func:`diffusion.reverse_sde`, one evaluation of its score each:

        x_s ~ N(c (x_t - shift_t) + d data(t, x_t) + shift_s, (eta w)^2),      s < t

    with the coefficients of :func:`diffusion.kernels.posterior`. First order, as the data are taken for constant over
    a step; exact where they are. eta, that of the reverse SDE, is at most 1; eta = 0 are DDIM's steps, of first order
    to the probability flow. A step may begin where alpha is 0 and end at s = 0.

    Parameters
    ----------
    variance : ``"posterior"``, w^2 = v sigma_s^2 / sigma_t^2, the default; or ``"forward"``, v = sigma_t^2 -
        (alpha_t/alpha_s)^2 sigma_s^2 in place of w^2 with the mean for eta = 1, but no noise at s = 0. For VP the
        posterior's is right for data in one point, the forward one for data from N(0, I) (Ho et al. 2020, section 3.2).

    References
    ----------
    Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. NeurIPS. Algorithm 2.
    Song, Meng, Ermon (2021). Denoising diffusion implicit models. ICLR. Eqs. (12), (16).
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Appendix F.
    """

    name, problem = "ancestral", "sde"
    order, weak_order = 1.0, 1.0
    calculus, noise, additive_only = ("ito", "stratonovich"), ("diagonal",), True
    drift_evaluations, diffusion_evaluations = 1, 0
    source = "Ho et al. 2020, algorithm 2; Song, Meng & Ermon 2021, (12)"

    def __init__(self, variance: str = "posterior") -> None:
        if variance not in VARIANCES:
            raise ValueError(message("variance", repr(variance), " or ".join(map(repr, VARIANCES))))
        self.variance = variance

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        drift, x, t, s = system.problem.drift, state.y, inc.t0, inc.t1
        if not isinstance(drift, ReverseDrift):
            raise TypeError(message("problem", type(system.problem).__name__, "one made by diffusion.reverse_sde"))
        eta = drift.eta_at(t.double())
        wide = self.variance == "forward"
        kernel = posterior(drift.process, s, t, 1.0 if wide else eta)
        std = torch.where(s == 0, 0.0, eta * transition(drift.process, s, t).std) if wide else kernel.std
        return Step(State(kernel.mean(x, drift.predict(t, x).data) + _noise(std, inc, x)))


def _noise(std: Tensor, inc: Increments, x: Tensor) -> Tensor:
    """std xi, xi = W / sqrt|h| standard normal; 0 in a step of length 0."""
    assert inc.w is not None
    length = torch.where(inc.h == 0, 1.0, inc.h.abs())
    return broadcast_time(std / torch.sqrt(length.double()), x) * inc.w
