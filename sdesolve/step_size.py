"""How long a step is: a table of fixed steps made beforehand, or a PID controller that reads the error of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.errors import message
from sdesolve.lanes import clamp, exp, log, where
from sdesolve.state import StateSpec
from sdesolve.system import System

Array = NDArray[np.float64]

#: default gains (p, i) of the controller
GAINS = {"ode": (0.2, 0.7), "sde": (0.1, 0.3)}

#: more steps than anyone waits for
MOST_STEPS = 1e9


@dataclass(frozen=True)
class StepTable:
    """Fixed steps: equal ones in each interval between output times, placed in float64, so that times never drift.

    Nothing is stored a step: any stretch of them is computed when it is asked for. ts : (T,), or (T, batch) for times
    of each trajectory's own. counts : (T - 1,) or (T - 1, batch), the steps of each interval. Of a trajectory that has
    finished before the others, the steps that are left have length 0.
    """

    ts: Array
    counts: NDArray[np.int64]

    @property
    def shared(self) -> bool:
        """Whether all trajectories take the same steps."""
        return self.ts.ndim == 1

    @cached_property
    def saves(self) -> NDArray[np.int64]:
        """(T,) or (T, batch): the number of steps after which each output is reached."""
        return np.concatenate([np.zeros_like(self.counts[:1]), np.cumsum(self.counts, axis=0)])

    @cached_property
    def total(self) -> int:
        """Steps of the trajectory that takes most."""
        return int(self.saves[-1].max())

    @cached_property
    def longest(self) -> float:
        """Length of the longest step."""
        return float((np.abs(np.diff(self.ts, axis=0)) / self.counts).max())

    def rows(self, first: int, last: int) -> tuple[Array, Array]:
        """Where the steps first <= k < last begin and the last one ends, (last - first + 1,) or with a trailing batch
        dimension; and their signed lengths, (last - first,)."""
        times, steps = self._at(self._numbers(first, last))
        return times, steps[:-1]

    def shares(self, first: int, last: int) -> tuple[NDArray[np.int64], Array, Array]:
        """What the output times have to say of these rows: the interval i of each, and the shares that t_i + 1 has in
        its place, (last - first + 1,), and t_i + 1 - t_i in its length, (last - first,)."""
        numbers = self._numbers(first, last)
        wide = numbers if numbers.ndim == 2 else numbers[:, None]
        row, lanes, ended = self._interval(wide)
        saves, counts = (x if x.ndim == 2 else x[:, None] for x in (self.saves, self.counts))
        place = np.where(ended, 1.0, (wide - saves[row, lanes]) / counts[row, lanes])
        length = np.where(ended, 0.0, 1 / counts[row, lanes])
        if self.shared:
            row, place, length = row[:, 0], place[:, 0], length[:, 0]
        return row, place, length[:-1]

    def _numbers(self, first: int, last: int) -> NDArray[np.int64]:
        numbers = np.arange(first, last + 1)
        return numbers if self.shared else np.repeat(numbers[:, None], self.ts.shape[1], 1)

    def times(self, numbers: NDArray[np.int64]) -> Array:
        """Where each trajectory stands after so many steps, (batch,) -> (batch,)."""
        return self._at(numbers if self.shared else numbers[None])[0].reshape(numbers.shape)

    def _at(self, numbers: NDArray[np.int64]) -> tuple[Array, Array]:
        """Time after so many steps, and the length of the next one; (n,), or (n, batch)."""
        ts, saves, counts = (x if x.ndim == 2 else x[:, None] for x in (self.ts, self.saves, self.counts))
        wide = numbers if numbers.ndim == 2 else numbers[:, None]
        row, lanes, ended = self._interval(wide)
        step = (ts[row + 1, lanes] - ts[row, lanes]) / counts[row, lanes]
        times = np.where(ended, ts[-1], ts[row, lanes] + (wide - saves[row, lanes]) * step)
        step = np.where(ended, 0.0, step)
        return (times, step) if numbers.ndim == 2 else (times[:, 0], step[:, 0])

    def _interval(self, wide: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """For (n, lanes) numbers of steps done: the interval that the next step is in, the lanes, and who has ended."""
        saves = self.saves if self.saves.ndim == 2 else self.saves[:, None]
        intervals, lanes = len(saves) - 1, np.arange(saves.shape[1])
        # each trajectory's numbers on a stretch of the line of their own: one search serves them all
        offset = lanes * (self.total + 2)
        found = np.searchsorted((saves + offset).T.ravel(), (wide + offset).ravel(), side="right").reshape(wide.shape)
        interval = found - lanes * (intervals + 1) - 1
        return np.minimum(interval, intervals - 1), lanes, interval >= intervals


def step_counts(gaps: Array, dt: float, scale: Array, eps: float) -> NDArray[np.int64]:
    """ceil(gap / dt) for each gap, where rounding of gap (times of size ``scale``) and dt is not worth a step."""
    ratio = gaps / dt
    slack = np.minimum(1e-6 * ratio + 4 * eps * scale / dt, 0.05)
    return np.maximum(np.ceil(ratio - slack), 1).astype(np.int64)


def step_table(ts: Array, dt: float, eps: float) -> StepTable:
    """Equal steps between output times ``ts``, (T,) or (T, batch); ``eps`` is the rounding unit they were given in."""
    gaps = np.abs(np.diff(ts, axis=0))
    needed = float(gaps.sum(0).max()) / float(dt)
    if needed > MOST_STEPS:
        got = f"{dt}, which makes {needed:.3g} steps"
        raise ValueError(message("dt", got, f"a step of which at most {MOST_STEPS:.0e} are needed"))
    return StepTable(ts, step_counts(gaps, dt, np.maximum(np.abs(ts[:-1]), np.abs(ts[1:])), eps))


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
    p, i, d : gains of the controller. Default: p = 0.2, i = 0.7 for ODEs, p = 0.1, i = 0.3 for SDEs, whose errors are
        noisy; d = 0. Whether a step of an SDE is taken depends on its noise, so that the local errors of taken steps
        need not have mean 0: with multiplicative noise the error can fall by half an order less than with fixed steps.
    dt_min : a step that fails at this length fails its trajectory. Default: where rounding of t would eat the step.
    dt_max : no step is longer.
    jumps : times at which the right-hand side is not smooth; a step ends there, and the function is not evaluated
        across. Not with (batch, T) output times, nor with ``adjoint="reversible"``.
    interpolate : steps do not end on output times, the first and the last apart: what lies between their ends is read
        off the method's dense output (ODEs), whose error is of the order of the tolerance, too. For output times that
        are closer than the steps would be: as many outputs as are wanted then cost no more steps. Gradients of the
        steps (``"direct"``, ``"checkpoint"``, ``"reversible"``) are then those of long steps, which only the state has
        shortened: where it hardly moves and its gradients do (at an equilibrium, or before a network with a last layer
        of zeros), give ``dt_max``, or take ``"backsolve"``, which looks at the gradients too.
    safety, factor_min, factor_max : bounds on the change of the step size.
    """

    rtol: float | Tensor = 1e-5
    atol: float | Tensor = 1e-7
    p: float | None = None
    i: float | None = None
    d: float = 0.0
    dt_min: float | None = None
    dt_max: float | None = None
    jumps: Sequence[float] = ()
    interpolate: bool = False
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
            value = getattr(self, name)
            if not (_is_number(value) or (value is None and name != "d")):
                raise ValueError(message(name, repr(value), "a number, a gain of the controller"))
        for gains in GAINS.values():
            p, i, d = self._gains(gains)
            if p + i + d <= 0:
                raise ValueError(message("p, i, d", f"{self.p}, {self.i}, {self.d}", "gains with a positive sum"))
        for name in ("safety", "factor_min"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < 1):
                raise ValueError(message(name, repr(value), "a number between 0 and 1"))
        if not (_is_number(self.factor_max) and self.factor_max > 1):
            raise ValueError(message("factor_max", repr(self.factor_max), "a number above 1"))
        if not isinstance(self.interpolate, bool):
            raise TypeError(message("interpolate", repr(self.interpolate), "True or False"))
        self._check_jumps()

    def _check_jumps(self) -> None:
        try:
            finite = all(np.isfinite(float(jump)) for jump in self.jumps)
        except (TypeError, ValueError):
            finite = False
        if isinstance(self.jumps, str) or not finite:
            raise ValueError(message("jumps", repr(self.jumps), "a sequence of finite times, [0.5] for a single one"))

    def _gains(self, default: tuple[float, float]) -> tuple[float, float, float]:
        p, i = (own if own is not None else other for own, other in zip((self.p, self.i), default, strict=True))
        return p, i, self.d

    def fitted(self, kind: str) -> PID:
        """With the gains for ``"ode"`` or ``"sde"`` where none were given."""
        p, i, _ = self._gains(GAINS[kind])
        return self if (p, i) == (self.p, self.i) else replace(self, p=p, i=i)

    @property
    def memory(self) -> int:
        """How many earlier error ratios the controller looks at."""
        return 2 if self.d else 1 if self.p != 0 else 0

    def proposal(
        self, ratio: Tensor, accept: Tensor, memory: tuple[Tensor, ...], order: float
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Factor for the next step size, (lanes,), and the memory after an accepted step: logarithms of 1 / e."""
        inverse = -log(clamp(ratio, least=1e-10))
        p, i, d = self._gains(GAINS["ode"])
        power = inverse * ((p + i + d) / order)
        gains = (-(p + 2 * d) / order, d / order)
        for gain, earlier in zip(gains, memory, strict=False):
            power = power + earlier * gain
        factor = self.safety * exp(where(accept, power, inverse / order))
        factor = where(accept, factor, clamp(factor, most=1.0))
        # NaN compares false and so takes the smallest factor
        factor = clamp(where(factor > self.factor_min, factor, self.factor_min), most=self.factor_max)
        return factor, (inverse, *memory)[: self.memory]


def _power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent for x >= 0. ``torch.pow`` rounds the last elements of a tensor otherwise than those before them, so
    that
    a step size would depend on the batch."""
    return torch.exp(exponent * torch.log(x))


def scaled(error: Tensor, y: Tensor, y1: Tensor | None, control: PID) -> Tensor:
    """error / (atol + rtol max(|y|, |y1|)), elementwise; no error is within a tolerance of 0."""
    return error / tolerated(y, y1, control)


def tolerated(y: Tensor, y1: Tensor | None, control: PID) -> Tensor:
    """atol + rtol max(|y|, |y1|), elementwise."""
    size = y.abs() if y1 is None else torch.maximum(y.abs(), y1.abs())
    tolerance, tiny = control.atol + control.rtol * size, torch.finfo(size.dtype).tiny
    if isinstance(control.atol, Tensor) or control.atol < tiny:
        tolerance = tolerance.clamp(min=tiny)
    return tolerance


def rms(x: Tensor, spec: StateSpec) -> Tensor:
    """Root mean square over each trajectory's components, (batch,); or (1,) when the state is one trajectory."""
    if not spec.dims:
        return x.abs().reshape(-1)
    count = 1
    for dim in spec.dims:
        count *= x.shape[dim]
    return torch.linalg.vector_norm(x, dim=spec.dims).reshape(-1) * max(count, 1) ** -0.5


def damped(fine: Tensor, coarse: Tensor) -> Tensor:
    """fine^2 / (fine^2 + coarse^2)^(1/2), of two ratios of an error to its tolerance, (batch,): of order 2 p - q where
    they are of orders p and q < p, and never above the first (Hairer, Norsett & Wanner I, II.10).

    Ratios and not errors are combined, each measured over all components of a trajectory: a component whose coarse
    error passes through 0 would not be damped by itself, and one that is large and slow would damp small fast ones.
    """
    both = torch.maximum((fine * fine + coarse * coarse).sqrt(), fine)
    return fine * (fine / both.clamp(min=torch.finfo(both.dtype).tiny))


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
    """A first step size for each trajectory, (batch,): Hairer, Norsett & Wanner I, II.4, algorithm (4.14), but the step
    that is to have the error 0.1, not 0.01, by its crude estimate: over the problems of validation that saves a step
    and costs no rejections, as the methods' error constants are far below 1.

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
        _power(0.1 / top.clamp(min=1e-30), 1 / order),
    )
    return torch.minimum(torch.minimum(100 * h0, h1.clamp(min=1e-10)), span)


def first_stochastic_step(
    system: System, y0: Tensor, f0: Tensor, g0: Tensor, span: Tensor, control: PID, order: float
) -> Tensor:
    """A first step size for each trajectory of an SDE, (batch,): the local error, of this order, is taken to be that of
    a problem which changes on the scale on which y moves by its own size, or by 1 % of the span.

    With d0, d1, d2 the sizes of y, drift and diffusion over the tolerance, y changes by its size over a time
    t1 = d0 / d1 by the drift and t2 = (d0 / d2)^2 by the noise; over h its movement is  d1 h + d2 h^(1/2).  A movement
    that is to be followed to relative accuracy eps = 1 / d0 takes a step of the fraction eps^(1/order) of min(t1, t2).
    """
    spec = system.spec
    d0, d1 = (rms(scaled(v, y0, None, control), spec) for v in (y0, f0))
    spread = system.noise_size(g0)
    d2 = rms(scaled(spread, y0, None, control), spec)
    size = d0.clamp(min=1.0)
    scale = torch.minimum(size / d1.clamp(min=1e-30), (size / d2.clamp(min=1e-30)) ** 2)
    scale = torch.minimum(scale, span)
    h = scale * _power(1 / size, 1 / order)
    return torch.minimum(torch.nan_to_num(h, nan=0.0).clamp(min=1e-6 * span), 0.01 * span)
