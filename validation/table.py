"""The table in the terminal: a row for each check when it is finished, above a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from validation.check import Check, Section
from validation.run import Run

WIDTHS = (58, 14, 34, 7)
STYLES = {"pass": "green", "FAIL": "bold red", "error": "bold red"}


def number(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:.4g}"


def expected(check: Check) -> str:
    """What is expected, in a few characters: a number, or the criterion where there is a bound alone."""
    if check.expected is not None:
        return number(check.expected)
    return check.criterion.replace("at most", "<=").replace("Kolmogorov-Smirnov ", "")


def measured(check: Check) -> str:
    """The measured value and its interval."""
    if check.interval is None:
        return number(check.measured)
    low, high = check.interval
    return f"{number(check.measured)} [{number(low)}, {number(high)}]"


def row(*cells: str | Text) -> Table:
    """One row of the table; the widths are fixed, as the rows to come are not known."""
    grid = Table.grid(padding=(0, 1))
    for k, width in enumerate(WIDTHS):
        grid.add_column(width=width, overflow="fold", justify="left" if k in (0, 3) else "right")
    grid.add_row(*cells)
    return grid


class Terminal:
    """Prints checks as they come; `check` and `case` are what `run_sections` calls."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self.console, self.progress = console, progress
        self.task = progress.add_task("", total=None)
        self.section = ""

    def check(self, check: Check) -> None:
        if check.section != self.section:
            self.section = check.section
            self.console.rule(f"[bold]{check.section}", align="left")
        verdict = Text(check.verdict, STYLES[check.verdict])
        self.console.print(row(check.what, expected(check), measured(check), verdict))

    def case(self, section: Section, case: str, done: int, total: int) -> None:
        text = f"{section.name}: {case}" if case else "finished"
        self.progress.update(self.task, description=text, completed=done, total=total)


@contextmanager
def terminal(console: Console | None = None) -> Iterator[Terminal]:
    """The table's head, then rows above a progress bar."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=sum(WIDTHS) + len(WIDTHS), file=console.file)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        head = (Text(title, "bold") for title in ("check", "expected", "measured [95%]", "verdict"))
        console.print(row(*head))
        yield Terminal(console, progress)


def print_summary(run: Run, seconds: float, written: list[str], console: Console | None = None) -> None:
    console = console or Console()
    bad = [check for check in run.checks if not check.passed]
    console.print()
    for check in bad:
        console.print(Text(f"{check.verdict}: {check.section}: {check.name}", STYLES[check.verdict]))
        if check.error:
            console.print(Text(check.error.strip().splitlines()[-1]))
    state = "interrupted after " if run.interrupted else ""
    console.print(f"{state}{len(run.checks)} checks, {len(bad)} failed, {seconds:.0f} s")
    for path in written:
        console.print(Text(f"written: {path}"))
