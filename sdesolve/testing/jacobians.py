"""Whether ``jacobian=`` is the derivative of f, by central differences and in forward mode."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from sdesolve.errors import FunctionError
from sdesolve.system import System
from sdesolve.testing.functions import Function
from sdesolve.testing.places import where


def wrong_jacobian(system: System, functions: Iterable[Function], y: Tensor) -> FunctionError | None:
    """What is wrong with it at y and at the times of the functions, which all are f.

    Differences D(h) are taken over steps h of the power 1/3 of the rounding unit, relative to the largest element of y,
    and over twice as long ones. An element is wrong that is off by more than this power of the largest one of its
    matrix, and by more than |D(2h) - D(h)| and rounding of f, which bound the error of D(h) where f is smooth; and if
    forward mode, where f has it, does not give it either.
    """
    if y.is_complex() or y.numel() == 0:
        return None
    spec, unit = system.spec, torch.finfo(y.dtype).eps
    small, n = unit ** (1 / 3), prod(spec.per_trajectory)
    step = small * y.reshape(-1, n).abs().amax(1).clamp(min=small)
    for function in functions:
        t = torch.as_tensor(function.time, dtype=spec.time_dtype, device=spec.device)
        try:
            given = system.jacobian(t, y).detach()
        except FunctionError as fault:
            return fault
        value, near, far = function.tried(y), _differences(function, y, step), _differences(function, y, 2 * step)
        if value is None or near is None or far is None:
            continue
        off, largest = (given - near).abs(), torch.maximum(given.abs(), near.abs()).amax((1, 2), keepdim=True)
        rounding = 16 * unit * value.reshape(-1, n).abs().amax(1) / step
        wrong = ~(off <= small * largest + (far - near).abs() + rounding[:, None, None]) & near.isfinite()
        if not bool(wrong.any()) or _is_derivative(given, function, y, small * largest):
            continue
        share = torch.where(wrong, (off / largest).nan_to_num(torch.inf), 0.0)
        lane, i, j = (int(k) for k in torch.unravel_index(share.argmax(), share.shape))
        return FunctionError(
            f"jacobian: entry ({i}, {j}) of trajectory {lane} is {float(given[lane, i, j]):.6g}, where central "
            f"differences of {function.name} give {float(near[lane, i, j]):.6g}, {where(function)}; accepted is the "
            f"derivative of component i of {function.name} by component j of y in entry (i, j)."
        )
    return None


def _differences(function: Function, y: Tensor, step: Tensor) -> Tensor | None:
    """The derivatives of each trajectory's f, (batch, n, n); None where f raises."""
    flat = y.reshape(len(step), -1)
    columns = []
    for unit in torch.eye(flat.shape[1], dtype=y.dtype, device=y.device):
        move = step[:, None] * unit
        ahead, back = (function.tried((flat + sign * move).reshape(y.shape)) for sign in (1, -1))
        if ahead is None or back is None:
            return None
        columns.append((ahead - back).reshape(flat.shape) / (2 * step[:, None]))
    return torch.stack(columns, -1)


def _is_derivative(given: Tensor, function: Function, y: Tensor, tolerance: Tensor) -> bool:
    """Whether it is that of forward mode."""
    flat = y.reshape(len(given), -1)
    columns = []
    for unit in torch.eye(flat.shape[1], dtype=y.dtype, device=y.device):
        move = unit.expand(flat.shape).reshape(y.shape).contiguous()
        try:
            columns.append(torch.func.jvp(function.plain, (y.contiguous(),), (move,))[1].reshape(flat.shape))
        except Exception:
            return False
    return bool(((given - torch.stack(columns, -1)).abs() <= tolerance).all())
