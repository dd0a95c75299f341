"""Heun's method for Stratonovich SDEs.

z   = y + f(t, y) h + g(t, y) dW
y_1 = y + 1/2 (f(t, y) + f(t_1, z)) h + 1/2 (g(t, y) + g(t_1, z)) dW
"""

from __future__ import annotations

from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.system import System


class StratonovichHeun(Method):
    """Strong order 1/2, 1 for commutative (so diagonal, scalar and additive) noise; weak order 1, 2 for additive noise.

    The error is the difference to Euler's method, y_1 - z.
    """

    name, problem = "heun", "sde"
    order, order_commutative, order_additive = 0.5, 1.0, 1.0
    weak_order, weak_order_additive, error_order = 1.0, 2.0, 1.0
    calculus, noise = ("stratonovich",), ("diagonal", "scalar", "general")
    drift_evaluations, diffusion_evaluations = 2, 2
    source = "Ruemelin 1982, SIAM J. Numer. Anal. 19:604"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, w = state.y, inc.w
        assert w is not None
        drift, noise = system.drift(inc.t0, y), system.noise_term(system.diffusion(inc.t0, y), w)
        z = y + inc.h * drift + noise
        drift1, noise1 = system.drift(inc.t1, z), system.noise_term(system.diffusion(inc.t1, z), w)
        y1 = y + (0.5 * inc.h) * (drift + drift1) + 0.5 * (noise + noise1)
        return Step(State(y1), (0.5 * inc.h) * (drift1 - drift) + 0.5 * (noise1 - noise) if error else None)


STRATONOVICH_HEUN = StratonovichHeun()
