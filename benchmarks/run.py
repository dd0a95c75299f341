"""A run: workloads one after the other; what fails leaves the rest standing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.timing import Measurement, measure
from benchmarks.workload import Case, Contender, Workload


@dataclass
class Record:
    """What was found of one case; without a case, ``raised`` says why the workload could not be made."""

    workload: Workload
    case: Case | None
    measurements: list[Measurement] = field(default_factory=list)
    raised: str | None = None

    @property
    def title(self) -> str:
        return f"{self.workload.name}: {self.case.name}" if self.case else self.workload.name

    @property
    def sound(self) -> bool:
        """Nothing raised, and every answer is right; a peer that is not installed is no fault."""
        return self.raised is None and not any(m.status in ("error", "wrong answer") for m in self.measurements)


@dataclass
class Run:
    """What a run has found so far."""

    repeats: int
    workloads: list[str]
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False

    @property
    def sound(self) -> bool:
        return not self.interrupted and all(record.sound for record in self.records)


def run_workloads(
    workloads: Sequence[Workload],
    repeats: int,
    on_turn: Callable[[Record, Contender, int], None] = lambda record, contender, turn: None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> Run:
    """Measure all cases of the workloads.

    on_turn : called before each turn of a contender. on_record : called with each case that is finished, or, after
    Ctrl-C, with the one that is not.
    """
    run = Run(repeats, [workload.name for workload in workloads])
    try:
        for workload in workloads:
            try:
                cases = workload.cases()
            except Exception as error:
                run.records.append(Record(workload, None, raised=f"{type(error).__name__}: {error}"))
                on_record(run.records[-1])
                continue
            for case in cases:
                record = Record(workload, case)
                run.records.append(record)
                try:
                    measure(case, record.measurements, repeats, partial(on_turn, record))
                finally:
                    on_record(record)
    except KeyboardInterrupt:
        run.interrupted = True
    return run
