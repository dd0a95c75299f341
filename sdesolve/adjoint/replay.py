"""Gradients of a compiled solve: its accepted steps are recorded, and replayed backwards by a compiled loop.

The discrete gradients, those that autograd would give of the same steps, whose sizes count as constant. Memory grows
with the number of steps, not with what they evaluate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.adjoint.parameters import refuse_second
from sdesolve.capture import Captured
from sdesolve.capture import captured as looked_at
from sdesolve.compiled import adaptive, fixed
from sdesolve.compiled.going_back import replay_fixed
from sdesolve.compiled.layout import unpack_states
from sdesolve.compiled.lift import Lifted, Pure, some_of
from sdesolve.compiled.replay import Cotangents, Tensors, lifted_of, replay_adaptive
from sdesolve.compiled.step import lifted_init
from sdesolve.crossing import Crossings
from sdesolve.errors import CompileError, message
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods import Auto, Rosenbrock
from sdesolve.plan import Plan, Report, Result, first_time
from sdesolve.solution import Status


class Replay:
    """Run forwards in compiled chunks that record the steps; on the way back replay them."""

    def __init__(self, plan: Plan, captured: Captured) -> None:
        assert isinstance(plan, (FixedPlan, AdaptivePlan))
        self.plan, self.captured = plan, captured

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run as one autograd.Function of y0 and of every tensor that the steps read."""
        plan, plain = self.plan, without_gradient(self.plan, self.captured, y0, report)
        if plain is not None:
            return plain
        tape: list[Any] = []
        compiler = adaptive.compile_adaptive if isinstance(plan, AdaptivePlan) else fixed.compile_fixed
        plan = replace(plan, compile_chunk=partial(compiler, tape=tape))
        with torch.no_grad():
            result = plan.run(y0.detach(), report)
        if not tape:
            return result
        run, step = Recorded.of(plan, tape, y0, result.status)
        ys = [result.ys]  # handed over: what the caller gets is in no graph of its own
        return replace(result, ys=OfTensors.apply(run, step.tensors, ys, y0, *some_of(step.tensors, step.wanted)))


def without_gradient(
    plan: FixedPlan | AdaptivePlan, captured: Captured, y0: Tensor, report: Report | None
) -> Result | None:
    """The result, where nothing needs a gradient; None where something does. Raise for functions of one trajectory,
    whose steps cannot be lifted, and for methods whose steps take derivatives of f."""
    if not torch.is_grad_enabled() or not _differentiable(plan, captured, y0):
        with torch.no_grad():
            return plan.run(y0.detach(), report)
    if isinstance(plan, AdaptivePlan) and isinstance(plan.watcher, Crossings):
        got = "True with events, where gradients are wanted"
        raise CompileError(message("compile", got, "compile=False, or torch.no_grad()"))
    if plan.system.problem.vectorize:
        raise CompileError(
            message(
                "compile",
                "True with vectorize=True in the problem, where gradients of the steps are wanted",
                "compile=False, adjoint='backsolve', torch.no_grad(), or a function of the whole batch",
            )
        )
    if isinstance(plan.method, (Auto, Rosenbrock)) or plan.method.may_fail:
        # torch.func transforms are not compiled beside the writes that record steps
        got = f"True with method={plan.method.name!r}, where gradients of the steps are wanted"
        advice = "Without compile=True there are adjoint='direct' and, with less memory, adjoint='checkpoint'."
        raise CompileError(message("compile", got, "compile=False, or torch.no_grad()", advice))
    return None


def _differentiable(plan: FixedPlan | AdaptivePlan, captured: Captured, y0: Tensor) -> bool:
    """Whether anything needs a gradient: known from closures, or seen behind one evaluation."""
    if y0.requires_grad or captured.differentiable():
        return True
    system, t0 = plan.system, first_time(plan)
    found = [system.drift(t0, y0), *([system.diffusion(t0, y0)] if system.is_sde else [])]
    if isinstance(plan, AdaptivePlan) and isinstance(plan.watcher, Crossings):
        conditions = plan.watcher.conditions
        if any(looked_at(x).differentiable() for e in conditions.events for x in (e.condition, e.affect)):
            return True
        found.append(conditions(t0, y0))
    return any(x.requires_grad for x in found)


@dataclass
class Recorded:
    """A solve that was recorded. step, first : the step and the method's cache at the start as pure functions, the
    latter's tensors found among those of the step. wanted : of which of these gradients are wanted."""

    plan: FixedPlan | AdaptivePlan
    tape: list[Any]
    step: Pure
    wanted: tuple[bool, ...]
    first: Pure | None
    places: tuple[int, ...]
    others: Tensors
    status: Tensor | None
    name = "direct"

    def backwards(self, grad: Tensor, y0: Tensor, tensors: Tensors) -> list[Tensor]:
        """All recorded steps, backwards."""
        return _backwards(self, grad, y0, tensors)

    @staticmethod
    def of(plan: Any, tape: list[Any], y0: Tensor, status: Tensor | None) -> tuple[Recorded, Lifted]:
        """With the step as it was lifted at the time of the solve: closures may hold something else by the time of
        gradients."""
        step = lifted_of(plan.system, plan.method, tape[0])
        return Recorded.with_step(plan, tape, step, y0, status, cached=len(_states(tape[0])) > 1), step

    @staticmethod
    def with_step(
        plan: Any, tape: list[Any], step: Lifted, y0: Tensor, status: Tensor | None, cached: bool
    ) -> Recorded:
        """With this step; cached : whether the method keeps anything between steps."""
        first = lifted_init(plan.system, plan.method, first_time(plan), y0) if cached else None
        names = [id(x) for x in step.tensors]
        reads = () if first is None else first.tensors
        # -1, -2, ...: read at the start alone
        others = [x for x in reads if id(x) not in names]
        if any(x.requires_grad for x in others):
            raise CompileError(
                message("compile", "a first stage that reads a tensor which the steps do not read", "compile=False")
            )
        alone = [id(x) for x in others]
        places = tuple(names.index(id(x)) if id(x) in names else -1 - alone.index(id(x)) for x in reads)
        pure = None if first is None else first.pure
        return Recorded(plan, tape, step.pure, step.wanted, pure, places, tuple(others), status)


class Backwards(Protocol):
    """A compiled solve that is behind, and can be gone back through. name : of its adjoint."""

    name: str

    def backwards(self, grad: Tensor, y0: Tensor, tensors: Tensors) -> list[Tensor]:
        """Gradients by y0 and the wanted tensors from those of the outputs, (T, ...)."""
        ...


class OfTensors(torch.autograd.Function):
    """A compiled solve as a function of y0 and of what it reads; its result is handed over in a list."""

    @staticmethod
    def forward(
        ctx: Any, run: Backwards, tensors: Tensors, ys: list[Tensor], y0: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.run = run
        # autograd notices those that are changed in place before the gradients are asked for
        ctx.save_for_backward(y0, *tensors)
        return ys.pop()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            refuse_second(ctx.run.name, compiled=True)
        y0, *tensors = (x.detach() for x in ctx.saved_tensors)
        a, *rest = ctx.run.backwards(grad, y0, tuple(tensors))
        return None, None, None, a, *rest


def _backwards(run: Recorded, grad: Tensor, y0: Tensor, tensors: Tensors) -> list[Tensor]:
    plan, tape, spec = run.plan, run.tape, run.plan.system.spec
    parameters = some_of(tensors, run.wanted)
    assert run.status is not None
    wrong = run.status != Status.SUCCESS
    if bool(wrong.all()):
        return [torch.zeros_like(y0), *map(torch.zeros_like, parameters)]
    if bool(wrong.any()):
        grad = torch.where(spec.expand(wrong), 0.0, grad)
        tape = [without(entry, wrong) for entry in tape]
        y0 = torch.where(spec.expand(wrong), y0[(~wrong).nonzero()[0]], y0)
    lifted = Lifted(run.step, tensors)
    zeros = tuple(torch.zeros_like(x, memory_format=torch.contiguous_format) for x in _states(tape[0]))
    at = Cotangents(zeros, tuple(torch.zeros_like(p) for p in parameters))
    if isinstance(plan, FixedPlan):
        at = _fixed(run, plan, tape, lifted, grad, y0, at)
    else:
        at = _adaptive(run, plan, tape, lifted, grad, at)
    return [at.states[0], *at.parameters]


def _states(entry: Any) -> Tensors:
    """y and the method's cache, of a step that was recorded."""
    states = entry.states if isinstance(entry, adaptive.Entry) else entry.inputs.records
    shape = entry.shape if isinstance(entry, adaptive.Entry) else entry.parts.shape
    return unpack_states(tuple(x[0] for x in states), shape)


def _plus(at: Cotangents, grad: Tensor) -> Cotangents:
    y, *cache = at.states
    return Cotangents((y + grad, *cache), at.parameters)


def _fixed(
    run: Recorded, plan: FixedPlan, tape: list[Any], lifted: Lifted, grad: Tensor, y0: Tensor, at: Cotangents
) -> Cotangents:
    saves = plan.table.saves
    outputs = {int(k): i for i, k in enumerate(saves)}
    for entry in reversed(tape):
        if entry.last in outputs:
            at = _plus(at, grad[outputs[entry.last]])
        at = replay_fixed(lifted, run.wanted, entry, at)
    return _plus(first_stage(run, first_time(plan), y0, lifted.tensors, at), grad[0])


def _adaptive(
    run: Recorded, plan: AdaptivePlan, tape: list[Any], lifted: Lifted, grad: Tensor, at: Cotangents
) -> Cotangents:
    spec = plan.system.spec
    landings = plan.landings()
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
            at = first_stage(run, t, unpack_states(entry.start, entry.shape)[0], lifted.tensors, at)
    return _plus(at, grad[0])


def first_stage(run: Recorded, t: Tensor, y: Tensor, tensors: Tensors, at: Cotangents) -> Cotangents:
    """The cotangents of a cache that ``init`` made of y, handed on to y and the parameters."""
    _, *cache = at.states
    if run.first is None:
        return at
    lifted = tuple(tensors[k] if k >= 0 else run.others[-1 - k] for k in run.places)
    wanted = tuple(k >= 0 and run.wanted[k] for k in run.places)
    (more,), found = run.first.vjp((y,), (t,), lifted, wanted)[1](tuple(cache))
    parameters, which = list(at.parameters), [k for k, want in enumerate(run.wanted) if want]
    for place, gradient in zip(some_of(run.places, wanted), found, strict=True):
        i = which.index(place)
        parameters[i] = parameters[i] + gradient
    return Cotangents((at.states[0] + more, *map(torch.zeros_like, cache)), tuple(parameters))


def without(entry: Any, wrong: Tensor) -> Any:
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
    noise = tuple(None if x is None else other(x, 1) for x in entry.noise)
    entry = entry._replace(states=states, start=start, noise=noise)
    if len(entry.counts) == 1:
        return entry
    return entry._replace(times=other(entry.times, 2), counts=other(entry.counts, 0))
