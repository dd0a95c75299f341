"""The Lorenz equations, adaptive steps of order 5, t from 0 to 5, rtol = atol = 1e-5 in float32.

sdesolve takes Tsit5 steps, each trajectory on its own clock; torchdiffeq takes dopri5 steps on one clock for all, as
its tsit5 carries the weights of the embedded method of order 4. The equations are chaotic: a few trajectories that pass
close to the origin lose all digits by t = 5 at this tolerance, whoever solves them, so 9 of 10 are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

import sdesolve as ss
from benchmarks.reference import rk4
from benchmarks.workload import Case, Contender, Workload

END, TOLERANCE = 5.0, 1e-5


def lorenz(y: Tensor) -> Tensor:
    """The right-hand side for (batch, 3)."""
    u, v, w = y.unbind(-1)
    return torch.stack([10 * (v - u), u * (28 - w) - v, u * v - 8 / 3 * w], -1)


def case(batch: int) -> Case:
    """Starts scattered about (1, 1, 25)."""
    scatter = torch.randn(batch, 3, generator=torch.Generator().manual_seed(0))
    y0, ts = scatter + torch.tensor([1.0, 1.0, 25.0]), torch.tensor([0.0, END])
    f = lambda t, y: lorenz(y)
    ode = ss.ODE(f)

    def ours(compile: bool) -> Tensor:
        with torch.no_grad():
            return ss.solve(ode, y0, ts, method="tsit5", rtol=TOLERANCE, atol=TOLERANCE, compile=compile).ys[-1]

    def theirs() -> Tensor:
        import torchdiffeq

        with torch.no_grad():
            ys: Tensor = torchdiffeq.odeint(f, y0, ts, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)
        return ys[-1]

    @cache
    def exact() -> Tensor:
        return rk4(lorenz, y0.double(), END, 2000)

    def error(y: Tensor) -> float:
        relative = (y.double() - exact()).norm(dim=-1) / exact().norm(dim=-1)
        return float(relative.quantile(0.9))

    return Case(
        f"batch {batch}",
        [
            Contender("sdesolve, eager", "ours", lambda: ours(False)),
            Contender("sdesolve, compiled", "ours", lambda: ours(True)),
            Contender("torchdiffeq dopri5", "peer", theirs, needs="torchdiffeq"),
        ],
        error,
        "relative error of y(5), against RK4 in float64, that 9 of 10 trajectories meet",
        0.03,
    )


def cases() -> Sequence[Case]:
    return [case(64), case(4096)]


WORKLOAD = Workload("lorenz", "Lorenz equations, Tsit5, rtol = atol = 1e-5, t to 5, batch 64 and 4096", cases)
