"""Compiled fixed steps, forwards and back: what the ways back that do not record all steps have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdesolve.adjoint.replay import OfTensors, without_gradient
from sdesolve.adjoint.trail import FixedTrail, gradient
from sdesolve.capture import Captured
from sdesolve.compiled import fixed
from sdesolve.compiled.lift import Lifted, some_of
from sdesolve.compiled.replay import Cotangents, Tensors
from sdesolve.errors import SolveError
from sdesolve.fixed import FixedLoop
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods.method import State
from sdesolve.plan import Report, Result
from sdesolve.solution import Status

Chunk = Callable[[State, int, int], State]


class CompiledFixed:
    """A plan whose steps run in compiled chunks, and whose gradients are found by going back through them. every :
    states before multiples of so many steps are kept, and the last one; None: the last one alone."""

    name: str

    def __init__(self, plan: FixedPlan, captured: Captured, every: int | None) -> None:
        self.plan, self.captured, self.every = plan, captured, every
        self.loop = FixedLoop(plan.system, plan.method, plan.table, plan.noise)
        self.count = plan.table.total
        self.kept: dict[int, State] = {}
        self.status: Tensor | None = None
        self.ys: Tensor | None = None
        self.version = 0
        self.wanted: tuple[bool, ...] = ()

    def lift(self, y0: Tensor) -> Lifted:
        """What is differentiated, as a pure function, with the tensors that it reads."""
        raise NotImplementedError

    def back(self, trail: FixedTrail, grad: Tensor, y0: Tensor, tensors: Tensors) -> Cotangents:
        """Gradients by the start and the wanted tensors, from those by the outputs, that at the start apart."""
        raise NotImplementedError

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run as one autograd.Function of y0 and of every tensor that the steps read."""
        plan, plain = self.plan, without_gradient(self.plan, self.captured, y0, report)
        if plain is not None:
            return plain
        with torch.no_grad():
            lifted = self.lift(y0.detach())
            self.wanted = lifted.wanted
            result = replace(plan, compile_chunk=self._keeping).run(y0.detach(), report)
        self.status, self.ys, self.version = result.status, result.ys.detach(), result.ys._version
        wanted = some_of(lifted.tensors, lifted.wanted)
        return replace(result, ys=OfTensors.apply(self, lifted.tensors, [result.ys], y0, *wanted))

    def _keeping(self, loop: FixedLoop) -> Chunk:
        """The chunk, which stops to keep states."""
        chunk, every = fixed.compile_fixed(loop), self.every or self.count

        def keep(state: State, done: int) -> None:
            self.kept[done] = State(state.y.clone(), tuple(x.clone() for x in state.cache))

        def run(state: State, first: int, last: int) -> State:
            stops = [first, *range(first - first % every + every, last, every), last]
            for a, b in pairwise(stops):
                if a % every == 0:
                    keep(state, a)
                state = chunk(state, a, b)
            if last == self.count:
                keep(state, last)
            return state

        return run

    def backwards(self, grad: Tensor, y0: Tensor, tensors: Tensors) -> list[Tensor]:
        """Gradients by y0 and the wanted tensors; failed trajectories have no part in them."""
        spec = self.plan.system.spec
        assert self.status is not None
        wrong = self.status != Status.SUCCESS
        if bool(wrong.all()):
            return [torch.zeros_like(y0), *map(torch.zeros_like, some_of(tensors, self.wanted))]
        failures = wrong if bool(wrong.any()) else None
        if failures is not None:
            grad = torch.where(spec.expand(wrong), 0.0, grad)
        trail = FixedTrail(self.plan, y0, failures)
        at = self.back(trail, grad, trail.y0, tensors)
        more = gradient(trail, 0, grad)
        return [at.states[0] if more is None else at.states[0] + more, *at.parameters]

    def outputs(self) -> Tensor:
        """The solution's ys, as they were."""
        assert self.ys is not None
        if self.ys._version != self.version:
            raise SolveError(
                "adjoint: the solution's ys was modified in place before gradients were asked for, where "
                f"adjoint={self.name!r} reads it; accepted is a new tensor, such as 2 * sol.ys."
            )
        return self.ys

    def nothing(self, states: Tensors, tensors: Tensors) -> Cotangents:
        """Gradients by states and the wanted tensors before anything is known of them."""
        zeros = lambda those: tuple(torch.zeros_like(x, memory_format=torch.contiguous_format) for x in those)
        return Cotangents(zeros(states), zeros(some_of(tensors, self.wanted)))


def with_output(trail: FixedTrail, at: Cotangents, done: int, grad: Tensor) -> Cotangents:
    """What an output says of the state's gradient is added."""
    more = gradient(trail, done, grad)
    y, *cache = at.states
    return at if more is None else Cotangents((y + more, *cache), at.parameters)


def stretches_back(loop: FixedLoop, example: State, stops: set[int]) -> Iterator[tuple[int, int, list[Any]]]:
    """The stretches first <= k < last between stops, the last one first, and what their graphs are given, in the order
    of the way back."""
    entries = fixed.fixed_entries(loop)
    for first, last in reversed(list(pairwise(sorted(stops)))):
        yield first, last, entries(example, first, last)[::-1]
