"""Positions under a force, which is given, or minus the gradient of a potential: what such problems share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sdesolve.errors import FunctionError, message
from sdesolve.problem import Problem
from sdesolve.state import StateSpec

_PAIR = pytree.tree_structure((0, 0))


class Forced(Problem):
    """Base of problems whose state is a pair: positions, on which a force F = -grad U depends, and what it changes.

    Class attributes
    ----------------
    letters : what the two are called in formulas. moving : what the second one is.
    by_potential : whether U is given, not F.
    """

    letters: tuple[str, str]
    moving: str
    potential: Any
    force: Any
    by_potential: bool

    def _take_force(
        self, potential: Callable[[Tensor], Tensor] | None, force: Callable[[Tensor], Tensor] | None
    ) -> None:
        """Register one of the two, or accept the method of a subclass."""
        x, given = self.letters[0], {"potential": potential, "force": force}
        there = [name for name in given if given[name] is not None or callable(getattr(type(self), name, None))]
        if len(there) != 1:
            accepted = f"one of them: potential({x}) -> (batch,), or force({x}) of {x}'s shape"
            raise ValueError(message("potential, force", "both" if there else "neither", accepted))
        for name, function in given.items():
            if function is not None and not callable(function):
                raise TypeError(message(name, type(function).__name__, f"a function {x} -> tensor"))
            if function is not None or name not in there:
                setattr(self, name, function)
        self.by_potential = there == ["potential"]

    def _check_pair(self, spec: StateSpec) -> None:
        """Refuse a start that is not a pair of tensors of one shape."""
        x, v = self.letters
        accepted = f"a tuple ({x}, {v}) of positions and {self.moving}, two tensors of one shape"
        if spec.tree != _PAIR:
            got = f"a tensor of shape {spec.shape}" if spec.tree is None else f"the structure {spec.tree}"
            raise TypeError(message("y0", got, accepted, f"To start from rest write ({x}, torch.zeros_like({x}))."))
        if spec.leaves[0] != spec.leaves[1]:
            raise ValueError(message("y0", f"tensors of shapes {spec.leaves[0]} and {spec.leaves[1]}", accepted))

    def _force(self, x: Tensor) -> Tensor:
        """F(x), or minus the gradient of the potential."""
        if self.by_potential:
            return -torch.func.grad(self._energy)(x)
        return self._checked("force", self.force(x), tuple(x.shape), x)

    def _energy(self, x: Tensor) -> Tensor:
        """Of all trajectories together."""
        shape = tuple(x.shape[:1]) if self.batched and not self.vectorize else ()
        return self._checked("potential", self.potential(x), shape, x).sum()

    def _checked(self, name: str, out: Any, shape: tuple[int, ...], x: Tensor, letter: str = "") -> Tensor:
        """What a function of x returned, if it is a tensor of this shape. letter : what x is called."""
        letter = letter or self.letters[0]
        if not isinstance(out, Tensor):
            raise FunctionError(f"{name}: returned {type(out).__name__}; accepted is a torch tensor.")
        if tuple(out.shape) != shape:
            what = "one energy a trajectory" if name == "potential" else f"{letter}'s own shape"
            raise FunctionError(
                f"{name}: returned shape {tuple(out.shape)} for {letter} of shape {tuple(x.shape)}; accepted is "
                f"{shape}, {what}."
            )
        return out
