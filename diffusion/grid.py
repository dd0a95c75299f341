"""Time grids: at which times a sampler with a fixed number of steps looks at the denoiser.

For i = 0, ..., N, with log_snr = log(alpha^2 / sigma^2) and the noise level  s = sigma / alpha:

    uniform     t_i linear in i
    quadratic   sqrt(t_i) linear in i
    log_snr     log_snr(t_i) linear in i
    karras      s(t_i)^(1/7) linear in i

from t_max down to t_min.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdesolve.errors import message

from .process import Process

__all__ = ["GRIDS", "time_grid", "uniform"]

RHO = 7.0  # of "karras"


def uniform(steps: int, t_min: float, t_max: float) -> Tensor:
    """steps + 1 equally spaced times from t_max down to t_min."""
    return torch.linspace(t_max, t_min, steps + 1, dtype=torch.float64)


def quadratic(steps: int, t_min: float, t_max: float) -> Tensor:
    """Equally spaced roots.

    References
    ----------
    Song, Meng & Ermon (2021). Denoising diffusion implicit models. ICLR. Appendix D.2, for t_min = 0.
    """
    return uniform(steps, t_min**0.5, t_max**0.5) ** 2


def log_snr(process: Process, steps: int, t_min: float, t_max: float) -> Tensor:
    """Equally spaced log signal-to-noise ratios.

    References
    ----------
    Lu et al. (2022). DPM-Solver. NeurIPS. Section 3.4, for half of them.
    """
    high, low = _log_snr_at("log_snr", process, t_min, t_max)
    return _between(process, uniform(steps, high, low), t_min, t_max)


def karras(process: Process, steps: int, t_min: float, t_max: float) -> Tensor:
    """Equally spaced seventh roots of the noise level.

    References
    ----------
    Karras, Aittala, Aila & Laine (2022). Elucidating the design space of diffusion-based generative models. NeurIPS.
    Eq. (5); there N counts the levels, and 0 is appended.
    """
    high, low = _log_snr_at("karras", process, t_min, t_max, noiseless=True)
    root = [math.exp(-0.5 * end / RHO) for end in (high, low)]
    wanted = -2 * RHO * torch.log(uniform(steps, *root))
    wanted[-1] = wanted[-2]  # replaced by t_min, where it may be infinite
    return _between(process, wanted, t_min, t_max)


def _between(process: Process, wanted: Tensor, t_min: float, t_max: float) -> Tensor:
    """The times of these log_snr, with the ends as they were given."""
    times = process.time_of_log_snr(wanted)
    times[0], times[-1] = t_max, t_min
    return times


def _log_snr_at(
    grid: str, process: Process, t_min: float, t_max: float, noiseless: bool = False
) -> tuple[float, float]:
    """Of both ends; infinite at t_min where the grid can bear it."""
    high, low = process.log_snr(torch.tensor([t_min, t_max], dtype=torch.float64)).tolist()
    for name, t, end in (("t_min", t_min, high), ("t_max", t_max, low)):
        if not math.isfinite(end) and not (noiseless and name == "t_min" and end == math.inf):
            accepted = f"a time where log_snr of {process} is finite, which it is not there, for grid={grid!r}"
            advice = "Write t_min=1e-3." if name == "t_min" else "Write t_max=process.rates_end, or a time before it."
            raise ValueError(message(name, repr(t), accepted, advice))
    return high, low


GRIDS: dict[str, Callable[[Process, int, float, float], Tensor]] = {
    "uniform": lambda process, *span: uniform(*span),
    "log_snr": log_snr,
    "karras": karras,
    "quadratic": lambda process, *span: quadratic(*span),
}
"""Grids by name: functions (process, steps, t_min, t_max) -> times ``(steps + 1,)`` in float64, falling."""


def time_grid(grid: str | Tensor, steps: int, t_min: float, t_max: float, process: Process) -> Tensor:
    """A grid by name, or a tensor of strictly falling times as it stands.

    Raises
    ------
    ValueError : an unknown name, times that do not fall, a number of steps below 1, an end where the signal-to-noise
        ratio is 0 or infinite and the grid needs it.
    """
    if isinstance(grid, Tensor):
        if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() < 0).all()):
            raise ValueError(
                message("grid", f"a tensor of shape {tuple(grid.shape)}", "strictly falling times (T,), T >= 2")
            )
        return grid.to(torch.float64)
    if not isinstance(grid, str) or grid not in GRIDS:
        raise ValueError(message("grid", repr(grid), f"{' or '.join(map(repr, GRIDS))}, or a tensor of times"))
    if steps < 1:
        raise ValueError(message("steps", repr(steps), "at least 1"))
    return GRIDS[grid](process, steps, t_min, t_max)
