"""Compiled fixed steps of a reversible method, taken back by a compiled loop: in memory that does not grow."""

from __future__ import annotations

from torch import Tensor

from sdesolve.adjoint.compiled_fixed import CompiledFixed, stretches_back, with_output
from sdesolve.adjoint.parameters import refuse_missed
from sdesolve.adjoint.replay import Recorded, first_stage
from sdesolve.adjoint.trail import FixedTrail, restored
from sdesolve.capture import Captured
from sdesolve.compiled.fixed import fixed_entries
from sdesolve.compiled.going_back import Behind, Pending, Undone, undo_fixed, undo_heun_fixed
from sdesolve.compiled.lift import Lifted
from sdesolve.compiled.replay import Cotangents, Tensors, example_of
from sdesolve.compiled.step import lifted_before, lifted_fields, lifted_step
from sdesolve.errors import CompileError, message
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods.method import State
from sdesolve.methods.reversible import ReversibleHeun
from sdesolve.plan import first_time

#: steps between kept states, at least: each is a call of the graph
_EVERY = 32


def compiled_reversible(plan: FixedPlan, captured: Captured, kept: int) -> CompiledReversible:
    """How such a plan is run; a few states are kept beside the last."""
    kind = CompiledReversibleHeun if isinstance(plan.method, ReversibleHeun) else CompiledReversible
    return kind(plan, captured, max(-(-plan.table.total // kept), _EVERY))


class CompiledReversible(CompiledFixed):
    """Any reversible method: the step backwards, and then the product of the step forwards."""

    name = "reversible"

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
        return self._start(trail, at.state.y, at.at, y0, tensors)

    def _start(self, trail: FixedTrail, found: Tensor, at: Cotangents, y0: Tensor, tensors: Tensors) -> Cotangents:
        refuse_missed(trail.followed(State(found)).y, y0, self.outputs(), self.plan.system.spec)
        return first_stage(self.recorded, first_time(self.plan), y0, tensors, at)


class CompiledReversibleHeun(CompiledReversible):
    """One evaluation of drift and diffusion a step."""

    def lift(self, y0: Tensor) -> Lifted:
        """Drift and diffusion."""
        loop, plan = self.loop, self.plan
        self.example = example_of(fixed_entries(loop)(loop.start(y0), 0, 1)[0], plan.system.spec).w
        fields = lifted_fields(plan.system, first_time(plan), y0)
        self.recorded = Recorded.with_step(plan, [], fields, y0, None, cached=True)
        return fields

    def back(self, trail: FixedTrail, grad: Tensor, y0: Tensor, tensors: Tensors) -> Cotangents:
        """Steps back; y is known where a state was kept, and at outputs, where stretches end."""
        ys = self.outputs()
        fields, end = Lifted(self.recorded.step, tensors), trail.followed(self.kept[self.count])
        z, at = end.cache[0], self.nothing((end.y, *end.cache), tensors)
        for _, last, entries in stretches_back(self.loop, end, trail.due | set(self.kept)):
            y = restored(trail, last, ys, z)
            if last in self.kept:
                y, z = self.kept[last].y, self.kept[last].cache[0]
            here = trail.followed(State(y, (z,)))
            y, z = here.y, here.cache[0]
            pending = Pending.known(y, z, self.example, with_output(trail, at, last, grad))
            for entry in entries:
                pending = undo_heun_fixed(fields, self.wanted, entry, pending)
            z, at = pending.z, pending.at
        return self._start(trail, z, at, y0, tensors)
