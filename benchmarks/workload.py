"""What is measured: a workload has cases, and in a case contenders do the same work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["ours", "peer", "floor"]


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a case.

    name : as shown. role : ``"ours"``, ``"peer"``, or ``"floor"``, what any way has to spend at least.
    run : does the work once, from start to end, and returns the answer.
    needs : the package that a peer is; it is imported before the clock starts, and reported if it is not there.
    """

    name: str
    role: Role
    run: Callable[[], Any]
    needs: str | None = None


@dataclass(frozen=True)
class Case:
    """Contenders that do the same work, and how to tell that they did.

    name : the sizes. contenders : in the order in which they take turns.
    error : how wrong an answer is. measure : what that number is, in words. tolerance : what it may be at most.
    """

    name: str
    contenders: Sequence[Contender]
    error: Callable[[Any], float]
    measure: str
    tolerance: float


@dataclass(frozen=True)
class Workload:
    """A named group of cases, which are made when their turn comes."""

    name: str
    what: str
    cases: Callable[[], Sequence[Case]]
