"""What is measured: a workload has cases, and in a case contenders do the same work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

Role = Literal["ours", "peer", "hand", "floor"]


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a case.

    name : as shown. role : ``"ours"``; ``"peer"``, a library; ``"hand"``, a loop written for this one equation; or
    ``"floor"``, what any way has to spend at least, which gives no answer.
    run : does the work once, from start to end, and returns the answer.
    needs : the package that it uses; it is imported before the clock starts, and reported if it is not there.
    program : the program that it needs on the path, a compiler.
    compiled : its first call is measured in a second process too, if that is asked for.
    evaluations : of drift and diffusion along a trajectory in a run, for a diagram of error against work; order : at
    which the error should fall there.
    cpu_only : left out on other devices. turns : the most turns it takes, for what is very slow.
    """

    name: str
    role: Role
    run: Callable[[], Any]
    needs: str | None = None
    program: str | None = None
    compiled: bool = False
    cpu_only: bool = False
    turns: int | None = None
    evaluations: int | None = None
    order: float | None = None


@dataclass(frozen=True)
class Target:
    """What a case must show: ``contender`` is at least ``at_least`` times as fast as ``against``.

    Both may be several names; then the fastest of them counts. A floor's target is below 1: 0.8 says that 1.25 of the
    floor is the most that may be spent.
    """

    contender: str | tuple[str, ...]
    against: str | tuple[str, ...]
    at_least: float


@dataclass(frozen=True)
class Size:
    """Where a case stands among others that differ in one number: ``group`` names them, ``along`` the number. memory :
    how it grows is shown too."""

    group: str
    along: str
    value: int
    memory: bool = False

    def __str__(self) -> str:
        return f"{self.group}, {self.along} = {self.value:,}"


@dataclass(frozen=True)
class Precision:
    """Where a case stands in a diagram of error against work: ``group`` names the problem, which is solved along so
    many ``paths`` with so many ``steps``. goal : the error for which tables tell the work."""

    group: str
    paths: int
    steps: int
    goal: float

    def __str__(self) -> str:
        return f"{self.group}, {self.steps} steps"


@dataclass(frozen=True)
class Row:
    """A case that is a row of a table of like cases: the table's title, and what stands before the row."""

    table: str
    head: str

    def __str__(self) -> str:
        return f"{self.table}: {self.head}"


@dataclass(frozen=True)
class Case:
    """Contenders that do the same work, and how to tell that they did.

    name : the sizes. contenders : in the order in which they take turns.
    error : how wrong an answer is. measure : what that number is, in words. tolerance : what it may be at most.
    targets : what must come out. size : for a case that is a point of a curve; precision : for one of a diagram of
    error against work; row : for one of a table. slow : left out where little time is to be spent.
    """

    name: str
    contenders: Sequence[Contender]
    error: Callable[[Any], float]
    measure: str
    tolerance: float
    targets: Sequence[Target] = ()
    size: Size | None = None
    precision: Precision | None = None
    row: Row | None = None
    slow: bool = False


@dataclass(frozen=True)
class Workload:
    """A named group of cases, which are made for a device when their turn comes."""

    name: str
    what: str
    cases: Callable[[torch.device], Sequence[Case]]
