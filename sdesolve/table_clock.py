"""Fixed steps of which a watcher may take a part: their clock and their loop.

Behind an event a trajectory takes the rest of the step that it was in, and from then on the steps of the table again.
So its steps elsewhere, and those of the others, are the ones that they would be without events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesolve.clock import Clock, ClockState, Landings, Proposal, RealClock, columns, next_point, row
from sdesolve.loop import Loop, Sizes
from sdesolve.methods.method import Increments, State, Step
from sdesolve.state import finite
from sdesolve.step_size import StepTable


@dataclass(frozen=True)
class TableClock(RealClock):
    """A clock of the steps of a `StepTable`: state (index of the last output, steps done since, time elapsed since).

    starts, ends : in float64. lengths, counts : (points, 1) or (points, batch), signed length, in float64, and number
    of the steps to the next output.
    """

    lengths: Tensor
    counts: Tensor

    @staticmethod
    def of_table(table: StepTable, lanes: int, dtype: torch.dtype, device: torch.device) -> TableClock:
        """The clock of all steps, for times of this precision."""
        points, counts = table.ts.reshape(len(table.ts), -1), table.counts.reshape(len(table.counts), -1)
        real = RealClock.of(Landings.merge(points, ()), lanes, dtype, device)
        # behind the last output none is left
        behind = lambda x, last: torch.as_tensor(np.concatenate([x, np.full_like(x[:1], last)]), device=device)
        lengths = behind(np.diff(points, axis=0) / counts, 0.0)
        return TableClock(
            real.exact, real.exact, real.gaps, lanes, real.last, real.direction, real.exact, lengths, behind(counts, 1)
        )

    def part(self, lanes: Tensor) -> TableClock:
        lengths, counts = (columns(x, lanes) for x in (self.lengths, self.counts))
        some: Any = super().part(lanes)
        found: TableClock = replace(some, lengths=lengths, counts=counts)
        return found

    def stretch_of_table(self, point: int) -> tuple[Tensor, Tensor]:
        """Lengths and counts of one row for the stretch that ends on this landing point."""
        return row(self.lengths, point - 1), row(self.counts, point - 1)

    def start(self) -> ClockState:
        index = torch.zeros(self.lanes, dtype=torch.int64, device=self.gaps.device)
        return index, index.clone(), torch.zeros(self.lanes, dtype=self.gaps.dtype, device=self.gaps.device)

    def propose(self, state: ClockState, h: Tensor, active: Tensor) -> Proposal:
        index, done, elapsed = state
        target, left = next_point(index, self.last), self._left(state)
        whole = (h >= left) & active
        last = done + 1 >= self.at(self.counts, index)
        h = torch.where(active, torch.minimum(h, left), 0.0)
        end = torch.where(last, self.at(self.ends, target), self._grid(index, done + 1))
        t1 = torch.where(whole, end, self._grid(index, done) + self.direction * (elapsed + h))
        t0, t1 = self.now(state).to(h.dtype), t1.to(h.dtype)
        return Proposal(t0, t1, h, whole & last, target, cut=~whole)

    def _grid(self, index: Tensor, done: Tensor) -> Tensor:
        """The end of so many steps behind an output, in float64."""
        return self.at(self.starts, index) + done * self.at(self.lengths, index)

    def _left(self, state: ClockState) -> Tensor:
        """How long the rest of the step is."""
        index, _, elapsed = state
        return self.at(self.lengths, index).abs().to(elapsed.dtype) - elapsed

    def now(self, state: ClockState) -> Tensor:
        index, done, elapsed = state
        return self._grid(index, done) + self.direction * elapsed

    def advance(self, state: ClockState, proposal: Proposal, accept: Tensor) -> ClockState:
        index, done, elapsed = state
        whole = accept & (proposal.h >= self._left(state))
        landed = whole & proposal.landing
        index = torch.where(landed, proposal.target, index)
        done = torch.where(landed, 0, torch.where(whole, done + 1, done))
        after = torch.where(whole, 0.0, elapsed + proposal.h)
        return index, done, torch.where(accept, after, elapsed)

    def least_step(self, state: ClockState) -> Tensor:
        index, _, elapsed = state
        return 4 * self.eps * torch.maximum(elapsed, 1e-3 * self.eps * self.at(self.gaps, index))


class TableLoop(Loop):
    """A loop of such steps, which nobody judges: a step is kept if it is finite."""

    def evaluations(self) -> int:
        return self.method.evaluations(dense=self.dense)

    def step(self, state: State, inc: Increments) -> Step:
        return self.method.step(self.system, state, inc, dense=self.dense)

    def ratio(self, y: Tensor, step: Step) -> Tensor:
        y1, spec = step.state.y, self.system.spec
        good = finite(y1 if spec.batched else y1[None], 1)
        return torch.where(good, 0.0, torch.inf).to(spec.time_dtype)

    def sizes(
        self,
        clock: Clock,
        now: Sizes,
        proposal: Proposal,
        worst: Any,
        accept: Any,
        active: Any,
        fraction: Any = None,
    ) -> tuple[Any, tuple[Any, ...], Any]:
        refused = active & ~accept
        whole = torch.full_like(now.h, torch.inf)
        if fraction is None:
            return whole, now.memory, refused
        h = torch.where(refused & (worst <= 1), proposal.h * fraction, whole)
        return h, now.memory, refused & ((h < clock.least_step(now.clock)) | (worst > 1))
