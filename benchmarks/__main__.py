"""``python -m benchmarks``: measure beside the peers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.figures import Figures, as_json, read_json, write_json
from benchmarks.first_call import in_second_process
from benchmarks.machine import environment, is_busy, share_threads, wait_for_quiet
from benchmarks.page import page
from benchmarks.plots import plot
from benchmarks.report import terminal
from benchmarks.run import Record, Run, run_workloads
from benchmarks.workload import Contender, Workload
from benchmarks.workloads import WORKLOADS

SOUND, UNSOUND, INTERRUPTED = 0, 1, 130


def parser(workloads: Mapping[str, Workload]) -> argparse.ArgumentParser:
    reader = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Solve the same workloads with sdesolve and its peers in turn, and compare times and answers.",
        epilog="Exit status: 0 everything ran and agreed, 1 something raised or gave a wrong answer, "
        "2 wrong arguments, 130 interrupted (what was measured is shown and written). Targets do not change it: "
        "they are of a machine that does nothing else.",
    )
    reader.add_argument("--only", metavar="NAME,NAME", help=f"run these workloads: {', '.join(workloads)}")
    reader.add_argument("--repeats", type=positive, default=7, metavar="N", help="turns; default %(default)s")
    reader.add_argument("--threads", type=positive, metavar="N", help="threads of each; default: as torch chooses")
    reader.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default %(default)s")
    reader.add_argument(
        "--quiet",
        type=positive,
        metavar="SECONDS",
        help="before each turn wait until other programs leave the machine alone, so long at most",
    )
    reader.add_argument(
        "--second-process", action="store_true", help="time the first call in a second process too, where we compile"
    )
    reader.add_argument("--quick", action="store_true", help="leave out the cases that take minutes to compile")
    reader.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    reader.add_argument("--docs", type=Path, metavar="FILE", help="write the page here, docs/benchmarks.md for one")
    reader.add_argument("--plot", type=Path, metavar="FOLDER", help="draw charts into this folder")
    reader.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing; show, write, draw an old run")
    reader.add_argument("--list", action="store_true", help="list the workloads and stop")
    return reader


def positive(text: str) -> int:
    """A number of the command line that must be 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}; accepted is a whole number from 1 on")
    return number


def chosen(only: str | None, workloads: Mapping[str, Workload]) -> list[Workload]:
    """The workloads named in `only`, in the order in which they run; ValueError for an unknown name."""
    if only is None:
        return list(workloads.values())
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in workloads]
    if unknown or not names:
        got = ", ".join(unknown) if unknown else repr(only)
        raise ValueError(f"--only: unknown workload {got}; accepted are {', '.join(workloads)}")
    return [workload for name, workload in workloads.items() if name in names]


def check_places(options: argparse.Namespace) -> None:
    """Find out now, not after the measurements, whether what is asked for can be written; ValueError if not."""
    for name in ("json", "docs", "plot"):
        path = getattr(options, name)
        if path is None:
            continue
        try:
            if name == "plot":
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("a").close()
        except OSError as error:
            raise ValueError(f"--{name}: cannot write {path}: {error.strerror}") from None


def measured(options: argparse.Namespace, workloads: Sequence[Workload]) -> tuple[Run, Figures]:
    """Run, showing each case as it comes."""
    share_threads(options.threads)
    device = torch.device(options.device)
    surroundings = environment(device)
    if is_busy(surroundings["load_average"], surroundings["cpus"]):
        print("note: other programs keep this machine busy; times, on several threads above all, are not worth much")
    second = in_second_process if options.second_process else None
    with terminal(options.repeats) as shown:

        def on_turn(record: Record, contender: Contender, turn: int) -> None:
            shown.turn(record, contender, turn)
            if options.quiet is not None:
                wait_for_quiet(options.quiet)

        run = run_workloads(workloads, options.repeats, on_turn, shown.record, device, second, options.quick)
        figures = as_json(run, surroundings)
        shown.end(figures)
    if run.interrupted:
        print("interrupted: the figures are those of the turns that were finished")
    return run, figures


def write(figures: Figures, options: argparse.Namespace) -> None:
    """Whatever files are asked for."""
    if options.json is not None:
        write_json(figures, options.json)
        print(f"written: {options.json}")
    if options.docs is not None:
        options.docs.write_text(page(figures), encoding="utf-8")
        print(f"written: {options.docs}")
    if options.plot is not None:
        for path in plot(figures, options.plot):
            print(f"drawn: {path}")


def main(arguments: Sequence[str] | None = None, workloads: Mapping[str, Workload] = WORKLOADS) -> int:
    """Run the command line; returns the exit status."""
    reader = parser(workloads)
    options = reader.parse_args(arguments)
    if options.list:
        width = max(map(len, workloads))
        for workload in workloads.values():
            print(f"{workload.name:{width}}  {workload.what}")
        return SOUND
    try:
        picked = chosen(options.only, workloads)
        old = None if options.from_json is None else read_json(options.from_json)
        check_places(options)
    except (ValueError, OSError) as error:
        reader.error(str(error))
    if options.device == "cuda" and not torch.cuda.is_available():
        reader.error("--device: got cuda, but torch sees no GPU; accepted is cpu")
    if old is not None:
        with terminal(old["settings"]["repeats"]) as shown:
            for case in old["cases"]:
                shown.case(case)
            shown.end(old)
        write(old, options)
        return SOUND
    run, figures = measured(options, picked)
    write(figures, options)
    return INTERRUPTED if run.interrupted else SOUND if run.sound else UNSOUND


if __name__ == "__main__":
    sys.exit(main())
