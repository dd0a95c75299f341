"""Chunks of adaptive steps as compiled loops: from landing point to landing point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.brownian.levy import LEVY, Increment, Normals
from sdesolve.brownian.window import Window, Windows
from sdesolve.clock import Clock, Proposal, RealClock, row
from sdesolve.compiled.graphs import graph, mark_batch
from sdesolve.compiled.layout import Layout
from sdesolve.errors import CompileError, message
from sdesolve.lattice_clock import LatticeClock, PathNoise
from sdesolve.loop import Carry, Loop, NoiseSource, Watcher
from sdesolve.methods.method import Method
from sdesolve.step_size import PID
from sdesolve.system import System

#: steps of a chunk: the host looks at the result this seldom, and Ctrl-C waits this long
CHUNK_STEPS = 500
#: rows of a table of a window's cells
_ROWS = 4
#: recorded steps of a chunk, and numbers in the records of their states, at most
_MOST_ROWS, _RECORDED = 256, 2**24


class _Lattice(NamedTuple):
    """Tensors of a clock of integers: ticks of the stretch's ends, length of a tick, most ticks of a step."""

    behind: Tensor
    ahead: Tensor
    tick: Tensor
    longest: Tensor


class _Path(NamedTuple):
    """Tensors of a window of a Brownian path, see `Window`."""

    key: tuple[Tensor, Tensor]
    paths: Tensor
    names: tuple[Tensor, Tensor]  # (batch * channels,) each
    tick: Tensor
    level: Tensor
    factor: Tensor | None
    first: Tensor | None
    table: tuple[Tensor, ...] | None  # (count, batch * channels)


class _Inputs(NamedTuple):
    """What a chunk reads, all tensors: see `RealClock` for the first four."""

    starts: Tensor
    ends: Tensor
    gaps: Tensor
    last: Tensor
    until: Tensor
    steps: Tensor
    max_steps: Tensor
    lattice: _Lattice | None
    path: _Path | None
    records: tuple[Tensor, ...] = ()


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


@dataclass
class _Parts:
    """What shapes the graph of a chunk. lanes : 1 for a clock that all share, else 0. path : (shape of a trajectory's
    Brownian motion, dtype, depth, levy)."""

    system: System
    method: Method
    control: PID
    layout: Layout
    direction: float
    lanes: int
    norm: Callable[[Tensor], Tensor] | None
    path: tuple[tuple[int, ...], torch.dtype, int, str | None] | None
    recorded: bool = False
    clock: Clock | None = None
    noise: NoiseSource | None = None
    watcher: Watcher | None = None

    def loop(self, inputs: _Inputs, batch: int) -> Loop:
        """The loop over the stretch, for tensors of this batch."""
        if self.clock is not None:
            return self._as_it_is(self.clock, inputs, batch)
        clock: Clock = RealClock(inputs.starts, inputs.ends, inputs.gaps, self.lanes, inputs.last, self.direction)
        if inputs.lattice is not None:
            clock = LatticeClock(clock, *inputs.lattice)  # type: ignore[arg-type]
        return Loop(
            self.system.resized(batch),
            self.method,
            clock,
            self.control,
            noise=None if inputs.path is None else self._noise(inputs.path),
            norm=self.norm,
            watcher=self.watcher,
            max_steps=inputs.max_steps,
        )

    def _as_it_is(self, clock: Clock, inputs: _Inputs, batch: int) -> Loop:
        """With a clock and a source of noise of another kind."""
        system = self.system.resized(batch)
        parts = {"noise": self.noise, "norm": self.norm, "watcher": self.watcher, "max_steps": inputs.max_steps}
        return Loop(system, self.method, clock, self.control, **parts)  # type: ignore[arg-type]

    def _noise(self, path: _Path) -> NoiseSource:
        assert self.path is not None
        shape, dtype, depth, levy = self.path
        known = None
        if path.table is not None and path.first is not None:
            known = path.first, Normals(*path.table)
        window = Window(
            path.key,
            path.paths,
            shape,
            dtype,
            tick=path.tick,
            level=0 if known is None else path.level,
            depth=depth,
            levy=levy,
            factor=path.factor,
            known=known,
            names=path.names,
        )

        def increments(proposal: Proposal) -> Increment:
            return window(proposal.ticket[0], proposal.ticket[1])

        return increments


def compile_adaptive(loop: Loop, tape: list[Entry] | None = None) -> Callable[[Carry, int], Carry]:
    """A chunk for :func:`sdesolve.driver.drive`: up to CHUNK_STEPS steps of all lanes. Accepted steps are recorded on
    the tape."""
    if loop.dense:
        raise CompileError(message("compile", "True with dense=True", "one of the two"))
    if isinstance(loop.noise, PathNoise) and isinstance(loop.noise.window, Windows):
        raise CompileError(message("compile", "True with (batch, T) times of an SDE", "True with (T,) output times"))
    spec, clock = loop.system.spec, loop.clock
    real = clock.real if isinstance(clock, LatticeClock) else clock
    if not isinstance(real, RealClock) or not (loop.noise is None or isinstance(loop.noise, PathNoise)):
        return _as_it_is(loop)
    whole = lambda x: torch.tensor(x, device=spec.device)
    control = _as_tensors(loop.control, spec.time_dtype, spec.device)
    mark_batch(x for x in (control.rtol, control.atol) if isinstance(x, Tensor) and x.shape[:1] == (spec.batch,))
    path = window = None
    if isinstance(loop.noise, PathNoise):
        assert isinstance(loop.noise.window, Window)
        window = loop.noise.window
        path = window.shape, window.dtype, window.depth, window.levy
    parts = _Parts(
        loop.system.resized(0),
        loop.method,
        control,
        Layout(None, 0, (), 0),
        clock.direction,
        1 if clock.lanes == 1 else 0,
        loop.norm,
        path,
        watcher=loop.watcher,
    )
    fixed = _Inputs(
        real.starts,
        real.ends,
        real.gaps,
        whole(int(real.last)),
        whole(0),
        whole(CHUNK_STEPS),
        whole(int(loop.max_steps)),
        None,
        None if window is None else _path(window),
    )

    def inputs(point: int) -> _Inputs:
        """For the stretch that ends on this landing point."""
        starts, ends, gaps = real.stretch(point)
        lattice = None
        if isinstance(clock, LatticeClock):
            rows = row(clock.behind, point - 1), row(clock.ahead, point)
            lattice = _Lattice(*rows, clock.tick, clock.longest)
            mark_batch([*lattice[:2]], 1)
            mark_batch([clock.tick, clock.longest])
        mark_batch([starts, ends, gaps], 1)
        return fixed._replace(starts=starts, ends=ends, gaps=gaps, until=whole(point), lattice=lattice)

    run: list[Callable[..., Any]] = []

    def chunk(carry: Carry, point: int) -> Carry:
        if not run:
            parts.layout = Layout.of(carry, spec)
            key = ("adaptive", loop.system.structure, parts.system.spec, loop.method, parts.layout, parts.lanes, path)
            run.append(graph((*key, tape is not None), _chunk, spec.device))
        packed = parts.layout.pack(carry)
        split = 1 if parts.layout.shape is not None else 1 + parts.layout.cache
        if spec.batched:
            mark_batch(packed[:split], 0 if parts.layout.shape is None else 1)
            mark_batch(packed[-1:])
            if clock.lanes != 1:
                mark_batch(packed[split:-1], 1)
        given = inputs(point)
        if tape is None:
            return over_jump(parts.layout.unpack(tuple(run[0](parts, given, packed))), point)
        parts.recorded = True
        states, times, noise = _buffers(loop, packed[:split], path)
        for x in (*states, *noise):
            mark_batch([x], x.ndim - 1 if parts.layout.shape is not None and x is states[0] else 1)
        if clock.lanes != 1:
            mark_batch([times], 2)
        mark_batch([*states, times, *noise])
        counts, *after = run[0](parts, given._replace(records=(*states, times, *noise)), packed)
        named = iter(noise)
        parts_of_noise = tuple(next(named) if there else None for there in _present(path))
        tape.append(Entry(parts.layout.shape, point, packed[:split], states, times, parts_of_noise, counts))
        return over_jump(parts.layout.unpack(tuple(after)), point)

    def over_jump(carry: Carry, point: int) -> Carry:
        """Behind a jump of the right-hand side, or of the state, the method's cache is made anew."""
        jumps = loop.at_landing is not None or (loop.jumps is not None and bool(loop.jumps[point]))
        if not jumps or bool(loop.moving(carry, point)):
            return carry
        if loop.at_landing is not None:
            carry = carry._replace(y=loop.at_landing(carry.y, point))
        here = real.starts[point].expand(clock.lanes)
        return carry._replace(cache=loop.method.init(loop.system, loop.to_state(here), carry.y))

    return chunk


def _as_it_is(loop: Loop) -> Callable[[Carry, int], Carry]:
    """A chunk for loops with clocks and sources of noise of another kind, whose batch is a constant of the graph."""
    spec = loop.system.spec
    parts = _Parts(
        loop.system,
        loop.method,
        _as_tensors(loop.control, spec.time_dtype, spec.device),
        Layout(None, 0, (), 0),
        loop.clock.direction,
        loop.clock.lanes,
        loop.norm,
        None,
        clock=loop.clock,
        noise=loop.noise,
        watcher=loop.watcher,
    )
    whole = lambda x: torch.tensor(x, device=spec.device)
    nothing = torch.zeros(1, device=spec.device)

    def chunk(carry: Carry, point: int) -> Carry:
        parts.layout = Layout.of(carry, spec)
        numbers = whole(int(loop.clock.last)), whole(point), whole(CHUNK_STEPS), whole(int(loop.max_steps))
        inputs = _Inputs(nothing, nothing, nothing, *numbers, None, None)
        run = graph(("other", loop.system.structure, spec, loop.method, type(loop.clock)), _chunk, spec.device)
        return parts.layout.unpack(tuple(run(parts, inputs, parts.layout.pack(carry))))

    return chunk


def _present(path: Any) -> tuple[bool, ...]:
    """Which of w, H, K and area a step is given."""
    return (path is not None, *(path is not None and name in LEVY[path[3]] for name in ("H", "K", "area")))


def _buffers(
    loop: Loop, states: tuple[Tensor, ...], path: Any
) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]:
    """Room for the records of a chunk."""
    spec = loop.system.spec
    rows = max(8, min(_MOST_ROWS, _RECORDED // max(sum(x.numel() for x in states), 1)))
    wide = () if path is None else path[0]
    m = math.prod(wide)
    shapes = [wide, wide, wide, (m, m)]
    new = lambda shape: torch.empty(shape, dtype=spec.dtype, device=spec.device)
    noise = tuple(new((rows, spec.batch, *shape)) for shape, there in zip(shapes, _present(path), strict=True) if there)
    times = torch.empty((rows, 3, loop.clock.lanes), dtype=spec.time_dtype, device=spec.device)
    return tuple(x.new_empty((rows, *x.shape)) for x in states), times, noise


def _as_tensors(control: PID, dtype: torch.dtype, device: torch.device) -> PID:
    """The same with numbers that may vary from solve to solve as 0-d tensors."""
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


def _path(window: Window) -> _Path:
    known = window.table is not None
    rows = None
    if window.table is not None:
        # always of one length, so that one graph serves all spans
        rows = tuple(torch.nn.functional.pad(x, (0, 0, 0, max(_ROWS - len(x), 0))) for x in window.table)
        mark_batch(rows, 1)
    first = window.first if known else None
    names = tuple(x.clone() for x in window.source.names)  # no two inputs of one storage
    mark_batch([window.paths, *names])
    return _Path(
        window.key,
        window.paths,
        names,  # type: ignore[arg-type]
        torch.full((1,), float(window.tick), dtype=window.dtype, device=window.paths.device),
        torch.as_tensor(window.level, device=window.paths.device),
        window.factor,
        first,
        rows,
    )


def _chunk(parts: _Parts, inputs: _Inputs, start: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    layout = parts.layout
    loop = parts.loop(inputs, start[-1].shape[0])

    if parts.recorded:
        return _recorded(parts, loop, inputs, start)

    def going(k: Tensor, *packed: Tensor) -> Tensor:
        return (k < inputs.steps) & loop.moving(layout.unpack(packed), inputs.until)

    def body(k: Tensor, *packed: Tensor) -> tuple[Tensor, ...]:
        carry = layout.unpack(packed)
        return (k + 1, *layout.pack(loop.commit(carry, loop.attempt(carry, until=inputs.until))))

    return while_loop(going, body, (torch.zeros_like(inputs.steps), *(x.clone() for x in start)))[1:]


def _recorded(parts: _Parts, loop: Loop, inputs: _Inputs, start: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same, in which each lane writes its accepted steps into rows of its own; ends when a lane's rows are full.
    Returns the number of rows of each lane, and the carry."""
    layout, records = parts.layout, inputs.records
    count = 1 if layout.shape is not None else 1 + layout.cache
    rows = inputs.records[0].shape[0]

    def going(k: Tensor, n: Tensor, *packed: Tensor) -> Tensor:
        moving = loop.moving(layout.unpack(packed), inputs.until)
        return (k < inputs.steps) & (n < rows).all() & moving

    def body(k: Tensor, n: Tensor, *packed: Tensor) -> tuple[Tensor, ...]:
        carry = layout.unpack(packed)
        a = loop.attempt(carry, until=inputs.until)
        times = torch.stack([a.proposal.t0, a.proposal.t1, loop.clock.direction * a.proposal.h])
        noise = [x for x in a.inc[3:] if x is not None]
        last = [True] * count if layout.shape is not None else [False] * count
        for buffer, x, lane_is_last in zip(
            records, (*packed[:count], times, *noise), (*last, True, *(False for _ in noise)), strict=True
        ):
            where = n if lane_is_last or x.ndim == 0 else loop.to_batch(n).reshape(-1, *(1,) * (x.ndim - 1))
            buffer.scatter_(0, where.expand(x.shape)[None], x[None])
        return (k + 1, n + a.accept, *layout.pack(loop.commit(carry, a)))

    nothing = torch.zeros_like(inputs.steps)
    none = torch.zeros(start[count].shape[1], dtype=torch.int64, device=nothing.device)
    return while_loop(going, body, (nothing, none, *(x.clone() for x in start)))[1:]
