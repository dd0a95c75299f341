"""Roots between two places at which a function has different signs, in many lanes at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def bracketed(
    f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, lower: Tensor, upper: Tensor, active: Tensor
) -> Tensor:
    """A root of f in each lane that is active, by inverse quadratic interpolation where that is safe and bisection
    elsewhere (Chandrupatla 1997, Adv. Eng. Softw. 28:145); of the last two places that on the side of ``high``.

    low, high : (lanes,), with values lower < 0 and upper >= 0 there.
    """
    eps = torch.finfo(low.dtype).eps
    x1, x2, f1, f2 = high, low, upper, lower
    part = torch.where(upper == 0, 0.0, 0.5)
    for _ in range(64):
        x = x1 + part * (x2 - x1)
        value = f(x)
        same = (value < 0) == (f1 < 0)
        x3, f3 = torch.where(same, x1, x2), torch.where(same, f1, f2)
        x2, f2 = torch.where(same, x2, x1), torch.where(same, f2, f1)
        x1, f1 = x, value
        width = (x2 - x1).abs()
        done = ~active | (width <= 2 * eps * torch.maximum(x1, x2)) | (f1 == 0)
        if bool(done.all()):
            break
        xi, phi, alpha = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2), (x3 - x1) / (x2 - x1)
        inverse = f1 / (f2 - f1) * f3 / (f2 - f3) + alpha * f1 / (f3 - f1) * f2 / (f3 - f2)
        safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        edge = (eps * torch.maximum(x1, x2) / width).clamp(max=0.5)
        part = torch.where(safe, inverse, 0.5).maximum(edge).minimum(1 - edge)
        part = torch.where(done, 0.0, part)
    return torch.where(f1 >= 0, x1, x2)
