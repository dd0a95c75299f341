"""Exponential Adams methods for ODEs: dy = (A(t) y + f(t, y)) dt by variation of constants, f by interpolation.

    Y   = exp(L) y + int exp(L_s) P(s) ds,      P through f_n, f_(n-1), ..., f_(n-p+1)      (predictor)
    y_1 = exp(L) y + int exp(L_s) C(s) ds,      C through f_(n+1), f_n, ..., f_(n-p+2)      (corrector)

with f_(n+1) = f(t1, Y), which is kept for the steps to come: one evaluation a step. The polynomials go through the
values at the times at which they were taken, so steps may change their length at will. Integrals of exp(L_s) times
powers of s come from ``flow.py``, weights of the values from ``phi.interpolatory_weights``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdesolve.methods.flow import flow, rest_of
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.methods.phi import interpolatory_weights
from sdesolve.system import System


class ExponentialAdams(Method):
    """Predictor and corrector of order p, evaluated once (PEC). The error is their difference.

    Where the solve starts, and behind every jump, there is no past: P and C go through what values there are, C always
    through one more than P where p > 1, whose order is enough for the few first steps. Without A these are the methods
    of Adams and Bashforth and of Adams and Moulton; a part of f that draws solutions together at a rate r asks for
    steps below 0.66/r, 0.50/r and 0.28/r for p = 1, 2, 3. Where A is stiff the order stays p, if f and its derivatives
    along the solution are not large as A is.

    Parameters
    ----------
    order : p, from 1 to 3.
    """

    problem, made_for = "ode", "Semilinear"
    first_evaluations = drift_evaluations = 1
    source = "Certaine 1960; Norsett 1969; Hochbruck & Ostermann 2011, BIT 51:889"

    def __init__(self, order: int) -> None:
        self.name, self.order, self.error_order = f"exponential_adams{order}", order, order + 1
        self.count = order

    def init(self, system: System, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """f_n and earlier values, and for each of these 1 / (t_n - t_j), 0 for those that are not there."""
        spec, value = system.spec, _value(system, t, y)
        far = spec.expand(torch.zeros(spec.batch, dtype=spec.dtype, device=spec.device))
        missing = range(self.count - 1)
        return value, *(torch.zeros_like(value) for _ in missing), *(far.clone() for _ in missing)

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, h, p = state.y, inc.h, self.count
        values, near = state.cache[:p], state.cache[p:]
        by = flow(system, inc, p)
        moments = by.moments or (torch.zeros_like(h),) * p
        past, free = [-h * u for u in near], by.decay * y
        predicted = free + _sum(interpolatory_weights(moments, past), values)
        value = _value(system, inc.t1, predicted)
        if p == 1:
            y1 = free + moments[0] * value
        else:
            weights = interpolatory_weights(moments, [torch.ones_like(h), *past[:-1]])
            y1 = free + _sum(weights, (values[0], value, *values[1:-1]))
        # in memory of their own, as what loops carry has to be
        cache = value, *(x.clone() for x in values[:-1]), *_nearness(near, h)
        return Step(State(y1, cache), y1 - predicted if error else None)


def _value(system: System, t: Tensor, y: Tensor) -> Tensor:
    """f(t, y), 0 where there is no f."""
    found = rest_of(system, t, y)
    return torch.zeros_like(y) if found is None else found


def _nearness(near: Sequence[Tensor], h: Tensor) -> list[Tensor]:
    """Of each value 1 / (t1 - t_j), from 1 / (t0 - t_j); none for a step of length 0."""
    if not near:
        return []
    rests = h == 0
    last = torch.where(rests, 0.0, 1 / torch.where(rests, 1.0, h))
    return [(last + torch.zeros_like(near[0])), *(u / (1 + h * u) for u in near[:-1])]


def _sum(weights: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total


EXPONENTIAL_ADAMS = tuple(ExponentialAdams(order) for order in (1, 2, 3))
