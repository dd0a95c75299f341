"""The phi functions, and quadrature that is exact for an exponential times a polynomial.

phi_k(z) = int_0^1 exp(z (1 - s)) s^(k-1) / (k-1)! ds = sum_j z^j / (j + k)!,      phi_0(z) = exp(z)

(Hochbruck & Ostermann 2010, Acta Numerica 19:209, sec. 2). All coefficients of exponential methods are made of
them here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import numpy as np
import torch
from numpy.polynomial import Legendre, Polynomial
from torch import Tensor

Row = tuple[float, ...]

#: |z| up to which the series is taken; there neither it nor the recurrences lose more than a few bits
RADIUS = 2.0


def phi(z: Tensor, count: int) -> tuple[Tensor, ...]:
    """phi_1(z), ..., phi_count(z), elementwise.

    For count <= 4 the relative error is below 10 rounding units, whatever z; infinite where exp(z) is. Derivatives are
    those of the functions, at z = 0 as well.

    For |z| <= 2 the last one is summed and the others follow from it, phi_k = z phi_(k+1) + 1/k!; beyond, the first one
    is expm1(z)/z and phi_(k+1) = (phi_k - 1/k!)/z.
    """
    small = z.abs() <= RADIUS
    # each side gets arguments at which it and its derivative are finite, as NaN times 0 is NaN
    near, far = torch.where(small, z, 0.0), torch.where(small, RADIUS, z)
    series = _series(near, count)
    below, above = [series], [torch.expm1(far) / far]
    for k in range(1, count):
        below.insert(0, torch.add(near * below[0], 1 / factorial(count - k)))
        above.append((above[-1] - 1 / factorial(k)) / far)
    return tuple(torch.where(small, a, b) for a, b in zip(below, above, strict=True))


def _terms(k: int, eps: float) -> int:
    """How many of the series, until the next one is below a hundredth of the sum's rounding unit."""
    j = 1
    while RADIUS**j / factorial(j + k) > 0.01 * eps / factorial(k):
        j += 1
    return j


_SINGLE, _DOUBLE = ([_terms(k, torch.finfo(dtype).eps) for k in range(10)] for dtype in (torch.float32, torch.float64))


def _series(z: Tensor, k: int) -> Tensor:
    """sum_j z^j / (j + k)! for |z| <= RADIUS, by Horner's scheme."""
    terms = (_SINGLE if z.dtype in (torch.float32, torch.complex64) else _DOUBLE)[k]
    total = torch.full_like(z, 1 / factorial(k + terms))
    for j in reversed(range(terms)):
        total = torch.add(total * z, 1 / factorial(j + k))
    return total


def doubled(exp: Tensor, phis: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """phi_1(2 z), phi_2(2 z), ... from exp(z) and phi_1(z), phi_2(z), ...: a sum of positive terms,

    2^n phi_n(2 z) = exp(z) phi_n(z) + sum_k phi_k(z) / (n - k)!,      k = 1 .. n

    (the integral over [0, 1], cut in the middle).
    """
    found = []
    for n in range(1, len(phis) + 1):
        total = exp * phis[n - 1] + phis[n - 1]
        for k in range(1, n):
            total = torch.add(total, phis[k - 1], alpha=1 / factorial(n - k))
        found.append(total * 2.0**-n)
    return tuple(found)


def fitted_weights(phis: tuple[Tensor, ...], polynomials: tuple[Row, ...]) -> list[Tensor]:
    """w_j(z) = int_0^1 exp(z (1 - s)) l_j(s) ds = sum_k (k-1)! c_jk phi_k(z)  for l_j(s) = sum_k c_jk s^(k-1).

    phis : phi_1(z), ..., phi_n(z). polynomials : for each l_j its n coefficients, see `lagrange`. With the Lagrange
    polynomials of n nodes, sum_j w_j(z) r(s_j) is int_0^1 exp(z (1 - s)) r(s) ds for every polynomial r below degree n.
    """
    weights = []
    for row in polynomials:
        total = phis[0] * row[0]
        for k in range(1, len(row)):
            total = torch.add(total, phis[k], alpha=factorial(k) * row[k])
        weights.append(total)
    return weights


def interpolatory_weights(moments: Sequence[Tensor], inverses: Sequence[Tensor]) -> list[Tensor]:
    """w_0, ..., w_n with  sum_j w_j r(s_j) = int w(s) r(s) ds  for polynomials r of degree n; s_0 = 0, s_j = 1 / v_j.

    moments : int w s^k ds, k = 0, ..., n or more. inverses : v_1, ..., v_n, which differ; tensors that broadcast
    against the moments. v_j = 0 says that there is no such node: its weight is 0, the others are those without it.

    w_j = int w l_j,      l_0 = prod_i (1 - v_i s),      l_j = v_j s prod_(i != j) (1 - v_i s) v_j / (v_j - v_i)
    """

    def integral(roots: Sequence[Tensor], k: int) -> Tensor:
        """int w s^k prod (1 - v s)."""
        if not roots:
            return moments[k]
        return integral(roots[1:], k) - roots[0] * integral(roots[1:], k + 1)

    weights = [integral(inverses, 0)]
    for j, v in enumerate(inverses):
        others = [*inverses[:j], *inverses[j + 1 :]]
        weight = v * integral(others, 1)
        for other in others:
            gap = v - other
            weight = weight * v / torch.where(gap == 0, 1.0, gap)
        weights.append(weight)
    return weights


def radau_nodes(count: int) -> Row:
    """Nodes of the Radau quadrature on [0, 1] whose last one is 1, for degrees up to 2 count - 2: zeros of
    P_count - P_(count-1) (Hairer & Wanner 1996, IV.5)."""
    difference = Legendre([0.0] * (count - 1) + [-1.0, 1.0])
    slope, x = difference.deriv(), np.sort(difference.roots().real)[:-1]
    for _ in range(3):
        x = x - difference(x) / slope(x)
    return (*(float(c) for c in (x + 1) / 2), 1.0)


def lagrange(nodes: Row) -> tuple[Row, ...]:
    """Coefficients, lowest power first, of the polynomials that are 1 at a node and 0 at the others."""
    rows = []
    for j, c in enumerate(nodes):
        others = [x for i, x in enumerate(nodes) if i != j]
        product = Polynomial.fromroots(others)
        rows.append(tuple(float(x) for x in (product / product(c)).coef))
    return tuple(rows)


def integrals_to_end(nodes: Row) -> tuple[Row, ...]:
    """Weights a_ji with  sum_i a_ji r(s_i) = int_(s_j)^1 r  for polynomials r below degree n; a last row for s = 0."""
    antiderivatives = [Polynomial(row).integ() for row in lagrange(nodes)]
    return tuple(tuple(float(P(1.0) - P(s)) for P in antiderivatives) for s in (*nodes, 0.0))
