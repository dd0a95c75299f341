"""A clock of integers, for adaptive steps along a Brownian path.

Times are ticks of the path's lattice. A step of a free length is tried; when it is rejected, its interval becomes the
*root* of a tree: from then on steps are its halves, quarters, ..., until its end is reached. So every time at which the
path has been looked at is visited (Foster & Jelincic 2311.14201 show that a method of Heun's type otherwise converges
to a wrong limit), and this takes four integers instead of a stack of rejected times.

Free steps end on coarse ticks (multiples of a power of two of at most 1/8 of their length), as the bridge down to
these, and to the parts of such a step, has few levels; landing points are where they are, to the nearest tick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.brownian.levy import Increment
from sdesolve.brownian.window import Window, Windows
from sdesolve.clock import STRETCH, ClockState, Landings, Proposal, RealClock, columns, next_point
from sdesolve.errors import message

#: parts of a root: 2^_ROOT
_ROOT = 30
#: ends of steps are multiples of a power of two between 1/16 and 1/8 of their length: shorter by a twentieth than they
#: could be, and with three levels less to look up than at 1/64
_COARSE = 3
#: within a root a step may be longer than wanted by this factor
_GENEROUS = 1.2
#: bits of a float64's sign and exponent
_EXPONENT = 0x7FF0 << 48
#: the shortest step, in ticks
_LEAST = 8


@dataclass(frozen=True)
class PathNoise:
    """The increments of the steps that a `LatticeClock` proposes. ticks : times in float64 -> ticks of the window."""

    window: Window | Windows
    ticks: Callable[[NDArray[np.float64]], NDArray[np.int64]]

    def __call__(self, proposal: Proposal) -> Increment:
        start, end, _ = proposal.ticket
        return self.window(start, end)


@dataclass(frozen=True)
class LatticeClock:
    """Landings in reals and in ticks, with the state of each lane in integers.

    State: number of the last landing point; tick at which the root starts; its length, 0 without one; how many of its
    2^30 parts are done; how many the next step may take. Ticks count in the direction of time.

    real : the landing points in real numbers. behind, ahead : (points, 1) or (points, batch), ticks of the landing
    points that steps come from and go to (one table, or one row of it each, see ``RealClock.stretch``). tick : length
    of a tick, (1,) or (batch,), float64. longest : no step has more ticks than a cell of the window.
    """

    real: RealClock
    behind: Tensor
    ahead: Tensor
    tick: Tensor
    longest: Tensor

    @staticmethod
    def of(landings: Landings, lanes: int, dtype: torch.dtype, device: torch.device, noise: PathNoise) -> LatticeClock:
        """The clock of all landing points along a path.

        Raises
        ------
        ValueError : landing points of the same tick.
        """
        real = RealClock.of(landings, lanes, dtype, device)
        ticks = int(real.direction) * noise.ticks(landings.points)
        lane = lambda x: torch.as_tensor(x, dtype=torch.float64, device=device).reshape(-1)
        tick, longest = lane(noise.window.tick), 2.0 ** lane(noise.window.depth)
        gaps = np.diff(ticks, axis=0)
        if (gaps < _LEAST).any():
            k, column = (int(i[0]) for i in np.nonzero(gaps < _LEAST))
            pair = landings.points[k : k + 2, column].tolist()
            got = f"times {pair[0]!r} and {pair[1]!r}"
            least = _LEAST * float(tick.max())
            accepted = f"times at least {least:.3g} apart, a few ticks of the Brownian path's lattice"
            name, advice = (
                ("ts, jumps", "") if landings.jumps.any() else ("ts", "Fixed steps, dt=, have no such bound.")
            )
            raise ValueError(message(name, got, accepted, advice))
        table = torch.as_tensor(ticks, device=device)
        return LatticeClock(real, table, table, tick, longest)

    def part(self, lanes: Tensor) -> LatticeClock:
        """Of some of the lanes."""
        tables = (columns(x, lanes) for x in (self.behind, self.ahead, self.tick, self.longest))
        return LatticeClock(self.real.part(lanes), *tables)

    @property
    def direction(self) -> float:
        return self.real.direction

    @property
    def lanes(self) -> int:
        return self.real.lanes

    @property
    def last(self) -> int | Tensor:
        return self.real.last

    @property
    def sign(self) -> int:
        return int(self.real.direction)

    def start(self) -> ClockState:
        index = torch.zeros(self.lanes, dtype=torch.int64, device=self.behind.device)
        base = self.real.at(self.behind, index).expand(self.lanes).clone()
        return index, base, index.clone(), index.clone(), torch.full_like(index, 1 << _ROOT)

    def propose(self, state: ClockState, h: Tensor, active: Tensor) -> Proposal:
        index, base, length, part, most = state
        target = next_point(index, self.last)
        goal, since = self.real.at(self.ahead, target), self.real.at(self.behind, index)
        now = self._place(base, length, part)
        wanted = torch.minimum((h.double() / self.tick).clamp(min=1), self.longest)

        remaining = (goal - now).double()
        lands = (wanted >= remaining * (1 - STRETCH)) & (remaining <= self.longest)
        # two equal steps rather than one long and one tiny
        free = torch.where(wanted > 0.5 * remaining, 0.5 * remaining, wanted).to(torch.int64).clamp(min=1)
        coarse = (_power_below(free) >> _COARSE).clamp(min=1)
        free = torch.where(lands, goal, (now + free) & -coarse)

        parts = (wanted * (_GENEROUS * 2.0**_ROOT) / length.clamp(min=1)).clamp(1, 2.0**_ROOT).to(torch.int64)
        aligned = torch.where(part == 0, 1 << _ROOT, part & -part)
        parts = torch.minimum(torch.minimum(_power_below(parts), aligned), most)
        inner = self._place(base, length, part + parts)

        rooted = length > 0
        end = torch.where(active, torch.where(rooted, inner, free), now)
        after = torch.where(rooted, part + parts, part)
        landing = active & (end == goal)
        begin, gap = self.real.at(self.real.starts, index), self.real.at(self.real.gaps, index)
        elapsed = self._length(now - since)
        later = torch.where(landing, gap, self._length(end - since))
        t1 = torch.where(landing, self.real.at(self.real.ends, target), begin + self.direction * later)
        taken = torch.where(active, later - elapsed, torch.zeros_like(elapsed))
        cut = (end - now).double() < (1 - 2.0 ** (1 - _COARSE)) * wanted
        ticket = (self.sign * now, self.sign * end, after)
        return Proposal(begin + self.direction * elapsed, t1, taken, landing, target, cut, ticket)

    def advance(self, state: ClockState, proposal: Proposal, accept: Tensor) -> ClockState:
        index, base, length, part, most = state
        start, end, after = proposal.ticket
        start, end = self.sign * start, self.sign * end
        free = length == 0
        done = accept & (free | (after == 1 << _ROOT))
        rejected = ~accept & (end > start)
        half = torch.where(free, 1 << (_ROOT - 1), (after - part) >> 1).clamp(min=1)
        return (
            torch.where(accept & proposal.landing, proposal.target, index),
            torch.where(done, end, base),
            torch.where(done, 0, torch.where(rejected & free, end - start, length)),
            torch.where(done, 0, torch.where(accept, after, part)),
            torch.where(accept, 1 << _ROOT, torch.where(rejected, half, most)),
        )

    def position(self, state: ClockState) -> Tensor:
        """Number of the landing point last reached."""
        return state[0]

    def finished(self, state: ClockState) -> Tensor:
        """Whether the last landing point is reached."""
        return state[0] >= self.last

    def least_step(self, state: ClockState) -> Tensor:
        """A few ticks, or what rounding of the elapsed time would eat."""
        index, base, length, part, _ = state
        elapsed = self._length(self._place(base, length, part) - self.real.at(self.behind, index))
        return torch.maximum(4 * self.real.eps * elapsed, (_LEAST * self.tick).to(self.real.gaps.dtype))

    def _length(self, ticks: Tensor) -> Tensor:
        return (ticks.double() * self.tick).to(self.real.gaps.dtype)

    def _place(self, base: Tensor, length: Tensor, part: Tensor) -> Tensor:
        """Tick of a part of a root."""
        return base + ((length * part) >> _ROOT)


def _power_below(x: Tensor) -> Tensor:
    """The largest power of two that is not above x, for 0 < x < 2^53; 0 for 0."""
    bits = x.double().view(torch.int64) & _EXPONENT
    return bits.view(torch.float64).to(torch.int64)
