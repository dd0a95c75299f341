"""A run: workloads one after the other; what fails leaves the rest standing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from benchmarks.timing import Measurement, measure, raised
from benchmarks.workload import Case, Contender, Workload

CPU = torch.device("cpu")

SecondProcess = Callable[[str, str, str, str], float]


@dataclass
class Record:
    """What was found of one case; without a case, ``raised`` says why the workload could not be made.

    others : how many processors other programs kept busy meanwhile.
    """

    workload: Workload
    case: Case | None
    measurements: list[Measurement] = field(default_factory=list)
    raised: str | None = None
    others: float | None = None

    @property
    def title(self) -> str:
        return f"{self.workload.name}: {self.case.name}" if self.case else self.workload.name

    @property
    def sound(self) -> bool:
        """Nothing raised, and every answer is right; a peer that is not installed is no fault."""
        if self.raised is not None or any(m.second_raised for m in self.measurements):
            return False
        return not any(m.status in ("error", "wrong answer") for m in self.measurements)


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
    device: torch.device = CPU,
    second_process: SecondProcess | None = None,
    quick: bool = False,
) -> Run:
    """Measure all cases of the workloads.

    on_turn : called before each turn of a contender. on_record : called with each case that is finished, or, after
    Ctrl-C, with the one that is not. second_process : from names of workload, case, contender and device to the
    seconds of the first call in a new process; asked for those that compile, of cases that are not slow.
    quick : leave those out.
    """
    run = Run(repeats, [workload.name for workload in workloads])
    try:
        for workload in workloads:
            try:
                cases = [_on(device, case) for case in workload.cases(device) if not (quick and case.slow)]
            except Exception as error:
                run.records.append(Record(workload, None, raised=f"{type(error).__name__}: {error}"))
                on_record(run.records[-1])
                continue
            for case in cases:
                record = Record(workload, case)
                run.records.append(record)
                try:
                    record.others = measure(case, record.measurements, repeats, partial(on_turn, record))
                    if second_process is not None and not case.slow:
                        _again(record, device, second_process)
                finally:
                    on_record(record)
    except KeyboardInterrupt:
        run.interrupted = True
    return run


def _on(device: torch.device, case: Case) -> Case:
    """The case without what does not run on the device."""
    return replace(case, contenders=[c for c in case.contenders if device.type == "cpu" or not c.cpu_only])


def _again(record: Record, device: torch.device, second_process: SecondProcess) -> None:
    """First calls in a second process, of those that compile and came through."""
    for m in record.measurements:
        if m.contender.compiled and m.status == "measured":
            m.second_raised = raised(partial(_once_more, record, m, device, second_process))


def _once_more(record: Record, m: Measurement, device: torch.device, second_process: SecondProcess) -> None:
    assert record.case is not None
    m.second_process = second_process(record.workload.name, record.case.name, m.contender.name, str(device))
