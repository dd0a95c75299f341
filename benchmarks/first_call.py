"""The first call in a second process, where the compiler's disk cache is warm.

``python -m benchmarks.first_call WORKLOAD CASE CONTENDER --device cpu --threads 2`` prints its seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.machine import share_threads
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600.0


def in_second_process(workload: str, case: str, contender: str, device: str) -> float:
    """Seconds of a contender's first call in a new process, its imports and the making of the case apart.

    Raises
    ------
    RuntimeError : the process failed; the text is the last line it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.first_call", workload, case, contender, "--device", device]
    command += ["--threads", str(torch.get_num_threads())]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {PATIENCE:g} s") from None
    if done.returncode != 0:
        written = done.stderr.strip().splitlines()
        raise RuntimeError(written[-1] if written else f"exit status {done.returncode}")
    return float(done.stdout.split()[-1])


def first_call(workload: Workload, case: str, contender: str, device: torch.device) -> float:
    """Seconds of the contender's first call, here and now; KeyError if there is no such case or contender."""
    found = {c.name: c for c in workload.cases(device)}[case]
    run = {c.name: c for c in found.contenders}[contender].run
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None, workloads: Mapping[str, Workload] = WORKLOADS) -> int:
    """Run the command line."""
    reader = argparse.ArgumentParser(prog="python -m benchmarks.first_call", description=__doc__)
    for name in ("workload", "case", "contender"):
        reader.add_argument(name)
    reader.add_argument("--device", default="cpu")
    reader.add_argument("--threads", type=int)
    options = reader.parse_args(arguments)
    share_threads(options.threads)
    found = workloads[options.workload]
    print(first_call(found, options.case, options.contender, torch.device(options.device)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
