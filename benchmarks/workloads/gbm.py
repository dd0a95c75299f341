"""Geometric Brownian motion dY = mu Y dt + sigma Y dW on [0, 1], many paths, Euler-Maruyama in float32.

With h = 1/N the scheme's own moments are E[Y_N] = (1 + mu h)^N and E[Y_N^2] = ((1 + mu h)^2 + sigma^2 h)^N.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import sdesolve as ss
from benchmarks.reference import largest_z
from benchmarks.workload import Case, Contender, Workload

MU, SIGMA = 0.05, 0.2


class Theirs(torch.nn.Module):
    """The equation as torchsde wants it."""

    noise_type, sde_type = "diagonal", "ito"

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return MU * y

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return SIGMA * y


def case(paths: int, steps: int) -> Case:
    """y0 = 1, fixed steps; answers are judged by their mean and variance."""
    y0, ts, h = torch.ones(paths, 1), torch.tensor([0.0, 1.0]), 1 / steps
    sde = ss.SDE(lambda t, y: MU * y, lambda t, y: SIGMA * y)
    mean = (1 + MU * h) ** steps
    variance = ((1 + MU * h) ** 2 + SIGMA**2 * h) ** steps - mean**2

    def ours(compile: bool) -> Tensor:
        with torch.no_grad():
            return ss.solve(sde, y0, ts, dt=h, method="euler_maruyama", seed=0, compile=compile).ys[-1]

    def theirs() -> Tensor:
        import torchsde

        # what sdeint makes by default, but with a seed
        bm = torchsde.BrownianInterval(ts[0], ts[-1], size=tuple(y0.shape), dtype=y0.dtype, entropy=0)
        with torch.no_grad():
            ys: Tensor = torchsde.sdeint(Theirs(), y0, ts, bm=bm, dt=h, method="euler")
        return ys[-1]

    def error(y: Tensor) -> float:
        deviation = y.double() - mean
        return largest_z(torch.stack([deviation, deviation**2 - variance], 1))

    return Case(
        f"{paths:,} paths x {steps} steps, float32",
        [
            Contender("sdesolve, eager", "ours", lambda: ours(False)),
            Contender("sdesolve, compiled", "ours", lambda: ours(True)),
            Contender("torchsde", "peer", theirs, needs="torchsde"),
        ],
        error,
        "mean and variance, in standard errors",
        5.0,
    )


def cases() -> Sequence[Case]:
    return [case(100_000, 256)]


WORKLOAD = Workload("gbm", "geometric Brownian motion, Euler-Maruyama, 100,000 paths x 256 steps", cases)
