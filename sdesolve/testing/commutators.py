"""Whether the columns of a diffusion commute:  (dg_j/dy) g_k = (dg_k/dy) g_j  for all j and k."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.errors import FunctionError
from sdesolve.state import StateSpec
from sdesolve.testing.functions import Function
from sdesolve.testing.moves import Mover, distance
from sdesolve.testing.places import component, where

#: more columns than these are mixed into as many random combinations, which commute if the columns do
MOST_COLUMNS = 8
#: directions of random signs, which measure the terms of which a derivative is the sum
SIGNS = 3
#: points near y at which a commutator must be found again, and by how much it must exceed its changes between them
POINTS, EXCESS = 4, 4.0


class Derivative(NamedTuple):
    """The derivative of g along a direction, (y, v) -> (*y.shape, m).

    ``finer`` is the same by shorter differences, None for exact ones; ``unit``: its relative rounding; ``floor``: its
    absolute rounding, in units of the largest |g| / |v|; ``jitter``: how far from y points count as other ones.
    """

    along: Callable[[Tensor, Tensor], Tensor]
    finer: Callable[[Tensor, Tensor], Tensor] | None
    tolerance: float
    floor: float
    jitter: float


def not_commutative(
    function: Function, y: Tensor, value: Tensor, tolerance: float, mover: Mover, spec: StateSpec
) -> FunctionError | None:
    """What to say of a diffusion, (*y.shape, m), whose columns do not commute at y."""
    m = value.shape[-1]
    mixed = m > MOST_COLUMNS
    mixing = mover.draw(value.new_empty(m, MOST_COLUMNS)) / m**0.5 if mixed else None
    for derivative in _derivatives(function, y, value, tolerance, mover, spec):
        found = _largest(function, y, mixing, derivative, mover, spec)
        if found is None:
            continue
        *index, j, k = found[0]
        columns = "random combinations of the columns" if mixed else f"columns {j} and {k}"
        which = "(dg_j/dy) g_k - (dg_k/dy) g_j" if mixed else f"(dg_{j}/dy) g_{k} - (dg_{k}/dy) g_{j}"
        return FunctionError(
            f"diffusion: {columns} do not commute: {which} is {found[1]:.6g} in {component(spec, tuple(index), False)}"
            f", {where(function)}, where the SDE says commutative=True; accepted are columns with (dg_j/dy) g_k = "
            "(dg_k/dy) g_j. Drop commutative=True: methods for commutative noise would have order 1/2."
        )
    return None


def _derivatives(
    function: Function, y: Tensor, value: Tensor, tolerance: float, mover: Mover, spec: StateSpec
) -> Iterator[Derivative]:
    """Forward mode, where there is one; differences where there is none, or where these say something else."""
    unit = torch.finfo(y.dtype).eps
    automatic = Derivative(lambda y, v: _forward(function, y, v), None, tolerance, 0.0, unit**0.5)
    step = unit ** (1 / 3)
    differences = Derivative(
        lambda y, v: _difference(function, y, v, step, spec),
        lambda y, v: _difference(function, y, v, step / 2, spec),
        max(tolerance, unit**0.5),
        8 * unit / step,
        4 * unit**0.25,
    )
    direction = (value * mover.draw(value)).sum(-1)
    try:
        slope = automatic.along(y, direction)
    except Exception:  # an operation without a forward mode
        yield differences
        return
    yield automatic
    other = differences.along(y, direction)
    if float(distance(slope, other).mean()) > 0.05 * float(other.abs().nan_to_num(0.0, 0.0).mean()):
        yield differences


def _forward(function: Function, y: Tensor, direction: Tensor) -> Tensor:
    found: Tensor = torch.func.jvp(function.plain, (y.contiguous(),), (direction.contiguous(),))[1]
    return found.detach()


def _difference(function: Function, y: Tensor, direction: Tensor, step: float, spec: StateSpec) -> Tensor:
    """The central difference over a part ``step`` of y's size; NaN beyond the function's domain."""
    length = spec.expand(step * _reach(y, direction, spec))
    after, before = function.tried(y + length * direction), function.tried(y - length * direction)
    if after is None or before is None:
        return torch.full_like(function.call(y), torch.nan)
    return (after - before) / (2 * length[..., None])


def _reach(y: Tensor, direction: Tensor, spec: StateSpec) -> Tensor:
    """How many times the direction fits into y, (batch,)."""
    length = direction.abs().reshape(spec.batch, -1)
    times = torch.where(length > 0, _size(y, spec) / length, torch.inf).amin(-1)
    return torch.where(torch.isfinite(times), times, 1.0)


def _size(y: Tensor, spec: StateSpec) -> Tensor:
    """Sizes of the components, not below their mean, (batch, elements)."""
    size = y.abs().reshape(spec.batch, -1)
    typical = size.mean(-1, keepdim=True)
    return torch.maximum(size, torch.where(typical > 0, typical, 1.0))


def _slopes(function: Function, y: Tensor, mixing: Tensor | None, along: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(dg_b/dy) g_a as (*y.shape, b, a), of the columns of g or of their mixtures."""
    mix = (lambda g: g) if mixing is None else (lambda g: g @ mixing)
    g = mix(function.call(y))
    return torch.stack([mix(along(y, column)) for column in g.unbind(-1)], -1)


def _largest(
    function: Function, y: Tensor, mixing: Tensor | None, derivative: Derivative, mover: Mover, spec: StateSpec
) -> tuple[tuple[int, ...], float] | None:
    """The largest commutator that is not rounding: its index in (*y.shape, j, k), and its value."""

    def commutators(y: Tensor, along: Callable[[Tensor, Tensor], Tensor] = derivative.along) -> Tensor:
        slopes = _slopes(function, y, mixing, along)
        return slopes - slopes.mT

    slopes = _slopes(function, y, mixing, derivative.along)
    found, size = slopes - slopes.mT, torch.maximum(slopes.abs(), slopes.mT.abs())
    floor = _floor(function, y, mixing, derivative, spec)
    wrong = found.abs() > derivative.tolerance * size + floor
    if not bool(wrong.any()):
        return None
    # rounding is that of the terms of the derivatives, whose sum may be much smaller; random signs tell their size
    for _ in range(SIGNS):
        part = _slopes(function, y, mixing, _signed(derivative, torch.sign(mover.draw(y)))).abs()
        size = torch.maximum(size, torch.maximum(part, part.mT))
    wrong &= found.abs() > derivative.tolerance * size + floor
    # away from kinks, which differences may straddle
    width = derivative.jitter * _size(y, spec).reshape(y.shape)
    others = [commutators(y + width * mover.draw(y)) for _ in range(POINTS)]
    if derivative.finer is not None:
        others.append(commutators(y, derivative.finer))
    average = lambda x: x.mean(0, keepdim=True) if spec.batched else x
    for other in others:
        wrong &= average(found.abs().nan_to_num(0.0, 0.0)) > EXCESS * average(distance(found, other))
    if not bool(wrong.any()):
        return None
    first = torch.where(wrong, found.abs() / size, -1.0).argmax()
    index = tuple(int(i) for i in torch.unravel_index(first, found.shape))
    return index, found[index].item()


def _signed(derivative: Derivative, signs: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda y, direction: derivative.along(y, signs * direction)


def _floor(
    function: Function, y: Tensor, mixing: Tensor | None, derivative: Derivative, spec: StateSpec
) -> Tensor | float:
    """Rounding of differences: that of g over the distance, of both terms of a commutator."""
    if derivative.floor == 0.0:
        return 0.0
    g = function.call(y)
    g = g if mixing is None else g @ mixing
    size = g.abs().reshape(spec.batch, -1).amax(-1)
    each = torch.stack([size / _reach(y, column, spec) for column in g.unbind(-1)], -1)
    both = derivative.floor * (each[:, :, None] + each[:, None, :])
    return both.reshape(spec.batch, *(1,) * (y.ndim - 1), *both.shape[1:]) if spec.batched else both[0]
