"""Fixed steps gone through backwards in a compiled loop, carrying what the way back needs: gradients alone, beside
recorded states; or the state too, of a reversible method or of the adjoint equation.

Noise that was drawn by the steps is drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sdesolve.brownian.levy import Increment
from sdesolve.compiled import fixed
from sdesolve.compiled.graphs import graph, mark_batch
from sdesolve.compiled.lift import Lifted, Pure
from sdesolve.compiled.replay import Cotangents, Pull, Tensors, added, cotangents_of, marked, pull_of
from sdesolve.methods.method import Increments, State


class Back(Protocol):
    """What is done at a step on the way back."""

    @property
    def key(self) -> Any:
        """What tells its graph from others."""
        ...

    def __call__(self, record: State | None, inc: Increments, carried: Tensors, lifted: Tensors) -> Tensors:
        """New carried tensors, from those behind the step. record : the state before it, where that was kept."""
        ...


@dataclass
class _Fixed:
    forward: fixed.Parts
    back: Back


class _FixedInputs(NamedTuple):
    """Tables in the order in which steps are taken again; records in that in which they were taken."""

    inputs: fixed.Inputs
    records: Tensors
    lifted: Tensors


def go_back(back: Back, lifted: Tensors, entry: fixed.Entry, behind: Tensors) -> Tensors:
    """Carry tensors from the end of a stretch of fixed steps to its start."""
    forward, inputs = entry.parts, entry.inputs
    first, last = int(inputs.first), int(inputs.last)
    number = lambda k: torch.tensor(k, device=inputs.times.device)

    def turned(table: Tensor, rows: int) -> Tensor:
        out = torch.zeros_like(table)
        out[:rows] = table[first : first + rows].flip(0)
        return out

    count = last - first
    cells = inputs.cells
    if cells is not None:
        tables = {name: turned(getattr(cells, name), count) for name in ("cells", "ticks", "scale")}
        cells = cells._replace(**tables)  # type: ignore[arg-type]
    drawn = tuple(None if x is None else x[first:last].flip(0) for x in inputs.drawn)
    turned_inputs = inputs._replace(
        first=number(0),
        last=number(count),
        times=turned(inputs.times, count + 1),
        steps=turned(inputs.steps, count),
        cells=cells,
        drawn=drawn,
        records=(),
    )
    parts = _Fixed(replace(forward, backwards=not forward.backwards), back)
    forward.mark((), (), drawn)
    run = graph(("back", len(inputs.records), back.key, *parts.forward.key), _fixed, inputs.times.device)
    plain = tuple(x.detach() for x in lifted)
    return tuple(run(parts, _FixedInputs(turned_inputs, inputs.records, plain), behind))


def _fixed(parts: _Fixed, given: _FixedInputs, start: Tensors) -> Tensors:
    inputs = given.inputs

    def visit(j: Tensor, noise: Increment, carried: Tensors) -> Tensors:
        k = inputs.last - 1 - j
        record = parts.forward.unpack(tuple(fixed.row(x, k) for x in given.records)) if given.records else None
        times, steps = inputs.times, inputs.steps
        inc = Increments(fixed.row(times, j + 1), fixed.row(times, j), fixed.row(steps, j), *noise)
        return parts.back(record, inc, carried, given.lifted)

    return fixed.walk(parts.forward, inputs, visit, start)


@dataclass
class _Replay:
    """Carries cotangents, from the state before each step."""

    pull: Pull

    @property
    def key(self) -> Any:
        return "replay", self.pull.pure, self.pull.wanted

    def __call__(self, record: State | None, inc: Increments, carried: Tensors, lifted: Tensors) -> Tensors:
        assert record is not None
        return added(self.pull(record, inc, carried[: 1 + self.pull.cache], lifted), carried)


def replay_fixed(lifted: Lifted, wanted: tuple[bool, ...], entry: fixed.Entry, after: Cotangents) -> Cotangents:
    """From the end of a stretch of recorded steps to its start."""
    back, start = _Replay(pull_of(lifted, wanted, after)), marked(after, entry.parts.system.spec.batched)
    return cotangents_of(go_back(back, lifted.tensors, entry, start), len(after.states))


@dataclass
class _Undo:
    """Carries the state, of a reversible method, and cotangents. places : which of the step's tensors ``before``
    reads."""

    before: Pure
    places: tuple[int, ...]
    pull: Pull

    @property
    def key(self) -> Any:
        return "undo", self.before, self.places, self.pull.pure, self.pull.wanted

    def __call__(self, record: State | None, inc: Increments, carried: Tensors, lifted: Tensors) -> Tensors:
        given, count = tuple(x for x in inc if x is not None), 1 + self.pull.cache
        y, *cache = self.before((*carried[:count], *given), tuple(lifted[i] for i in self.places))
        cotangents = carried[count:]
        after = added(self.pull(State(y, tuple(cache)), inc, cotangents[:count], lifted), cotangents)
        return (y.clone(), *(x.clone() for x in cache), *after)


class Behind(NamedTuple):
    """Where the way back stands: the state, and gradients by it and by the wanted tensors."""

    state: State
    at: Cotangents


class Undone(NamedTuple):
    """A step backwards. places : where the tensors that it reads stand among those of the step."""

    pure: Pure
    places: tuple[int, ...]


def undo_fixed(step: Lifted, undone: Undone, wanted: tuple[bool, ...], entry: fixed.Entry, behind: Behind) -> Behind:
    """From the end of a stretch of steps of a reversible method to its start."""
    back = _Undo(undone.pure, undone.places, pull_of(step, wanted, behind.at))
    batched = entry.parts.system.spec.batched
    states = tuple(x.detach().clone() for x in (behind.state.y, *behind.state.cache))
    if batched:
        mark_batch(states)
    out = go_back(back, step.tensors, entry, (*states, *marked(behind.at, batched)))
    y, *cache = out[: len(states)]
    return Behind(State(y, tuple(cache)), cotangents_of(out[len(states) :], len(behind.at.states)))


@dataclass
class _Heun:
    """Carries y and a of the adjoint equation and the parameters' integral, by Heun's method; change : f h + g dW."""

    change: Pure
    wanted: tuple[bool, ...]

    @property
    def key(self) -> Any:
        return "heun", self.change, self.wanted

    def __call__(self, record: State | None, inc: Increments, carried: Tensors, lifted: Tensors) -> Tensors:
        y, a, *sums = carried
        noise = tuple(x for x in inc[2:] if x is not None)
        (change1,), back = self.change.vjp((y,), (inc.t1, inc.t0, *noise), lifted, self.wanted)
        (half1,), found1 = back((0.5 * a,))
        (change0,), back = self.change.vjp((y - change1,), (inc.t0, inc.t1, *noise), lifted, self.wanted)
        (half0,), found0 = back((0.5 * a + half1,))
        more = (total + one + other for total, one, other in zip(sums, found1, found0, strict=True))
        return torch.sub(y, change0 + change1, alpha=0.5), a + half0 + half1, *more


def heun_fixed(
    change: Lifted, wanted: tuple[bool, ...], entry: fixed.Entry, y: Tensor, after: Cotangents
) -> tuple[Tensor, Cotangents]:
    """(y, a) from the end of a stretch of steps to its start, along the same path."""
    batched, states = entry.parts.system.spec.batched, (y.detach().clone(),)
    if batched:
        mark_batch(states)
    y, *rest = go_back(_Heun(change.pure, wanted), change.tensors, entry, (*states, *marked(after, batched)))
    return y, cotangents_of(tuple(rest), len(after.states))
