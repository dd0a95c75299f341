"""A training step of a neural ODE: solve dy/dt = net(y) from 0 to 1, loss = mean |y(1)|^2, gradient of the weights.

The floor is the network alone, called as often as sdesolve calls it with shared steps, forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

import sdesolve as ss
from benchmarks.reference import relative_error, rk4
from benchmarks.workload import Case, Contender, Workload

BATCH, DIMENSION, WIDTH, TOLERANCE = 512, 16, 64, 1e-5


class Field(nn.Module):
    """The right-hand side, an MLP with two hidden layers that does not read the time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(DIMENSION, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, DIMENSION)
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(y)
        return out


def training_step(field: nn.Module, end: Callable[[], Tensor]) -> Tensor:
    """y(1) and the gradient of its mean square with respect to all weights, in one vector."""
    parameters = list(field.parameters())
    y = end()
    gradients = torch.autograd.grad(y.square().mean(), parameters)
    return torch.cat([y.detach().reshape(-1), *(g.reshape(-1) for g in gradients)])


def cases() -> Sequence[Case]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field, y0 = Field(), torch.randn(BATCH, DIMENSION)
    ts = torch.tensor([0.0, 1.0])
    ode = ss.ODE(field)

    def ours(**options: Any) -> ss.Solution:
        return ss.solve(ode, y0, ts, rtol=TOLERANCE, atol=TOLERANCE, **options)

    def theirs(name: str) -> Tensor:
        import torchdiffeq

        ys: Tensor = getattr(torchdiffeq, name)(field, y0, ts, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)
        return ys[-1]

    with torch.no_grad():
        count = int(ours(shared_steps=True).stats.drift_evaluations.max())

    def network_calls() -> Tensor:
        y = y0
        for _ in range(count):
            y = field.net(y)
        return y

    @cache
    def exact() -> tuple[Tensor, Tensor]:
        double = deepcopy(field).double()
        return halves(training_step(double, lambda: rk4(double.net, y0.double(), 1.0, 50)))

    def halves(answer: Tensor) -> tuple[Tensor, Tensor]:
        return answer[: y0.numel()], answer[y0.numel() :]

    def error(answer: Tensor) -> float:
        return max(relative_error(*pair) for pair in zip(halves(answer), exact(), strict=True))

    step = lambda end: partial(training_step, field, end)
    return [
        Case(
            f"MLP 16-64-64-16, batch {BATCH}, forward + backward",
            [
                Contender("sdesolve, shared steps", "ours", step(lambda: ours(shared_steps=True).ys[-1])),
                Contender("sdesolve, own clocks", "ours", step(lambda: ours().ys[-1])),
                Contender(
                    "sdesolve, backsolve", "ours", step(lambda: ours(shared_steps=True, adjoint="backsolve").ys[-1])
                ),
                Contender("torchdiffeq odeint", "peer", step(lambda: theirs("odeint")), needs="torchdiffeq"),
                Contender(
                    "torchdiffeq odeint_adjoint", "peer", step(lambda: theirs("odeint_adjoint")), needs="torchdiffeq"
                ),
                Contender(f"{count} network calls alone", "floor", step(network_calls)),
            ],
            error,
            "relative error of y(1) and of the gradient against RK4 in float64",
            2e-4,
        )
    ]


WORKLOAD = Workload("neural_ode", "training step of a neural ODE, rtol = atol = 1e-5, gradients three ways", cases)
