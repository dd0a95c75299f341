"""Recursive checkpointing of compiled fixed steps: stretches are recorded and replayed by compiled loops."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdesolve.adjoint.compiled_fixed import CompiledFixed, with_output
from sdesolve.adjoint.replay import Recorded, first_stage, without
from sdesolve.adjoint.stretches import Stretches
from sdesolve.adjoint.trail import FixedTrail, budget
from sdesolve.capture import Captured
from sdesolve.compiled import fixed
from sdesolve.compiled.going_back import replay_fixed
from sdesolve.compiled.lift import Lifted
from sdesolve.compiled.replay import Cotangents, Tensors
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods.method import State
from sdesolve.plan import first_time


class CompiledCheckpoint(CompiledFixed):
    """Some states are kept; on the way back stretches are taken again, with records."""

    name = "checkpoint"

    def __init__(self, plan: FixedPlan, captured: Captured, most: int | None) -> None:
        self.room = budget(most, plan.table.total)
        super().__init__(plan, captured, -(-plan.table.total // self.room))

    def lift(self, y0: Tensor) -> Lifted:
        """The step, from the first one."""
        tape: list[Any] = []
        fixed.compile_fixed(self.loop, tape)(self.loop.start(y0), 0, 1)
        self.recorded, step = Recorded.of(self.plan, tape, y0, None)
        return step

    def back(self, trail: FixedTrail, grad: Tensor, y0: Tensor, tensors: Tensors) -> Cotangents:
        """Stretches of steps, backwards."""
        way = _Back(self, trail, Lifted(self.recorded.step, tensors), grad)
        first = self.kept[0]
        nothing = self.nothing((first.y, *first.cache), tensors)
        at = way.back(self.kept, self.count, with_output(trail, nothing, self.count, grad))
        return first_stage(self.recorded, first_time(self.plan), y0, tensors, at)


class _Back(Stretches[Cotangents]):
    """The way back."""

    def __init__(self, run: CompiledCheckpoint, trail: FixedTrail, lifted: Lifted, grad: Tensor) -> None:
        super().__init__(run.room)
        self.lifted, self.wanted, self.grad, self.trail = lifted, run.wanted, grad, trail
        self.tape: list[Any] = []
        self.chunk, self.record = fixed.compile_fixed(run.loop), fixed.compile_fixed(run.loop, self.tape)

    def between(self, state: State, first: int, last: int) -> State:
        with torch.no_grad():
            return self.chunk(state, first, last)

    def pulled(self, first: int, last: int, state: State, cotangent: Cotangents) -> Cotangents:
        stops = [first, *sorted(k for k in self.trail.due if first < k < last), last]
        with torch.no_grad():
            for a, b in pairwise(stops):
                state = self.record(state, a, b)
        entries, due = list(self.tape), set(stops[1:-1])
        self.tape.clear()
        for entry in reversed(entries):
            if entry.last in due:
                cotangent = with_output(self.trail, cotangent, entry.last, self.grad)
            entry = entry if self.trail.wrong is None else without(entry, self.trail.wrong)
            cotangent = replay_fixed(self.lifted, self.wanted, entry, cotangent)
        return with_output(self.trail, cotangent, first, self.grad) if first else cotangent
