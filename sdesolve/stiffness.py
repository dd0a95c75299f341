"""How fast a drift draws solutions together: steps may be too long for an explicit method to follow."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.methods import Method, default
from sdesolve.methods.method import plain_eager
from sdesolve.system import System

LIMIT = 2.0
"""Explicit methods are stable up to about this product of step and rate of decay: |1 + h lambda| <= 1 for Euler's."""

_ITERATIONS = 2

EVALUATIONS = 1 + _ITERATIONS
"""Of the drift, to know."""


def warn_of_stiffness(
    system: System, method: Method, start: Tensor, y: Tensor, times: NDArray[np.float64], dt: float
) -> int:
    """Warn where fixed steps are too long for a default method to be stable; the evaluations of the drift that it took
    to know. Transforms of torch.func let no value be looked at.

    start : first time, as functions see it. times : (T, 1) or (T, batch). dt : the longest that steps may be.
    """
    if not system.is_sde or method.made_for is not None or method.may_fail or not plain_eager():
        return 0
    gaps = np.abs(np.diff(times, axis=0))
    h = float((gaps[0] / np.ceil(gaps[0] / dt)).max())
    rate = decay_rate(system, start, y, backwards=bool(times[-1, 0] < times[0, 0]))
    if h * rate > LIMIT:
        able = system.problem.kind == "SDE" and default(system) == method.name != "heun"
        advice = " say stiff=True in the SDE, for an implicit method;" if able else ""
        warnings.warn(
            f"dt: steps of {h:.3g} are too long for the default method {method.name!r}: at the start the drift draws "
            f"solutions together at a rate of {rate:.3g}, and explicit steps are unstable above {LIMIT:g} / rate. Take "
            f"shorter or adaptive steps;{advice} or name a method, which ends this warning.",
            stacklevel=3,
        )
    return EVALUATIONS


def decay_rate(system: System, t: Tensor, y: Tensor, *, backwards: bool = False) -> float:
    """The largest -v^T J v over trajectories, J = df/dy at (t, y), along the unit vector v to which the power iteration
    from a fixed direction leads; about -lambda where an eigenvalue lambda < 0 of J is much larger than the others.

    J v is a difference of drifts. 0 where the drift grows, or is not finite near y. backwards : of the solve in which
    times decrease.
    """
    spec = system.spec
    flat = (lambda x: x.reshape(x.shape[0], -1)) if spec.batched else lambda x: x.reshape(1, -1)
    with torch.no_grad():
        y = y.detach()
        f = flat(system.drift(t, y))
        v = _direction(flat(y))
        step = torch.finfo(spec.dtype).eps ** 0.5 * (1 + flat(y).norm(dim=1, keepdim=True))
        rate = torch.zeros_like(step)
        for _ in range(_ITERATIONS):
            pull = (flat(system.drift(t, y + (step * v).reshape(y.shape))) - f) / step
            rate = (v * pull).sum(1) if backwards else -(v * pull).sum(1)
            size = pull.norm(dim=1, keepdim=True)
            v = torch.where(size > 0, pull / size, v)
        return float(torch.nan_to_num(rate, 0.0, 0.0, 0.0).clamp(min=0).amax()) if rate.numel() else 0.0


def _direction(like: Tensor) -> Tensor:
    """A unit vector a trajectory whose components differ in size and sign."""
    k = torch.arange(like.shape[1], dtype=like.dtype, device=like.device)
    row = 1 + 0.5 * torch.cos(2.4 * k * k)
    row = torch.where(k % 2 == 0, row, -row)
    return (row / row.norm()).expand(like.shape)
