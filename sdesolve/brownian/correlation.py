"""Correlated Brownian motions, from independent ones by a Cholesky factor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdesolve.brownian.levy import Increment
from sdesolve.errors import message


def cholesky_factor(correlation: Any, channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """L with L L^T = the correlation matrix, lower triangular; ValueError unless that is one."""
    accepted = f"a positive definite ({channels}, {channels}) matrix with ones on its diagonal"
    if isinstance(correlation, Tensor) and correlation.requires_grad:
        advice = "A path has no gradients: put a correlation to be fitted into a noise='general' diffusion."
        raise ValueError(message("correlation", "a tensor that requires a gradient", accepted, advice))
    try:
        matrix = torch.as_tensor(correlation, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(message("correlation", type(correlation).__name__, accepted)) from error
    if tuple(matrix.shape) != (channels, channels):
        raise ValueError(message("correlation", f"shape {tuple(matrix.shape)}", accepted))
    matrix, rounding = matrix.detach(), 1e-6
    one = ((matrix.diagonal() - 1).abs() < rounding).all()
    even = ((matrix - matrix.T).abs() < rounding).all()
    factor, info = torch.linalg.cholesky_ex((matrix + matrix.T) / 2)
    if not (bool(one) and bool(even) and int(info) == 0):
        advice = "Scale the diffusion for other variances."
        raise ValueError(message("correlation", f"{matrix.tolist()}", accepted, advice))
    return factor.to(dtype=dtype, device=device)


def correlated(inc: Increment, factor: Tensor | None) -> Increment:
    """L W, L H, L K and L A L^T, where the channels stand in the last dimension."""
    if factor is None or not len(factor):
        return inc
    turned = lambda x: None if x is None else _times(factor, x)
    area = inc.area
    if area is not None:
        area = _times(factor, _times(factor, area).transpose(-1, -2)).transpose(-1, -2)
    return Increment(turned(inc.w), turned(inc.H), turned(inc.K), area)


def _times(factor: Tensor, x: Tensor) -> Tensor:
    """L x along the last dimension, column by column: a matrix product may add in another order for another batch."""
    total = x[..., :1] * factor[:, 0]
    for k in range(1, factor.shape[1]):
        total = total + x[..., k : k + 1] * factor[:, k]
    return total
