"""What a run found, in the terminal: tables as it goes, and the targets in the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from benchmarks.figures import (
    FIRST_CALL,
    SECOND_PROCESS,
    Figures,
    all_targets,
    caption,
    case_figures,
    milliseconds,
    slowest_first,
    title,
    verdict,
)
from benchmarks.run import Record
from benchmarks.workload import Contender

WIDTH = 120
HEADS = ("median ms", "quartiles ms", "speed / peer's", "time / floor", "first s", "second s", "peak MiB", "error")
LEGEND = (
    "Medians and quartiles of one call. speed / peer's: times as fast as the fastest peer (a library) whose answer is "
    "right. time / floor: how many times what any solver has to spend. first: the first call, compilation included; "
    "second: the first call in a second process. peak: by how much memory grows during a call."
)
STYLES = {"ours": "bold", "peer": "", "hand": "", "floor": "dim"}


def row(contender: Figures) -> Iterator[str]:
    """What stands under HEADS; empty where there is nothing to say."""
    c = contender
    fast, floor, error = c["times_as_fast_as_best_peer"], c["times_floor"], c["error"]
    first, second, peak = c["first_seconds"], c["second_process_seconds"], c["peak_bytes"]
    yield "" if c["median"] is None else milliseconds(c["median"])
    yield "" if c["quartiles"] is None else " - ".join(map(milliseconds, c["quartiles"]))
    yield "" if fast is None else f"{fast:.3g}x"
    yield "" if floor is None else f"{floor:.3g}x"
    yield "" if first is None else f"{first:.2f}"
    yield "" if second is None else f"{second:.2f}"
    yield "" if peak is None else f"{peak / 2**20:.3g}"
    yield "" if error is None else f"{float(error):.2g}"


def answer(contender: Figures) -> Text:
    """Whether the answer agrees, or why there is none."""
    if contender["status"] == "measured":
        return Text("agrees" if contender["error"] is not None else "")
    return Text(contender["status"], "dim" if contender["status"] == "not installed" else "bold red")


def table(case: Figures) -> Table:
    """One case: a row for each contender."""
    shown = Table(title=title(case), title_justify="left", title_style="bold", width=WIDTH, box=SIMPLE_HEAD)
    shown.add_column("", no_wrap=True, ratio=1)
    for head in HEADS:
        # in two lines: names need the room
        shown.add_column(head.replace(" ", "\n", 1), justify="right", no_wrap=True)
    shown.add_column("answer", no_wrap=True)
    if case["raised"] is not None:
        shown.add_row(Text(case["raised"]), *("" for _ in HEADS), Text("error", "bold red"))
    for c in case["contenders"]:
        shown.add_row(Text(c["name"], STYLES[c["role"]]), *row(c), answer(c))
    if case["agreement"] is not None:
        shown.caption = caption(case)
        shown.caption_justify = "left"
    return shown


def targets(figures: Figures) -> Table:
    """What the cases of a run must show, and whether they do."""
    shown = Table(title="What it must show", title_justify="left", title_style="bold", width=WIDTH, box=SIMPLE_HEAD)
    shown.add_column("case", ratio=1)
    shown.add_column("contender")
    shown.add_column("against")
    for head in ("at least", "measured"):
        shown.add_column(head, justify="right", no_wrap=True)
    shown.add_column("", no_wrap=True)
    for case, target in all_targets(figures):
        measured, said = target["measured"], verdict(target["holds"])
        shown.add_row(
            *map(Text, (title(case), target["contender"], target["against"], f"{target['at_least']:.3g}x")),
            "" if measured is None else f"{measured:.3g}x",
            Text(said, {"holds": "green", "does not hold": "bold red"}.get(said, "dim")),
        )
    return shown


def first_calls(figures: Figures) -> Iterator[str]:
    """A sentence each on the slowest first call of what we compile, in the first process and in the second."""
    limits = {"first_seconds": ("here", FIRST_CALL), "second_process_seconds": ("in a second process", SECOND_PROCESS)}
    for key, (where, limit) in limits.items():
        slowest = slowest_first(figures, key)
        if slowest is not None:
            yield (
                f"The slowest first call of what we compile {where}: {slowest[0]:.1f} s ({slowest[1]}); "
                f"at most {limit:g} s {verdict(slowest[0] <= limit)}."
            )


class Terminal:
    """Prints cases as they come; `turn` and `record` are what `run_workloads` calls."""

    def __init__(self, console: Console, progress: Progress, repeats: int) -> None:
        self.console, self.progress, self.repeats = console, progress, repeats
        self.task = progress.add_task("", total=None)
        self.shown: Record | None = None

    def turn(self, record: Record, contender: Contender, turn: int) -> None:
        if record is not self.shown:
            assert record.case is not None
            self.shown = record
            self.progress.reset(self.task, total=len(record.case.contenders) * (self.repeats + 1))
        else:
            self.progress.advance(self.task)
        doing = f"{turn} of {self.repeats}" if turn else "warming up"
        self.progress.update(self.task, description=f"{record.title}: {contender.name}, {doing}")

    def record(self, record: Record) -> None:
        self.case(case_figures(record))

    def case(self, case: Figures) -> None:
        self.console.print(table(case))
        for c in case["contenders"]:
            if c["raised"] is not None:
                self.console.print(Text(f"{c['name']}: {c['raised']}", "red"))
        self.console.print()

    def end(self, figures: Figures) -> None:
        """What can be said when all is measured."""
        if any(case["targets"] for case in figures["cases"]):
            self.console.print(targets(figures))
        for sentence in first_calls(figures):
            self.console.print(Text(sentence))


@contextmanager
def terminal(repeats: int, console: Console | None = None) -> Iterator[Terminal]:
    """Tables above a progress bar."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=WIDTH, file=console.file)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        console.print(Text(LEGEND, "dim"))
        console.print()
        yield Terminal(console, progress, repeats)
