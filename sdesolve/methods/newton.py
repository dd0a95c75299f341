"""Newton's method for implicit steps, a system for each trajectory:

    z = a + s f(t, z),      s = h gamma;       z <- z - M^-1 (z - a - s f(t, z)),      M = I - s df/dy(t, z)

Trajectories do not read each other, so row i of every trajectory's Jacobian is one vector-Jacobian product of f over
the batch, with the cotangent e_i in each. A number of corrections is fixed, and no graph is kept of them. Two more have
the derivatives of the solution, with M held constant. The first one starts from a constant z, and has those of the
implicit function theorem,

    dz = M^-1 (da + f ds + s (df/dt dt + df/dp dp));

each such correction is right in one derivative more than what it starts from, so the second one has second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.errors import message
from sdesolve.methods.method import plain_eager
from sdesolve.system import System


@dataclass(frozen=True)
class Linear:
    """M = I - s J of each trajectory, by its factors: (batch, 1) for states of one element, else an LU factorization
    (batch, n, n) with its pivots (batch, n)."""

    factors: Tensor
    pivots: Tensor | None

    @staticmethod
    def of(matrix: Tensor) -> Linear:
        """(batch, n, n)."""
        if matrix.shape[-1] == 1:
            return Linear(matrix[..., 0], None)
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        return Linear(factors, pivots)

    def solve(self, right: Tensor) -> Tensor:
        """M^-1 times a state's tensor, or one that broadcasts to it."""
        flat = right.reshape(-1, self.factors.shape[-1])
        if self.pivots is None:
            return (flat / self.factors).reshape(right.shape)
        return torch.linalg.lu_solve(self.factors, self.pivots, flat[..., None])[..., 0].reshape(right.shape)


@dataclass(frozen=True)
class Root:
    """What Newton's method found.

    z : the solution, of the state's shape; the guess where there is none, and a where that is not finite. change :
    z - a = s f(t, z), 0 where there is none. failed : (batch,) a is finite, but the iteration did not converge, or met
    NaN or infinity. linear : M at z, held constant.
    """

    z: Tensor
    change: Tensor
    failed: Tensor
    linear: Linear


#: corrections that have derivatives, each with an evaluation of f
DIFFERENTIABLE = 2


def root(system: System, t: Tensor, a: Tensor, s: Tensor, guess: Tensor, iterations: int) -> Root:
    """The solution z of z = a + s f(t, z) near a guess, by `iterations` corrections and the two that have derivatives,
    first and second ones.

    It has converged when a correction is below eps^(1/2) of the largest elements of z and a together, so that the next
    one is of size eps; what follows changes nothing.

    t, s : as a step has times, 0-d or ``(batch, 1, ..., 1)``. a, guess : states.
    """
    refuse_complex(a)
    spec = system.spec
    time, size, base, first = (x.detach() for x in (t, s, a, guess))
    scale = _largest(system, base)

    def correct(change: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
        """One correction, where it is still needed."""
        f, jacobian = value_and_jacobian(system, time, base + change)
        residual, matrix = change - size * f, _matrix(jacobian, size)
        good = matrix.isfinite().flatten(1).all(1) & residual.reshape(-1, matrix.shape[-1]).isfinite().all(1)
        by = Linear.of(_safe(matrix, good)).solve(torch.where(spec.expand(good), residual, 0.0))
        step = _largest(system, by)
        good = good & step.isfinite()  # which it is not where M is singular
        bound = torch.finfo(a.dtype).eps ** 0.5 * (_largest(system, base + change - by) + scale)
        close = good & (step <= bound)
        return torch.where(spec.expand(done | ~good), change, change - by), done | close

    with torch.no_grad():
        change, done = first - base, torch.zeros_like(scale, dtype=torch.bool)
        if torch.compiler.is_compiling():
            # a loop of its own is compiled once, not `iterations` times
            start = torch.zeros((), dtype=torch.int64, device=a.device), change, done
            body = lambda k, change, done: (k + 1, *correct(change, done))
            _, change, done = while_loop(lambda k, change, done: k < iterations, body, start)
        else:
            for _ in range(iterations):
                change, done = correct(change, done)
        known = spec.expand(done)
        change = torch.where(known, change, 0.0)
        z = torch.where(known, base + change, first)
    f, jacobian = value_and_jacobian(system, t, z)
    linear = Linear.of(_safe(_matrix(jacobian, size), done))
    moved = a - base  # 0, with the derivatives of a
    # where nothing was found the guess stands, which may be no root: nothing of it may reach a gradient
    residual = torch.where(known, change - moved - s * f, 0.0)
    change = torch.where(known, change - moved - linear.solve(residual), 0.0)
    f = system.drift(t, torch.where(known, base + moved + change, first))
    change = change - linear.solve(torch.where(known, change - s * f, 0.0))
    finite = scale.isfinite()
    rest = torch.where(spec.expand(finite), first, base)
    return Root(torch.where(known, base + moved + change, rest), change, finite & ~done, linear)


def value_and_jacobian(system: System, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """f(t, z), and df/dy of each trajectory without a graph, (batch, n, n): as the problem gives it, or by a
    vector-Jacobian product an element. One evaluation of f."""
    if system.has_jacobian:
        with torch.no_grad():
            jacobian = system.jacobian(t, z).detach()
        return system.drift(t, z), jacobian
    pulled = torch.func.vjp(lambda state: system.drift(t, state), z)
    f, pull = pulled[0], pulled[1]
    with torch.no_grad():
        return f, _rows(system, pull, f).detach()


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
    pulled: Any = torch.func.vjp(along, y, has_aux=True)
    f, pull, slope = pulled
    graph = torch.is_grad_enabled() and (f.requires_grad or slope.requires_grad or not plain_eager())
    with torch.set_grad_enabled(graph):
        return f, slope, _rows(system, pull, f)


def factorized(jacobian: Tensor, s: Tensor) -> tuple[Linear, Tensor]:
    """M = I - s J by its factors, and whose is finite, (batch,); the others have the identity instead."""
    matrix = _matrix(jacobian, s)
    good = matrix.isfinite().flatten(1).all(1)
    return Linear.of(_safe(matrix, good)), good


def refuse_complex(y: Tensor) -> None:
    """Raise for a complex state, of which f may be no holomorphic function."""
    if y.is_complex():
        raise ValueError(
            message(
                "y0",
                f"dtype {y.dtype}",
                "float32 or float64 with an implicit method",
                "Hold real and imaginary parts as components of a real state.",
            )
        )


def _rows(system: System, pull: Callable[[Tensor], tuple[Tensor]], f: Tensor) -> Tensor:
    """df/dy of each trajectory, (batch, n, n), by the vector-Jacobian products of f."""
    shape = system.spec.per_trajectory
    n = prod(shape)
    if n == 1:
        return pull(torch.ones_like(f))[0].reshape(-1, 1, 1)
    units = torch.eye(n, dtype=f.dtype, device=f.device)
    units = units.reshape((n, *((1,) if system.spec.batched else ()), *shape)).expand((n, *f.shape))
    rows = torch.func.vmap(lambda unit: pull(unit)[0])(units)
    return rows.reshape(n, -1, n).movedim(0, 1)


def _matrix(jacobian: Tensor, s: Tensor) -> Tensor:
    """I - s J, (batch, n, n)."""
    eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    return eye - s.reshape(-1, 1, 1) * jacobian


def _safe(matrix: Tensor, good: Tensor) -> Tensor:
    """The identity where a trajectory's matrix is not to be used."""
    return torch.where(good[:, None, None], matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=good.device))


def _largest(system: System, x: Tensor) -> Tensor:
    """Of the absolute values of each trajectory, (batch,)."""
    return x.abs().reshape(-1, prod(system.spec.per_trajectory)).amax(1)
