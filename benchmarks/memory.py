"""How much memory a call takes at its peak, beyond what was there before it."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Answer = TypeVar("Answer")

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def with_peak(call: Callable[[], Answer]) -> tuple[Answer, int]:
    """What the call returns, and by how many bytes memory grew at most while it ran.

    On CUDA the memory that torch allocates counts, as soon as the device is in use. On the CPU it is resident memory,
    whoever allocates it: Linux lets its peak be set back; elsewhere the peak since the start of the process must do,
    and a call that stays below an earlier one shows 0.
    """
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        answer = call()
        torch.cuda.synchronize()
        return answer, max(0, torch.cuda.max_memory_allocated() - before)
    give_back()
    if set_back():
        before = status_bytes("VmRSS")
        answer = call()
        return answer, max(0, status_bytes("VmHWM") - before)
    before = highest()
    answer = call()
    return answer, max(0, highest() - before)


def give_back() -> None:
    """Hand memory that was freed back to the system, so that using it again counts; glibc alone can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def set_back() -> bool:
    """Make the peak of resident memory what is resident now; False where that cannot be done."""
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return STATUS.exists()


def status_bytes(field: str) -> int:
    """A field of /proc/self/status, which is in KiB there."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{STATUS} has no {field}")


def highest() -> int:
    """The peak of resident memory since the process started; macOS counts it in bytes, others in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
