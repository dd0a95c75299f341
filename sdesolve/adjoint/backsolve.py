"""The continuous adjoint: gradients by solving one more equation, backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.adjoint.adjoint_system import Control
from sdesolve.adjoint.backsolve_ode import ContinuousAdjoint
from sdesolve.adjoint.backsolve_sde import AlongPath
from sdesolve.adjoint.backsolve_sde_compiled import CompiledAlongPath
from sdesolve.adjoint.retrace import Retraced
from sdesolve.adjoint.way import Adjoint, Way
from sdesolve.capture import Captured
from sdesolve.errors import CompileError, message
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods import Auto, Method, Rosenbrock, choose
from sdesolve.system import System


@dataclass(frozen=True)
class Backsolve(Way):
    """The continuous adjoint, in memory that does not grow with the steps: gradients that are right up to the error of
    the solve and of one more.

    ODE: the state and its adjoint are solved backwards by the same method (tsit5 instead of one that is made for a kind
    of problem), once however many outputs there are; with fixed steps by the same steps, otherwise by steps of its own.
    SDE: along the same Brownian path by the same steps in reverse, with Heun's method for the Stratonovich form of the
    equation; error of order 1 in the step where the noise commutes (diagonal, scalar, additive), 1/2 where it does not.
    An equation that forgets its past fast is unstable backwards: there ``"checkpoint"`` is right. One derivative.

    Parameters
    ----------
    rtol, atol : of an ODE's backward solve with adaptive steps. Default: those of the forward solve.
    seminorm : whether the parameters' integral, on which nothing else depends, is left out when steps are judged
        (Kidger, Chen & Lyons 2021, arXiv:2009.09457), as long as its error is below 100 times the tolerance: where the
        state hardly moves, nothing else would see it. False: it counts like the state.
    """

    rtol: float | None = None
    atol: float | None = None
    seminorm: bool = True
    name = "backsolve"
    own_default = True

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            _check_tolerance(name, value)
        if not isinstance(self.seminorm, bool):
            raise TypeError(message("seminorm", repr(self.seminorm), "True or False"))

    def method(self, system: System, method: str | Method | None, *, adaptive: bool) -> Method:
        """For an SDE whose integral is read backwards by Heun's method, by default that method: the steps of one of
        higher order would be too long for it."""
        if method is None and system.is_sde and system.calculus == "stratonovich" and not system.additive:
            method = "heun"
        chosen = choose(system, method, adaptive=adaptive)
        if chosen.may_fail or isinstance(chosen, (Auto, Rosenbrock)):
            got = f"'backsolve' with the implicit method {chosen.name!r}"
            advice = "Heun's steps back are explicit, and not stable where a solve needs implicit ones."
            if not system.is_sde:
                advice = "The adjoint equation, solved backwards, is not stable where a solve needs implicit steps."
            raise ValueError(message("adjoint", got, "'direct' or 'checkpoint' with it", advice))
        return chosen

    def refuse(self, system: System, adaptive: bool) -> None:
        """Raise for tolerances that nothing would read."""
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if value is not None and (system.is_sde or not adaptive):
                accepted = "one without it for SDEs and fixed steps, whose steps the backward solve takes in reverse"
                raise ValueError(message("adjoint", f"ss.Backsolve({name}={value})", accepted))

    def run(self, plan: FixedPlan | AdaptivePlan, captured: Captured) -> Adjoint:
        """How the plan is run."""
        if not plan.system.is_sde:
            return ContinuousAdjoint(plan, captured, Control(self.rtol, self.atol, self.seminorm))
        if plan.compile_chunk is not None:
            return _compiled(plan, captured)
        return Retraced(plan, captured, AlongPath())


def _compiled(plan: FixedPlan | AdaptivePlan, captured: Captured) -> Adjoint:
    """Of an SDE."""
    if isinstance(plan, AdaptivePlan):
        got, accepted = "True with adjoint='backsolve' and adaptive steps of an SDE", "it with fixed steps"
        raise CompileError(message("compile", got, accepted, "Use adjoint='direct', dt=, or drop compile=True."))
    if plan.system.calculus == "ito" and not plan.system.additive:
        got = "True with adjoint='backsolve' for an Ito SDE, whose correction is a derivative"
        accepted = "it for Stratonovich SDEs and for additive noise"
        raise CompileError(message("compile", got, accepted, "Use adjoint='direct' or 'checkpoint'."))
    return CompiledAlongPath(plan, captured)


def _check_tolerance(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(message(name, repr(value), "a positive number or None"))
    if not 0 < value < float("inf"):
        raise ValueError(message(name, value, "a positive number or None"))
