"""Distributions with known answers that the tests share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import diffusion
from diffusion.exact import Gaussian, GaussianMixture
from diffusion.prediction import ENERGIES, PREDICTIONS

VECTORS = [name for name in PREDICTIONS if name not in ENERGIES]
"""Predictions of a network whose output has the shape of its input."""


def random_covariances(count: int, dims: int, generator: torch.Generator) -> Tensor:
    a = torch.randn(count, dims, dims, dtype=torch.float64, generator=generator)
    return 0.1 * a @ a.mT + 0.05 * torch.eye(dims, dtype=torch.float64)


def random_mixture(seed: int, count: int = 3, dims: int = 2) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(count, dims, dtype=torch.float64, generator=generator)
    weights = 0.2 + torch.rand(count, dtype=torch.float64, generator=generator)
    return GaussianMixture(means, random_covariances(count, dims, generator), weights)


def random_gaussian(seed: int, dims: int = 2) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(dims, dtype=torch.float64, generator=generator)
    return Gaussian(mean, random_covariances(1, dims, generator)[0])


class Dense(nn.Module):
    """A small network net(t, x) in float64 that mixes components and depends on t."""

    def __init__(self, dims: int, seed: int = 0, width: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(dims + 1, width), nn.Tanh(), nn.Linear(width, dims)).double()

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.layers(torch.cat([t[:, None], x], 1))


def learned(dims: int = 2, prediction: str = "noise", seed: int = 0) -> diffusion.Denoiser:
    return diffusion.Denoiser(Dense(dims, seed), diffusion.VP(), prediction).eval()
