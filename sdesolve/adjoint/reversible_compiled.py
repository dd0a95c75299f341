"""Compiled fixed steps of a reversible method, taken back by a compiled loop: in memory that does not grow."""

from __future__ import annotations

from torch import Tensor

from sdesolve.adjoint.compiled_fixed import CompiledFixed, stretches_back, with_output
from sdesolve.adjoint.parameters import refuse_missed
from sdesolve.adjoint.replay import Recorded, first_stage
from sdesolve.adjoint.trail import FixedTrail
from sdesolve.capture import Captured
from sdesolve.compiled.fixed import fixed_entries
from sdesolve.compiled.going_back import Behind, Undone, undo_fixed
from sdesolve.compiled.lift import Lifted
from sdesolve.compiled.replay import Cotangents, Tensors, example_of
from sdesolve.compiled.step import lifted_before, lifted_step
from sdesolve.errors import CompileError, message
from sdesolve.plan import FixedPlan, first_time


class CompiledReversible(CompiledFixed):
    """The last state is kept, and a few before it."""

    name = "reversible"

    def __init__(self, plan: FixedPlan, captured: Captured, kept: int) -> None:
        super().__init__(plan, captured, -(-plan.table.total // kept))

    def lift(self, y0: Tensor) -> Lifted:
        """The step; and the same backwards."""
        loop, plan = self.loop, self.plan
        state = loop.start(y0)
        example = example_of(fixed_entries(loop)(state, 0, 1)[0], plan.system.spec)
        step = lifted_step(plan.system, plan.method, state, example)
        before = lifted_before(plan.system, plan.method, state, example)
        names = [id(x) for x in step.tensors]
        if any(id(x) not in names for x in before.tensors):
            raise CompileError(message("compile", "steps that read more backwards than forwards", "compile=False"))
        self.before = Undone(before.pure, tuple(names.index(id(x)) for x in before.tensors))
        self.recorded = Recorded.with_step(plan, [], step, y0, None, cached=True)
        return step

    def back(self, trail: FixedTrail, grad: Tensor, y0: Tensor, tensors: Tensors) -> Cotangents:
        """Steps back, forgetting what rounding has done where a state was kept."""
        step, state = Lifted(self.recorded.step, tensors), trail.followed(self.kept[self.count])
        at = Behind(state, self.nothing((state.y, *state.cache), tensors))
        for _, last, entries in stretches_back(self.loop, state, trail.due | set(self.kept)):
            state = trail.followed(self.kept.get(last, at.state))
            at = Behind(state, with_output(trail, at.at, last, grad))
            for entry in entries:
                at = undo_fixed(step, self.before, self.wanted, entry, at)
        assert self.ys is not None
        refuse_missed(trail.followed(at.state).y, y0, self.ys, self.plan.system.spec)
        return first_stage(self.recorded, first_time(self.plan), y0, tensors, at.at)
