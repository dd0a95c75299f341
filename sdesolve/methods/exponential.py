"""Exponential Runge-Kutta methods: dy = (A(t) y + f(t, y)) dt + g(t) dW by variation of constants, exactly but for f.

exponential_euler    Y   = exp(L) y + psi_1 f(t0, y) + N
exponential_heun     y_1 = Y + psi_2 (f(t1, Y) - f(t0, y))
exponential_rk3      see there; ODEs alone

with exp(L), psi_k and N of ``flow.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.methods.flow import NODES, Flow, flow, rest_of
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.semilinear import Semilinear
from sdesolve.system import System


class ExponentialEuler(Method):
    """Order 1; strong order 1, as N and the noise of the equation differ along a path by what of the latter is
    independent of W, and weak order 1. A step has the right law if f = 0. Evaluations of the drift are those of f; of
    the diffusion, those of g, four a step, if it is a function.
    """

    name, order = "exponential_euler", 1.0
    made_for = "Semilinear"
    drift_evaluations = 1
    source = "Certaine 1960; Hochbruck & Ostermann 2010, sec. 2; Jentzen & Kloeden 2009; Lord & Tambue 2013"

    def __init__(self, problem: str) -> None:
        self.problem = problem
        if problem == "sde":
            self.order_additive, self.weak_order = 1.0, 1.0
            self.calculus, self.noise, self.additive_only = ("ito", "stratonovich"), ("diagonal",), True
            self.diffusion_evaluations = len(NODES)

    def evaluations_of_diffusion(self, system: System, channels: int, *, error: bool = False) -> int:
        problem = system.problem
        return self.diffusion_evaluations if isinstance(problem, Semilinear) and not problem.constant("g") else 0

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        return Step(State(_predicted(system, state.y, inc, flow(system, inc, 1), rest_of(system, inc.t0, state.y))))


class ExponentialHeun(ExponentialEuler):
    """Order 2; strong order 1 and weak order 2.

    The error is psi_2 (f(t1, Y) - f(t0, y)), the difference to `exponential_euler`. Of the noise, whose law is exact,
    it holds what f makes of it. It is 0 where f = 0.
    """

    name, order, error_order = "exponential_heun", 2.0, 2.0
    drift_evaluations = 2
    source = "ETD2RK: Cox & Matthews 2002, (22); with the noise of exponential Euler"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        if problem == "sde":
            self.order, self.weak_order, self.error_order = 1.0, 2.0, 1.5

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, by = state.y, flow(system, inc)
        f0 = rest_of(system, inc.t0, y)
        y1 = _predicted(system, y, inc, by, f0)
        if f0 is None:
            return Step(State(y1), torch.zeros_like(y) if error else None)
        change = by.moments[1] * (system.rest(inc.t1, y1) - f0)
        return Step(State(y1 + change), change if error else None)


class ExponentialRK3(Method):
    """Order 3, of an ODE; c = (0, 1/2, 1) and f_i = f(t0 + c_i h, y_i).

    y_2 = exp(L') y + psi_1' f_1,      where primes are of the half step
    y_3 = exp(L) y + psi_1 f_1 + (4 psi_2' + 2 psi_2) (f_2 - f_1)
    y_m = exp(L) y + psi_1 f_1 + 2 psi_2 (f_2 - f_1),      y_1 = y_m + (2 psi_3 - psi_2) (f_3 - 2 f_2 + f_1)

    The weights, those of ETD3RK, integrate exp(L_s) times the parabola through the f_i. The factor in y_3 is that of
    Hochbruck & Ostermann's family with gamma = 4: where A is stiff the order stays 3, if f and its derivatives
    along the solution are not large as A is (that of ETD3RK falls to 2, from smaller errors). The error is the
    difference to y_m, which has order 2. A that depends on time is read at eight times.
    """

    name, problem, made_for = "exponential_rk3", "ode", "Semilinear"
    order, error_order, drift_evaluations = 3.0, 3.0, 3
    source = "Hochbruck & Ostermann 2005, SINUM 43:1069, sec. 5; weights of Cox & Matthews 2002, (25)"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, middle = state.y, inc.at(0.5)
        half, whole = flow(system, Increments(inc.t0, middle, 0.5 * inc.h)), flow(system, inc, 3)
        f1 = rest_of(system, inc.t0, y)
        if f1 is None:
            return Step(State(whole.decay * y), torch.zeros_like(y) if error else None)
        first, second, third = whole.moments
        f2 = system.rest(middle, half.decay * y + half.moments[0] * f1)
        euler = whole.decay * y + first * f1
        f3 = system.rest(inc.t1, euler + (4 * half.moments[1] + 2 * second) * (f2 - f1))
        bend = (2 * third - second) * (f3 - 2 * f2 + f1)
        return Step(State(euler + 2 * second * (f2 - f1) + bend), bend if error else None)


def _predicted(system: System, y: Tensor, inc: Increments, by: Flow, f0: Tensor | None) -> Tensor:
    """exp(L) y + psi_1 f + N."""
    y1 = by.decay * y
    if f0 is not None:
        y1 = y1 + by.moments[0] * f0
    if by.noise is not None:
        assert inc.w is not None
        y1 = y1 + system.noise_term(by.noise, inc.w)
    return y1


EXPONENTIAL = (
    *(method(problem) for problem in ("ode", "sde") for method in (ExponentialEuler, ExponentialHeun)),
    ExponentialRK3(),
)
