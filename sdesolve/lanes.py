"""Arithmetic of the lanes of a clock: on tensors, or on a single number that is kept on the host.

A clock that all trajectories share is one number. Eagerly its arithmetic, and the controller's, would cost more than
the step if each sum were a tensor operation; so the formulas of `clock` and `step_size` are written with these
functions, and take NumPy's scalars as well. They round as tensors do: exp and log, which differ in the last digit
between libraries, are torch's for both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def where(mask: Any, a: Any, b: Any) -> Any:
    """a where the mask is true, else b."""
    return torch.where(mask, a, b) if isinstance(mask, Tensor) else a if mask else b


def maximum(a: Any, b: Any) -> Any:
    """The larger one."""
    return torch.maximum(a, b) if isinstance(a, Tensor) else max(a, b)


def clamp(x: Any, *, least: Any = None, most: Any = None) -> Any:
    """x between bounds."""
    if isinstance(x, Tensor):
        return torch.clamp(x, min=least, max=most)
    x = x if least is None or x >= least else type(x)(least)
    return x if most is None or x <= most else type(x)(most)


def zero(like: Any) -> Any:
    """0 of the same shape and precision."""
    return torch.zeros_like(like) if isinstance(like, Tensor) else type(like)(0)


def exp(x: Any) -> Any:
    """Exponential."""
    return torch.exp(x) if isinstance(x, Tensor) else torch.exp(torch.as_tensor(x)).numpy()[()]


def log(x: Any) -> Any:
    """Natural logarithm."""
    return torch.log(x) if isinstance(x, Tensor) else torch.log(torch.as_tensor(x)).numpy()[()]
