"""The continuous adjoint of compiled fixed SDE steps, solved backwards by a compiled loop along the same path."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.adjoint.compiled_fixed import CompiledFixed, stretches_back, with_output
from sdesolve.adjoint.parameters import refuse_unstable
from sdesolve.adjoint.trail import FixedTrail, restored
from sdesolve.capture import Captured
from sdesolve.compiled.fixed import fixed_entries
from sdesolve.compiled.going_back import heun_fixed
from sdesolve.compiled.lift import Lifted
from sdesolve.compiled.replay import Cotangents, Tensors, example_of
from sdesolve.compiled.step import lifted_change
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods.method import State
from sdesolve.solution import Status


class CompiledAlongPath(CompiledFixed):
    """The last state is kept. As in :mod:`sdesolve.adjoint.backsolve_sde`, for an SDE in the Stratonovich calculus or
    with additive noise."""

    name = "backsolve"

    def __init__(self, plan: FixedPlan, captured: Captured) -> None:
        super().__init__(plan, captured, None)

    def lift(self, y0: Tensor) -> Lifted:
        """f h + g dW."""
        system = self.plan.system.stratonovich()
        example = example_of(fixed_entries(self.loop)(self.loop.start(y0), 0, 1)[0], system.spec)
        lifted = lifted_change(system, self.plan.method, y0, example)
        self.change = lifted.pure
        return lifted

    def back(self, trail: FixedTrail, grad: Tensor, y0: Tensor, tensors: Tensors) -> Cotangents:
        """One solve backwards; at outputs y is put back on the solution."""
        ys = self.outputs()
        change, y = Lifted(self.change, tensors), trail.followed(self.kept[self.count]).y
        at = self.nothing((y0,), tensors)
        for first, last, entries in stretches_back(self.loop, self.kept[self.count], set(trail.due) | {0, self.count}):
            at = with_output(trail, at, last, grad)
            y = trail.followed(State(restored(trail, last, ys, y))).y
            for entry in entries:
                y, at = heun_fixed(change, self.wanted, entry, y, at)
            if not bool((torch.isfinite(y) & torch.isfinite(at.states[0])).all()):
                refuse_unstable(float(self.plan.table.rows(first, first)[0].min()), Status.NONFINITE)
        return at
