"""The trajectories that are left on the way to a landing point, as a solve of their own.

A compiled step computes all trajectories of the batch: those that have arrived, and wait for the others, cost as much
as these. So when half of a large batch has arrived, the chunk ends, and the others go on as a smaller batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdesolve.brownian.window import Window
from sdesolve.clock import RealClock
from sdesolve.compiled.weight import is_light
from sdesolve.coupling import same
from sdesolve.lattice_clock import LatticeClock, PathNoise
from sdesolve.loop import Carry, Loop
from sdesolve.start import Beginning
from sdesolve.step_size import PID
from sdesolve.system import System

#: smallest batch of which parts go on alone, and the same for an ODE of few operations; what it costs to divide one is
#: worth some ten steps of these
LEAST, LEAST_LIGHT = 1024, 16384


def few(loop: Loop, start: Tensor, y0: Tensor) -> int:
    """From start and y0 on: at how many trajectories the rest of a stretch is theirs alone; 0 : never."""
    spec = loop.system.spec
    if loop.clock.lanes == 1 or spec.batch < LEAST or loop.watcher is not None or loop.at_landing is not None:
        return 0
    t0 = loop.to_state(start.expand(spec.batch))
    if loop.noise is None and spec.batch < LEAST_LIGHT and is_light(loop.system, loop.method, t0, y0):
        return 0
    return spec.batch // 2


def part_of(loop: Loop, lanes: Tensor) -> Loop:
    """The loop of some of the trajectories."""
    clock, noise, spec = loop.clock, loop.noise, loop.system.spec
    assert isinstance(clock, (RealClock, LatticeClock))
    if isinstance(noise, PathNoise):
        assert isinstance(noise.window, Window)
        noise = replace(noise, window=noise.window.part(lanes))
    return replace(
        loop,
        system=loop.system.resized(len(lanes)),
        clock=clock.part(lanes),
        control=_part_of_tolerances(loop.control, lanes, spec.shape),
        noise=noise,
    )


def part_of_start(begin: Beginning, y: Tensor, lanes: Tensor) -> Beginning:
    """The start of some of the trajectories, which nothing reads any more, in tensors of the right shapes."""
    span = begin.span if begin.span.shape[0] == 1 else begin.span[lanes]
    return begin._replace(y0=y, span=span)


def divisible(system: System, t: Tensor, y: Tensor, lanes: Tensor) -> bool:
    """Whether the functions give a part of the batch what they give it within the whole: those that read tensors of one
    batch, or number its trajectories, do not. They are asked at times t, (batch,), and states y."""
    with torch.no_grad():
        whole = _values(system, t, y)
        try:
            alone = _values(system, t[lanes], y[lanes])
        except Exception:
            return False
    return all(same(a.index_select(0, lanes), b) for a, b in zip(whole, alone, strict=True))


def _values(system: System, t: Tensor, y: Tensor) -> list[Tensor]:
    """Drift and diffusion, with the batch in front, at times (n,)."""
    system = system.resized(len(y))
    t = system.spec.expand(t)
    if not system.is_sde:
        return [system.drift(t, y)]
    g = system.diffusion(t, y)
    return [system.drift(t, y), g.expand((*y.shape, g.shape[-1]) if system.noise == "general" else y.shape)]


def of_carry(carry: Carry, lanes: Tensor) -> Carry:
    """That of some of the trajectories."""
    return _each(lambda x: x.index_select(0, lanes), carry)


def put_back(carry: Carry, lanes: Tensor, part: Carry) -> Carry:
    """The carry of all, with those of some of the trajectories in place."""
    return _each(lambda x, new: x.index_copy(0, lanes, new), carry, part)


def _each(do: Callable[..., Tensor], *carries: Carry) -> Carry:
    """A carry of what is done with each tensor."""
    parts = zip(*carries, strict=True)
    made: Any = (tuple(map(do, *x)) if isinstance(x[0], tuple) else x[0] if x[0] is None else do(*x) for x in parts)
    return Carry(*made)


def _part_of_tolerances(control: PID, lanes: Tensor, shape: tuple[int, ...]) -> PID:
    """Those that differ from trajectory to trajectory: tensors whose first dimension meets the batch."""

    def part(x: float | Tensor) -> float | Tensor:
        own = isinstance(x, Tensor) and x.ndim == len(shape) and len(x) > 1
        return x.index_select(0, lanes) if isinstance(x, Tensor) and own else x

    return replace(control, rtol=part(control.rtol), atol=part(control.atol))
