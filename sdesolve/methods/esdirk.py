"""Diagonally implicit Runge-Kutta methods with an explicit first stage (ESDIRK), for stiff ODEs, and their additive
form for  dy/dt = f(t, y) + g(t, y)  with a stiff f and a g that is not:

    z_i = y + h sum_{j < i} (a_ij f_j + e_ij g_j) + gamma h f_i,      f_i = f(t + c_i h, z_i),  g_i = g(t + c_i h, z_i)
    y_1 = y + h sum_i b_i (f_i + g_i)

(Hairer & Wanner II, IV.6; Kennedy & Carpenter 2003, Appl. Numer. Math. 44:139, for the pair). b is the last row of a
with gamma: without g,  y_1 = z_s,  and f_s is the first stage of the next step. It is not f that is evaluated there,
which would enlarge what Newton's method has left by the stiffness of f, but the f_s that solves the equation.

One diagonal element, so one matrix  M = I - gamma h J  for all stages of a step (`newton.Chord`); for a large state
none at all, but products of J with vectors (`newton_krylov`). The error is  h sum_i (b_i - bhat_i) (f_i + g_i),  times
M^-1 where the embedded solution grows with the stiffness: what is stiff is damped in it as in the step (Hosea &
Shampine 1996, Appl. Numer. Math. 20:21).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from operator import mul

import torch
from torch import Tensor

from sdesolve.errors import message
from sdesolve.methods.implicit import checked
from sdesolve.methods.jacobian import value_and_jacobian
from sdesolve.methods.method import Increments, Method, State, Step, combine, plain_eager
from sdesolve.methods.newton import (
    KAPPA,
    Chord,
    Slope,
    StageNewton,
    anyone,
    before_stages,
    check_state,
    linear_of,
    size_of,
)
from sdesolve.methods.newton_krylov import LARGE, NewtonKrylov, Shifted
from sdesolve.methods.runge_kutta import hermite
from sdesolve.system import System

Row = tuple[float, ...]

#: corrections shrink to this part at least, or the next step has a new Jacobian; and a step that is shorter by this
RENEW, SHORTER = 0.01, 0.5
#: where nothing says which error matters, Newton's method leaves this power of the rounding unit of the state
ROUNDING = 0.8
#: and takes so many times the iterations; rounding units of the state, below which no error matters
PATIENCE, UNITS = 4, 10
#: how the linear systems may be solved
LINEAR = ("dense", "krylov")


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an ESDIRK method whose last row is b.

    a : rows below the diagonal, the first one empty. gamma : the diagonal but for the first stage. c : nodes. lower :
    weights bhat of the embedded solution, of order ``lower_order``. explicit : e, rows like a; None: for f alone. dense
    : for each stage the coefficients of theta, theta^2, ... of its weight b_i(theta); without it the dense output is
    the cubic Hermite interpolant.
    """

    a: tuple[Row, ...]
    gamma: float
    c: Row
    lower: Row
    lower_order: int
    explicit: tuple[Row, ...] | None = None
    dense: tuple[Row, ...] | None = None

    @property
    def stages(self) -> int:
        return len(self.c)

    @property
    def b(self) -> Row:
        """Weights of the solution."""
        return (*self.a[-1], self.gamma)

    @property
    def difference(self) -> Row:
        """b - bhat."""
        return tuple(b - low for b, low in zip(self.b, self.lower, strict=True))

    @property
    def filtered(self) -> bool:
        """Whether the embedded solution grows with the stiffness: for y' = lambda y it tends to  r h lambda y,  r =
        bhat_1 - sum_i bhat_i x_i  with  sum_j a_ij x_j = a_i1  (i, j > 1)."""
        x: list[float] = []
        for first, *others in self.a[1:]:
            x.append((first - sum(map(mul, others, x))) / self.gamma)
        return abs(self.lower[0] - sum(map(mul, self.lower[1:], x))) > 1e-9

    @property
    def guesses(self) -> tuple[Row, ...]:
        """For each stage weights of the slopes before it, which extrapolate them to its node."""
        return tuple(_extrapolation(self.c[:i], c) if i else () for i, c in enumerate(self.c))


def _extrapolation(nodes: Row, c: float) -> Row:
    """Weights of the line through the values at two nodes, the closest to c; of one value, where the node is c."""
    order = sorted(range(len(nodes)), key=lambda j: (abs(nodes[j] - c), -j))
    i = order[0]
    others = [j for j in order if nodes[j] != nodes[i]]
    if nodes[i] == c or not others:
        return tuple(float(k == i) for k in range(len(nodes)))
    j = others[0]
    share = (c - nodes[i]) / (nodes[j] - nodes[i])
    return tuple((1 - share) * (k == i) + share * (k == j) for k in range(len(nodes)))


class ESDIRK(Method):
    """A diagonally implicit Runge-Kutta method for stiff ODEs, from its tableau.

    Parameters
    ----------
    iterations : of Newton's method in each implicit stage, at most; with fixed steps, where nothing says which error
        matters, 4 times as many.
    linear : how its linear systems are solved. ``"dense"``, by a Jacobian of n rows (vector-Jacobian products, one
        evaluation of f) and its factors, which serve until corrections shrink by less than a factor of 100.
        ``"krylov"``, by GMRES from Jacobian-vector products, in memory for 41 states; f needs second derivatives, or
        compiled those in forward mode, and a product counts as an evaluation of it. Default: krylov above 2048 elements
        a trajectory, if the problem gives no Jacobian. Inside torch.func transforms it is dense.

    Raises
    ------
    ValueError : ``iterations`` below 1, another ``linear``.
    """

    problem, may_fail, has_dense = "ode", True, True
    first_evaluations = 1
    reports_evaluations = reads_tolerance = True
    tableau: Tableau

    def __init__(self, iterations: int = 10, linear: str | None = None) -> None:
        if linear not in (None, *LINEAR):
            raise ValueError(message("linear", repr(linear), "'dense', 'krylov' or None, by the size of the state"))
        self.iterations, self.linear = checked(iterations), linear
        self.error_order = min(self.order, self.tableau.lower_order) + 1
        self.drift_evaluations = 3 * (self.tableau.stages - 1)
        self.guesses, self.filtered = self.tableau.guesses, self.tableau.filtered

    def _parts(self, system: System) -> tuple[System, System | None]:
        """f, and g if there is one."""
        if self.tableau.explicit is None or system.parts is None:
            return system, None
        return system.parts

    def _matrix_free(self, f: System) -> bool:
        """Whether GMRES solves the linear systems; not by the batch, which changes no trajectory."""
        if not plain_eager() and not torch.compiler.is_compiling():
            return False
        if self.linear is not None:
            return self.linear == "krylov"
        return prod(f.spec.per_trajectory) > LARGE and not f.has_jacobian

    def init(self, system: System, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """f, its Jacobian (nothing of it where there is none), what `_memory` holds, and g."""
        check_state(y)
        f, g = self._parts(system)
        flat = y.reshape(-1, prod(f.spec.per_trajectory))
        if self._matrix_free(f):
            first, jacobian = f.drift(t, y), flat.new_zeros(len(flat), 0, 0)
        else:
            first, jacobian = value_and_jacobian(f, t, y)
        one = torch.ones_like(flat[:, 0])
        # a compiled loop carries tensors of one layout
        cache = first, jacobian.contiguous(), torch.stack([one, torch.zeros_like(one), torch.zeros_like(one)], 1)
        return cache if g is None else (*cache, g.drift(t, y))

    def first_stage(self, cache: tuple[Tensor, ...]) -> Tensor | None:
        return cache[0] if len(cache) == 3 else cache[0] + cache[3]

    def step(
        self,
        system: System,
        state: State,
        inc: Increments,
        *,
        error: bool = False,
        dense: bool = False,
        tolerance: Tensor | None = None,
    ) -> Step:
        tab, y, h = self.tableau, state.y, inc.h
        f, g = self._parts(system)
        first, jacobian, memory, *explicit = state.cache
        s = tab.gamma * h
        with torch.no_grad():
            make = self._krylov if self._matrix_free(f) else self._chord
            newton, jacobian, spent = make(f, inc.t0, y.detach(), s.detach(), first, jacobian, memory, tolerance)
            found = before_stages(memory[:, 0], spent)
        F, G, rows = [first], explicit, tab.explicit or tab.a
        z = y
        for i in range(1, tab.stages):
            t = inc.at(tab.c[i])
            a = y + h * _sum(tab.a[i], F, rows[i], G)
            found = newton(t, a, s, combine(self.guesses[i], F), found)
            F.append(found.k)
            z = a + s * found.k
            if g is not None:
                G.append(g.drift(t, z))
        after, evaluations = State(z, (F[-1], jacobian, _memory(found, s))), found.evaluations
        if g is not None:
            y1 = y + h * _sum(tab.b, F, tab.b, G)
            cache = f.drift(inc.t1, y1), jacobian, _memory(found, s), g.drift(inc.t1, y1)
            after, evaluations = State(y1, cache), evaluations + 1
        estimate, failed = None, found.failed
        if error:
            with torch.no_grad():
                estimate = h * _sum(tab.difference, F, tab.difference, G)
                if g is not None or self.filtered:
                    # what is stiff in y_1 - z_s is an error of y_1, which M^-1 would hide
                    off = 0.0 if g is None else after.y - z
                    damped = newton.damped(estimate - off)
                    estimate, evaluations = damped.error + off, evaluations + damped.evaluations
                    failed = failed if damped.failed is None else failed | damped.failed
        powers = self._dense(h, F, G, state, after) if dense else ()
        y1 = torch.where(f.spec.expand(found.undefined), torch.nan, after.y)
        return Step(after._replace(y=y1), estimate, failed & ~found.undefined, powers, evaluations=evaluations)

    def _chord(
        self,
        f: System,
        t: Tensor,
        y: Tensor,
        s: Tensor,
        slope: Tensor,
        jacobian: Tensor,
        memory: Tensor,
        tolerance: Tensor | None,
    ) -> tuple[StageNewton, Tensor, Tensor]:
        """Newton's method for the stages of a step from y, where f is the slope; the Jacobian; evaluations of f."""
        jacobian, renewed = _renewed(f, t, y, s, jacobian, memory)
        linear = linear_of(jacobian, s)
        # a stiff f may be large where y is not on its way yet, but not M^-1 f
        size = size_of(f, y) + size_of(f, linear.solve(s * slope))
        scale, iterations = self._scale(size, tolerance)
        chord = Chord(f, scale, y, iterations, tolerance is not None, jacobian=jacobian, linear=linear)
        return chord, jacobian, renewed

    def _krylov(
        self,
        f: System,
        t: Tensor,
        y: Tensor,
        s: Tensor,
        slope: Tensor,
        jacobian: Tensor,
        memory: Tensor,
        tolerance: Tensor | None,
    ) -> tuple[StageNewton, Tensor, Tensor]:
        """The same without a matrix."""
        size, spent = size_of(f, y), torch.zeros_like(memory[:, 0], dtype=torch.int64)
        if tolerance is None:
            reach, products = Shifted.at(f, t, y, s)[1].roughly(s * slope)
            size, spent = size + size_of(f, reach), products + 1
        scale, iterations = self._scale(size, tolerance)
        return NewtonKrylov(f, scale, y, iterations, tolerance is not None, t=t, s=s), jacobian, spent

    def _scale(self, size: Tensor, tolerance: Tensor | None) -> tuple[Tensor, int]:
        """Of errors that matter, and of the most iterations. size : of a state, where nothing else says it."""
        unit = torch.finfo(size.dtype).eps
        if tolerance is None:
            scale, iterations = size * (unit**ROUNDING / KAPPA), PATIENCE * self.iterations
        else:
            scale, iterations = torch.maximum(tolerance, size * (UNITS * unit / KAPPA)), self.iterations
        return scale.clamp(min=torch.finfo(size.dtype).tiny), iterations

    def _dense(self, h: Tensor, F: list[Tensor], G: list[Tensor], before: State, after: State) -> tuple[Tensor, ...]:
        if self.tableau.dense is not None:
            return tuple(h * _sum(weights, F, weights, G) for weights in zip(*self.tableau.dense, strict=True))
        slope, slope1 = self.first_stage(before.cache), self.first_stage(after.cache)
        assert slope is not None and slope1 is not None
        return hermite(before.y, after.y, h * slope, h * slope1)


def _sum(weights: Row, F: list[Tensor], others: Row, G: list[Tensor]) -> Tensor:
    """sum_j w_j f_j, and of g where there is one."""
    row, slopes = ((*weights, *others), [*F, *G]) if G else (weights, F)
    return combine(row, slopes) if any(row) else torch.zeros_like(F[0])


def _memory(found: Slope, s: Tensor) -> Tensor:
    """Of a step, for the next one, (batch, 3): the factor of its last correction, whether a new Jacobian is wanted, and
    gamma h."""
    wanted = (found.rate > RENEW).to(found.factor.dtype)
    return torch.stack([found.factor, wanted, s.detach().reshape(-1).expand_as(wanted)], 1)


def _renewed(f: System, t: Tensor, y: Tensor, s: Tensor, jacobian: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """The Jacobian, made anew for those that want it or whose step is much shorter than the last, as it is behind one
    that failed; and how often f was evaluated, (batch,)."""
    _, wanted, last = memory.unbind(1)
    renew = (wanted > 0) | (s.reshape(-1).abs() < SHORTER * last.abs())
    if not torch.compiler.is_compiling() and not anyone(renew):
        return jacobian, torch.zeros_like(renew, dtype=torch.int64)
    new = value_and_jacobian(f, t, y)[1]
    return torch.where(renew[:, None, None], new, jacobian).contiguous(), renew.to(torch.int64)
