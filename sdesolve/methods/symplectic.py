"""Symplectic methods for separable Hamiltonian systems, :class:`sdesolve.Hamiltonian`:  q' = V(p),  p' = F(q).

Compositions of the exact flows of the two halves, kicks and drifts, with coefficients that are the same read backwards:

    p <- p + b_i h F(q),   q <- q + a_i h V(p),      i = 1, ..., s,      and at last  p <- p + b_(s+1) h F(q)

(Hairer, Lubich & Wanner 2006, II.5 and VI.3). As each flow is symplectic, so is the step, and the energy, close to that
of the modified Hamiltonian which it follows, does not drift (IX.8); as the coefficients are symmetric, a step back
undoes one forth. The force behind the last drift is kept for the first kick of the next step: s evaluations a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.methods.runge_kutta import hermite
from sdesolve.system import System


class Composition(Method):
    """Kicks b_1, ..., b_(s+1) and, between them, drifts a_1, ..., a_s. Dense output is the cubic Hermite interpolant,
    whose slopes are known."""

    problem, made_for = "ode", "Hamiltonian"
    first_evaluations, has_dense = 1, True

    def __init__(self, name: str, order: int, kicks: tuple[float, ...], drifts: tuple[float, ...], source: str) -> None:
        self.name, self.order, self.kicks, self.drifts, self.source = name, order, kicks, drifts, source
        self.drift_evaluations = len(drifts)

    def init(self, system: System, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (_half(system, "force", t, y.chunk(2, -1)[0]),)

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        (q, p), (first,), h = state.y.chunk(2, -1), state.cache, inc.h
        force, start = first, p
        for b, a in zip(self.kicks[:-1], self.drifts, strict=True):
            p = p + b * h * force
            q = q + a * h * _half(system, "velocity", inc.t0, p)
            force = _half(system, "force", inc.t0, q)
        p = p + self.kicks[-1] * h * force
        y1 = torch.cat([q, p], -1)
        powers: tuple[Tensor, ...] = ()
        if dense:
            slopes = (
                torch.cat([_half(system, "velocity", inc.t0, moving), pull], -1)
                for moving, pull in ((start, first), (p, force))
            )
            powers = hermite(state.y, y1, *(h * slope for slope in slopes))
        return Step(State(y1, (force,)), None, None, powers)


def _half(system: System, name: str, t: Tensor, z: Tensor) -> Tensor:
    """F(q) or V(p), flat as the state is inside."""
    half = system.halves[name]
    return half.drift(t, z.reshape(half.spec.shape)).reshape(z.shape)


def _symmetric(*coefficients: float, whole: bool) -> tuple[float, ...]:
    """The same read backwards, with a sum of 1, from which the last one follows. whole : that one stands once."""
    rest = 1 - 2 * sum(coefficients)
    middle = (rest,) if whole else (rest / 2, rest / 2)
    return (*coefficients, *middle, *coefficients[::-1])


LEAPFROG = Composition("leapfrog", 2, (0.5, 0.5), (1.0,), "Stormer 1907; Verlet 1967; Hairer, Lubich & Wanner I.1.4")

#: Of order 4 with six forces a step, for any V. By the norm of the terms of degree 5 in its series, at the same number
#: of forces its error is 1/25 of that of three leapfrogs (Forest & Ruth 1990; Yoshida 1990), 1/10 of that of five
#: (Suzuki 1990), and 1/1.5 of that of McLachlan's with five forces (1995)
BLANES_MOAN4 = Composition(
    "blanes_moan4",
    4,
    _symmetric(0.0792036964311957, 0.353172906049774, -0.0420650803577195, whole=True),
    _symmetric(0.209515106613362, -0.143851773179818, whole=False),
    "Blanes & Moan 2002, J. Comput. Appl. Math. 142:313, table 2 (S6)",
)

SYMPLECTIC = (LEAPFROG, BLANES_MOAN4)
