"""A solve that is ready to run: the problem, the method, and either a table of fixed steps (`fixed_plan`) or a
controller (`adaptive_plan`).

``run`` maps internal tensors to internal tensors; it is what ``solve`` and the adjoints call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.event import Happened
from sdesolve.interpolate import DenseOutput
from sdesolve.methods.method import Method, State, Switches
from sdesolve.system import System

Report = Callable[[float], None]


@dataclass
class Result:
    """What a run leaves: ys (T, batch, ...); status (batch,), None inside torch.func transforms; (batch,) counts; for
    each trajectory a time by which it had not failed."""

    ys: Tensor
    status: Tensor | None
    accepted: Tensor
    rejected: Tensor
    drift_evaluations: Tensor
    diffusion_evaluations: Tensor
    reached: Tensor
    dense: DenseOutput | None = None
    happened: list[Happened] = field(default_factory=list)
    switches: Switches | None = None


class Interrupted(Exception):  # noqa: N818 - carries a result, and is turned into SolveInterrupted by solve
    """Ctrl-C, with what was finished."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result


class Timed(Protocol):
    """What has a system and output times. own_clocks : each trajectory has a clock of its own."""

    system: System
    ts: NDArray[np.float64]

    @property
    def own_clocks(self) -> bool: ...


def first_time(plan: Timed) -> Tensor:
    """The first time, as the functions are given it."""
    return _output_time(plan, 0)


def last_time(plan: Timed) -> Tensor:
    """The last time, as the functions are given it."""
    return _output_time(plan, -1)


def _output_time(plan: Timed, i: int) -> Tensor:
    spec = plan.system.spec
    time = torch.as_tensor(plan.ts[i], dtype=spec.time_dtype, device=spec.device)
    return spec.expand(time.expand(spec.batch)) if plan.own_clocks else time[0]


def drew_apart(
    system: System, method: Method, ys: Tensor, end: State, rtol: float = 0.0, atol: float = 0.0
) -> Tensor | None:
    """(batch,) whose method says itself that they have gone wrong: by more than 1000 times the tolerance, or than both
    twice the solution's size and 10 times the tolerance; None: nobody."""
    with torch.no_grad():
        distance = method.discrepancy(end)
        if distance is None or not ys.numel():
            return None
        batch = system.spec.batch
        size = (ys if system.spec.batched else ys[:, None]).abs().reshape(len(ys), batch, -1).amax(-1).amax(0)
        tolerance = rtol * size + atol
        most = torch.maximum(2 * size, 10 * tolerance)
        most = torch.minimum(most, 1000 * tolerance) if rtol or atol else most
        apart = distance.abs().reshape(batch, -1).amax(1) > most
        return apart if bool(apart.any()) else None


class Plan(Protocol):
    """A solve that is ready to run from a start state."""

    def run(self, y0: Tensor, report: Report | None = None) -> Result: ...
