"""Runge-Kutta methods for additive noise, whose stages are shifted by its space-time Levy area.

    z_i = y + h sum_j a_ij f_j + g(t) (aw_i W + H),      f_i = f(t + c_i h, z_i)
    y_1 = y + h sum_i b_i f_i + int g dW

(Foster, dos Reis & Strange 2023, arXiv:2210.17543). Where g depends on t, to the order of the method,

    int g dW = g(t) (W/2 + H) + g(t_1) (W/2 - H),

the integral of the line through both ends; a method of order 1 takes g(t) W alone.
"""

from __future__ import annotations

from torch import Tensor

from sdesolve.methods.method import Increments, Method, State, Step, combine
from sdesolve.system import System

Row = tuple[float, ...]


class Shifted(Method):
    """A method by its coefficients.

    The error is the difference to y + h f_1 + g(t) W. A method of one stage has no other to compare with.
    """

    problem, calculus, noise = "sde", ("ito", "stratonovich"), ("diagonal", "scalar", "general")
    levy, additive_only = "space-time", True

    def __init__(self, name: str, *, a: tuple[Row, ...], aw: Row, b: Row, c: Row, order: float, source: str) -> None:
        self.name, self.a, self.aw, self.b, self.c, self.source = name, a, aw, b, c, source
        self.order = self.order_additive = order
        self.weak_order = self.weak_order_additive = 2.0 if order > 1 else 1.0
        self.drift_evaluations, self.diffusion_evaluations = len(b), 2 if order > 1 else 1
        self.error_order = 1.5 if len(b) > 1 else None

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, h, w, area = state.y, inc.h, inc.w, inc.H
        assert w is not None and area is not None
        g = system.diffusion(inc.t0, y)
        F: list[Tensor] = []
        for row, weight, c in zip(self.a, self.aw, self.c, strict=True):
            z = y + system.noise_term(g, weight * w + area)
            z = z + h * combine(row, F) if any(row) else z
            F.append(system.drift(inc.at(c), z))
        whole = system.noise_term(g, w)
        bent = None if self.diffusion_evaluations == 1 else self._bent(system, inc, y, g)
        change = h * combine(self.b, F) + (whole if bent is None else whole + bent)
        if not error:
            return Step(State(y + change))
        difference = h * combine((self.b[0] - 1.0, *self.b[1:]), F)
        return Step(State(y + change), difference if bent is None else difference + bent)

    def _bent(self, system: System, inc: Increments, y: Tensor, g: Tensor) -> Tensor:
        """What the integral of g gains by the change of g."""
        assert inc.w is not None and inc.H is not None
        return system.noise_term(system.diffusion(inc.t1, y) - g, 0.5 * inc.w - inc.H)
