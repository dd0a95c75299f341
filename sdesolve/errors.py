"""Every exception of the library, and the one form that their messages have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdesolve.solution import Solution, Status

__all__ = [
    "CompileError",
    "CoupledTrajectoriesError",
    "FunctionError",
    "SolveError",
    "SolveInterrupted",
    "TrainingModeError",
    "message",
]


def message(argument: str, got: object, accepted: str, advice: str = "") -> str:
    """One form for all: which argument, what came, what is accepted, and what to do."""
    text = f"{argument}: got {got}; accepted is {accepted}."
    return f"{text} {advice}" if advice else text


class SolveError(RuntimeError):
    """A solve that could not be finished.

    Attributes
    ----------
    reason : Status or None
        why the first failed trajectory stopped.
    time : float or None
        a time in the output interval in which it stopped (its last good time, for adaptive steps).
    paths : list of int
        ids of the failed trajectories.
    solution : Solution or None
        everything that was computed; NaN where nothing was.
    """

    def __init__(
        self,
        text: str,
        *,
        reason: Status | None = None,
        time: float | None = None,
        paths: list[int] | None = None,
        solution: Solution | None = None,
    ) -> None:
        super().__init__(text)
        self.reason, self.time, self.paths, self.solution = reason, time, paths or [], solution


class CompileError(SolveError):
    """``compile=True`` cannot be done: no C++ compiler, or user code that cannot be compiled."""


class FunctionError(ValueError):
    """A drift or diffusion returned something of the wrong shape, dtype or kind."""


class CoupledTrajectoriesError(ValueError):
    """Trajectories that should be independent read one another."""


class TrainingModeError(ValueError):
    """A module in training mode would draw noise or move its buffers at every evaluation."""


class SolveInterrupted(KeyboardInterrupt):
    """Ctrl-C during a solve; ``solution`` holds what was finished before it."""

    def __init__(self, solution: Any) -> None:
        super().__init__("solve interrupted; the finished part is in .solution of this exception")
        self.solution = solution
