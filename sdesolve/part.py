"""Some of the trajectories of a loop, on clocks of their own, as a loop of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from sdesolve.along import Along
from sdesolve.clock import RealClock
from sdesolve.crossing import Crossings
from sdesolve.lattice_clock import LatticeClock, PathNoise
from sdesolve.loop import Carry, Loop
from sdesolve.step_size import PID


def part_of(loop: Loop, lanes: Tensor, along: Along | None = None) -> Loop:
    """The loop of some of the trajectories. along : what their functions read of tensors that they carry with them."""
    clock, noise, watcher, spec = loop.clock, loop.noise, loop.watcher, loop.system.spec
    assert isinstance(clock, (RealClock, LatticeClock))
    if isinstance(noise, PathNoise):
        noise = replace(noise, window=noise.window.part(lanes))
    system = loop.system.resized(len(lanes), along)
    if isinstance(watcher, Crossings):
        watcher = watcher.resized(system)
    return replace(
        loop,
        system=system,
        clock=clock.part(lanes),
        control=_part_of_tolerances(loop.control, lanes, spec.shape),
        noise=noise,
        watcher=watcher,
    )


def of_carry(carry: Carry, lanes: Tensor) -> Carry:
    """That of some of the trajectories."""
    return _each(lambda dim, x: x.index_select(dim, lanes), carry)


def put_back(carry: Carry, lanes: Tensor, part: Carry) -> Carry:
    """The carry of all, with those of some of the trajectories in place."""
    return _each(lambda dim, x, new: x.index_copy(dim, lanes, new), carry, part)


def _each(do: Callable[..., Tensor], *carries: Carry) -> Carry:
    """A carry of what is done with each tensor, along the dimension of its lanes: the first, or a watcher's last."""

    def done(*x: Any, dim: int = 0) -> Any:
        if x[0] is None:
            return None
        return do(dim, *x) if isinstance(x[0], Tensor) else tuple(done(*y, dim=dim) for y in zip(*x, strict=True))

    made: dict[str, Any] = {name: done(*(getattr(x, name) for x in carries)) for name in Carry._fields[:-1]}
    watch, *others = (x.watch for x in carries)
    made["watch"] = None if watch is None else type(watch)(*done(watch, *others, dim=-1))
    return Carry(**made)


def _part_of_tolerances(control: PID, lanes: Tensor, shape: tuple[int, ...]) -> PID:
    """Those that differ from trajectory to trajectory: tensors whose first dimension meets the batch."""

    def part(x: float | Tensor) -> float | Tensor:
        own = isinstance(x, Tensor) and x.ndim == len(shape) and len(x) > 1
        return x.index_select(0, lanes) if isinstance(x, Tensor) and own else x

    return replace(control, rtol=part(control.rtol), atol=part(control.atol))
