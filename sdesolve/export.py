"""A solution as an ``xarray.Dataset``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from sdesolve.errors import message
from sdesolve.state import named_leaves

if TYPE_CHECKING:
    from sdesolve.solution import Solution, Stats, Status

COUNTS = ("steps", "accepted", "rejected", "drift_evaluations", "diffusion_evaluations")


def to_xarray(solution: Solution, statuses: type[Status]) -> Any:
    """What :meth:`sdesolve.Solution.to_xarray` does."""
    try:
        import xarray
    except ImportError as error:
        advice = "Install it with pip install sdesolve[xarray]."
        raise ImportError(message("to_xarray", "no package xarray", "xarray >= 2024.1", advice)) from error
    own_times = solution.ts.ndim == 2
    coords = {"t": (("trajectory", "time"), _array(solution.ts))} if own_times else {"time": _array(solution.ts)}
    lead = ("time", "trajectory") if solution.batched else ("time",)
    variables = {}
    for name, leaf in named_leaves(solution.ys):
        own = tuple(f"{name}_{k}" for k in range(leaf.ndim - len(lead)))
        variables[name] = ((*lead, *own), _array(leaf))
    if solution.batched:
        coords["trajectory"] = _array(solution.paths)
    lanes = ("trajectory",) if solution.batched else ()
    each = _counts(solution.stats)
    if solution.status is not None:
        each["status"] = solution.status
    variables |= {name: (lanes, _array(x if lanes else x.reshape(()))) for name, x in each.items()}
    attrs: dict[str, Any] = {"method": solution.stats.method}
    if solution.seed is not None:
        attrs["seed"] = solution.seed
    found = xarray.Dataset(variables, coords=coords, attrs=attrs)
    if solution.status is not None:
        # as the CF conventions, 3.5, write what numbers mean
        found["status"].attrs |= {
            "flag_values": [int(status) for status in statuses],
            "flag_meanings": " ".join(status.name for status in statuses),
        }
    return found


def _counts(stats: Stats) -> dict[str, Tensor]:
    counts = {name: getattr(stats, name) for name in COUNTS}
    if stats.switches is not None:
        counts |= {"stiff_steps": stats.switches.steps, "switches": stats.switches.counts}
    return counts


def _array(x: Tensor) -> Any:
    return x.detach().cpu().resolve_conj().numpy()
