"""Gradients from the steps of a solve gone through again: run without a graph, remembering what the way back needs.

The ways back that are made so differ in what they keep of the states, and in how they go through the steps; what all of
them share is here: one autograd.Function of y0 and of every tensor with a gradient that the functions read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.adjoint.parameters import casts, ends_without_gradient, parameters_of, refuse_second
from sdesolve.adjoint.trail import AdaptiveTrail, FixedTrail, Trail
from sdesolve.brownian.steps import Remembered
from sdesolve.capture import Captured
from sdesolve.fixed_plan import FixedPlan
from sdesolve.loop import Loop
from sdesolve.methods.method import State
from sdesolve.outputs import Round
from sdesolve.plan import Report, Result, first_time
from sdesolve.solution import Status

Found = tuple[Tensor | None, ...]


class Tape:
    """What a solve tells of its steps while it runs; subclasses keep states too."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self.loop: Loop | None = None
        self.last: State | None = None

    def begin(self, loop: Any, state: State) -> None:
        """The state before the first step."""
        self.loop = loop
        self.keep(state)

    def add(self, state: State, round: Round | None = None) -> None:
        """The state after a step."""
        if round is not None:
            self.rounds.append(round)
        self.keep(state)

    def keep(self, state: State) -> None:
        """Keep what is needed of it: here the last one."""
        self.last = State(state.y.detach(), tuple(x.detach() for x in state.cache))


class WayBack(Protocol):
    """How gradients are found from the steps. doubles : whether they may be asked for with a graph of their own."""

    name: str
    doubles: bool

    def tape(self) -> Tape:
        """A fresh one."""
        ...

    def back(self, trail: Trail, tape: Any, y0: Tensor, ys: Tensor, grad: Tensor, parameters: list[Tensor]) -> Found:
        """Gradients by y0 and the parameters from those of the outputs, (T, ...); y0 is free of what it was made of."""
        ...


class Retraced:
    """A plan that is run so."""

    def __init__(self, plan: FixedPlan | AdaptivePlan, captured: Captured, way: WayBack) -> None:
        if isinstance(plan, FixedPlan):
            plan = replace(plan, isolate=False, noise=None if plan.noise is None else Remembered(plan.noise))
        self.plan = plan
        self.captured, self.way = captured, way

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run as one autograd.Function of y0 and of every tensor with a gradient that the functions read."""
        if not torch.is_grad_enabled():
            return self.plan.run(y0, report)
        parameters = parameters_of(self.plan.system, self.captured, first_time(self.plan), y0)
        if isinstance(self.plan, FixedPlan) and self.plan.moves is not None:
            parameters.append(self.plan.moves)
        if not (y0.requires_grad or any(x.requires_grad for x in parameters)):
            return ends_without_gradient(self.plan, y0, report)
        found: list[Result] = []
        ys = _Retrace.apply(self.plan, self.way, report, found.append, y0, *parameters)
        return replace(found[0], ys=ys)


class _Retrace(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: FixedPlan | AdaptivePlan,
        way: WayBack,
        report: Report | None,
        tell: Callable[[Result], None],
        y0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        tape = way.tape()
        with torch.no_grad():
            result = replace(plan, recorder=tape).run(y0.detach(), report)
        tell(result)
        ctx.plan, ctx.way, ctx.tape, ctx.status, ctx.casts = plan, way, tape, result.status, casts(y0.device)
        # autograd notices those that are changed in place before the gradients are asked for
        ctx.save_for_backward(result.ys, y0, *parameters)
        return result.ys

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled() and not ctx.way.doubles:
            refuse_second(ctx.way.name)
        with ctx.casts():
            return None, None, None, None, *_backward(ctx, grad)


def _backward(ctx: Any, grad: Tensor) -> Found:
    ys, y0, *parameters = ctx.saved_tensors
    wrong = ctx.status != Status.SUCCESS
    if bool(wrong.all()):
        return torch.zeros_like(y0), *map(torch.zeros_like, parameters)
    spec, failures = ctx.plan.system.spec, bool(wrong.any())
    if failures:
        grad = torch.where(spec.expand(wrong), 0.0, grad)
    # not y0 itself: what it was made of, and other uses of it, have their own place outside
    start = y0.view_as(y0) if torch.is_grad_enabled() else y0.detach()
    trail: Trail
    if isinstance(ctx.plan, FixedPlan):
        trail = FixedTrail(ctx.plan, start, wrong if failures else None)
    else:
        trail = AdaptiveTrail(ctx.tape.loop, ctx.tape.rounds, len(ys), wrong if failures else None)
    found: Found = ctx.way.back(trail, ctx.tape, start, ys.detach(), grad, parameters)
    return found
