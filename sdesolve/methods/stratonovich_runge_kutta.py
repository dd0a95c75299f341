"""Explicit stochastic Runge-Kutta methods for Stratonovich SDEs: a tableau, and the step that it defines.

    z_i = y + h sum_j a_ij f_j + sum_j (aw_ij W + ah_ij H) g_j,      f_i = f(t + c_i h, z_i),   g_i = g(t + c_i h, z_i)
    y_1 = y + h sum_i b_i f_i + sum_i (bw_i W + bh_i H) g_i

with the increment W and the space-time Levy area H of each Brownian motion. The error is the difference to another set
of weights b, bw, bh on the same stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.methods.method import Increments, Method, State, Step, combine
from sdesolve.system import System

Row = tuple[float, ...]
Rows = tuple[Row, ...]


class Terms(NamedTuple):
    """What is not zero in a sum: numbers of stages, with the weight of f, and those of W g and H g."""

    drifts: tuple[tuple[int, float], ...]
    noises: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Weights:
    """Of the stages in the solution: b of f, bw and bh of g."""

    b: Row
    bw: Row
    bh: Row = ()

    @property
    def terms(self) -> Terms:
        stages = range(max(map(len, (self.b, self.bw, self.bh))))
        pairs = ((i, _at(self.bw, i), _at(self.bh, i)) for i in stages)
        drifts = tuple((i, b) for i, b in enumerate(self.b) if b != 0)
        return Terms(drifts, tuple((i, w, area) for i, w, area in pairs if w != 0 or area != 0))


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
        self.error_order = None if tableau.difference is None else error_order
        self.levy = "space-time" if tableau.space_time else None
        self.drifts = tableau.reads(tableau.a, tableau.weights.b)
        self.diffusions = tableau.reads((*tableau.aw, *tableau.ah), tableau.weights.bw, tableau.weights.bh)
        self.drift_evaluations, self.diffusion_evaluations = sum(self.drifts), sum(self.diffusions)
        rows = (Weights(*(_row(x, i) for x in (tableau.a, tableau.aw, tableau.ah))) for i in range(tableau.stages))
        self.stages = tuple(zip(tableau.c, (row.terms for row in rows), self.drifts, self.diffusions, strict=True))
        self.solution = tableau.weights.terms
        self.difference = None if tableau.difference is None else tableau.difference.terms

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y = state.y
        F: list[Tensor] = []
        G: list[Tensor] = []
        for c, terms, reads_f, reads_g in self.stages:
            z, t = _moved(system, inc, y, terms, F, G), inc.at(c)
            # a stage that no one reads stands in its place
            F.append(system.drift(t, z) if reads_f else y)
            G.append(system.diffusion(t, z) if reads_g else y)
        y1 = _moved(system, inc, y, self.solution, F, G)
        if not error or self.difference is None:
            return Step(State(y1))
        return Step(State(y1), _change(system, inc, self.difference, F, G))


def _moved(system: System, inc: Increments, y: Tensor, terms: Terms, F: list[Tensor], G: list[Tensor]) -> Tensor:
    """y + h sum_i b_i f_i + sum_i (bw_i W + bh_i H) g_i: f, and a g that is alone, in one operation each; several g are
    added up before, so that they are rounded to y's size once."""
    if len(terms.drifts) == 1:
        ((i, b),) = terms.drifts
        y = torch.addcmul(y, F[i], inc.h, value=b)
    elif terms.drifts:
        y = torch.addcmul(y, _drift(terms, F), inc.h)
    if len(terms.noises) == 1:
        ((i, *weights),) = terms.noises
        return system.plus_noise(y, G[i], *_driving(inc, *weights))
    return y + _noise(system, inc, terms, G) if terms.noises else y


def _change(system: System, inc: Increments, terms: Terms, F: list[Tensor], G: list[Tensor]) -> Tensor:
    """h sum_i b_i f_i + sum_i (bw_i W + bh_i H) g_i."""
    if not terms.noises:
        return inc.h * _drift(terms, F)
    noise = _noise(system, inc, terms, G)
    return torch.addcmul(noise, _drift(terms, F), inc.h) if terms.drifts else noise


def _drift(terms: Terms, F: list[Tensor]) -> Tensor:
    """sum_i b_i f_i."""
    stages, weights = zip(*terms.drifts, strict=True)
    return combine(weights, [F[i] for i in stages])


def _noise(system: System, inc: Increments, terms: Terms, G: list[Tensor]) -> Tensor:
    """sum_i (bw_i W + bh_i H) g_i."""
    (i, *weights), *more = terms.noises
    w, part = _driving(inc, *weights)
    total = system.noise_term(G[i], w if part == 1.0 else part * w)
    for i, *weights in more:
        total = system.plus_noise(total, G[i], *_driving(inc, *weights))
    return total


def _driving(inc: Increments, w: float, area: float) -> tuple[Tensor, float]:
    """w W + area H as a tensor and its factor; w or area is not zero."""
    assert inc.w is not None
    if area == 0:
        return inc.w, w
    assert inc.H is not None
    return (inc.H, area) if w == 0 else (torch.add(w * inc.w, inc.H, alpha=area), 1.0)


def _at(row: Row, i: int) -> float:
    return row[i] if i < len(row) else 0.0


def _row(rows: Rows, i: int) -> Row:
    return rows[i] if i < len(rows) else ()
