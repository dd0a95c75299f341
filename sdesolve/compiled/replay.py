"""Recorded steps taken again, backwards: the vector-Jacobian product of each, in a compiled loop.

For the steps y_{k+1} = S_k(y_k; p) and a_k = dL/dy_k:   a_k = a_{k+1} dS_k/dy,   dL/dp = sum_k a_{k+1} dS_k/dp.

What a method carries from step to step beside y (a first stage) is a part of the state here. Noise that was drawn by
the steps is drawn again, that of adaptive steps was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.brownian.levy import LEVY, Increment
from sdesolve.compiled import adaptive, fixed
from sdesolve.compiled.graphs import graph, mark_batch
from sdesolve.compiled.layout import unpack_states
from sdesolve.compiled.lift import Lifted, Pure
from sdesolve.compiled.step import lifted_step
from sdesolve.methods.method import Increments, Method, State
from sdesolve.state import StateSpec
from sdesolve.system import System

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Pull:
    """A step that is differentiated. cache : tensors in the method's cache. wanted : for each tensor that the step
    reads beside its arguments, whether its gradient is wanted."""

    pure: Pure
    cache: int
    wanted: tuple[bool, ...]

    def __call__(self, state: State, inc: Increments, cotangents: Tensors, lifted: Tensors) -> tuple[Tensors, Tensors]:
        """Cotangents of (y, *cache) before the step, and gradients of what is wanted."""
        given = tuple(x for x in inc if x is not None)
        return self.pure.vjp((state.y, *state.cache), given, lifted, self.wanted)[1](cotangents)


class Cotangents(NamedTuple):
    """Gradients of a loss by the state and its cache at a step, and so far by the wanted tensors."""

    states: Tensors
    parameters: Tensors


def pull_of(lifted: Lifted, wanted: tuple[bool, ...], after: Cotangents) -> Pull:
    """How a step is differentiated."""
    return Pull(lifted.pure, len(after.states) - 1, wanted)


def marked(after: Cotangents, batched: bool) -> Tensors:
    """The same as a tuple, with the batch as a symbol."""
    if batched:
        mark_batch(after.states)
    return (*after.states, *after.parameters)


def cotangents_of(out: Tensors, states: int) -> Cotangents:
    """The reverse, given the number of states."""
    return Cotangents(out[:states], out[states:])


def added(pulled: tuple[Tensors, Tensors], before: Tensors) -> Tensors:
    """New carried tensors: cotangents as they are, gradients added up."""
    states, gradients = pulled
    sums = (a + b for a, b in zip(before[len(states) :], gradients, strict=True))
    return (*(x.clone() for x in states), *sums)


# ---- adaptive steps


@dataclass
class _Adaptive:
    spec: StateSpec
    shape: tuple[int, ...] | None
    own: bool
    pull: Pull


class _AdaptiveInputs(NamedTuple):
    states: Tensors
    times: Tensor
    noise: tuple[Tensor | None, ...]
    counts: Tensor
    most: Tensor
    lifted: Tensors


def replay_adaptive(
    spec: StateSpec, lifted: Lifted, wanted: tuple[bool, ...], entry: adaptive.Entry, after: Cotangents
) -> Cotangents:
    """From the end of a chunk of adaptive steps to its start."""
    parts = _Adaptive(spec.resized(0), entry.shape, entry.times.shape[2] != 1, pull_of(lifted, wanted, after))
    states, times, noise = settled(entry)
    dim = 1 if entry.shape is None else 2
    mark_batch([*states, times, *noise])
    if spec.batched:
        mark_batch(states, dim)
        mark_batch(noise, 1)
    if parts.own:
        mark_batch([times], 2)
        mark_batch([entry.counts])
    key = ("replay", lifted.pure, wanted, parts.spec, parts.shape, parts.own)
    plain = tuple(x.detach() for x in lifted.tensors)
    inputs = _AdaptiveInputs(states, times, noise, entry.counts, entry.counts.max(), plain)
    out = tuple(graph(key, _adaptive, spec.device)(parts, inputs, marked(after, spec.batched)))
    return cotangents_of(out, len(after.states))


def settled(entry: adaptive.Entry) -> tuple[Tensors, Tensor, tuple[Tensor | None, ...]]:
    """The records with harmless steps of length 0 in the rows that a lane has not filled."""
    rows = torch.arange(len(entry.times), device=entry.times.device)
    idle = rows[:, None] >= entry.counts  # (rows, lanes)
    last = entry.shape is not None

    def where(x: Tensor, safe: Tensor | float, lane_is_last: bool) -> Tensor:
        mask = idle[:, None] if lane_is_last else idle.reshape(*idle.shape, *(1,) * (x.ndim - 2))
        mask = mask[:, 0] if x.ndim == 1 else mask
        return torch.where(mask, safe, x)

    states = tuple(where(x, start[None], last) for x, start in zip(entry.states, entry.start, strict=True))
    begin = torch.cat([entry.times[:1, :1], entry.times[:1, :1], torch.zeros_like(entry.times[:1, :1])], 1)
    noise = tuple(None if x is None else where(x, 0.0, False) for x in entry.noise)
    return states, where(entry.times, begin, True), noise


def _adaptive(parts: _Adaptive, inputs: _AdaptiveInputs, start: Tensors) -> Tensors:
    pull = parts.pull
    batch = start[0].shape[0] if parts.spec.batched else 1
    spec = parts.spec.resized(batch)

    def body(left: Tensor, *carried: Tensor) -> Tensors:
        k = left - 1
        y, *cache = unpack_states(tuple(fixed.row(x, k) for x in inputs.states), parts.shape)
        lanes = fixed.row(inputs.times, k).unbind(0)
        t0, t1, h = ((spec.expand(x) if parts.own else x.reshape(())) for x in lanes)
        noise = (None if x is None else fixed.row(x, k) for x in inputs.noise)
        active = (k < inputs.counts).expand(batch)
        mask = lambda x: active.reshape(-1, *(1,) * (x.ndim - 1)) if spec.batched else active[0]
        states = carried[: 1 + pull.cache]
        asked = tuple(torch.where(mask(x), x, 0.0) for x in states)
        inc = Increments(t0, t1, h, *noise)
        before, gradients = pull(State(y, tuple(cache)), inc, asked, inputs.lifted)
        kept = tuple(torch.where(mask(new), new, old) for new, old in zip(before, states, strict=True))
        return (k, *added((kept, gradients), carried))

    return while_loop(lambda left, *_: left > 0, body, (inputs.most.clone(), *(x.clone() for x in start)))[1:]


# ---- what the steps read


def lifted_of(system: System, method: Method, entry: fixed.Entry | adaptive.Entry) -> Lifted:
    """The step as a pure function, and the tensors it reads, from one that was recorded."""
    spec = system.spec
    if isinstance(entry, adaptive.Entry):
        packed, lanes = tuple(x[0] for x in entry.states), entry.times[0].unbind(0)
        y, *cache = unpack_states(packed, entry.shape)
        t0, t1, h = (spec.expand(x) if len(x) > 1 else x.reshape(()) for x in lanes)
        noise = Increment(*(None if x is None else x[0] for x in entry.noise))
        inc = Increments(t0, t1, h, *noise)
    else:
        y, *cache = unpack_states(tuple(x[0] for x in entry.inputs.records), entry.parts.shape)
        inc = example_of(entry, spec)
    return lifted_step(system, method, State(y, tuple(cache)), inc)


def example_of(entry: fixed.Entry, spec: StateSpec) -> Increments:
    """Increments of the right shapes, of a step."""
    inputs, first = entry.inputs, int(entry.inputs.first)
    noise = Increment(*(None if x is None else x[first] for x in inputs.drawn)) if inputs.drawn else Increment()
    if inputs.cells is not None:
        noise = _example(entry.parts, spec)
    return Increments(inputs.times[first], inputs.times[first + 1], inputs.steps[first], *noise)


def _example(parts: fixed.Parts, spec: StateSpec) -> Increment:
    """Increments of the right shapes."""
    names, w = LEVY[parts.levy], torch.zeros((spec.batch, *parts.channels), dtype=spec.dtype, device=spec.device)
    m = w[0].numel()
    area = w.new_zeros((spec.batch, m, m)) if "area" in names else None
    return Increment(w, w if "H" in names else None, w if "K" in names else None, area)
