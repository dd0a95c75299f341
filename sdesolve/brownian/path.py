"""Brownian motion as a pure function of seed, trajectory, channel and time."""

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Never

import torch
from torch import Tensor

from sdesolve.brownian.check import checked_ids, checked_integers, checked_shape, refuse_cells_out_of_range
from sdesolve.brownian.counter import BLOCK, CELLS_PER_CALL, MAX_CELL, Key, cell_normals, key_words
from sdesolve.errors import message

_MOST_SLACK = 0.05
"""Fraction of a cell by which no time may miss a boundary, however coarse its dtype."""


class BrownianPath:
    """Independent Brownian motions, one for each trajectory and channel, on a grid of cells.

    ::

        W(t_b) - W(t_a) = sqrt(cell) (z_a + ... + z_{b-1}),      t_n = origin + n cell,   z_n ~ N(0, 1)

    z_n is read off a counter-based generator (see `sdesolve.brownian.counter`): it depends on the seed, the
    trajectory id, the channel and n alone. The path has no state. Whatever the batch, the order of queries or
    the number of threads, the same bits come out; and float64 paths are float32 paths with more digits.

    Parameters
    ----------
    seed
        Int in [0, 2^64).
    shape
        `(batch, *channels)`; the channels of a trajectory are numbered in row-major order.
    cell
        Length of a cell, in units of time.
    origin
        Time at which cell 0 starts.
    paths
        Ids of the trajectories, `batch` different integers in [0, 2^32); default 0 .. batch - 1. A shard of
        an ensemble that names its ids sees its own noise.
    levy
        Levy areas that come along with the increments; only None so far.
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
    >>> torch.equal(path.for_paths([2])(0.0, 1.0), path(0.0, 1.0)[2:3])
    True

    References
    ----------
    Salmon, Moraes, Dror, Shaw (2011). Parallel random numbers: as easy as 1, 2, 3. SC '11.
    """

    seed: int
    shape: tuple[int, ...]
    cell: float
    origin: float
    paths: Tensor
    levy: None
    dtype: torch.dtype
    device: torch.device
    _key: Key

    def __init__(
        self,
        seed: int,
        shape: Sequence[int],
        *,
        cell: float,
        origin: float = 0.0,
        paths: Sequence[int] | Tensor | None = None,
        levy: None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if levy is not None:
            raise ValueError(message("levy", repr(levy), "None", "Levy areas are not available yet."))
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(message("dtype", dtype, "torch.float32 or torch.float64"))
        if not (math.isfinite(cell) and cell > 0):
            raise ValueError(message("cell", repr(cell), "a positive, finite length of time"))
        if not math.isfinite(origin):
            raise ValueError(message("origin", repr(origin), "a finite time"))
        shape = checked_shape(shape)
        ids = checked_ids(paths, shape[0], device)
        key = key_words(seed, ids.device)
        self.__dict__.update(  # __setattr__ refuses
            seed=int(seed),
            shape=shape,
            cell=float(cell),
            origin=float(origin),
            paths=ids,
            levy=None,
            dtype=dtype,
            device=ids.device,
            _key=key,
        )

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"a BrownianPath is frozen; make a new one instead of setting {name!r}")

    def __repr__(self) -> str:
        return (
            f"BrownianPath(seed={self.seed}, shape={self.shape}, cell={self.cell}, origin={self.origin}, "
            f"dtype={self.dtype}, device={str(self.device)!r})"
        )

    def __call__(self, s: float | Tensor, t: float | Tensor) -> Tensor:
        """W(t) - W(s), of the path's shape.

        `s` and `t` are boundaries of cells, in either order: floats or 0-d tensors, met up to 1e-6 of a cell
        and the rounding of their dtype. Memory does not grow with the number of cells in between.

        Raises
        ------
        ValueError
            If `s` or `t` is not the boundary of a cell.
        """
        first, last = self._boundary("s", s), self._boundary("t", t)
        if first > last:
            return -self._sum(last, first)
        return self._sum(first, last)

    def increments(self, first: int, count: int) -> Tensor:
        """W(t_{n+1}) - W(t_n) for the cells n = first .. first + count - 1, `(count, *shape)`."""
        first, count = operator.index(first), operator.index(count)
        if count < 0:
            raise ValueError(message("count", count, "a number of cells, 0 or more"))
        if count:
            refuse_cells_out_of_range(first, first + count - 1)
        out = torch.empty((count, *self.shape), dtype=self.dtype, device=self.device)
        rows, scale = self._block_rows(), math.sqrt(self.cell)
        for begin in range(0, count, rows):
            block = out[begin : begin + rows]
            start = first + begin
            quads = torch.arange(start >> 2, ((start + len(block) - 1) >> 2) + 1, device=self.device)
            z = self._quads(quads)[start & 3 :][: len(block)]
            torch.mul(z, scale, out=block)
        return out

    def normals(self, cells: Sequence[int] | Tensor) -> Tensor:
        """Standard normals z_n of the given cells n in any order, `(K, *shape)` for K cells."""
        index = checked_integers("cells", cells, self.device)
        if index.numel():
            refuse_cells_out_of_range(int(index.min()), int(index.max()))
        out = torch.empty((index.shape[0], *self.shape), dtype=self.dtype, device=self.device)
        rows = self._block_rows() // CELLS_PER_CALL  # at worst, every cell lies in a quad of its own
        for begin in range(0, index.shape[0], rows):
            block = index[begin : begin + rows]
            quads, position = torch.unique(block >> 2, return_inverse=True)
            out[begin : begin + rows] = self._quads(quads)[position * CELLS_PER_CALL + (block & 3)]
        return out

    def for_paths(self, paths: Sequence[int] | Tensor) -> "BrownianPath":
        """The same noise for the trajectories with these ids: a path with batch `len(paths)`."""
        return BrownianPath(
            self.seed,
            (len(paths), *self.shape[1:]),
            cell=self.cell,
            origin=self.origin,
            paths=paths,
            levy=self.levy,
            dtype=self.dtype,
            device=self.device,
        )

    def _boundary(self, name: str, time: float | Tensor) -> int:
        """n such that t_n is `time`."""
        if isinstance(time, Tensor) and time.ndim:
            raise ValueError(message(name, f"a tensor of shape {tuple(time.shape)}", "a float or a 0-d tensor"))
        value = float(time)
        position = (value - self.origin) / self.cell
        if not abs(position) <= MAX_CELL:  # nor NaN
            accepted = f"a time within 2**33 cells of length {self.cell!r} of origin = {self.origin!r}"
            raise ValueError(message(name, repr(value), accepted, "Use larger cells, or an origin closer by."))
        eps = torch.finfo(time.dtype).eps if isinstance(time, Tensor) and time.is_floating_point() else 2.0**-52
        slack = 1e-6 + 4 * eps * max(abs(value), abs(self.origin)) / self.cell
        if abs(position - round(position)) > min(slack, _MOST_SLACK):
            low, high = (self.origin + n * self.cell for n in (math.floor(position), math.ceil(position)))
            accepted = f"multiples of cell = {self.cell!r} from origin = {self.origin!r}, where cells meet"
            raise ValueError(message(name, repr(value), accepted, f"The nearest are {low!r} and {high!r}."))
        return round(position)

    def _quads(self, quads: Tensor) -> Tensor:
        """Normals `(4 Q, *shape)` of the cells of each quad."""
        z = cell_normals(self._key, self.paths, math.prod(self.shape[1:]), quads, self.dtype)
        return z.view(len(z), *self.shape)

    def _block_rows(self) -> int:
        """A power of two of cells, at least 4, whose normals make a block."""
        rows = max(BLOCK // max(math.prod(self.shape), 1), CELLS_PER_CALL)
        return 1 << (rows.bit_length() - 1)

    def _sum(self, first: int, last: int) -> Tensor:
        """Sum of the increments of cells first .. last - 1.

        Summed by the binary tree over the cells first, first + 1, ..., whose rounding errors grow like log n
        and which is the same whatever the size of the blocks: the j-th block of 2^k cells is a subtree, and
        merges with the finished subtrees on its left, one for each trailing one of j's binary digits.
        """
        if first == last:
            return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        refuse_cells_out_of_range(first, last - 1)
        finished: list[Tensor] = []
        for number, block in enumerate(self._blocks(first, last)):
            node = tree_sum(block)
            while number & 1:
                node = finished.pop() + node
                number >>= 1
            finished.append(node)
        node = finished.pop()
        while finished:
            node = finished.pop() + node
        return node

    def _blocks(self, first: int, last: int) -> Iterator[Tensor]:
        rows = self._block_rows()
        for begin in range(first, last, rows):
            yield self.increments(begin, min(rows, last - begin))


def tree_sum(rows: Tensor) -> Tensor:
    """Sum over dimension 0, at least one row: neighbours are added pairwise until one row is left.

    `Tensor.sum` may add in another order for another batch; this is the same for each element.
    """
    while rows.shape[0] > 1:
        half = rows.shape[0] // 2
        pairs = rows[0 : 2 * half : 2] + rows[1 : 2 * half : 2]
        rows = torch.cat((pairs, rows[2 * half :])) if rows.shape[0] % 2 else pairs
    return rows[0].clone()
