"""A run: sections one after the other, each case on its own, so that what fails leaves the rest standing."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
) -> Run:
    """Run the cases of all sections.

    on_check : called with each check when it is finished. on_case : called before each case, and once at the end, with
    the number of finished cases and of all.
    """
    run = Run(settings, [section.name for section in sections])
    work: list[tuple[Section, Case]] = []
    for section in sections:
        try:
            work += [(section, case) for case in section.cases(settings)]
        except Exception:
            _record(run, _raised(section, "cases"), on_check)
    try:
        for done, (section, case) in enumerate(work):
            on_case(section, case.name, done, len(work))
            start = time.perf_counter()
            try:
                for check in case.run():
                    _record(run, check, on_check)
            except Exception:
                _record(run, _raised(section, case.name), on_check)
            run.timings[section.name, case.name] = time.perf_counter() - start
        if work:
            on_case(work[-1][0], "", len(work), len(work))
    except KeyboardInterrupt:
        run.interrupted = True
    return run


def _record(run: Run, check: Check, on_check: Callable[[Check], None]) -> None:
    run.checks.append(check)
    on_check(check)


def _raised(section: Section, name: str) -> Check:
    text = traceback.format_exc()
    reason = text.strip().splitlines()[-1]
    return Check(section.name, name, f"{name}: {reason}", None, "no exception", None, None, False, error=text)
