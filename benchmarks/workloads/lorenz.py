"""The Lorenz equations, adaptive steps of order 5, t from 0 to 5, rtol = atol = 1e-5 in float32.

sdesolve, diffrax and torchode take Tsit5 steps, each trajectory on its own clock; torchdiffeq takes dopri5 steps on one
clock for all, as its tsit5 carries the weights of the embedded method of order 4. The equations are chaotic: a few
trajectories that pass close to the origin lose all digits by t = 5 at this tolerance, whoever solves them, so 9 of 10
are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

import sdesolve as ss
from benchmarks.reference import in_double, rk4
from benchmarks.workload import Case, Contender, Size, Target, Workload

END, TOLERANCE = 5.0, 1e-5

EAGER, COMPILED = "sdesolve, eager", "sdesolve, compiled"
DIFFRAX, TORCHODE, TORCHDIFFEQ = "diffrax Tsit5, vmap + jit", "torchode Tsit5", "torchdiffeq dopri5"
TARGETS = {
    1: (Target(COMPILED, DIFFRAX, 0.1), Target(COMPILED, TORCHDIFFEQ, 80)),
    64: (Target(COMPILED, DIFFRAX, 1.3),),
    4096: (Target(COMPILED, DIFFRAX, 6), Target(COMPILED, TORCHODE, 6), Target(COMPILED, TORCHDIFFEQ, 8)),
}


def lorenz(y: Tensor) -> Tensor:
    """The right-hand side for (batch, 3)."""
    u, v, w = y.unbind(-1)
    return torch.stack([10 * (v - u), u * (28 - w) - v, u * v - 8 / 3 * w], -1)


def right_hand_side(t: Tensor, y: Tensor) -> Tensor:
    """The same with a time, as solvers want it."""
    return lorenz(y)


def case(batch: int, device: torch.device, size: Size | None = None) -> Case:
    """Starts scattered about (1, 1, 25); for a point of a curve torchdiffeq is the only peer."""
    scatter = torch.randn(batch, 3, generator=torch.Generator().manual_seed(0))
    start = scatter + torch.tensor([1.0, 1.0, 25.0])
    y0, ts = start.to(device), torch.tensor([0.0, END], device=device)
    problem = ss.ODE(right_hand_side)

    def ours(compile: bool) -> Tensor:
        with torch.no_grad():
            return ss.solve(problem, y0, ts, method="tsit5", rtol=TOLERANCE, atol=TOLERANCE, compile=compile).ys[-1]

    def torchdiffeq() -> Tensor:
        import torchdiffeq

        options: dict[str, Any] = {"method": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}
        with torch.no_grad():
            ys: Tensor = torchdiffeq.odeint(right_hand_side, y0, ts, **options)
        return ys[-1]

    @cache
    def exact() -> Tensor:
        return rk4(lorenz, start.double(), END, 2000)

    def error(y: Any) -> float:
        relative = (in_double(y) - exact()).norm(dim=-1) / exact().norm(dim=-1)
        return float(relative.quantile(0.9))

    diffrax, torchode = cache(lambda: _diffrax(start)), cache(lambda: _torchode(y0))
    contenders = [
        Contender(EAGER, "ours", lambda: ours(False)),
        Contender(COMPILED, "ours", lambda: ours(True), compiled=size is None),
        Contender(DIFFRAX, "peer", lambda: diffrax()(), needs="diffrax", cpu_only=True),
        Contender(TORCHODE, "peer", lambda: torchode()(), needs="torchode"),
        Contender(TORCHDIFFEQ, "peer", torchdiffeq, needs="torchdiffeq"),
    ]
    return Case(
        f"batch {batch}" if size is None else str(size),
        contenders if size is None else [*contenders[:2], contenders[-1]],
        error,
        "relative error of y(5), against RK4 in float64, that 9 of 10 trajectories meet",
        0.03,
        TARGETS.get(batch, ()) if size is None else (),
        size,
    )


def _diffrax(start: Tensor) -> Callable[[], Any]:
    import diffrax
    import jax
    from jax import numpy as jnp

    def f(t: Any, y: Any, args: Any) -> Any:
        u, v, w = y
        return jnp.stack([10 * (v - u), u * (28 - w) - v, u * v - 8 / 3 * w])

    def one(y: Any) -> Any:
        control = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)
        term, at_end = diffrax.ODETerm(f), diffrax.SaveAt(t1=True)
        solution = diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.0, END, None, y, stepsize_controller=control, saveat=at_end, max_steps=None
        )
        assert solution.ys is not None
        return solution.ys[0]

    solve, y0 = jax.jit(jax.vmap(one)), jnp.asarray(start.numpy())
    return lambda: solve(y0).block_until_ready()


def _torchode(y0: Tensor) -> Callable[[], Tensor]:
    import torchode

    term = torchode.ODETerm(right_hand_side)
    control = torchode.IntegralController(atol=TOLERANCE, rtol=TOLERANCE, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), control)
    times = torch.zeros(len(y0), device=y0.device)
    problem = torchode.InitialValueProblem(y0=y0, t_start=times, t_end=times + END)

    def run() -> Tensor:
        with torch.no_grad():
            ys: Tensor = solver.solve(problem).ys
        return ys[:, -1]

    return run


def cases(device: torch.device) -> Sequence[Case]:
    return [case(batch, device) for batch in TARGETS]


WORKLOAD = Workload("lorenz", "Lorenz equations, Tsit5, rtol = atol = 1e-5, t to 5, batch 1, 64 and 4096", cases)
