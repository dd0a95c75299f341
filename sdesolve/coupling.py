"""The probe that finds trajectories which read each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdesolve.errors import CoupledTrajectoriesError
from sdesolve.state import StateSpec


def refuse_coupled(name: str, function: Callable[[Tensor], Tensor], y: Tensor, value: Tensor, spec: StateSpec) -> None:
    """Move all trajectories but two, then these two alone, and see whether the values of those that stayed stay.

    ``function`` is the problem's function ``name`` of the state alone, and ``value`` what it gives at ``y``, with the
    batch in dimension 0. With a clock a trajectory, trajectories that read each other would be read at different times.
    The two are the first and one in the middle: a mean, a shift, a reversal or a pairing of the batch, and a leader
    that all follow, are seen. Where the function raises at the moved states, which no solve may ever visit, nothing is
    said.
    """
    batch = spec.batch
    moved = torch.ones(batch, dtype=torch.bool, device=y.device)
    moved[0] = False
    if batch > 3:
        moved[batch // 2] = False
    if all(_unmoved(function, y, value, which, spec) for which in (moved, ~moved)):
        return
    with torch.no_grad():
        again = function(y)
    if not same(value, again):
        raise CoupledTrajectoriesError(
            f"{name}: two evaluations at the same t and y differ; accepted is a function of (t, y). "
            "Does it draw random numbers, or keep state between calls? For noise write an SDE."
        )
    raise CoupledTrajectoriesError(
        f"{name}: the value for one trajectory changes with another's state; accepted are trajectories that do not "
        "read each other, as each has a step size of its own. If the whole state is one system, say batched=False in "
        "the problem; if the batch should take common steps, say shared_steps=True in solve."
    )


def _unmoved(function: Callable[[Tensor], Tensor], y: Tensor, value: Tensor, moved: Tensor, spec: StateSpec) -> bool:
    away = torch.where(spec.expand(moved), y + 0.1 * (1 + y.abs()), y)
    try:
        with torch.no_grad():
            found = function(away)
    except Exception:
        return True
    return same(value[~moved], found[~moved])


def same(a: Tensor, b: Tensor) -> bool:
    """Equal up to what a matrix product may round differently; NaN compares equal to NaN."""
    if a.numel() == 0:
        return True
    scale = torch.nan_to_num(a.abs(), posinf=0.0).amax() + torch.finfo(a.dtype).tiny
    tolerance = torch.finfo(a.dtype).eps ** 0.75 * scale
    close = ((a - b).abs() <= tolerance) | (a == b) | ~torch.isfinite(a)
    return bool(close.all())
