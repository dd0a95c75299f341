"""Brownian increments with their Lévy areas: what they are, how intervals join, and how the areas between channels are
approximated.

Over an interval of length h that starts at s, with W measured from s::

    W = W(s + h) - W(s)                                                    Var = h
    H = 1/h   int (W(u) - u/h W) du                                        Var = h / 12
    K = 1/h^2 int (W(u) - u/h W) (h/2 - u) du                              Var = h / 720
    A_ij = 1/2 int (W_i dW_j - W_j dW_i)                                   Var = h^2 / 4

W, H and K are independent. The stochastic integral that Roessler calls I_(1,0) is h (W / 2 + H).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.errors import message

#: what may come with the increments, and which of H, K and A it means
LEVY: dict[str | None, tuple[str, ...]] = {
    None: (),
    "space-time": ("H",),
    "space-time-time": ("H", "K"),
    "davie-foster": ("H", "area"),
}

_ROOT_12, _ROOT_720 = math.sqrt(12), math.sqrt(720)


class Increment(NamedTuple):
    """Increments over an interval (see the module's formulas): w, H and K of one shape, ``area`` with one more channel
    dimension; None for what was not asked for."""

    w: Tensor | None = None
    H: Tensor | None = None
    K: Tensor | None = None
    area: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Increment:
        """The function of every part that is there."""
        return Increment(*(None if part is None else function(part) for part in self))

    def row(self, k: int) -> Increment:
        """Entry k of the first dimension."""
        return self.map(lambda part: part[k])


class Normals(NamedTuple):
    """(W, H, K) of intervals in units of their standard deviations: three tensors of standard normals."""

    w: Tensor
    h: Tensor
    k: Tensor

    def increment(self, root: Tensor | float, levy: str | None) -> Increment:
        """The increments over intervals of the length root^2, which broadcasts."""
        parts = LEVY[levy]
        return Increment(
            self.w * root,
            self.h * (root / _ROOT_12) if "H" in parts else None,
            self.k * (root / _ROOT_720) if "K" in parts else None,
        )


def checked_levy(levy: str | None) -> str | None:
    """`levy` if it is one of LEVY's."""
    if levy not in LEVY:
        raise ValueError(message("levy", repr(levy), ", ".join(map(repr, LEVY))))
    return levy


def contribution(part: Increment, r: Tensor | float, d: Tensor | float) -> Increment:
    """What a piece contributes to the increments over an interval whose pieces' contributions add up (see `followed`).

    r is the length of the piece, d the distance of its middle from the interval's, both in units of the interval. With
    the moments of dW about the middle of an interval, m_n = int (u - middle)^n dW, one has  m_0 = W,  m_1 = -h H  and
    m_2 = h^2 (2 K + W / 12), and moments about a common point add up.
    """
    w, H, K, area = part
    assert w is not None
    longer_H = None if H is None else r * H - d * w
    longer_K = None if K is None or H is None else (r * r) * K - (r * d) * H + ((r * r - 1) / 24 + d * d / 2) * w
    return Increment(w, longer_H, longer_K, area)


def equal_parts(rows: Increment, first: int, total: int) -> Increment:
    """Contributions of the parts first, first + 1, ... along the first dimension, of ``total`` equal parts."""
    if rows.H is None:
        return rows
    assert rows.w is not None
    number = torch.arange(first, first + len(rows.w), device=rows.w.device)
    d = (2 * number + 1 - total).to(rows.w.dtype) / (2 * total)  # in integers as far as it goes
    return contribution(rows, 1 / total, d.reshape(-1, *(1,) * (rows.w.ndim - 1)))


def share(part: Normals, r: Tensor | float, d: Tensor | float) -> Normals:
    """The same in standard deviations: what a piece contributes to the normals of the interval."""
    root = r.sqrt() if isinstance(r, Tensor) else math.sqrt(r)
    w, H, K, _ = contribution(part.increment(root, "space-time-time"), r, d)
    assert w is not None and H is not None and K is not None
    return Normals(w, H * _ROOT_12, K * _ROOT_720)


def followed(first: Increment, second: Increment) -> Increment:
    """Sum of the contributions of two neighbours; their areas by Chen's relation,
    A = A' + A'' + 1/2 (W' W''^T - W'' W'^T)."""
    total = Increment(*(None if a is None or b is None else a + b for a, b in zip(first, second, strict=True)))
    if total.area is None:
        return total
    assert first.w is not None and second.w is not None
    outer = first.w[..., :, None] * second.w[..., None, :]
    return total._replace(area=total.area + 0.5 * (outer - outer.transpose(-1, -2)))


def fold(rows: Increment) -> Increment:
    """Sum of contributions over the first dimension, at least one row: neighbours are joined until one row is left.

    `Tensor.sum` may add in another order for another batch; this is the same for each element, and rows of zeros at the
    end change nothing.
    """
    assert rows.w is not None
    while (count := len(rows.w)) > 1:
        even = 2 * (count // 2)
        joint = followed(*(Increment(*(None if x is None else x[k:even:2] for x in rows)) for k in (0, 1)))
        if count % 2:
            both = zip(joint, rows, strict=True)
            joint = Increment(*(None if a is None or b is None else torch.cat([a, b[-1:]]) for a, b in both))
        rows = joint
    return rows.map(lambda x: x[0])


def reversed_increment(inc: Increment) -> Increment:
    """The same interval read backwards, W'(u) = W(h - u) - W(h): W, K and A change their signs, H does not."""
    flip = lambda x: None if x is None else -x
    return Increment(flip(inc.w), inc.H, flip(inc.K), flip(inc.area))


def pairs(channels: int) -> int:
    """Pairs i < j of channels."""
    return channels * (channels - 1) // 2


def davie_foster(w: Tensor, H: Tensor, length: Tensor | float, normals: Tensor) -> Tensor:
    """Lévy areas given W and H, with the first two conditional moments exact:

        A = H W^T - W H^T + b,      b_ij ~ N(0, h^2 / 20 + h / 5 (H_i^2 + H_j^2)),   b_ji = -b_ij

    w, H : (..., m). length : h, a number or a tensor that broadcasts with them. normals : (..., m (m - 1) / 2), for the
    pairs i < j in row-major order. Returns (..., m, m).

    References
    ----------
    Davie (2014), KMT theory applied to approximations of SDE. Foster (2020), Numerical approximations for stochastic
    differential equations, thesis, University of Oxford, section 7. That Var A_ij = h^2 / 4 follows:
    h^2 / 6 from the first two terms, h^2 / 20 + h^2 / 30 from b.
    """
    m = w.shape[-1]
    row, column = torch.triu_indices(m, m, 1, device=w.device)
    square = H * H
    spread = (length * length / 20 + length / 5 * (square[..., row] + square[..., column])) ** 0.5
    upper = H[..., row] * w[..., column] - w[..., row] * H[..., column] + spread * normals
    area = w.new_zeros((*upper.shape[:-1], m * m))
    area = area.index_copy(-1, row * m + column, upper)
    area = area.index_copy(-1, column * m + row, -upper)
    return area.unflatten(-1, (m, m))
