"""Where each trajectory stands in time.

A clock is two numbers a lane: the landing point last reached, and the time elapsed since. Both are exact enough in
float32: an accepted step ends exactly where the next begins, and a landing point is reached by setting the elapsed
time to zero, so nothing accumulates. There is a lane for each trajectory, or a single one that all share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.lanes import clamp, maximum, where, zero

ClockState = tuple[Tensor, ...]

#: a step that would end this close before a landing point, relative to what remains, ends on it
STRETCH = 1e-3


class Proposal(NamedTuple):
    """The step that each lane tries next, all (lanes,).

    t0, t1 : where it starts and ends. h : its length, >= 0; 0 for a lane that rests. landing : it ends on a landing
    point.
    target : index of the landing point ahead. cut : it is shorter than was asked for. ticket : what a source of noise
    needs to know of the interval beyond its times (integers of a lattice, say).
    """

    t0: Tensor
    t1: Tensor
    h: Tensor
    landing: Tensor
    target: Tensor
    cut: Tensor
    ticket: tuple[Tensor, ...] = ()


class Clock(Protocol):
    """What the loop asks of a clock. Its state is a tuple of (lanes,) tensors, carried by the loop."""

    @property
    def direction(self) -> float: ...

    @property
    def lanes(self) -> int: ...

    @property
    def last(self) -> int | Tensor:
        """Number of the last landing point; the start is 0."""
        ...

    def start(self) -> ClockState: ...

    def propose(self, state: ClockState, h: Tensor, active: Tensor) -> Proposal: ...

    def advance(self, state: ClockState, proposal: Proposal, accept: Tensor) -> ClockState: ...

    def position(self, state: ClockState) -> Tensor: ...

    def finished(self, state: ClockState) -> Tensor: ...

    def least_step(self, state: ClockState) -> Tensor: ...


@dataclass(frozen=True)
class Landings:
    """The points on which steps end: (points, 1) or (points, batch) in float64, first the start; which of them are
    jumps of the right-hand side, and which output each one is (-1: none)."""

    points: NDArray[np.float64]
    jumps: NDArray[np.bool_]
    outputs: NDArray[np.int64]

    @staticmethod
    def merge(ts: NDArray[np.float64], jumps: tuple[float, ...], ends: bool = False) -> Landings:
        """Output times (T, columns), strictly monotone, and the jumps from first to last. ends : of the outputs those
        two alone."""
        if ends:
            found = Landings.merge(ts[[0, -1]], jumps)
            return replace(found, outputs=np.where(found.outputs > 0, len(ts) - 1, found.outputs))
        low, high = min(ts[0, 0], ts[-1, 0]), max(ts[0, 0], ts[-1, 0])
        inside = np.unique(np.array([j for j in jumps if low <= j <= high], dtype=np.float64))
        if not len(inside):
            return Landings(ts, np.zeros(len(ts), dtype=bool), np.arange(len(ts)))
        points = np.unique(np.concatenate([ts[:, 0], inside]))
        points = points if ts[-1, 0] > ts[0, 0] else points[::-1].copy()
        outputs = np.full(len(points), -1)
        outputs[np.isin(points, ts[:, 0])] = np.arange(len(ts))
        return Landings(points[:, None], np.isin(points, inside), outputs)


@dataclass(frozen=True)
class RealClock:
    """A clock of real numbers: state (index of the last landing point, time elapsed since).

    starts, ends, gaps : (points, 1) or (points, batch); what a step that starts behind a landing point is given as its
    time, what one that ends on it is given, and how far it is to the next. exact : the points in float64. lanes : 1 or
    the number of trajectories. A clock of a single stretch between two landing points has tables of one row, see
    ``stretch``.
    """

    starts: Tensor
    ends: Tensor
    gaps: Tensor
    lanes: int
    last: int | Tensor
    direction: float
    exact: Tensor

    @staticmethod
    def of(landings: Landings, lanes: int, dtype: torch.dtype, device: torch.device) -> RealClock:
        """The clock of all landing points."""
        points = landings.points
        direction = 1.0 if points[-1, 0] > points[0, 0] else -1.0
        gaps = np.concatenate([np.abs(np.diff(points, axis=0)), np.zeros((1, points.shape[1]))])
        put = lambda a: torch.as_tensor(a, dtype=dtype, device=device)
        starts, ends = put(points), put(points)
        if landings.jumps.any():
            jump = torch.as_tensor(landings.jumps, device=device)[:, None]
            ahead = torch.full_like(starts, direction * torch.inf)
            # at a jump the function is asked one rounding unit before (for the end of a step) or behind (its start)
            after = torch.where(jump, torch.nextafter(starts, ahead), starts)
            starts = torch.cat([after[:-1], starts[-1:]])  # no step starts at the last one
            ends = torch.where(jump, torch.nextafter(ends, -ahead), ends)
        exact = torch.as_tensor(points, dtype=torch.float64, device=device)
        return RealClock(starts, ends, put(gaps), lanes, len(points) - 1, direction, exact)

    def stretch(self, point: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tables of one row for the stretch that ends on this landing point."""
        return row(self.starts, point - 1), row(self.ends, point), row(self.gaps, point - 1)

    @property
    def eps(self) -> float:
        kind = self.gaps.dtype
        return torch.finfo(kind).eps if isinstance(kind, torch.dtype) else float(np.finfo(kind).eps)

    def part(self, lanes: Tensor) -> RealClock:
        """Of some of the lanes."""
        starts, ends, gaps, exact = (columns(x, lanes) for x in (self.starts, self.ends, self.gaps, self.exact))
        return replace(self, starts=starts, ends=ends, gaps=gaps, exact=exact, lanes=len(lanes))

    def on_host(self) -> RealClock:
        """The same for one lane whose state is kept in NumPy's scalars, with tables of them."""
        tables: list[Any] = [table.cpu().numpy() for table in (self.starts, self.ends, self.gaps, self.exact)]
        return replace(self, starts=tables[0], ends=tables[1], gaps=tables[2], exact=tables[3])

    def start(self) -> ClockState:
        index = torch.zeros(self.lanes, dtype=torch.int64, device=self.starts.device)
        return index, torch.zeros(self.lanes, dtype=self.starts.dtype, device=self.starts.device)

    def at(self, table: Tensor, index: Tensor) -> Tensor:
        """Each lane's entry of a table, (lanes,), or (1,) where all have the same."""
        if table.shape[0] == 1:
            return table[0]
        return table[:, 0][index] if table.shape[1] == 1 else table.gather(0, index[None])[0]

    def propose(self, state: ClockState, h: Tensor, active: Tensor) -> Proposal:
        index, elapsed = state
        target = next_point(index, self.last)
        remaining = self.at(self.gaps, index) - elapsed
        landing = (h >= remaining * (1 - STRETCH)) & active
        # two equal steps rather than one long and one tiny
        wanted = where(landing, remaining, where(h > 0.5 * remaining, 0.5 * remaining, h))
        after = elapsed + wanted
        length = where(active, where(landing, remaining, after - elapsed), zero(h))
        begin = self.at(self.starts, index)
        t0 = begin + self.direction * elapsed
        t1 = where(landing, self.at(self.ends, target), begin + self.direction * (elapsed + length))
        # ``length`` is ``wanted`` up to rounding, which must not decide what counts as cut
        return Proposal(t0, t1, length, landing, target, wanted < h)

    def now(self, state: ClockState) -> Tensor:
        """Where each lane stands, (lanes,), in float64: of large times as exact as of small ones."""
        index, elapsed = state
        return self.at(self.exact, index) + self.direction * elapsed

    def advance(self, state: ClockState, proposal: Proposal, accept: Tensor) -> ClockState:
        index, elapsed = state
        landed = accept & proposal.landing
        after = where(landed, zero(elapsed), elapsed + proposal.h)
        return where(landed, proposal.target, index), where(accept, after, elapsed)

    def position(self, state: ClockState) -> Tensor:
        """Number of the landing point last reached."""
        return state[0]

    def finished(self, state: ClockState) -> Tensor:
        """Whether the last landing point is reached."""
        return state[0] >= self.last

    def least_step(self, state: ClockState) -> Tensor:
        """Below this, rounding of the elapsed time eats the step."""
        index, elapsed = state
        return 4 * self.eps * maximum(elapsed, 1e-3 * self.eps * self.at(self.gaps, index))


def next_point(index: Tensor, last: int | Tensor) -> Tensor:
    """Number of the landing point ahead of each lane, or the last one."""
    return clamp(index + 1, most=last)


def columns(table: Tensor, lanes: Tensor) -> Tensor:
    """Those of some lanes, (..., lanes); a table that all lanes share stays."""
    return table if table.shape[-1] == 1 else table.index_select(-1, lanes)


def row(table: Tensor, k: int) -> Tensor:
    """Row k as a table of its own."""
    return table[k : k + 1].clone(memory_format=torch.contiguous_format)
