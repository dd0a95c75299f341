"""The SDE methods: orders of convergence with fixed steps, and what adaptive steps do."""

from __future__ import annotations

from validation.check import Case, Section, Settings
from validation.sections import (
    exponential,
    langevin,
    sde_adaptive,
    sde_law,
    sde_local,
    sde_nested,
    sde_nonlinear,
    sde_orders,
    stiff,
)

PARTS = (sde_orders, sde_nonlinear, sde_local, sde_law, sde_adaptive, sde_nested, exponential, langevin, stiff)


def cases(settings: Settings) -> list[Case]:
    return [case for part in PARTS for case in part.cases(settings)]


SDE = Section(
    "sde", "strong and weak orders of the SDE methods on every noise type that they claim; adaptive steps", cases
)
