"""Heun's method for Stratonovich SDEs.

z   = y + f(t, y) h + g(t, y) dW
y_1 = z + 1/2 (f(t_1, z) - f(t, y)) h + 1/2 (g(t_1, z) - g(t, y)) dW
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
        y, h, w = state.y, inc.h, inc.w
        assert w is not None
        f, g = system.drift(inc.t0, y), system.diffusion(inc.t0, y)
        z = system.moved(y, h, f, g, w)
        f1, g1 = system.drift(inc.t1, z) - f, system.diffusion(inc.t1, z) - g
        y1 = system.moved(z, h, f1, g1, w, 0.5)
        return Step(State(y1), 0.5 * (h * f1 + system.noise_term(g1, w)) if error else None)


STRATONOVICH_HEUN = StratonovichHeun()
