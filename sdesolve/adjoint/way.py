"""What every way of gradients through a solve is: options, a choice of method, and a plan that is run so."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.capture import Captured
from sdesolve.fixed_plan import FixedPlan
from sdesolve.methods import Method, choose
from sdesolve.plan import Report, Result
from sdesolve.system import System


class Adjoint(Protocol):
    """Runs a plan so that its result is differentiable."""

    def run(self, y0: Tensor, report: Report | None = None) -> Result: ...


class Way:
    """Base of the ways by which gradients flow back, each a dataclass of its options. name : as given to ``solve``."""

    name: str
    #: whether the solve by fixed steps is differentiated as it is: otherwise gradients by the output times are those of
    #: the equation
    exact_times = False
    #: whether `method` has a default of its own
    own_default = False

    def method(self, system: System, method: str | Method | None, *, adaptive: bool) -> Method:
        """The method that is solved with, for what the user asked for, by steps that adapt or do not."""
        return choose(system, method, adaptive=adaptive)

    def refuse(self, system: System, adaptive: bool) -> None:
        """Raise where the options do not suit the problem or its steps."""

    def run(self, plan: FixedPlan | AdaptivePlan, captured: Captured) -> Adjoint:
        """How the plan is run. captured : what the functions carry with them."""
        raise NotImplementedError
