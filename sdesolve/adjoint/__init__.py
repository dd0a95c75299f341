"""How gradients flow back through a solve."""

from collections.abc import Callable

from sdesolve.adjoint.backsolve import Backsolve
from sdesolve.adjoint.checkpoint import Checkpoint
from sdesolve.adjoint.direct import Adjoint, Direct
from sdesolve.adjoint.replay import Replay
from sdesolve.capture import Captured
from sdesolve.errors import message
from sdesolve.plan import AdaptivePlan, FixedPlan

Way = Callable[[FixedPlan | AdaptivePlan, Captured], Adjoint]

#: by name, as given to ``solve(adjoint=)``
ADJOINTS: dict[str, Way] = {"direct": Direct, "checkpoint": Checkpoint().way, "backsolve": Backsolve}


def read_adjoint(adjoint: str | Checkpoint) -> Way:
    """How a plan is run so that its result is differentiable, by name or as an object with options."""
    if isinstance(adjoint, Checkpoint):
        return adjoint.way
    if not isinstance(adjoint, str) or adjoint not in ADJOINTS:
        accepted = f"one of {', '.join(map(repr, ADJOINTS))}, or ss.Checkpoint(steps=)"
        raise ValueError(message("adjoint", repr(adjoint), accepted))
    return ADJOINTS[adjoint]


__all__ = ["ADJOINTS", "Adjoint", "Backsolve", "Checkpoint", "Direct", "Replay", "read_adjoint"]
