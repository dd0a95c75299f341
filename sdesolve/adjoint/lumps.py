"""Gradients of many outputs brought to a few of them, where a backward solve will stop.

Where outputs are read off the dense output of the steps, more than one a step, a backward solve need not stop at each:
y(t_i) is, up to the error of the solve, what Hermite interpolation makes of y and f at some of the outputs, the nodes.
So its gradient g_i is one by y and by f(t, y) at the nodes, and

    sum_i g_i y(t_i)  ~  sum_k G_k y(t_k) + S_k f(t_k, y(t_k)),

with four nodes each where that many serve, whose interpolant is of degree 7. Nodes are about as close as the steps of
the solve.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.interpolate import hermite_weights
from sdesolve.loop import Loop
from sdesolve.methods.method import State
from sdesolve.outputs import Round

Times = NDArray[np.float64]

#: steps between two nodes, of the length that the tolerance would have allowed: the error is then below that of the
#: dense output itself (measured for Lotka-Volterra at tolerances 1e-3, 1e-5, 1e-7)
STRIDE = 0.7
#: nodes that an interpolant stands on
STENCIL = 4
#: by how much interpolation may enlarge errors of the values at the nodes
AMPLIFICATION = 4.0


class Lump(NamedTuple):
    """At an output, the gradients by y and by f(t, y); None: nothing by the latter."""

    value: Tensor
    slope: Tensor | None = None

    def over(self, scale: Tensor) -> Lump:
        """Divided by a number."""
        return Lump(self.value / scale, None if self.slope is None else self.slope / scale)


class Progress:
    """A recorder of how many steps each trajectory has taken by each output, parts of steps included; a step counts as
    a part of the one that its tolerance would have allowed. order : of the local error."""

    def __init__(self, outputs: int, batch: int, order: float) -> None:
        self.outputs, self.batch, self.order = outputs, batch, order
        self.table = torch.zeros(0)
        self.steps = torch.zeros(0)

    def begin(self, loop: Loop, state: State) -> None:
        """Before the first step."""
        device = state.y.device
        self.table = torch.zeros((self.outputs + 1, self.batch), dtype=torch.float64, device=device)
        self.steps = torch.zeros(self.batch, dtype=torch.float64, device=device)
        self.lanes = torch.arange(self.batch, device=device)

    def add(self, state: State, round: Round | None = None) -> None:
        """A step."""
        assert round is not None and round.ratio is not None
        length = round.ratio.double().to(self.steps.device) ** (1 / self.order)
        if round.inside is not None:
            self.table[round.inside.rows, self.lanes] = self.steps + length * round.inside.theta
        self.steps = self.steps + (length if round.taken is None else torch.where(round.taken, length, 0.0))

    def by(self) -> Times:
        """(T, batch), behind the solve; 0 where a trajectory did not get."""
        self.table[-2] = self.steps
        found: Times = self.table[:-1].cpu().numpy()
        return found


class Pace:
    """A recorder of how many steps a backward solve takes between the points where it stops."""

    def __init__(self, order: float) -> None:
        self.order, self.steps, self.marks = order, 0.0, [0.0]

    def begin(self, loop: Loop, state: State) -> None:
        """Before the first step."""

    def add(self, state: State, round: Round | None = None) -> None:
        """A step."""
        assert round is not None and round.ratio is not None
        self.steps += float(round.ratio.double().max()) ** (1 / self.order)
        if round.landed is not None:
            self.marks.append(self.steps)

    def by(self, ts: Times, stops: list[int]) -> Times:
        """(T,): from the first output on; those between the stops, which come from the last to the first, share."""
        known = [(i, mark) for i, mark in zip(stops, self.marks, strict=True) if i >= 0][::-1]
        rows, marks = zip(*known, strict=True)
        sign = 1.0 if ts[-1] > ts[0] else -1.0
        found: Times = np.interp(sign * ts, sign * ts[list(rows)], self.steps - np.array(marks))
        return found


def resolved(stretches: list[list[int]], pace: Times) -> bool:
    """Whether the backward solve took no more than a few steps between the nodes of outputs that were interpolated."""
    pairs = [(i, j) for nodes in stretches for i, j in pairwise(nodes) if j - i > 1]
    return all(pace[j] - pace[i] <= 2 * STRIDE for i, j in pairs)


def choose_nodes(ts: Times, progress: Times, jumps: tuple[float, ...]) -> list[list[int]]:
    """Numbers of outputs, those of each stretch between jumps of the right-hand side, (T,) and (T, batch): the first
    and the last of a stretch, and between them some that are about STRIDE steps apart of who takes most there."""
    sign = 1.0 if ts[-1] > ts[0] else -1.0
    ahead, times = sign * ts, sign * np.array(jumps, dtype=np.float64)
    # an output on a jump is a stretch of its own: f has two values there
    before, after = np.searchsorted(ahead, times, side="left"), np.searchsorted(ahead, times, side="right")
    cuts = sorted({0, len(ts), *before.tolist(), *after.tolist()})
    steps = np.concatenate([[0.0], np.diff(progress, axis=0).max(1).clip(0).cumsum()])
    return [_nodes(first, last, steps[first:last]) for first, last in pairwise(cuts)]


def _nodes(first: int, last: int, steps: Times) -> list[int]:
    """Of the outputs first <= i < last, given how many steps are taken by each."""
    if last - first < 3:
        return list(range(first, last))
    parts = max(math.ceil((steps[-1] - steps[0]) / STRIDE - 1e-6), 2)
    wanted = np.linspace(steps[0], steps[-1], parts + 1)[1:-1]
    inside = 1 + np.abs(steps[1:-1, None] - wanted).argmin(0)
    return [first, *(first + int(i) for i in np.unique(inside)), last - 1]


def lumps(ts: Times, grads: Tensor, stretches: list[list[int]]) -> dict[int, Lump]:
    """What stands at each node, by the number of its output, for gradients of all outputs, (T, ...)."""
    found = {i: Lump(grads[i]) for nodes in stretches for i in nodes}
    for nodes in stretches:
        for j, (first, last) in enumerate(pairwise(nodes)):
            if last - first > 1:
                _spread(grads[first + 1 : last], *_interpolant(ts, nodes, j), found)
    return found


def _interpolant(ts: Times, nodes: list[int], j: int) -> tuple[list[int], Times]:
    """For the outputs between nodes j and j + 1: the nodes to interpolate on, and what their values and slopes weigh,
    (2 m, n). As many nodes as do not amplify errors, where steps of very different length meet."""
    t = ts[nodes[j] + 1 : nodes[j + 1]]
    for m in range(min(STENCIL, len(nodes)), 1, -1):
        starts = range(max(j + 2 - m, 0), min(j, len(nodes) - m) + 1)
        sets = [nodes[start : start + m] for start in starts]
        weights = [np.concatenate(hermite_weights([float(ts[i]) for i in near], t)) for near in sets]
        amplified = [np.abs(w[::2]).sum(0).max() for w in weights]
        best = int(np.argmin(amplified))
        if amplified[best] <= AMPLIFICATION or m == 2:
            break
    return sets[best], weights[best]


def _spread(grads: Tensor, nodes: list[int], weights: Times, found: dict[int, Lump]) -> None:
    """Hand the gradients of consecutive outputs on to nodes."""
    table = torch.as_tensor(weights, dtype=grads.dtype, device=grads.device)
    rows = (table @ grads.reshape(len(grads), -1)).reshape(len(table), *grads.shape[1:])
    for i, value, slope in zip(nodes, rows[::2], rows[1::2], strict=True):
        before = found[i]
        found[i] = Lump(before.value + value, slope if before.slope is None else before.slope + slope)
