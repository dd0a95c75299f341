"""How gradients flow back through a solve."""

from collections.abc import Callable

from sdesolve.adjoint.backsolve import Backsolve
from sdesolve.adjoint.direct import Adjoint, Direct
from sdesolve.adjoint.replay import Replay
from sdesolve.capture import Captured
from sdesolve.plan import AdaptivePlan, FixedPlan

#: by name, as given to ``solve(adjoint=)``
ADJOINTS: dict[str, Callable[[FixedPlan | AdaptivePlan, Captured], Adjoint]] = {
    "direct": Direct,
    "backsolve": Backsolve,
}

__all__ = ["ADJOINTS", "Adjoint", "Backsolve", "Direct", "Replay"]
