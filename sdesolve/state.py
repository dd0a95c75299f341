"""How a state, a tensor or a pytree of tensors, is held as one tensor inside the solver.

A tensor keeps its shape. The leaves of a pytree are flattened and concatenated: (batch, n), or (n,) when the whole
state is one trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sdesolve.errors import message

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


@dataclass(frozen=True)
class StateSpec:
    """Shapes and structure of a state.

    ``batch`` is the number of trajectories (1 for ``batched=False``), ``shape`` the shape of the internal tensor,
    ``tree`` the pytree's structure or None for a plain tensor, ``leaves`` the shapes of its leaves.
    """

    batch: int
    batched: bool
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    tree: Any = None
    leaves: tuple[tuple[int, ...], ...] = ()

    def resized(self, batch: int) -> StateSpec:
        """The same for another number of trajectories."""
        if not self.batched:
            return self
        leaves = tuple((batch, *shape[1:]) for shape in self.leaves)
        return StateSpec(batch, True, (batch, *self.shape[1:]), self.dtype, self.device, self.tree, leaves)

    @property
    def time_dtype(self) -> torch.dtype:
        """Times are real numbers of the state's precision."""
        # (dynamo cannot trace dtype.to_real)
        return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(self.dtype, self.dtype)

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions of the internal tensor that belong to one trajectory."""
        return tuple(range(1 if self.batched else 0, len(self.shape)))

    @property
    def per_trajectory(self) -> tuple[int, ...]:
        """Shape of one trajectory inside."""
        return self.shape[1:] if self.batched else self.shape

    def expand(self, lanes: Tensor) -> Tensor:
        """(batch,) -> (batch, 1, ..., 1) to be broadcast against a state; (1,) -> 0-d."""
        if not self.batched:
            return lanes.reshape(())
        return lanes.reshape(-1, *(1,) * (len(self.shape) - 1))

    def ravel(self, state: Any) -> Tensor:
        """The user's state as the internal tensor; for what has the state's own shape."""
        if self.tree is None:
            return state
        leaves = pytree.tree_leaves(state)
        if self.batched:
            return torch.cat([leaf.reshape(self.batch, -1) for leaf in leaves], -1)
        return torch.cat([leaf.reshape(-1) for leaf in leaves])

    def unravel(self, y: Tensor, lead: int = 0) -> Any:
        """The internal tensor as the user's state; ``lead`` dimensions stand in front of the state's."""
        if self.tree is None:
            return y
        keep = y.shape[: lead + (1 if self.batched else 0)]
        widths = [prod(shape[1:] if self.batched else shape) for shape in self.leaves]
        parts = torch.split(y, widths, -1)
        shapes = [shape[1:] if self.batched else shape for shape in self.leaves]
        return pytree.tree_unflatten(
            [part.reshape((*keep, *shape)) for part, shape in zip(parts, shapes, strict=True)], self.tree
        )

    def unravel_one(self, y: Tensor) -> Any:
        """One trajectory, without its batch dimension, as the user's state."""
        if self.tree is None:
            return y
        shapes = [shape[1:] if self.batched else shape for shape in self.leaves]
        parts = torch.split(y, [prod(shape) for shape in shapes], -1)
        return pytree.tree_unflatten([p.reshape(s) for p, s in zip(parts, shapes, strict=True)], self.tree)


def _floating(name: str, leaf: Any) -> Tensor:
    if not isinstance(leaf, Tensor):
        got = f"{leaf!r}, a {type(leaf).__name__}" if isinstance(leaf, (int, float)) else type(leaf).__name__
        advice = "Convert with torch.as_tensor(...)."
        raise TypeError(message(name, got, "a torch tensor or a pytree of tensors", advice))
    if leaf.dtype not in DTYPES:
        raise TypeError(
            message(
                name,
                f"dtype {leaf.dtype}",
                "float32, float64, complex64 or complex128",
                "Convert with y0.to(...).",
            )
        )
    return leaf


def state_spec(y0: Any, batched: bool) -> tuple[StateSpec, Tensor]:
    """Read the structure of the user's start state; returns it with the internal tensor."""
    if isinstance(y0, Tensor):
        _floating("y0", y0)
        if batched and (y0.ndim == 0 or y0.shape[0] == 0):
            raise ValueError(
                message(
                    "y0",
                    f"shape {tuple(y0.shape)}",
                    "a batch of at least one trajectory in dimension 0, (batch, ...)",
                    "For one trajectory write y0[None], or say batched=False in the problem.",
                )
            )
        batch = y0.shape[0] if batched else 1
        return StateSpec(batch, batched, tuple(y0.shape), y0.dtype, y0.device), y0
    leaves, tree = pytree.tree_flatten(y0)
    if not leaves:
        raise TypeError(message("y0", repr(y0), "a torch tensor or a pytree of tensors"))
    for leaf in leaves:
        _floating("y0", leaf)
    shapes = tuple(tuple(leaf.shape) for leaf in leaves)
    kinds = {(leaf.dtype, leaf.device) for leaf in leaves}
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{d} on {v}" for d, v in kinds))
        raise TypeError(message("y0", f"leaves of {found}", "leaves of one dtype on one device"))
    if batched and (min(len(s) for s in shapes) == 0 or len({s[0] for s in shapes}) > 1 or shapes[0][0] == 0):
        raise ValueError(
            message(
                "y0",
                f"leaves of shapes {', '.join(map(str, shapes))}",
                "leaves that share dimension 0, the batch",
                "If the whole state is one trajectory, say batched=False in the problem.",
            )
        )
    batch = shapes[0][0] if batched else 1
    width = sum(prod(s[1:] if batched else s) for s in shapes)
    spec = StateSpec(
        batch,
        batched,
        (batch, width) if batched else (width,),
        leaves[0].dtype,
        leaves[0].device,
        tree,
        shapes,
    )
    return spec, spec.ravel(y0)


def finite(x: Tensor, lead: int) -> Tensor:
    """Whether all entries behind the first ``lead`` dimensions are finite."""
    return torch.isfinite(x).reshape(*x.shape[:lead], -1).all(-1)


def named_leaves(state: Any) -> list[tuple[str, Tensor]]:
    """The tensors of a state and how to write them: y, or y with the path in the pytree, as y['x'][0]."""
    if isinstance(state, Tensor):
        return [("y", state)]
    leaves, _ = pytree.tree_flatten_with_path(state)
    return [("y" + pytree.keystr(path), leaf) for path, leaf in leaves]


def batch_time(t: Tensor, y: Any) -> Tensor:
    """The time of each trajectory as a ``(batch,)`` tensor, as networks want it.

    ``t`` is what a drift or diffusion is given, 0-d or ``(batch, 1, ..., 1)``; ``y`` its state (or any pytree whose
    first leaf has the batch in dimension 0).
    """
    batch = pytree.tree_leaves(y)[0].shape[0]
    return t.reshape(-1).expand(batch)
