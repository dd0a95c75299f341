"""What a function must not depend on: other trajectories, their times, and what its problem says it does not."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.errors import CoupledTrajectoriesError, FunctionError
from sdesolve.state import StateSpec
from sdesolve.testing.functions import Function, Functions
from sdesolve.testing.moves import MOVES, Change, Mover, change, culprit, distance, separating
from sdesolve.testing.places import component, component_of, number, where


class Look(NamedTuple):
    """A function at a state, its value there, and how to move the state."""

    function: Function
    y: Tensor
    value: Tensor
    kind: str
    mover: Mover
    tolerance: float
    spec: StateSpec

    def change(self, moved: Tensor, watched: Tensor) -> Change | None:
        """What changes where it is watched when the state moves; see :func:`change`."""
        return change(
            self.function, self.y, self.value, moved, watched, self.mover, self.kind, self.tolerance, self.spec
        )


def read_other_trajectories(look: Look) -> CoupledTrajectoriesError | None:
    """Trajectories that stay must not see others move."""
    function, y, batch = look.function, look.y, look.spec.batch
    lanes = lambda mask, like: mask.to(y.device).reshape(-1, *(1,) * (like.ndim - 1))
    mask = lambda some: lanes(torch.zeros(batch, dtype=torch.bool).index_fill(0, some, True), y)
    for moved in separating(batch):
        found = look.change(lanes(moved, y), lanes(~moved, look.value))
        if found is not None:
            other = culprit(function, y, found, moved.nonzero().flatten(), mask, look.tolerance)
            whose = "those of others together" if other is None else f"that of trajectory {other}"
            return CoupledTrajectoriesError(
                f"{function.name}: the value for one trajectory changes with another's state: that for trajectory "
                f"{found.place[0]} with {whose}, {where(function)}; accepted are trajectories that do not read each "
                "other. If the whole state is one system, say batched=False in the problem; if the batch should take "
                "common steps, say shared_steps=True in solve."
            )
    return None


def read_other_times(
    functions: Functions, name: str, y: Tensor, times: list[float], spec: StateSpec
) -> CoupledTrajectoriesError | None:
    """With a clock a trajectory, each must be evaluated as it is at its own time alone."""
    if not spec.batched or spec.batch < 2 or y.numel() == 0 or min(times) == max(times):
        return None
    each = torch.linspace(min(times), max(times), spec.batch, dtype=spec.time_dtype, device=spec.device)
    together = functions.at(name, each).tried(y)
    for lane in (0, spec.batch // 2, spec.batch - 1):
        alone = functions.at(name, each[lane]).tried(y)
        if together is None or alone is None:
            return None
        # one time and many may take other ways through a library's sine: a looser comparison
        size = torch.maximum(together.abs().max(), alone.abs().max())
        if bool((distance(together[lane], alone[lane]) > torch.finfo(size.dtype).eps ** 0.5 * size).any()):
            return CoupledTrajectoriesError(
                f"{name}: the value for one trajectory changes with another's time, that for trajectory {lane}; "
                "accepted is a function that reads t as (batch, 1, ..., 1) where trajectories have clocks of their "
                "own, one time a trajectory. ss.batch_time(t, y) gives (batch,); shared_steps=True in solve gives one "
                "0-d time."
            )
    return None


def not_additive(look: Look) -> FunctionError | None:
    """An additive diffusion must not change wherever y moves."""
    everything = torch.ones((), dtype=torch.bool, device=look.y.device)
    for _ in range(MOVES):
        found = look.change(everything, everything)
        if found is not None:
            return FunctionError(
                f"diffusion: {component(look.spec, found.place, True)} changes with y{_numbers(found)}, "
                f"{where(look.function)}, where the SDE says additive=True; accepted is a diffusion of t alone. Drop "
                "additive=True: methods for additive noise would lose their order."
            )
    return None


def not_diagonal(look: Look) -> FunctionError | None:
    """Components of a diagonal diffusion that stay must not see others move."""
    function, y, spec = look.function, look.y, look.spec
    shape = spec.per_trajectory
    count = math.prod(shape)
    place = lambda flat: flat.reshape(shape).to(y.device)
    mask = lambda some: place(torch.zeros(count, dtype=torch.bool).index_fill(0, some, True))
    for moved in separating(count):
        found = look.change(place(moved), place(~moved))
        if found is not None:
            other = culprit(function, y, found, moved.nonzero().flatten(), mask, look.tolerance)
            whose = "other components together" if other is None else component_of(spec, number(shape, other))
            return FunctionError(
                f"diffusion: {component(spec, found.place, False)} changes with {whose} of y{_numbers(found)}, "
                f"{where(function)}; accepted with noise='diagonal' is a component i that depends on component i of y "
                "alone, as methods of order above 1/2 need it. Write noise='general' with a diffusion (*y.shape, m), "
                "one column a Brownian motion: torch.diag_embed(g) for y of shape (batch, d). If one Brownian motion "
                "drives a whole trajectory, write noise='scalar'."
            )
    return None


def _numbers(change: Change) -> str:
    return f" (from {change.before:.6g} to {change.after:.6g})"
