"""Roessler's stochastic Runge-Kutta methods of strong order 1.5: a tableau, and the step that it defines.

    F_i = f(t + c0_i h, y + h sum_j A0_ij F_j + sum_j B0_ij G_j I_10/h)
    G_i = g(t + c1_i h, y + h sum_j A1_ij F_j + sqrt(h) sum_j B1_ij G_j)
    y_1 = y + h sum_i alpha_i F_i
            + sum_i (beta_w_i I_1 + beta_10_i I_10/h + beta_11_i I_11/sqrt(h) + beta_111_i I_111/h) G_i

with the Ito integrals I_1 = W, I_10/h = W/2 + H, I_11 = (W^2 - h)/2 and I_111 = (W^3 - 3 h W)/6, each Brownian motion
with its own. A method whose G_i all stand at y is of the class SRA, for additive noise; the others are of the class
SRI, for diagonal and scalar noise (Roessler 2010, SIAM J. Numer. Anal. 48:922).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sdesolve.methods.iterated_integrals import beside, root_of, squares
from sdesolve.methods.method import Increments, Method, State, Step, combine
from sdesolve.system import System

Row = tuple[float, ...]
Rows = tuple[Row, ...]


@dataclass(frozen=True)
class StochasticTableau:
    """Coefficients of a stochastic Runge-Kutta method; stage 0 is at (t, y) in both f and g.

    A0, B0, A1, B1 : rows of the strictly lower triangles, the first one empty; A1 and B1 are None for additive noise.
    alpha : weights of F. beta_w, beta_10, beta_11, beta_111 : weights of G; the last two are None for additive noise.
    c0, c1 : nodes of F and G, in [0, 1]. lower_w, lower_11 : weights of G in the lower method,
    y + h F_0 + sum_i (lower_w_i I_1 + lower_11_i I_11/sqrt(h)) G_i.
    """

    A0: Rows
    B0: Rows
    alpha: Row
    beta_w: Row
    beta_10: Row
    c0: Row
    c1: Row
    lower_w: Row
    A1: Rows | None = None
    B1: Rows | None = None
    beta_11: Row | None = None
    beta_111: Row | None = None
    lower_11: Row | None = None

    @property
    def stages(self) -> int:
        return len(self.alpha)

    @property
    def additive_only(self) -> bool:
        return self.B1 is None

    @property
    def beta(self) -> Rows:
        """For each stage the weights of I_1, I_10/h and, unless the noise is additive, I_11/sqrt(h) and I_111/h."""
        rows = (self.beta_w, self.beta_10, self.beta_11, self.beta_111)
        return tuple(zip(*(row for row in rows if row is not None), strict=True))

    @property
    def alpha_difference(self) -> Row:
        """Weights of F, less those of the lower method."""
        return (self.alpha[0] - 1.0, *self.alpha[1:])

    @property
    def beta_difference(self) -> Rows:
        """`beta`, less that of the lower method."""
        zero = (0.0,) * self.stages
        rows = (self.lower_w, zero) if self.lower_11 is None else (self.lower_w, zero, self.lower_11, zero)
        lower = zip(*rows, strict=True)
        return tuple(
            tuple(b - low for b, low in zip(one, other, strict=True))
            for one, other in zip(self.beta, lower, strict=True)
        )

    @property
    def drift_from(self) -> tuple[int, ...]:
        """For each stage the one whose F it takes: its own, that of an equal stage before, or any where no one asks."""
        read = [
            self.alpha[j] != 0 or any(_at(row, j) for row in (*self.A0, *(self.A1 or ()))) for j in range(self.stages)
        ]
        return _first_equal(list(zip(map(_trimmed, self.A0), map(_trimmed, self.B0), self.c0, strict=True)), read)

    @property
    def diffusion_from(self) -> tuple[int, ...]:
        """The same for G."""
        read = [
            any(self.beta[j]) or any(_at(row, j) for row in (*self.B0, *(self.B1 or ()))) for j in range(self.stages)
        ]
        still: Rows = ((),) * self.stages
        rows = zip(map(_trimmed, self.A1 or still), map(_trimmed, self.B1 or still), self.c1, strict=True)
        return _first_equal(list(rows), read)


def _at(row: Row, j: int) -> float:
    return row[j] if j < len(row) else 0.0


def _trimmed(row: Row) -> Row:
    """Without trailing zeros."""
    return row if not row or row[-1] != 0.0 else _trimmed(row[:-1])


def _first_equal(stages: list[tuple[Row, Row, float]], read: list[bool]) -> tuple[int, ...]:
    """For each stage the number of the first one equal to it; 0 for one that is not read."""
    wanted = [stage if asked else stages[0] for stage, asked in zip(stages, read, strict=True)]
    return tuple(map(wanted.index, wanted))


class StochasticRungeKutta(Method):
    """A method of the class SRA (additive noise of any shape) or SRI (diagonal and scalar noise, Ito), by its tableau.

    Both have strong order 1.5. The weak order is 2 for additive noise and 1.5 otherwise: there odd powers of sqrt(h),
    which is no random number, leave terms of order h^(5/2) in the moments of a step. One of them, in E y_1^2, is
    1/3 (beta_w + beta_10/2).(B1 e)^3 g^4 d^3g/dy^3 h^(5/2). For SRIW1 they are 0 where g is linear.

    The error is the difference to a lower method on the same stages: for SRA Euler-Maruyama, for SRI a method of strong
    order 1 that has the drift of Euler-Maruyama, and neither I_10 nor I_111.
    """

    problem, levy = "sde", "space-time"
    order, order_additive, weak_order_additive, error_order = 1.5, 1.5, 2.0, 1.5

    def __init__(self, name: str, tableau: StochasticTableau, source: str) -> None:
        self.name, self.tableau, self.source = name, tableau, source
        self.additive_only = tableau.additive_only
        self.calculus = ("ito", "stratonovich") if self.additive_only else ("ito",)
        self.noise = ("diagonal", "scalar", "general") if self.additive_only else ("diagonal", "scalar")
        self.weak_order = 2.0 if self.additive_only else 1.5
        self.stages = tuple(enumerate(zip(tableau.drift_from, tableau.diffusion_from, strict=True)))
        self.weights = tableau.alpha, tableau.beta
        self.difference = tableau.alpha_difference, tableau.beta_difference
        self.drift_evaluations = sum(i == j for i, (j, _) in self.stages)
        self.diffusion_evaluations = sum(i == k for i, (_, k) in self.stages)

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        tab, y, h = self.tableau, state.y, inc.h
        root, integrals = _integrals(inc, multiple=not self.additive_only)
        F: list[Tensor] = []
        G: list[Tensor] = []
        for i, (j, k) in self.stages:
            z0 = z1 = y
            if any(tab.A0[i]):
                z0 = z0 + h * combine(tab.A0[i], F)
            if any(tab.B0[i]):
                z0 = z0 + system.noise_term(combine(tab.B0[i], G), integrals[1])
            if tab.A1 is not None and any(tab.A1[i]):
                z1 = z1 + h * combine(tab.A1[i], F)
            if tab.B1 is not None and root is not None and any(tab.B1[i]):
                z1 = z1 + root * combine(tab.B1[i], G)
            F.append(system.drift(inc.at(tab.c0[i]), z0) if j == i else F[j])
            G.append(system.diffusion(inc.at(tab.c1[i]), z1) if k == i else G[k])

        def change(alpha: Row, beta: Rows) -> Tensor:
            total = h * combine(alpha, F)
            for weights, g in zip(beta, G, strict=True):
                if any(weights):
                    total = total + system.noise_term(g, combine(weights, integrals))
            return total

        return Step(State(y + change(*self.weights)), change(*self.difference) if error else None)


def _integrals(inc: Increments, multiple: bool) -> tuple[Tensor | None, list[Tensor]]:
    """I_1, I_10/h and, if `multiple`, I_11/sqrt(h) and I_111/h, with sqrt(h) before them; 0 in a step of length 0.

    Where h < 0, which is solved for additive noise alone, sqrt(h) stands for -sqrt|h|: all that it enters cancels.
    """
    h, w, H = inc.h, inc.w, inc.H
    assert w is not None and H is not None
    single = [w, 0.5 * w + H]
    if not multiple:
        return None, single
    _, divisor = root_of(h)
    root = h / divisor
    unit = w / beside(divisor, w)
    return root, [*single, squares(w, root, divisor), w * (unit * unit - 3) / 6]
