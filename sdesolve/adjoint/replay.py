"""Gradients of a compiled solve: its accepted steps are recorded, and replayed backwards by a compiled loop.

The discrete gradients, those that autograd would give of the same steps, whose sizes count as constant. Memory grows
with the number of steps, not with what they evaluate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesolve.capture import Captured
from sdesolve.clock import Landings
from sdesolve.compiled import adaptive, fixed
from sdesolve.compiled.layout import unpack_states
from sdesolve.compiled.lift import Lifted, some_of
from sdesolve.compiled.replay import Cotangents, lifted_of, replay_adaptive, replay_fixed
from sdesolve.errors import SolveError
from sdesolve.plan import AdaptivePlan, FixedPlan, Plan, Report, Result
from sdesolve.solution import Status


class Replay:
    """Run forwards in compiled chunks that record the steps; on the way back replay them."""

    def __init__(self, plan: Plan, captured: Captured) -> None:
        assert isinstance(plan, (FixedPlan, AdaptivePlan))
        self.plan, self.captured = plan, captured

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run as one autograd.Function of y0 and of every tensor that the steps read."""
        plan = self.plan
        if not torch.is_grad_enabled() or not self._differentiable(y0):
            with torch.no_grad():
                return plan.run(y0.detach(), report)
        tape: list[Any] = []
        compiler: Callable[..., Any] = fixed.compile_fixed
        if isinstance(plan, AdaptivePlan):
            compiler = adaptive.compile_adaptive
        else:
            plan = replace(plan, isolate=False)
        plan = replace(plan, compile_chunk=partial(compiler, tape=tape))
        with torch.no_grad():
            result = plan.run(y0.detach(), report)
        if not tape:
            return result
        lifted = lifted_of(plan.system, plan.method, tape[0])
        wanted = tuple(x.requires_grad for x in lifted.tensors)
        chosen = some_of(lifted.tensors, wanted)
        run = _Run(plan, tape, lifted, wanted, result)
        return replace(result, ys=_Replay.apply(run, y0, *chosen))

    def _differentiable(self, y0: Tensor) -> bool:
        """Whether anything needs a gradient: known from closures, or seen behind one evaluation."""
        if y0.requires_grad or self.captured.differentiable():
            return True
        system, spec = self.plan.system, self.plan.system.spec
        start = torch.as_tensor(self.plan.ts[0], dtype=spec.time_dtype, device=spec.device)
        t0 = start[0] if len(start) == 1 else spec.expand(start)
        found = [system.drift(t0, y0), *([system.diffusion(t0, y0)] if system.is_sde else [])]
        return any(x.requires_grad for x in found)


@dataclass
class _Run:
    """A solve that was recorded."""

    plan: FixedPlan | AdaptivePlan
    tape: list[Any]
    lifted: Lifted
    wanted: tuple[bool, ...]
    result: Result


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, y0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(*parameters)
        return run.result.ys

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise SolveError(
                "adjoint: compiled gradients were asked for gradients of themselves (create_graph=True); accepted is "
                "one derivative. Without compile=True, adjoint='direct' can be differentiated as often as you like."
            )
        parameters = ctx.saved_tensors  # which also notices parameters that were changed in place since
        a, *rest = _backwards(ctx.run, grad, parameters)
        return None, a, *rest


def _backwards(run: _Run, grad: Tensor, parameters: tuple[Tensor, ...]) -> list[Tensor]:
    plan, tape, spec = run.plan, run.tape, run.plan.system.spec
    status = run.result.status
    assert status is not None
    wrong = status != Status.SUCCESS
    y0 = run.result.ys[0]
    if bool(wrong.all()):
        return [torch.zeros_like(y0), *map(torch.zeros_like, parameters)]
    if bool(wrong.any()):
        grad = torch.where(spec.expand(wrong), 0.0, grad)
        tape = [_without(entry, wrong, run) for entry in tape]
    lifted = Lifted(run.lifted.pure, tuple(x.detach() for x in run.lifted.tensors))
    caches = _caches(tape[0])
    at = Cotangents(
        tuple(torch.zeros_like(y0) for _ in range(1 + caches)), tuple(torch.zeros_like(p) for p in parameters)
    )
    if isinstance(plan, FixedPlan):
        at = _fixed(run, plan, tape, lifted, grad, at)
    else:
        at = _adaptive(run, plan, tape, lifted, grad, at)
    return [at.states[0], *at.parameters]


def _caches(entry: Any) -> int:
    """Tensors in the method's cache, from how a state was packed."""
    states = entry.states if isinstance(entry, adaptive.Entry) else entry.inputs.records
    shape = entry.shape if isinstance(entry, adaptive.Entry) else entry.parts.shape
    if shape is None:
        return len(states) - 1
    return int(states[0].shape[1] // max(int(np.prod(shape)), 1)) - 1


def _plus(at: Cotangents, grad: Tensor) -> Cotangents:
    y, *cache = at.states
    return Cotangents((y + grad, *cache), at.parameters)


def _fixed(run: _Run, plan: FixedPlan, tape: list[Any], lifted: Lifted, grad: Tensor, at: Cotangents) -> Cotangents:
    saves = plan.table.saves
    outputs = {int(k): i for i, k in enumerate(saves)}
    for entry in reversed(tape):
        if entry.last in outputs:
            at = _plus(at, grad[outputs[entry.last]])
        at = replay_fixed(lifted, run.wanted, entry, at)
    start = torch.as_tensor(plan.ts[0, 0], dtype=plan.system.spec.time_dtype, device=grad.device)
    return _plus(_first_stage(run, start, run.result.ys[0], at), grad[0])


def _adaptive(
    run: _Run, plan: AdaptivePlan, tape: list[Any], lifted: Lifted, grad: Tensor, at: Cotangents
) -> Cotangents:
    spec = plan.system.spec
    landings = Landings.merge(plan.ts, tuple(plan.control.jumps))
    chunks = list(reversed(tape))
    for i, entry in enumerate(chunks):
        output = int(landings.outputs[entry.point])
        if output >= 0 and (i == 0 or chunks[i - 1].point != entry.point):
            at = _plus(at, grad[output])
        at = replay_adaptive(spec, lifted, run.wanted, entry, at)
        begins = i + 1 == len(chunks) or chunks[i + 1].point != entry.point
        if begins and (entry.point == 1 or landings.jumps[entry.point - 1]):
            # here the method's cache was made of y
            lanes = entry.times[0, 0]
            t = spec.expand(lanes) if len(lanes) > 1 else lanes.reshape(())
            at = _first_stage(run, t, unpack_states(entry.start, entry.shape)[0], at)
    return _plus(at, grad[0])


def _first_stage(run: _Run, t: Tensor, y: Tensor, at: Cotangents) -> Cotangents:
    """The cotangents of a cache that ``init`` made of y, handed on to y and the parameters."""
    _, *cache = at.states
    if not cache:
        return at
    chosen = some_of(run.lifted.tensors, run.wanted)
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        made = run.plan.method.init(run.plan.system, t, y)
        pairs = [(c, a) for c, a in zip(made, cache, strict=True) if c.requires_grad]
        found: tuple[Tensor | None, ...] = (None,) * (1 + len(chosen))
        if pairs:
            found = torch.autograd.grad([c for c, _ in pairs], [y, *chosen], [a for _, a in pairs], allow_unused=True)
    more = [torch.zeros_like(x) if g is None else g for g, x in zip(found, [y, *chosen], strict=True)]
    states = (at.states[0] + more[0], *map(torch.zeros_like, cache))
    return Cotangents(states, tuple(a + b for a, b in zip(at.parameters, more[1:], strict=True)))


def _without(entry: Any, wrong: Tensor, run: _Run) -> Any:
    """The records, in which trajectories that failed stand with one that did not: no NaN gets into the sums."""
    good = (~wrong).to(torch.int8).argmax().reshape(1)

    def other(x: Tensor, dim: int) -> Tensor:
        mask = wrong.reshape(*(1,) * dim, -1, *(1,) * (x.ndim - dim - 1))
        return torch.where(mask, x.index_select(dim, good), x)

    if isinstance(entry, fixed.Entry):
        dim = 1 if entry.parts.shape is None else 2
        records = tuple(other(x, dim) for x in entry.inputs.records)
        return entry._replace(inputs=entry.inputs._replace(records=records))
    dim = 0 if entry.shape is None else 1
    states, start = tuple(other(x, dim + 1) for x in entry.states), tuple(other(x, dim) for x in entry.start)
    if len(entry.counts) == 1:
        return entry._replace(states=states, start=start)
    return entry._replace(states=states, start=start, times=other(entry.times, 2), counts=other(entry.counts, 0))
