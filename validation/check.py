"""Check: one measurement, what it was compared with, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isfinite
from typing import Any

Interval = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """Points and a line for a figure of the report; curves that name the same figure are drawn together.

    x, y : the measured points. low, high : ends of their 95% intervals. line : x and y of what is drawn beside them, a
    regression line or the exact answer. log : both axes logarithmic.
    """

    figure: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    line: tuple[Sequence[float], Sequence[float]] | None = None
    x_label: str = "step size"
    y_label: str = "error"
    log: bool = True


@dataclass(frozen=True)
class Check:
    """One row of the report.

    Parameters
    ----------
    section, name : where it belongs, and what it is called there.
    what : the fact that is measured, in a sentence.
    expected : the right value; or, where any value up to a bound is right, None.
    criterion : what the verdict asks for, in words.
    measured : the value found, None if the measurement raised.
    interval : 95% confidence interval of the measured value, None where nothing is random.
    passed : the verdict.
    details : further figures, for the report.
    curves : for the figures of the report.
    error : traceback if the measurement raised.
    """

    section: str
    name: str
    what: str
    expected: float | None
    criterion: str
    measured: float | None
    interval: Interval | None
    passed: bool
    details: dict[str, Any] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    error: str | None = None

    @property
    def verdict(self) -> str:
        return "error" if self.error else "pass" if self.passed else "FAIL"


def bounded(
    section: str,
    name: str,
    what: str,
    measured: float,
    bound: float | None,
    *,
    curves: tuple[Curve, ...] = (),
    **details: Any,
) -> Check:
    """An error that must not exceed a bound; None: a number that is reported, if it is one."""
    criterion = "a number, reported" if bound is None else f"at most {bound:.3g}"
    passed = isfinite(measured) if bound is None else measured <= bound
    return Check(section, name, what, None, criterion, measured, None, passed, details, curves)


@dataclass(frozen=True)
class Settings:
    """quick : fewer paths and levels. seed : every case draws from a seed of its own that follows from this one."""

    quick: bool = False
    seed: int = 0

    def seed_of(self, name: str) -> int:
        """A seed for what is called `name`, in [0, 2^62): the same whichever cases run beside it."""
        digest = blake2b(f"validation:{name}:{self.seed}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 2


@dataclass(frozen=True)
class Case:
    """A piece of work that yields one check or more; if it raises, the others still run."""

    name: str
    run: Callable[[], Iterable[Check]]


@dataclass(frozen=True)
class Section:
    """A named group of cases."""

    name: str
    what: str
    cases: Callable[[Settings], list[Case]]
