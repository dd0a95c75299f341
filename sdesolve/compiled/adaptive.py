"""Chunks of adaptive steps as compiled loops: from landing point to landing point."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdesolve.brownian.levy import LEVY
from sdesolve.brownian.window import Window, Windows
from sdesolve.clock import RealClock, row
from sdesolve.compiled import fewer
from sdesolve.compiled.chunk import Inputs, Lattice, Parts, Path, StartInputs, run_chunk
from sdesolve.compiled.graphs import fact, graph, is_static, mark_batch
from sdesolve.compiled.layout import Layout
from sdesolve.compiled.roots import find_table
from sdesolve.crossing import Crossings
from sdesolve.divisible import divisible, values_of
from sdesolve.driver import Standing
from sdesolve.errors import CompileError, message
from sdesolve.lattice_clock import LatticeClock, PathNoise
from sdesolve.loop import Carry, Loop, failed
from sdesolve.methods.method import State
from sdesolve.part import of_carry, part_of, put_back
from sdesolve.start import Beginning, evaluations, first_carry, first_values
from sdesolve.step_size import PID
from sdesolve.table_clock import TableClock

#: steps of a chunk: the host looks at the result this seldom, and Ctrl-C waits this long
CHUNK_STEPS = 500
#: rows of a table of a window's cells
_ROWS = 4
#: recorded steps of the first chunk (compiled code copies the room for them once), and of any; numbers in the records
#: of their states, at most
_FIRST_ROWS, _MOST_ROWS, _RECORDED = 16, 256, 2**24


class Entry(NamedTuple):
    """Recorded steps of a chunk on the way to a landing point.

    shape : as in `Layout`. start : the packed state at its start. states, times, noise : rows of packed states before a
    step, of t0, t1 and signed h, and of the increments' parts. counts : (lanes,) rows of each lane.
    """

    shape: tuple[int, ...] | None
    point: int
    start: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    times: Tensor
    noise: tuple[Tensor | None, ...]
    counts: Tensor


def compile_adaptive(loop: Loop, begin: Beginning | None = None, tape: list[Entry] | None = None) -> Chunks:
    """Chunks for :func:`sdesolve.driver.drive`, up to CHUNK_STEPS steps of all lanes each, of which the first starts
    the solve if it is told how to begin. Accepted steps are recorded on the tape."""
    if loop.dense and not isinstance(loop.watcher, Crossings):
        raise CompileError(message("compile", "True with dense=True", "one of the two"))
    if isinstance(loop.noise, PathNoise) and isinstance(loop.noise.window, Windows):
        raise CompileError(message("compile", "True with (batch, T) times of an SDE", "True with (T,) output times"))
    known = loop.noise is None or isinstance(loop.noise, PathNoise)
    if not known or not isinstance(loop.clock, (RealClock, LatticeClock)):
        raise CompileError(message("compile", "True with a clock or noise of another kind", "compile=False"))
    return Chunks(loop, begin, tape)


class Chunks:
    """``chunk(carry, point)`` takes up to CHUNK_STEPS steps on the way to a landing point, from no carry at the start
    of a solve; returns the new carry and how things stand. evaluations : of drift and diffusion, spent on the start."""

    def __init__(self, loop: Loop, begin: Beginning | None, tape: list[Entry] | None) -> None:
        self.loop, self.begin, self.tape = loop, begin, tape
        spec, clock = loop.system.spec, loop.clock
        real = clock.real if isinstance(clock, LatticeClock) else clock
        assert isinstance(real, RealClock)
        self.real = real
        control = _as_tensors(loop.control, spec.time_dtype, spec.device)
        mark_batch(x for x in (control.rtol, control.atol) if isinstance(x, Tensor) and x.shape[:1] == (spec.batch,))
        self.path, window = None, None
        if isinstance(loop.noise, PathNoise):
            assert isinstance(loop.noise.window, Window)
            window = loop.noise.window
            self.path = window.shape, window.dtype, window.depth, window.levy
        self.parts = Parts(
            loop.system.resized(0),
            loop.method,
            control,
            Layout(None, 0, (), 0),
            clock.direction,
            1 if clock.lanes == 1 else 0,
            loop.norm,
            self.path,
            recorded=tape is not None,
            watcher=loop.watcher,
        )
        if isinstance(loop.watcher, Crossings):
            self.parts.watcher = loop.watcher.lookout.resized(self.parts.system)
        self.fixed = Inputs(
            real.starts,
            real.ends,
            real.gaps,
            self._whole(int(real.last)),
            self._whole(0),
            self._whole(CHUNK_STEPS),
            self._whole(int(loop.max_steps)),
            self._whole(0),
            None,
            None if window is None else _path(window),
        )
        self.evaluations: tuple[int, int] = 0, 0
        self.caches: tuple[tuple[int, ...], ...] = ()
        self.rows = _FIRST_ROWS
        if begin is not None:
            mark_batch([begin.y0, begin.span])
            facts = fact(("start", *self._key(), begin.first is None), self._look)
            self.parts.layout, self.caches, self.evaluations = facts
        # of the stretch: how many are on the way; those that go on alone, and their chunks
        self.few = 0 if begin is None or tape is not None else fewer.few(loop, real.starts[0], begin.y0)
        self.left = loop.system.spec.batch
        self.rest: tuple[Tensor, Chunks] | None = None

    def _key(self) -> tuple[Any, ...]:
        """What tells the graphs of this loop from others."""
        parts, watcher = self.parts, self.loop.watcher
        events = watcher.conditions.structure if isinstance(watcher, Crossings) else None
        return self.loop.system.structure, parts.system.spec, self.loop.method, parts.lanes, self.path, events

    def _look(self) -> tuple[Layout, tuple[tuple[int, ...], ...], tuple[int, int]]:
        """What an eager start shows, once a structure: mistakes in the functions, trajectories that read each other;
        the layout of a carry, shapes of the method's cache, evaluations."""
        assert self.begin is not None
        start = first_values(self.loop, self.begin.y0)
        self.begin.check(start)
        carry = first_carry(self.loop, self.begin.y0, start, self.begin.span, self.begin.first)
        spec = self.loop.system.spec
        caches = tuple(tuple(x.shape[1:] if spec.batched else x.shape) for x in start.cache)
        return Layout.of(carry, spec), caches, evaluations(self.loop, start, self.begin.first)

    def _whole(self, x: int) -> Tensor:
        return torch.tensor(x, device=self.loop.system.spec.device)

    def _inputs(self, point: int, begins: bool) -> Inputs:
        """For the stretch that ends on this landing point."""
        clock = self.loop.clock
        starts, ends, gaps = self.real.stretch(point)
        lattice, begin = None, None
        if isinstance(clock, LatticeClock):
            rows = row(clock.behind, point - 1), row(clock.ahead, point)
            lattice = Lattice(*rows, clock.tick, clock.longest)
            mark_batch([*lattice[:2]], 1)
            mark_batch([clock.tick, clock.longest])
        mark_batch([starts, ends, gaps], 1)
        if self.begin is not None:
            fresh = self._whole(int(begins))
            begin = StartInputs(fresh, self.begin.y0, self.begin.span, self.begin.first)
        table = None
        if isinstance(self.real, TableClock):
            table = self.real.stretch_of_table(point)
            mark_batch(table, 1)
        given = self.fixed._replace(until=self._whole(point), few=self._whole(self.few), table=table)
        return given._replace(starts=starts, ends=ends, gaps=gaps, lattice=lattice, begin=begin)

    def __call__(self, carry: Carry | None, point: int) -> tuple[Carry, Standing]:
        if carry is not None and self.few and 0 < self.left <= self.few and self.rest is None:
            self.rest = self._alone(carry, point)
            self.few = self.few if self.rest else 0
        if carry is None or self.rest is None:
            carry, standing = self._all(carry, point)
        else:
            lanes, chunks = self.rest
            after, standing = chunks(of_carry(carry, lanes), point)
            carry = put_back(carry, lanes, after)
            standing = Standing(standing.going, bool(self.loop.running(carry)), bool(failed(carry.status).any()))
        self.left = standing.going
        if not standing.going:
            self.rest, self.left = None, self.loop.system.spec.batch
        return self._over_jump(carry, point, bool(standing.going)), standing

    def _alone(self, carry: Carry, point: int) -> tuple[Tensor, Chunks] | None:
        """Those that are left, and chunks of their own, if that is possible."""
        mask = self.loop.moving(carry, point)
        mask[int((~mask).to(torch.int8).argmax())] |= self.left == 1  # a batch of 1 would be another graph
        lanes = mask.nonzero()[:, 0]
        t = self.loop.to_batch(self.real.starts[point - 1])
        if is_static(self._graph()) or not divisible(partial(values_of, self.loop.system), t, carry.y, lanes):
            return None
        assert self.begin is not None
        begin = fewer.part_of_start(self.begin, carry.y[lanes], lanes)
        return lanes, Chunks(part_of(self.loop, lanes), begin, None)

    def _graph(self) -> tuple[Any, ...]:
        """Key of the graph of a chunk."""
        return "adaptive", *self._key(), self.parts.layout, self.tape is not None

    def _all(self, carry: Carry | None, point: int) -> tuple[Carry, Standing]:
        """A chunk of all trajectories."""
        loop, parts, spec, tape = self.loop, self.parts, self.loop.system.spec, self.tape
        if carry is None:
            packed = parts.layout.room(spec, loop.clock.lanes, self.caches)
        else:
            parts.layout = Layout.of(carry, spec)
            packed = parts.layout.pack(carry)
        run = graph(self._graph(), run_chunk, spec.device)
        split = 1 if parts.layout.shape is not None else 1 + parts.layout.cache
        if spec.batched:
            mark_batch(packed[:split], 0 if parts.layout.shape is None else 1)
            mark_batch(packed[-1:], 1)
            if loop.clock.lanes != 1:
                mark_batch(packed[split:-1], 1)
        given = self._inputs(point, begins=carry is None)
        if tape is None:
            flags, *after = run(parts, given, packed)
        else:
            states, times, noise = self._buffers(packed[:split])
            flags, counts, *rest = run(parts, given._replace(records=(*states, times, *noise)), packed)
            begun, after = tuple(rest[:split]), rest[split:]
            # what was written, two rows at least: a graph takes 1 for a constant
            filled = max(int(counts.max()), 2)
            self.rows = min(2 * self.rows, _MOST_ROWS) if filled >= len(times) else self.rows
            states, times, noise = (
                tuple(x[:filled].clone() for x in states),
                times[:filled].clone(),
                tuple(x[:filled].clone() for x in noise),
            )
            named = iter(noise)
            parts_of_noise = tuple(next(named) if there else None for there in _present(self.path))
            tape.append(Entry(parts.layout.shape, point, begun, states, times, parts_of_noise, counts))
        going, running, stopped, waiting = flags.tolist()
        return parts.layout.unpack(tuple(after)), Standing(going, bool(running), bool(stopped), bool(waiting))

    def _buffers(self, states: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]:
        """Room for the records of a chunk, with its batch as a symbol."""
        found, times, noise = _buffers(self.loop, states, self.path, self.rows)
        for x in (*found, *noise):
            mark_batch([x], x.ndim - 1 if self.parts.layout.shape is not None and x is found[0] else 1)
        if self.loop.clock.lanes != 1:
            mark_batch([times], 2)
        mark_batch([*found, times, *noise])
        return found, times, noise

    def _over_jump(self, carry: Carry, point: int, going: bool) -> Carry:
        """Behind a jump of the right-hand side, or of the state, the method's cache is made anew."""
        loop = self.loop
        jump = loop.at_landing is not None or (loop.jumps is not None and bool(loop.jumps[point]))
        if going or not jump:
            return carry
        here = self.real.starts[point].expand(loop.clock.lanes)
        y, cache = loop.crossed(State(carry.y, carry.cache), point, loop.to_state(here))
        return carry._replace(y=y, cache=cache)


def _present(path: Any) -> tuple[bool, ...]:
    """Which of w, H, K and area a step is given."""
    return (path is not None, *(path is not None and name in LEVY[path[3]] for name in ("H", "K", "area")))


def _buffers(
    loop: Loop, states: tuple[Tensor, ...], path: Any, rows: int
) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]:
    """Room for the records of a chunk."""
    spec = loop.system.spec
    rows = max(8, min(rows, _RECORDED // max(sum(x.numel() for x in states), 1)))
    wide = () if path is None else path[0]
    m = math.prod(wide)
    shapes = [wide, wide, wide, (m, m)]
    new = lambda shape: torch.empty(shape, dtype=spec.dtype, device=spec.device)
    noise = tuple(new((rows, spec.batch, *shape)) for shape, there in zip(shapes, _present(path), strict=True) if there)
    times = torch.empty((rows, 3, loop.clock.lanes), dtype=spec.time_dtype, device=spec.device)
    return tuple(x.new_empty((rows, *x.shape)) for x in states), times, noise


def _as_tensors(control: PID, dtype: torch.dtype, device: torch.device) -> PID:
    """The same with numbers that may vary from solve to solve as tensors (1,)."""
    number = lambda x: None if x is None else _number(x, dtype, device)
    made = object.__new__(type(control))
    values: dict[str, Any] = {"rtol": number(control.rtol), "atol": number(control.atol)}
    values |= {"dt_min": number(control.dt_min), "dt_max": number(control.dt_max), "jumps": ()}
    for name, value in {**vars(control), **values}.items():
        object.__setattr__(made, name, value)
    return made


def _number(x: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(x, Tensor):
        return x.to(dtype=dtype, device=device)
    return torch.full((1,), x, dtype=dtype, device=device)


def _path(window: Window) -> Path:
    find_table(window)
    known = window.table is not None
    rows = None
    if window.table is not None:
        # always of one length, so that one graph serves all spans
        rows = tuple(torch.nn.functional.pad(x, (0, 0, 0, max(_ROWS - len(x), 0))) for x in window.table)
        mark_batch(rows, 1)
    first = window.first if known else None
    names = tuple(x.clone() for x in window.source.names)  # no two inputs of one storage
    mark_batch([window.paths, *names])
    return Path(
        window.key,
        window.paths,
        names,  # type: ignore[arg-type]
        torch.full((1,), float(window.tick), dtype=window.dtype, device=window.paths.device),
        torch.as_tensor(window.level, device=window.paths.device),
        window.factor,
        first,
        rows,
    )
