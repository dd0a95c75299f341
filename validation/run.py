"""A run: sections one after the other, each case on its own, so that what fails leaves the rest standing.

Cases may be measured in several processes. What a case finds depends on its name and the seed alone, and checks are
recorded in the order of the cases, so that the report is the same for any number of them.
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from validation.check import Case, Check, Section, Settings


@dataclass
class Run:
    """What a run has found so far.

    checks : in the order in which they finished. timings : seconds by (section, case). interrupted : Ctrl-C.
    """

    settings: Settings
    sections: list[str]
    checks: list[Check] = field(default_factory=list)
    timings: dict[tuple[str, str], float] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """Everything was measured and every check passed; a run without checks has shown nothing."""
        return bool(self.checks) and not self.interrupted and all(check.passed for check in self.checks)


def run_sections(
    sections: Sequence[Section],
    settings: Settings,
    on_check: Callable[[Check], None] = lambda check: None,
    on_case: Callable[[Section, str, int, int], None] = lambda section, case, done, total: None,
    jobs: int = 1,
) -> Run:
    """Run the cases of all sections.

    on_check : called with each check when it is finished. on_case : called before each case, and once at the end, with
    the number of finished cases and of all. jobs : processes; with more than one, their sections are those of modules.
    """
    run = Run(settings, [section.name for section in sections])

    def record(check: Check) -> None:
        run.checks.append(check)
        on_check(check)

    work: list[tuple[Section, int, Case]] = []
    for section in sections:
        try:
            work += [(section, number, case) for number, case in enumerate(section.cases(settings))]
        except Exception:
            record(_raised(section, "cases"))
    try:
        with _pool(jobs) as pool:
            ahead = [pool.submit(_elsewhere, section, number, settings) for section, number, _ in work] if pool else []
            for done, (section, _, case) in enumerate(work):
                on_case(section, case.name, done, len(work))
                seconds = _received(ahead[done], section, case, record) if ahead else _measured(section, case, record)
                run.timings[section.name, case.name] = seconds
        if work:
            on_case(work[-1][0], "", len(work), len(work))
    except KeyboardInterrupt:
        run.interrupted = True
    return run


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that each import the sections anew; None for a single job. What is not begun is dropped at the end."""
    if jobs == 1:
        yield None
        return
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _measured(section: Section, case: Case, record: Callable[[Check], None]) -> float:
    """Record the checks of a case as they come, and an exception as one; its seconds."""
    start = time.perf_counter()
    try:
        for check in case.run():
            record(check)
    except Exception:
        record(_raised(section, case.name))
    return time.perf_counter() - start


def _elsewhere(section: Section, number: int, settings: Settings) -> tuple[list[Check], float]:
    """The checks and seconds of a section's case, in a process that has the section alone."""
    checks: list[Check] = []
    return checks, _measured(section, section.cases(settings)[number], checks.append)


def _received(
    found: Future[tuple[list[Check], float]], section: Section, case: Case, record: Callable[[Check], None]
) -> float:
    """Record what another process has found; its seconds. A process that has died is an exception."""
    try:
        checks, seconds = found.result()
    except Exception:
        checks, seconds = [_raised(section, case.name)], 0.0
    for check in checks:
        record(check)
    return seconds


def _raised(section: Section, name: str) -> Check:
    text = traceback.format_exc()
    reason = text.strip().splitlines()[-1]
    return Check(section.name, name, f"{name}: {reason}", None, "no exception", None, None, False, error=text)
