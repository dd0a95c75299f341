"""Gradients by recursive checkpointing: the gradients of `direct`, in memory that hardly grows with the steps.

Each stretch of steps (see :mod:`sdesolve.adjoint.stretches`) has its graph once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.adjoint.checkpoint_compiled import CompiledCheckpoint
from sdesolve.adjoint.parameters import apart
from sdesolve.adjoint.pull import Pull
from sdesolve.adjoint.retrace import Found, Retraced, Tape
from sdesolve.adjoint.stretches import Stretches
from sdesolve.adjoint.trail import Kept, Segment, Trail, budget, gradient, gradient_of
from sdesolve.adjoint.way import Adjoint, Way
from sdesolve.capture import Captured
from sdesolve.errors import CompileError, message
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods.method import State

Cotangents = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Checkpoint(Way):
    """Recursive checkpointing, for every problem and method: the gradients of ``"direct"`` to rounding.

    Parameters
    ----------
    steps : memory, in steps: at most so many states are kept, beside the graph of at most so many steps at a time.
        Default: the binary logarithm of the number N of steps, 8 at least. With sqrt(N) every step is taken again once,
        with fewer more often: with 1, N / 2 times.

    The functions are asked again on the way back, so they must give the same values until then: what they hold is not
    to change, nor may they draw random numbers. Noise is found again from its counter. Of adaptive steps the times are
    kept besides. A trajectory that fails has gradient 0, its start as an output apart. Gradients of gradients need the
    memory of ``"direct"``.
    """

    steps: int | None = None
    name = "checkpoint"
    exact_times = True
    doubles = True

    def __post_init__(self) -> None:
        if self.steps is not None and (isinstance(self.steps, bool) or not isinstance(self.steps, int)):
            raise TypeError(message("steps", repr(self.steps), "a positive int or None"))
        if self.steps is not None and self.steps < 1:
            raise ValueError(message("steps", self.steps, "a positive int or None"))

    def run(self, plan: FixedPlan | AdaptivePlan, captured: Captured) -> Adjoint:
        """How the plan is run."""
        if plan.compile_chunk is None:
            return Retraced(plan, captured, self)
        if isinstance(plan, AdaptivePlan):
            advice = "Use adjoint='direct' or 'backsolve', fixed steps, or drop compile=True."
            got = "True with adjoint='checkpoint' and adaptive steps"
            raise CompileError(message("compile", got, "it with fixed steps", advice))
        return CompiledCheckpoint(plan, captured, self.steps)

    def tape(self) -> Tape:
        """Which keeps states."""
        return _Tape(self.steps)

    def back(self, trail: Trail, tape: _Tape, y0: Tensor, ys: Tensor, grad: Tensor, parameters: list[Tensor]) -> Found:
        """Gradients by y0 and the parameters, with a graph if gradients are enabled."""
        back = _Back(trail, grad, parameters, budget(self.steps, trail.count))
        return back.with_graph(y0) if torch.is_grad_enabled() else back.run(tape.kept.states, y0)


class _Tape(Tape):
    def __init__(self, most: int | None) -> None:
        super().__init__()
        self.kept = Kept(most)

    def keep(self, state: State) -> None:
        self.kept(state)


class _Back(Stretches[Cotangents]):
    """The way back through steps whose graph autograd makes."""

    def __init__(self, trail: Trail, grad: Tensor, parameters: list[Tensor], room: int) -> None:
        super().__init__(room)
        self.trail, self.grad, self.pull = trail, grad, Pull(parameters)

    def run(self, kept: dict[int, State], y0: Tensor) -> Found:
        """Gradients by y0 and the parameters."""
        count = self.trail.count
        end = self._add((None,) * (1 + len(kept[0].cache)), count)
        return self._start(y0, self.back(kept, count, end)), *self.pull.sums

    def with_graph(self, y0: Tensor) -> Found:
        """The same with a graph of their own: all steps again, with a graph."""
        take = lambda: self.trail.take(self.trail.start(y0), 0, self.trail.count)
        end, parameters = take(), self.pull.parameters
        self.pull.check(_values(end), [y0], lambda: _values(take()))
        states = [(self.trail.landed(0), y0), *end.outputs, (self.trail.landed(self.trail.count), end.state.y)]
        pairs = [(y, None if at is None else gradient_of(self.trail, at, self.grad)) for at, y in states]
        used = [(y, g) for y, g in pairs if g is not None and y.requires_grad]
        wanted = [x for x in (y0, *parameters) if x.requires_grad]
        with apart(wanted):
            found = torch.autograd.grad(
                [y for y, _ in used], wanted, [g for _, g in used], create_graph=True, allow_unused=True
            )
        named = dict(zip(map(id, wanted), found, strict=True))
        return tuple(named.get(id(x)) for x in (y0, *parameters))

    def _add(self, cotangent: Cotangents, done: int) -> Cotangents:
        more = gradient(self.trail, done, self.grad)
        y, *cache = cotangent
        return cotangent if more is None else (more if y is None else y + more, *cache)

    def between(self, state: State, first: int, last: int) -> State:
        with torch.no_grad():
            return self.trail.take(state, first, last).state

    def pulled(self, first: int, last: int, state: State, cotangent: Cotangents) -> Cotangents:
        """The same for steps of which the graph is made."""
        inputs = [x.detach().requires_grad_(_real(x)) for x in (state.y, *state.cache)]
        segment = self._again(inputs, first, last)
        outputs = list(zip((segment.state.y, *segment.state.cache), cotangent, strict=True))
        outputs += [(y, gradient_of(self.trail, landed, self.grad)) for landed, y in segment.outputs]
        self.pull.check(_values(segment), inputs, lambda: _values(self._again(inputs, first, last)))
        found = self.pull.grad(outputs, inputs)
        return self._add(found, first) if first else found

    def _again(self, inputs: list[Tensor], first: int, last: int) -> Segment:
        with torch.enable_grad():
            return self.trail.take(State(inputs[0], tuple(inputs[1:])), first, last)

    def _start(self, y0: Tensor, cotangent: Cotangents) -> Tensor | None:
        """Cotangents of the start, which made the cache of y0, handed on to y0."""
        start = y0.detach().requires_grad_()
        with torch.enable_grad():
            state = self.trail.start(start)
        (found,) = self.pull.grad(list(zip((state.y, *state.cache), cotangent, strict=True)), [start])
        first = gradient(self.trail, 0, self.grad)
        return first if found is None else found if first is None else found + first


def _values(segment: Segment) -> list[Tensor]:
    """All that depends on what the steps read."""
    return [segment.state.y, *segment.state.cache, *(y for _, y in segment.outputs)]


def _real(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()
