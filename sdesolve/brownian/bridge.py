"""The dyadic bridge within a cell: (W, H, K) of any lattice interval, from the cell's and one call a level.

An interval's (W, H, K), in units of their standard deviations, are the coefficients of its white noise on the
orthonormal Legendre polynomials of degree 0, 1 and 2 (H up to its sign). Those of its two halves, six numbers, are an
orthogonal image of the interval's three and of three further standard normals n0, n1, n2, which the counter of the
interval names. With s = +1 for the left and -1 for the right half::

    w' = (        w + s (sqrt(3)/2 h + 1/2 n0)                  ) / sqrt(2)
    h' = (    1/2 h - sqrt(3)/2 n0 + s (sqrt(15)/4 k + 1/4 n1)  ) / sqrt(2)
    k' = (    1/4 k - sqrt(15)/4 n1 + s n2                      ) / sqrt(2)

So the law is exact at every level, and no digits are lost: the map is a rotation. (The same bridge for W and H is
Foster 2020, thesis, theorem 6.1.4; for W, H and K theorem 3.7 of Jelincic, Foster & Kidger 2405.06464.)

A query [s, e) is a union of dyadic intervals: right siblings on the way down to s, left siblings on the way down to e,
below the level at which the two ways part. Which nodes these ways pass follows from the bits of s and e alone, so all
levels are drawn in one call and combined without recursion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from sdesolve.brownian.bridge_loop import add_levels
from sdesolve.brownian.levy import Increment, Normals, fold, share

_ROOT_HALF = math.sqrt(0.5)
_ROOT_3_2, _ROOT_15_4 = math.sqrt(3) / 2, math.sqrt(15) / 4

#: beyond this many levels at once powers of 4 sqrt(2) would overflow in float32
_MOST_LEVELS = 40

#: (level, index of an interval of that level) -> (n0, n1, n2) by which it is halved; both broadcast
Nodes = Callable[[Tensor, Tensor], Normals]


def _recur(ratio: float, start: Tensor, steps: Tensor) -> Tensor:
    """x_l = ratio x_(l-1) + steps_l along the first dimension, x_0 = start."""
    power = _powers(ratio, len(steps), steps.dtype, steps.device).reshape(-1, *(1,) * (steps.ndim - 1))
    return power * (start + torch.cumsum(steps / power, 0))


@lru_cache(maxsize=512)
def _powers(ratio: float, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """ratio, ratio^2, ..., rounded alike whatever their number."""
    return torch.tensor([ratio**level for level in range(1, count + 1)], dtype=dtype, device=device)


def _halves(start: Normals, noise: Normals, side: Tensor) -> tuple[Normals, Normals]:
    """Going down level by level, (levels, ...): the halves on the way, on the given sides (+1 left), and their
    siblings. ``start``, without the dimension of levels, is the interval above."""
    n0, n1, n2 = noise
    before = lambda first, rows: torch.cat([first.expand(rows.shape[1:])[None], rows[:-1]])
    even, odd = -_ROOT_15_4 * n1, n2
    k = _recur(0.25 * _ROOT_HALF, start.k, _ROOT_HALF * (even + side * odd))
    above = before(start.k, k)
    k2 = _ROOT_HALF * (0.25 * above + even - side * odd)
    even, odd = -_ROOT_3_2 * n0, _ROOT_15_4 * above + 0.25 * n1
    h = _recur(0.5 * _ROOT_HALF, start.h, _ROOT_HALF * (even + side * odd))
    above = before(start.h, h)
    h2 = _ROOT_HALF * (0.5 * above + even - side * odd)
    odd = _ROOT_3_2 * above + 0.5 * n0
    w = _recur(_ROOT_HALF, start.w, _ROOT_HALF * side * odd)
    w2 = _ROOT_HALF * (before(start.w, w) - side * odd)
    return Normals(w, h, k), Normals(w2, h2, k2)


def _last(rows: Normals) -> Normals:
    return Normals(*(x[-1] for x in rows))


def descend(root: Normals, nodes: Nodes, index: Tensor, levels: int) -> Normals:
    """Normals of interval ``index`` of the given level, from those of the interval of level 0 that contains it."""
    for begin in range(0, levels, _MOST_LEVELS):
        end = min(begin + _MOST_LEVELS, levels)
        level = torch.arange(begin, end, device=index.device).reshape(-1, *(1,) * index.ndim)
        below = index >> (levels - level - 1)
        side = (1 - 2 * (below & 1)).to(root.w.dtype)
        root = _last(_halves(root, nodes(level, below >> 1), side)[0])
    return root


def levels_needed(s: Tensor, e: Tensor, depth: int) -> int:
    """Levels below the cell until all of these lattice points are ends of intervals; the host waits for it."""
    both = torch.where(s == e, 0, s | e)
    low = torch.where(both == 0, 1 << depth, both & -both)
    return depth - min(int(low.min()).bit_length() - 1, depth) if low.numel() else 0


def interval(root: Normals, nodes: Nodes, s: Tensor, e: Tensor, depth: int, levels: int | None = None) -> Normals:
    """Normals of the lattice intervals [s, e).

    s, e : int64, in units of 2^-depth cells, s <= e. Of cells between those of s and e nothing is added. root : normals
    of the cell that holds s and of the one that holds e, stacked in the first dimension, (2, ...) with the shape of s
    behind or what it broadcasts to. nodes : called with levels and indices of shapes (levels, 1, ...) and
    (levels, 2, ...). levels : how many levels to look at, see `levels_needed`; compiled queries find out by themselves.
    """
    ends = torch.stack([s, e])
    length = (e - s).clamp(min=1)
    start = _pieces_at_the_top(root, ends, length, depth)
    if torch.compiler.is_compiling():
        return add_levels(root, nodes, s, e, depth, start)
    levels = levels_needed(s, e, depth) if levels is None else levels
    if levels == 0:
        return start
    below = _below_the_top(root, nodes, ends, length, depth, levels)
    return Normals(*(a + b for a, b in zip(start, below, strict=True)))


def weights(begin: Tensor, size: Tensor, s: Tensor, length: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(r, d) of pieces [begin, begin + size) within intervals that start at s, see `share`."""
    whole = length.to(dtype)
    offset = 2 * (begin - s) + (size - length)  # differences: sums of two ticks may overflow
    return size.to(dtype) / whole, offset.to(dtype) / (2 * whole)


def _added(parts: Normals, mask: Tensor, r: Tensor, d: Tensor) -> Normals:
    """Sum over the first two dimensions of what the pieces contribute."""
    zero = torch.zeros((), dtype=r.dtype, device=r.device)
    rows = share(parts, torch.where(mask, r, zero), torch.where(mask, d, zero))
    # as one tensor: half of the calls
    total = fold(Increment(torch.stack(rows, 2).flatten(0, 1))).w
    assert total is not None
    return Normals(*total.unbind(0))


def _pieces_at_the_top(root: Normals, ends: Tensor, length: Tensor, depth: int) -> Normals:
    """The cell of s itself, where the interval contains it."""
    s, e = ends[:1], ends[1:]
    whole = ((s >> depth) != (e >> depth)) & ((s & ((1 << depth) - 1)) == 0)
    first = Normals(*(x[:1][None] for x in root))
    if not torch.compiler.is_compiling() and not bool(whole.any()):
        zero = torch.zeros_like(first.w[0, 0]).expand(torch.broadcast_shapes(first.w.shape[2:], s.shape[1:]))
        return Normals(zero, zero, zero)
    r, d = weights(s, torch.full_like(s, 1 << depth), s, length, root.w.dtype)
    return _added(first, whole[None], r[None], d[None])


def _below_the_top(root: Normals, nodes: Nodes, ends: Tensor, length: Tensor, depth: int, levels: int) -> Normals:
    """Go down ``levels`` levels on the ways to both ends, (2, ...), and add the pieces found."""
    dtype = root.w.dtype
    above = torch.arange(levels, device=ends.device).reshape(-1, *(1,) * ends.ndim)  # levels that are halved
    shift = depth - 1 - above  # bits below the halves
    below = ends >> shift
    right = below & 1
    way, sibling = _halves(root, nodes(above, below >> 1), (1 - 2 * right).to(dtype))

    s, e = below[:, :1], below[:, 1:]
    parted = (s >> 1) != (e >> 1)  # above the halves
    earlier = (ends[:1] & ((2 << shift) - 1)) == 0  # s is an end above the halves already
    # the interval that starts at s: as soon as s is an end, but below the parting; on the way there right siblings
    # where the way goes left: never both, as s becomes an end where its way goes right. On the way to e left siblings
    own = (s != e) & ((ends[:1] & ((1 << shift) - 1)) == 0) & ~(parted & earlier)
    mask = torch.cat([own | (parted & ~earlier & (right[:, :1] == 0)), parted & (right[:, 1:] == 1)], 1)
    none = torch.zeros_like(own)
    own = torch.cat([own, none], 1)
    parts = Normals(*(torch.where(own, x, y) for x, y in zip(way, sibling, strict=True)))
    begin = torch.where(own, below, below ^ 1) << shift
    r, d = weights(begin, torch.ones_like(shift) << shift, ends[0], length, dtype)
    return _added(parts, mask, r, d)
