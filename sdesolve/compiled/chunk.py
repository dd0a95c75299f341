"""What the graph of a chunk of adaptive steps is traced from: a start, and steps on the way to a landing point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.brownian.levy import Increment, Normals
from sdesolve.brownian.window import Window
from sdesolve.clock import Proposal, RealClock
from sdesolve.compiled.layout import Layout
from sdesolve.lattice_clock import LatticeClock
from sdesolve.lookout import Lookout
from sdesolve.loop import Carry, Loop, NoiseSource, Watcher, stopped
from sdesolve.methods.method import Method
from sdesolve.start import first_carry, first_values
from sdesolve.step_size import PID
from sdesolve.system import System
from sdesolve.table_clock import TableClock, TableLoop

#: steps that a chunk takes before it looks how many trajectories are left
PATIENCE = 4


class Lattice(NamedTuple):
    """Tensors of a clock of integers: ticks of the stretch's ends, length of a tick, most ticks of a step."""

    behind: Tensor
    ahead: Tensor
    tick: Tensor
    longest: Tensor


class Path(NamedTuple):
    """Tensors of a window of a Brownian path, see `Window`."""

    key: tuple[Tensor, Tensor]
    paths: Tensor
    names: tuple[Tensor, Tensor]  # (batch * channels,) each
    tick: Tensor
    level: Tensor
    factor: Tensor | None
    first: Tensor | None
    table: tuple[Tensor, ...] | None  # (count, batch * channels)


class StartInputs(NamedTuple):
    """Tensors of the start of a solve, see `first_carry`. fresh : whether this chunk starts it."""

    fresh: Tensor
    y0: Tensor
    span: Tensor
    first: Tensor | None


class Inputs(NamedTuple):
    """What a chunk reads, all tensors: see `RealClock` for the first four. steps : of the chunk, at most. few : it ends
    when no more trajectories than this are on the way, and PATIENCE steps are taken. table : lengths and counts of
    fixed steps, see `TableClock`."""

    starts: Tensor
    ends: Tensor
    gaps: Tensor
    last: Tensor
    until: Tensor
    steps: Tensor
    max_steps: Tensor
    few: Tensor
    lattice: Lattice | None
    path: Path | None
    begin: StartInputs | None = None
    records: tuple[Tensor, ...] = ()
    table: tuple[Tensor, Tensor] | None = None


@dataclass
class Parts:
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
    watcher: Watcher | None = None

    def loop(self, inputs: Inputs, batch: int) -> Loop:
        """The loop over the stretch, for tensors of this batch."""
        # inside a chunk no one asks where the clocks stand exactly
        tables = (
            inputs.starts,
            inputs.ends,
            inputs.gaps,
            self.lanes or batch,
            inputs.last,
            self.direction,
            inputs.starts,
        )
        real = RealClock(*tables) if inputs.table is None else TableClock(*tables, *inputs.table)
        clock = real if inputs.lattice is None else LatticeClock(real, *inputs.lattice)
        system, watcher = self.system.resized(batch), self.watcher
        if isinstance(watcher, Lookout):
            watcher = watcher.resized(system)
        return (Loop if inputs.table is None else TableLoop)(
            system,
            self.method,
            clock,
            self.control,
            noise=None if inputs.path is None else self._noise(inputs.path),
            norm=self.norm,
            watcher=watcher,
            max_steps=inputs.max_steps,
            dense=isinstance(watcher, Lookout),
        )

    def _noise(self, path: Path) -> NoiseSource:
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


def run_chunk(parts: Parts, inputs: Inputs, packed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Steps on the way to a landing point, behind a start if this is one. Returns flags (how many are on the way,
    whether anyone runs, whether anyone has stopped, whether anyone waits); with records, the number of rows of each
    lane and the packed state before them; and the carry."""
    layout = parts.layout
    loop = parts.loop(inputs, packed[-1].shape[1])
    start = tuple(x.clone() for x in packed) if inputs.begin is None else _begin(parts, loop, inputs.begin, packed)
    if parts.recorded:
        before, after = _recorded(parts, loop, inputs, start)
    else:
        before, after = (), _steps(parts, loop, inputs, start)
    carry = layout.unpack(after)
    moving = loop.moving(carry, inputs.until)
    waiting = (moving & ~_acting(carry, moving)).any()
    flags = [moving.sum(), loop.running(carry), stopped(carry.status).any(), waiting]
    return torch.stack([x.to(torch.int64) for x in flags]), *before, *after


def _acting(carry: Carry, moving: Tensor) -> Tensor:
    """Who of them does not wait for the host, (batch,)."""
    return moving if carry.watch is None else moving & ~carry.watch.waits


def _begin(parts: Parts, loop: Loop, begin: StartInputs, packed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The packed carry of a solve that starts here, or the given one."""

    def start(fresh: Tensor, *packed: Tensor) -> tuple[Tensor, ...]:
        carry = first_carry(loop, begin.y0, first_values(loop, begin.y0), begin.span, begin.first)
        return (torch.zeros_like(fresh), *(x.clone() for x in parts.layout.pack(carry)))

    # a loop of one round or none: behind a torch.cond the batch is a symbol of its own (torch 2.13)
    return while_loop(lambda fresh, *packed: fresh > 0, start, (begin.fresh.clone(), *(x.clone() for x in packed)))[1:]


def _steps(parts: Parts, loop: Loop, inputs: Inputs, start: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    layout = parts.layout

    def going(k: Tensor, *packed: Tensor) -> Tensor:
        carry = layout.unpack(packed)
        left = _acting(carry, loop.moving(carry, inputs.until)).sum()
        return (k < inputs.steps) & (left > torch.where(k < PATIENCE, 0, inputs.few))

    def body(k: Tensor, *packed: Tensor) -> tuple[Tensor, ...]:
        carry = layout.unpack(packed)
        return (k + 1, *layout.pack(loop.commit(carry, loop.attempt(carry, until=inputs.until))))

    return while_loop(going, body, (torch.zeros_like(inputs.steps), *start))[1:]


def _recorded(
    parts: Parts, loop: Loop, inputs: Inputs, start: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The same, in which each lane writes its accepted steps into rows of its own; ends when a lane's rows are full."""
    layout, records = parts.layout, inputs.records
    count = 1 if layout.shape is not None else 1 + layout.cache
    rows = inputs.records[0].shape[0]

    def going(k: Tensor, n: Tensor, *packed: Tensor) -> Tensor:
        moving = loop.moving(layout.unpack(packed), inputs.until).any()
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
