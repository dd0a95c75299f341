"""Explicit Runge-Kutta methods for ODEs: a tableau, and the step that it defines.

    k_i = f(t + c_i h, y + h sum_j a_ij k_j),      y_1 = y + h sum_i b_i k_i,      error = h sum_i (b_i - bhat_i) k_i

(Hairer, Norsett & Wanner I, II.1 and II.4). The first stage f(t, y) is kept between steps: where the last stage stands
at the end of the step (first same as last, read off the tableau) it costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdesolve.methods.method import Increments, Method, State, Step, combine, plain_eager
from sdesolve.system import System


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method.

    a : rows of the strictly lower triangle, the first one empty. b, c : weights and nodes. lower : weights bhat of the
    embedded solution, of order ``lower_order``. dense : for each stage the coefficients of theta, theta^2, ... of
    its weight b_i(theta); without it the dense output is the cubic Hermite interpolant.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    lower: tuple[float, ...] | None = None
    lower_order: int | None = None
    dense: tuple[tuple[float, ...], ...] | None = None

    @property
    def stages(self) -> int:
        return len(self.c)

    @property
    def first_same_as_last(self) -> bool:
        """The last stage is f at the end of the step."""
        row = self.a[-1]
        return self.c[-1] == 1 and (*row, *(0.0,) * (self.stages - len(row))) == self.b

    @property
    def difference(self) -> tuple[float, ...] | None:
        """b - bhat."""
        return None if self.lower is None else tuple(b - low for b, low in zip(self.b, self.lower, strict=True))


class RungeKutta(Method):
    """An explicit Runge-Kutta method for ODEs, from its tableau."""

    problem = "ode"
    has_dense = True

    def __init__(self, name: str, order: int, tableau: Tableau, source: str) -> None:
        self.name, self.order, self.tableau, self.source = name, order, tableau, source
        self.error_order = None if tableau.lower_order is None else tableau.lower_order + 1
        self.last = tableau.first_same_as_last
        self.drift_evaluations = tableau.stages - 1 if self.last else tableau.stages
        self.first_evaluations = 1 if self.last else 0
        self.dense_evaluations = 0 if self.last else 1
        self.columns: dict[tuple[Any, ...], tuple[tuple[Tensor, ...], Tensor]] = {}
        self.rows: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}

    def init(self, system: System, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (system.drift(t, y),) if self.last else ()

    def first_stage(self, cache: tuple[Tensor, ...]) -> Tensor | None:
        return cache[0] if cache else None

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        tab, y, h = self.tableau, state.y, inc.h
        first = state.cache[0] if state.cache else system.drift(inc.t0, y)
        with_error = error and tab.difference is not None
        if plain_eager():
            y1, stages, estimate = self._by_columns(system, y, inc, first, with_error)
        else:
            y1, stages, estimate = self._by_rows(system, y, inc, first, with_error)
        cache = (stages[-1],) if self.last else ()
        if not dense:
            return Step(State(y1, cache), estimate)
        last = stages[-1] if self.last else system.drift(inc.t1, y1)
        return Step(State(y1, cache), estimate, None, self._dense(y, y1, h, stages, last))

    def _by_rows(
        self, system: System, y: Tensor, inc: Increments, first: Tensor, error: bool
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """y_1, all stages, and the error: each a sum over the stages before it, as compiled code wants them."""
        tab, h = self.tableau, inc.h
        stages, end = [first], y
        for row, c in zip(tab.a[1:], tab.c[1:], strict=True):
            end = y + h * combine(row, stages)
            stages.append(system.drift(inc.at(c), end))
        y1 = end if self.last else y + h * combine(tab.b, stages)
        return y1, stages, h * combine(tab.difference or (), stages) if error else None

    def _by_columns(
        self, system: System, y: Tensor, inc: Increments, first: Tensor, error: bool
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """The same in fewer operations: a stage is added to all the sums that it enters at once.

        ``sums`` are those of the stages to come, of y_1 and of the error, which has no part in the graph.
        """
        tab, h = self.tableau, inc.h
        graph = torch.is_grad_enabled() and (first.requires_grad or y.requires_grad)
        rows = tab.stages - 1 + (not self.last) + (error and not graph)
        columns, nodes = self._columns(y, rows)
        times = (inc.t0 + nodes.reshape(-1, *(1,) * inc.t0.ndim) * (inc.t1 - inc.t0)).unbind()
        stages, end, sums = [first], y, columns[0] * first
        for j, (c, time) in enumerate(zip(tab.c[1:], times, strict=True), 1):
            end, sums = _advanced(y, h, sums, rows - j)
            stages.append(system.drift(inc.t1 if c == 1 else inc.t0 if c == 0 else time, end))
            if rows > j:
                sums = torch.addcmul(sums, columns[j], stages[-1])
        if not self.last:
            end, sums = _advanced(y, h, sums, rows - tab.stages)
        if not error:
            return end, stages, None
        if not graph:
            return end, stages, h * sums[0]
        with torch.no_grad():
            return end, stages, h * combine(tab.difference or (), stages)

    def _columns(self, y: Tensor, rows: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """For each stage its weights in the sums that are not finished by then, (sums, 1, ..., 1); and the nodes from
        the second on."""
        key = (y.dtype, y.device, y.ndim, rows)
        if key not in self.columns:
            tab = self.tableau
            every = [*tab.a[1:], *(() if self.last else (tab.b,)), tab.difference or ()][:rows]
            weights = [[row[j] if j < len(row) else 0.0 for row in every[j:]] for j in range(tab.stages)]
            with torch.inference_mode(False):
                put = lambda x: torch.tensor(x, dtype=y.dtype.to_real(), device=y.device)
                columns = tuple(put(column).reshape(-1, *(1,) * y.ndim) for column in weights)
                self.columns[key] = columns, put(tab.c[1:])
        return self.columns[key]

    def _dense(self, y: Tensor, y1: Tensor, h: Tensor, stages: list[Tensor], last: Tensor) -> tuple[Tensor, ...]:
        if self.tableau.dense is None:
            return hermite(y, y1, h * stages[0], h * last)
        if not plain_eager():
            powers = zip(*self.tableau.dense, strict=True)
            return tuple(h * combine(weights, stages) for weights in powers)
        first, *others = self._rows(y)
        total = first * stages[0]
        for weights, stage in zip(others, stages[1:], strict=True):
            total = torch.addcmul(total, weights, stage)
        return (h * total).unbind()

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


def _advanced(y: Tensor, h: Tensor, sums: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """y + h times the first of the sums, and the others, of which there are ``left``."""
    if sums.requires_grad:
        # one node of the graph, whose gradients are joined, where those of slices would be padded with zeros and added
        head, rest = sums.split_with_sizes([1, left])
        head = head.squeeze(0)
    else:
        head, rest = sums[0], sums[1:]
    return torch.addcmul(y, head, h), rest
