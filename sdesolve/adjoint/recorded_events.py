"""Events beside ways of gradients that know nothing of them: they are written down, and have no gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sdesolve.adjoint.way import Adjoint
from sdesolve.capture import captured
from sdesolve.errors import message
from sdesolve.event import Event
from sdesolve.plan import Report, Result


class RecordedEvents:
    """A solve of which events are written down. Gradients of their times and states, which ``"direct"`` has, are not
    missing silently: asking for them raises. name : of the way."""

    def __init__(self, inner: Adjoint, events: tuple[Event, ...], name: str) -> None:
        self.inner, self.events, self.name = inner, events, name

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run, and mark what was written down."""
        result = self.inner.run(y0, report)
        read = [x for event in self.events for x in captured(event.condition).differentiable()]
        wanted = [x for x in (result.ys, *read) if x.requires_grad]
        if not torch.is_grad_enabled() or not wanted:
            return result
        marked = lambda x: _Refused.apply(self.name, x, *wanted)
        return replace(result, happened=[x._replace(time=marked(x.time), y=marked(x.y)) for x in result.happened])


class _Refused(torch.autograd.Function):
    """x, which depends on other tensors in a way that nobody has written down."""

    @staticmethod
    def forward(ctx: Any, name: str, x: Tensor, *others: Tensor) -> Tensor:
        ctx.name, ctx.count = name, len(others)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            message("adjoint", f"{ctx.name!r} where gradients of times or states of events are wanted", "'direct'")
        )
