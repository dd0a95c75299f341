"""What an adaptive solve leaves on its way: states at the output times, and records for dense output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sdesolve.loop import Attempt, Carry, Loop, failed
from sdesolve.methods.method import State


class Round(NamedTuple):
    """A round of steps, of which some lanes' were accepted, in what is needed to take them again.

    t0, t1, h : (lanes,) times and signed length. ticket : ticks that name the noise, or (). taken : (batch,) whose were
    accepted; None: everyone's. landed, row : (batch,) who has come to an output and to which one; None: nobody. stale,
    after : (batch,) behind a jump of the right-hand side, and (lanes,) the time there, at which the method's cache is
    made anew; None: nobody.
    """

    t0: Tensor
    t1: Tensor
    h: Tensor
    ticket: tuple[Tensor, ...] = ()
    taken: Tensor | None = None
    landed: Tensor | None = None
    row: Tensor | None = None
    stale: Tensor | None = None
    after: Tensor | None = None


class Recorder(Protocol):
    """Who is told of the steps of a solve: the state before the first, and that after each, of adaptive steps with what
    is needed to take it again."""

    def begin(self, loop: Any, state: State) -> None: ...

    def add(self, state: State, round: Round | None = None) -> None: ...


class Record(NamedTuple):
    """An accepted step, for dense output: (lanes,) times and lengths, state at its start, coefficients, who took it."""

    t0: Tensor
    h: Tensor
    y: Tensor
    dense: tuple[Tensor, ...]
    taken: Tensor


@dataclass
class Outputs:
    """States at the output times, gathered while the loop runs: (T, batch, ...), NaN where it did not get.

    Without gradients they are written into one buffer. With gradients, which in-place writes would make quadratic,
    the states are kept as they come, and each output remembers in which of them it stands.
    """

    outputs: Tensor  # landing point -> output, or the number of outputs for none
    rows: list[int]  # the same on the host
    buffer: Tensor
    place: Tensor | None = None
    kept: list[Tensor] | None = None

    @staticmethod
    def make(y0: Tensor, count: int, batch: int, outputs: Tensor, graph: bool) -> Outputs:
        """For ``count`` outputs; y0 is the start state."""
        buffer = torch.full((count + 1, *y0.shape), torch.nan, dtype=y0.dtype, device=y0.device)
        buffer[0] = y0.detach()
        place = torch.full((count + 1, batch), -1, dtype=torch.int64, device=y0.device)
        place[0] = 0
        rows = [count if row < 0 else row for row in outputs.tolist()]
        outputs = torch.as_tensor(rows, device=y0.device)
        return Outputs(outputs, rows, buffer, place if graph else None, [y0] if graph else None)

    def write(self, loop: Loop, a: Attempt, running: Tensor, y: Tensor) -> None:
        """States of the lanes that have landed; the last row takes what belongs to no output."""
        spec = loop.system.spec
        landed, row = self.landed(loop, a, running)
        lanes = torch.arange(spec.batch, device=y.device)
        if self.kept is not None and self.place is not None:
            self.place[row, lanes] = torch.where(landed, len(self.kept), self.place[row, lanes])
            self.kept.append(y)
        elif spec.batched:
            self.buffer[row, lanes] = torch.where(spec.expand(landed), y, self.buffer[row, lanes])
        else:
            self.buffer[row] = torch.where(landed, y[None], self.buffer[row])

    def landed(self, loop: Loop, a: Attempt, running: Tensor) -> tuple[Tensor, Tensor]:
        """Who has come to a landing point, (batch,), and which output it is; behind the last one for none."""
        row = loop.to_batch(torch.where(a.landed, self.outputs[a.proposal.target], len(self.buffer) - 1))
        return loop.to_batch(a.landed) & running, row

    def write_all(self, point: int, y: Tensor) -> None:
        """States of all trajectories, on this landing point."""
        if self.kept is not None and self.place is not None:
            self.place[self.rows[point]] = len(self.kept)
            self.kept.append(y)
        else:
            self.buffer[self.rows[point]] = y

    def write_row(self, loop: Loop, carry: Carry, point: int) -> None:
        """States of all trajectories that stand at this landing point."""
        here = loop.to_batch(loop.clock.position(carry.clock) == point) & ~failed(carry.status)
        row = self.outputs[point]
        self.buffer[row] = torch.where(loop.system.spec.expand(here), carry.y, self.buffer[row])

    def states(self, spec_batched: bool) -> Tensor:
        if self.kept is None or self.place is None:
            return self.buffer[:-1]
        place = self.place[:-1]
        stacked = torch.stack([*self.kept, torch.full_like(self.kept[0], torch.nan)])
        if not spec_batched:
            return stacked[place[:, 0]]
        return stacked[place, torch.arange(place.shape[1], device=place.device)]
