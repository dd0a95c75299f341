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
from benchmarks.reference import in_double, relative_error, rk4
from benchmarks.workload import Case, Contender, Target, Workload
from benchmarks.workloads.network_calls import floor as floor_of

BATCH, DIMENSION, WIDTH, TOLERANCE = 512, 16, 64, 1e-5

SHARED = ("sdesolve, shared steps", "sdesolve, shared steps, compiled")


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


def cases(device: torch.device) -> Sequence[Case]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field, y0 = Field().to(device), torch.randn(BATCH, DIMENSION).to(device)
    ts = torch.tensor([0.0, 1.0], device=device)
    ode = ss.ODE(field)

    def ours(**options: Any) -> ss.Solution:
        return ss.solve(ode, y0, ts, rtol=TOLERANCE, atol=TOLERANCE, **options)

    def theirs(name: str) -> Tensor:
        import torchdiffeq

        ys: Tensor = getattr(torchdiffeq, name)(field, y0, ts, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)
        return ys[-1]

    with torch.no_grad():
        count = int(ours(shared_steps=True).stats.drift_evaluations.max())

    def evaluations(**options: Any) -> tuple[int, int]:
        """Calls of the network, forwards and backwards."""
        calls = [0]

        def counted(t: Tensor, y: Tensor) -> Tensor:
            calls[0] += 1
            out: Tensor = field.net(y)
            return out

        y = ss.solve(ss.ODE(counted), y0, ts, rtol=TOLERANCE, atol=TOLERANCE, shared_steps=True, **options).ys[-1]
        forwards = calls[0]
        y.square().mean().backward(inputs=list(field.parameters()))
        field.zero_grad()
        return forwards, calls[0] - forwards

    def network_calls() -> Tensor:
        y = y0
        for _ in range(count):
            y = field.net(y)
        return y

    @cache
    def exact() -> tuple[Tensor, Tensor]:
        double = deepcopy(field).double().cpu()
        return halves(training_step(double, lambda: rk4(double.net, in_double(y0), 1.0, 50)))

    def halves(answer: Tensor) -> tuple[Tensor, Tensor]:
        return answer[: y0.numel()], answer[y0.numel() :]

    def error(answer: Tensor) -> float:
        return max(relative_error(*pair) for pair in zip(halves(in_double(answer)), exact(), strict=True))

    step = lambda end: partial(training_step, field, end)
    solving = lambda **options: step(lambda: ours(**options).ys[-1])
    floor, peers = f"{count} network calls alone", ("torchdiffeq odeint", "torchdiffeq odeint_adjoint")
    back: dict[str, Any] = {"shared_steps": True, "adjoint": "backsolve"}
    floor_back = floor_of("backsolve", [field.net], y0, *evaluations(adjoint="backsolve"))
    many = torch.linspace(0, 1, 101, device=device)

    def along_the_way(times: Tensor, solved: Callable[[Tensor], Tensor]) -> Tensor:
        """y(1), and the gradient of the mean square of all outputs."""
        ys = solved(times)
        gradients = torch.autograd.grad(ys.square().mean(), list(field.parameters()))
        return torch.cat([ys[-1].detach().reshape(-1), *(g.reshape(-1) for g in gradients)])

    def stepping(interpolate: bool) -> Callable[[Tensor], Tensor]:
        control = ss.PID(TOLERANCE, TOLERANCE, interpolate=interpolate)
        return lambda times: ss.solve(ode, y0, times, controller=control, **back).ys

    def along_theirs(times: Tensor) -> Tensor:
        import torchdiffeq

        ys: Tensor = torchdiffeq.odeint_adjoint(field, y0, times, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)
        return ys

    def along_error(answer: Tensor) -> float:
        return relative_error(halves(in_double(answer))[0], exact()[0])

    return [
        Case(
            f"MLP 16-64-64-16, batch {BATCH}, forward + backward",
            [
                Contender(SHARED[0], "ours", solving(shared_steps=True)),
                Contender(SHARED[1], "ours", solving(shared_steps=True, compile=True), compiled=True),
                Contender("sdesolve, own clocks", "ours", solving()),
                Contender("sdesolve, own clocks, compiled", "ours", solving(compile=True), compiled=True),
                Contender("sdesolve, backsolve", "ours", solving(**back)),
                Contender("sdesolve, backsolve, compiled", "ours", solving(**back, compile=True), compiled=True),
                Contender(peers[0], "peer", step(lambda: theirs("odeint")), needs="torchdiffeq"),
                Contender(peers[1], "peer", step(lambda: theirs("odeint_adjoint")), needs="torchdiffeq"),
                Contender(floor, "floor", step(network_calls)),
                floor_back,
            ],
            error,
            "relative error of y(1) and of the gradient against RK4 in float64",
            2e-4,
            [
                Target(SHARED, peers, 1.4),
                Target(SHARED[0], floor, 1 / 1.3),
                Target("sdesolve, backsolve", floor_back.name, 1 / 1.3),
            ],
        ),
        Case(
            f"MLP 16-64-64-16, batch {BATCH}, backsolve of 2 and of 101 output times",
            [
                Contender("2 output times", "ours", partial(along_the_way, ts, stepping(False))),
                Contender("101 output times", "ours", partial(along_the_way, many, stepping(True))),
                Contender("101 output times, steps end on them", "ours", partial(along_the_way, many, stepping(False))),
                Contender(
                    "torchdiffeq odeint_adjoint, 101 output times",
                    "peer",
                    partial(along_the_way, many, along_theirs),
                    needs="torchdiffeq",
                ),
            ],
            along_error,
            "relative error of y(1) against RK4 in float64",
            2e-4,
            [Target("101 output times", "2 output times", 1 / 1.5)],
        ),
    ]


WORKLOAD = Workload("neural_ode", "training step of a neural ODE, rtol = atol = 1e-5, gradients three ways", cases)
