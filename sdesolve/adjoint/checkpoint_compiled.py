"""Recursive checkpointing of compiled fixed steps: stretches are recorded and replayed by compiled loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdesolve.adjoint.replay import OfTensors, Recorded, differentiable, first_stage, refuse_vectorized, without
from sdesolve.adjoint.stretches import Stretches
from sdesolve.adjoint.trail import FixedTrail, budget, gradient
from sdesolve.capture import Captured
from sdesolve.compiled import fixed
from sdesolve.compiled.lift import Lifted, some_of
from sdesolve.compiled.replay import Cotangents, Tensors, replay_fixed
from sdesolve.fixed import FixedLoop
from sdesolve.methods.method import State
from sdesolve.plan import FixedPlan, Report, Result, first_time
from sdesolve.solution import Status

Chunk = Callable[[State, int, int], State]


class CompiledCheckpoint:
    """Run forwards in compiled chunks, keeping some states; on the way back take stretches again, with records."""

    def __init__(self, plan: FixedPlan, captured: Captured, most: int | None) -> None:
        self.plan, self.captured, self.most = plan, captured, most

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run as one autograd.Function of y0 and of every tensor that the steps read."""
        plan = self.plan
        if not torch.is_grad_enabled() or not differentiable(plan, self.captured, y0):
            with torch.no_grad():
                return plan.run(y0.detach(), report)
        refuse_vectorized(plan.system)
        count = plan.table.total
        room = budget(self.most, count)
        kept: dict[int, State] = {}
        with torch.no_grad():
            recorded, step = self._first_step(y0.detach())
            keeping = lambda loop: _keeping(fixed.compile_fixed(loop), kept, -(-count // room))
            result = replace(plan, compile_chunk=keeping).run(y0.detach(), report)
        recorded.status = result.status
        run, ys = _Run(plan, recorded, kept, room), [result.ys]
        return replace(result, ys=OfTensors.apply(run, step.tensors, ys, y0, *some_of(step.tensors, step.wanted)))

    def _first_step(self, y0: Tensor) -> tuple[Recorded, Lifted]:
        """The step as a pure function, from the first one."""
        tape: list[Any] = []
        loop = _loop(self.plan)
        fixed.compile_fixed(loop, tape)(loop.start(y0), 0, 1)
        return Recorded.of(self.plan, tape, y0, None)


def _loop(plan: FixedPlan) -> FixedLoop:
    return FixedLoop(plan.system, plan.method, plan.table, plan.noise)


def _keeping(chunk: Chunk, kept: dict[int, State], every: int) -> Chunk:
    """The chunk, which stops to keep a state before each step whose number is a multiple."""

    def run(state: State, first: int, last: int) -> State:
        stops = [first, *range(first - first % every + every, last, every), last]
        for a, b in pairwise(stops):
            if a % every == 0:
                kept[a] = State(state.y.clone(), tuple(x.clone() for x in state.cache))
            state = chunk(state, a, b)
        return state

    return run


@dataclass
class _Run:
    """What is left of a solve."""

    plan: FixedPlan
    recorded: Recorded
    kept: dict[int, State]
    room: int
    name = "checkpoint"

    def backwards(self, grad: Tensor, y0: Tensor, tensors: Tensors) -> list[Tensor]:
        """Stretches of steps, backwards."""
        return _backwards(self, grad, y0, tensors)


def _backwards(run: _Run, grad: Tensor, y0: Tensor, tensors: Tensors) -> list[Tensor]:
    plan, recorded = run.plan, run.recorded
    parameters = some_of(tensors, recorded.wanted)
    assert recorded.status is not None
    wrong = recorded.status != Status.SUCCESS
    if bool(wrong.all()):
        return [torch.zeros_like(y0), *map(torch.zeros_like, parameters)]
    failures = wrong if bool(wrong.any()) else None
    if failures is not None:
        grad = torch.where(plan.system.spec.expand(wrong), 0.0, grad)
        y0 = torch.where(plan.system.spec.expand(wrong), y0[(~wrong).nonzero()[0]], y0)
    way = _Back(run, Lifted(recorded.step, tensors), grad, y0, failures)
    zeros = tuple(torch.zeros_like(y0) for _ in range(1 + len(run.kept[0].cache)))
    end = way.with_output(Cotangents(zeros, tuple(map(torch.zeros_like, parameters))), plan.table.total)
    at = way.back(run.kept, plan.table.total, end)
    at = way.with_output(first_stage(recorded, first_time(plan), y0, tensors, at), 0)
    return [at.states[0], *at.parameters]


class _Back(Stretches[Cotangents]):
    """The way back. wrong : (batch,) trajectories that have failed; None: nobody."""

    def __init__(self, run: _Run, lifted: Lifted, grad: Tensor, y0: Tensor, wrong: Tensor | None) -> None:
        super().__init__(run.room)
        self.lifted, self.wanted, self.grad, self.wrong = lifted, run.recorded.wanted, grad, wrong
        self.trail = FixedTrail(run.plan, y0, wrong)
        self.tape: list[Any] = []
        loop = _loop(run.plan)
        self.chunk, self.record = fixed.compile_fixed(loop), fixed.compile_fixed(loop, self.tape)

    def with_output(self, at: Cotangents, done: int) -> Cotangents:
        """What an output says of the state's gradient is added."""
        more = gradient(self.trail, done, self.grad)
        y, *cache = at.states
        return at if more is None else Cotangents((y + more, *cache), at.parameters)

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
                cotangent = self.with_output(cotangent, entry.last)
            entry = entry if self.wrong is None else without(entry, self.wrong)
            cotangent = replay_fixed(self.lifted, self.wanted, entry, cotangent)
        return self.with_output(cotangent, first) if first else cotangent
