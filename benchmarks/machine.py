"""What the figures depend on: machine, versions, threads and date."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import sdesolve
from sdesolve.versions import versions

PACKAGES = (
    "torch", "numpy", "torchdiffeq", "torchsde", "torchode", "diffrax", "equinox", "jax", "jaxlib", "numba",
)  # fmt: skip

#: seconds of a look at what others do; processors that they may keep busy
LOOK, QUIET = 0.25, 0.1


def share_threads(number: int | None) -> None:
    """Give torch, XLA, numba and OpenMP the same number of threads; default: what torch chooses.

    XLA and numba read it from the environment when they are imported, which must come after this.
    """
    if number is not None:
        torch.set_num_threads(number)
    for name in ("NPROC", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(torch.get_num_threads())


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine and date."""
    return (
        {"sdesolve": sdesolve.__version__}
        | versions(PACKAGES)
        | {
            "compiler": compiler(),
            "system": platform.system(),
            "machine": platform.machine(),
            "processor": processor(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def compiler() -> str | None:
    """The first line of what g++ says of itself."""
    if shutil.which("g++") is None:
        return None
    said = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=False).stdout
    return said.partition("\n")[0].strip() or None


def processor() -> str:
    """The processor's name, as far as the system tells."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def work_of_others() -> Callable[[], float | None]:
    """Start to watch; the function tells how many processors other programs have kept busy since, on the average.

    None where the system does not tell, as Linux does.
    """
    start, before = time.perf_counter(), _seconds_of_others()

    def since() -> float | None:
        now, passed = _seconds_of_others(), time.perf_counter() - start
        if before is None or now is None or passed <= 0:
            return None
        return max(0.0, now - before) / passed

    return since


def wait_for_quiet(patience: float) -> bool:
    """Wait until other programs leave the machine alone, for `patience` seconds at most; whether they do.

    One busy program slows small operations on all threads a hundredfold, as each of them waits for all threads.
    """
    end = time.perf_counter() + patience
    while True:
        others = work_of_others()
        time.sleep(LOOK)
        used = others()
        if used is None or used <= QUIET:
            return True
        if time.perf_counter() >= end:
            return False


def _seconds_of_others() -> float | None:
    """Seconds of processors since the system started, less those of this process and of its children."""
    listing = Path("/proc/stat")
    if not listing.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, listing.read_text(encoding="ascii").split()[1:9])
    ours = os.times()
    spent = ours.user + ours.system + ours.children_user + ours.children_system
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - spent


def is_busy(load: float | None, cpus: int | None) -> bool:
    """Whether others use more than half of the processors before anything is measured."""
    return load is not None and cpus is not None and load > cpus / 2
