"""One step as a function of tensors alone, for compiled code that differentiates it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sdesolve.compiled.graphs import mark_batch
from sdesolve.compiled.lift import Lifted, lift
from sdesolve.methods.method import Increments, Method, State
from sdesolve.methods.reversible import ReversibleMethod, change_by, fields_at
from sdesolve.system import System

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class _Step:
    """What shapes the graph. cache : tensors in the method's cache. present : which increments there are."""

    system: System
    method: Method
    cache: int
    present: tuple[bool, ...]

    def read(self, tensors: Tensors) -> tuple[System, State, Increments]:
        """The tensors, by their meaning."""
        y, cache, rest = tensors[0], tensors[1 : 1 + self.cache], iter(tensors[1 + self.cache :])
        system = self.system.resized(y.shape[0]) if self.system.spec.batched else self.system
        inc = Increments(*(next(rest) if there else None for there in self.present))  # type: ignore[arg-type]
        return system, State(y, cache), inc


def _step(parts: _Step, tensors: Tensors) -> Tensors:
    """(y, *cache, *increments) -> (y1, *cache1)."""
    system, state, inc = parts.read(tensors)
    after = parts.method.step(system, state, inc).state
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


def _before(parts: _Step, tensors: Tensors) -> Tensors:
    """(y1, *cache1, *increments) -> (y, *cache)."""
    system, state, inc = parts.read(tensors)
    assert isinstance(parts.method, ReversibleMethod)
    before = parts.method.before(system, state, inc)
    return tuple(x.clone() for x in (before.y, *before.cache))


def _change(parts: _Step, tensors: Tensors) -> Tensors:
    """(y, *increments) -> (f h + g dW,) at their t0."""
    system, state, inc = parts.read(tensors)
    return (change_by(system, inc, fields_at(system, inc.t0, state.y)).clone(),)


def _fields(parts: System, tensors: Tensors) -> Tensors:
    """(y, t) -> f and, of an SDE, g."""
    y, t = tensors
    system = parts.resized(y.shape[0]) if parts.spec.batched else parts
    return tuple(x.clone() for x in fields_at(system, t, y))


def lifted_fields(system: System, t: Tensor, y: Tensor) -> Lifted:
    """Drift and diffusion as a pure function of (y, t)."""
    tensors = y.detach().clone(), t.detach().clone()
    if system.spec.batched:
        mark_batch(tensors[:1])
    neutral = system.resized(0)
    return lift(("fields", system.structure, neutral.spec, t.ndim), _fields, neutral, tensors)


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
    return _lifted("step", _step, system, method, state, inc)


def lifted_before(system: System, method: Method, state: State, inc: Increments) -> Lifted:
    """The same, of the state behind a step to that before it."""
    return _lifted("before", _before, system, method, state, inc)


def lifted_change(system: System, method: Method, y: Tensor, inc: Increments) -> Lifted:
    """f h + g dW at (t0, y), as a pure function of y and those increments that are there."""
    return _lifted("change", _change, system, method, State(y), inc)


def _lifted(
    name: str,
    function: Callable[[_Step, Tensors], Tensors],
    system: System,
    method: Method,
    state: State,
    inc: Increments,
) -> Lifted:
    present = tuple(x is not None for x in inc)
    batch = system.spec.batch
    tensors = tuple(x.detach().clone() for x in (state.y, *state.cache, *(x for x in inc if x is not None)))
    if system.spec.batched:
        mark_batch(x for x in tensors if x.ndim and x.shape[0] == batch)
    key = (name, system.structure, system.resized(0).spec, method, len(state.cache), present, inc.t0.ndim)
    parts = _Step(system.resized(0), method, len(state.cache), present)
    return lift(key, function, parts, tensors)
