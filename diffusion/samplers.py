"""Named samplers: each is an equation of the reverse family and a method of the solver.

- ``"euler_maruyama"``: the reverse SDE by Euler-Maruyama, in fixed steps
- ``"reverse_sde"``: the reverse SDE by any method, in fixed steps or with error control
- ``"probability_flow"``: the probability-flow ODE by any method, in fixed steps or with error control
- ``"ancestral"``: the posterior of the forward process with the denoiser's data, DDPM's sampler for any process (and
  DDIM's for eta < 1, which is then at most 1), in fixed steps from its very end. 250 of them, as Dhariwal & Nichol
  (2021) take of their chain of 1000: for VP and normal data of variance 1/2 the mean is then exact and the variance 4
  percent too small, which halves as steps double. For VP and data in few points Euler-Maruyama, which adds noise
  that they do not have, is much worse.
- ``"predictor_corrector"``: the reverse SDE in fixed steps, each with Langevin steps behind it
  (`diffusion.predictor_corrector`)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sdesolve as ss
from sdesolve.methods import Method

from .ancestral import Ancestral
from .denoiser import Denoiser
from .kernels import check_eta
from .reverse import Eta, probability_flow, reverse_sde

__all__ = ["SAMPLERS", "Sampler"]

Problem = ss.SDE | ss.ODE


def _reverse_sde(denoiser: Denoiser, eta: Eta) -> Problem:
    return reverse_sde(denoiser.process, denoiser, eta)


def _ancestral(denoiser: Denoiser, eta: Eta) -> Problem:
    if not callable(eta):
        check_eta(eta)
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
    reads_rates : False: it has no need of them, and starts at the process's end.
    steps : how many, where the user does not say; None: as many as the tolerances ask for.
    tolerance : rtol and atol, where the user does not say; None: steps are fixed.
    method : the solver's method, in fixed steps and with error control.
    only : whether `method` is the only one.
    corrects : whether Langevin steps stand between those of the equation.
    """

    problem: Callable[[Denoiser, Eta], Problem]
    stochastic: bool
    steps: int | None
    tolerance: float | None
    method: tuple[str | Method | None, str | Method | None]
    only: bool = False
    reads_rates: bool = True
    corrects: bool = False

    def start(self, denoiser: Denoiser) -> float:
        """Where generation starts."""
        reads = self.stochastic and self.reads_rates
        return denoiser.process.rates_end if reads else denoiser.flow_end


SAMPLERS = {
    "euler_maruyama": Sampler(_reverse_sde, True, 500, None, ("euler_maruyama", None), only=True),
    "reverse_sde": Sampler(_reverse_sde, True, None, 1e-2, (None, None)),
    "probability_flow": Sampler(_probability_flow, False, None, 1e-4, ("heun", "tsit5")),
    "ancestral": Sampler(_ancestral, True, 250, None, (Ancestral(), None), only=True, reads_rates=False),
    "predictor_corrector": Sampler(_reverse_sde, True, 250, None, ("euler_maruyama", None), only=True, corrects=True),
}
