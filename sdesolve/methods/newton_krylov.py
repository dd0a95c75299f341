"""Newton-Krylov: Newton's method for the stages of a step whose corrections GMRES finds, from products of the Jacobian
with vectors. No matrix is formed; memory and time of a correction grow with the elements of a state, not with their
square and cube (Brown & Hindmarsh 1989, Appl. Math. Comput. 31:40; Knoll & Keyes 2004, J. Comput. Phys. 193:357).

    M d = r,    M = I - s df/dy(t, z)  at the last iterate z,    |M d - r| <= max(PART KAPPA, eta |r|)

where |.| is the root mean square over the scale, 1 being an error that matters. What GMRES has left of r counts with
the error of the iteration, as M^-1 enlarges nothing where f draws solutions together. The forcing term eta is that of
Eisenstat & Walker 1996, SIAM J. Sci. Comput. 17:16, (2.6) with gamma = 1 and alpha = 2, the last correction standing
for the last residual:  eta = (|r_m| / |d_m-1|)^2,  and FORCING before the first and at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from sdesolve.errors import SolveError
from sdesolve.methods.jacobian import kept, variable
from sdesolve.methods.krylov import VECTORS, Product, gmres, mean_square, restarted
from sdesolve.methods.newton import DIFFERENTIABLE, KAPPA, Corrections, Damped, Slope, StageNewton
from sdesolve.system import System

LARGE = 2048
"""Elements of a state above which GMRES is the default. On one core, for one trajectory, it takes as long as factors at
400 elements of the Brusselator's equation with mild diffusion, and is 5 times as fast at 1000; for the heat equation in
steps of 10^4 times the fastest decay it is 10 times as slow at 1000, and 4 times at 2000. More trajectories favour it:
at 512 elements it is the faster one for 8 trajectories of the Brusselator's and 16 of the heat equation."""

#: of what Newton's method may leave, what GMRES may; and of a residual, where that is more
PART, FORCING = 0.25, 1e-2
#: what may be left of an error estimate; and of a size, where that is asked for
ESTIMATE, ROUGHLY = 0.05, 0.1
#: residual of the solves for gradients, a power of the rounding unit of the right side; their cycles
EXACT, CYCLES = 0.8, 25


@dataclass(frozen=True)
class Shifted:
    """M = I - s J of each trajectory, J = df/dy at (t, z).

    t, s : as a step has times. z : a state. f : f(t, z) with the graph that leads to z, a leaf then; None: in compiled
    code, where f is evaluated with each product.
    """

    system: System
    t: Tensor
    z: Tensor
    s: Tensor
    f: Tensor | None

    @staticmethod
    def at(system: System, t: Tensor, z: Tensor, s: Tensor) -> tuple[Tensor, Shifted]:
        """f(t, z), with the graph to what else needs a gradient, and M."""
        if torch.compiler.is_compiling():
            return system.drift(t, z), Shifted(system, t, z, s, None)
        state = variable(z)
        with torch.enable_grad():
            f = system.drift(t, state)
        return kept((f,), z, state)[0], Shifted(system, t, state, s, f)

    def product(self, *, transposed: bool = False) -> Product:
        """v to M v or M^T v, both (batch, n)."""
        pushed = self._pulled if transposed else self._pushed()
        like = lambda v: v.reshape(self.z.shape)
        return lambda v: (like(v) - self.s * pushed(like(v))).reshape(v.shape)

    def _pushed(self) -> Product:
        """v to J v: the derivative by u of J^T u. Forward mode is for compiled code: eagerly it costs a millisecond for
        each number that f multiplies by (torch 2.13)."""
        if self.f is None:
            # tangents are written into the layout of what they belong to, in which expanded elements would overlap
            point, drift = self.z.contiguous(), lambda z: self.system.drift(self.t, z).clone()
            return lambda v: torch.func.jvp(drift, (point,), (v.contiguous(),))[1]
        with torch.enable_grad():
            u = torch.zeros_like(self.z, requires_grad=True)
            pulled = self._pulled(u, create_graph=True)
        if not pulled.requires_grad:
            return torch.zeros_like
        return lambda v: torch.autograd.grad(pulled, u, v, retain_graph=True)[0]

    def _pulled(self, v: Tensor, *, create_graph: bool = False) -> Tensor:
        """J^T v."""
        assert self.f is not None
        if not self.f.requires_grad:
            return torch.zeros_like(v)
        (found,) = torch.autograd.grad(
            self.f, self.z, v, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        return torch.zeros_like(v) if found is None else found

    def roughly(self, right: Tensor) -> tuple[Tensor, Tensor]:
        """M^-1 r, as far as one cycle leads, for its size; products that it took, (batch,)."""
        flat = right.reshape(-1, prod(self.system.spec.per_trajectory))
        found = gmres(self.product(), flat, torch.ones_like(flat), ROUGHLY * mean_square(flat))
        return found.x.reshape(right.shape), found.vectors


class Inverse(torch.autograd.Function):
    """M^-1 r, or M^-T r, for a state's tensor r and an M = I - s J that is held constant."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, matrix: Shifted, transposed: bool) -> Tensor:
        ctx.matrix, ctx.transposed = matrix, transposed
        flat = right.reshape(-1, prod(matrix.system.spec.per_trajectory))
        tolerance = torch.finfo(flat.dtype).eps ** EXACT * mean_square(flat)
        found = restarted(matrix.product(transposed=transposed), flat, torch.ones_like(flat), tolerance, CYCLES)
        if bool((flat.isfinite().all(1) & ~found.solved).any()):
            raise SolveError(
                f"GMRES did not solve the linear systems of gradients in {CYCLES} cycles of {VECTORS} vectors; write "
                "the method with linear='dense', or take shorter steps."
            )
        return found.x.reshape(right.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return Inverse.apply(grads[0], ctx.matrix, not ctx.transposed), None, None


class Correction(torch.autograd.Function):
    """M^-1 r for an r that is 0 but for what Newton's method has left: 0, with the derivatives of M^-1 r."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, matrix: Shifted) -> Tensor:
        ctx.matrix = matrix
        return torch.zeros_like(right)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return Inverse.apply(grads[0], ctx.matrix, True), None


@dataclass(frozen=True)
class NewtonKrylov(StageNewton):
    """Inexact Newton: each correction has the Jacobian of its own iterate. t : where the step begins, at ``safe``; s :
    gamma h."""

    t: Tensor
    s: Tensor

    def value(self, t: Tensor, a: Tensor, s: Tensor, k: Tensor, slow: Tensor) -> tuple[Tensor, Shifted]:
        return Shifted.at(self.system, t, a + s * k, s)

    def corrections(self, matrix: Shifted, right: Tensor, s: Tensor, last: Tensor) -> Corrections:
        flat, scale = self._flat(right), self._flat(self.scale.expand(right.shape))
        length = s.abs().reshape(-1).expand(len(flat))
        size = length * mean_square(flat / scale)
        forcing = torch.where(last.isinf(), FORCING, (size / last) ** 2).clamp(max=FORCING)
        # of a step of length 0 nothing matters: M = I, and one vector is the solution
        tolerance = torch.maximum(forcing * size, torch.full_like(size, PART * KAPPA)) / length
        found = gmres(matrix.product(), flat, scale, tolerance)
        return Corrections(found.x.reshape(right.shape), length * found.residual, found.vectors)

    def damped(self, error: Tensor) -> Damped:
        flat, scale = self._flat(error), self._flat(self.scale.expand(error.shape))
        product = Shifted.at(self.system, self.t, self.safe, self.s)[1].product()
        found = restarted(product, flat, scale, torch.full_like(flat[:, 0], ESTIMATE), self.iterations)
        return Damped(found.x.reshape(error.shape), ~found.solved, found.products + 1)

    def differentiable(self, t: Tensor, a: Tensor, s: Tensor, found: Slope) -> Slope:
        """By two corrections with M at the solution, of which only the derivatives are taken."""
        known = self.system.spec.expand(~found.failed)
        at = lambda k: torch.where(known, a + s * k, self.safe)
        _, matrix = Shifted.at(self.system, t.detach(), at(found.k).detach(), s.detach())
        k = found.k
        for _ in range(DIFFERENTIABLE):
            left = torch.where(known, k - self.system.drift(t, at(k)), 0.0)
            k = k - torch.where(known, Correction.apply(left, matrix), 0.0)
        return found._replace(k=k, evaluations=found.evaluations + DIFFERENTIABLE + 1)

    def _flat(self, x: Tensor) -> Tensor:
        """(batch, n)."""
        return x.reshape(-1, prod(self.system.spec.per_trajectory))
