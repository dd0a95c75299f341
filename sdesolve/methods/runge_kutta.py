"""Explicit Runge-Kutta methods for ODEs: a tableau, and the step that it defines.

    k_i = f(t + c_i h, y + h sum_j a_ij k_j),      y_1 = y + h sum_i b_i k_i,      error = h sum_i (b_i - bhat_i) k_i

and  y(t + theta h) = y + h sum_i b_i(theta) k_i  between, for which some tableaus have more stages (Hairer, Norsett &
Wanner I, II.1, II.4 and II.6). The first stage f(t, y) is kept between steps: where the last stage stands at the end of
the step (first same as last, read off the tableau) it costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import mul
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdesolve.methods.method import Increments, Method, State, Step, combine, plain_eager
from sdesolve.system import System


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method.

    a : rows of the strictly lower triangle, the first one empty. b, c : weights and nodes. lower : weights bhat of the
    embedded solution, of order ``lower_order``. coarse : weights of a second one, of order ``coarse_order`` below that,
    with which the error is  e^2 / (e^2 + (e_coarse / 10)^2)^(1/2)  (II.10). dense : for each stage the coefficients of
    theta, theta^2, ... of its weight b_i(theta); without it the dense output is the cubic Hermite interpolant.
    nested : they are those of theta, theta (1 - theta), theta^2 (1 - theta), theta^2 (1 - theta)^2, ..., which do not
    cancel as powers do. dense_a, dense_c : rows and nodes of the stages that dense output alone needs, behind the
    others in ``dense``.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    lower: tuple[float, ...] | None = None
    lower_order: int | None = None
    coarse: tuple[float, ...] | None = None
    coarse_order: int | None = None
    dense: tuple[tuple[float, ...], ...] | None = None
    nested: bool = False
    dense_a: tuple[tuple[float, ...], ...] = ()
    dense_c: tuple[float, ...] = ()

    @property
    def stages(self) -> int:
        return len(self.c)

    @property
    def first_same_as_last(self) -> bool:
        """The last stage is f at the end of the step."""
        row = self.a[-1]
        return self.c[-1] == 1 and (*row, *(0.0,) * (self.stages - len(row))) == self.b

    @property
    def differences(self) -> tuple[tuple[float, ...], ...]:
        """b - bhat, and a tenth of that for the second embedded solution; none, one or both."""
        found = []
        for weights, scale in ((self.lower, 1.0), (self.coarse, 0.1)):
            if weights is not None:
                found.append(tuple(scale * (b - weight) for b, weight in zip(self.b, weights, strict=True)))
        return tuple(found)

    @property
    def error_order(self) -> int | None:
        """Of the local error that is estimated: p, or  2 p - q  with a second estimate, of order q."""
        if self.lower_order is None:
            return None
        p = self.lower_order + 1
        return p if self.coarse_order is None else 2 * p - (self.coarse_order + 1)

    @property
    def stability_interval(self) -> float:
        """The x up to which |R(z)| <= 1 on the real axis from -x to 0, with the stability function  R(z) = 1 + sum_k
        b^T A^(k-1) 1 z^k  (Hairer & Wanner II, (IV.2.10))."""
        powers, column = [1.0], [1.0] * self.stages
        for _ in range(self.stages):
            powers.append(sum(map(mul, self.b, column)))
            column = [sum(map(mul, row, column)) for row in self.a]
        # R(z) = 1, without its root 0, and R(z) = -1
        roots = np.concatenate([np.roots(powers[:0:-1]), np.roots([*powers[:0:-1], 2.0])])
        return float(min(-z.real for z in roots if abs(z.imag) < 1e-9 and z.real < 0))

    @property
    def without_error(self) -> Tableau:
        """Without the embedded solutions, and the stages that nothing but these reads."""
        rows = (*self.a, *self.dense_a)
        read = {0, *(i for i, weight in enumerate(self.b) if weight), *range(self.stages, len(rows))}
        if self.first_same_as_last:
            read.add(self.stages - 1)
        if self.dense is not None:
            read |= {i for i, weights in enumerate(self.dense) if any(weights)}
        for i in reversed(range(len(rows))):
            if i in read:
                read |= {j for j, weight in enumerate(rows[i]) if weight}

        def kept(row: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(x for i, x in enumerate(row) if i in read)

        return replace(
            self,
            a=tuple(map(kept, kept(self.a))),
            b=kept(self.b),
            c=kept(self.c),
            lower=None,
            lower_order=None,
            coarse=None,
            coarse_order=None,
            dense=None if self.dense is None else kept(self.dense),
            dense_a=tuple(map(kept, self.dense_a)),
        )

    @property
    def dense_evaluations(self) -> int:
        """Of f, for dense output alone."""
        if self.dense is not None:
            return len(self.dense_c)
        return 0 if self.first_same_as_last else 1


class Sums(NamedTuple):
    """What the stages of a step add up to: y_1; all stages; the errors; what the last stage but one was evaluated
    at."""

    y1: Tensor
    stages: list[Tensor]
    errors: Sequence[Tensor]
    before: Tensor


class RungeKutta(Method):
    """An explicit Runge-Kutta method for ODEs, from its tableau. Steps whose error nobody asks for are those of
    ``bare``, which leaves out the stages that the error alone reads."""

    problem = "ode"
    has_dense = True

    def __init__(self, name: str, order: int, tableau: Tableau, source: str) -> None:
        self.name, self.order, self.tableau, self.source = name, order, tableau, source
        self.error_order = tableau.error_order
        self.last = tableau.first_same_as_last
        bare = tableau.without_error
        self.bare = self if bare.stages == tableau.stages else RungeKutta(name, order, bare, source)
        self.drift_evaluations = bare.stages - self.last
        self.error_drift_evaluations = tableau.stages - bare.stages
        self.first_evaluations = 1 if self.last else 0
        self.dense_evaluations = tableau.dense_evaluations
        self.differences = tableau.differences
        self.columns: dict[tuple[Any, ...], tuple[tuple[Tensor, ...], Tensor]] = {}
        self.rows: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}

    def init(self, system: System, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (system.drift(t, y),) if self.last else ()

    def first_stage(self, cache: tuple[Tensor, ...]) -> Tensor | None:
        return cache[0] if cache else None

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        if not error and self.bare is not self:
            return self.bare.step(system, state, inc, dense=dense)
        return self.with_sums(system, state, inc, error=error, dense=dense)[0]

    def with_sums(
        self, system: System, state: State, inc: Increments, *, error: bool, dense: bool
    ) -> tuple[Step, Sums]:
        """The step, and what its stages add up to."""
        y = state.y
        first = state.cache[0] if state.cache else system.drift(inc.t0, y)
        by = self._by_columns if plain_eager() else self._by_rows
        sums = by(system, y, inc, first, error)
        y1, stages, estimates, _ = sums
        estimate, coarse = (*estimates, None, None)[:2]
        powers = self._dense(system, y, y1, inc, stages) if dense else ()
        return Step(State(y1, (stages[-1],) if self.last else ()), estimate, None, powers, coarse), sums

    def _by_rows(self, system: System, y: Tensor, inc: Increments, first: Tensor, error: bool) -> Sums:
        """Each a sum over the stages before it, as compiled code wants them."""
        tab, h = self.tableau, inc.h
        stages, end, before = [first], y, y
        for row, c in zip(tab.a[1:], tab.c[1:], strict=True):
            before, end = end, y + h * combine(row, stages)
            stages.append(system.drift(inc.at(c), end))
        y1 = end if self.last else y + h * combine(tab.b, stages)
        return Sums(y1, stages, self._errors(h, stages) if error else (), before)

    def _errors(self, h: Tensor, stages: list[Tensor]) -> list[Tensor]:
        return [h * combine(weights, stages) for weights in self.differences]

    def _by_columns(self, system: System, y: Tensor, inc: Increments, first: Tensor, error: bool) -> Sums:
        """The same in fewer operations: a stage is added to all the sums that it enters at once.

        ``sums`` are those of the stages to come, of y_1 and of the errors, which have no part in the graph.
        """
        tab, h = self.tableau, inc.h
        graph = torch.is_grad_enabled() and (first.requires_grad or y.requires_grad)
        errors = len(self.differences) if error and not graph else 0
        rows = tab.stages - 1 + (not self.last) + errors
        columns, nodes = self._columns(y, rows)
        times = (inc.t0 + nodes.reshape(-1, *(1,) * inc.t0.ndim) * (inc.t1 - inc.t0)).unbind()
        stages, end, before, sums = [first], y, y, columns[0] * first
        for j, (c, time) in enumerate(zip(tab.c[1:], times, strict=True), 1):
            before = end
            end, sums = _advanced(y, h, sums, rows - j)
            stages.append(system.drift(inc.t1 if c == 1 else inc.t0 if c == 0 else time, end))
            if rows > j:
                sums = torch.addcmul(sums, columns[j], stages[-1])
        if not self.last:
            end, sums = _advanced(y, h, sums, rows - tab.stages)
        if errors:
            return Sums(end, stages, (h * sums).unbind(), before)
        with torch.no_grad():
            return Sums(end, stages, self._errors(h, stages) if error else (), before)

    def _columns(self, y: Tensor, rows: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """For each stage its weights in the sums that are not finished by then, (sums, 1, ..., 1); and the nodes from
        the second on."""
        key = (y.dtype, y.device, y.ndim, rows)
        if key not in self.columns:
            tab = self.tableau
            every = [*tab.a[1:], *(() if self.last else (tab.b,)), *self.differences][:rows]
            weights = [[row[j] if j < len(row) else 0.0 for row in every[j:]] for j in range(tab.stages)]
            with torch.inference_mode(False):
                put = lambda x: torch.tensor(x, dtype=y.dtype.to_real(), device=y.device)
                columns = tuple(put(column).reshape(-1, *(1,) * y.ndim) for column in weights)
                self.columns[key] = columns, put(tab.c[1:])
        return self.columns[key]

    def _dense(
        self, system: System, y: Tensor, y1: Tensor, inc: Increments, stages: list[Tensor]
    ) -> tuple[Tensor, ...]:
        tab, h = self.tableau, inc.h
        if tab.dense is None:
            last = stages[-1] if self.last else system.drift(inc.t1, y1)
            return hermite(y, y1, h * stages[0], h * last)
        stages = [*stages]
        for row, c in zip(tab.dense_a, tab.dense_c, strict=True):
            stages.append(system.drift(inc.at(c), y + h * combine(row, stages)))
        if plain_eager():
            used = [(w, k) for w, k, row in zip(self._rows(y), stages, tab.dense, strict=True) if any(row)]
            total = used[0][0] * used[0][1]
            for weights, stage in used[1:]:
                total = torch.addcmul(total, weights, stage)
            found = (h * total).unbind()
        else:
            found = tuple(h * combine(weights, stages) for weights in zip(*tab.dense, strict=True))
        return unnested(found) if tab.nested else found

    def _rows(self, y: Tensor) -> tuple[Tensor, ...]:
        """For each stage its weights in the coefficients of the dense output, (powers, 1, ..., 1)."""
        key = (y.dtype, y.device, y.ndim)
        if key not in self.rows:
            with torch.inference_mode(False):
                table = torch.tensor(self.tableau.dense, dtype=y.dtype.to_real(), device=y.device)
                self.rows[key] = table.reshape(*table.shape, *(1,) * y.ndim).unbind()
        return self.rows[key]


def hermite(y: Tensor, y1: Tensor, slope: Tensor, slope1: Tensor) -> tuple[Tensor, ...]:
    """Coefficients of theta, theta^2, theta^3 of the cubic through both ends with h f as slopes there."""
    change = y1 - y
    return slope, 3 * change - 2 * slope - slope1, slope + slope1 - 2 * change


def unnested(factors: Sequence[Any]) -> tuple[Any, ...]:
    """Coefficients of theta, theta^2, ... of  theta (F_0 + (1 - theta) (F_1 + theta (F_2 + (1 - theta) (F_3 + ...)))),
    of tensors or numbers F."""
    *outer, innermost = factors
    powers = [innermost]  # of what the brackets hold, from 1 on
    for k, factor in reversed(list(enumerate(outer))):
        if k % 2:
            powers = [factor, *powers]
        else:
            steps = [b - a for a, b in pairwise(powers)]
            powers = [powers[0] + factor, *steps, -powers[-1]]
    return tuple(powers)


def _advanced(y: Tensor, h: Tensor, sums: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """y + h times the first of the sums, and the others, of which there are ``left``."""
    if sums.requires_grad:
        # one node of the graph, whose gradients are joined, where those of slices would be padded with zeros and added
        head, rest = sums.split_with_sizes([1, left])
        head = head.squeeze(0)
    else:
        head, rest = sums[0], sums[1:]
    return torch.addcmul(y, head, h), rest
