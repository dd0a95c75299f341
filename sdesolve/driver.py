"""The driver of the loop of adaptive steps: what happens between steps, or between compiled chunks of them.

Outputs, dense records, progress and Ctrl-C live here, and the one look at the device that each step costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.loop import RUNNING, Attempt, Carry, Loop, failed


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
        outputs = torch.where(outputs < 0, count, outputs)
        return Outputs(outputs, buffer, place if graph else None, [y0] if graph else None)

    def write(self, loop: Loop, a: Attempt, running: Tensor, y: Tensor) -> None:
        """States of the lanes that have landed; the last row takes what belongs to no output."""
        spec = loop.system.spec
        landed = loop.to_batch(a.landed) & running
        row = loop.to_batch(torch.where(a.landed, self.outputs[a.proposal.target], len(self.buffer) - 1))
        lanes = torch.arange(spec.batch, device=y.device)
        if self.kept is not None and self.place is not None:
            self.place[row, lanes] = torch.where(landed, len(self.kept), self.place[row, lanes])
            self.kept.append(y)
        elif spec.batched:
            self.buffer[row, lanes] = torch.where(spec.expand(landed), y, self.buffer[row, lanes])
        else:
            self.buffer[row] = torch.where(landed, y[None], self.buffer[row])

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


def drive(
    loop: Loop,
    carry: Carry,
    outputs: Outputs,
    records: list[Record] | None = None,
    report: Callable[[Carry], None] | None = None,
    compiled: Callable[[Carry, int], Carry] | None = None,
) -> Carry:
    """Run to the end, with one host synchronisation a step.

    ``compiled`` takes a chunk of steps at once, from landing point to landing point: results go into the buffer between
    chunks. (A buffer written inside the compiled loop would save the waiting, but torch.func transforms, which implicit
    steps and adjoints need, cannot stand beside such writes.)
    """
    try:
        if compiled is not None:
            for point in range(1, loop.clock.last + 1):
                while bool(loop.moving(carry, point)):
                    carry = compiled(carry, point)
                    if report:
                        report(carry)
                outputs.write_row(loop, carry, point)
            return carry
        going, failures = bool(loop.running(carry)), False
        while going:
            carry, going, failures = _eager_step(loop, carry, outputs, records, failures)
            if report:
                report(carry)
    except KeyboardInterrupt as interrupt:
        interrupt.carry = carry  # type: ignore[attr-defined]
        raise
    return carry


def _eager_step(
    loop: Loop, carry: Carry, outputs: Outputs, records: list[Record] | None, failures: bool
) -> tuple[Carry, bool, bool]:
    """One step with its one synchronisation; returns the new carry, whether to go on, and whether anyone has failed."""
    graph = torch.is_grad_enabled()
    a = loop.attempt(carry, failed(carry.status) if failures and graph else None)
    running = carry.status == RUNNING
    accepted = loop.to_batch(a.accept) & running
    flags = [
        (a.status == RUNNING).any(),
        accepted.all(),
        accepted.any(),
        a.landed.any(),
        a.broken.any(),
        failed(a.status).any(),
    ]
    if a.stale is not None:
        flags.append(a.stale.any())
    going, everyone, anyone, landed, broken, failures, *stale = torch.stack(flags).tolist()
    if broken and anyone and graph and a.step.state.y.requires_grad:
        # the lanes that gave NaN take the step again with length 0: masked NaN would poison the gradients of others
        a = loop.attempt(carry, a.broken | failed(carry.status))
    kept = "all" if everyone else "some" if anyone else "none"
    after = loop.commit(carry, a, kept=kept, fresh=not any(stale))
    if landed:
        outputs.write(loop, a, running, after.y)
    if records is not None and anyone:
        records.append(Record(a.proposal.t0, loop.clock.direction * a.proposal.h, carry.y, a.step.dense, accepted))
    return after, going, failures
