"""Sampling from the density of a score by Langevin dynamics, plain, adjusted and annealed.

    dx = score(x) dt + sqrt(2 T) dw

has the stationary law p^(1/T), for score = grad log p. A score is a function ``score(x)``, of x's shape, or
a :class:`diffusion.Denoiser` with the time t at which it is asked.

Trajectory i depends on `seed` and its id ``paths[i]`` (default i) alone: it is the same in every batch. Everything runs
without gradients; for these give the equations to :func:`sdesolve.solve`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.progress import Report

from .denoiser import Denoiser
from .grid import time_grid
from .overdamped import MALA, Overdamped
from .sample import Prior, _kind, _start
from .stepwise import Stepwise

__all__ = ["annealed_langevin", "langevin"]

Field = Callable[[Tensor], Tensor]


@torch.no_grad()
def langevin(
    score: Field | Denoiser | None,
    x0: Tensor,
    *,
    step: float,
    steps: int,
    t: float | None = None,
    temperature: float = 1.0,
    log_prob: Field | None = None,
    method: str | None = None,
    trajectory: int | None = None,
    seed: int | None = None,
    paths: Sequence[int] | Tensor | None = None,
    compile: bool = False,
    progress: bool | Report = False,
) -> Tensor:
    """Overdamped Langevin dynamics, unadjusted, or Metropolis-adjusted where the density is known.

    Parameters
    ----------
    score : ``score(x)`` of x's shape; a denoiser, with `t`; or None: the gradient of `log_prob`.
    x0 : ``(batch, *state)``, where trajectories start.
    step : length of a step in time, positive. Unadjusted steps are Euler-Maruyama's,  x + h score + sqrt(2 T h) z: of
        N(0, s^2) they make N(0, T s^2 / (1 - h / (2 s^2))), and they are stable below h = 2 s^2.
    steps : how many.
    t : time of the denoiser.
    temperature : T >= 0; positive with `log_prob`. Default 1.
    log_prob : ``log_prob(x) -> (batch,)``, log p up to a constant (of an energy E: -E). Steps are then accepted or
        rejected (MALA), and the law is exact. The part of steps in which x moves is best near 0.57 in many dimensions.
    method : another method of the solver for the equation, as ``"shark"``; default ``"euler_maruyama"``. None with
        `log_prob`.
    trajectory : k, a divisor of `steps`, to return k + 1 states at equal distances, the start among them.
    seed : int; default: drawn from torch's global generator.
    paths : ``(batch,)`` trajectory ids. compile, progress : as in :func:`sdesolve.solve`.

    Returns
    -------
    Tensor : ``(batch, *state)``, or ``(k + 1, batch, *state)``.

    Raises
    ------
    ValueError : a number out of range, a denoiser without t, a method beside log_prob.
    SolveError : a trajectory is no longer finite; steps are too long.

    References
    ----------
    Roberts & Tweedie (1996). Exponential convergence of Langevin distributions and their discrete approximations.
    Bernoulli 2. Roberts & Rosenthal (1998). Optimal scaling of discrete approximations to Langevin diffusions. J. R.
    Stat. Soc. B 60, for 0.57.

    Examples
    --------
    >>> x = langevin(lambda x: -x, torch.zeros(4000, 1), step=0.1, steps=100, seed=0)
    >>> abs(float(x.var()) - 1 / 0.95) < 0.1
    True
    """
    ts = _clock(step, steps, trajectory)
    _check_temperature(temperature, positive=log_prob is not None)
    if log_prob is not None and method is not None:
        raise ValueError(message("method", repr(method), "None beside log_prob", "Metropolis steps have their own."))
    if score is None and log_prob is not None:
        drift: nn.Module = _Score(lambda x: torch.func.grad(lambda x: log_prob(x).sum())(x))
    else:
        drift = _score(score, t)
    found = ss.solve(
        Overdamped(drift, temperature, log_prob, like=x0),
        x0,
        ts.to(x0.device),
        method=MALA if log_prob is not None else "euler_maruyama" if method is None else method,
        dt=step,
        seed=seed,
        paths=paths,
        compile=compile,
        progress=progress,
    )
    return _shown(found.ys, trajectory)


@torch.no_grad()
def annealed_langevin(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    levels: int = 10,
    steps_per_level: int = 100,
    step: float = 0.1,
    grid: str | Tensor = "log_snr",
    t_min: float = 1e-3,
    t_max: float | None = None,
    prior: Prior | Tensor | None = None,
    trajectory: int | None = None,
    seed: int | None = None,
    paths: Sequence[int] | Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    compile: bool = False,
    progress: bool | Report = False,
) -> Tensor:
    """Langevin dynamics in the marginals p_t of a process, from much noise to little.

    At each level t_1 > ... > t_L, with z standard normal::

        x <- x + h_i score(t_i, x) + sqrt(2 h_i) z,      h_i = step sigma(t_i)^2,      steps_per_level times

    Between far modes plain Langevin dynamics does not pass; where there is noise, modes are one, and weights get right.

    Parameters
    ----------
    denoiser : a :class:`diffusion.Denoiser`, in evaluation mode. Usual are processes without scaling, as
        :class:`diffusion.VE`; any does.
    shape : ``(batch, *state)``.
    levels : L >= 2.
    steps_per_level : Langevin steps at each.
    step : h_i / sigma_i^2, positive, stable below 2. In the letters of Algorithm 1, whose step size alpha_i is 2 h_i,
        it is epsilon / (2 sigma_L^2), for images 0.1, the default.
    grid : where the levels stand: a name of `diffusion.grid`, or falling times ``(L,)``, which then stand for `levels`,
        `t_min` and `t_max`. Default ``"log_snr"``, a geometric sequence of sigma / alpha.
    t_min, t_max : last and first level; default 1e-3 and ``process.rates_end``.
    prior, dtype, device : as in :func:`diffusion.sample`; the prior is that at the first level.
    trajectory : k, a divisor of all steps, to return k + 1 states, the start among them.
    seed, paths, compile, progress : as in :func:`langevin`.

    Returns
    -------
    Tensor : ``(batch, *state)``, or ``(k + 1, batch, *state)``: of x at t_min, with its noise.

    References
    ----------
    Song & Ermon (2019). Generative modeling by estimating gradients of the data distribution. NeurIPS. Algorithm 1.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(message("denoiser", type(denoiser).__name__, "a diffusion.Denoiser"))
    _check_positive("step", step)
    for name, value, least in (("levels", levels, 2), ("steps_per_level", steps_per_level, 1)):
        _check_count(name, value, least)
    process = denoiser.process
    times = time_grid(grid, levels - 1, t_min, process.rates_end if t_max is None else t_max, process)
    seed = int(torch.randint(2**63 - 1, ())) if seed is None else seed
    dtype, device = _kind(denoiser, dtype, device)
    start = _start(denoiser, prior, float(times[0]), tuple(shape), seed, paths, dtype, device)
    each = times.repeat_interleave(steps_per_level)
    lengths = step * process.variance(each)
    problem = Stepwise(denoiser, each, 0.0, 0.0, lengths, (2 * lengths).sqrt(), like=start)
    found = ss.solve(
        problem,
        start,
        _clock(1.0, len(each), trajectory).to(start.device),
        method="euler_maruyama",
        dt=1.0,
        seed=seed,
        paths=paths,
        compile=compile,
        progress=progress,
    )
    return _shown(found.ys, trajectory)


class _Score(nn.Module):
    """score(x) as a function of (t, x)."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field(x)


class _At(nn.Module):
    """A denoiser's score at one time, for any t."""

    time: Tensor

    def __init__(self, denoiser: Denoiser, time: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.register_buffer("time", torch.tensor(time, dtype=torch.float64), persistent=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.denoiser.score(self.time, x)


def _score(score: Field | Denoiser | None, t: float | None) -> nn.Module:
    if isinstance(score, Denoiser):
        if t is None:
            raise ValueError(message("t", "None with a denoiser", "the time at which its score is asked for"))
        return _At(score, float(t))
    if t is not None:
        raise ValueError(message("t", repr(t), "None for a function score(x)"))
    if not callable(score):
        accepted = "a function score(x), a diffusion.Denoiser, or None with log_prob"
        raise TypeError(message("score", type(score).__name__, accepted))
    return _Score(score)


def _clock(step: float, steps: int, trajectory: int | None) -> Tensor:
    """Output times."""
    _check_positive("step", step)
    _check_count("steps", steps, 1)
    count = 1 if trajectory is None else trajectory
    if count < 1 or steps % count:
        raise ValueError(message("trajectory", repr(trajectory), f"a divisor of the {steps} steps"))
    return torch.linspace(0, steps * step, count + 1, dtype=torch.float64)


def _shown(ys: Tensor, trajectory: int | None) -> Tensor:
    return ys[-1] if trajectory is None else ys


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(message(name, repr(value), "a positive, finite number"))


def _check_temperature(value: float, positive: bool = False) -> None:
    if not (math.isfinite(value) and (value > 0 or (value == 0 and not positive))):
        accepted = "a positive, finite number" if positive else "a finite number >= 0"
        raise ValueError(message("temperature", repr(value), accepted))


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(message(name, repr(value), f"an int >= {least}"))
