"""How a solve of adaptive steps starts: first stage, first step size, and who fails before the first step.

Pure functions of tensors, like the steps themselves, so that a compiled solve starts inside its graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.clock import STRETCH
from sdesolve.loop import RUNNING, Carry, Loop
from sdesolve.solution import Status
from sdesolve.state import finite
from sdesolve.step_size import first_step, first_stochastic_step


class Start(NamedTuple):
    """What is known at the start: time, state, the method's cache, drift and diffusion (None for ODEs), and which
    trajectories, (batch,), fail there."""

    t0: Tensor
    y: Tensor
    cache: tuple[Tensor, ...]
    f0: Tensor
    g0: Tensor | None
    bad: Tensor


class Beginning(NamedTuple):
    """What a compiled solve starts with, see `first_carry`. check : raises where an eager start shows trajectories that
    read each other."""

    y0: Tensor
    span: Tensor
    first: Tensor | None
    check: Callable[[Start], None]


def first_values(loop: Loop, y0: Tensor) -> Start:
    """The functions at the start."""
    spec, system, method = loop.system.spec, loop.system, loop.method
    t0 = loop.first_time()
    cache = method.init(system, t0, y0)
    f0 = method.first_stage(cache)
    y = y0.detach()
    with torch.no_grad():
        f0 = system.drift(t0, y) if f0 is None else f0.detach()
        g0 = system.diffusion(t0, y) if system.is_sde else None
    whole = (lambda x: x) if spec.batched else (lambda x: x[None])
    bad = ~(finite(whole(f0), 1) & finite(whole(y), 1))
    if g0 is not None:
        bad = bad | ~finite(whole(system.noise_size(g0)), 1)
    return Start(t0, y, cache, f0, g0, bad)


def first_carry(loop: Loop, y0: Tensor, start: Start, span: Tensor, first: Tensor | None = None) -> Carry:
    """The carry before the first step, of length ``first``, (1,), or chosen, at the state y0. span : how far it is to
    the end, (1,) or (batch,)."""
    h = first_lengths(loop, start, span, first)
    status = torch.where(start.bad, int(Status.NONFINITE), RUNNING)
    return loop.start(y0, start.cache, h, status)


def first_lengths(loop: Loop, start: Start, span: Tensor, first: Tensor | None = None) -> Tensor:
    """The step size of each lane to begin with."""
    spec, order, control = loop.system.spec, loop.method.error_order or 1, loop.control
    t0, y, _, f0, g0, bad = start
    wide = span.expand(spec.batch)
    with torch.no_grad():
        if first is not None:
            h = first.expand(spec.batch).minimum(span)
        elif g0 is not None:
            h = first_stochastic_step(loop.system, y, f0, g0, wide, control, order)
        else:
            h = first_step(loop.system, t0, y, f0, wide, loop.clock.direction, control, order)
    if control.dt_max is not None:
        h = h.clamp(max=control.dt_max * (1 - STRETCH))
    if loop.clock.lanes == 1:
        h = torch.where(bad, torch.inf, h).min().minimum(span.max()).reshape(1)
    return torch.where(torch.isfinite(h), h, span.expand_as(h))


def evaluations(loop: Loop, start: Start, first: Tensor | None) -> tuple[int, int]:
    """Of drift and diffusion, that a start costs."""
    drifts = loop.method.first_evaluations + (loop.method.first_stage(start.cache) is None)
    estimated = first is None and start.g0 is None
    return drifts + estimated, int(start.g0 is not None)
