"""The accepted steps of a solve, numbered, so that any of them can be taken again.

The times and lengths of the steps are kept, the noise is found again from its counter. States are kept at some of the
steps alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sdesolve.brownian.levy import Increment
from sdesolve.fixed import FixedLoop, FixedRun, shadows
from sdesolve.fixed_plan import FixedPlan
from sdesolve.lattice_clock import PathNoise
from sdesolve.loop import Loop, followed
from sdesolve.methods.method import Increments, Method, State
from sdesolve.methods.reversible import Taken
from sdesolve.outputs import Inside, Round
from sdesolve.system import System


class Kept:
    """States at some of the steps, evenly spread while their number is not known: where there are too many, every
    second one goes. most : how many, None for the binary logarithm of the steps, 8 at least."""

    def __init__(self, most: int | None) -> None:
        self.most, self.every, self.count = most, 1, 0
        self.states: dict[int, State] = {}

    def __call__(self, state: State) -> None:
        """The state after one more step (the first time: before any)."""
        if self.count % self.every == 0:
            self.states[self.count] = State(state.y.detach(), tuple(x.detach() for x in state.cache))
        self.count += 1
        if len(self.states) > budget(self.most, self.count - 1):
            self.every *= 2
            self.states = {k: x for k, x in self.states.items() if k % self.every == 0}


def budget(most: int | None, count: int) -> int:
    """How many states, or steps' graphs, may be held at a time, for so many steps."""
    return most if most is not None else max(8, count.bit_length())


class Landed(NamedTuple):
    """For each trajectory the number of an output, and whether its state is that one: (batch,), or (n, batch) of n
    states."""

    rows: Tensor
    mask: Tensor


class Segment(NamedTuple):
    """Steps taken again: the state behind them, and before that the states that are outputs."""

    state: State
    outputs: list[tuple[Landed, Tensor]]


class Past(NamedTuple):
    """A step that is behind: its number, its increments, and whose it was."""

    number: int
    inc: Increments
    taken: Taken


class Trail(Protocol):
    """Steps 0, ..., count - 1 of a solve."""

    count: int
    system: System
    method: Method

    def backwards(self) -> Iterator[Past]:
        """The steps, from the last to the first; who did not take one is given a length of 0."""
        ...

    def followed(self, state: State) -> State:
        """The same state, but trajectories that failed stand with one that did not."""
        ...

    def start(self, y0: Tensor) -> State:
        """Before the first one."""
        ...

    def take(self, state: State, first: int, last: int) -> Segment:
        """The steps first <= k < last again, with a graph if gradients are enabled."""
        ...

    def landed(self, done: int) -> Landed | None:
        """Whose state after so many steps is an output."""
        ...

    def inside(self, number: int) -> tuple[Inside, Landed] | None:
        """The outputs within a step: where, and which they are."""
        ...


class FixedTrail:
    """Of a table of steps. wrong : (batch,) trajectories that have failed, and follow another one; None: nobody."""

    def __init__(self, plan: FixedPlan, y0: Tensor, wrong: Tensor | None) -> None:
        self.plan, self.wrong, self.count = plan, wrong, plan.table.total
        self.system, self.method = plan.system, plan.method
        self.loop = FixedLoop(plan.system, plan.method, plan.table, plan.noise, moves=plan.moves)
        if wrong is not None:
            self.loop = replace(self.loop, follow=shadows(wrong))
        self.y0 = self.followed(State(y0)).y
        self.due = set(plan.table.saves.reshape(-1).tolist())

    def followed(self, state: State) -> State:
        return state if self.wrong is None else followed(state, self.wrong)

    def start(self, y0: Tensor) -> State:
        return self.loop.start(self.followed(State(y0)).y)

    def backwards(self) -> Iterator[Past]:
        for first, last in reversed(self.loop.blocks(0, self.count)):
            for k, inc in reversed(list(enumerate(self.loop.increments(first, last), first))):
                taken = None if self.plan.table.shared else (inc.h != 0).reshape(-1)
                if self.wrong is not None:
                    taken = ~self.wrong if taken is None else taken & ~self.wrong
                yield Past(k, inc, Taken(taken, self.system.spec.batched))

    def take(self, state: State, first: int, last: int) -> Segment:
        run = FixedRun([self.y0], np.full_like(self.plan.table.saves, -1))
        inside = sorted(k for k in self.due if first < k < last)
        for begin, end in self.loop.blocks(first, last):
            state = self.loop.advance(state, begin, end, set(inside), run)
        outputs = [(self.landed(k), y) for k, y in zip(inside, run.kept[1:], strict=True)]
        return Segment(state, [(landed, y) for landed, y in outputs if landed is not None])

    def inside(self, number: int) -> None:
        """Fixed steps end on all outputs."""

    def landed(self, done: int) -> Landed | None:
        if done not in self.due:
            return None
        here = torch.as_tensor(np.atleast_2d(done == self.plan.table.saves.T).T, device=self.system.spec.device)
        rows, mask = here.to(torch.int8).argmax(0), here.any(0)
        batch = (self.system.spec.batch,)
        return Landed(rows.expand(batch), mask.expand(batch) if self.wrong is None else mask & ~self.wrong)


class AdaptiveTrail:
    """Of rounds of adaptive steps. outputs : how many there are, that at the start among them."""

    def __init__(self, loop: Loop, rounds: list[Round], outputs: int, wrong: Tensor | None) -> None:
        self.loop, self.rounds, self.wrong, self.count = loop, rounds, wrong, len(rounds)
        self.system, self.method, self.outputs = loop.system, loop.method, outputs
        self.everyone = torch.ones(loop.system.spec.batch, dtype=torch.bool, device=loop.system.spec.device)

    def followed(self, state: State) -> State:
        return state if self.wrong is None else followed(state, self.wrong)

    def start(self, y0: Tensor) -> State:
        y0 = self.followed(State(y0)).y
        return State(y0, self.method.init(self.system, self.loop.first_time(), y0))

    def backwards(self) -> Iterator[Past]:
        for k in reversed(range(self.count)):
            yield self._past(k)

    def _past(self, number: int) -> Past:
        loop, r = self.loop, self.rounds[number]
        taken = r.taken
        if self.wrong is not None:
            taken = ~self.wrong if taken is None else taken & ~self.wrong
        noise = loop.noise.window(*r.ticket) if isinstance(loop.noise, PathNoise) else Increment()
        inc = Increments(loop.to_state(r.t0), loop.to_state(r.t1), loop.to_state(r.h), *noise)
        if taken is not None and loop.clock.lanes == loop.system.spec.batch:
            inc = loop.resting(inc, ~taken)
        return Past(number, inc, Taken(taken, self.system.spec.batched))

    def take(self, state: State, first: int, last: int) -> Segment:
        outputs: list[tuple[Landed, Tensor]] = []
        for k in range(first, last):
            state = self._step(state, k, outputs)
            landed = self.landed(k + 1) if k + 1 < last else None
            if landed is not None:
                outputs.append((landed, state.y))
        return Segment(state, outputs)

    def _step(self, state: State, number: int, outputs: list[tuple[Landed, Tensor]]) -> State:
        loop, r = self.loop, self.rounds[number]
        state, (_, inc, whose) = self.followed(state), self._past(number)
        taken, inside = whose.mask, self.inside(number)
        step = loop.method.step(loop.system, state, inc, dense=inside is not None)
        if inside is not None:
            outputs.append((inside[1], inside[0].values(self.system.spec, state.y, step.dense)))
        state = step.state if taken is None else loop.choose(taken, step.state, state)
        if r.stale is not None and r.after is not None:
            renewed = State(state.y, loop.method.renew(loop.system, loop.to_state(r.after), state))
            state = loop.choose(r.stale, renewed, state)
        return state

    def landed(self, done: int) -> Landed | None:
        if done == 0:
            rows, mask = torch.zeros_like(self.everyone, dtype=torch.int64), self.everyone
        else:
            r = self.rounds[done - 1]
            if r.landed is None or r.row is None:
                return None
            rows, mask = r.row, r.landed & (r.row < self.outputs)
        return self._landed(rows, mask)

    def _landed(self, rows: Tensor, mask: Tensor) -> Landed:
        return Landed(rows.clamp(max=self.outputs - 1), mask if self.wrong is None else mask & ~self.wrong)

    def inside(self, number: int) -> tuple[Inside, Landed] | None:
        found = self.rounds[number].inside
        if found is None:
            return None
        rows = found.rows.expand(-1, self.system.spec.batch)
        return found, self._landed(rows, rows < self.outputs)


def gradient(trail: Trail, done: int, grad: Tensor) -> Tensor | None:
    """What the gradients of the outputs, (T, ...), say of the state after so many steps; None: nothing."""
    landed = trail.landed(done)
    return None if landed is None else gradient_of(trail, landed, grad)


def gradient_of(trail: Trail, landed: Landed, grad: Tensor) -> Tensor:
    """The gradients of these outputs, from those of all."""
    return _put(trail, landed, grad, torch.zeros((), dtype=grad.dtype, device=grad.device))


def restored(trail: Trail, done: int, ys: Tensor, y: Tensor) -> Tensor:
    """The state after so many steps, where it is an output."""
    landed = trail.landed(done)
    return y if landed is None else _put(trail, landed, ys, y)


def _put(trail: Trail, landed: Landed, values: Tensor, others: Tensor) -> Tensor:
    spec, (rows, mask) = trail.system.spec, landed
    if not spec.batched:
        rows, mask = rows[..., 0], mask[..., 0]
        found = values[rows]
    else:
        found = values[rows, torch.arange(spec.batch, device=values.device)]
    return torch.where(mask.reshape((*mask.shape, *(1,) * (found.ndim - mask.ndim))), found, others)
