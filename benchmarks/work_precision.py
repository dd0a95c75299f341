"""Diagrams of error against work: what the cases of a run say of each method's error, evaluations and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from benchmarks.figures import Figures

#: errors below this are rounding
ROUNDING = 1e-13


@dataclass(frozen=True)
class Point:
    """One number of steps: evaluations and paths are of a run, seconds its median."""

    steps: int
    paths: int
    evaluations: int | None
    seconds: float
    error: float


@dataclass
class Curve:
    """One contender on one problem."""

    name: str
    role: str
    order: float | None
    points: list[Point] = field(default_factory=list)

    @property
    def slope(self) -> float | None:
        """Least squares of log error on log step; None for fewer than two errors above rounding."""
        found = [(-math.log(p.steps), math.log(p.error)) for p in self.points if p.error > ROUNDING]
        if len(found) < 2:
            return None
        middle, level = (sum(column) / len(found) for column in zip(*found, strict=True))
        square = sum((x - middle) ** 2 for x, _ in found)
        return sum((x - middle) * (y - level) for x, y in found) / square

    def work_for(self, error: float, work: Callable[[Point], float | None]) -> tuple[float, bool] | None:
        """What it takes for an error, between the points or beyond them by the line through the nearest two, and
        whether it is beyond; None where that says nothing."""
        found = [(p.error, w) for p in self.points if (w := work(p)) is not None and p.error > ROUNDING]
        if len(found) < 2:
            return None
        pairs = list(pairwise(found))
        inside = [pair for pair in pairs if pair[0][0] >= error >= pair[1][0]]
        (e0, w0), (e1, w1) = inside[0] if inside else pairs[0] if error > found[0][0] else pairs[-1]
        if e1 >= e0:
            return None
        share = math.log(e0 / error) / math.log(e0 / e1)
        return w0 * (w1 / w0) ** share, not inside

    @property
    def step_and_path(self) -> float:
        """Seconds of a step of one path, at the most steps."""
        last = self.points[-1]
        return last.seconds / (last.steps * last.paths)

    @property
    def step(self) -> float:
        """Seconds of a step of all paths, at the most steps."""
        return self.points[-1].seconds / self.points[-1].steps


@dataclass(frozen=True)
class Diagram:
    """All contenders on a problem. failed : those that were not measured at some number of steps, and why."""

    group: str
    goal: float
    paths: int
    curves: Sequence[Curve]
    failed: dict[str, str]

    @property
    def file(self) -> str:
        return f"work_precision_{self.group.replace(' ', '_').replace('-', '_')}.png"


def diagrams(figures: Figures) -> Iterator[Diagram]:
    """One for each problem of a run."""
    cases = [case for case in figures["cases"] if case["precision"] is not None]
    for group, of_group in groupby(cases, lambda case: case["precision"]["group"]):
        yield _diagram(group, list(of_group))


def _diagram(group: str, cases: Sequence[Figures]) -> Diagram:
    curves: dict[str, Curve] = {}
    failed: dict[str, str] = {}
    for case in sorted(cases, key=lambda case: case["precision"]["steps"]):
        steps, paths = case["precision"]["steps"], case["precision"]["paths"]
        for c in case["contenders"]:
            if c["status"] != "measured":
                failed[c["name"]] = f"{c['status']} at {steps} steps" + (f": {c['raised']}" if c["raised"] else "")
                continue
            curve = curves.setdefault(c["name"], Curve(c["name"], c["role"], c["order"]))
            curve.points.append(Point(steps, paths, c["evaluations"], c["median"], float(c["error"])))
    first = cases[0]["precision"]
    return Diagram(group, first["goal"], first["paths"], list(curves.values()), failed)
