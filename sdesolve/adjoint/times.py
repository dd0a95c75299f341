"""Gradients with respect to the output times.

By the equation y' = f(t, y) itself: an output moves along f where its time moves, and a start at t_0 + d is, from where
it stands, a start at t_0 from the point behind it by d. With zeros d that have a graph both are steps of length d; of
the explicit midpoint method, which has the equation's first and second derivatives by d.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.adjoint.way import Adjoint
from sdesolve.fixed_plan import FixedPlan
from sdesolve.plan import Report, Result
from sdesolve.solution import Status


class MovingTimes:
    """A solve whose times have gradients. moves : (T, 1) or (T, batch) zeros with a graph."""

    def __init__(self, plan: FixedPlan | AdaptivePlan, inner: Adjoint, moves: Tensor) -> None:
        self.plan, self.inner, self.moves = plan, inner, moves

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run, and let start and outputs move."""
        if not torch.is_grad_enabled():
            return self.inner.run(y0, report)
        start = self._moved(0, y0, back=True)
        result = self.inner.run(start, report)
        rows = [y0]
        wrong = None if result.status is None else result.status != Status.SUCCESS
        for i in range(1, len(result.ys)):
            y = result.ys[i]
            if wrong is None or not bool(wrong.any()):
                rows.append(self._moved(i, y))
            else:
                mask = self.plan.system.spec.expand(wrong)
                rows.append(torch.where(mask, y, self._moved(i, torch.where(mask, y0.detach(), y))))
        return replace(result, ys=torch.stack(rows))

    def _moved(self, i: int, y: Tensor, back: bool = False) -> Tensor:
        """y after a step from the time of output i by its move; or before that step, at the time itself."""
        system, spec = self.plan.system, self.plan.system.spec
        own = self.plan.ts.shape[1] > 1 or (isinstance(self.plan, AdaptivePlan) and not self.plan.shared)
        to = lambda x: spec.expand(x.expand(spec.batch)) if own else x.reshape(())
        time, d = to(torch.as_tensor(self.plan.ts[i], dtype=spec.time_dtype, device=spec.device)), to(self.moves[i])
        h, origin = (-d, time + d) if back else (d, time)
        middle = y + 0.5 * h * system.drift(origin, y)
        return y + h * system.drift(origin + 0.5 * h, middle)
