"""A training step of the neural SDE of ``neural_sde``: loss = mean |y(1)|^2, gradient of all weights, three ways.

Direct backpropagation, the continuous adjoint along the same path, and reversible Heun, each beside torchsde's own and
beside the calls of the networks that it needs. Each answer is judged along its own path, against backpropagation in
float64; ways that are no Heun steps, or solve an adjoint equation, differ from it by their error, of order dt.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

import sdesolve as ss
from benchmarks.reference import in_double, is_brownian, relative_error, stratonovich_heun
from benchmarks.workload import Case, Contender, Target, Workload
from benchmarks.workloads.network_calls import floor
from benchmarks.workloads.neural_sde import BATCH, Answer, path_of_seed, path_of_torchsde, start

DIRECT, BACKSOLVE, REVERSIBLE = "sdesolve direct", "sdesolve backsolve", "sdesolve reversible"
CHECKPOINT = "sdesolve checkpoint"
#: how each way is asked for
WAYS: dict[str, dict[str, Any]] = {
    DIRECT: {"method": "heun"},
    BACKSOLVE: {"method": "heun", "adjoint": "backsolve"},
    REVERSIBLE: {"adjoint": "reversible"},
}
#: of each way, torchsde's name for it here, its function, and how that is called
PEERS = {
    DIRECT: ("torchsde direct", "sdeint", {"method": "heun"}),
    BACKSOLVE: ("torchsde adjoint", "sdeint_adjoint", {"method": "midpoint"}),
    REVERSIBLE: (
        "torchsde reversible",
        "sdeint_adjoint",
        {"method": "reversible_heun", "adjoint_method": "adjoint_reversible_heun"},
    ),
}


def case(dt: float, name: str, device: torch.device) -> Case:
    """Steps of dt, and the floors of each way."""
    networks, y0 = start()
    networks, y0 = networks.to(device), y0.to(device)
    steps, ts = round(1 / dt), torch.tensor([0.0, 1.0], device=device)
    sde, parameters = ss.SDE(networks.f, networks.g, calculus="stratonovich"), list(networks.parameters())

    def gradient(end: Tensor) -> Tensor:
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(end.square().mean(), parameters)])

    def ours(**options: Any) -> Answer:
        end = ss.solve(sde, y0, ts, dt=dt, seed=0, **options).ys[-1]
        return Answer(gradient(end), lambda: path_of_seed(y0, dt))

    def theirs(function: str, options: dict[str, str]) -> Answer:
        import torchsde

        bm = torchsde.BrownianInterval(ts[0], ts[-1], size=tuple(y0.shape), dtype=y0.dtype, device=device, entropy=0)
        ys: Tensor = getattr(torchsde, function)(networks, y0, ts, bm=bm, dt=dt, **options)
        return Answer(gradient(ys[-1]), lambda: path_of_torchsde(bm, dt, ts))

    def error(answer: Answer) -> float:
        lengths, increments = map(in_double, answer.path())
        if not is_brownian(increments):
            return inf
        double = deepcopy(networks).double().cpu()
        end = stratonovich_heun(double.drift, double.diffusion, in_double(y0), lengths, increments)
        exact = torch.autograd.grad(end.square().mean(), list(double.parameters()))
        return relative_error(in_double(answer.y), torch.cat([g.reshape(-1) for g in exact]))

    nets = (networks.drift, networks.diffusion)
    floors = {
        DIRECT: floor("direct", nets, y0, 0, 2 * steps),
        BACKSOLVE: floor("backsolve", nets, y0, 2 * steps, 2 * steps),
        REVERSIBLE: floor("reversible", nets, y0, steps + 1, steps + 1),
    }
    targets = [Target(f"{way}, compiled", way, 1.5) for way in PEERS]
    for way, (peer, _, _) in PEERS.items():
        targets.append(Target(way, peer, 8) if name == "0.01" else Target(way, floors[way].name, 1 / 1.3))
    return Case(
        f"two MLPs 16-64-16, batch {BATCH}, dt = {name}, forward + backward",
        [
            *(Contender(way, "ours", partial(ours, **how)) for way, how in WAYS.items()),
            *(
                Contender(f"{way}, compiled", "ours", partial(ours, **how, compile=True), compiled=True)
                for way, how in WAYS.items()
            ),
            Contender(CHECKPOINT, "ours", lambda: ours(method="heun", adjoint="checkpoint")),
            *(
                Contender(peer, "peer", partial(theirs, function, options), needs="torchsde", turns=3)
                for peer, function, options in PEERS.values()
            ),
            *floors.values(),
        ],
        error,
        "relative error of the gradient against backpropagation in float64 along the same path",
        min(dt, 0.05),
        targets,
    )


def cases(device: torch.device) -> Sequence[Case]:
    return [case(1 / 128, "1/128", device), case(0.01, "0.01", device)]


WORKLOAD = Workload("neural_sde_gradients", "training step of a neural SDE, gradients three ways", cases)
