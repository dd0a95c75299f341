"""How it is measured: contenders take turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
import importlib
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.machine import work_of_others
from benchmarks.memory import with_peak
from benchmarks.workload import Case, Contender

Clock = Callable[[], float]

#: a contender that is faster than this is called several times in a row, and the time divided by their number
LEAST_SECONDS = 0.02
MOST_CALLS = 1000


@dataclass
class Measurement:
    """What is known of one contender; it fills up while the case runs.

    first : seconds of the first call, compilation included. second_process : those in a second process, if asked for.
    peak : bytes by which memory grew at most during the second call. calls : calls in a repetition.
    seconds : one number a repetition, for one call. error : of the answers, None for a floor.
    missing : its package or program is not installed. raised : what went wrong; second_raised : what
    did in the second process.
    """

    contender: Contender
    tolerance: float
    first: float | None = None
    second_process: float | None = None
    peak: int | None = None
    calls: int = 1
    seconds: list[float] = field(default_factory=list)
    error: float | None = None
    missing: bool = False
    raised: str | None = None
    second_raised: str | None = None

    @property
    def wrong(self) -> bool:
        """The answer is not within the tolerance; NaN is not."""
        return self.error is not None and not self.error <= self.tolerance

    @property
    def status(self) -> str:
        if self.missing:
            return "not installed"
        if self.raised is not None:
            return "error"
        if self.wrong:
            return "wrong answer"
        return "measured" if self.seconds else "not finished"

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        return quartiles(self.seconds) if self.seconds else None


def quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile, interpolated between order statistics; of one number, that number twice."""
    if len(seconds) == 1:
        return seconds[0], seconds[0]
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, high


def fastest(measurements: Sequence[Measurement], role: str) -> Measurement | None:
    """The one with the least median among those of a role whose answer is right."""
    valid = [m for m in measurements if m.contender.role == role and m.status == "measured"]
    return min(valid, key=lambda m: statistics.median(m.seconds), default=None)


def ratio(above: Measurement | None, below: Measurement | None) -> float | None:
    """The quotient of two medians, None where one is not to be had or its answer is wrong."""
    if above is None or below is None or {above.status, below.status} != {"measured"}:
        return None
    return statistics.median(above.seconds) / statistics.median(below.seconds)


def measure(
    case: Case,
    measurements: list[Measurement],
    repeats: int,
    on_turn: Callable[[Contender, int], None] = lambda contender, turn: None,
    clock: Clock = time.perf_counter,
) -> float | None:
    """Measure the contenders of a case: each warms up, then all take turns, ``repeats`` times.

    measurements : the list to fill; what it holds on Ctrl-C is right as far as it goes.
    on_turn : called before each turn with the contender and the number of the turn, 0 for the warming up.

    Returns how many processors other programs kept busy during the turns, None where the system does not tell.
    """
    measurements += [Measurement(contender, case.tolerance) for contender in case.contenders]
    for measurement in measurements:
        on_turn(measurement.contender, 0)
        measurement.raised = raised(partial(_warm_up, measurement, case, clock))
    others = work_of_others()
    for turn in range(1, repeats + 1):
        for measurement in measurements:
            if measurement.missing or measurement.raised or turn > (measurement.contender.turns or repeats):
                continue
            on_turn(measurement.contender, turn)
            measurement.raised = raised(partial(_turn, measurement, clock))
    return others()


def raised(act: Callable[[], None]) -> str | None:
    """What it raises, in a line: what one contender raises does not stop the others."""
    try:
        act()
    except Exception as error:
        text = str(error).strip().splitlines()
        return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    return None


def _warm_up(measurement: Measurement, case: Case, clock: Clock) -> None:
    """Two calls: the first compiles and fills caches, the second tells the memory, and how often to call in a turn."""
    contender = measurement.contender
    if not _is_there(contender):
        measurement.missing = True
        return
    measurement.first, answer = _timed(contender, 1, clock)
    (seconds, again), measurement.peak = with_peak(partial(_timed, contender, 1, clock))
    measurement.calls = max(1, min(MOST_CALLS, math.ceil(LEAST_SECONDS / max(seconds, 1e-9))))
    if contender.role != "floor":
        errors = [case.error(answer), case.error(again)]
        measurement.error = math.nan if any(map(math.isnan, errors)) else max(errors)


def _turn(measurement: Measurement, clock: Clock) -> None:
    measurement.seconds.append(_timed(measurement.contender, measurement.calls, clock)[0])


def _is_there(contender: Contender) -> bool:
    """Whether its package and its program are installed."""
    if contender.program is not None and shutil.which(contender.program) is None:
        return False
    return contender.needs is None or _installed(contender.needs)


def _installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            return False
        raise
    return True


def _timed(contender: Contender, calls: int, clock: Clock) -> tuple[float, Any]:
    """Seconds of one call, and its answer. Nobody pays for the garbage of the one before."""
    gc.collect()
    _synchronise()
    start = clock()
    for _ in range(calls):
        answer = contender.run()
    _synchronise()
    return (clock() - start) / calls, answer


def _synchronise() -> None:
    """Wait for the GPU, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
