"""Euler-Maruyama:  y_1 = y + f(t, y) h + g(t, y) dW."""

from __future__ import annotations

from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.system import System


class EulerMaruyama(Method):
    """Strong order 1/2 (1 for additive noise), weak order 1; Ito, any noise (Kloeden & Platen 1992, section 10.2)."""

    name, problem = "euler_maruyama", "sde"
    order, order_additive, weak_order = 0.5, 1.0, 1.0
    calculus, noise = ("ito",), ("diagonal", "scalar", "general")
    drift_evaluations, diffusion_evaluations = 1, 1
    source = "Maruyama 1955; Kloeden & Platen 1992, (10.2.4)"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, w = state.y, inc.w
        assert w is not None
        return Step(State(system.moved(y, inc.h, system.drift(inc.t0, y), system.diffusion(inc.t0, y), w)))


EULER_MARUYAMA = EulerMaruyama()
