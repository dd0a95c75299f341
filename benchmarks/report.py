"""What a run found: tables in the terminal as it goes, and a JSON file."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import sdesolve
from benchmarks.run import Record, Run
from benchmarks.timing import Measurement, fastest, ratio
from benchmarks.workload import Contender

SCHEMA = 1
PACKAGES = ("torch", "numpy", "torchdiffeq", "torchsde")
WIDTH = 120
HEADS = ("median ms", "quartiles ms", "speed / peer's", "time / floor", "first s", "error")
LEGEND = (
    "Medians and quartiles of one call. speed / peer's: times as fast as the fastest peer whose answer is right. "
    "time / floor: how many times what any solver has to spend. first: the first call, compilation included."
)
STYLES = {"ours": "bold", "peer": "", "floor": "dim"}


# ---- the JSON file


def environment() -> dict[str, Any]:
    """Versions, machine and date: what the figures depend on."""
    found: dict[str, Any] = {"sdesolve": sdesolve.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    """The processor's name, as far as the system tells."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def as_json(run: Run, surroundings: dict[str, Any]) -> dict[str, Any]:
    """What the file holds; times are in seconds for one call, and raw ones are kept."""
    return {
        "schema": SCHEMA,
        "settings": {"repeats": run.repeats, "workloads": run.workloads},
        "environment": surroundings,
        "interrupted": run.interrupted,
        "cases": [_record(record) for record in run.records],
    }


def _record(record: Record) -> dict[str, Any]:
    case = record.case
    peer = fastest(record.measurements, "peer")
    return {
        "workload": record.workload.name,
        "case": case.name if case else None,
        "raised": record.raised,
        "agreement": {"measure": case.measure, "tolerance": case.tolerance} if case else None,
        "best_peer": peer.contender.name if peer else None,
        "contenders": [_measurement(m, record.measurements) for m in record.measurements],
    }


def _measurement(m: Measurement, beside: list[Measurement]) -> dict[str, Any]:
    return {
        "name": m.contender.name,
        "role": m.contender.role,
        "status": m.status,
        "raised": m.raised,
        "first_seconds": m.first,
        "calls": m.calls,
        "seconds": m.seconds,
        "median": m.median,
        "quartiles": m.quartiles,
        "times_as_fast_as_best_peer": speedup(m, beside),
        "times_floor": times_floor(m, beside),
        "error": m.error if m.error is None or math.isfinite(m.error) else str(m.error),
    }


def write_json(run: Run, surroundings: dict[str, Any], path: Path) -> None:
    """Write the file."""
    text = json.dumps(as_json(run, surroundings), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def speedup(m: Measurement, beside: list[Measurement]) -> float | None:
    """How many times as fast as the best peer."""
    return None if m.contender.role == "floor" else ratio(fastest(beside, "peer"), m)


def times_floor(m: Measurement, beside: list[Measurement]) -> float | None:
    """How many times the floor."""
    return None if m.contender.role == "floor" else ratio(m, fastest(beside, "floor"))


# ---- the terminal


def milliseconds(seconds: float) -> str:
    """Three digits, without exponent."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def verdict(m: Measurement) -> Text:
    """Whether the answer agrees, or why there is none."""
    if m.status == "measured":
        return Text("agrees" if m.error is not None else "")
    return Text(m.status, "dim" if m.missing else "bold red")


def table(record: Record) -> Table:
    """One case: a row for each contender."""
    shown = Table(title=record.title, title_justify="left", title_style="bold", width=WIDTH)
    shown.add_column("", no_wrap=True, ratio=1)
    for head in HEADS:
        shown.add_column(head, justify="right", no_wrap=True)
    shown.add_column("answer", no_wrap=True)
    if record.raised is not None:
        shown.add_row(Text(record.raised), *("" for _ in HEADS), Text("error", "bold red"))
    for m in record.measurements:
        shown.add_row(Text(m.contender.name, STYLES[m.contender.role]), *_figures(m, record.measurements), verdict(m))
    if record.case is not None:
        shown.caption = f"error: {record.case.measure}; at most {record.case.tolerance:g}"
        shown.caption_justify = "left"
    return shown


def _figures(m: Measurement, beside: list[Measurement]) -> Iterator[str]:
    """What stands under HEADS; empty where there is nothing to say."""
    fast, floor = speedup(m, beside), times_floor(m, beside)
    yield "" if m.median is None else milliseconds(m.median)
    yield "" if m.quartiles is None else " - ".join(map(milliseconds, m.quartiles))
    yield "" if fast is None else f"{fast:.3g}x"
    yield "" if floor is None else f"{floor:.3g}x"
    yield "" if m.first is None else f"{m.first:.2f}"
    yield "" if m.error is None else f"{m.error:.2g}"


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
        self.console.print(table(record))
        for m in record.measurements:
            if m.raised is not None:
                self.console.print(Text(f"{m.contender.name}: {m.raised}", "red"))
        self.console.print()


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
