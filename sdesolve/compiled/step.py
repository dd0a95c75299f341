"""One step as a function of tensors alone, for compiled code that differentiates it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sdesolve.compiled.graphs import mark_batch
from sdesolve.compiled.lift import Lifted, lift
from sdesolve.methods.method import Increments, Method, State
from sdesolve.system import System

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class _Step:
    """What shapes the graph. cache : tensors in the method's cache. present : which increments there are."""

    system: System
    method: Method
    cache: int
    present: tuple[bool, ...]


def _step(parts: _Step, tensors: Tensors) -> Tensors:
    """(y, *cache, *increments) -> (y1, *cache1)."""
    y, cache, rest = tensors[0], tensors[1 : 1 + parts.cache], iter(tensors[1 + parts.cache :])
    system = parts.system.resized(y.shape[0]) if parts.system.spec.batched else parts.system
    inc = Increments(*(next(rest) if there else None for there in parts.present))  # type: ignore[arg-type]
    after = parts.method.step(system, State(y, cache), inc).state
    return tuple(x.clone() for x in (after.y, *after.cache))


def _drift(parts: System, tensors: Tensors) -> Tensors:
    """(y, t) -> (f(t, y),)."""
    y, t = tensors
    system = parts.resized(y.shape[0]) if parts.spec.batched else parts
    return (system.drift(t, y).clone(),)


def _init(parts: _Step, tensors: Tensors) -> Tensors:
    """(y, t) -> the method's cache there."""
    y, t = tensors
    system = parts.system.resized(y.shape[0]) if parts.system.spec.batched else parts.system
    return tuple(x.clone() for x in parts.method.init(system, t, y))


def lifted_drift(system: System, t: Tensor, y: Tensor) -> Lifted:
    """The drift as a pure function of (y, t)."""
    tensors = y.detach().clone(), t.detach().clone()
    neutral = system.resized(0)
    return lift(("drift", system.structure, neutral.spec, t.ndim, y.shape), _drift, neutral, tensors)


def lifted_init(system: System, method: Method, t: Tensor, y: Tensor) -> Lifted:
    """The method's cache as a pure function of (y, t)."""
    tensors = y.detach().clone(), t.detach().clone()
    if system.spec.batched:
        mark_batch(x for x in tensors if x.ndim and x.shape[0] == system.spec.batch)
    parts = _Step(system.resized(0), method, 0, ())
    return lift(("init", system.structure, parts.system.spec, method, t.ndim), _init, parts, tensors)


def lifted_step(system: System, method: Method, state: State, inc: Increments) -> Lifted:
    """The step as a pure function of (y, *cache, *those increments that are there), given an example of them."""
    present = tuple(x is not None for x in inc)
    batch = system.spec.batch
    tensors = tuple(x.detach().clone() for x in (state.y, *state.cache, *(x for x in inc if x is not None)))
    if system.spec.batched:
        mark_batch(x for x in tensors if x.ndim and x.shape[0] == batch)
    key = ("step", system.structure, system.resized(0).spec, method, len(state.cache), present, inc.t0.ndim)
    parts = _Step(system.resized(0), method, len(state.cache), present)
    return lift(key, _step, parts, tensors)
