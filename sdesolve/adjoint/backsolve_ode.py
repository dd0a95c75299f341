"""Gradients of ODE solves by the continuous adjoint: one more solve, backwards, in memory that does not grow with
steps.

For dy/dt = f(t, y; p) and a loss L of the outputs y(t_i), with a = dL/dy(t),

    da/dt = -a^T df/dy,      dL/dp = int_{t_0}^{t_T} a^T df/dp dt,      a(t_i^-) = a(t_i^+) + dL/dy(t_i)

(Pontryagin et al. 1962; Chen et al. 2018, NeurIPS, appendix B). The state is solved backwards along with a, and is put
back on the forward solution at every output. The parameters' integral steers no step sizes (Kidger, Chen & Lyons 2021,
"Hey, that's not an ODE"): the error of y and of a does, each trajectory's on its own, and a is scaled to size one
first so that
tolerances mean something for losses of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.adjoint.adjoint_system import AdjointSystem, Control
from sdesolve.adjoint.lumps import Lump, Pace, Progress, choose_nodes, lumps, resolved
from sdesolve.adjoint.parameters import (
    casts,
    ends_without_gradient,
    parameters_of,
    refuse_second,
    refuse_unstable,
)
from sdesolve.capture import Captured
from sdesolve.clock import Landings
from sdesolve.compiled.lift import Lifted
from sdesolve.compiled.step import lifted_drift
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods import METHODS
from sdesolve.plan import Plan, Report, Result, first_time
from sdesolve.solution import Status
from sdesolve.step_size import StepTable

#: backward solves in which stops may be found to be too far apart; the last one stops at all outputs
_ATTEMPTS = 4


class ContinuousAdjoint:
    """Run forwards without a graph; on the way back solve the adjoint equation."""

    def __init__(self, plan: FixedPlan | AdaptivePlan, captured: Captured, control: Control) -> None:
        self.plan = replace(plan, isolate=False) if isinstance(plan, FixedPlan) else plan
        self.captured, self.control = captured, control

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run as one autograd.Function of y0 and of every leaf that the drift depends on."""
        if not torch.is_grad_enabled():
            return self.plan.run(y0, report)
        t0, lifted = first_time(self.plan), None
        if self.plan.compile_chunk is None:
            parameters = parameters_of(self.plan.system, self.captured, t0, y0)
        else:
            lifted = lifted_drift(self.plan.system, t0, y0)
            parameters = [x for x in lifted.tensors if x.requires_grad]
        if lifted is None and not (y0.requires_grad or any(x.requires_grad for x in parameters)):
            return ends_without_gradient(self.plan, y0, report)
        found: list[Result] = []
        ys = _Backsolve.apply(self.plan, self.control, report, found, lifted, y0, *parameters)
        return replace(found[0], ys=ys)


class _Backsolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        control: Control,
        report: Report | None,
        found: list[Result],
        lifted: Lifted | None,
        y0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        progress = None
        if isinstance(plan, AdaptivePlan) and plan.control.interpolate:
            assert plan.method.error_order is not None
            progress = Progress(len(plan.ts), plan.system.spec.batch, plan.method.error_order)
            plan = replace(plan, recorder=progress)
        with torch.no_grad():
            result = plan.run(y0.detach(), report)
        found.append(result)
        if isinstance(plan, AdaptivePlan) and plan.table is not None:
            # back by the steps of the table
            plan = FixedPlan(plan.system, plan.method, plan.table, plan.ts)
        ctx.plan, ctx.control, ctx.status, ctx.lifted, ctx.progress = plan, control, result.status, lifted, progress
        ctx.casts = casts(y0.device)
        # autograd notices those that are changed in place before the gradients are asked for
        ctx.save_for_backward(result.ys, *parameters, *(() if lifted is None else lifted.tensors))
        return result.ys

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            refuse_second("backsolve")
        ys, *saved = ctx.saved_tensors
        parameters = saved[: len(saved) - (0 if ctx.lifted is None else len(ctx.lifted.tensors))]
        with ctx.casts():
            solved = (ys, grad, parameters, ctx.status, ctx.lifted, ctx.control, ctx.progress)
            a, *rest = solve_adjoint(ctx.plan, *solved)
        return None, None, None, None, None, a, *rest


def solve_adjoint(
    plan: FixedPlan | AdaptivePlan,
    ys: Tensor,
    grads: Tensor,
    parameters: list[Tensor],
    status: Tensor,
    lifted: Lifted | None,
    control: Control,
    progress: Progress | None,
) -> list[Tensor]:
    """dL/dy0 and dL/dp from dL/dys; (T, batch, ...) both. Failed trajectories have no part in it. lifted : the drift as
    a pure function, for a compiled solve. progress : of a solve that did not stop at its outputs."""
    if plan.method.made_for is not None:
        # the equation of (y, a, dL/dp) is not written as a problem of that kind
        plan = replace(plan, method=METHODS["ode", "tsit5"])
    system = AdjointSystem(plan.system, parameters, isinstance(plan, AdaptivePlan) and not plan.shared, lifted, control)
    wrong = status != Status.SUCCESS
    if wrong.any():
        if wrong.all():
            return [torch.zeros_like(ys[0]), *map(torch.zeros_like, parameters)]
        mask, system.wrong = plan.system.spec.expand(wrong), wrong
        good = ys[:, int((~wrong).nonzero()[0])].unsqueeze(1)
        ys, grads = torch.where(mask, good, ys), torch.where(mask, 0.0, grads)
    if isinstance(plan, FixedPlan) or plan.ts.shape[1] > 1:
        scale = _size(grads)
        found = _by_intervals(plan, system, ys, grads / scale)
    elif progress is None:
        scale = _size(grads)
        found = _whole(plan, system, ys, {i: Lump(grad).over(scale) for i, grad in enumerate(grads)})
    else:
        return _through_lumps(plan, system, ys, grads, progress.by())
    return [g * scale for g in found]


def _through_lumps(
    plan: AdaptivePlan, system: AdjointSystem, ys: Tensor, grads: Tensor, progress: NDArray[np.float64]
) -> list[Tensor]:
    """With stops at some of the outputs, as close as the steps of the solve; and again with closer ones, should its own
    steps turn out to be much shorter."""
    ts, jumps, order = plan.ts[:, 0], tuple(plan.control.jumps), plan.method.error_order
    assert order is not None
    for attempt in range(_ATTEMPTS):
        every = attempt + 1 == _ATTEMPTS
        stretches = [list(range(len(ts)))] if every else choose_nodes(ts, progress, jumps)
        at = lumps(ts, grads, stretches)
        scale = _size(torch.stack([lump.value for lump in at.values()]))
        recorder = Pace(order)
        found = _whole(plan, system, ys, {i: lump.over(scale) for i, lump in at.items()}, recorder)
        pace = recorder.by(ts, _stops(plan, at)[1])
        if every or resolved(stretches, pace):
            break
        progress = np.concatenate([progress, pace[:, None]], axis=1)
    return [g * scale for g in found]


def _size(grads: Tensor) -> Tensor:
    """The largest of them, by which they are scaled."""
    sizes = grads.abs() if grads.is_complex() else grads
    low, high = sizes.aminmax()
    size = torch.maximum(-low, high)
    if not bool(torch.isfinite(size)):
        size = sizes.abs().nan_to_num().max()
    return size.clamp(min=torch.finfo(size.dtype).tiny)


def _check(result: Result) -> Result:
    assert result.status is not None
    if bool((result.status != Status.SUCCESS).any()):
        refuse_unstable(float(result.reached[0]), Status(int(result.status.max())))
    return result


def _stops(plan: AdaptivePlan, at: Iterable[int]) -> tuple[NDArray[np.float64], list[int]]:
    """The times of these outputs, the last one first; and for each landing point of a backward solve which output it
    is, or -1 for a jump of the right-hand side."""
    rows = sorted(at, reverse=True)
    landings = Landings.merge(plan.ts[rows], tuple(plan.control.jumps))
    return plan.ts[rows], [-1 if k < 0 else rows[k] for k in landings.outputs]


def _whole(
    plan: AdaptivePlan, system: AdjointSystem, ys: Tensor, at: dict[int, Lump], pace: Pace | None = None
) -> list[Tensor]:
    """One solve from the last output time to the first; what stands at some of the outputs enters as jumps on the
    way."""
    backwards, outputs = _stops(plan, at)

    def at_landing(z: Tensor, point: int) -> Tensor:
        i = outputs[point]
        if i < 0:
            return z
        system.pull.due = True
        _, a, rest = system.unpack(z)
        value, slope = at[i]
        z = torch.cat([ys[i].reshape(-1), (value + a).reshape(-1), rest])
        return z if slope is None else z + system.by_slope(plan.ts[i], ys[i], slope)

    backward = _adaptive(plan, system, backwards, at_landing, pace)
    zeros = [torch.zeros_like(p) for p in system.parameters]
    with torch.no_grad():
        start = at_landing(system.pack(ys[-1], torch.zeros_like(ys[-1]), zeros), 0)
        result = _check(backward.run(start))
    return system.gradients(result.ys[-1])


def _by_intervals(plan: FixedPlan | AdaptivePlan, system: AdjointSystem, ys: Tensor, grads: Tensor) -> list[Tensor]:
    """A solve for each output interval: for fixed steps, and for output times of each trajectory's own."""
    own = plan.ts.shape[1] > 1
    a, sums = grads[-1], [torch.zeros_like(p) for p in system.parameters]
    for i in range(len(ys) - 1, 0, -1):
        if own:
            system.origin, system.end, system.speed = (
                torch.as_tensor(v, dtype=system.system.spec.time_dtype, device=ys.device)
                for v in (plan.ts[i - 1], plan.ts[i], plan.ts[i] - plan.ts[i - 1])
            )
        z, system.pull.due = system.pack(ys[i], a, sums), True
        with torch.no_grad():
            result = _check(_interval(plan, system, i, own).run(z))
        a, *sums = system.gradients(result.ys[-1])
        a = a + grads[i - 1]
    return [a, *sums]


def _interval(plan: FixedPlan | AdaptivePlan, system: AdjointSystem, i: int, own: bool) -> FixedPlan | AdaptivePlan:
    """The solve from output i back to output i - 1; in s from 1 to 0 where trajectories have times of their own."""
    ends: NDArray[np.float64] = np.array([[1.0], [0.0]]) if own else plan.ts[[i, i - 1]]
    if isinstance(plan, AdaptivePlan):
        return _adaptive(plan, system, ends)
    first, last = plan.table.saves[i - 1], plan.table.saves[i]
    table = StepTable(ends[:, 0], np.array([(last - first).max()]))
    return FixedPlan(system, plan.method, table, ends, compile_chunk=plan.compile_chunk)


def _adaptive(
    plan: AdaptivePlan,
    system: AdjointSystem,
    ts: NDArray[np.float64],
    at_landing: Callable[[Tensor, int], Tensor] | None = None,
    pace: Pace | None = None,
) -> AdaptivePlan:
    """The backward solve, in steps of its own that all trajectories share."""
    return AdaptivePlan(
        system,
        plan.method,
        system.control(plan.control),
        ts,
        shared=True,
        max_steps=plan.max_steps,
        probe=False,
        norm=system.norm,
        at_landing=at_landing,
        compile_chunk=plan.compile_chunk,
        recorder=pace,
    )
