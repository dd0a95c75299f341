"""The queries of `bridge` as loops over levels, for compiled code: a level is one pass over the trajectories, and the
loop of `interval` ends at the last level that any of them needs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.brownian.levy import Normals, share

_ROOT_HALF = math.sqrt(0.5)
_ROOT_3_2, _ROOT_15_4 = math.sqrt(3) / 2, math.sqrt(15) / 4


def halves(above: Normals, noise: Normals, side: Tensor) -> tuple[Normals, Normals]:
    """The half of an interval on the given side (+1 left), and its sibling; formulas as in `bridge`."""
    n0, n1, n2 = noise
    w, h, k = _ROOT_HALF * above.w, _ROOT_HALF * above.h, _ROOT_HALF * above.k
    even_h, even_k = 0.5 * h - (_ROOT_3_2 * _ROOT_HALF) * n0, 0.25 * k - (_ROOT_15_4 * _ROOT_HALF) * n1
    odd_w = side * (_ROOT_3_2 * h + (0.5 * _ROOT_HALF) * n0)
    odd_h = side * (_ROOT_15_4 * k + (0.25 * _ROOT_HALF) * n1)
    odd_k = side * (_ROOT_HALF * n2)
    return Normals(w + odd_w, even_h + odd_h, even_k + odd_k), Normals(w - odd_w, even_h - odd_h, even_k - odd_k)


def descend(
    root: Normals, nodes: Callable[[Tensor, Tensor], Normals], index: Tensor, levels: Tensor
) -> tuple[Normals, Normals]:
    """`bridge.descend`, level by level, and the other half of the last interval that was halved; root, index : of one
    dimension. levels : 0-d."""

    def body(level: Tensor, *above: Tensor) -> tuple[Tensor, ...]:
        below = index >> (levels - level - 1)
        side = (1 - 2 * (below & 1)).to(root.w.dtype)
        way, beside = halves(Normals(*above[:3]), nodes(level, below >> 1), side)
        return (level + 1, *way, *beside)

    zero = torch.zeros((), dtype=torch.int64, device=index.device)
    start = (zero, *(x.clone() for x in root), *(x.clone() for x in root))
    found = while_loop(lambda level, *_: level < levels, body, start)
    return Normals(*found[1:4]), Normals(*found[4:])


def add_levels(
    root: Normals, nodes: Callable[[Tensor, Tensor], Normals], s: Tensor, e: Tensor, depth: int, start: Normals
) -> Normals:
    """``start`` and what all levels below the cells contribute to [s, e); arguments as those of `bridge.interval`."""
    length = (e - s).clamp(min=1)
    dtype = root.w.dtype
    # a query without length needs no levels
    ends = torch.where(s == e, 0, s | e)

    def going(level: Tensor, *_: Tensor) -> Tensor:
        return ((ends & ((1 << (depth - level).clamp(min=0)) - 1)) != 0).any()

    def added(total: Normals, part: Normals, begin: Tensor, size: Tensor, mask: Tensor) -> Normals:
        whole = length.to(dtype)
        r = size.to(dtype) / whole
        d = (2 * (begin - s) + (size - length)).to(dtype) / (2 * whole)
        more = share(part, torch.where(mask, r, 0.0), torch.where(mask, d, 0.0))
        return Normals(*(a + b for a, b in zip(total, more, strict=True)))

    def body(level: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        total = Normals(*flat[6:])
        shift = depth - 1 - level
        size = torch.ones_like(shift) << shift
        a, b = s >> shift, e >> shift
        # one after the other, not stacked: as one dimension all of it is one loop, which keeps nothing in memory
        way_a, beside_a = halves(Normals(*flat[:3]), nodes(level, a >> 1), (1 - 2 * (a & 1)).to(dtype))
        way_b, beside_b = halves(Normals(*flat[3:6]), nodes(level, b >> 1), (1 - 2 * (b & 1)).to(dtype))
        parted = (a >> 1) != (b >> 1)
        earlier = (s & (2 * size - 1)) == 0
        # the interval that starts at s, or else the right sibling: never both, as s is an end where its way went right
        own = (a != b) & ((s & (size - 1)) == 0) & ~(parted & earlier)
        taken = own | (parted & ~earlier & ((a & 1) == 0))
        part = Normals(*(torch.where(own, x, y) for x, y in zip(way_a, beside_a, strict=True)))
        total = added(total, part, torch.where(own, a, a ^ 1) << shift, size, taken)
        total = added(total, beside_b, (b ^ 1) << shift, size, parted & ((b & 1) == 1))
        return (level + 1, *way_a, *way_b, *total)

    zero = torch.zeros((), dtype=torch.int64, device=s.device)
    shape = torch.broadcast_shapes(root.w.shape[1:], s.shape)
    wide = [x.expand((2, *shape))[i].clone() for i in range(2) for x in root]
    found = while_loop(going, body, (zero, *wide, *(x.expand(shape).clone() for x in start)))
    return Normals(*found[7:])
