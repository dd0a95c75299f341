"""Chunks of fixed steps as compiled loops: from output to output.

The noise of steps that are cells of their own path is drawn inside, four steps to a call of the generator: an outer
loop draws a block, an inner one uses it up; where the functions are light the four steps of a call become one kernel
with the call itself. Other noise comes in blocks from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.brownian.levy import Increment
from sdesolve.brownian.steps import Named, OwnSteps, StepNormals
from sdesolve.compiled.graphs import graph, mark_batch
from sdesolve.compiled.layout import few_components, pack_states, unpack_states
from sdesolve.compiled.weight import is_light
from sdesolve.errors import CompileError, message
from sdesolve.fixed import FixedLoop
from sdesolve.methods.method import Increments, Method, State
from sdesolve.system import System

#: fixed steps whose times are put on the device at once
TABLE_STEPS = 4096
#: normals in a block of noise inside a compiled chunk: what stays in a core's cache; and where steps are recorded
BLOCK, RECORDED = 2**16, 2**20

Tensors = tuple[Tensor, ...]


class Cells(NamedTuple):
    """Tensors that name the noise of steps: words of the seed, ids, a table of cells and one of ticks, and one of signs
    times roots of lengths; and the numbers 0, 1, ... of the calls of a block."""

    key: tuple[Tensor, Tensor]
    paths: Tensor
    cells: Tensor
    ticks: Tensor
    scale: Tensor
    ahead: Tensor


class Inputs(NamedTuple):
    """What a chunk reads, all tensors: steps first <= k < last of tables of times and lengths; noise by its names, or
    drawn outside; where to write the states before each step, or nothing."""

    first: Tensor
    last: Tensor
    times: Tensor
    steps: Tensor
    cells: Cells | None
    drawn: tuple[Tensor | None, ...]
    records: Tensors


@dataclass
class Parts:
    """What shapes the graph of a chunk.

    noise : "none", "whole" (cells), "off_grid" or "drawn". together : the steps of a call of the generator in one body.
    single : all steps are of one block of noise (records are written in a loop that stands in no other).
    """

    system: System
    method: Method
    shape: tuple[int, ...] | None
    noise: str
    levy: str | None
    channels: tuple[int, ...]
    dtype: torch.dtype
    backwards: bool
    together: bool
    single: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells the graph from others."""
        kinds = self.shape, self.noise, self.levy, self.channels, self.backwards, self.together, self.single
        return self.system.structure, self.system.spec, self.method, *kinds

    def mark(self, packed: Tensors, records: Tensors, drawn: tuple[Tensor | None, ...]) -> None:
        """Batch, and numbers of rows, as symbols."""
        mark_batch(records)
        mark_batch(drawn)
        if self.system.spec.batched:
            dim = 0 if self.shape is None else 1
            mark_batch(packed, dim)
            mark_batch(records, dim + 1)
            mark_batch(drawn, 1)

    def pack(self, state: State) -> Tensors:
        """New tensors for a state."""
        return pack_states((state.y, *state.cache), self.shape)

    def unpack(self, packed: Tensors) -> State:
        """The reverse."""
        y, *cache = unpack_states(packed, self.shape)
        return State(y, tuple(cache))


class Entry(NamedTuple):
    """A stretch of recorded steps: what their chunk was given, and the states before each of them. last : number of the
    step behind the last one."""

    parts: Parts
    inputs: Inputs
    last: int


def compile_fixed(loop: FixedLoop, tape: list[Entry] | None = None) -> Callable[[State, int, int], State]:
    """A chunk for :class:`FixedLoop`: from the state before step ``first`` to the one before step ``last``. Steps are
    recorded on the tape."""
    if not loop.table.shared:
        raise CompileError(message("compile", "True with (batch, T) output times", "True with (T,) output times"))
    if loop.dense:
        raise CompileError(message("compile", "True with dense=True", "one of the two"))
    chunk = _Chunk(loop, tape)

    def run(state: State, first: int, last: int) -> State:
        width = chunk.width
        for low in range(first, last, width):
            state = chunk(state, low, min(low + width, last))
        return state

    return run


def fixed_entries(loop: FixedLoop) -> Callable[[State, int, int], list[Entry]]:
    """What chunks of steps first <= k < last would be given, without records; the state is an example."""
    chunk = _Chunk(loop, None)

    def found(state: State, first: int, last: int) -> list[Entry]:
        lows = range(first, last, chunk.width)
        return [entry for low in lows for entry in chunk.entries(state, low, min(low + chunk.width, last))]

    return found


class _Run(NamedTuple):
    """Steps that a graph takes: numbers first <= k < last of tables that begin at step ``offset``; their noise."""

    offset: int
    first: int
    last: int
    times: Tensor
    steps: Tensor
    kind: str
    backwards: bool = False
    cells: Cells | None = None
    drawn: tuple[Tensor | None, ...] = ()


class _Chunk:
    """Puts the tables of a stretch of steps on the device and calls the graph."""

    def __init__(self, loop: FixedLoop, tape: list[Entry] | None) -> None:
        self.loop, self.noise, self.tape = loop, loop.noise, tape
        self.spec = loop.system.spec
        self.neutral = loop.system.resized(0)
        self.width = TABLE_STEPS
        if self.noise is not None and not isinstance(self.noise, OwnSteps):
            self.width = min(self.noise.size, TABLE_STEPS)
        if isinstance(self.noise, OwnSteps):
            mark_batch([self.noise.paths])
            width = max(self.noise.channels * self.spec.batch, 1)
            block, most = (BLOCK, 64) if tape is None else (RECORDED, TABLE_STEPS // 4)
            quads = max(2, min(most, block // (4 * width)))
            self.ahead = torch.arange(quads, device=self.spec.device)
            mark_batch([self.ahead])
            if tape is not None:
                self.width = 4 * (quads - 1)  # which is one block, wherever in a call of the generator it begins

    def __call__(self, state: State, low: int, high: int) -> State:
        for run in self._runs(low, high):
            state = self._run(state, run)
        return state

    def entries(self, state: State, low: int, high: int) -> list[Entry]:
        """What graphs would be given for these steps."""
        return [Entry(*self._given(state, run), run.offset + run.last) for run in self._runs(low, high)]

    def _runs(self, low: int, high: int) -> Iterator[_Run]:
        loop, noise, spec = self.loop, self.noise, self.spec
        times, steps = (self._tabled(x, spec.time_dtype) for x in loop.table.rows(low, high))
        if not isinstance(noise, OwnSteps):
            drawn = () if noise is None else tuple(noise(low, high))
            yield _Run(low, 0, high - low, times, steps, "drawn" if drawn else "none", drawn=drawn)
            return
        named = noise.named(low, high)
        cells = Cells(
            noise.key,
            noise.paths,
            self._tabled(named.cells, torch.int64),
            self._tabled(named.ticks, torch.int64),
            self._tabled(named.scale, noise.dtype),
            self.ahead,
        )
        for a, b in named.runs():
            yield _Run(low, a, b, times, steps, *_kind(named, a), cells=cells)

    def _tabled(self, values: np.ndarray, dtype: torch.dtype) -> Tensor:
        """Always of one length, so that one graph serves all tables; what lies behind is not read."""
        out = torch.zeros(TABLE_STEPS + 1, dtype=dtype, device=self.spec.device)
        out[: len(values)] = torch.as_tensor(values, dtype=dtype)
        return out

    def _given(self, state: State, run: _Run) -> tuple[Parts, Inputs]:
        """What shapes the graph, and what it reads, without records."""
        loop, spec, noise = self.loop, self.spec, self.noise
        shape = spec.per_trajectory if few_components(spec, state.cache) else None
        levy = getattr(noise, "levy", None)
        channels = noise.shape if isinstance(noise, OwnSteps) else ()
        single = self.tape is not None
        together = run.kind == "whole" and not single
        together = together and is_light(loop.system, loop.method, run.times[run.first], state.y)
        kinds = shape, run.kind, levy, channels, spec.dtype, run.backwards, together, single
        parts = Parts(self.neutral, loop.method, *kinds)
        number = lambda k: torch.tensor(k, device=spec.device)
        return parts, Inputs(number(run.first), number(run.last), run.times, run.steps, run.cells, run.drawn, ())

    def _run(self, state: State, run: _Run) -> State:
        parts, inputs = self._given(state, run)
        packed = parts.pack(State(state.y.detach(), state.cache))
        records: Tensors = ()
        if self.tape is not None:
            # two rows at least: a graph takes 1 for a constant
            records = tuple(x.new_empty((max(run.last - run.first, 2), *x.shape)) for x in packed)
        parts.mark(packed, records, run.drawn)
        inputs = inputs._replace(records=records)
        spent: Tensors = ()
        if parts.method.reports_evaluations:
            none = torch.zeros(self.spec.batch, dtype=torch.int64, device=self.spec.device)
            spent = (none if state.evaluations is None else state.evaluations.clone(),)
            mark_batch(spent)
        chunk = graph(("fixed", *parts.key, len(records)), _chunk, self.spec.device)
        out = tuple(chunk(parts, inputs, (*packed, *spent)))
        state = parts.unpack(out[: len(packed)])._replace(evaluations=out[-1] if spent else None)
        if self.tape is not None:
            self.tape.append(Entry(parts, inputs, run.offset + run.last))
        return state


def _kind(named: Named, k: int) -> tuple[str, bool]:
    """Of the noise of a step, and whether it runs backwards."""
    return "whole" if named.regular[k] else "off_grid", bool(named.scale[k] < 0)


def row(table: Tensor, k: Tensor) -> Tensor:
    """Row k of a table."""
    return table.index_select(0, k.reshape(1)).reshape(table.shape[1:])


def without_failed(system: System, state: State, failed: Tensor) -> State:
    """NaN where the step could not be computed; the reason is found by taking the steps again."""
    return state._replace(y=torch.where(system.spec.expand(failed), torch.nan, state.y))


#: what is done at a step: (its row, noise, carried tensors) -> carried tensors, all new
Visit = Callable[[Tensor, Increment, Tensors], Tensors]


def _chunk(parts: Parts, inputs: Inputs, start: Tensors) -> Tensors:
    """Steps first <= k < last."""
    batched = parts.system.spec.batched
    system = parts.system.resized(start[0].shape[0 if parts.shape is None else -1]) if batched else parts.system
    times, steps = inputs.times, inputs.steps

    def visit(k: Tensor, noise: Increment, packed: Tensors) -> Tensors:
        for buffer, x in zip(inputs.records, packed, strict=False):
            buffer.index_copy_(0, (k - inputs.first).reshape(1), x[None])
        inc = Increments(row(times, k), row(times, k + 1), row(steps, k), *noise)
        held, spent = (packed[:-1], packed[-1:]) if parts.method.reports_evaluations else (packed, ())
        step = parts.method.step(system, parts.unpack(held), inc)
        state = step.state if step.failed is None else without_failed(system, step.state, step.failed)
        new = step.evaluations
        return (*parts.pack(state), *(x if new is None else x + new for x in spent))

    return walk(parts, inputs, visit, start)


def walk(parts: Parts, inputs: Inputs, visit: Visit, start: Tensors) -> Tensors:
    """Visit the steps in the order of their rows."""
    start = tuple(x.clone() for x in start)
    if inputs.cells is None:
        drawn = inputs.drawn
        noise = lambda k: Increment(*(None if x is None else row(x, k) for x in drawn)) if drawn else Increment()
        body = lambda k, *packed: (k + 1, *visit(k, noise(k), packed))
        return while_loop(lambda k, *packed: k < inputs.last, body, (inputs.first.clone(), *start))[1:]
    normals = StepNormals(inputs.cells.key, inputs.cells.paths, parts.channels, parts.dtype, parts.levy)
    return (_four_by_four if parts.together else _in_blocks)(parts, visit, normals, inputs, start)


def _in_blocks(parts: Parts, visit: Visit, noise: StepNormals, inputs: Inputs, start: Tensors) -> Tensors:
    """An outer loop draws a block of noise, an inner one uses it up."""
    assert inputs.cells is not None
    _, _, cells, ticks, scale, ahead = inputs.cells
    last, quads = inputs.last, inputs.cells.ahead.shape[0]
    size = 4 * quads

    def draw(k: Tensor) -> tuple[Tensors, Tensor]:
        """Normals for a block of steps from k on, and which row is k's."""
        if parts.noise == "off_grid":
            rows = (k + torch.arange(size, device=k.device)).clamp(max=cells.shape[0] - 1)
            return noise.off_grid(cells.index_select(0, rows), ticks.index_select(0, rows)), torch.zeros_like(k)
        cell = row(cells, k)
        quad = cell >> 2
        if parts.backwards:
            return tuple(z.flip(0) for z in noise.whole(quad - (quads - 1) + ahead)), 4 * quad + 3 - cell
        return noise.whole(quad + ahead), cell - 4 * quad

    def block(k: Tensor, *packed: Tensor) -> Tensors:
        drawn, begin = draw(k)
        drawn = tuple(z.clone() for z in drawn)  # no two of one storage, in the loop
        count = torch.minimum(size - begin, last - k)

        def inner(j: Tensor, *packed: Tensor) -> Tensors:
            here = lambda table, j: table.index_select(0, j.reshape(1))
            inc = noise.scaled(tuple(here(z, begin + j) for z in drawn), here(scale, k + j)).map(lambda x: x[0])
            return (j + 1, *visit(k + j, inc, packed))

        start = tuple(x.clone() for x in packed)
        done = while_loop(lambda j, *packed: j < count, inner, (torch.zeros_like(k), *start))
        return (k + count, *(x.clone() for x in done[1:]))

    if parts.single:
        return block(inputs.first, *start)[1:]
    return while_loop(lambda k, *packed: k < last, block, (inputs.first.clone(), *start))[1:]


def _four_by_four(parts: Parts, visit: Visit, noise: StepNormals, inputs: Inputs, start: Tensors) -> Tensors:
    """A call of the generator and its four steps, of which those before the first and after the last change nothing."""
    assert inputs.cells is not None
    cells, scale, first, last = inputs.cells.cells, inputs.cells.scale, inputs.first, inputs.last
    sign = -1 if parts.backwards else 1
    begin = row(cells, first)

    def body(quad: Tensor, *packed: Tensor) -> Tensors:
        four = noise.quad(quad.reshape(1))
        for i in range(4)[::sign]:
            k = first + sign * (4 * quad + i - begin)
            real = (k >= first) & (k < last)
            k = torch.minimum(torch.maximum(k, first), last - 1)
            inc = noise.scaled(four[i], scale.index_select(0, k.reshape(1)))
            after = visit(k, inc.map(lambda x: x[0]), packed)
            packed = tuple(torch.where(real, new, old) for new, old in zip(after, packed, strict=True))
        return (quad + sign, *packed)

    end = (begin + sign * (last - 1 - first)) >> 2
    return while_loop(lambda quad, *packed: sign * (end - quad) >= 0, body, (begin >> 2, *start))[1:]
