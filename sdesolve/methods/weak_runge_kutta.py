"""Roessler's stochastic Runge-Kutta methods of weak order 2: a tableau, and the step that it defines.

For the columns g^k of the diffusion, k = 1 .. m, with F_0 = f(t, y), G_0 = g(t, y), W the increments and, for k != l,

    s_k = sqrt(h),  J_lk = I_lk = W_l W_k/2 + A_lk      (Ito)
    s_k = W_k,      J_lk = 2 A_lk                       (Stratonovich)

with A_lk the Levy areas between channels,

    F_i   = f(t + c0_i h, y + h sum_j A0_ij F_j + sum_j sum_l B0_ij G_j^l W_l),                      c0_i = sum_j A0_ij
    G_i^k = g^k(t + c_i h, y + c_i h F_0 + s_k sum_j B1_ij G_j^k + sum_j sum_{l != k} B3_ij G_j^l W_l)
    V_i^k = g^k(t, y + sum_j sum_{l != k} B2_ij G_j^l J_lk/sqrt(h)),                                 V_0 = G_0
    y_1   = y + h sum_i alpha_i F_i + sum_i sum_k (beta_w_i W_k + beta_kk_i I_kk/sqrt(h)) G_i^k
              + sum_i sum_k (gamma_w_i W_k + gamma_0_i sqrt(h)) V_i^k

Published are such methods with J made of two-point variables in the place of 2 A_lk, which have its mean 0 and variance
h^2. Being functions of the path, the areas give strong order 1 as well: what y_1 then lacks of the Ito or Stratonovich
expansion is of order h^(3/2), with a mean of order h^3. Like two-point variables, they have E A = E A W = E A W W = 0;
but they are not independent of W, which matters in a single condition of weak order 2, that of g^k''(g^l, g^l):

    sum_i gamma_w_i (sum_j B2_ij)^2 E J_lk^2 W_k^2 = h^3/2

With A_lk independent of W the expectation is h^3 (3/4 + 1/4). With E(A_lk^2 | W) = h^2/12 + h/12 (W_l^2 + W_k^2), as of
Brownian motion, it is h^3 (3/4 + 5/12) = 7/6 h^3, for which published gamma_w are divided by 7/6.

Where the mixed terms vanish, as for diagonal and scalar noise (component k of g reads component k of y alone), V_i is
G_0 throughout, of which sum gamma_w = sum gamma_0 = 0 leaves nothing; for additive noise all stages of one time are
one. No areas are asked for then, and for diagonal noise all k are shifted at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdesolve.methods.iterated_integrals import beside, mixed, others, root_of, squares
from sdesolve.methods.method import Increments, Method, State, Step, combine
from sdesolve.system import System

Row = tuple[float, ...]
Rows = tuple[Row, ...]


@dataclass(frozen=True)
class WeakTableau:
    """A0, B0 : rows of F. c, B1, B3 : nodes and rows of G. B2 : rows of V. alpha, beta_w, beta_kk, gamma_w, gamma_0 :
    weights. Rows are those of strictly lower triangles, the first one empty, trailing zeros left out; B0, B1, B2 and B3
    read G, which is known before all F but the first."""

    A0: Rows
    B0: Rows
    alpha: Row
    c: Row
    B1: Rows
    B3: Rows
    beta_w: Row
    beta_kk: Row
    B2: Rows
    gamma_w: Row
    gamma_0: Row

    @property
    def c0(self) -> Row:
        """Nodes of F."""
        return tuple(sum(row) for row in self.A0)

    @property
    def first_of_time(self) -> tuple[int, ...]:
        """For each stage of G the first one of the same node."""
        return tuple(map(self.c.index, self.c))


class WeakRungeKutta(Method):
    """A method by its tableau: weak order 2 and, along the path, strong order 1."""

    problem, noise, levy = "sde", ("diagonal", "scalar", "general"), "davie-foster"
    levy_mixed_only, order, weak_order = True, 1.0, 2.0

    def __init__(self, name: str, tableau: WeakTableau, calculus: str, source: str) -> None:
        self.name, self.tableau, self.calculus, self.source = name, tableau, (calculus,), source
        self.drift_evaluations, self.diffusion_evaluations = len(tableau.A0), len(tableau.c)
        # the first stage is one matrix; of all others a column is shifted by itself
        self.general_diffusion_evaluations = 1, len(tableau.c) - 1 + len(tableau.B2) - 1
        self.additive_diffusion_evaluations = len(set(tableau.c))

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        tab, y, h, w = self.tableau, state.y, inc.h, inc.w
        assert w is not None
        root, divisor = root_of(h)
        F, G = [system.drift(inc.t0, y)], [system.diffusion(inc.t0, y)]
        for i in range(1, len(tab.c)):
            G.append(self._diffusion_stage(system, inc, y, root, F[0], G, i))
        for a, b, c in list(zip(tab.A0, tab.B0, tab.c0, strict=True))[1:]:
            z = y + h * combine(a, F) + system.noise_term(combine(b, G), w)
            F.append(system.drift(inc.at(c), z))
        y1 = y + h * combine(tab.alpha, F) + system.noise_term(combine(tab.beta_w, G), w)
        if system.additive:
            return Step(State(y1))
        if any(tab.beta_kk):
            y1 = y1 + system.noise_term(combine(tab.beta_kk, G), squares(w, root, divisor))
        if system.noise == "general" and w.shape[-1] > 1:
            y1 = y1 + self._mixed(system, inc, y, root, divisor, G)
        return Step(State(y1))

    def _diffusion_stage(
        self, system: System, inc: Increments, y: Tensor, root: Tensor, f: Tensor, G: list[Tensor], i: int
    ) -> Tensor:
        """G_i from those before it."""
        tab, w, t = self.tableau, inc.w, inc.at(self.tableau.c[i])
        assert w is not None
        if system.additive:
            first = tab.first_of_time[i]
            return G[first] if first < i else system.diffusion(t, y)
        moved = y + (tab.c[i] * inc.h) * f if tab.c[i] else y
        own, ito = combine(tab.B1[i], G), "ito" in self.calculus
        if system.noise != "general":
            return system.diffusion(t, moved + (root * own if ito else system.noise_term(own, w)))
        cross = combine(tab.B3[i], G) if any(tab.B3[i]) and w.shape[-1] > 1 else None
        columns = []
        for k in range(w.shape[-1]):
            here = slice(k, k + 1)
            z = moved + (root * own[..., k] if ito else system.noise_term(own[..., here], w[..., here]))
            if cross is not None:
                z = z + system.noise_term(cross, w * others(w, k))
            columns.append(system.diffusion(t, z)[..., k])
        return torch.stack(columns, -1)

    def _mixed(
        self, system: System, inc: Increments, y: Tensor, root: Tensor, divisor: Tensor, G: list[Tensor]
    ) -> Tensor:
        """sum_i sum_k (gamma_w_i W_k + gamma_0_i sqrt(h)) V_i^k."""
        tab, w, area = self.tableau, inc.w, inc.area
        assert w is not None and area is not None
        J = mixed(inc, divisor) if "ito" in self.calculus else 2 * area / beside(divisor, w)[..., None]
        V = [G[0]]
        for row in tab.B2[1:]:
            G_row = combine(row, G)
            moves = [system.noise_term(G_row, J[..., :, k]) for k in range(w.shape[-1])]
            columns = [system.diffusion(inc.t0, y + move)[..., k] for k, move in enumerate(moves)]
            V.append(torch.stack(columns, -1))
        total = system.noise_term(combine(tab.gamma_0, V), beside(root, w).expand_as(w))
        return total + system.noise_term(combine(tab.gamma_w, V), w) if any(tab.gamma_w) else total
