"""Time grids: at which times a sampler with a fixed number of steps looks at the denoiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdesolve.errors import message

__all__ = ["GRIDS", "time_grid", "uniform"]


def uniform(steps: int, t_min: float, t_max: float) -> Tensor:
    """steps + 1 equally spaced times from t_max down to t_min."""
    return torch.linspace(t_max, t_min, steps + 1, dtype=torch.float64)


GRIDS: dict[str, Callable[[int, float, float], Tensor]] = {"uniform": uniform}
"""Grids by name: functions (steps, t_min, t_max) -> times ``(steps + 1,)`` in float64, falling."""


def time_grid(grid: str | Tensor, steps: int, t_min: float, t_max: float) -> Tensor:
    """A grid by name, or a tensor of strictly falling times as it stands.

    Raises
    ------
    ValueError : an unknown name, times that do not fall, a number of steps below 1.
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
    return GRIDS[grid](steps, t_min, t_max)
