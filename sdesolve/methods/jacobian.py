"""The Jacobian of f by automatic differentiation, a matrix for each trajectory.

Trajectories do not read each other, so row i of every trajectory's Jacobian is one vector-Jacobian product of f over
the batch, with the cotangent e_i in each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sdesolve.capture import leaves
from sdesolve.methods.method import plain_eager
from sdesolve.system import System

#: rows that autograd takes one by one: mapping over them costs as much as so many
FEW = 8


def value_and_jacobian(system: System, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """f(t, z), and df/dy of each trajectory without a graph, (batch, n, n): as the problem gives it, or by a
    vector-Jacobian product an element. One evaluation of f."""
    if system.has_jacobian:
        with torch.no_grad():
            jacobian = system.jacobian(t, z).detach()
        return system.drift(t, z), jacobian
    if by_autograd():
        state = variable(z)
        with torch.enable_grad():
            f = system.drift(t, state)
        return kept((f,), z, state)[0], _rows(system, f, state, graph=False)
    pulled = torch.func.vjp(lambda state: system.drift(t, state), z)
    f, pull = pulled[0], pulled[1]
    with torch.no_grad():
        return f, _mapped_rows(system, pull, f).detach()


def linearized(system: System, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f, df/dt and df/dy, (batch, n, n), of each trajectory at (t, y), with their own derivatives; one evaluation of
    f."""

    def along(state: Tensor) -> tuple[Tensor, Tensor]:
        """f, and df/dt in forward mode."""
        # the tangent is written into the layout of what it belongs to, in which expanded elements would overlap
        time = t.contiguous()
        found = torch.func.jvp(lambda time: system.drift(time, state).clone(), (time,), (torch.ones_like(time),))
        return found[0], found[1]

    if system.has_jacobian:
        return *along(y), system.jacobian(t, y)
    if by_autograd():
        return _linearized(system, t, y)
    pulled: Any = torch.func.vjp(along, y, has_aux=True)
    f, pull, slope = pulled
    graph = torch.is_grad_enabled() and (f.requires_grad or slope.requires_grad or not plain_eager())
    with torch.set_grad_enabled(graph):
        return f, slope, _mapped_rows(system, pull, f)


def by_autograd() -> bool:
    """Whether derivatives may be taken without torch.func, whose transforms cost more than small functions do."""
    return plain_eager() and forward_ad._current_level < 0


def _linearized(system: System, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f, df/dt in forward mode and df/dy in reverse mode, by autograd."""
    state = variable(y)
    with torch.enable_grad(), forward_ad.dual_level():
        time = t.contiguous()
        f, slope = forward_ad.unpack_dual(system.drift(forward_ad.make_dual(time, torch.ones_like(time)), state))
        slope = torch.zeros_like(f) if slope is None else slope
    value, rate = kept((f, slope), y, state)
    return value, rate, _rows(system, f, state, graph=value is f)


def variable(y: Tensor) -> Tensor:
    """y, to be differentiated by, apart from what else is made of y: a leaf, unless y has a graph that is wanted."""
    return y.view_as(y) if torch.is_grad_enabled() and y.requires_grad else y.detach().requires_grad_()


def kept(values: tuple[Tensor, ...], y: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    """Values at the state with their graph, where that leads to anything that needs a gradient; else without."""
    found = torch.is_grad_enabled() and (y.requires_grad or any(x is not state for x in leaves(values)))
    return values if found else tuple(x.detach() for x in values)


def _rows(system: System, f: Tensor, state: Tensor, *, graph: bool) -> Tensor:
    """df/dy of each trajectory, (batch, n, n), by autograd; graph : with derivatives of its own."""
    units, n = _units(system, f)
    if not f.requires_grad:
        return _none(system, f, n)
    row = lambda unit, batched: torch.autograd.grad(
        f, state, unit, retain_graph=True, create_graph=graph, allow_unused=True, is_grads_batched=batched
    )[0]
    found = [row(unit, False) for unit in units] if n <= FEW else row(units, True)
    if found is None or found[0] is None:
        return _none(system, f, n)
    rows = torch.stack(found) if isinstance(found, list) else found
    return rows.reshape(n, -1, n).movedim(0, 1)


def _none(system: System, f: Tensor, n: int) -> Tensor:
    """Of a function in which no derivative leads to y: 0, and a word."""
    warnings.warn(
        f"sdesolve: no derivative of {system.names[0]} leads to y, so its Jacobian counts as 0. If it depends on y, "
        "make it of torch operations, without .detach(), .numpy() and torch.no_grad(), or write ss.ODE(f, jacobian=).",
        stacklevel=2,
    )
    return f.new_zeros(f.numel() // n, n, n)


def _mapped_rows(system: System, pull: Callable[[Tensor], tuple[Tensor]], f: Tensor) -> Tensor:
    """The same by the vector-Jacobian products of torch.func."""
    units, n = _units(system, f)
    if n == 1:
        return pull(units[0])[0].reshape(-1, 1, 1)
    rows = torch.func.vmap(lambda unit: pull(unit)[0])(units)
    # contiguous() keeps the strides of a batch of 1, and a compiled loop carries tensors of one layout
    return rows.reshape(n, -1, n).movedim(0, 1).clone(memory_format=torch.contiguous_format)


def _units(system: System, f: Tensor) -> tuple[Tensor, int]:
    """Cotangents e_i of f in every trajectory, (n, *f.shape), and n."""
    shape = system.spec.per_trajectory
    n = prod(shape)
    units = torch.eye(n, dtype=f.dtype, device=f.device)
    return units.reshape((n, *((1,) if system.spec.batched else ()), *shape)).expand((n, *f.shape)), n
