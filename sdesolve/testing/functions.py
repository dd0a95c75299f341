"""A problem's functions at one time, of the state alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.errors import FunctionError
from sdesolve.system import System


class Function(NamedTuple):
    """A function of the state; ``call`` gives its value, ``plain`` is the same to be differentiated."""

    name: str
    time: float
    call: Callable[[Tensor], Tensor]
    plain: Callable[[Tensor], Tensor]

    def tried(self, y: Tensor) -> Tensor | None:
        """The value; None where the function raises, as it may far from where solutions go."""
        try:
            return self.call(y)
        except FunctionError:
            raise
        except Exception:
            return None


class Functions:
    """The functions of a system; in training mode, where this is allowed, always with the same noise."""

    def __init__(self, system: System, seed: int) -> None:
        self._system, self._seed = system, seed

    def readable(self, name: str, time: float, y: Tensor) -> Function:
        """The function at a 0-d time, or at one a trajectory where it takes nothing else."""
        spec = self._system.spec
        at = torch.as_tensor(time, dtype=spec.time_dtype, device=spec.device)
        function = self.at(name, at)
        if not spec.batched:
            return function
        each = self.at(name, at.expand(spec.batch))
        try:
            return each if function.tried(y) is None and each.tried(y) is not None else function
        except FunctionError:  # to be said when it is looked at
            return function

    def at(self, name: str, t: Tensor) -> Function:
        """The function at a 0-d time, or at times (batch,)."""
        system, spec = self._system, self._system.spec
        inner = system.drift if name == system.names[0] else system.diffusion_in_full
        times = spec.expand(t.contiguous()) if t.ndim else t

        def plain(y: Tensor, times: Tensor = times) -> Tensor:
            if not system.problem.allow_training:
                return inner(times, y).clone()
            with torch.random.fork_rng([y.device] if y.device.type == "cuda" else []):
                torch.manual_seed(self._seed)
                return inner(times, y).clone()

        def call(y: Tensor) -> Tensor:
            state, now = y.clone(), times.clone()
            value = plain(state, now)
            for word, letter, same in (("time", "t", torch.equal(now, times)), ("state", "y", torch.equal(state, y))):
                if not same:
                    raise FunctionError(
                        f"{name}: wrote into the {word} it was given; accepted is a function that returns a new "
                        f"tensor and leaves its arguments alone. Begin with {letter} = {letter}.clone()."
                    )
            return value.detach()

        return Function(name, float(t.reshape(-1)[0]), call, plain)
