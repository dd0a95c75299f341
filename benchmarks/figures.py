"""A run as data: the JSON file, and what tables, charts and pages read from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.run import Record, Run
from benchmarks.timing import Measurement, fastest, ratio
from benchmarks.workload import Target

SCHEMA = 3

#: seconds that the first call of what we compile may take, here and in a second process
FIRST_CALL, SECOND_PROCESS = 15.0, 4.0

#: processors that others keep busy, from which on a case says so
NOTABLE = 0.1

Figures = dict[str, Any]


def as_json(run: Run, surroundings: Figures) -> Figures:
    """What the file holds; times are in seconds for one call, and raw ones are kept."""
    return {
        "schema": SCHEMA,
        "settings": {"repeats": run.repeats, "workloads": run.workloads},
        "environment": surroundings,
        "interrupted": run.interrupted,
        "cases": [case_figures(record) for record in run.records],
    }


def case_figures(record: Record) -> Figures:
    """One case."""
    case, found = record.case, record.measurements
    peer = fastest(found, "peer")
    return {
        "workload": record.workload.name,
        "case": case.name if case else None,
        "raised": record.raised,
        "processors_of_others": record.others,
        "agreement": {"measure": case.measure, "tolerance": case.tolerance} if case else None,
        "size": asdict(case.size) if case and case.size else None,
        "precision": asdict(case.precision) if case and case.precision else None,
        "row": asdict(case.row) if case and case.row else None,
        "best_peer": peer.contender.name if peer else None,
        "contenders": [contender_figures(m, found) for m in found],
        "targets": [target_figures(target, found) for target in case.targets] if case else [],
    }


def contender_figures(m: Measurement, beside: Sequence[Measurement]) -> Figures:
    """One contender of a case."""
    floor = m.contender.role == "floor"
    return {
        "name": m.contender.name,
        "role": m.contender.role,
        "status": m.status,
        "raised": m.raised or m.second_raised,
        "compiled": m.contender.compiled,
        "evaluations": m.contender.evaluations,
        "order": m.contender.order,
        "first_seconds": m.first,
        "second_process_seconds": m.second_process,
        "peak_bytes": m.peak,
        "calls": m.calls,
        "seconds": m.seconds,
        "median": m.median,
        "quartiles": m.quartiles,
        "times_as_fast_as_best_peer": None if floor else ratio(fastest(beside, "peer"), m),
        "times_floor": None if floor else ratio(m, fastest(beside, "floor")),
        "error": m.error if m.error is None or math.isfinite(m.error) else str(m.error),
    }


def target_figures(target: Target, found: Sequence[Measurement]) -> Figures:
    """A target, and how far it is met; ``measured`` and ``holds`` are None where a side was not measured."""
    ours, theirs = quickest(target.contender, found), quickest(target.against, found)
    measured = ratio(theirs, ours)
    return {
        "contender": named(target.contender, ours),
        "against": named(target.against, theirs),
        "at_least": target.at_least,
        "measured": measured,
        "holds": None if measured is None else measured >= target.at_least,
    }


def quickest(names: str | Sequence[str], found: Sequence[Measurement]) -> Measurement | None:
    """The fastest of those so called whose answer is right, or whose answer is not looked at."""
    wanted = (names,) if isinstance(names, str) else names
    valid = [m for m in found if m.contender.name in wanted and m.status == "measured"]
    return min(valid, key=lambda m: m.median or math.inf, default=None)


def named(names: str | Sequence[str], one: Measurement | None) -> str:
    """The name of the one that counts, or all that might have."""
    if one is not None:
        return one.contender.name
    return names if isinstance(names, str) else " / ".join(names)


def all_targets(figures: Figures) -> Iterator[tuple[Figures, Figures]]:
    """Each target of a run with its case."""
    return ((case, target) for case in figures["cases"] for target in case["targets"])


def slowest_first(figures: Figures, key: str) -> tuple[float, str] | None:
    """The slowest first call (``"first_seconds"``, ``"second_process_seconds"``) of what we compile, and whose."""
    found = [
        (c[key], f"{title(case)}, {c['name']}")
        for case in figures["cases"]
        for c in case["contenders"]
        if c["compiled"] and c["role"] == "ours" and c[key] is not None
    ]
    return max(found, default=None)


def stands_alone(case: Figures) -> bool:
    """Whether a case is shown by itself, not as a point of a curve or a row of a table."""
    return case["size"] is None and case["precision"] is None and case["row"] is None


def verdict(holds: bool | None) -> str:
    """A target in words."""
    return "not measured" if holds is None else "holds" if holds else "does not hold"


def title(case: Figures) -> str:
    """What stands over a case."""
    return f"{case['workload']}: {case['case']}" if case["case"] else case["workload"]


def caption(case: Figures) -> str:
    """What stands below a case: what its errors are, and that others took part of the machine if they did."""
    agreement, others = case["agreement"], case["processors_of_others"]
    text = f"error: {agreement['measure']}; at most {agreement['tolerance']:g}"
    return text if others is None or others < NOTABLE else f"{text}. Meanwhile others kept {others:.1f} processors busy"


def milliseconds(seconds: float) -> str:
    """Three digits, without exponent."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def write_json(figures: Figures, path: Path) -> None:
    """Write the file."""
    path.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Figures:
    """Read a file of an earlier run; ValueError for what is none of this version's."""
    accepted = f"accepted is schema {SCHEMA}, as `python -m benchmarks --json FILE` writes"
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--from-json: {path} is no JSON ({error}); {accepted}") from error
    if not isinstance(figures, dict) or figures.get("schema") != SCHEMA:
        schema = figures.get("schema") if isinstance(figures, dict) else None
        raise ValueError(f"--from-json: {path} has schema {schema}; {accepted}")
    return figures
