"""How gradients flow back through a solve."""

from sdesolve.adjoint.backsolve import Backsolve
from sdesolve.adjoint.checkpoint import Checkpoint
from sdesolve.adjoint.direct import Direct
from sdesolve.adjoint.recorded_events import RecordedEvents
from sdesolve.adjoint.reversible import Reversible
from sdesolve.adjoint.times import MovingTimes
from sdesolve.adjoint.way import Adjoint, Way
from sdesolve.errors import message

#: by name, as given to ``solve(adjoint=)``
ADJOINTS: dict[str, Way] = {way.name: way for way in (Direct(), Checkpoint(), Backsolve(), Reversible())}


def read_adjoint(adjoint: str | Way) -> Way:
    """How a plan is run so that its result is differentiable, by name or as an object with options."""
    if isinstance(adjoint, Way):
        return adjoint
    if not isinstance(adjoint, str) or adjoint not in ADJOINTS:
        options = ", ".join(f"ss.{type(way).__name__}(...)" for way in ADJOINTS.values())
        accepted = f"one of {', '.join(map(repr, ADJOINTS))}, or an object with options, {options}"
        raise ValueError(message("adjoint", repr(adjoint), accepted))
    return ADJOINTS[adjoint]


__all__ = [
    "ADJOINTS",
    "Adjoint",
    "Backsolve",
    "Checkpoint",
    "Direct",
    "MovingTimes",
    "RecordedEvents",
    "Reversible",
    "Way",
    "read_adjoint",
]
