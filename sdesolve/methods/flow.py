"""What a step of an exponential method multiplies with:  dy = (A(t) y + f(t, y)) dt + g(t) dW  but for f.

    y(t1) = exp(L) y(t0) + int exp(L_s) f(s, y(s)) ds + int exp(L_s) g(s) dW(s),    L_s = int_s^t1 A,  L = L_t0

    psi_k = int exp(L_s) ((s - t0)/h)^(k-1) ds,      N = W (int exp(2 L_s) g^2 ds/h)^(1/2)

For constant A and g and z = A h,  psi_k = h (k-1)! phi_k(z)  and  N = g phi_1(2 z)^(1/2) W.
"""

from __future__ import annotations

from math import factorial
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.methods.method import Increments
from sdesolve.methods.phi import doubled, fitted_weights, integrals_to_end, lagrange, phi, radau_nodes
from sdesolve.semilinear import Semilinear
from sdesolve.system import System

#: of a step, as fractions of it, at which A and g are read where they depend on t
NODES = radau_nodes(4)
_POLYNOMIALS, _TO_END = lagrange(NODES), integrals_to_end(NODES)
#: most by which int_s^t1 A may exceed A(t1) (t1 - s): beyond, a step is too long for how fast A changes, unless A is so
#: negative that only times near t1 matter
_MOST = 0.5


class Flow(NamedTuple):
    """Of one step: exp(L), psi_1, psi_2, ... (none where there is no f), and N/W (None where there is no noise)."""

    decay: Tensor
    moments: tuple[Tensor, ...]
    noise: Tensor | None


def flow(system: System, inc: Increments, count: int = 2) -> Flow:
    """What a step multiplies y, f and W with. count : how many moments, at most four.

    Where A or g depends on t,  exp(L_s) = exp(A(t1) (t1 - s)) R(s)  with a smooth R that is 1 at t1. R, and R^2 g^2 in
    the variance, are interpolated at four Radau nodes and integrated against the exponential exactly. For smooth A and
    g the relative errors of exp(L), psi_1 and the variance are O(h^7), that of psi_k O(h^(8 - k)). For A h -> -oo only
    the neighbourhood of t1 is left of the integrals, of which R(t1) = 1 and g(t1) are exact: hence A(t1) in the
    exponent, not the mean of A, and nodes of which t1 is one. In between, where h A' / A is small but h^2 A' is not,
    relative errors are O(1 / (A h)).
    """
    problem = system.problem
    assert isinstance(problem, Semilinear)
    if problem.constant("A") and (not system.is_sde or problem.constant("g")):
        return _constant(system, problem, inc, count)
    h, times = inc.h, _times(inc)
    rates = [system.coefficient("A", times[-1])] if problem.constant("A") else None
    if rates is None:
        rates = [system.coefficient("A", t) for t in times]
    z = rates[-1] * h
    exp, phis = torch.exp(z), phi(z, len(NODES))
    weights = fitted_weights(phis, _POLYNOMIALS)
    if len(rates) == 1:
        factors, decay = None, exp
    else:
        *partial, total = _integrals(system, problem, inc, times, rates)
        decay = torch.exp(total)
        # int_s^t1 (A - A(t1)), which is 0 at the last node
        away = (x - z * (1 - c) for x, c in zip(partial, NODES[:-1], strict=False))
        factors = [*(_bounded_exp(x) for x in away), torch.ones_like(z)]
        weights = [w * r for w, r in zip(weights, factors, strict=True)]
    moments, noise = [], None
    ramp = weights
    for _ in range(count if problem.f is not None else 0):
        moments.append(h * sum(ramp[1:], ramp[0]))
        ramp = [w * c for w, c in zip(ramp, NODES, strict=True)]
    if system.is_sde:
        squares = fitted_weights(doubled(exp, phis), _POLYNOMIALS)
        if factors is not None:
            squares = [w * r * r for w, r in zip(squares, factors, strict=True)]
        noise = _noise(system, problem, times, weights, squares)
    return Flow(decay, tuple(moments), noise)


def _bounded_exp(x: Tensor) -> Tensor:
    """exp(x), with the real part of x at most _MOST."""
    return torch.exp(torch.complex(x.real.clamp(max=_MOST), x.imag) if x.is_complex() else x.clamp(max=_MOST))


def _constant(system: System, problem: Semilinear, inc: Increments, count: int) -> Flow:
    z = system.coefficient("A", inc.t1) * inc.h
    exp, phis = torch.exp(z), phi(z, 1 if problem.f is None else count)
    moments = [] if problem.f is None else [inc.h * x * factorial(k) for k, x in enumerate(phis)]
    noise = None
    if system.is_sde:
        noise = system.coefficient("g", inc.t1) * torch.sqrt(doubled(exp, phis[:1])[0])
    return Flow(exp, tuple(moments), noise)


def _times(inc: Increments) -> list[Tensor]:
    """The nodes, between t0 and t1 as rounded."""
    return [*(inc.t0 + c * (inc.t1 - inc.t0) for c in NODES[:-1]), inc.t1]


def _integrals(
    system: System, problem: Semilinear, inc: Increments, times: list[Tensor], rates: list[Tensor]
) -> list[Tensor]:
    """int_s^t1 A from each node but the last, and from t0."""
    if problem.integral is not None:
        *others, end = (system.coefficient("integral", t) for t in (*times[:-1], inc.t0, inc.t1))
        return [end - x for x in others]
    found = []
    for row in (*_TO_END[: len(NODES) - 1], _TO_END[-1]):
        total = rates[0] * row[0]
        for a, rate in zip(row[1:], rates[1:], strict=True):
            total = torch.add(total, rate, alpha=a)
        found.append(inc.h * total)
    return found


def _noise(
    system: System, problem: Semilinear, times: list[Tensor], weights: list[Tensor], squares: list[Tensor]
) -> Tensor:
    """The root of the mean of exp(2 L_s) g^2, with the sign of that of exp(L_s) g, which follows the path of W.

    Where g is 0 in the whole step, the latter stands for the root: its derivative by g is of the right size.
    """
    if problem.constant("g"):
        size = sum(squares[1:], squares[0])
        good = size > 0
        root = torch.where(good, torch.sqrt(torch.where(good, size, 1.0)), sum(weights[1:], weights[0]))
        return system.coefficient("g", times[-1]) * root
    sizes = [system.coefficient("g", t) for t in times]
    mean = sum((w * g for w, g in zip(weights[1:], sizes[1:], strict=True)), weights[0] * sizes[0])
    square = sum((w * g * g for w, g in zip(squares[1:], sizes[1:], strict=True)), squares[0] * sizes[0] * sizes[0])
    good = square > 0
    root = torch.sqrt(torch.where(good, square, 1.0))
    return torch.where(good, torch.where(mean < 0, -root, root), mean)


def rest_of(system: System, t: Tensor, y: Tensor) -> Tensor | None:
    """f(t, y), None where there is no f."""
    problem = system.problem
    assert isinstance(problem, Semilinear)
    return None if problem.f is None else system.rest(t, y)
