"""Iterated Ito integrals over a step, I_jk = int W_j dW_k, from the increments and the areas between channels.

    I_kk = (W_k^2 - h)/2,      I_jk = W_j W_k/2 + A_jk   (j != k),      A_jk = 1/2 int (W_j dW_k - W_k dW_j)

They are given in units of sqrt(h), as Runge-Kutta methods use them; in a step of length 0 they are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.methods.method import Increments


def root_of(h: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt|h|, and the same to divide by: 1 where h = 0, so that derivatives are finite there as well."""
    size = h.abs()
    divisor = torch.where(h == 0, 1.0, size).sqrt()
    return size / divisor, divisor


def beside(x: Tensor, w: Tensor) -> Tensor:
    """A number or one a trajectory, in a shape that broadcasts against the increments."""
    return x if x.ndim == 0 else x.reshape(-1, *(1,) * (w.ndim - 1))


def squares(w: Tensor, root: Tensor, divisor: Tensor) -> Tensor:
    """I_kk/sqrt(h), of w's shape; `root` and `divisor` as they come from `root_of`."""
    unit = w / beside(divisor, w)
    return 0.5 * beside(root, w) * (unit * unit - 1)


def others(w: Tensor, k: int) -> Tensor:
    """1 for all channels but the k-th, for which it is 0: (m,)."""
    return (torch.arange(w.shape[-1], device=w.device) != k).to(w.dtype)


def mixed(inc: Increments, divisor: Tensor) -> Tensor:
    """I_jk/sqrt(h) for j != k, and 0 for j = k: (batch, m, m)."""
    w = inc.w
    assert w is not None and inc.area is not None
    apart = 1 - torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    return (inc.area + 0.5 * w[..., :, None] * w[..., None, :]) * apart / beside(divisor, w)[..., None]
