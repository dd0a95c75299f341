"""The probe that finds trajectories which read each other."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.errors import CoupledTrajectoriesError
from sdesolve.system import System


def refuse_coupled(system: System, t: Tensor, y: Tensor, f: Tensor) -> None:
    """Move all trajectories but two, then these two alone, and see whether the derivatives of those that stayed stay.

    ``f`` are the derivatives at ``y``. With a clock a trajectory, trajectories that read each other would be read at
    different times. The two are the first and one in the middle: a mean, a shift, a reversal or a pairing of the
    batch, and
    a leader that all follow, are seen. Where f raises at the moved states, which no solve may ever visit, nothing is
    said.
    """
    batch = system.spec.batch
    moved = torch.ones(batch, dtype=torch.bool, device=y.device)
    moved[0] = False
    if batch > 3:
        moved[batch // 2] = False
    if all(_unmoved(system, t, y, f, which) for which in (moved, ~moved)):
        return
    with torch.no_grad():
        again = system.drift(t, y)
    if not _same(f, again):
        raise CoupledTrajectoriesError(
            f"{system.names[0]}: two evaluations at the same t and y differ; accepted is a function of (t, y). "
            "Does it draw random numbers, or keep state between calls? For noise write an SDE."
        )
    raise CoupledTrajectoriesError(
        f"{system.names[0]}: the derivative of one trajectory changes with another's state; accepted are "
        "trajectories that do not read each other, as each has a step size of its own. If the whole state is one "
        "system, "
        "say batched=False in the problem; if the batch should take common steps, say shared_steps=True in solve."
    )


def _unmoved(system: System, t: Tensor, y: Tensor, f: Tensor, moved: Tensor) -> bool:
    away = torch.where(system.spec.expand(moved), y + 0.1 * (1 + y.abs()), y)
    try:
        with torch.no_grad():
            g = system.drift(t, away)
    except Exception:
        return True
    return _same(f[~moved], g[~moved])


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal up to what a matrix product may round differently; NaN compares equal to NaN."""
    if a.numel() == 0:
        return True
    scale = torch.nan_to_num(a.abs(), posinf=0.0).amax() + torch.finfo(a.dtype).tiny
    tolerance = torch.finfo(a.dtype).eps ** 0.75 * scale
    close = ((a - b).abs() <= tolerance) | (a == b) | ~torch.isfinite(a)
    return bool(close.all())
