"""Memory and time of gradients, as the number of steps grows: a neural ODE by Heun's method, a neural SDE by Heun's.

The drift is an MLP; dL/dweights of L = mean |y(1)|^2. Noise of the SDE is additive, and each library has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import sdesolve as ss
from benchmarks.reference import in_double, relative_error
from benchmarks.workload import Case, Contender, Size, Workload

STEPS = (100, 1_000, 10_000)
BATCH, DIMENSION, WIDTH, NOISE = 256, 16, 32, 0.1

#: states that may be kept, and steps of which there may be a graph
BUDGET = 100


class Field(nn.Module):
    """The drift, and for torchsde the diffusion."""

    sde_type, noise_type = "stratonovich", "additive"

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(DIMENSION, WIDTH), nn.Tanh(), nn.Linear(WIDTH, DIMENSION))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(y)
        return out

    f = forward

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """For torchsde: (batch, d, d)."""
        return NOISE * torch.eye(DIMENSION, dtype=y.dtype, device=y.device).expand(len(y), DIMENSION, DIMENSION)


def gradient(field: Field, end: Any) -> Tensor:
    """Of the mean square of the end, in one vector."""
    found = torch.autograd.grad(end().square().mean(), list(field.net.parameters()))
    return torch.cat([g.reshape(-1) for g in found])


def cases(device: torch.device) -> Sequence[Case]:
    return [case(steps, device) for case in (ode_case, sde_case) for steps in STEPS]


def start(device: torch.device) -> tuple[Field, Tensor, Tensor]:
    """The network, y(0) and the times."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field, y0 = Field().to(device), torch.randn(BATCH, DIMENSION).to(device)
    return field, y0, torch.tensor([0.0, 1.0], device=device)


def ode_case(steps: int, device: torch.device) -> Case:
    """dy/dt = net(y)."""
    field, y0, ts = start(device)
    ode = ss.ODE(field)

    def ours(**options: Any) -> Tensor:
        return ss.solve(ode, y0, ts, dt=1 / steps, **({"method": "heun"} | options)).ys[-1]

    def theirs(name: str) -> Tensor:
        import torchdiffeq

        options = {"step_size": 1 / steps}
        ys: Tensor = getattr(torchdiffeq, name)(field, y0, ts, method="heun2", options=options)
        return ys[-1]

    contenders = _ours(field, ours, steps)
    turns = _turns(steps)
    for name in ("odeint", "odeint_adjoint"):
        run = partial(gradient, field, partial(theirs, name))
        contenders.append(Contender(f"torchdiffeq {name}", "peer", run, needs="torchdiffeq", turns=turns))
    # Heun's error, and that of the continuous adjoint, is of the size of h^2
    return _case("neural ODE, Heun's method, forward + backward", steps, contenders, 1e-3 + 100 / steps**2)


def sde_case(steps: int, device: torch.device) -> Case:
    """dY = net(Y) dt + NOISE dW."""
    field, y0, ts = start(device)
    sde = ss.SDE(field, lambda t, y: NOISE * torch.ones_like(y), additive=True, calculus="stratonovich")

    def ours(**options: Any) -> Tensor:
        return ss.solve(sde, y0, ts, dt=1 / steps, seed=0, **({"method": "heun"} | options)).ys[-1]

    def theirs(name: str, method: str) -> Tensor:
        import torchsde

        bm = torchsde.BrownianInterval(ts[0], ts[-1], size=y0.shape, device=y0.device, entropy=0)
        ys: Tensor = getattr(torchsde, name)(field, y0, ts, bm=bm, dt=1 / steps, method=method)
        return ys[-1]

    contenders = _ours(field, ours, steps)
    for name, method in (("sdeint", "heun"), ("sdeint_adjoint", "reversible_heun")):
        if steps <= 1_000:
            run = partial(gradient, field, partial(theirs, name, method))
            label = f"torchsde {name}, {method}"
            contenders.append(Contender(label, "peer", run, needs="torchsde", turns=_turns(10 * steps)))
    # other paths, of which there are 256: the gradients differ by what a mean over these leaves
    return _case("neural SDE, Heun's method, forward + backward", steps, contenders, 0.05)


def _ours(field: Field, solve: Any, steps: int) -> list[Contender]:
    ways: dict[str, dict[str, Any]] = {
        "direct": {},
        "checkpoint": {"adjoint": "checkpoint"},
        f"checkpoint of {BUDGET}": {"adjoint": ss.Checkpoint(BUDGET)},
        "direct, compiled": {"compile": True},
        "backsolve": {"adjoint": "backsolve"},
        "reversible Heun": {"adjoint": "reversible", "method": "reversible_heun"},
    }
    return [
        Contender(f"sdesolve {name}", "ours", partial(gradient, field, partial(solve, **options)), turns=_turns(steps))
        for name, options in ways.items()
    ]


def _turns(steps: int) -> int | None:
    return 1 if steps > 1_000 else None


def _case(group: str, steps: int, contenders: list[Contender], tolerance: float) -> Case:
    size = Size(group, "steps", steps, memory=True)
    exact: list[Tensor] = []

    def error(answer: Tensor) -> float:
        if not exact:
            exact.append(in_double(contenders[0].run()))
        return relative_error(in_double(answer), exact[0])

    measure = "relative error of the gradient against that of direct backpropagation"
    return Case(str(size), contenders, error, measure, tolerance, size=size)


WORKLOAD = Workload("gradients", "memory and time of gradients as the number of steps grows", cases)
