"""Explicit stochastic Runge-Kutta methods for Stratonovich SDEs: a tableau, and the step that it defines.

    z_i = y + h sum_j a_ij f_j + sum_j (aw_ij W + ah_ij H) g_j,      f_i = f(t + c_i h, z_i),   g_i = g(t + c_i h, z_i)
    y_1 = y + h sum_i b_i f_i + sum_i (bw_i W + bh_i H) g_i

with the increment W and the space-time Levy area H of each Brownian motion. The error is the difference to another set
of weights b, bw, bh on the same stages.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sdesolve.methods.method import Increments, Method, State, Step, combine
from sdesolve.system import System

Row = tuple[float, ...]
Rows = tuple[Row, ...]


@dataclass(frozen=True)
class Weights:
    """Of the stages in the solution: b of f, bw and bh of g."""

    b: Row
    bw: Row
    bh: Row = ()


@dataclass(frozen=True)
class StratonovichTableau:
    """a, aw, ah : rows of the strictly lower triangles, the first one empty, trailing zeros left out. c : nodes.
    weights : of the solution; lower : of the one that it is compared with, None if the stages give no other that sees
    both drift and diffusion."""

    a: Rows
    aw: Rows
    c: Row
    weights: Weights
    lower: Weights | None = None
    ah: Rows = ()

    @property
    def stages(self) -> int:
        return len(self.c)

    @property
    def space_time(self) -> bool:
        """Whether H is asked for."""
        return any(any(row) for row in (*self.ah, self.weights.bh))

    @property
    def difference(self) -> Weights | None:
        """Of the solution and the lower one."""
        if self.lower is None:
            return None
        pairs = zip(
            (self.weights.b, self.weights.bw, self.weights.bh),
            (self.lower.b, self.lower.bw, self.lower.bh),
            strict=True,
        )
        return Weights(*(tuple(_at(x, i) - _at(y, i) for i in range(self.stages)) for x, y in pairs))

    def reads(self, rows: Rows, *weights: Row) -> tuple[bool, ...]:
        """Which stages are asked for their f, or g, given the rows and weights by which it enters."""
        return tuple(any(_at(row, i) != 0 for row in (*rows, *weights)) for i in range(self.stages))


class StratonovichRungeKutta(Method):
    """A method by its tableau, for every type of noise."""

    problem, calculus, noise = "sde", ("stratonovich",), ("diagonal", "scalar", "general")

    def __init__(
        self,
        name: str,
        tableau: StratonovichTableau,
        source: str,
        *,
        strong: tuple[float, float, float],
        weak: tuple[float, float, float] = (1.0, 1.0, 2.0),
        error_order: float = 1.0,
    ) -> None:
        """strong, weak : orders for general, commutative and additive noise. error_order : with a lower solution."""
        self.name, self.tableau, self.source = name, tableau, source
        self.order, self.order_commutative, self.order_additive = strong
        self.weak_order, self.weak_order_commutative, self.weak_order_additive = weak
        self.difference = tableau.difference
        self.error_order = None if self.difference is None else error_order
        self.levy = "space-time" if tableau.space_time else None
        self.drifts = tableau.reads(tableau.a, tableau.weights.b)
        self.diffusions = tableau.reads((*tableau.aw, *tableau.ah), tableau.weights.bw, tableau.weights.bh)
        self.drift_evaluations, self.diffusion_evaluations = sum(self.drifts), sum(self.diffusions)

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        tab, y = self.tableau, state.y
        F: list[Tensor] = []
        G: list[Tensor] = []
        for i, c in enumerate(tab.c):
            row = Weights(_row(tab.a, i), _row(tab.aw, i), _row(tab.ah, i))
            z, t = y + _change(system, inc, row, F, G) if any(map(any, (row.b, row.bw, row.bh))) else y, inc.at(c)
            # a stage that no one reads stands in its place
            F.append(system.drift(t, z) if self.drifts[i] else y)
            G.append(system.diffusion(t, z) if self.diffusions[i] else y)
        y1 = y + _change(system, inc, tab.weights, F, G)
        if not error or self.difference is None:
            return Step(State(y1))
        return Step(State(y1), _change(system, inc, self.difference, F, G))


def _change(system: System, inc: Increments, weights: Weights, F: list[Tensor], G: list[Tensor]) -> Tensor:
    """h sum_i b_i f_i + sum_i (bw_i W + bh_i H) g_i; at least one weight is not zero."""
    total = inc.h * combine(weights.b, F) if any(weights.b) else None
    assert inc.w is not None
    for i, g in enumerate(G):
        w, area = _at(weights.bw, i), _at(weights.bh, i)
        if w == 0 and area == 0:
            continue
        moved = combine((w, area), [inc.w, inc.w if inc.H is None else inc.H])
        term = system.noise_term(g, moved)
        total = term if total is None else total + term
    assert total is not None
    return total


def _at(row: Row, i: int) -> float:
    return row[i] if i < len(row) else 0.0


def _row(rows: Rows, i: int) -> Row:
    return rows[i] if i < len(rows) else ()
