"""``python -m benchmarks``: measure beside the peers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.report import environment, terminal, write_json
from benchmarks.run import run_workloads
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS

SOUND, UNSOUND, INTERRUPTED = 0, 1, 130


def parser(workloads: Mapping[str, Workload]) -> argparse.ArgumentParser:
    reader = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Solve the same workloads with sdesolve and its peers in turn, and compare times and answers.",
        epilog="Exit status: 0 everything ran and agreed, 1 something raised or gave a wrong answer, "
        "2 wrong arguments, 130 interrupted (what was measured is shown and written).",
    )
    reader.add_argument("--only", metavar="NAME,NAME", help=f"run these workloads: {', '.join(workloads)}")
    reader.add_argument("--repeats", type=positive, default=7, metavar="N", help="turns; default %(default)s")
    reader.add_argument("--threads", type=positive, metavar="N", help="threads of torch; default: as torch chooses")
    reader.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
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


def is_busy(load: float | None, cpus: int | None) -> bool:
    """Whether others use more than half of the processors before anything is measured."""
    return load is not None and cpus is not None and load > cpus / 2


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
    except ValueError as error:
        reader.error(str(error))
    if options.json is not None:
        # now, not after the measurements
        try:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.open("a").close()
        except OSError as error:
            reader.error(f"--json: cannot write {options.json}: {error.strerror}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    surroundings = environment()
    if is_busy(surroundings["load_average"], surroundings["cpus"]):
        print("note: other programs keep this machine busy; times, on several threads above all, are not worth much")
    with terminal(options.repeats) as shown:
        run = run_workloads(picked, options.repeats, shown.turn, shown.record)
    if run.interrupted:
        print("interrupted: the figures are those of the turns that were finished")
    if options.json is not None:
        write_json(run, surroundings, options.json)
        print(f"written: {options.json}")
    return INTERRUPTED if run.interrupted else SOUND if run.sound else UNSOUND


if __name__ == "__main__":
    sys.exit(main())
