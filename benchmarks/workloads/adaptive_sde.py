"""Geometric Brownian motion dY = mu Y dt + sigma Y dW on [0, 1] with adaptive steps, rtol = atol = 1e-3, own clocks.

sdesolve takes sriw1 steps (Ito, strong order 1.5). diffrax has no adaptive Ito method of that order; its nearest ones
are Stratonovich, so they get the drift mu - sigma^2 / 2: SPaRK, which it recommends for adaptive steps (strong order 1
here), and SlowRK (strong order 1.5 here), whose error is estimated by step doubling. Both draw from a
VirtualBrownianTree.

Y(1) = exp((mu - sigma^2 / 2) + sigma W(1)) is known along each one's own path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

import sdesolve as ss
from benchmarks.reference import in_double, largest_z
from benchmarks.workload import Case, Contender, Target, Workload

MU, SIGMA, TOLERANCE = 0.05, 0.2, 1e-3
PATHS = 10_000

#: what is finer than this, diffrax interpolates; its steps here are longer than 2^-5
TREE = 2.0**-14

COMPILED, SPARK, SLOW = "sdesolve sriw1, compiled", "diffrax SPaRK", "diffrax SlowRK, step doubling"


class Answer(NamedTuple):
    """Y(1), and how to get at W(1) of the path that it was found along: tensors, or arrays of JAX."""

    y: Any
    w: Callable[[], Any]


def case(paths: int, device: torch.device) -> Case:
    """y0 = 1; each answer is judged along its own path, whose ends must be those of a Brownian motion."""
    y0, ts = torch.ones(paths, 1, device=device), torch.tensor([0.0, 1.0], device=device)
    sde = ss.SDE(lambda t, y: MU * y, lambda t, y: SIGMA * y)

    def ours(compile: bool) -> Answer:
        options: dict[str, Any] = {"rtol": TOLERANCE, "atol": TOLERANCE, "seed": 0, "compile": compile}
        with torch.no_grad():
            return Answer(ss.solve(sde, y0, ts, method="sriw1", **options).ys[-1], our_path)

    @cache
    def our_path() -> Tensor:
        # the path of a seed is the same for all equations: dY = dW gives W
        itself = ss.SDE(lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y))
        options: dict[str, Any] = {"rtol": TOLERANCE, "atol": TOLERANCE, "seed": 0}
        with torch.no_grad():
            return ss.solve(itself, torch.zeros_like(y0), ts, method="sriw1", **options).ys[-1]

    def theirs(name: str) -> Callable[[], Answer]:
        made = cache(lambda: _diffrax(name, paths))
        return lambda: made()()

    def error(answer: Answer) -> float:
        w, y = (in_double(part).reshape(-1, 1) for part in (answer.w(), answer.y))
        if not largest_z(torch.stack([w, w**2 - 1], 1)) <= 5:
            return inf
        exact = torch.exp(MU - SIGMA**2 / 2 + SIGMA * w)
        return float((y - exact).square().mean().sqrt())

    return Case(
        f"{paths:,} paths, rtol = atol = 1e-3, float32",
        [
            Contender("sdesolve sriw1, eager", "ours", lambda: ours(False)),
            Contender(COMPILED, "ours", lambda: ours(True), compiled=True),
            Contender(SPARK, "peer", theirs("SPaRK"), needs="diffrax", cpu_only=True),
            Contender(SLOW, "peer", theirs("SlowRK"), needs="diffrax", cpu_only=True),
        ],
        error,
        "root mean square of the error of Y(1) along the same path",
        2 * TOLERANCE,
        (Target(COMPILED, (SPARK, SLOW), 20),),
    )


def _diffrax(name: str, paths: int) -> Callable[[], Answer]:
    import diffrax
    import jax
    from jax import numpy as jnp

    solver = diffrax.SPaRK() if name == "SPaRK" else diffrax.HalfSolver(diffrax.SlowRK())
    control = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE, pcoeff=0.1, icoeff=0.3)
    at_end = diffrax.SaveAt(t1=True)

    def path(key: Any) -> Any:
        return diffrax.VirtualBrownianTree(0.0, 1.0, tol=TREE, shape=(), key=key, levy_area=diffrax.SpaceTimeLevyArea)

    def one(key: Any) -> Any:
        drift = diffrax.ODETerm(lambda t, y, args: (MU - SIGMA**2 / 2) * y)
        noise = diffrax.ControlTerm(lambda t, y, args: SIGMA * y, path(key))
        terms: Any = diffrax.MultiTerm(drift, noise)
        solution = diffrax.diffeqsolve(
            terms, solver, 0.0, 1.0, 0.1, jnp.float32(1.0), stepsize_controller=control, saveat=at_end, max_steps=None
        )
        assert solution.ys is not None
        return solution.ys[0]

    solve, keys = jax.jit(jax.vmap(one)), jax.random.split(jax.random.PRNGKey(0), paths)
    ends = jax.jit(jax.vmap(lambda key: path(key).evaluate(0.0, 1.0)))
    return lambda: Answer(solve(keys).block_until_ready(), lambda: ends(keys))


def cases(device: torch.device) -> Sequence[Case]:
    return [case(PATHS, device)]


WORKLOAD = Workload("adaptive_sde", "adaptive SDE, sriw1, geometric Brownian motion, 10,000 paths, rtol = 1e-3", cases)
