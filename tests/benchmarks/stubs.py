"""Contenders that take the time they are told, on a clock of their own: no test here measures anything."""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.workload import Case, Contender, Role, Size, Workload


class Clock:
    """Reads what the contenders have spent, and keeps who ran when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contender(
        self, name: str, costs: Sequence[float], role: Role = "ours", answer: float = 1.0, **options: Any
    ) -> Contender:
        """Its n-th call costs the n-th of `costs`; the last one goes on for ever."""
        left = list(costs)

        def run() -> float:
            self.ran.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return answer

        return Contender(name, role, run, **options)


def raising(name: str, error: BaseException, after: int = 0, role: Role = "ours") -> Contender:
    """Raises in every call but the first `after` ones."""
    calls = 0

    def run() -> float:
        nonlocal calls
        calls += 1
        if calls > after:
            raise error
        return 1.0

    return Contender(name, role, run)


def case_of(*contenders: Contender, name: str = "small", **options: Any) -> Case:
    """The right answer is 1."""
    return Case(name, contenders, lambda answer: abs(answer - 1.0), "distance from 1", 0.1, **options)


def workload_of(name: str, *contenders: Contender, **options: Any) -> Workload:
    return Workload(name, f"the workload {name}", lambda device: [case_of(*contenders, **options)])


def curve(name: str, cost: float, sizes: Sequence[int]) -> Workload:
    """Cases that differ in their batch; both contenders take `cost` for each of it."""
    clock = Clock()

    def one(size: int) -> Case:
        ours, theirs = clock.contender("ours", [cost * size]), clock.contender("theirs", [cost * size], role="peer")
        return case_of(ours, theirs, name=f"batch {size}", size=Size("all by batch", "batch", size))

    return Workload(name, f"the workload {name}", lambda device: [one(size) for size in sizes])


def broken(name: str) -> Workload:
    def cases(device: torch.device) -> list[Case]:
        raise RuntimeError("no cases")

    return Workload(name, "cannot be made", cases)


def house(*workloads: Workload) -> dict[str, Workload]:
    return {workload.name: workload for workload in workloads}
