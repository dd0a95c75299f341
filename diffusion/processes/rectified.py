"""The linear interpolant between data and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..process import Process

__all__ = ["RectifiedFlow"]


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """The straight line from data to noise, x_t = (1 - t) x_0 + t eps.

    ::

        dx = -x / (1 - t) dt + sqrt(2 t / (1 - t)) dw,      t < 1

    At t = 1 nothing is left of the data, and the rates of the equation are infinite: stochastic generation starts a
    little before, at `rates_end` = 0.999; the probability flow of data, velocity, flow and edm predictions starts at 1.

    References
    ----------
    Liu, Gong & Liu (2023). Flow straight and fast: learning to generate and transfer data with rectified flow. ICLR.
    Lipman et al. (2023). Flow matching for generative modeling. ICLR.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t + 0.0

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)

    def alpha_rate(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def variance_rate(self, t: Tensor) -> Tensor:
        return 2 * t

    def drift_rate(self, t: Tensor) -> Tensor:
        return -1 / (1 - t)

    def diffusion_rate(self, t: Tensor) -> Tensor:
        return torch.sqrt(2 * t / (1 - t))
