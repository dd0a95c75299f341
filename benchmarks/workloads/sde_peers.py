"""The SDE methods of torchsde and diffrax: what each solves, what a step costs, and a solve in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.reference import in_double
from benchmarks.workloads.sde_problems import Path, Problem

STRUCTURES = ("general", "commutative", "additive")


class Answer(NamedTuple):
    """y(1), (paths, d), a tensor or an array of JAX, and how to get at the path that it was found along."""

    y: Any
    path: Callable[[], Path]


@dataclass(frozen=True)
class Peer:
    """A method of another library.

    evaluations : of drift and diffusion, a step; a derivative counts as one more of the diffusion, as it does for ours.
    orders : strong, for general, commutative and additive noise, None where it is not made for it. levy : it reads H.
    """

    library: str
    name: str
    calculus: str
    evaluations: int
    orders: tuple[float | None, float | None, float | None]
    levy: bool = False
    areas: bool = False

    def order_for(self, structure: str) -> float | None:
        return self.orders[STRUCTURES.index(structure)]

    @property
    def label(self) -> str:
        return f"{self.library} {self.name}"


# torchsde's srk evaluates each stage anew for every stage that reads it: 10 + 10, and 3 + 3 for additive noise
TORCHSDE = (
    Peer("torchsde", "euler", "ito", 2, (0.5, 0.5, 1.0)),
    Peer("torchsde", "milstein", "ito", 3, (None, 1.0, None)),
    Peer("torchsde", "srk", "ito", 20, (None, 1.5, None), levy=True),
    Peer("torchsde", "srk", "ito", 6, (None, None, 1.5), levy=True),
    Peer("torchsde", "midpoint", "stratonovich", 4, (0.5, 1.0, 1.0)),
    Peer("torchsde", "heun", "stratonovich", 4, (0.5, 1.0, 1.0)),
    Peer("torchsde", "euler_heun", "stratonovich", 3, (0.5, 1.0, 1.0)),
    Peer("torchsde", "reversible_heun", "stratonovich", 2, (0.5, 1.0, 1.0)),
    Peer("torchsde", "log_ode", "stratonovich", 7, (0.5, None, None), levy=True, areas=True),
)

DIFFRAX = (
    Peer("diffrax", "Euler", "ito", 2, (0.5, 0.5, 1.0)),
    Peer("diffrax", "ItoMilstein", "ito", 3, (None, 1.0, None)),
    Peer("diffrax", "StratonovichMilstein", "stratonovich", 3, (None, 1.0, None)),
    Peer("diffrax", "EulerHeun", "stratonovich", 3, (0.5, 1.0, 1.0)),
    Peer("diffrax", "Heun", "stratonovich", 4, (0.5, 1.0, 1.0)),
    Peer("diffrax", "Midpoint", "stratonovich", 4, (0.5, 1.0, 1.0)),
    Peer("diffrax", "ReversibleHeun", "stratonovich", 2, (0.5, 1.0, 1.0)),
    Peer("diffrax", "SEA", "stratonovich", 3, (None, None, 1.0), levy=True),
    Peer("diffrax", "SRA1", "stratonovich", 4, (None, None, 1.5), levy=True),
    Peer("diffrax", "ShARK", "stratonovich", 4, (None, None, 1.5), levy=True),
    Peer("diffrax", "GeneralShARK", "stratonovich", 5, (0.5, 1.0, 1.5), levy=True),
    Peer("diffrax", "SlowRK", "stratonovich", 7, (0.5, 1.5, 1.5), levy=True),
    Peer("diffrax", "SPaRK", "stratonovich", 6, (0.5, 1.0, 1.5), levy=True),
)


class Theirs:
    """A problem as torchsde takes it."""

    def __init__(self, problem: Problem, calculus: str) -> None:
        self.problem, self.sde_type = problem, calculus
        self.additive = problem.structure == "additive"
        self.noise_type = "additive" if self.additive else problem.noise

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.problem.drift[self.sde_type](torch, t, y)
        return found

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.problem.diffusion(torch, t, y)
        return torch.diag_embed(found) if self.additive else found


def torchsde_solve(peer: Peer, problem: Problem, paths: int, steps: int, device: torch.device) -> Callable[[], Answer]:
    """A solve, with the least that the method asks of a path."""
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    y0 = torch.tensor(problem.start, dtype=torch.float64, device=device).expand(paths, -1)
    sde = Theirs(problem, peer.calculus)
    area = "foster" if peer.areas else "space-time" if peer.levy else "none"

    def run() -> Answer:
        import torchsde

        bm = torchsde.BrownianInterval(
            ts[0],
            ts[1],
            size=(paths, problem.channels),
            dtype=y0.dtype,
            device=device,
            entropy=0,
            levy_area_approximation=area,
        )
        with torch.no_grad():
            ys = torchsde.sdeint(sde, y0, ts, bm=bm, dt=1 / steps, method=peer.name)
        return Answer(ys[-1], lambda: _torchsde_path(bm, steps, peer.levy))

    return run


def _torchsde_path(bm: Any, steps: int, levy: bool) -> Path:
    """Its U is int W dt = h (W/2 + H)."""
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if not levy:
        return Path(in_double(torch.stack([bm(*pair) for pair in pairwise(times)])))
    w, u = (in_double(torch.stack(x)) for x in zip(*(bm(*p, return_U=True) for p in pairwise(times)), strict=True))
    return Path(w, u * steps - w / 2)


def diffrax_solve(peer: Peer, problem: Problem, paths: int, steps: int) -> Callable[[], Answer]:
    """A solve, along the path that costs diffrax least: increments of steps are drawn as they come."""
    made = cache(lambda: _diffrax(peer, problem, paths))
    return lambda: made()(steps)


@cache
def _diffrax(peer: Peer, problem: Problem, paths: int) -> Callable[[int], Answer]:
    """One compiled function for all numbers of steps."""
    import diffrax
    import jax
    from jax import numpy as jnp

    single, path_of = len(problem.start) == 1, _diffrax_path(peer.levy, problem.channels)
    solver = getattr(diffrax, peer.name)()

    def one(key: Any, step: Any) -> Any:
        drift = diffrax.ODETerm(lambda t, y, args: problem.drift[peer.calculus](jnp, t, y))
        noise = diffrax.ControlTerm(lambda t, y, args: problem.diffusion(jnp, t, y), path_of(key))
        terms: Any = diffrax.MultiTerm(drift, noise)
        y0 = jnp.array(problem.start[0] if single else problem.start, jnp.float64)
        solution = diffrax.diffeqsolve(
            terms,
            solver,
            0.0,
            1.0,
            step,
            y0,
            stepsize_controller=diffrax.ConstantStepSize(),
            saveat=diffrax.SaveAt(t1=True),
            adjoint=diffrax.ForwardMode(),
            max_steps=None,
        )
        assert solution.ys is not None
        return solution.ys[0]

    solve = jax.jit(jax.vmap(one, in_axes=(0, None)))
    drawn = _diffrax_increments(peer.levy, problem.channels, paths, max(problem.steps))

    def run(steps: int) -> Answer:
        with jax.enable_x64(True):
            keys = jax.random.split(jax.random.PRNGKey(0), paths)
            y = solve(keys, jnp.float64(1 / steps)).block_until_ready().reshape(paths, -1)
        return Answer(y, lambda: drawn(steps))

    return run


def _diffrax_path(levy: bool, channels: int) -> Callable[[Any], Any]:
    """From a key to its path in float64, of single numbers for one channel."""
    import diffrax
    import jax
    from jax import numpy as jnp

    area = diffrax.SpaceTimeLevyArea if levy else diffrax.BrownianIncrement
    shape = () if channels == 1 else (channels,)
    return lambda key: diffrax.UnsafeBrownianPath(jax.ShapeDtypeStruct(shape, jnp.float64), key=key, levy_area=area)


@cache
def _diffrax_increments(levy: bool, channels: int, paths: int, most: int) -> Callable[[int], Path]:
    """The increments over up to so many steps, by one compiled function."""
    import jax
    from jax import numpy as jnp

    path_of = _diffrax_path(levy, channels)

    def increments(key: Any, times: Any) -> Any:
        return jax.vmap(lambda a, b: path_of(key).evaluate(a, b, use_levy=True))(times[:-1], times[1:])

    drawn = jax.jit(jax.vmap(increments, in_axes=(0, None)))

    def at(steps: int) -> Path:
        with jax.enable_x64(True):
            keys = jax.random.split(jax.random.PRNGKey(0), paths)
            found = drawn(keys, jnp.arange(most + 1) / steps)
            wide = lambda x: in_double(x).reshape(paths, most, -1).transpose(0, 1)[:steps]
            return Path(wide(found.W), wide(found.H) if levy else None)

    return at
