"""Gradients by backpropagation through the steps of the solve."""

from __future__ import annotations

from dataclasses import dataclass

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.adjoint.replay import Replay
from sdesolve.adjoint.way import Adjoint, Way
from sdesolve.capture import Captured
from sdesolve.fixed_plan import FixedPlan


@dataclass(frozen=True)
class Direct(Way):
    """Autograd records the steps as they are taken; the size of the steps counts as constant.

    Memory grows with the number of evaluations, compiled with the number of steps. Rejected steps, and failed
    trajectories, leave no trace in the gradients of others.
    """

    name = "direct"
    exact_times = True

    def run(self, plan: FixedPlan | AdaptivePlan, captured: Captured) -> Adjoint:
        """The plan itself, under autograd, or compiled steps that are recorded and replayed."""
        return plan if plan.compile_chunk is None else Replay(plan, captured)
