"""sample(): new data from a denoiser, by solving an equation from noise to data; see `diffusion.samplers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.progress import Report

from .denoiser import Denoiser
from .grid import GRIDS, time_grid
from .predictor_corrector import predictor_corrector
from .prior import Prior
from .request import check_count, check_seed, check_shape, check_span, dtype_and_device, starting_state
from .reverse import Eta
from .samplers import SAMPLERS, Sampler

__all__ = ["sample"]


@overload
def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    sampler: str = ...,
    steps: int | None = ...,
    rtol: float | None = ...,
    atol: float | None = ...,
    method: str | None = ...,
    eta: Eta | None = ...,
    corrector_steps: int | None = ...,
    snr: float | None = ...,
    grid: str | Tensor | None = ...,
    t_min: float = ...,
    t_max: float | None = ...,
    prior: Prior | Tensor | None = ...,
    seed: int | None = ...,
    paths: Sequence[int] | Tensor | None = ...,
    trajectory: None = ...,
    dtype: torch.dtype | None = ...,
    device: torch.device | str | None = ...,
    compile: bool = ...,
    progress: bool | Report = ...,
    gradients: bool = ...,
) -> Tensor: ...


@overload
def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    sampler: str = ...,
    steps: int | None = ...,
    rtol: float | None = ...,
    atol: float | None = ...,
    method: str | None = ...,
    eta: Eta | None = ...,
    corrector_steps: int | None = ...,
    snr: float | None = ...,
    grid: str | Tensor | None = ...,
    t_min: float = ...,
    t_max: float | None = ...,
    prior: Prior | Tensor | None = ...,
    seed: int | None = ...,
    paths: Sequence[int] | Tensor | None = ...,
    trajectory: int,
    dtype: torch.dtype | None = ...,
    device: torch.device | str | None = ...,
    compile: bool = ...,
    progress: bool | Report = ...,
    gradients: bool = ...,
) -> ss.Solution: ...


def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    *,
    sampler: str = "euler_maruyama",
    steps: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    method: str | None = None,
    eta: Eta | None = None,
    corrector_steps: int | None = None,
    snr: float | None = None,
    grid: str | Tensor | None = None,
    t_min: float = 1e-3,
    t_max: float | None = None,
    prior: Prior | Tensor | None = None,
    seed: int | None = None,
    paths: Sequence[int] | Tensor | None = None,
    trajectory: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    compile: bool = False,
    progress: bool | Report = False,
    gradients: bool = False,
) -> Tensor | ss.Solution:
    """Draw new data.

    Sample i depends on `seed` and its trajectory id alone: it is the same in every batch (up to the rounding
    of a network's matrix products). The solver's noise takes `seed` itself, the prior a seed derived from it.

    Parameters
    ----------
    denoiser : a :class:`diffusion.Denoiser`, in evaluation mode.
    shape : ``(batch, *state)``.
    sampler : a name of `diffusion.samplers`: ``"euler_maruyama"`` (default), ``"reverse_sde"``,
        ``"probability_flow"``, ``"ancestral"`` or ``"predictor_corrector"``.
    steps : number of steps of the grid. Default: 500 for ``"euler_maruyama"``, 250 for ``"ancestral"`` and
        ``"predictor_corrector"``; the others without it control their error instead, each sample with steps of its own.
    rtol, atol : tolerances; defaults 1e-2 for ``"reverse_sde"``, 1e-4 for ``"probability_flow"``.
    method : any method of the solver for the equation. Default for ``"probability_flow"``: ``"heun"`` with `steps`,
        else ``"tsit5"``; for ``"reverse_sde"`` the solver's own default.
    eta : amount of noise of the reverse SDE, see :func:`diffusion.reverse_sde`; default 1. For ``"ancestral"`` that of
        DDIM, from 0 to 1.
    corrector_steps, snr : Langevin steps behind each step of ``"predictor_corrector"``, default 1, and their
        signal-to-noise ratio, default 0.16; see `diffusion.predictor_corrector`.
    grid : where steps stand: ``"uniform"``, ``"log_snr"``, ``"karras"`` or ``"quadratic"``, see `diffusion.grid`; or
        strictly falling times ``(T,)``, which then stand for `steps`, `t_min` and `t_max`. Default: that of the
        process, ``"karras"`` for :class:`diffusion.EDM` and ``"uniform"`` for all others here. With error control it
        says where the outputs of `trajectory` stand.
    t_min, t_max : where generation ends and starts; default 1e-3 and the process's end, or where its rates end:
        ``process.rates_end`` with noise, ``denoiser.flow_end`` without and for ``"ancestral"``. A network's score grows
        like 1 / sigma towards t_min = 0.
    prior : what to start from: an object with a method ``sample`` (see :class:`Prior`), or a tensor of
        `shape`. Default: ``process.prior_at(t_max)``.
    seed : int. Default: drawn from torch's global generator.
    paths : ``(batch,)`` trajectory ids. Default 0, 1, ..., batch - 1.
    trajectory : k, to return the whole way at k + 1 times, equally spaced on the grid; k must divide the
        steps.
    dtype, device : of the samples. Default: those of the denoiser's parameters.
    compile, progress : as in :func:`sdesolve.solve`.
    gradients : keep the graph, to differentiate samples with respect to parameters. Default False.

    Returns
    -------
    Tensor ``(batch, *state)``, or with `trajectory` a Solution: ``ts`` falls, ``ys`` is ``(k + 1, batch,
    *state)`` and ``ys[-1]`` are the samples.

    Raises
    ------
    ValueError : an unknown sampler or grid, options that contradict each other, times outside the span of the process,
        a prior of another shape.

    References
    ----------
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(message("denoiser", type(denoiser).__name__, "a diffusion.Denoiser"))
    if sampler not in SAMPLERS:
        raise ValueError(message("sampler", repr(sampler), " or ".join(map(repr, SAMPLERS))))
    kind = SAMPLERS[sampler]
    shape = check_shape(shape)
    for name, number in (("steps", steps), ("trajectory", trajectory)):
        if number is not None:
            check_count(name, number)
    if seed is not None:
        check_seed(seed)
    t_max = kind.start(denoiser) if t_max is None else float(t_max)
    adaptive = steps is None and kind.steps is None and not isinstance(grid, Tensor)
    _check_options(sampler, kind, adaptive, trajectory, grid, rtol, atol, method, eta)
    if not kind.corrects and not (corrector_steps is None and snr is None):
        got = f"{corrector_steps!r} and {snr!r} for {sampler!r}"
        raise ValueError(message("corrector_steps, snr", got, "None there", 'Write sampler="predictor_corrector".'))
    if isinstance(grid, Tensor):
        grid = time_grid(grid, 1, t_min, t_max, denoiser.process)
        if steps not in (None, len(grid) - 1):
            raise ValueError(message("steps", f"{steps} beside a grid of {len(grid)} times", "one of them"))
        t_min, t_max = float(grid[-1]), float(grid[0])
    check_span(denoiser, kind.stochastic and kind.reads_rates, t_min, t_max)

    if grid is None:
        grid = "uniform" if adaptive and trajectory is None else denoiser.process.grid
    seed = int(torch.randint(2**63 - 1, ())) if seed is None else seed
    dtype, device = dtype_and_device(denoiser, dtype, device)
    count = kind.steps if steps is None else steps
    if adaptive:
        count = 1 if trajectory is None else trajectory
    times = time_grid(grid, 1 if count is None else count, t_min, t_max, denoiser.process)
    stride = _stride(len(times) - 1, trajectory)
    start = starting_state(denoiser, prior, float(times[0]), shape, seed, paths, dtype, device)
    amount = 1.0 if eta is None else eta
    problem, dt, ts, every = kind.problem(denoiser, amount), None, times, 1
    if adaptive:
        rtol, atol = kind.tolerance if rtol is None else rtol, kind.tolerance if atol is None else atol
    elif kind.corrects:
        correctors = 1 if corrector_steps is None else corrector_steps
        snr = 0.16 if snr is None else snr
        problem = predictor_corrector(denoiser, times, eta=amount, corrector_steps=correctors, snr=snr, like=start)
        ts, dt = torch.arange(0, len(times), stride, dtype=torch.float64) * (1 + correctors), 1.0
    else:
        dt = float((times[:-1] - times[1:]).max())
        # steps of one length need not stop between outputs
        ts, every = (times[::stride], 1) if isinstance(grid, str) and grid == "uniform" else (times, stride)
    with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
        solution = ss.solve(
            problem,
            start,
            ts.to(device),
            method=kind.method[adaptive] if method is None else method,
            dt=dt,
            rtol=rtol,
            atol=atol,
            seed=seed if kind.stochastic else None,
            paths=paths,
            compile=compile,
            progress=progress,
        )
    if kind.corrects or every > 1:
        solution = replace(solution, ts=times[::stride].to(solution.ts), ys=solution.ys[::every])
    return solution.ys[-1] if trajectory is None else solution


def _check_options(
    sampler: str,
    kind: Sampler,
    adaptive: bool,
    trajectory: int | None,
    grid: str | Tensor | None,
    rtol: float | None,
    atol: float | None,
    method: str | None,
    eta: Eta | None,
) -> None:
    if not adaptive and (rtol is not None or atol is not None):
        got, accepted = f"tolerances for {sampler!r} in fixed steps", "fixed steps or tolerances"
        advice = "Leave out steps and grid for error control, or leave out the tolerances."
        raise ValueError(message("rtol, atol", got, accepted, advice))
    if adaptive and trajectory is None and isinstance(grid, str) and grid in GRIDS and grid != "uniform":
        got, advice = f"{grid!r} for {sampler!r} with error control", "Pass steps= for a grid, or trajectory=k."
        raise ValueError(message("grid", got, "None there", advice))
    if kind.only and method not in (None, kind.method[adaptive]):
        advice = 'Other methods go with sampler="reverse_sde" or sampler="probability_flow".'
        raise ValueError(message("method", repr(method), f"None for sampler={sampler!r}", advice))
    if eta is not None and not kind.stochastic:
        advice = 'Write sampler="reverse_sde" for noise.'
        raise ValueError(message("eta", repr(eta), f"None for sampler={sampler!r}", advice))


def _stride(steps: int, trajectory: int | None) -> int:
    """Steps from one output to the next."""
    count = 1 if trajectory is None else trajectory
    if count < 1 or steps % count:
        raise ValueError(message("trajectory", repr(trajectory), f"a divisor of the {steps} steps"))
    return steps // count
