"""Chunks of adaptive steps as compiled loops: from landing point to landing point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.brownian.levy import LEVY, Increment, Normals
from sdesolve.brownian.window import Window, Windows
from sdesolve.clock import Clock, Proposal, RealClock, row
from sdesolve.compiled.graphs import fact, graph, mark_batch
from sdesolve.compiled.layout import Layout
from sdesolve.driver import Standing
from sdesolve.errors import CompileError, message
from sdesolve.lattice_clock import LatticeClock, PathNoise
from sdesolve.loop import Carry, Loop, NoiseSource, Watcher, failed
from sdesolve.methods.method import Method
from sdesolve.start import Beginning, evaluations, first_carry, first_values
from sdesolve.step_size import PID
from sdesolve.system import System

#: steps of a chunk: the host looks at the result this seldom, and Ctrl-C waits this long
CHUNK_STEPS = 500
#: rows of a table of a window's cells
_ROWS = 4
#: recorded steps of the first chunk (compiled code copies the room for them once), and of any; numbers in the records
#: of their states, at most
_FIRST_ROWS, _MOST_ROWS, _RECORDED = 16, 256, 2**24


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


class _Beginning(NamedTuple):
    """Tensors of the start of a solve, see `first_carry`. fresh : whether this chunk starts it."""

    fresh: Tensor
    y0: Tensor
    span: Tensor
    first: Tensor | None


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
    begin: _Beginning | None = None
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
        clock: Clock = RealClock(
            inputs.starts, inputs.ends, inputs.gaps, self.lanes or batch, inputs.last, self.direction
        )
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


def compile_adaptive(loop: Loop, begin: Beginning | None = None, tape: list[Entry] | None = None) -> Chunks:
    """Chunks for :func:`sdesolve.driver.drive`, up to CHUNK_STEPS steps of all lanes each, of which the first starts
    the solve if it is told how to begin. Accepted steps are recorded on the tape."""
    if loop.dense:
        raise CompileError(message("compile", "True with dense=True", "one of the two"))
    if isinstance(loop.noise, PathNoise) and isinstance(loop.noise.window, Windows):
        raise CompileError(message("compile", "True with (batch, T) times of an SDE", "True with (T,) output times"))
    clock = loop.clock
    real = clock.real if isinstance(clock, LatticeClock) else clock
    if not isinstance(real, RealClock) or not (loop.noise is None or isinstance(loop.noise, PathNoise)):
        if tape is not None:
            raise CompileError(message("compile", "gradients of steps on a clock of another kind", "compile=False"))
        return _as_it_is(loop)
    return _Chunks(loop, real, begin, tape)


class Chunks(Protocol):
    """``chunk(carry, point)`` takes up to CHUNK_STEPS steps on the way to a landing point, from no carry at the start
    of a solve; returns the new carry and how things stand. evaluations : of drift and diffusion, spent on the start."""

    evaluations: tuple[int, int]

    def __call__(self, carry: Carry | None, point: int) -> tuple[Carry, Standing]: ...


class _Chunks:
    def __init__(self, loop: Loop, real: RealClock, begin: Beginning | None, tape: list[Entry] | None) -> None:
        self.loop, self.real, self.begin, self.tape = loop, real, begin, tape
        spec, clock = loop.system.spec, loop.clock
        control = _as_tensors(loop.control, spec.time_dtype, spec.device)
        mark_batch(x for x in (control.rtol, control.atol) if isinstance(x, Tensor) and x.shape[:1] == (spec.batch,))
        self.path, window = None, None
        if isinstance(loop.noise, PathNoise):
            assert isinstance(loop.noise.window, Window)
            window = loop.noise.window
            self.path = window.shape, window.dtype, window.depth, window.levy
        self.parts = _Parts(
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
        self.fixed = _Inputs(
            real.starts,
            real.ends,
            real.gaps,
            self._whole(int(real.last)),
            self._whole(0),
            self._whole(CHUNK_STEPS),
            self._whole(int(loop.max_steps)),
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

    def _key(self) -> tuple[Any, ...]:
        """What tells the graphs of this loop from others."""
        parts = self.parts
        return self.loop.system.structure, parts.system.spec, self.loop.method, parts.lanes, self.path

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

    def _inputs(self, point: int, begins: bool) -> _Inputs:
        """For the stretch that ends on this landing point."""
        clock = self.loop.clock
        starts, ends, gaps = self.real.stretch(point)
        lattice, begin = None, None
        if isinstance(clock, LatticeClock):
            rows = row(clock.behind, point - 1), row(clock.ahead, point)
            lattice = _Lattice(*rows, clock.tick, clock.longest)
            mark_batch([*lattice[:2]], 1)
            mark_batch([clock.tick, clock.longest])
        mark_batch([starts, ends, gaps], 1)
        if self.begin is not None:
            fresh = self._whole(int(begins))
            begin = _Beginning(fresh, self.begin.y0, self.begin.span, self.begin.first)
        until = self._whole(point)
        return self.fixed._replace(starts=starts, ends=ends, gaps=gaps, until=until, lattice=lattice, begin=begin)

    def __call__(self, carry: Carry | None, point: int) -> tuple[Carry, Standing]:
        loop, parts, spec, tape = self.loop, self.parts, self.loop.system.spec, self.tape
        if carry is None:
            packed = parts.layout.room(spec, loop.clock.lanes, self.caches)
        else:
            parts.layout = Layout.of(carry, spec)
            packed = parts.layout.pack(carry)
        run = graph(("adaptive", *self._key(), parts.layout, tape is not None), _chunk, spec.device)
        split = 1 if parts.layout.shape is not None else 1 + parts.layout.cache
        if spec.batched:
            mark_batch(packed[:split], 0 if parts.layout.shape is None else 1)
            mark_batch(packed[-1:])
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
        standing = Standing(*flags.tolist())
        return self._over_jump(parts.layout.unpack(tuple(after)), point, standing.going), standing

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
        y, cache = loop.crossed(carry.y, point, loop.to_state(here))
        return carry._replace(y=y, cache=cache)


def _as_it_is(loop: Loop) -> Chunks:
    """Chunks of loops with clocks and sources of noise of another kind, whose batch is a constant of the graph."""
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

    def chunk(carry: Carry | None, point: int) -> tuple[Carry, Standing]:
        assert carry is not None
        parts.layout = Layout.of(carry, spec)
        numbers = whole(int(loop.clock.last)), whole(point), whole(CHUNK_STEPS), whole(int(loop.max_steps))
        inputs = _Inputs(nothing, nothing, nothing, *numbers, None, None)
        run = graph(("other", loop.system.structure, spec, loop.method, type(loop.clock)), _chunk, spec.device)
        flags, *after = run(parts, inputs, parts.layout.pack(carry))
        return parts.layout.unpack(tuple(after)), Standing(*flags.tolist())

    chunk.evaluations = 0, 0  # type: ignore[attr-defined]
    return chunk  # type: ignore[return-value]


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


def _chunk(parts: _Parts, inputs: _Inputs, packed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Steps on the way to a landing point, behind a start if this is one. Returns flags (whether the stretch goes on,
    whether anyone runs, whether anyone has failed); with records, the number of
    rows of each lane and the packed state before them; and the carry."""
    layout = parts.layout
    loop = parts.loop(inputs, packed[-1].shape[0])
    start = tuple(x.clone() for x in packed) if inputs.begin is None else _begin(parts, loop, inputs.begin, packed)
    if parts.recorded:
        before, after = _recorded(parts, loop, inputs, start)
    else:
        before, after = (), _steps(parts, loop, inputs, start)
    carry = layout.unpack(after)
    flags = [loop.moving(carry, inputs.until), loop.running(carry), failed(carry.status).any()]
    return torch.stack(flags), *before, *after


def _begin(parts: _Parts, loop: Loop, begin: _Beginning, packed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The packed carry of a solve that starts here, or the given one."""

    def start(fresh: Tensor, *packed: Tensor) -> tuple[Tensor, ...]:
        carry = first_carry(loop, begin.y0, first_values(loop, begin.y0), begin.span, begin.first)
        return (torch.zeros_like(fresh), *(x.clone() for x in parts.layout.pack(carry)))

    # a loop of one round or none: behind a torch.cond the batch is a symbol of its own (torch 2.13)
    return while_loop(lambda fresh, *packed: fresh > 0, start, (begin.fresh.clone(), *(x.clone() for x in packed)))[1:]


def _steps(parts: _Parts, loop: Loop, inputs: _Inputs, start: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    layout = parts.layout

    def going(k: Tensor, *packed: Tensor) -> Tensor:
        return (k < inputs.steps) & loop.moving(layout.unpack(packed), inputs.until)

    def body(k: Tensor, *packed: Tensor) -> tuple[Tensor, ...]:
        carry = layout.unpack(packed)
        return (k + 1, *layout.pack(loop.commit(carry, loop.attempt(carry, until=inputs.until))))

    return while_loop(going, body, (torch.zeros_like(inputs.steps), *start))[1:]


def _recorded(
    parts: _Parts, loop: Loop, inputs: _Inputs, start: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The same, in which each lane writes its accepted steps into rows of its own; ends when a lane's rows are full."""
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
            where = n.reshape(()) if x.ndim == 0 else n
            if x.ndim and not lane_is_last:
                where = loop.to_batch(n).reshape(-1, *(1,) * (x.ndim - 1))
            buffer.scatter_(0, where.expand(x.shape)[None], x[None])
        return (k + 1, n + a.accept, *layout.pack(loop.commit(carry, a)))

    nothing = torch.zeros_like(inputs.steps)
    none = torch.zeros(start[count].shape[1], dtype=torch.int64, device=nothing.device)
    _, counts, *after = while_loop(going, body, (nothing, none, *start))
    return (counts, *(x.clone() for x in start[:count])), tuple(after)
