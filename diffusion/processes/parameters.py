"""Checks of the parameters of processes."""

from __future__ import annotations

import math

from sdesolve.errors import message

__all__ = ["check_positive"]


def check_positive(name: str, value: float, what: str) -> None:
    """A positive, finite `what`."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(message(name, repr(value), f"a positive, finite {what}"))
