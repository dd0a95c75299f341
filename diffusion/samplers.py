"""Named samplers: each is an equation of the reverse family and a method of the solver.

- ``"euler_maruyama"``: the reverse SDE by Euler-Maruyama, in fixed steps
- ``"reverse_sde"``: the reverse SDE by any method, in fixed steps or with error control
- ``"probability_flow"``: the probability-flow ODE by any method, in fixed steps or with error control
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sdesolve as ss

from .denoiser import Denoiser
from .reverse import Eta, probability_flow, reverse_sde

__all__ = ["SAMPLERS", "Sampler"]

Problem = ss.SDE | ss.ODE


def _reverse_sde(denoiser: Denoiser, eta: Eta) -> Problem:
    return reverse_sde(denoiser.process, denoiser, eta)


def _probability_flow(denoiser: Denoiser, eta: Eta) -> Problem:
    return probability_flow(denoiser.process, denoiser)


@dataclass(frozen=True)
class Sampler:
    """What `sample` hands to the solver.

    Parameters
    ----------
    problem : the equation, from a denoiser and eta.
    stochastic : whether it has noise; it then starts where the rates of the equation are finite.
    steps : how many, where the user does not say; None: as many as the tolerances ask for.
    tolerance : rtol and atol, where the user does not say; None: steps are fixed.
    method : the solver's method, in fixed steps and with error control.
    only : whether `method` is the only one.
    """

    problem: Callable[[Denoiser, Eta], Problem]
    stochastic: bool
    steps: int | None
    tolerance: float | None
    method: tuple[str | None, str | None]
    only: bool = False

    def start(self, denoiser: Denoiser) -> float:
        """Where generation starts."""
        return denoiser.process.rates_end if self.stochastic else denoiser.flow_end


SAMPLERS = {
    "euler_maruyama": Sampler(_reverse_sde, True, 500, None, ("euler_maruyama", None), only=True),
    "reverse_sde": Sampler(_reverse_sde, True, None, 1e-2, (None, None)),
    "probability_flow": Sampler(_probability_flow, False, None, 1e-4, ("heun", "tsit5")),
}
