"""A neural SDE dy = net(y) dt + net(y) o dW on [0, 1] with diagonal noise, forward only, float32: Stratonovich Heun,
and the midpoint method where another workload asks for it.

1/128 is exact in float32 and 0.01 is not; a solver that adds up its steps takes one more of them then. The floor is the
two networks alone, called twice a step each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from math import inf
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

import sdesolve as ss
from benchmarks.reference import in_double, is_brownian, relative_error, stratonovich_heun, stratonovich_midpoint
from benchmarks.workload import Case, Contender, Target, Workload

BATCH, DIMENSION, WIDTH = 512, 16, 64

REFERENCES = {"heun": stratonovich_heun, "midpoint": stratonovich_midpoint}

EAGER, COMPILED = "sdesolve, eager", "sdesolve, compiled"


class Answer(NamedTuple):
    """y(1), and how to get at the path that it was found along: lengths of the steps, and increments of W."""

    y: Tensor
    path: Callable[[], tuple[Tensor, Tensor]]


class NeuralSDE(nn.Module):
    """Drift and diffusion, an MLP with one hidden layer each, as torchsde wants them."""

    noise_type, sde_type = "diagonal", "stratonovich"

    def __init__(self) -> None:
        super().__init__()
        self.drift = nn.Sequential(nn.Linear(DIMENSION, WIDTH), nn.Tanh(), nn.Linear(WIDTH, DIMENSION))
        self.diffusion = nn.Sequential(
            nn.Linear(DIMENSION, WIDTH), nn.Tanh(), nn.Linear(WIDTH, DIMENSION), nn.Sigmoid()
        )

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.drift(y)
        return out

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.diffusion(y)
        return out


def start() -> tuple[NeuralSDE, Tensor]:
    """The same networks and starts each time; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NeuralSDE(), torch.randn(BATCH, DIMENSION)


def path_of_seed(y0: Tensor, dt: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Lengths of the steps to t = 1, and the increments that a solve with fixed steps takes for this seed."""
    steps = round(1 / dt)
    path = ss.BrownianPath(seed, tuple(y0.shape), cell=dt, dtype=y0.dtype, device=y0.device)
    return torch.full((steps,), dt), cast(Tensor, path.increments(0, steps))


def path_of_torchsde(bm: Callable[[Tensor, Tensor], Tensor], dt: float, ts: Tensor) -> tuple[Tensor, Tensor]:
    """The same of torchsde, whose steps add up in float32."""
    times = [ts[0]]
    while times[-1] < ts[-1]:
        times.append(torch.minimum(times[-1] + dt, ts[-1]))
    return torch.stack(times).diff(), torch.stack([bm(*pair) for pair in pairwise(times)])


def case(dt: float, name: str, device: torch.device, method: str = "heun") -> Case:
    """Each answer is judged along its own path, which must be one of a Brownian motion. method : ``"heun"`` or
    ``"midpoint"``."""
    networks, y0 = start()
    networks, y0 = networks.to(device), y0.to(device)
    steps, ts = round(1 / dt), torch.tensor([0.0, 1.0], device=device)
    sde = ss.SDE(networks.f, networks.g, calculus="stratonovich")

    def ours(compile: bool) -> Answer:
        with torch.no_grad():
            ys = ss.solve(sde, y0, ts, dt=dt, method=method, seed=0, compile=compile).ys
        return Answer(ys[-1], lambda: path_of_seed(y0, dt))

    def theirs() -> Answer:
        import torchsde

        # what sdeint makes by default, but with a seed
        bm = torchsde.BrownianInterval(ts[0], ts[-1], size=tuple(y0.shape), dtype=y0.dtype, device=device, entropy=0)
        with torch.no_grad():
            ys = torchsde.sdeint(networks, y0, ts, bm=bm, dt=dt, method=method)
        return Answer(ys[-1], lambda: path_of_torchsde(bm, dt, ts))

    def network_calls() -> Tensor:
        with torch.no_grad():
            for _ in range(2 * steps):
                networks.drift(y0)
                out: Tensor = networks.diffusion(y0)
        return out

    def error(answer: Answer) -> float:
        lengths, increments = map(in_double, answer.path())
        if not is_brownian(increments):
            return inf
        double = deepcopy(networks).double().cpu()
        with torch.no_grad():
            exact = REFERENCES[method](double.drift, double.diffusion, in_double(y0), lengths, increments)
        return relative_error(in_double(answer.y), exact)

    floor = f"{4 * steps} network calls alone"
    return Case(
        f"two MLPs 16-64-16, batch {BATCH}, dt = {name}{'' if method == 'heun' else f', {method}'}",
        [
            Contender(EAGER, "ours", lambda: ours(False)),
            Contender(COMPILED, "ours", lambda: ours(True), compiled=True),
            Contender("torchsde", "peer", theirs, needs="torchsde"),
            Contender(floor, "floor", network_calls),
        ],
        error,
        f"relative error of y(1) against {method} in float64 along the same path",
        1e-5,
        [
            Target(COMPILED, "torchsde", 20 if name == "0.01" else 2.2),
            *([Target(EAGER, floor, 1 / 1.25)] if name == "1/128" else []),
        ],
    )


def cases(device: torch.device) -> Sequence[Case]:
    return [case(1 / 128, "1/128", device), case(0.01, "0.01", device)]


WORKLOAD = Workload("neural_sde", "neural SDE, Stratonovich Heun, forward, dt = 1/128 and 0.01", cases)
