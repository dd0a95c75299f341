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
from sdesolve.methods.reversible import change_by, fields_pull
from sdesolve.system import System


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


def _carried(states: Tensors, batched: bool) -> Tensors:
    """States as a loop may carry them, with the batch as a symbol."""
    new = tuple(x.detach().clone() for x in states)
    if batched:
        mark_batch(new)
    return new


def undo_fixed(step: Lifted, undone: Undone, wanted: tuple[bool, ...], entry: fixed.Entry, behind: Behind) -> Behind:
    """From the end of a stretch of steps of a reversible method to its start."""
    back = _Undo(undone.pure, undone.places, pull_of(step, wanted, behind.at))
    batched = entry.parts.system.spec.batched
    states = _carried((behind.state.y, *behind.state.cache), batched)
    out = go_back(back, step.tensors, entry, (*states, *marked(behind.at, batched)))
    y, *cache = out[: len(states)]
    return Behind(State(y, tuple(cache)), cotangents_of(out[len(states) :], len(behind.at.states)))


@dataclass
class _UndoHeun:
    """Carries the state of reversible Heun and cotangents, in one evaluation of the fields a step. What they say of y
    at the start of a step is known when they are asked for there, at the end of the step before:

    y_0 = Y - 1/2 (f(t_0, z_0) h + g(t_0, z_0) dW),      Y = y_1 - 1/2 (f(t_1, z_1) h + g(t_1, z_1) dW)

    so that h and dW of the step behind are carried too. system : for its kind of noise.
    """

    system: System
    fields: Pure
    wanted: tuple[bool, ...]

    @property
    def key(self) -> Any:
        return "undo heun", self.fields, self.wanted

    def __call__(self, record: State | None, inc: Increments, carried: Tensors, lifted: Tensors) -> Tensors:
        y, z, length, *rest = carried
        system = self.system.resized(z.shape[0]) if self.system.spec.batched else self.system
        w = rest.pop(0) if system.is_sde else None
        fields, pull = self.fields.vjp((z,), (inc.t1,), lifted, self.wanted)
        a, b, slopes, sums = rest[0], rest[1], rest[2 : 2 + len(fields)], rest[2 + len(fields) :]
        y = y - 0.5 * change_by(system, inc._replace(h=length, w=w), fields)
        half = 0.5 * a
        asked = tuple(s + x for s, x in zip(slopes, fields_pull(system, inc, half), strict=True))
        (more,), found = pull(asked)
        b, change = b + more, change_by(system, inc, fields)
        noise = () if inc.w is None else (inc.w.clone(),)
        slopes = [x.clone() for x in fields_pull(system, inc, half + b)]
        sums = [total + g for total, g in zip(sums, found, strict=True)]
        before = y - change - z + y
        return y - 0.5 * change, before, inc.h.reshape(1).clone(), *noise, a + 2 * b, -b, *slopes, *sums


class Pending(NamedTuple):
    """Where reversible Heun stands on the way back: Y and z, h and dW of the step behind (see `_UndoHeun`), and
    gradients by y, z, the fields and the wanted tensors."""

    y: Tensor
    z: Tensor
    h: Tensor
    w: Tensor | None
    at: Cotangents

    @staticmethod
    def known(y: Tensor, z: Tensor, w: Tensor | None, at: Cotangents) -> Pending:
        """Where y is known. w : an increment of the right shape."""
        return Pending(y, z, y.new_zeros(1, dtype=y.dtype.to_real()), None if w is None else torch.zeros_like(w), at)


def undo_heun_fixed(fields: Lifted, wanted: tuple[bool, ...], entry: fixed.Entry, behind: Pending) -> Pending:
    """From the end of a stretch of steps of reversible Heun to its start."""
    system, (y, z, h, w, at) = entry.parts.system, behind
    batched = system.spec.batched
    noise = () if w is None else _carried((w,), batched)
    carried = (*_carried((y, z), batched), h.detach().clone(), *noise, *marked(at, batched))
    y, z, h, *out = go_back(_UndoHeun(system, fields.pure, wanted), fields.tensors, entry, carried)
    w = None if w is None else out.pop(0)
    return Pending(y, z, h, w, cotangents_of(tuple(out), len(at.states)))


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
    batched = entry.parts.system.spec.batched
    start = (*_carried((y,), batched), *marked(after, batched))
    y, *rest = go_back(_Heun(change.pure, wanted), change.tensors, entry, start)
    return y, cotangents_of(tuple(rest), len(after.states))
