"""Brownian increments of the steps of a fixed-step solve, drawn in blocks of steps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.brownian.counter import (
    AREA,
    BLOCK,
    OFF_GRID_AREA,
    H,
    K,
    Key,
    W,
    cell_normals,
    key_words,
    off_grid_normals,
    quad_normals,
)
from sdesolve.brownian.grid import step_cells
from sdesolve.brownian.levy import LEVY, Increment, Normals, davie_foster, equal_parts, fold, pairs, reversed_increment
from sdesolve.brownian.path import BrownianPath
from sdesolve.brownian.window import DEPTH

Array = NDArray[np.float64]

#: numbers of noise that are kept for a way back
REMEMBERED = 2**20


class StepNoise(Protocol):
    """Increments over the steps first <= k < last, each part with a leading dimension of last - first; ``size`` steps
    make a good block."""

    size: int

    def __call__(self, first: int, last: int) -> Increment: ...


class Remembered:
    """Noise of which the blocks that were drawn last are kept, up to 2^20 numbers, for a way back that asks again."""

    def __init__(self, noise: StepNoise) -> None:
        self.noise, self.size = noise, noise.size
        self.kept: OrderedDict[tuple[int, int], Increment] = OrderedDict()

    def __call__(self, first: int, last: int) -> Increment:
        if (first, last) not in self.kept:
            self.kept[first, last] = self.noise(first, last)
            while len(self.kept) > 1 and sum(map(_numbers, self.kept.values())) > REMEMBERED:
                self.kept.popitem(last=False)
        return self.kept[first, last]


def _numbers(inc: Increment) -> int:
    return sum(x.numel() for x in inc if x is not None)


class Steps(Protocol):
    """Fixed steps of a solve: how many there are, the length of the longest, whether all trajectories share them; and
    ``rows(first, last)``, times (n + 1,) or (n + 1, batch) at which the steps first <= k < last begin and end, and
    their signed lengths (n,) or (n, batch)."""

    @property
    def total(self) -> int: ...

    @property
    def longest(self) -> float: ...

    @property
    def shared(self) -> bool: ...

    def rows(self, first: int, last: int) -> tuple[Array, Array]: ...


class Named(NamedTuple):
    """Steps by the names of their noise, see :func:`sdesolve.brownian.grid.step_cells`; scale is the sign of a step
    times the root of its length."""

    cells: NDArray[np.int64]
    ticks: NDArray[np.int64]
    regular: NDArray[np.bool_]
    scale: Array

    def part(self, first: int, last: int) -> Named:
        """Some of them."""
        cut = slice(first, last)
        return Named(self.cells[cut], self.ticks[cut], self.regular[cut], self.scale[cut])

    def runs(self) -> list[tuple[int, int]]:
        """Stretches of consecutive whole cells, or of steps off the grid."""
        cells, regular = self.cells, self.regular
        moves = np.diff(cells)
        ends = (regular[1:] != regular[:-1]) | (regular[1:] & (np.abs(moves) != 1))
        ends[1:] |= regular[2:] & regular[:-2] & (moves[1:] != moves[:-1])
        return list(pairwise([0, *(1 + np.flatnonzero(ends)).tolist(), len(cells)]))


class StepNormals:
    """The normals of whole cells and of steps off the grid, for W and what comes with it, and the increments they make.

    key : words of the seed. paths : (batch,) ids. shape : of a trajectory's Brownian motion. levy : what is wanted
    beside W.
    """

    def __init__(self, key: Key, paths: Tensor, shape: tuple[int, ...], dtype: torch.dtype, levy: str | None) -> None:
        self.key, self.paths, self.shape, self.dtype, self.levy = key, paths, shape, dtype, levy
        self.channels = prod(shape)

    @property
    def streams(self) -> tuple[int, ...]:
        """Streams of whole cells that a step reads."""
        return (W, *({"H": H, "K": K}[name] for name in LEVY[self.levy] if name != "area"))

    def scaled(self, z: tuple[Tensor, ...], scale: Tensor) -> Increment:
        """Increments over steps h from normals (K, batch, channels); scale: the sign of h times the root of its length,
        (K,) or (K, batch)."""
        scale = scale.reshape(*scale.shape, *(1,) * (3 - scale.ndim))
        shaped = lambda x: x.reshape(*x.shape[:2], *self.shape)
        last = len(self.streams) - 1
        # backwards W, K and the areas change their signs, H does not
        w, H, K, _ = Normals(z[0], z[min(1, last)], z[last]).increment(scale, self.levy)
        assert w is not None
        if H is None:
            return Increment(shaped(w))
        H = H * scale.sign()
        area = None
        if self.levy == "davie-foster":
            area = davie_foster(w, H, scale * scale, z[-1] * scale.sign())
        return Increment(w, H, K).map(shaped)._replace(area=area)

    def whole(self, quads: Tensor) -> tuple[Tensor, ...]:
        """Normals of whole cells, four a quad: of each stream, then of the pairs of channels if areas are wanted."""
        draw = lambda channels, stream: cell_normals(self.key, self.paths, channels, quads, self.dtype, stream)
        z = tuple(draw(self.channels, stream) for stream in self.streams)
        return (*z, draw(pairs(self.channels), AREA)) if self.levy == "davie-foster" else z

    def quad(self, quad: Tensor) -> list[tuple[Tensor, ...]]:
        """The same of one quad, (1,): for each of its four cells, (1, batch, channels) each. In compiled code nothing
        stands between these and what uses them."""
        draw = lambda channels, stream: quad_normals(self.key, self.paths, channels, quad, self.dtype, stream)
        z = [draw(self.channels, stream) for stream in self.streams]
        if self.levy == "davie-foster":
            z.append(draw(pairs(self.channels), AREA))
        return list(zip(*z, strict=True))

    def off_grid(self, cells: Tensor, ticks: Tensor) -> tuple[Tensor, ...]:
        """The same of off-grid steps."""
        name = self.key, self.paths, self.channels, cells, ticks, self.dtype
        z = off_grid_normals(*name, count=len(self.streams))
        if self.levy != "davie-foster":
            return z
        area = off_grid_normals(self.key, self.paths, pairs(self.channels), cells, ticks, self.dtype, OFF_GRID_AREA)
        return (*z, *area)


class OwnSteps(StepNormals):
    """The steps of the solve are the cells of its path: the root of its length times one normal a step and channel (and
    one for H, one for K), no bridge.

    dt : the step the user asked for, in whose multiples steps are named. levy : what is wanted beside W.

    Raises
    ------
    ValueError : steps too many dt away from time 0 to have names.
    """

    def __init__(
        self,
        seed: int,
        paths: Tensor,
        shape: tuple[int, ...],
        steps: Steps,
        dt: float,
        dtype: torch.dtype,
        levy: str | None = None,
    ) -> None:
        super().__init__(key_words(seed, paths.device), paths, shape, dtype, levy)
        self.device, self.steps, self.dt = paths.device, steps, dt
        self.size = max(BLOCK // max(len(paths) * self.channels, 1) // 4 * 4, 4)
        for first in (0, steps.total - 1):
            self.named(first, first + 1)

    def named(self, first: int, last: int) -> Named:
        """The steps first <= k < last."""
        times, steps = self.steps.rows(first, last)
        # a trajectory that has finished waits with steps of length 0: their noise is named, and multiplied by 0
        lengths = np.where(steps == 0, self.dt, np.abs(steps))
        names = step_cells(np.minimum(times[:-1], times[1:]), lengths, self.dt)
        return Named(*names, np.sign(steps) * np.sqrt(np.abs(steps)))

    def __call__(self, first: int, last: int) -> Increment:
        named = self.named(first, last)
        if self.steps.shared:
            parts = [self._run(named.part(a, b)) for a, b in named.runs()]
            z = parts[0] if len(parts) == 1 else tuple(torch.cat(part) for part in zip(*parts, strict=True))
        else:
            z = self._own_clocks(named)
        return self.scaled(z, torch.as_tensor(named.scale, dtype=self.dtype, device=self.device))

    def _run(self, named: Named) -> tuple[Tensor, ...]:
        cells = named.cells
        if not named.regular[0]:
            return self.off_grid(self._int(cells), self._int(named.ticks))
        low, high = int(cells.min()), int(cells.max())
        quads = self._int(np.arange(low >> 2, (high >> 2) + 1))
        turn = lambda z: z.flip(0) if cells[0] > cells[-1] else z
        return tuple(turn(z[low & 3 : (low & 3) + len(cells)]) for z in self.whole(quads))

    def _own_clocks(self, named: Named) -> tuple[Tensor, ...]:
        cells, regular = self._int(named.cells), torch.as_tensor(named.regular)
        which = (cells & 3)[:, None, :, None]
        four = (z.unflatten(0, (len(cells), 4)) for z in self.whole(cells >> 2))
        whole = tuple(torch.take_along_dim(z, which, 1)[:, 0] for z in four)
        if bool(regular.all()):
            return whole
        other = self.off_grid(cells, self._int(named.ticks))
        mask = regular.to(self.device)[..., None]
        return tuple(torch.where(mask, a, b) for a, b in zip(whole, other, strict=True))

    def _int(self, array: NDArray[np.int64]) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), device=self.device)


class PathSteps:
    """Steps along a given path: sums over whole cells where steps are such, bridges where they cut cells. What a step
    gets does not depend on where others cut cells.

    rounding : relative error of the steps' times.
    """

    def __init__(self, path: BrownianPath, steps: Steps, rounding: float, levy: str | None = None) -> None:
        self.path, self.steps, self.rounding, self.levy = path, steps, rounding, levy
        self.window = path.window(levy)
        path.ticks([steps.rows(k, k)[0] for k in (0, steps.total)], rounding)
        longest = max(int(steps.longest / path.cell), 1)
        levels = 1 if self._is_whole(self._bounds(0, min(steps.total, 64))).all() else 2 * DEPTH
        self.size = max(BLOCK // max(prod(path.shape) * longest * levels, 1), 1)

    def _bounds(self, first: int, last: int) -> NDArray[np.int64]:
        """Where steps begin and end, in ticks."""
        return self.path.ticks(self.steps.rows(first, last)[0], self.rounding)

    def _is_whole(self, bounds: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which steps, of all trajectories, consist of whole cells."""
        boundary = (bounds & ((1 << DEPTH) - 1)) == 0
        return boundary[:-1] & boundary[1:] if self.steps.shared else np.zeros(len(bounds) - 1, np.bool_)

    def __call__(self, first: int, last: int) -> Increment:
        bounds = self._bounds(first, last)
        whole = self._is_whole(bounds)
        cut = np.flatnonzero(~whole)
        ends = [0, *(1 + np.flatnonzero(whole[1:] != whole[:-1])).tolist(), last - first]
        # (numbers of steps, their increments)
        found = [(np.arange(a, b), self._whole(bounds[a : b + 1])) for a, b in pairwise(ends) if whole[a]]
        if len(cut):
            found.append((cut, self._cut(bounds[cut], bounds[cut + 1])))
        if len(found) == 1:
            return found[0][1]
        order = torch.as_tensor(np.argsort(np.concatenate([steps for steps, _ in found])), device=self.path.device)
        return _stacked([inc for _, inc in found], torch.cat).map(lambda x: x[order])

    def _cut(self, *ends: NDArray[np.int64]) -> Increment:
        """Steps that cut cells, or of trajectories with times of their own."""
        start, end = (torch.as_tensor(x, device=self.path.device) for x in ends)
        return self.window(*(x[:, None] if x.ndim == 1 else x for x in (start, end)))

    def _whole(self, bounds: NDArray[np.int64]) -> Increment:
        """Consecutive steps of whole cells."""
        steps = len(bounds) - 1
        counts, backwards = np.abs(np.diff(bounds)) >> DEPTH, bool(bounds[-1] < bounds[0])
        turn = reversed_increment if backwards else lambda inc: inc
        if (counts != counts[0]).any() or counts[0] == 0:
            each = [self.path.between(min(a, b), max(a, b), self.levy) for a, b in pairwise(bounds.tolist())]
            return turn(_stacked(each, torch.stack))
        inc = self._equal(int(bounds.min()) >> DEPTH, int(counts[0]), steps)
        return turn(inc.map(lambda x: x.flip(0))) if backwards else inc

    def _equal(self, cell: int, count: int, steps: int) -> Increment:
        """Steps of ``count`` cells each, in the order of time, from a cell on."""
        inc = self.path.cells(cell, count * steps, self.levy)
        if count == 1:
            return inc
        return fold(equal_parts(inc.map(lambda x: x.unflatten(0, (steps, count)).transpose(0, 1)), 0, count))


def _stacked(parts: list[Increment], join: Callable[[list[Tensor]], Tensor]) -> Increment:
    return Increment(*(None if x[0] is None else join(list(x)) for x in zip(*parts, strict=True)))
