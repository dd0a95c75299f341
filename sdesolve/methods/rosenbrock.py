"""Rosenbrock methods for stiff ODEs: implicit Runge-Kutta methods whose stages take one linear solve each.

    M u_i = gamma h (f(t + alpha_i h, y + sum_j a_ij u_j) + gamma_i h df/dt) + gamma sum_j c_ij u_j
    M = I - gamma h df/dy,      y_1 = y + sum_i b_i u_i

with j < i, and the derivatives of f at (t, y) (Hairer & Wanner II, (IV.7.25)). In the stages k_i of that book's
(IV.7.4), u = Gamma k and  A = alpha Gamma^-1,  C = I / gamma - Gamma^-1,  b = b_k Gamma^-1: no product of the Jacobian
with a vector is left. A step takes one Jacobian, one factorization of M, and no iteration that could fail: where M is
singular, or f or its derivatives are not finite, the new state is NaN, and adaptive control takes a shorter step.

The order needs the exact Jacobian, so its derivatives are part of the step's own: gradients go through the second
derivatives of f, and are those of the discrete steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdesolve.methods.jacobian import linearized
from sdesolve.methods.method import Increments, Method, State, Step, combine
from sdesolve.methods.newton import check_state, factorized
from sdesolve.system import System


@dataclass(frozen=True)
class Tableau:
    """Coefficients of a Rosenbrock method.

    gamma : of M. a, c : rows of the strictly lower triangles, the first ones empty. b : weights. nodes : alpha_i.
    slopes : gamma_i, what df/dt weighs. embedded : weights of the other solution, of order ``embedded_order``.
    dense : for each stage the coefficients of theta, theta^2, ... of its weight b_i(theta).
    """

    gamma: float
    a: tuple[tuple[float, ...], ...]
    c: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    nodes: tuple[float, ...]
    slopes: tuple[float, ...]
    embedded: tuple[float, ...]
    embedded_order: int
    dense: tuple[tuple[float, ...], ...]

    @property
    def stages(self) -> int:
        return len(self.nodes)

    @property
    def needed(self) -> int:
        """Stages without those that enter the error alone."""
        return max(i for i, weight in enumerate(self.b, 1) if weight)

    @property
    def difference(self) -> tuple[float, ...]:
        """b less the embedded weights."""
        return tuple(b - other for b, other in zip(self.b, self.embedded, strict=True))


class Rosenbrock(Method):
    """A Rosenbrock method, from its tableau.

    A stage evaluates f once; the first one's evaluation gives df/dt (in forward mode) and the Jacobian (in reverse
    mode, one vector-Jacobian product an element, or as the problem gives it) as well. For states of more than some
    thousand elements, of which matrices are too large, there is ``esdirk54``.
    """

    problem, has_dense = "ode", True

    def __init__(self, name: str, order: int, tableau: Tableau, source: str) -> None:
        self.name, self.order, self.tableau, self.source = name, order, tableau, source
        self.error_order = min(order, tableau.embedded_order) + 1
        self.drift_evaluations = tableau.needed
        self.error_drift_evaluations = tableau.stages - tableau.needed

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        return self.with_jacobian(system, state, inc, error=error, dense=dense)[0]

    def with_jacobian(
        self, system: System, state: State, inc: Increments, *, error: bool, dense: bool
    ) -> tuple[Step, Tensor]:
        """The step, and the Jacobian that it took, (batch, n, n)."""
        check_state(state.y)
        tab, h, rests = self.tableau, inc.h, None
        y = state.y
        if torch.is_grad_enabled() and inc.t0.ndim:
            rests, inc, y = _moving(inc, y)
        f, slope, jacobian = linearized(system, inc.t0, y)
        linear, good = factorized(jacobian, tab.gamma * h)
        size = tab.gamma * h
        u: list[Tensor] = []
        for i in range(tab.stages if error else tab.needed):
            if i:
                f = system.drift(inc.at(tab.nodes[i]), y + combine(tab.a[i], u))
            right = size * f
            if tab.slopes[i]:
                right = right + (tab.slopes[i] * h * size) * slope
            if i:
                right = right + tab.gamma * combine(tab.c[i], u)
            u.append(linear.solve(right))
        good = system.spec.expand(good)
        y1 = torch.where(good, state.y + combine(tab.b, u), torch.nan)
        difference = combine(tab.difference, u) if error else None
        if rests is not None:
            y1 = torch.where(rests, state.y, y1)
            difference = None if difference is None else torch.where(rests, 0.0, difference)
        powers = tuple(combine(weights, u) for weights in zip(*tab.dense, strict=True)) if dense else ()
        return Step(State(y1), difference, None, powers), jacobian


def _moving(inc: Increments, y: Tensor) -> tuple[Tensor, Increments, Tensor]:
    """Who rests, in a step of length 0; and the step with the time and state of one that moves in their place: where
    they rest f may have no derivative, and of infinity times 0 NaN would come into gradients that all share."""
    rests = inc.h == 0
    one = (~rests).reshape(-1).to(torch.int8).argmax().reshape(1)
    other = lambda x: torch.where(rests, x.detach().index_select(0, one), x)
    return rests, inc._replace(t0=other(inc.t0), t1=other(inc.t1)), other(y)
