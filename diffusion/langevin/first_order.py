"""Sampling from the density of a score by Langevin dynamics, plain, adjusted and annealed.

    dx = score(x) dt + sqrt(2 T) dw

has the stationary law p^(1/T), for score = grad log p. A score is a function ``score(x)``, of x's shape, or
a :class:`diffusion.Denoiser` with the time t at which it is asked.

Trajectory i depends on `seed` and its id ``paths[i]`` (default i) alone: it is the same in every batch. Everything runs
without gradients; for these give the equations to :func:`sdesolve.solve`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.progress import Report

from ..denoiser import Denoiser
from ..grid import time_grid
from ..prior import Prior
from ..process import Process
from ..request import check_count, check_shape, check_span, dtype_and_device, starting_state
from ..stepwise import Stepwise
from .overdamped import MALA, Overdamped
from .parts import Field, Scored, check_positive, check_temperature, naming_the_step, output_times, score_field, shown

__all__ = ["annealed_langevin", "langevin"]


RATIO = 1.3
"""From one noise level to the next."""


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
    ts = output_times(step, steps, trajectory)
    check_temperature(temperature, positive=log_prob is not None)
    if log_prob is not None and method is not None:
        raise ValueError(message("method", repr(method), "None beside log_prob", "Metropolis steps have their own."))
    if score is None and log_prob is not None:
        drift: nn.Module = Scored(lambda x: torch.func.grad(lambda x: log_prob(x).sum())(x))
    else:
        drift = score_field(score, t)
    with naming_the_step():
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
    return shown(found.ys, trajectory)


@torch.no_grad()
def annealed_langevin(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    levels: int | None = None,
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
    levels : L >= 2. Default: as many as make sigma / alpha fall by a factor of at most 1.3 from one to the next. With a
        factor of 2.9 a mode 8 away had a weight of 0.757 for 0.8, with 1.7 one of 0.784, with 1.3 one of 0.797
        (standard error 0.004). In many dimensions levels must be closer: by 1.04 in 3000.
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
    Song & Ermon (2020). Improved techniques for training score-based generative models. NeurIPS. Technique 2, for the
    number of levels in many dimensions.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(message("denoiser", type(denoiser).__name__, "a diffusion.Denoiser"))
    check_positive("step", step)
    check_count("steps_per_level", steps_per_level)
    process = denoiser.process
    t_max = process.rates_end if t_max is None else t_max
    if not isinstance(grid, Tensor):
        check_span(denoiser, False, t_min, t_max)
    levels = _usual_levels(process, t_min, t_max) if levels is None else levels
    check_count("levels", levels, 2)
    times = time_grid(grid, levels - 1, t_min, t_max, process)
    check_span(denoiser, False, float(times[-1]), float(times[0]))
    seed = int(torch.randint(2**63 - 1, ())) if seed is None else seed
    dtype, device = dtype_and_device(denoiser, dtype, device)
    start = starting_state(denoiser, prior, float(times[0]), check_shape(shape), seed, paths, dtype, device)
    each = times.repeat_interleave(steps_per_level)
    lengths = step * process.variance(each)
    problem = Stepwise(denoiser, each, 0.0, 0.0, lengths, (2 * lengths).sqrt(), like=start)
    with naming_the_step():
        found = ss.solve(
            problem,
            start,
            output_times(1.0, len(each), trajectory).to(start.device),
            method="euler_maruyama",
            dt=1.0,
            seed=seed,
            paths=paths,
            compile=compile,
            progress=progress,
        )
    return shown(found.ys, trajectory)


def _usual_levels(process: Process, t_min: float, t_max: float) -> int:
    """So many that the noise level falls by `RATIO` or less between them."""
    high, low = process.log_snr(torch.tensor([t_min, t_max], dtype=torch.float64)).tolist()
    if not math.isfinite(high - low):
        got = f"None between t_min={t_min!r} and t_max={t_max!r}, where log_snr of {process} is infinite"
        raise ValueError(message("levels", got, "an integer, at least 2, or ends where log_snr is finite"))
    return 1 + max(1, math.ceil(0.5 * (high - low) / math.log(RATIO)))
