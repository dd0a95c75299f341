"""Brownian motion as a pure function of seed, trajectory, channel and time."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Never

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sdesolve.brownian.check import checked_ids, checked_integers, checked_shape, refuse_cells_out_of_range
from sdesolve.brownian.correlation import cholesky_factor, correlated
from sdesolve.brownian.counter import AREA, BLOCK, CELLS_PER_CALL, MAX_CELL, H, K, Key, W, cell_normals, key_words
from sdesolve.brownian.levy import (
    LEVY,
    Increment,
    checked_levy,
    contribution,
    davie_foster,
    equal_parts,
    fold,
    followed,
    pairs,
    reversed_increment,
)
from sdesolve.brownian.window import DEPTH, Window
from sdesolve.errors import message

_MOST_SLACK = 0.05
"""Fraction of a cell by which no time may miss a boundary, however coarse its dtype."""
_MOST_LATTICE_CELL = 2**31 - 1
"""Ticks of the lattice, in 64 bits, name times at most this many cells from the origin."""
_STREAMS = {"w": W, "H": H, "K": K}
_VARIANCE = {"w": 1.0, "H": 1 / 12, "K": 1 / 720}


class BrownianPath:
    """Independent (or correlated) Brownian motions, one for each trajectory and channel, on a grid of cells.

    ::

        W(t_b) - W(t_a) = sqrt(cell) (z_a + ... + z_{b-1}),      t_n = origin + n cell,   z_n ~ N(0, 1)

    z_n is read off a counter-based generator (see `sdesolve.brownian.counter`): it depends on the seed, the
    trajectory id, the channel and n alone. Within a cell a dyadic bridge goes on, exact in law at every time of the
    lattice origin + n cell / 2^32 (see `sdesolve.brownian.bridge`); times are rounded to it. The path has no state.
    Whatever the batch, the order of queries or the number of threads, the same bits come out; and float64 paths are
    float32 paths with more digits.

    Parameters
    ----------
    seed
        Int in [0, 2^64).
    shape
        `(batch, *channels)`; the channels of a trajectory are numbered in row-major order.
    cell
        Length of a cell, in units of time. For fixed steps the shortest step is best: steps of whole cells cost one
        normal a cell, and what begins or ends within a cell a descent into it, some ten times as much or more. Adaptive
        steps are no longer than a cell: for them the whole span is best.
    origin
        Time at which cell 0 starts.
    paths
        Ids of the trajectories, `batch` different integers in [0, 2^32); default 0 .. batch - 1. A shard of
        an ensemble that names its ids sees its own noise.
    levy
        What a query gives beside W (see `sdesolve.brownian.levy`): None, nothing; `"space-time"`, H;
        `"space-time-time"`, H and K, with Var H = h / 12 and Var K = h / 720 over a length h; `"davie-foster"`, H and
        the approximate areas between channels, for shapes `(batch, m)`: those of whole cells add up by Chen's relation,
        those of intervals within a cell are right in law each, but do not add up. It does not change W, and a solve
        takes what its method needs, whatever is said here.
    correlation
        Correlation matrix of the channels, (m, m) for m channels, positive definite with ones on its diagonal; the
        motions are L times independent ones, L its Cholesky factor. Default: independent. A solve with general noise
        reads g dB as g L dW, with all that its method says of independent motions; ``sde.to_calculus`` before it does
        so too.
    dtype
        `torch.float32` or `torch.float64`; default torch's default dtype.
    device
        Default torch's default device.

    Raises
    ------
    ValueError
        For an argument outside the ranges above.

    Examples
    --------
    >>> path = BrownianPath(0, (4, 2), cell=0.25)
    >>> path(0.0, 1.0).shape
    torch.Size([4, 2])
    >>> torch.equal(path.for_paths([2])(0.1, 1.0), path(0.1, 1.0)[2:3])
    True
    >>> BrownianPath(0, (4, 2), cell=0.25, levy="space-time")(0.0, 1.0).H.shape
    torch.Size([4, 2])

    References
    ----------
    Salmon, Moraes, Dror, Shaw (2011). Parallel random numbers: as easy as 1, 2, 3. SC '11.
    """

    seed: int
    shape: tuple[int, ...]
    cell: float
    origin: float
    paths: Tensor
    levy: str | None
    correlation: Any
    dtype: torch.dtype
    device: torch.device
    _key: Key
    _factor: Tensor | None

    def __init__(
        self,
        seed: int,
        shape: Sequence[int],
        *,
        cell: float,
        origin: float = 0.0,
        paths: Sequence[int] | Tensor | None = None,
        levy: str | None = None,
        correlation: Any = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(message("dtype", dtype, "torch.float32 or torch.float64"))
        if not (math.isfinite(cell) and cell > 0):
            raise ValueError(message("cell", repr(cell), "a positive, finite length of time"))
        if not math.isfinite(origin):
            raise ValueError(message("origin", repr(origin), "a finite time"))
        shape = checked_shape(shape)
        levy = checked_levy(levy)
        if levy == "davie-foster" and len(shape) != 2:
            raise ValueError(message("levy", f"{levy!r} for shape {shape}", f"{levy!r} for shapes (batch, m)"))
        ids = checked_ids(paths, shape[0], device)
        key = key_words(seed, ids.device)
        factor = None
        if correlation is not None:
            factor = cholesky_factor(correlation, math.prod(shape[1:]), dtype, ids.device)
            correlation = torch.as_tensor(correlation).detach().clone()
        self.__dict__.update(  # __setattr__ refuses
            seed=int(seed),
            shape=shape,
            cell=float(cell),
            origin=float(origin),
            paths=ids,
            levy=levy,
            correlation=correlation,
            dtype=dtype,
            device=ids.device,
            _key=key,
            _factor=factor,
        )

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"a BrownianPath is frozen; make a new one instead of setting {name!r}")

    def __repr__(self) -> str:
        more = "" if self.levy is None else f", levy={self.levy!r}"
        return (
            f"BrownianPath(seed={self.seed}, shape={self.shape}, cell={self.cell}, origin={self.origin}{more}, "
            f"dtype={self.dtype}, device={str(self.device)!r})"
        )

    def __call__(self, s: float | Tensor, t: float | Tensor) -> Tensor | Increment:
        """W(t) - W(s), of the path's shape; with `levy`, the `Increment` (w, H, K, area) over the interval.

        `s` and `t` are floats or 0-d tensors, in either order (backwards, the interval is read backwards); they are
        rounded to the lattice of cell / 2^32, and to the boundary of a cell where that lies within the rounding of
        their dtype. Memory does not grow with the number of cells in between.

        Raises
        ------
        ValueError
            For a time that is not finite, or too many cells away from the origin.
        """
        first, last = self._tick("s", s), self._tick("t", t)
        inc = self.between(min(first, last), max(first, last), self.levy)
        inc = inc if first <= last else reversed_increment(inc)
        if self.levy is None:
            assert inc.w is not None
            return inc.w
        return inc

    def increments(self, first: int, count: int) -> Tensor | Increment:
        """W(t_{n+1}) - W(t_n) for the cells n = first .. first + count - 1, `(count, *shape)`; with `levy`, an
        `Increment` of such tensors."""
        inc = self.cells(first, count, self.levy)
        if self.levy is None:
            assert inc.w is not None
            return inc.w
        return inc

    def normals(self, cells: Sequence[int] | Tensor) -> Tensor:
        """Standard normals z_n of the given cells n in any order, `(K, *shape)` for K cells (independent ones, also
        where the motions are correlated)."""
        index = checked_integers("cells", cells, self.device)
        if index.numel():
            refuse_cells_out_of_range(int(index.min()), int(index.max()))
        out = torch.empty((index.shape[0], *self.shape), dtype=self.dtype, device=self.device)
        rows = self._block_rows() // CELLS_PER_CALL  # at worst, every cell lies in a quad of its own
        for begin in range(0, index.shape[0], rows):
            block = index[begin : begin + rows]
            quads, position = torch.unique(block >> 2, return_inverse=True)
            out[begin : begin + rows] = self._quads(quads, W)[position * CELLS_PER_CALL + (block & 3)]
        return out

    def for_paths(self, paths: Sequence[int] | Tensor) -> BrownianPath:
        """The same noise for the trajectories with these ids: a path with batch `len(paths)`."""
        return self._with(paths, self.correlation)

    def _with(self, paths: Sequence[int] | Tensor, correlation: Any) -> BrownianPath:
        return BrownianPath(
            self.seed,
            (len(paths), *self.shape[1:]),
            cell=self.cell,
            origin=self.origin,
            paths=paths,
            levy=self.levy,
            correlation=correlation,
            dtype=self.dtype,
            device=self.device,
        )

    # ---- for the solvers

    def standard(self) -> tuple[BrownianPath, Tensor]:
        """The independent motions W of which a correlated path is L W, and L."""
        assert self._factor is not None
        return self._with(self.paths, None), self._factor

    def ticks(self, times: ArrayLike, rounding: float) -> NDArray[np.int64]:
        """Times in units of cell / 2^32 from the origin, to the nearest; ``rounding``: relative error of the times, by
        which they may miss the boundary of a cell.

        Raises
        ------
        ValueError
            For times that are not finite or too many cells away from the origin.
        """
        times = np.asarray(times, np.float64)
        cells, inner = self._places(times, rounding)
        self._refuse_far(times, np.abs(cells) < _MOST_LATTICE_CELL, "2**31 - 1 cells")
        return (cells << DEPTH) + inner

    def _places(self, times: NDArray[np.float64], rounding: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cells, and ticks within them, of times; see `ticks`."""
        position = (times - self.origin) / self.cell
        self._refuse_far(times, np.abs(position) <= MAX_CELL, "2**33 cells")  # nor NaN
        nearest = np.rint(position)
        slack = 4 * rounding * np.maximum(np.abs(times), abs(self.origin)) / self.cell
        whole = np.abs(position - nearest) <= np.minimum(slack, _MOST_SLACK)
        position = np.where(whole, nearest, position)
        cells = np.floor(position)
        inner = np.rint((position - cells) * 2.0**DEPTH).astype(np.int64)
        return cells.astype(np.int64) + (inner >> DEPTH), inner & ((1 << DEPTH) - 1)

    def _refuse_far(self, times: NDArray[np.float64], fine: NDArray[np.bool_], reach: str) -> None:
        if not fine.all():
            accepted = f"a time within {reach} of length {self.cell!r} of origin = {self.origin!r}"
            advice = "Use larger cells, or an origin closer by."
            raise ValueError(message("time", repr(float(times[~fine].flat[0])), accepted, advice))

    def window(self, levy: str | None, span: tuple[float, float] | None = None) -> Window:
        """The path's lattice, for many queries at once; given the span of all, with the cells that it touches at hand
        if they are few."""
        first, count = None, 0
        if span is not None:
            low, high = sorted(int(x) >> DEPTH for x in self.ticks(span, 2.0**-53))
            if high - low <= 2:
                first, count = torch.tensor([low], device=self.device), high - low + 1
        return Window(
            self._key,
            self.paths,
            self.shape[1:],
            self.dtype,
            tick=self.cell / 2.0**DEPTH,
            levy=levy,
            factor=self._factor,
            first=first,
            count=count,
        )

    def cells(self, first: int, count: int, levy: str | None) -> Increment:
        """Increments over the cells first .. first + count - 1, with a leading dimension of count."""
        first, count = operator.index(first), operator.index(count)
        if count < 0:
            raise ValueError(message("count", count, "a number of cells, 0 or more"))
        if count:
            refuse_cells_out_of_range(first, first + count - 1)
        names = ("w", *(name for name in LEVY[levy] if name != "area"))
        inc = Increment(**{name: self._scaled(first, count, name) for name in names})
        if levy == "davie-foster":
            assert inc.w is not None and inc.H is not None
            z = self._blocks_of(first, count, AREA, pairs(self.shape[1]), 1.0)
            inc = inc._replace(area=davie_foster(inc.w, inc.H, self.cell, z))
        if self._factor is None:
            return inc
        area, inc = inc.area, inc._replace(area=None)
        flat = inc.map(lambda x: x.reshape(count, self.shape[0], math.prod(self.shape[1:])))
        turned = correlated(flat._replace(area=area), self._factor)
        area, turned = turned.area, turned._replace(area=None)
        return turned.map(lambda x: x.reshape(count, *self.shape))._replace(area=area)

    def between(self, start: int, end: int, levy: str | None) -> Increment:
        """Increments over [start, end) in ticks, start <= end: whole cells, and what is cut of cells at both ends."""
        low, high = -(-start >> DEPTH), end >> DEPTH
        if low > high or (low == high and start < low << DEPTH < end) or (start == end and start < low << DEPTH):
            return self._cut(start, end, levy)
        left, right = low << DEPTH, high << DEPTH
        pieces = [(start, left, self._cut), (left, right, self._run), (right, end, self._cut)]
        found: Increment | None = None
        for a, b, query in pieces:
            if a == b and (start < end or query == self._cut):
                continue
            inc = query(a, b, levy)
            if (a, b) == (start, end):
                return inc
            inc = contribution(inc, (b - a) / (end - start), (a + b - start - end) / (2 * (end - start)))
            found = inc if found is None else followed(found, inc)
        assert found is not None
        return found

    def _cut(self, start: int, end: int, levy: str | None) -> Increment:
        tick = lambda x: torch.tensor([x], device=self.device)
        return self.window(levy)(tick(start), tick(end))

    def _tick(self, name: str, time: float | Tensor) -> int:
        if isinstance(time, Tensor) and time.ndim:
            raise ValueError(message(name, f"a tensor of shape {tuple(time.shape)}", "a float or a 0-d tensor"))
        eps = torch.finfo(time.dtype).eps if isinstance(time, Tensor) and time.is_floating_point() else 2.0**-52
        try:
            exact = np.asarray(float(time))
            cell, inner = self._places(exact, eps)
            boundary = inner == 0
            self._refuse_far(exact, boundary | (np.abs(cell) < _MOST_LATTICE_CELL), "2**31 - 1 cells")
            return (int(cell) << DEPTH) + int(inner)
        except ValueError as error:
            raise ValueError(str(error).replace("time:", f"{name}:", 1)) from None

    def _quads(self, quads: Tensor, stream: int, channels: int | None = None) -> Tensor:
        """Normals `(4 Q, *shape)` of the cells of each quad, or `(4 Q, batch, channels)`."""
        z = cell_normals(self._key, self.paths, channels or math.prod(self.shape[1:]), quads, self.dtype, stream)
        return z if channels is not None else z.view(len(z), *self.shape)

    def _scaled(self, first: int, count: int, name: str) -> Tensor:
        return self._blocks_of(first, count, _STREAMS[name], None, math.sqrt(self.cell * _VARIANCE[name]))

    def _blocks_of(self, first: int, count: int, stream: int, channels: int | None, scale: float) -> Tensor:
        """Normals of consecutive cells times a factor."""
        shape = self.shape if channels is None else (self.shape[0], channels)
        out = torch.empty((count, *shape), dtype=self.dtype, device=self.device)
        rows = self._block_rows()
        for begin in range(0, count if out.numel() else 0, rows):
            block = out[begin : begin + rows]
            start = first + begin
            quads = torch.arange(start >> 2, ((start + len(block) - 1) >> 2) + 1, device=self.device)
            torch.mul(self._quads(quads, stream, channels)[start & 3 :][: len(block)], scale, out=block)
        return out

    def _block_rows(self) -> int:
        """A power of two of cells, at least 4, whose normals make a block."""
        rows = max(BLOCK // max(math.prod(self.shape), 1), CELLS_PER_CALL)
        return 1 << (rows.bit_length() - 1)

    def _run(self, start: int, end: int, levy: str | None) -> Increment:
        """Increments over whole cells first .. last - 1 together.

        Summed by the binary tree over the cells first, first + 1, ..., whose rounding errors grow like log n
        and which is the same whatever the size of the blocks: the j-th block of 2^k cells is a subtree, and
        merges with the finished subtrees on its left, one for each trailing one of j's binary digits.
        """
        first, last = start >> DEPTH, end >> DEPTH
        if first == last:
            return self.cells(0, 1, levy).map(lambda x: torch.zeros_like(x[0]))
        refuse_cells_out_of_range(first, last - 1)
        finished: list[Increment] = []
        for number, block in enumerate(self._blocks(first, last, levy)):
            node = fold(block)
            while number & 1:
                node = followed(finished.pop(), node)
                number >>= 1
            finished.append(node)
        node = finished.pop()
        while finished:
            node = followed(finished.pop(), node)
        return node

    def _blocks(self, first: int, last: int, levy: str | None) -> Iterator[Increment]:
        """What the cells contribute to the run of them."""
        rows, total = self._block_rows(), last - first
        for begin in range(first, last, rows):
            yield equal_parts(self.cells(begin, min(rows, last - begin), levy), begin - first, total)
