"""Steps that are known beforehand as an equation in the number s of the step:

    dx = [a_k x + b_k + c_k score(t_k, x)] ds + d_k dw,      k <= s < k + 1

A step of length 1 by Euler-Maruyama is  x + a_k x + b_k + c_k score(t_k, x) + d_k z  with z standard normal.
"""

from __future__ import annotations

import torch
from torch import Tensor

import sdesolve as ss

from .denoiser import Denoiser

__all__ = ["Stepwise"]


class Stepwise(ss.SDE):
    """The equation above, additive; to be solved with ``dt=1`` by ``"euler_maruyama"``, from s = 0 on.

    Parameters
    ----------
    denoiser : its score stands in each step.
    times, scale, offset, pull, spread : t, a, b, c and d of each step, ``(K,)`` or what broadcasts to it.
    like : a tensor of the states' dtype and device.
    """

    table: Tensor

    def __init__(
        self,
        denoiser: Denoiser,
        times: Tensor,
        scale: Tensor | float,
        offset: Tensor | float,
        pull: Tensor,
        spread: Tensor,
        *,
        like: Tensor,
    ) -> None:
        super().__init__(additive=True)
        self.denoiser = denoiser
        rows = [torch.as_tensor(row, dtype=torch.float64).expand_as(times) for row in (scale, offset, pull, spread)]
        self.register_buffer("table", torch.stack([times.double(), *rows]).to(like), persistent=False)

    def _at(self, s: Tensor) -> list[Tensor]:
        """t, a, b, c and d of the step that begins at s, 0-d."""
        k = (s + 0.5).long().reshape(1)
        return list(self.table.index_select(1, k).reshape(-1).unbind())

    def drift(self, s: Tensor, x: Tensor) -> Tensor:
        """a x + b + c score(t, x)."""
        t, a, b, c, _ = self._at(s)
        return a * x + b + c * self.denoiser.score(t, x)

    def diffusion(self, s: Tensor, x: Tensor) -> Tensor:
        """d, 0-d."""
        return self._at(s)[4]
