"""Gradients by stepping back algebraically: exact, in memory that does not grow with the steps.

The last state is kept; the states before it, and their gradients, follow from it step by step. A few more are kept,
however many steps there are: where one is come to, the rounding errors made so far are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.adjoint.parameters import refuse_missed
from sdesolve.adjoint.pull import Pull
from sdesolve.adjoint.retrace import Found, Retraced, Tape
from sdesolve.adjoint.reversible_compiled import compiled_reversible
from sdesolve.adjoint.trail import Kept, Trail, gradient, gradient_of
from sdesolve.adjoint.way import Adjoint, Way
from sdesolve.capture import Captured
from sdesolve.errors import CompileError, message
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods import METHODS, Method, choose
from sdesolve.methods.method import Increments, State
from sdesolve.methods.reversible import Behind, Coupled, ReversibleMethod, able, check_coupling
from sdesolve.outputs import Inside
from sdesolve.system import System

#: states that are kept
_KEPT = 16


@dataclass(frozen=True)
class Reversible(Way):
    """Steps that can be taken back: the gradients of ``"direct"`` through these steps, from a few states.

    The solve is by a reversible method: ``"reversible_heun"``, the default for SDEs, or another one that is made so
    (see :class:`sdesolve.methods.Coupled`): explicit Runge-Kutta methods for ODEs (default ``"tsit5"``), and ``"heun"``
    for Stratonovich SDEs. Times and lengths of adaptive steps are kept besides. The functions must give the same values
    until the way back. A trajectory that fails has gradient 0, its start as an output apart. One derivative.

    These methods carry two solutions, which draw apart where an equation draws its own together: over a time in which
    it forgets its start by some factor 1e6, they are not stable at a coupling near 1. A solve whose two solutions have
    drawn apart fails, and a way back that does not end at y0 raises; ``"checkpoint"`` is for such equations.

    Parameters
    ----------
    coupling : how strongly the two solutions of methods that are made reversible hold together, 0 < coupling <= 1.
        Nearer to 0 it is stable for longer, but rounding errors of the way back grow by its inverse a step.
        ``"reversible_heun"`` has none.
    """

    coupling: float = 0.999
    name = "reversible"
    doubles = False
    own_default = True

    def __post_init__(self) -> None:
        check_coupling(self.coupling)

    def method(self, system: System, method: str | Method | None, *, adaptive: bool) -> Method:
        """The reversible one."""
        read_as_ito = system.is_sde and system.calculus == "ito" and not system.additive
        if method is not None or not read_as_ito:
            chosen = choose(system, method or ("reversible_heun" if system.is_sde else "tsit5"))
            if isinstance(chosen, ReversibleMethod):
                return chosen
        if read_as_ito:
            accepted = "it for Stratonovich SDEs and for additive noise"
            advice = "Solve sde.to_calculus('stratonovich'), which is the same process, or take adjoint='checkpoint'."
            raise ValueError(message("adjoint", "'reversible' for an Ito SDE", accepted, advice))
        if not able(chosen):
            names = ["reversible_heun", *(m.name for m in METHODS.values() if m.problem == chosen.problem and able(m))]
            accepted = ", ".join(map(repr, names))
            raise ValueError(message("method", f"{chosen.name!r} with adjoint='reversible'", f"one of {accepted}"))
        return Coupled(chosen, self.coupling)

    def run(self, plan: FixedPlan | AdaptivePlan, captured: Captured) -> Adjoint:
        """How the plan is run."""
        if plan.compile_chunk is not None:
            if isinstance(plan, FixedPlan):
                return compiled_reversible(plan, captured, _KEPT)
            advice = "Use adjoint='direct' or 'backsolve', fixed steps, or drop compile=True."
            got = "True with adjoint='reversible' and adaptive steps"
            raise CompileError(message("compile", got, "it with fixed steps", advice))
        if isinstance(plan, AdaptivePlan) and len(tuple(plan.control.jumps)):
            advice = "Use adjoint='checkpoint' or 'direct'."
            raise ValueError(message("jumps", "jumps with adjoint='reversible'", "no jumps", advice))
        return Retraced(plan, captured, self)

    def tape(self) -> Tape:
        """Which keeps a few states beside the last."""
        return _Tape()

    def back(self, trail: Trail, tape: _Tape, y0: Tensor, ys: Tensor, grad: Tensor, parameters: list[Tensor]) -> Found:
        """Gradients by y0 and the parameters."""
        method, system = trail.method, trail.system
        assert isinstance(method, ReversibleMethod) and tape.last is not None
        pull, state = Pull(parameters), trail.followed(tape.last)
        at = Behind(state, State(torch.zeros_like(state.y), tuple(map(torch.zeros_like, state.cache))))
        with torch.no_grad():
            at = _with_output(at, gradient(trail, trail.count, grad))
            for number, inc, taken in trail.backwards():
                state = trail.followed(tape.kept.states.get(number + 1, at.state))
                at = at._replace(state=state)
                at = method.undo(system, inc, at, taken, pull)
                inside = trail.inside(number)
                if inside is not None:
                    at = _through(method, system, inc, at, pull, inside[0], gradient_of(trail, inside[1], grad))
                output = gradient(trail, number, grad) if number else None
                pull.due = output is not None
                at = _with_output(at, output)
        start = y0.detach().requires_grad_()
        with torch.enable_grad():
            first = trail.start(start)
        gradients = list(zip((first.y, *first.cache), (at.gradient.y, *at.gradient.cache), strict=True))
        refuse_missed(trail.followed(at.state).y, first.y.detach(), ys, system.spec)
        pull.check([x for x, _ in gradients], [start], lambda: [first.y, *first.cache])
        (found,) = pull.grad(gradients, [start])
        output = gradient(trail, 0, grad)
        return found if output is None or found is None else found + output, *pull.sums


class _Tape(Tape):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept(_KEPT)

    def keep(self, state: State) -> None:
        super().keep(state)
        self.kept(state)


def _with_output(at: Behind, output: Tensor | None) -> Behind:
    """What an output says of the state's gradient is added."""
    return at if output is None else at._replace(gradient=at.gradient._replace(y=at.gradient.y + output))


def _through(
    method: Method, system: System, inc: Increments, at: Behind, pull: Pull, inside: Inside, gradients: Tensor
) -> Behind:
    """What outputs within a step, given the gradients by them, say of the state before it."""
    inputs = [x.detach().requires_grad_() for x in (at.state.y, *at.state.cache)]
    with torch.enable_grad():
        step = method.step(system, State(inputs[0], tuple(inputs[1:])), inc, dense=True)
        values = inside.values(system.spec, inputs[0], step.dense)
    found = pull.grad([(values, gradients)], inputs)
    before = (at.gradient.y, *at.gradient.cache)
    y, *cache = (x if more is None else x + more for x, more in zip(before, found, strict=True))
    return at._replace(gradient=State(y, tuple(cache)))
