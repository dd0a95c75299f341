"""``python -m validation``: measure whether the mathematics is right."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from validation.check import Section, Settings
from validation.report import write_reports
from validation.run import run_sections
from validation.sections import SECTIONS
from validation.table import print_summary, terminal

PASSED, FAILED, INTERRUPTED = 0, 1, 130


def parser(sections: Mapping[str, Section]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m validation",
        description="Measure orders of convergence and distributions against exact answers.",
        epilog="Exit status: 0 all checks passed, 1 a check failed or raised, 2 wrong arguments, 130 interrupted.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer paths, levels and problems, some three minutes")
    parser.add_argument("--only", metavar="NAME,NAME", help=f"run these sections: {', '.join(sections)}")
    parser.add_argument(
        "--output", type=Path, default=Path("out/validation"), metavar="DIR", help="default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random numbers; default %(default)s")
    parser.add_argument(
        "--jobs", type=count, default=min(4, os.cpu_count() or 1), metavar="N", help="processes; default %(default)s"
    )
    parser.add_argument("--list", action="store_true", help="list the sections and stop")
    return parser


def count(text: str) -> int:
    """A positive number of processes."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}; accepted is a positive integer")
    return value


def chosen(only: str | None, sections: Mapping[str, Section]) -> list[Section]:
    """The sections named in `only`, in the order in which they run; ValueError for an unknown name."""
    if only is None:
        return list(sections.values())
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in sections]
    if unknown or not names:
        got = ", ".join(unknown) if unknown else repr(only)
        raise ValueError(f"--only: unknown section {got}; accepted are {', '.join(sections)}")
    return [section for section in sections.values() if section.name in names]


def make(folder: Path) -> None:
    """A folder in which files can be written, before anything is computed for it; OSError if there can be none."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def main(arguments: Sequence[str] | None = None, sections: Mapping[str, Section] = SECTIONS) -> int:
    """Run the command line; returns the exit status."""
    reader = parser(sections)
    options = reader.parse_args(arguments)
    if options.list:
        width = max(map(len, sections))
        for section in sections.values():
            print(f"{section.name:{width}}  {section.what}")
        return PASSED
    try:
        picked = chosen(options.only, sections)
    except ValueError as error:
        reader.error(str(error))
    try:
        make(options.output)
    except OSError as error:
        reader.error(f"--output: got {options.output} ({error}); accepted is a folder that can be written to")
    # the tensors here are small: more threads would wait for each other
    torch.set_num_threads(1)
    start = time.perf_counter()
    with terminal() as shown:
        run = run_sections(picked, Settings(options.quick, options.seed), shown.check, shown.case, options.jobs)
    seconds = time.perf_counter() - start
    written = write_reports(run, seconds, options.output, options.jobs)
    print_summary(run, seconds, [str(path) for path in written])
    return INTERRUPTED if run.interrupted else PASSED if run.passed else FAILED


if __name__ == "__main__":
    sys.exit(main())
