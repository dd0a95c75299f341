"""Steps and noise of a request, from what has been read of it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.brownian import BrownianPath
from sdesolve.brownian.steps import OwnSteps, PathSteps
from sdesolve.brownian.window import window_of_seed, windows_of_seed
from sdesolve.errors import message
from sdesolve.fixed_plan import FixedPlan
from sdesolve.lattice_clock import PathNoise
from sdesolve.methods import Method
from sdesolve.state import StateSpec
from sdesolve.step_size import StepTable, step_table
from sdesolve.system import System


def fixed_plan(
    system: System,
    method: Method,
    y: Tensor,
    columns: NDArray[np.float64],
    eps: float,
    dt: float,
    seed: int | None,
    ids: Tensor,
    brownian: BrownianPath | None,
    limit: int,
    dense: bool,
) -> FixedPlan:
    """Fixed steps of dt, with the noise of a seed or along a given path."""
    spec = system.spec
    table = step_table_of(columns, eps, dt, limit)
    noise: OwnSteps | PathSteps | None = None
    shape: tuple[int, ...] = ()
    levy = method.levy_for(system)
    if system.is_sde:
        shape = system.noise_shape(first_time_of(system, columns), y)
        if brownian is None:
            assert seed is not None
            noise = OwnSteps(seed, ids, shape, table, dt, spec.dtype, levy)
        else:
            noise = PathSteps(_check_path(brownian, spec, shape), table, eps, levy)
    return FixedPlan(system, method, table, columns, noise, dense, channels=math.prod(shape))


def step_table_of(columns: NDArray[np.float64], eps: float, dt: float, limit: int) -> StepTable:
    """The steps of dt, which are not more than the limit."""
    # one column of times that all share is one clock
    table = step_table(columns[:, 0] if columns.shape[1] == 1 else columns, dt, eps)
    if table.total > limit:
        raise ValueError(
            message(
                "max_steps",
                f"{limit}, where dt = {dt} needs {table.total} steps",
                "at least the steps that dt makes",
            )
        )
    return table


def first_time_of(system: System, columns: NDArray[np.float64]) -> Tensor:
    """The first time as functions see it."""
    start = torch.as_tensor(columns[0], dtype=system.spec.time_dtype, device=system.spec.device)
    return start[0] if columns.shape[1] == 1 else system.spec.expand(start)


def path_noise(
    system: System,
    method: Method,
    y: Tensor,
    columns: NDArray[np.float64],
    eps: float,
    seed: int | None,
    ids: Tensor,
    brownian: BrownianPath | None,
    limit: int,
) -> PathNoise:
    """The path that adaptive steps follow: the given one, or that of the seed."""
    spec, shape, levy = system.spec, system.noise_shape(first_time_of(system, columns), y), method.levy_for(system)
    low, high = columns.min(0), columns.max(0)
    if brownian is not None:
        path = _check_path(brownian, spec, shape)
        window = path.window(levy, (float(low.min()), float(high.max())))
        needed = float((high - low).max()) / path.cell
        if needed > limit:
            got = f"cells of {path.cell}, of which adaptive steps need at least {needed:.3g} with max_steps = {limit}"
            advice = "Adaptive steps are no longer than a cell."
            raise ValueError(message("brownian", got, "a path of longer cells, or a larger max_steps", advice))
        return PathNoise(window, lambda times: path.ticks(times, eps))
    assert seed is not None
    if columns.shape[1] == 1:
        own = window_of_seed(seed, ids, shape, (float(low[0]), float(high[0])), spec.dtype, levy)
        return PathNoise(own, lambda times: np.rint(times / own.tick).astype(np.int64))
    each = windows_of_seed(seed, ids, shape, low.tolist(), high.tolist(), spec.dtype, levy)
    return PathNoise(each, lambda times: np.rint(times / each.tick.cpu().numpy()).astype(np.int64))


def _check_path(path: BrownianPath, spec: StateSpec, shape: tuple[int, ...]) -> BrownianPath:
    wanted = (spec.batch, *shape)
    if tuple(path.shape) != wanted or path.dtype != spec.dtype:
        raise ValueError(
            message(
                "brownian",
                f"a path of shape {tuple(path.shape)}, {path.dtype}",
                f"shape {wanted}, {spec.dtype}, for this problem",
            )
        )
    return path
