"""Geometric Brownian motion dY = mu Y dt + sigma Y dW on [0, 1], many paths, Euler-Maruyama in float32.

With h = 1/N the scheme's own moments are E[Y_N] = (1 + mu h)^N and E[Y_N^2] = ((1 + mu h)^2 + sigma^2 h)^N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

import sdesolve as ss
from benchmarks.reference import in_double, largest_z
from benchmarks.workload import Case, Contender, Target, Workload
from benchmarks.workloads.gbm_hand import Loop, jax_scan, native_loop, numba_loop, torch_loop

MU, SIGMA = 0.05, 0.2

EAGER, COMPILED = "sdesolve, eager", "sdesolve, compiled"
NUMBA, SCAN, HAND, NATIVE = "numba prange loop", "raw jax.lax.scan", "torch eager hand loop", "hand-vectorised C++"
TARGETS = (
    Target(COMPILED, "torchsde", 25),
    Target(COMPILED, NUMBA, 12),
    Target(COMPILED, SCAN, 5),
    Target(COMPILED, HAND, 6),
    Target(COMPILED, NATIVE, 0.75),
    Target(EAGER, "torchsde", 1.5),
)


class Theirs(torch.nn.Module):
    """The equation as torchsde wants it."""

    noise_type, sde_type = "diagonal", "ito"

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return MU * y

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return SIGMA * y


def case(paths: int, steps: int, device: torch.device) -> Case:
    """y0 = 1, fixed steps; answers are judged by their mean and variance."""
    y0, ts, h = torch.ones(paths, 1, device=device), torch.tensor([0.0, 1.0], device=device), 1 / steps
    sde = ss.SDE(lambda t, y: MU * y, lambda t, y: SIGMA * y)
    mean = (1 + MU * h) ** steps
    variance = ((1 + MU * h) ** 2 + SIGMA**2 * h) ** steps - mean**2

    def ours(compile: bool) -> Tensor:
        with torch.no_grad():
            return ss.solve(sde, y0, ts, dt=h, method="euler_maruyama", seed=0, compile=compile).ys[-1]

    def theirs() -> Tensor:
        import torchsde

        # what sdeint makes by default, but with a seed
        bm = torchsde.BrownianInterval(ts[0], ts[-1], size=tuple(y0.shape), dtype=y0.dtype, device=device, entropy=0)
        with torch.no_grad():
            ys: Tensor = torchsde.sdeint(Theirs(), y0, ts, bm=bm, dt=h, method="euler")
        return ys[-1]

    def by_hand(make: Callable[[int, int, float, float], Loop]) -> Loop:
        made = cache(lambda: make(paths, steps, MU, SIGMA))
        return lambda: made()()

    def error(y: Any) -> float:
        deviation = in_double(y).reshape(-1, 1) - mean
        return largest_z(torch.stack([deviation, deviation**2 - variance], 1))

    return Case(
        f"{paths:,} paths x {steps} steps, float32",
        [
            Contender(EAGER, "ours", lambda: ours(False)),
            Contender(COMPILED, "ours", lambda: ours(True), compiled=True),
            Contender("torchsde", "peer", theirs, needs="torchsde"),
            Contender(HAND, "hand", torch_loop(paths, steps, MU, SIGMA, device)),
            Contender(NUMBA, "hand", by_hand(numba_loop), needs="numba", cpu_only=True),
            Contender(SCAN, "hand", by_hand(jax_scan), needs="jax", cpu_only=True),
            Contender(NATIVE, "hand", by_hand(native_loop), program="g++", cpu_only=True),
        ],
        error,
        "mean and variance, in standard errors",
        5.0,
        TARGETS,
    )


def cases(device: torch.device) -> Sequence[Case]:
    return [case(100_000, 256, device)]


WORKLOAD = Workload("gbm", "geometric Brownian motion, Euler-Maruyama, 100,000 paths x 256 steps", cases)
