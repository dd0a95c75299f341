"""How long a step is: a table of fixed steps made beforehand, or a PID controller that reads the error of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.errors import message
from sdesolve.state import StateSpec
from sdesolve.system import System

Array = NDArray[np.float64]

#: a table of more steps would not fit into memory
MOST_STEPS = 1e9


class StepTable(NamedTuple):
    """Fixed steps, counted and placed in float64 before the solve starts, so that times never drift.

    times : (N + 1,) or (N + 1, batch), where steps start and end. steps : (N,) or (N, batch), their signed lengths; 0
    for a
    trajectory that is finished. saves : (T,) or (T, batch), the number of steps after which each output is reached.
    """

    times: Array
    steps: Array
    saves: NDArray[np.int64]

    @property
    def total(self) -> int:
        """Steps of the trajectory that takes most."""
        return len(self.steps)


def step_counts(gaps: Array, dt: float, scale: Array, eps: float) -> NDArray[np.int64]:
    """ceil(gap / dt) for each gap, where rounding of gap (times of size ``scale``) and dt is not worth a step."""
    ratio = gaps / dt
    slack = np.minimum(1e-6 * ratio + 4 * eps * scale / dt, 0.05)
    return np.maximum(np.ceil(ratio - slack), 1).astype(np.int64)


def step_table(ts: Array, dt: float, eps: float) -> StepTable:
    """Equal steps between output times ``ts``, (T,) or (T, batch); ``eps`` is the rounding unit they were given in."""
    if ts.ndim == 2:
        return _join([step_table(column, dt, eps) for column in ts.T])
    gaps = np.diff(ts)
    needed = float(np.abs(gaps).sum()) / float(dt)
    if needed > MOST_STEPS:
        got = f"{dt}, which makes {needed:.3g} steps"
        raise ValueError(message("dt", got, f"a step of which at most {MOST_STEPS:.0e} are needed"))
    counts = step_counts(np.abs(gaps), dt, np.maximum(np.abs(ts[:-1]), np.abs(ts[1:])), eps)
    steps = np.repeat(gaps / counts, counts)
    saves = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(saves[-1]) - np.repeat(saves[:-1], counts)
    times = np.append(np.repeat(ts[:-1], counts) + within * steps, ts[-1])
    return StepTable(times, steps, saves.astype(np.int64))


def _join(tables: list[StepTable]) -> StepTable:
    """Tables of single trajectories side by side; a finished trajectory waits at its end with steps of length 0."""
    longest = max(table.total for table in tables)
    pad = lambda a, fill: np.concatenate([a, np.full(longest - len(a), fill)])
    return StepTable(
        np.stack([np.append(pad(t.times[:-1], t.times[-1]), t.times[-1]) for t in tables], 1),
        np.stack([pad(t.steps, 0.0) for t in tables], 1),
        np.stack([t.saves for t in tables], 1),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not np.isnan(float(value))


@dataclass(frozen=True)
class PID:
    """PID control of the step size (Soderlind 2003, ACM Trans. Math. Softw. 29:1; Hairer & Wanner II, IV.2).

    With e_n the ratio of a step's error to its tolerance, in the root-mean-square over a trajectory's components,
    |error| / (atol + rtol max(|y_n|, |y_n+1|)), a step is taken when e_n <= 1, and

        h_n+1 = h_n * safety * e_n^-b1 * e_n-1^-b2 * e_n-2^-b3,   b1 = (p + i + d) / k,  b2 = -(p + 2 d) / k,  b3 = d
        / k

    where k is the order of the error estimate. A rejected step is tried again with h * safety * e_n^(-1/k).

    Parameters
    ----------
    rtol, atol : tolerances, floats or tensors that broadcast against the state. Default 1e-5 and 1e-7.
    p, i, d : gains of the controller.
    dt_min : a step that fails at this length fails its trajectory. Default: where rounding of t would eat the step.
    dt_max : no step is longer.
    jumps : times at which the right-hand side is not smooth; a step ends there, and the function is not evaluated
        across.
    safety, factor_min, factor_max : bounds on the change of the step size.
    """

    rtol: float | Tensor = 1e-5
    atol: float | Tensor = 1e-7
    p: float = 0.2
    i: float = 0.7
    d: float = 0.0
    dt_min: float | None = None
    dt_max: float | None = None
    jumps: Sequence[float] = ()
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if not isinstance(value, (Real, Tensor)) or isinstance(value, bool):
                raise TypeError(message(name, repr(value), "a number >= 0, or a tensor that broadcasts against y"))
            least = float(value.min()) if isinstance(value, Tensor) else float(value)
            if not least >= 0 or not np.isfinite(least):
                raise ValueError(message(name, repr(value), "a number >= 0"))
        if not isinstance(self.rtol, Tensor) and not isinstance(self.atol, Tensor) and self.rtol + self.atol == 0:
            raise ValueError(message("rtol, atol", "0 and 0", "at least one positive tolerance"))
        for name in ("dt_min", "dt_max"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise ValueError(message(name, repr(value), "a positive number or None"))
        if self.dt_min is not None and self.dt_max is not None and self.dt_min > self.dt_max:
            raise ValueError(message("dt_min", f"{self.dt_min}, above dt_max = {self.dt_max}", "dt_min <= dt_max"))
        for name in ("p", "i", "d"):
            if not _is_number(getattr(self, name)):
                raise ValueError(message(name, repr(getattr(self, name)), "a number, a gain of the controller"))
        if self.p + self.i + self.d <= 0:
            raise ValueError(message("p, i, d", f"{self.p}, {self.i}, {self.d}", "gains with a positive sum"))
        for name in ("safety", "factor_min"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < 1):
                raise ValueError(message(name, repr(value), "a number between 0 and 1"))
        if not (_is_number(self.factor_max) and self.factor_max > 1):
            raise ValueError(message("factor_max", repr(self.factor_max), "a number above 1"))
        self._check_jumps()

    def _check_jumps(self) -> None:
        try:
            finite = all(np.isfinite(float(jump)) for jump in self.jumps)
        except (TypeError, ValueError):
            finite = False
        if isinstance(self.jumps, str) or not finite:
            raise ValueError(message("jumps", repr(self.jumps), "a sequence of finite times, [0.5] for a single one"))

    @property
    def memory(self) -> int:
        """How many earlier error ratios the controller looks at."""
        return 2 if self.d else 1 if self.p else 0

    def proposal(
        self, ratio: Tensor, accept: Tensor, memory: tuple[Tensor, ...], order: float
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Factor for the next step size, (lanes,), and the memory after an accepted step."""
        inverse = 1 / ratio.clamp(min=1e-10)
        factor = _power(inverse, (self.p + self.i + self.d) / order)
        gains = (-(self.p + 2 * self.d) / order, self.d / order)
        for gain, earlier in zip(gains, memory, strict=False):
            factor = factor * _power(earlier, gain)
        retry = (self.safety * _power(inverse, 1 / order)).clamp(max=1.0)
        factor = torch.where(accept, self.safety * factor, retry)
        # NaN compares false and so takes the smallest factor
        factor = torch.where(factor > self.factor_min, factor, self.factor_min).clamp(max=self.factor_max)
        return factor, (inverse, *memory)[: self.memory]


def _power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent for x >= 0. ``torch.pow`` rounds the last elements of a tensor otherwise than those before them, so
    that
    a step size would depend on the batch."""
    return torch.exp(exponent * torch.log(x))


def scaled(error: Tensor, y: Tensor, y1: Tensor | None, control: PID) -> Tensor:
    """error / (atol + rtol max(|y|, |y1|)), elementwise; no error is within a tolerance of 0."""
    size = y.abs() if y1 is None else torch.maximum(y.abs(), y1.abs())
    return error / (control.atol + control.rtol * size).clamp(min=torch.finfo(size.dtype).tiny)


def rms(x: Tensor, spec: StateSpec) -> Tensor:
    """Root mean square over each trajectory's components, (batch,); or (1,) when the state is one trajectory."""
    if not spec.dims:
        return x.abs().reshape(-1)
    count = 1
    for dim in spec.dims:
        count *= x.shape[dim]
    return torch.linalg.vector_norm(x, dim=spec.dims).reshape(-1) * max(count, 1) ** -0.5


def first_step(
    system: System,
    t0: Tensor,
    y0: Tensor,
    f0: Tensor,
    span: Tensor,
    direction: float,
    control: PID,
    order: float,
) -> Tensor:
    """A first step size for each trajectory, (batch,): Hairer, Norsett & Wanner I, II.4, algorithm (4.14).

    ``span``, (batch,), is how far each trajectory may go; one more evaluation of the drift is spent, within the span.
    """
    spec = system.spec
    d0, d1 = (rms(scaled(v, y0, None, control), spec) for v in (y0, f0))
    small = (d0 < 1e-5) | (d1 < 1e-5)
    # half the span at most, so that rounding cannot carry the trial step past its end
    h0 = torch.minimum(torch.where(small, 1e-6 * torch.ones_like(d0), 0.01 * d0 / d1.clamp(min=1e-30)), 0.5 * span)
    # a clock that all share has a 0-d t: the trial step is then the shortest of all
    step = direction * (spec.expand(h0) if t0.ndim or not spec.batched else h0.min())
    f1 = system.drift(t0 + step, y0 + step * f0)
    d2 = rms(scaled(f1 - f0, y0, None, control), spec) / (h0 if t0.ndim or not spec.batched else h0.min())
    top = torch.maximum(d1, torch.nan_to_num(d2, nan=torch.inf))
    h1 = torch.where(
        top <= 1e-15,
        torch.maximum(1e-6 * torch.ones_like(h0), 1e-3 * h0),
        _power(0.01 / top.clamp(min=1e-30), 1 / order),
    )
    return torch.minimum(torch.minimum(100 * h0, h1.clamp(min=1e-10)), span)
