"""The trajectories that are left of an eager solve, on clocks of their own, go on as a smaller batch.

A step computes all trajectories of the batch: those that have finished, and wait for the others, cost as much as these.
So when half of them have, the others leave them behind, and so on. Trajectories do not read each other: the results are
those of the whole batch, up to what a matrix product of other size rounds differently.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from sdesolve.along import Along
from sdesolve.clock import RealClock
from sdesolve.crossing import Crossings
from sdesolve.divisible import carried, values_of
from sdesolve.lattice_clock import LatticeClock, PathNoise
from sdesolve.loop import RUNNING, SUCCESS, Carry, Loop
from sdesolve.methods.method import plain_eager
from sdesolve.outputs import Outputs
from sdesolve.part import of_carry, part_of, put_back

#: numbers in the states of the smallest batch that is divided: operations on fewer cost what one costs; and rounds of
#: steps that it has taken before, as to divide it costs some five of them
LEAST, ROUNDS = 512, 10
#: the same numbers where tensors are taken along, which is as much work as some of the operations themselves
LEAST_ALONG = 4096


class UnderWay:
    """Those that are under way: all, or, as soon as they are few, a part.

    loop, carry : theirs. lanes : which of all they are, None for all. along : what functions read of tensors that they
    carry with them. few : at how many the rest goes on alone; 0 : never.
    """

    def __init__(self, loop: Loop, carry: Carry, *, divide: bool = True) -> None:
        self.loop, self.carry = loop, carry
        self.lanes: Tensor | None = None
        self.whole = carry
        self.along: Along | None = None
        self.few = _few(loop) if divide else 0
        self.rounds, self.never = 0, torch.zeros((), dtype=torch.bool, device=carry.y.device)

    def few_are_left(self, status: Tensor) -> Tensor:
        """Behind another round of steps, 0-d: whether it is time to divide."""
        self.rounds += 1
        if not self.few or self.rounds < ROUNDS:
            return self.never
        return (status == RUNNING).sum() <= self.few

    def everyone(self) -> Carry:
        """The carry of all."""
        if self.lanes is None:
            return self.carry
        with torch.no_grad():
            return put_back(self.whole, self.lanes, self.carry)

    def divide(self, outputs: Outputs) -> None:
        """Leave behind those that are done, if the functions do not know their batch."""
        loop, carry = self.loop, self.carry
        lanes = _company(carry.status).nonzero()[:, 0]
        idle = torch.zeros_like(carry.status, dtype=torch.bool)
        t = loop.clock.propose(carry.clock, carry.h, idle).t0
        along = carried(partial(_values, loop), t, carry.y.detach(), lanes, self.along)
        if along is None or (along.rows and carry.y.numel() < LEAST_ALONG):
            self.few = 0
            return
        part, chosen = part_of(loop, lanes, along if along.rows else None), of_carry(carry, lanes)
        self.whole = self.everyone()
        self.lanes = lanes if self.lanes is None else self.lanes[lanes]
        self.loop, self.carry, self.along, self.few, self.rounds = part, chosen, along, _few(part), 0
        outputs.narrow(lanes)


def _few(loop: Loop) -> int:
    """At how many trajectories the rest is theirs alone."""
    known = isinstance(loop.clock, (RealClock, LatticeClock))
    known = known and (loop.noise is None or isinstance(loop.noise, PathNoise))
    known = known and (loop.watcher is None or isinstance(loop.watcher, Crossings))
    known = known and loop.norm is None and loop.at_landing is None and plain_eager()
    known = known and loop.clock.lanes > 3 and prod(loop.system.spec.shape) >= LEAST
    return loop.clock.lanes // 2 if known else 0


def _company(status: Tensor) -> Tensor:
    """Who is running, (batch,), and another one where that is one alone: the times of a batch of 1 are 0-d."""
    mask = status == RUNNING
    if int(mask.sum()) > 1:
        return mask
    good = (status == SUCCESS).to(torch.int8) - mask.to(torch.int8)
    return mask | (torch.arange(len(status), device=status.device) == good.argmax())


def _values(loop: Loop, t: Tensor, y: Tensor, along: Any) -> list[Tensor]:
    """All that a step may ask of the user's functions, at times and states of any number of trajectories."""
    found = values_of(loop.system, t, y, along)
    if isinstance(loop.watcher, Crossings):
        found += loop.watcher.conditions.resized(loop.system.resized(len(y), along)).every(
            loop.system.spec.expand(t), y
        )
    return found
