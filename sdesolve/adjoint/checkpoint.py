"""Gradients by recursive checkpointing: the gradients of `direct`, in memory that hardly grows with the steps.

Of N steps, s states are kept on the way forwards. On the way back a stretch between two of them is taken again, from
the state at its start; if it is long, it is divided, and a state in its middle is kept where one that is done with made
room. Divided in the best way, s states reach over C(s + r, s) stretches if each step may be taken again r times
(Griewank & Walther 2000, ACM Trans. Math. Softw. 26:1, "revolve"). Each stretch of u steps then has its graph once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import torch
from torch import Tensor

from sdesolve.adjoint.parameters import apart, casts, parameters_of, refuse, unknown
from sdesolve.adjoint.trail import AdaptiveTrail, FixedTrail, Kept, Segment, Trail, budget
from sdesolve.capture import Captured
from sdesolve.errors import CompileError, message
from sdesolve.loop import Loop
from sdesolve.methods.method import State
from sdesolve.outputs import Round
from sdesolve.plan import AdaptivePlan, FixedPlan, Report, Result, first_time
from sdesolve.solution import Status


@dataclass(frozen=True)
class Checkpoint:
    """Recursive checkpointing, for every problem and method: the gradients of ``"direct"`` to rounding.

    Parameters
    ----------
    steps : memory, in steps: at most so many states are kept, beside the graph of at most so many steps at a time.
        Default: the binary logarithm of the number N of steps, 8 at least. With sqrt(N) every step is taken again once,
        with fewer more often: with 1, N / 2 times.

    The functions are asked again on the way back, so they must give the same values until then: what they hold is not
    to change, nor may they draw random numbers. Noise is found again from its counter. Of adaptive steps the times are
    kept besides. A trajectory that fails has gradient 0. Gradients of gradients need the memory of ``"direct"``.
    """

    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and (isinstance(self.steps, bool) or not isinstance(self.steps, int)):
            raise TypeError(message("steps", repr(self.steps), "a positive int or None"))
        if self.steps is not None and self.steps < 1:
            raise ValueError(message("steps", self.steps, "a positive int or None"))

    def way(self, plan: FixedPlan | AdaptivePlan, captured: Captured) -> CheckpointedRun:
        """How the plan is run."""
        if plan.compile_chunk is not None:
            advice = "Use adjoint='direct' or 'backsolve', or drop compile=True."
            raise CompileError(message("compile", "True with adjoint='checkpoint'", "one of the two", advice))
        return CheckpointedRun(plan, captured, self.steps)


class CheckpointedRun:
    """Run forwards without a graph, keeping some states; on the way back take stretches of steps again."""

    def __init__(self, plan: FixedPlan | AdaptivePlan, captured: Captured, most: int | None) -> None:
        self.plan = replace(plan, isolate=False) if isinstance(plan, FixedPlan) else plan
        self.captured, self.most = captured, most

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        """Run as one autograd.Function of y0 and of every tensor with a gradient that the functions read."""
        if not torch.is_grad_enabled():
            return self.plan.run(y0, report)
        parameters = parameters_of(self.plan.system, self.captured, first_time(self.plan), y0)
        found: list[Result] = []
        ys = _Checkpoint.apply(self.plan, self.most, report, found, y0, *parameters)
        return replace(found[0], ys=ys)


class Tape:
    """What a solve tells of its steps while it runs."""

    def __init__(self, most: int | None) -> None:
        self.kept = Kept(most)
        self.rounds: list[Round] = []
        self.loop: Loop | None = None

    def begin(self, loop: Any, state: State) -> None:
        """The state before the first step."""
        self.loop = loop
        self.kept(state)

    def add(self, state: State, round: Round | None = None) -> None:
        """The state after a step."""
        if round is not None:
            self.rounds.append(round)
        self.kept(state)


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: FixedPlan | AdaptivePlan,
        most: int | None,
        report: Report | None,
        found: list[Result],
        y0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        tape = Tape(most)
        with torch.no_grad():
            result = replace(plan, recorder=tape).run(y0.detach(), report)
        found.append(result)
        ctx.plan, ctx.most, ctx.tape, ctx.status = plan, most, tape, result.status
        ctx.casts = casts(y0.device)
        # autograd notices those that are changed in place before the gradients are asked for
        ctx.save_for_backward(y0, *parameters)
        return result.ys

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        with ctx.casts():
            return _backward(ctx, grad)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    y0, *parameters = ctx.saved_tensors
    wrong = ctx.status != Status.SUCCESS
    if bool(wrong.all()):
        zeros = [torch.zeros_like(y0), *map(torch.zeros_like, parameters)]
        return None, None, None, None, *zeros
    spec, failures = ctx.plan.system.spec, bool(wrong.any())
    if failures:
        grad = torch.where(spec.expand(wrong), 0.0, grad)
    tape: Tape = ctx.tape
    # not y0 itself: what it was made of, and other uses of it, have their own place outside
    start = y0.view_as(y0) if torch.is_grad_enabled() else y0.detach()
    trail: Trail
    if isinstance(ctx.plan, FixedPlan):
        trail = FixedTrail(ctx.plan, start, wrong if failures else None)
    else:
        assert tape.loop is not None
        trail = AdaptiveTrail(tape.loop, tape.rounds, wrong if failures else None)
    back = _Back(trail, grad, parameters, budget(ctx.most, trail.count))
    found = back.with_graph(start) if torch.is_grad_enabled() else back.run(tape.kept.states, y0)
    return None, None, None, None, *found


class _Back:
    """The way back. room : how many states may be held, and of how many steps the graph."""

    def __init__(self, trail: Trail, grad: Tensor, parameters: list[Tensor], room: int) -> None:
        self.trail, self.grad, self.parameters, self.room = trail, grad, parameters, room
        self.sums: list[Tensor | None] = [None] * len(parameters)
        self.looked = False

    def run(self, kept: dict[int, State], y0: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by y0 and the parameters. Kept states go as they are done with, all but the first: should someone
        ask again, this one is enough."""
        last = self.trail.count
        if last > 0:
            kept.pop(last, None)
        cotangent = self._add((None,) * (1 + len(kept[0].cache)), last)
        while last > 0:
            first = max(k for k in kept if k < last)
            state = kept.pop(first) if first else kept[0]
            free = self.room - len(kept) - (first > 0)
            cotangent = self._stretch(first, last, state, cotangent, free)
            last = first
        return self._start(y0, cotangent), *self.sums

    def with_graph(self, y0: Tensor) -> tuple[Tensor | None, ...]:
        """The same with a graph of their own: all steps again, with a graph."""
        take = lambda: self.trail.take(self.trail.start(y0), 0, self.trail.count)
        end = take()
        self._look(_values(end), [y0], take)
        states = [(0, y0), *end.outputs, (self.trail.count, end.state.y)]
        pairs = [(y, self.trail.gradient(k, self.grad)) for k, y in states]
        used = [(y, g) for y, g in pairs if g is not None and y.requires_grad]
        wanted = [x for x in (y0, *self.parameters) if x.requires_grad]
        with apart(wanted):
            found = torch.autograd.grad(
                [y for y, _ in used], wanted, [g for _, g in used], create_graph=True, allow_unused=True
            )
        named = dict(zip(map(id, wanted), found, strict=True))
        return tuple(named.get(id(x)) for x in (y0, *self.parameters))

    def _add(self, cotangent: tuple[Tensor | None, ...], done: int) -> tuple[Tensor | None, ...]:
        more = self.trail.gradient(done, self.grad)
        y, *cache = cotangent
        return cotangent if more is None else (more if y is None else y + more, *cache)

    def _stretch(
        self, first: int, last: int, state: State, cotangent: tuple[Tensor | None, ...], free: int
    ) -> tuple[Tensor | None, ...]:
        """Cotangents of the state before the steps first <= k < last, from those behind them; ``free`` states more may
        be kept."""
        while last - first > self.room:
            units = -(-(last - first) // self.room)
            middle = first + self.room * divide(units, free + 1)
            with torch.no_grad():
                between = self.trail.take(state, first, middle).state
            cotangent = self._stretch(middle, last, between, cotangent, free - 1)
            last = middle
        return self._pull(first, last, state, cotangent)

    def _pull(
        self, first: int, last: int, state: State, cotangent: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        """The same for steps of which the graph is made."""
        inputs = [x.detach().requires_grad_(_real(x)) for x in (state.y, *state.cache)]
        segment = self._again(inputs, first, last)
        outputs = list(zip((segment.state.y, *segment.state.cache), cotangent, strict=True))
        outputs += [(y, self.trail.gradient(done, self.grad)) for done, y in segment.outputs]
        self._look(_values(segment), inputs, lambda: self._again(inputs, first, last))
        found = self._grad(outputs, inputs)
        return self._add(found, first) if first else found

    def _again(self, inputs: list[Tensor], first: int, last: int) -> Segment:
        with torch.enable_grad():
            return self.trail.take(State(inputs[0], tuple(inputs[1:])), first, last)

    def _look(self, values: list[Tensor], inputs: list[Tensor], again: Callable[[], Segment]) -> None:
        """Refuse leaves that are not known. Those that the functions make themselves are others each time."""
        if self.looked:
            return
        known = [*inputs, *self.parameters]
        missing = unknown(values, known)
        if not missing:
            return
        self.looked = True
        second = set(map(id, unknown(_values(again()), known)))
        for x in missing:
            if id(x) in second:
                refuse(x)

    def _start(self, y0: Tensor, cotangent: tuple[Tensor | None, ...]) -> Tensor | None:
        """Cotangents of the start, which made the cache of y0, handed on to y0."""
        start = y0.detach().requires_grad_()
        with torch.enable_grad():
            state = self.trail.start(start)
        (found,) = self._grad(list(zip((state.y, *state.cache), cotangent, strict=True)), [start])
        first = self.trail.gradient(0, self.grad)
        return first if found is None else found if first is None else found + first

    def _grad(self, outputs: list[tuple[Tensor, Tensor | None]], inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
        """Vector-Jacobian products by the inputs; those by the parameters are summed up."""
        pairs = [(y, g) for y, g in outputs if g is not None and y.requires_grad]
        if not pairs:
            return (None,) * len(inputs)
        of = [x for x in inputs if x.requires_grad]
        wanted = [i for i, x in enumerate(self.parameters) if x.requires_grad]
        parameters = [self.parameters[i] for i in wanted]
        with apart(parameters):
            found = torch.autograd.grad(
                [y for y, _ in pairs], [*of, *parameters], [g for _, g in pairs], allow_unused=True, retain_graph=True
            )
        for i, g in zip(wanted, found[len(of) :], strict=True):
            before = self.sums[i]
            self.sums[i] = before if g is None else g if before is None else before + g
        named = dict(zip(map(id, of), found, strict=False))
        return tuple(named.get(id(x)) for x in inputs)


def _values(segment: Segment) -> list[Tensor]:
    """All that depends on what the steps read."""
    return [segment.state.y, *segment.state.cache, *(y for _, y in segment.outputs)]


def _real(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def divide(count: int, states: int) -> int:
    """Behind how many of ``count`` > 1 stretches to keep a state, where so many may be held, that at the start among
    them."""
    again = 0
    while comb(states + again, states) < count:
        again += 1
    # the first part is gone through once less with as many states, the second as often with one state less
    return min(comb(states + again - 1, states), count - 1)
