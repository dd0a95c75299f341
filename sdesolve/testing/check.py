"""Checks of what a problem promises: what a solver relies on, and cannot see in the numbers of a solve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from sdesolve.coupling import refuse_coupled, same
from sdesolve.errors import FunctionError
from sdesolve.problem import Problem
from sdesolve.request import check_problem_type
from sdesolve.state import StateSpec, state_spec
from sdesolve.system import System

#: pairs of columns of the diffusion whose commutator is looked at, and directions along which derivatives are taken
MOST_PAIRS, DIRECTIONS = 32, 8


def check_problem(
    problem: Problem,
    y0: Any,
    t: float | Sequence[float] = (0.0, 1.0),
    *,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Check a problem at ``y0`` and at states near it, at the times ``t``.

    - The functions return finite numbers of the right shape and dtype, leave their arguments alone, give the same
      values when asked again, and do not let trajectories read each other.
    - ``noise="diagonal"``: component i of the diffusion depends on component i of y alone.
    - ``additive=True``: the diffusion does not depend on y.
    - ``commutative=True``: sum_i g_ij dg_kl/dy_i = sum_i g_il dg_kj/dy_i for all columns j and l.

    The last three are promises: solves rely on them, and lose their order of convergence where they are false. They are
    looked at by derivatives along random directions (forward mode), for "diagonal" those of half of the components:
    a coupling of two components is overlooked with a probability of 2^-8 a time.

    Parameters
    ----------
    problem : an :class:`ODE`, :class:`SDE` or :class:`Semilinear`.
    y0 : a state, as for ``solve``.
    t : times to look at.
    tolerance : derivatives below it, relative to the largest, are 0. Default: the rounding unit of y0's dtype, to the
        power of 3/4.
    seed : of the states and directions.

    Raises
    ------
    FunctionError : a ValueError that says what was found, where, and what to write instead. CoupledTrajectoriesError :
        trajectories read each other.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> ss.testing.check_problem(ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y.flip(-1)), torch.ones(3, 2))
    Traceback (most recent call last):
        ...
    sdesolve.errors.FunctionError: diffusion: component ...
    """
    problem = check_problem_type(problem)
    spec, y = state_spec(y0, problem.batched)
    system = System(problem, spec)
    generator = torch.Generator().manual_seed(seed)
    small = torch.finfo(spec.dtype.to_real()).eps ** 0.75 if tolerance is None else tolerance
    for time in [t] if isinstance(t, (int, float)) else t:
        for state in _states(y.detach(), generator):
            at = torch.as_tensor(time, dtype=spec.time_dtype, device=spec.device)
            _check_functions(system, at, state)
            if system.is_sde:
                _check_promises(system, at, state, small, generator)


def _states(y: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """The state itself, and two near it, in which no two components are equal."""
    yield y
    for size in (0.1, 1.0):
        away = torch.randn(y.shape, generator=generator, dtype=y.dtype.to_real()).to(y.device, y.dtype)
        yield y + size * (0.1 + y.abs()) * away


def _check_functions(system: System, t: Tensor, y: Tensor) -> None:
    spec = system.spec
    functions: list[tuple[str, Callable[[Tensor], Tensor]]] = [(system.names[0], lambda y: system.drift(t, y))]
    if system.is_sde:
        functions.append((system.names[1], lambda y: system.diffusion_in_full(t, y)))
    for name, function in functions:
        with torch.no_grad():
            value, again = function(y), function(y)
        if not same(value, again):
            raise FunctionError(
                f"{name}: two evaluations at the same t and y differ, at t = {float(t):g}; accepted is a function of "
                "(t, y). Does it draw random numbers, or keep state between calls?"
            )
        if not bool(torch.isfinite(value).all()):
            raise FunctionError(
                f"{name}: returned NaN or infinity at t = {float(t):g}, at y0 or at a state near it; accepted are "
                "finite numbers. Where the equation ends there, check_problem should not look there."
            )
        if spec.batched and spec.batch > 1:
            refuse_coupled(name, function, y, value, spec)


def _check_promises(system: System, t: Tensor, y: Tensor, small: float, generator: torch.Generator) -> None:
    sde, spec = system.problem, system.spec
    g = lambda state: system.diffusion_in_full(t, state).clone()
    with torch.no_grad():
        value = g(y)
    # what a derivative along a direction of size one would be, for a g that changes by its size over y's
    scale = float(value.abs().max() / (1 + y.abs().max())) + torch.finfo(spec.dtype).tiny
    draw = lambda: torch.randn(y.shape, generator=generator, dtype=spec.dtype).to(spec.device)
    if sde.additive:
        for _ in range(DIRECTIONS):
            if float(_along(g, y, draw()).abs().max()) > small * scale:
                raise FunctionError(
                    f"diffusion: changes with y, at t = {float(t):g}, where the SDE says additive=True; accepted is a "
                    "diffusion of t alone. Drop additive=True: methods for additive noise would lose their order."
                )
        return
    if sde.noise == "diagonal":
        _check_diagonal(g, t, y, small * scale, spec, generator, draw)
    if sde.noise == "general" and sde.commutative:
        _check_commutative(g, t, y, value, small, generator)


def _check_diagonal(
    g: Callable[[Tensor], Tensor],
    t: Tensor,
    y: Tensor,
    small: float,
    spec: StateSpec,
    generator: torch.Generator,
    draw: Callable[[], Tensor],
) -> None:
    """Along directions of some components alone, g of the others must not change."""
    shape = spec.per_trajectory
    count = max(torch.Size(shape).numel(), 1)
    if count < 2:
        return
    for _ in range(DIRECTIONS):
        moved = torch.rand(count, generator=generator) < 0.5
        moved[int(torch.randint(count, (), generator=generator))] ^= bool(moved.all()) or not bool(moved.any())
        mask = moved.reshape(shape).to(spec.device)
        change = _along(g, y, torch.where(mask, draw(), 0.0)).abs()
        wrong = (change > small) & ~mask
        if bool(wrong.any()):
            where = wrong.any(0) if spec.batched else wrong
            component = tuple(where.nonzero()[0].tolist())
            raise FunctionError(
                f"diffusion: component {component} changes with other components of y, at t = {float(t):g}; accepted "
                "with noise='diagonal' is a component i that depends on component i of y alone, as methods of order "
                "above 1/2 need it. Write noise='general' with a diffusion (*y.shape, m): torch.diag_embed(g) has one "
                "Brownian motion an element."
            )


def _check_commutative(
    g: Callable[[Tensor], Tensor], t: Tensor, y: Tensor, value: Tensor, small: float, generator: torch.Generator
) -> None:
    pairs = list(combinations(range(value.shape[-1]), 2))
    order = torch.randperm(len(pairs), generator=generator)[:MOST_PAIRS].tolist()
    for j, k in (pairs[i] for i in order):
        one, other = _along(g, y, value[..., k])[..., j], _along(g, y, value[..., j])[..., k]
        size = float(torch.maximum(one.abs().max(), other.abs().max()))
        if float((one - other).abs().max()) > small * max(size, torch.finfo(y.dtype).tiny):
            raise FunctionError(
                f"diffusion: columns {j} and {k} do not commute, at t = {float(t):g}, where the SDE says "
                "commutative=True; accepted are columns with (dg_j/dy) g_k = (dg_k/dy) g_j. Drop commutative=True: "
                "methods for commutative noise would have order 1/2."
            )


def _along(function: Callable[[Tensor], Tensor], y: Tensor, direction: Tensor) -> Tensor:
    """The derivative along a direction."""
    found: Tensor = torch.func.jvp(function, (y.contiguous(),), (direction.contiguous(),))[1]
    return found
