"""The accepted steps of a solve, numbered, so that any of them can be taken again.

The times and lengths of the steps are kept, the noise is found again from its counter. States are kept at some of the
steps alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sdesolve.brownian.levy import Increment
from sdesolve.fixed import BLOCK_STEPS, FixedLoop, FixedRun, shadows
from sdesolve.lattice_clock import PathNoise
from sdesolve.loop import Loop
from sdesolve.methods.method import Increments, State
from sdesolve.outputs import Round
from sdesolve.plan import FixedPlan


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


class Segment(NamedTuple):
    """Steps taken again: the state behind them, and y where an output is due before that, with the number of steps
    that are then done."""

    state: State
    outputs: list[tuple[int, Tensor]]


class Trail(Protocol):
    """Steps 0, ..., count - 1 of a solve."""

    count: int

    def start(self, y0: Tensor) -> State:
        """Before the first one."""
        ...

    def take(self, state: State, first: int, last: int) -> Segment:
        """The steps first <= k < last again, with a graph if gradients are enabled."""
        ...

    def gradient(self, done: int, grad: Tensor) -> Tensor | None:
        """What the gradients of the outputs, (T, ...), say of the state after so many steps; None: nothing."""
        ...


class FixedTrail:
    """Of a table of steps. wrong : (batch,) trajectories that have failed, and follow another one; None: nobody."""

    def __init__(self, plan: FixedPlan, y0: Tensor, wrong: Tensor | None) -> None:
        self.plan, self.wrong, self.count = plan, wrong, plan.table.total
        self.loop = FixedLoop(plan.system, plan.method, plan.table, plan.noise)
        if wrong is not None:
            self.loop = replace(self.loop, follow=shadows(wrong))
        self.y0 = self._followed(y0)
        self.due = set(plan.table.saves.reshape(-1).tolist())

    def _followed(self, y0: Tensor) -> Tensor:
        if self.wrong is None:
            return y0
        return torch.where(self.plan.system.spec.expand(self.wrong), y0.detach()[shadows(self.wrong)], y0)

    def start(self, y0: Tensor) -> State:
        return self.loop.start(self._followed(y0))

    def take(self, state: State, first: int, last: int) -> Segment:
        run = FixedRun([self.y0], np.full_like(self.plan.table.saves, -1))
        inside = sorted(k for k in self.due if first < k < last)
        # noise is drawn for so many steps at a time
        size = min(self.loop.noise.size, BLOCK_STEPS) if self.loop.noise else BLOCK_STEPS
        for begin in range(first, last, size):
            state = self.loop.advance(state, begin, min(begin + size, last), set(inside), run)
        return Segment(state, list(zip(inside, run.kept[1:], strict=True)))

    def gradient(self, done: int, grad: Tensor) -> Tensor | None:
        if done not in self.due:
            return None
        here = self.plan.table.saves == done
        if here.ndim == 1:
            return grad[torch.as_tensor(here, device=grad.device)].sum(0)
        rows = here.any(1)
        mask = torch.as_tensor(here[rows], device=grad.device)
        part = grad[torch.as_tensor(rows, device=grad.device)]
        return torch.where(mask.reshape(*mask.shape, *(1,) * (part.ndim - 2)), part, 0.0).sum(0)


class AdaptiveTrail:
    """Of rounds of adaptive steps."""

    def __init__(self, loop: Loop, rounds: list[Round], wrong: Tensor | None) -> None:
        self.loop, self.rounds, self.wrong, self.count = loop, rounds, wrong, len(rounds)

    def start(self, y0: Tensor) -> State:
        if self.wrong is not None:
            y0 = self.loop.followed(State(y0), self.wrong).y
        return State(y0, self.loop.method.init(self.loop.system, self.loop.first_time(), y0))

    def take(self, state: State, first: int, last: int) -> Segment:
        outputs = []
        for k in range(first, last):
            state = self._step(state, self.rounds[k])
            if k + 1 < last and self.rounds[k].landed is not None:
                outputs.append((k + 1, state.y))
        return Segment(state, outputs)

    def _step(self, state: State, r: Round) -> State:
        loop, taken = self.loop, r.taken
        if self.wrong is not None:
            state = loop.followed(state, self.wrong)
            taken = ~self.wrong if taken is None else taken & ~self.wrong
        noise = loop.noise.window(*r.ticket) if isinstance(loop.noise, PathNoise) else Increment()
        inc = Increments(loop.to_state(r.t0), loop.to_state(r.t1), loop.to_state(r.h), *noise)
        if taken is not None and loop.clock.lanes == loop.system.spec.batch:
            inc = loop.resting(inc, ~taken)
        new = loop.method.step(loop.system, state, inc).state
        state = new if taken is None else loop.choose(taken, new, state)
        if r.stale is not None and r.after is not None:
            renewed = State(state.y, loop.method.init(loop.system, loop.to_state(r.after), state.y))
            state = loop.choose(r.stale, renewed, state)
        return state

    def gradient(self, done: int, grad: Tensor) -> Tensor | None:
        if done == 0:
            return grad[0]
        r = self.rounds[done - 1]
        if r.landed is None or r.row is None:
            return None
        spec, rows = self.loop.system.spec, r.row.clamp(max=len(grad) - 1)
        lanes = torch.arange(spec.batch, device=grad.device)
        here = spec.expand(r.landed & (r.row < len(grad)))
        return torch.where(here, grad[rows, lanes] if spec.batched else grad[rows[0]], 0.0)
