"""What a network should have said, and how the errors of what it may say compare.

Given x_0 and eps, the error of a quantity is a multiple k of the error of the noise, as
x_t = alpha data + shift + sigma noise  holds whatever the prediction:

    ============  ============================================  =============================================
    prediction    target                                        |k|
    ============  ============================================  =============================================
    noise         eps                                           1
    score         -eps / sigma                                  1 / sigma
    data          x_0                                           sigma / alpha
    velocity      alpha eps - sigma x_0                         (alpha^2 + sigma^2) / alpha
    flow          alpha' x_0 + sigma' eps + shift'              turning / alpha
    edm           (sigma x_0 - alpha s^2 eps) / (s root)        root / (alpha s)
    ============  ============================================  =============================================

with turning = alpha sigma' - sigma alpha', s = sigma_data and root^2 = sigma^2 + alpha^2 s^2. That of "edm" is what
Karras et al. (2022), eq. (8), ask of the network itself: (x_0 - c_skip x) / c_out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..process import Process, broadcast_time

__all__ = ["alpha_power", "error_size", "quantity", "target", "turning"]


def quantity(denoiser: Denoiser) -> str:
    """What ``denoiser.output`` is, by its name in the table: of energies the score, or the noise of scaled ones."""
    return {"energy": "score", "scaled_energy": "noise"}.get(denoiser.prediction, denoiser.prediction)


def target(denoiser: Denoiser, t: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """What ``denoiser.output(t, x_t)`` should be on average, of x0's shape; t broadcasts against it."""
    process, name = denoiser.process, quantity(denoiser)
    t = broadcast_time(t, x0)
    if name == "noise":
        return noise
    if name == "data":
        return x0
    if name == "score":
        return -noise / process.sigma(t)
    if name == "flow":
        moving = process.alpha_rate(t) * x0 + process.sigma_rate(t) * noise
        return moving + process.shift_rate(t) if process.shifted else moving
    alpha, sigma = process.alpha(t), process.sigma(t)
    if name == "velocity":
        return alpha * noise - sigma * x0
    s = denoiser.sigma_data
    return (sigma * x0 - alpha * s**2 * noise) / (s * torch.sqrt(sigma**2 + (alpha * s) ** 2))


def error_size(name: str, process: Process, t: Tensor, sigma_data: float) -> Tensor:
    """|k| alpha^p with p = `alpha_power`: finite and positive where alpha is 0."""
    if name == "noise":
        return torch.ones_like(t)
    if name == "score":
        return 1 / process.sigma(t)
    if name == "data":
        return process.sigma(t)
    if name == "flow":
        return turning(process, t)
    total = process.variance(t) + process.alpha(t) ** 2 * (1.0 if name == "velocity" else sigma_data**2)
    return total if name == "velocity" else torch.sqrt(total) / sigma_data


def alpha_power(name: str) -> int:
    """p: by which power of alpha an error of the noise is divided to give that of the quantity."""
    return 0 if name in ("noise", "score") else 1


def turning(process: Process, t: Tensor) -> Tensor:
    """alpha sigma' - sigma alpha' = alpha g^2 / (2 sigma), finite where alpha is 0."""
    return process.alpha(t) * process.sigma_rate(t) - process.sigma(t) * process.alpha_rate(t)
