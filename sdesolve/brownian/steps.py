"""Brownian increments of the steps of a fixed-step solve, drawn in blocks of steps."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.brownian.counter import BLOCK, cell_normals, key_words, off_grid_normals
from sdesolve.brownian.grid import step_cells
from sdesolve.brownian.path import BrownianPath, tree_sum
from sdesolve.errors import message

Array = NDArray[np.float64]


class Increments(Protocol):
    """W(t_k+1) - W(t_k) for steps first <= k < last: (last - first, batch, *shape); ``size`` steps make a good
    block."""

    size: int

    def __call__(self, first: int, last: int) -> Tensor: ...


class OwnSteps:
    """The steps of the solve are the cells of its path: sqrt(h) times one normal a step and channel, no bridge.

    times, steps : (N + 1,), (N,) or with a trailing batch dimension, in float64; dt : the step the user asked for, in
    whose multiples steps are named (see :func:`sdesolve.brownian.grid.step_cells`). The increments have the shape
    (steps, batch, *shape).
    """

    def __init__(
        self,
        seed: int,
        paths: Tensor,
        shape: tuple[int, ...],
        times: Array,
        steps: Array,
        dt: float,
        dtype: torch.dtype,
    ) -> None:
        self.device, self.dtype, self.shape = paths.device, dtype, shape
        self.key, self.paths, self.channels = key_words(seed, paths.device), paths, prod(shape)
        starts = np.minimum(times[:-1], times[1:])
        # a trajectory that has finished waits with steps of length 0: their noise is named, and multiplied by 0
        lengths = np.where(steps == 0, dt, np.abs(steps))
        self.cells, self.ticks, self.regular = step_cells(starts, lengths, dt)
        self.scale = np.sign(steps) * np.sqrt(np.abs(steps))
        self.size = max(BLOCK // max(len(paths) * self.channels, 1) // 4 * 4, 4)

    def __call__(self, first: int, last: int) -> Tensor:
        if self.cells.ndim == 2:
            z = self._own_clocks(first, last)
        else:
            z = torch.cat([self._run(a, b) for a, b in self.runs(first, last)])
        scale = torch.as_tensor(self.scale[first:last], dtype=self.dtype, device=self.device)
        return (z * scale.reshape(*scale.shape, *(1,) * (z.ndim - scale.ndim))).reshape(
            last - first, len(self.paths), *self.shape
        )

    def runs(self, first: int, last: int) -> list[tuple[int, int]]:
        """Stretches of consecutive whole cells, or of steps off the grid."""
        cells, regular = self.cells[first:last], self.regular[first:last]
        moves = np.diff(cells)
        ends = (regular[1:] != regular[:-1]) | (regular[1:] & (np.abs(moves) != 1))
        ends[1:] |= regular[2:] & regular[:-2] & (moves[1:] != moves[:-1])
        cuts = [first, *(first + 1 + np.flatnonzero(ends)).tolist(), last]
        return list(pairwise(cuts))

    def _run(self, first: int, last: int) -> Tensor:
        cells = self.cells[first:last]
        if not self.regular[first]:
            tensors = (self._int(cells), self._int(self.ticks[first:last]))
            return off_grid_normals(self.key, self.paths, self.channels, *tensors, self.dtype)
        low, high = int(cells.min()), int(cells.max())
        quads = self._int(np.arange(low >> 2, (high >> 2) + 1))
        z = cell_normals(self.key, self.paths, self.channels, quads, self.dtype)
        z = z[low & 3 : (low & 3) + last - first]
        return z.flip(0) if cells[0] > cells[-1] else z

    def _own_clocks(self, first: int, last: int) -> Tensor:
        cells, regular = self._int(self.cells[first:last]), torch.as_tensor(self.regular[first:last])
        four = cell_normals(self.key, self.paths, self.channels, cells >> 2, self.dtype)
        four = four.unflatten(0, (len(cells), 4))
        whole = torch.take_along_dim(four, (cells & 3)[:, None, :, None], 1)[:, 0]
        if bool(regular.all()):
            return whole
        ticks = self._int(self.ticks[first:last])
        other = off_grid_normals(self.key, self.paths, self.channels, cells, ticks, self.dtype)
        return torch.where(regular.to(self.device)[..., None], whole, other)

    def _int(self, array: NDArray[np.int64]) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), device=self.device)


class PathSteps:
    """Steps along a given path; each must consist of whole cells of it."""

    def __init__(self, path: BrownianPath, times: Array, rounding: float) -> None:
        if times.ndim == 2:
            raise ValueError(
                message("brownian", "a path with (batch, T) output times", "a path with (T,) output times")
            )
        self.path = path
        exact = (times - path.origin) / path.cell
        self.bounds = np.round(exact).astype(np.int64)
        slack = 1e-6 + 4 * rounding * np.abs(times).max() / path.cell
        wrong = np.abs(exact - self.bounds) > min(slack, 0.05)
        if wrong.any() or (np.diff(self.bounds) == 0).any():
            at = times[np.flatnonzero(wrong)[0]] if wrong.any() else times[0]
            raise ValueError(
                message(
                    "brownian",
                    f"a path of cells of {path.cell} from {path.origin}, and a step that starts or ends at t = {at}",
                    "steps that are whole cells of the path",
                    "Choose dt and ts as multiples of the cell, or make the path with a smaller cell.",
                )
            )
        per_step = max(int(np.abs(np.diff(self.bounds)).max()), 1)
        self.size = max(BLOCK // max(prod(path.shape) * per_step, 1), 1)

    def __call__(self, first: int, last: int) -> Tensor:
        bounds = self.bounds[first : last + 1]
        counts = np.abs(np.diff(bounds))
        backwards = bounds[-1] < bounds[0]
        cells = self.path.increments(int(bounds.min()), int(counts.sum()))
        cells = -cells.flip(0) if backwards else cells
        if (counts == 1).all():
            return cells
        if (counts == counts[0]).all():
            return tree_sum(cells.unflatten(0, (last - first, int(counts[0]))).transpose(0, 1))
        return torch.stack([tree_sum(part) for part in torch.split(cells, counts.tolist())])
