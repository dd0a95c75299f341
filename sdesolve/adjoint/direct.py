"""Gradients by backpropagation through the steps of the solve."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sdesolve.capture import Captured
from sdesolve.plan import Plan, Report, Result


class Adjoint(Protocol):
    """A way to run a plan so that its result is differentiable. To be made from a plan and what the functions carry."""

    def run(self, y0: Tensor, report: Report | None = None) -> Result: ...


class Direct:
    """Autograd records the steps as they are taken; the size of the steps counts as constant.

    Memory grows with the number of evaluations. Rejected steps, and failed trajectories, leave no trace in the
    gradients of others.
    """

    def __init__(self, plan: Plan, captured: Captured) -> None:
        self.plan = plan

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run under autograd."""
        return self.plan.run(y0, report)
