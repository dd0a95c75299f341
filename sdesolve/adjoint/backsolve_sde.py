"""Gradients of SDE solves by the continuous adjoint, along the Brownian path of the solve.

For the Stratonovich equation dy = f(t, y; p) dt + g(t, y; p) o dW and a loss L of the outputs y(t_i), with
a = dL/dy(t),

    da = -a^T df/dy dt - a^T dg/dy o dW,      dL/dp = int a^T df/dp dt + int a^T dg/dp o dW,

and a(t_i^-) = a(t_i^+) + dL/dy(t_i), read backwards (Li, Wong, Chen & Duvenaud 2020, arXiv:2001.01328, theorem 3.2).
An Ito equation is solved backwards as the Stratonovich one of the same process. The steps are those of the solve, in
reverse, by Heun's method for (y, a) and the parameters' integral together; at outputs y is put back on the solution.
Its error is of order 1 for commutative noise (so diagonal, scalar and additive), 1/2 for other general noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.adjoint.parameters import refuse_unstable
from sdesolve.adjoint.pull import Pull
from sdesolve.adjoint.retrace import Found, Tape
from sdesolve.adjoint.trail import Trail, gradient, restored
from sdesolve.methods.method import Increments, State
from sdesolve.methods.reversible import change_by, fields_at
from sdesolve.solution import Status
from sdesolve.system import System


class AlongPath:
    """The way back; to be used on the steps of a solve."""

    name, doubles = "backsolve", False

    def tape(self) -> Tape:
        """Which keeps the last state."""
        return Tape()

    def back(self, trail: Trail, tape: Tape, y0: Tensor, ys: Tensor, grad: Tensor, parameters: list[Tensor]) -> Found:
        """Gradients by y0 and the parameters."""
        assert tape.last is not None
        system, pull = trail.system.stratonovich(), Pull(parameters)
        y = trail.followed(State(tape.last.y)).y
        a = torch.zeros_like(y)
        with torch.no_grad():
            for number, inc, taken in trail.backwards():
                due = gradient(trail, number + 1, grad)
                if due is not None:
                    pull.due, a = True, a + due
                    y = trail.followed(State(restored(trail, number + 1, ys, y))).y
                before, a_before = _heun(system, inc, y, a, taken.alone(a), pull)
                y, a = taken.choose(before, y), taken.choose(a_before, a)
                if number == 0 or trail.landed(number) is not None:
                    _check(y, a, inc)
        due = gradient(trail, 0, grad)
        return a if due is None else a + due, *pull.sums


def _heun(system: System, inc: Increments, y: Tensor, a: Tensor, passed: Tensor, pull: Pull) -> tuple[Tensor, Tensor]:
    """(y, a) before a step; ``passed`` is a, or 0 where the step was not taken."""
    increment = lambda t: lambda y: (change_by(system, inc, fields_at(system, t, y)),)
    half = 0.5 * passed
    (change1,), back = pull(increment(inc.t1), y)
    half1 = back((half,))
    (change0,), back = pull(increment(inc.t0), y - change1)
    half0 = back((half + half1,))
    return torch.sub(y, change0 + change1, alpha=0.5), a + half0 + half1


def _check(y: Tensor, a: Tensor, inc: Increments) -> None:
    """Raise where the backward solve has grown without bound."""
    good = torch.isfinite(y) & torch.isfinite(a)
    if not bool(good.all()):
        refuse_unstable(float(inc.t0.expand_as(y)[~good][0]), Status.NONFINITE)
