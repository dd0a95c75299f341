"""How cost grows: with batch, dimension and number of steps for linear SDEs with fixed steps, the batch of an ODE.

dY_i = mu Y_i dt + sigma Y_i dW_i on [0, 1] in d components, Euler-Maruyama in float32. Along its own path
Y_N = prod (1 + mu h + sigma dW_k) to rounding. The numbers of steps are powers of 2, so that all lengths are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import NamedTuple, cast

import torch
from torch import Tensor

import sdesolve as ss
from benchmarks.reference import in_double, is_white, relative_error
from benchmarks.workload import Case, Contender, Size, Workload
from benchmarks.workloads import lorenz
from benchmarks.workloads.gbm import MU, SIGMA, Theirs

BATCHES, DIMENSIONS, STEPS = (1, 10, 100, 1_000, 10_000, 100_000), (1, 4, 16, 64, 256), (128, 1024, 8192)
ODE_BATCHES = (1, 16, 256, 4096)

#: batch, dimension and steps of what is not varied
BATCH, DIMENSION, STEP = 64, 1, 128

#: more than this takes torchsde seconds, and a few turns must do
LONG = 4096


class Answer(NamedTuple):
    """Y(1), (batch, d), and how to get at the increments of W along its path, (steps, batch, d)."""

    y: Tensor
    path: Callable[[], Tensor]


def linear(sde: ss.SDE, batch: int, dimension: int, steps: int, device: torch.device, size: Size) -> Case:
    """One point of a curve; y0 = 1."""
    shape, h = (batch, dimension), 1 / steps
    y0, ts = torch.ones(shape, device=device), torch.tensor([0.0, 1.0], device=device)

    def ours(compile: bool) -> Answer:
        with torch.no_grad():
            ys = ss.solve(sde, y0, ts, dt=h, method="euler_maruyama", seed=0, compile=compile).ys
        path = ss.BrownianPath(0, shape, cell=h, dtype=y0.dtype, device=device)
        return Answer(ys[-1], lambda: cast(Tensor, path.increments(0, steps)))

    def theirs() -> Answer:
        import torchsde

        bm = torchsde.BrownianInterval(ts[0], ts[-1], size=shape, dtype=y0.dtype, device=device, entropy=0)
        with torch.no_grad():
            ys = torchsde.sdeint(Theirs(), y0, ts, bm=bm, dt=h, method="euler")
        grid = torch.linspace(0, 1, steps + 1, device=device)
        return Answer(ys[-1], lambda: torch.stack([bm(*pair) for pair in pairwise(grid)]))

    def error(answer: Answer) -> float:
        increments = in_double(answer.path())
        if not is_white(increments):
            return inf
        exact = torch.ones(shape, dtype=torch.float64)
        for w in increments:
            exact *= 1 + MU * h + SIGMA * w
        return relative_error(in_double(answer.y), exact)

    turns = 2 if steps > LONG else None
    return Case(
        str(size),
        [
            Contender("sdesolve, eager", "ours", lambda: ours(False), turns=turns),
            Contender("sdesolve, compiled", "ours", lambda: ours(True)),
            Contender("torchsde", "peer", theirs, needs="torchsde", turns=turns),
        ],
        error,
        "relative error of Y(1) against the product in float64 along the same path",
        1e-4,
        size=size,
    )


def cases(device: torch.device) -> Sequence[Case]:
    return list(_curves(device))


def _curves(device: torch.device) -> Iterator[Case]:
    sde = ss.SDE(lambda t, y: MU * y, lambda t, y: SIGMA * y)
    group = f"SDE with {STEP} steps, dimension {DIMENSION}"
    for batch in BATCHES:
        yield linear(sde, batch, DIMENSION, STEP, device, Size(group, "batch", batch))
    group = f"SDE with {STEP} steps, batch {BATCH}"
    for dimension in DIMENSIONS:
        yield linear(sde, BATCH, dimension, STEP, device, Size(group, "dimension", dimension))
    group = f"SDE with batch {BATCH}, dimension {DIMENSION}"
    for steps in STEPS:
        yield linear(sde, BATCH, DIMENSION, steps, device, Size(group, "steps", steps))
    group = "Lorenz equations, rtol = atol = 1e-5"
    for batch in ODE_BATCHES:
        yield lorenz.case(batch, device, Size(group, "batch", batch))


WORKLOAD = Workload("scaling", "how cost grows with batch, dimension and number of steps", cases)
