"""Newton's method for implicit steps, a system for each trajectory:

    z = a + s f(t, z),      s = h gamma;       z <- z - M^-1 (z - a - s f(t, z)),      M = I - s df/dy(t, z)

A number of corrections is fixed, and no graph is kept of them. Two more have the derivatives of the solution, with M
held constant. The first one starts from a constant z, and has those of the implicit function theorem,

    dz = M^-1 (da + f ds + s (df/dt dt + df/dp dp));

each such correction is right in one derivative more than what it starts from, so the second one has second derivatives.

`root` takes a Jacobian at each correction. `StageNewton`, for the stages of one step, measures the rate at which its
corrections shrink, and stops by it (Hairer & Wanner II, IV.8). Its `Chord`, simplified Newton, has one M for all of
them; `newton_krylov.NewtonKrylov` has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.errors import message
from sdesolve.methods.jacobian import value_and_jacobian
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

    z : the solution, of the state's shape; the guess where the iteration did not converge, NaN where f was not finite
    at the guess, and a where that is not. change : z - a = s f(t, z), 0 where there is none. failed : (batch,) a and f
    were finite, but the iteration did not converge. linear : M at z, held constant.
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
    check_state(a)
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
    undefined = ~(done | f.detach().expand_as(z).reshape(len(done), -1).isfinite().all(1))
    linear = Linear.of(_safe(_matrix(jacobian, size), done))
    moved = a - base  # 0, with the derivatives of a
    # where nothing was found the guess stands, which may be no root: nothing of it may reach a gradient
    residual = torch.where(known, change - moved - s * f, 0.0)
    change = torch.where(known, change - moved - linear.solve(residual), 0.0)
    f = system.drift(t, torch.where(known, base + moved + change, first))
    change = change - linear.solve(torch.where(known, change - s * f, 0.0))
    finite = scale.isfinite()
    rest = torch.where(spec.expand(finite), torch.where(spec.expand(undefined), torch.nan, first), base)
    return Root(torch.where(known, base + moved + change, rest), change, finite & ~done & ~undefined, linear)


class Slope(NamedTuple):
    """What `StageNewton` found.

    k : f(t, a + s k), of the state's shape; the last finite iterate where it failed. factor : (batch,) the last
    correction times this estimates the error that is left. rate : (batch,) the largest at which corrections shrank so
    far. failed : (batch,). evaluations : (batch,) of f so far. undefined : (batch,) failed as f was not finite at a
    guess; what it is at later iterates, which may run away, is no fault of f.
    """

    k: Tensor
    factor: Tensor
    rate: Tensor
    failed: Tensor
    evaluations: Tensor
    undefined: Tensor


#: of the error that matters, what a stage may leave; where nothing is controlled, corrections that shrink to less than
#: this part have Jacobians of their own
KAPPA, SLOW = 0.02, 0.2


class Corrections(NamedTuple):
    """M^-1 r, of the state's shape; of an iteration that finds it, what it has left of s r, over the scale, and the
    evaluations of f that it took, (batch,)."""

    change: Tensor
    left: Tensor | None = None
    evaluations: Tensor | None = None


class Damped(NamedTuple):
    """M^-1 e of an error estimate e; who has none, (batch,); evaluations of f that it took."""

    error: Tensor
    failed: Tensor | None = None
    evaluations: Tensor | int = 0


@dataclass(frozen=True)
class StageNewton:
    """Newton's method for the stages of a step,  k <- k - M^-1 (k - f(t, a + s k)),  M = I - s J.

    The m-th correction moves a + s k by d_m; |d| is the root mean square of d / scale over a trajectory's elements, and
    theta = |d_m| / |d_m-1|. It is the last one where  theta / (1 - theta) |d_m| <= KAPPA  (Hairer & Wanner II,
    (IV.8.10); the factor counts as 1 where it is larger). With the first correction stands the factor of the stage
    before to the power 0.8. A trajectory that is done, or has failed, changes no more.

    controlled : the scale is that of an error control. The iteration then fails where theta >= 1, or where the
    corrections that are left will not do (IV.8.11), as a shorter step is cheaper; and the solution is the same whether
    or not derivatives are wanted. Otherwise it fails where more than eps^-0.3 KAPPA is left in the end.
    scale : of the state's shape. safe : a state to evaluate f at instead of one that failed. iterations : at most.
    """

    system: System
    scale: Tensor
    safe: Tensor
    iterations: int
    controlled: bool

    def value(self, t: Tensor, a: Tensor, s: Tensor, k: Tensor, slow: Tensor) -> tuple[Tensor, Any]:
        """f(t, a + s k), and M in a form that `corrections` reads. slow : who shrinks corrections too little."""
        raise NotImplementedError

    def corrections(self, matrix: Any, right: Tensor, s: Tensor, last: Tensor) -> Corrections:
        """M^-1 times the residual. last : (batch,) |d| of the correction before, infinite before the first."""
        raise NotImplementedError

    def damped(self, error: Tensor) -> Damped:
        """What is stiff in an error is damped as in the step, by M at its start."""
        raise NotImplementedError

    def differentiable(self, t: Tensor, a: Tensor, s: Tensor, found: Slope) -> Slope:
        """The same with first and second derivatives."""
        raise NotImplementedError

    def __call__(self, t: Tensor, a: Tensor, s: Tensor, guess: Tensor, before: Slope) -> Slope:
        """k = f(t, a + s k) near a guess, behind another stage."""
        time, base, size = (x.detach() for x in (t, a, s))
        compiling, graph = torch.compiler.is_compiling(), torch.is_grad_enabled()
        # compiled steps that differentiate f themselves have no derivatives
        wanted = not compiling and (not plain_eager() or (graph and any(x.requires_grad for x in (t, a, s))))
        with torch.no_grad():
            infinite = torch.full_like(before.factor, torch.inf)
            held: tuple[Tensor, ...]
            held = guess.detach(), infinite, infinite, before.factor, before.rate, ~before.failed, *before[3:]
            value = lambda held: self.value(time, base, size, held[0], held[5] & (held[4] > SLOW))
            if compiling:
                start = torch.zeros((), dtype=torch.int64, device=a.device), *(x.clone() for x in held)
                more = lambda n, *held: (n < self.iterations) & held[5].any()
                body = lambda n, *held: (n + 1, *self._correct(n, *value(held), size, *held))
                held = tuple(while_loop(more, body, start))[1:]
            else:
                for n in range(self.iterations):
                    if not anyone(held[5]):
                        break
                    # any evaluation shows whether f reads tensors of which derivatives are wanted
                    with torch.set_grad_enabled(graph and n == 0):
                        f, matrix = value(held)
                    wanted = wanted or f.requires_grad
                    held = self._correct(n, f.detach(), matrix, size, *held)
            k, _, left, factor, rate, going, failed, count, undefined = held
            close = left <= (0.0 if self.controlled else KAPPA * torch.finfo(k.dtype).eps ** -0.3)
            found = Slope(k, factor, rate, failed | (going & ~close), count, undefined)
        return self.differentiable(t, a, s, found) if wanted else found

    def _correct(
        self,
        n: int | Tensor,
        f: Tensor,
        matrix: Any,
        s: Tensor,
        k: Tensor,
        last: Tensor,
        left: Tensor,
        factor: Tensor,
        rate: Tensor,
        going: Tensor,
        failed: Tensor,
        count: Tensor,
        undefined: Tensor,
    ) -> tuple[Tensor, ...]:
        """Of those that are going: k, |d|, what may be left, factor and rate behind the next correction; who is going
        on, who has failed, evaluations, and where f was not finite."""
        spec, limits = self.system.spec, torch.finfo(k.dtype)
        residual = k - f
        good = defined = residual.reshape(len(going), -1).isfinite().all(1)
        change, rest, spent = self.corrections(matrix, torch.where(spec.expand(going & good), residual, 0.0), s, last)
        norm = _mean_square(self.system, s * change / self.scale)
        good = good & norm.isfinite()
        first = last.isinf()
        theta = torch.where(first, 0.0, norm / last)
        amplified = torch.where(theta < 1, theta / (1 - theta), torch.inf)
        bounded = torch.where(first, factor**0.8, amplified).clamp(limits.eps, 1.0)
        remaining = norm * bounded if rest is None else norm * bounded + rest
        close, lost = good & (remaining <= KAPPA), ~good
        if self.controlled:
            hoped = theta ** (self.iterations - 1 - n) * amplified * norm
            lost = lost | (~close & ~(hoped <= KAPPA))
        moved = going & good
        return (
            torch.where(spec.expand(moved), k - change, k),
            torch.where(moved, norm.clamp(min=limits.tiny), last),
            torch.where(moved, remaining, left),
            torch.where(moved, bounded, factor),
            torch.where(moved, torch.maximum(rate, theta), rate),
            going & ~close & ~lost,
            failed | (going & lost),
            count + going if spent is None else count + going + spent,
            undefined | (going & first & ~defined),
        )


@dataclass(frozen=True)
class Chord(StageNewton):
    """Simplified Newton: one M for all stages, factorized. Where nothing is controlled, each correction has a Jacobian
    of its own as soon as one has shrunk too little.

    jacobian, linear : J and M.
    """

    jacobian: Tensor
    linear: Linear

    def value(self, t: Tensor, a: Tensor, s: Tensor, k: Tensor, slow: Tensor) -> tuple[Tensor, Linear]:
        """f, and M with new Jacobians for those that are slow."""
        if self.controlled or not (torch.compiler.is_compiling() or anyone(slow)):
            return self.system.drift(t, a + s * k), self.linear
        f, jacobian = value_and_jacobian(self.system, t, a + s * k)
        return f, linear_of(torch.where(slow[:, None, None], jacobian, self.jacobian), s)

    def corrections(self, matrix: Linear, right: Tensor, s: Tensor, last: Tensor) -> Corrections:
        return Corrections(matrix.solve(right))

    def damped(self, error: Tensor) -> Damped:
        return Damped(self.linear.solve(error))

    def differentiable(self, t: Tensor, a: Tensor, s: Tensor, found: Slope) -> Slope:
        """By two corrections with M at the solution."""
        known = self.system.spec.expand(~found.failed)
        at = lambda k: torch.where(known, a + s * k, self.safe)
        f, jacobian = value_and_jacobian(self.system, t, at(found.k))
        linear = Linear.of(_safe(_matrix(jacobian, s.detach()), ~found.failed))
        k = found.k - linear.solve(torch.where(known, found.k - f, 0.0))
        f = self.system.drift(t, at(k))
        k = k - linear.solve(torch.where(known, k - f, 0.0))
        if self.controlled:
            k = found.k + (k - k.detach())
        return found._replace(k=k, evaluations=found.evaluations + DIFFERENTIABLE)


def anyone(mask: Tensor) -> bool:
    """Whether it is true anywhere, on the host; under transforms of torch.func too."""
    while torch._C._functorch.is_functorch_wrapped_tensor(mask):
        mask = torch._C._functorch.get_unwrapped(mask)
    return bool(mask.any())


def before_stages(factor: Tensor, evaluations: Tensor) -> Slope:
    """What the first stage of a step stands behind."""
    zero = torch.zeros_like(factor)
    return Slope(zero, factor, zero, zero > 0, evaluations, zero > 0)


def linear_of(jacobian: Tensor, s: Tensor) -> Linear:
    """I - s J, by its factors; the identity where it is not finite."""
    return factorized(jacobian, s)[0]


def size_of(system: System, x: Tensor) -> Tensor:
    """The largest element of each trajectory, to be broadcast against a state."""
    return system.spec.expand(_largest(system, x))


def check_state(y: Tensor) -> None:
    """Linear systems are real, and have at least one row."""
    if not y.numel():
        got, advice = f"shape {tuple(y.shape)}, without an element", "An explicit method takes it."
        raise ValueError(message("y0", got, "at least one element a trajectory with an implicit method", advice))
    if y.is_complex():
        raise ValueError(
            message(
                "y0",
                f"dtype {y.dtype}",
                "float32 or float64 with an implicit method",
                "Hold real and imaginary parts as components of a real state.",
            )
        )


def factorized(jacobian: Tensor, s: Tensor) -> tuple[Linear, Tensor]:
    """M = I - s J by its factors, and whose is finite, (batch,); the others have the identity instead."""
    matrix = _matrix(jacobian, s)
    good = matrix.isfinite().flatten(1).all(1)
    return Linear.of(_safe(matrix, good)), good


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


def _mean_square(system: System, x: Tensor) -> Tensor:
    """Root of the mean square of each trajectory, (batch,)."""
    n = prod(system.spec.per_trajectory)
    return torch.linalg.vector_norm(x.reshape(-1, n), dim=1) * n**-0.5
