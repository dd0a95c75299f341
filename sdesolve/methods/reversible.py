"""Methods whose steps can be taken back algebraically, so that the way back needs no stored states.

Each carries a second state z beside y, with z_0 = y_0. Steps forwards and back agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sdesolve.errors import message
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.methods.runge_kutta import RungeKutta, Tableau, hermite
from sdesolve.methods.stratonovich_heun import StratonovichHeun
from sdesolve.system import System

Tensors = tuple[Tensor, ...]


class Pulled(Protocol):
    """Given a function and its argument: its value, and how gradients by the value become one by the argument."""

    def __call__(
        self, function: Callable[[Tensor], Tensors], x: Tensor
    ) -> tuple[Tensors, Callable[[Sequence[Tensor]], Tensor]]: ...


class Behind(NamedTuple):
    """Where the way back stands: the state, a loss's gradients by it and by its cache, and how gradients by values in
    the cache become one by z; None: not asked yet."""

    state: State
    gradient: State
    back: Callable[[Sequence[Tensor]], Tensor] | None = None


@dataclass(frozen=True)
class Taken:
    """Whose a step was: (batch,), or None for everyone's."""

    mask: Tensor | None
    batched: bool = True

    def choose(self, new: Tensor, old: Tensor) -> Tensor:
        """The new values of those, the old of the others."""
        return new if self.mask is None else torch.where(self._wide(self.mask, new), new, old)

    def alone(self, x: Tensor) -> Tensor:
        """The values of those, 0 for the others."""
        return x if self.mask is None else torch.where(self._wide(self.mask, x), x, 0.0)

    def _wide(self, mask: Tensor, x: Tensor) -> Tensor:
        return mask.reshape(-1, *(1,) * (x.ndim - 1)) if self.batched else mask[0]


class ReversibleMethod(Method):
    """Base of methods whose steps can be taken back. The cache begins with z.

    Where solutions are drawn together, y - z grows as they would be drawn together, so at a rate lambda by
    exp(lambda T) over a time T, whatever the steps: these methods are for equations that do not forget. No error
    estimate sees it, but a solve looks at the difference in the end.
    """

    def discrepancy(self, state: State) -> Tensor | None:
        return state.y - state.cache[0]

    def before(self, system: System, state: State, inc: Increments) -> State:
        """The state before a step, from that behind it."""
        raise NotImplementedError

    def undo(self, system: System, inc: Increments, at: Behind, taken: Taken, pull: Pulled) -> Behind:
        """From behind a step to before it, with the gradients of both."""
        raise NotImplementedError


class ReversibleHeun(ReversibleMethod):
    """z_1 = 2 y - z + f(t, z) h + g(t, z) dW,
    y_1 = y + 1/2 (f(t, z) + f(t_1, z_1)) h + 1/2 (g(t, z) + g(t_1, z_1)) dW.

    One evaluation a step, at the z of its end. ODE: order 2. SDE (Stratonovich): strong order 1/2, 1 for commutative
    noise (as measured; the source shows it for additive noise). The error is the difference to y + f(t, z) h +
    g(t, z) dW. Its linear stability is the imaginary interval [-i, i] alone: z swings about y, and away from it where
    solutions are drawn together fast.
    """

    name = "reversible_heun"
    first_evaluations = drift_evaluations = 1
    source = "Kidger, Foster, Li & Lyons 2021, arXiv:2105.13493, algorithms 1 and 2"

    def __init__(self, problem: str) -> None:
        self.problem = problem
        if problem == "ode":
            self.order, self.error_order, self.has_dense, self.dense_evaluations = 2, 2, True, 2
            return
        self.order, self.order_commutative, self.order_additive, self.error_order = 0.5, 1.0, 1.0, 1.0
        self.calculus, self.noise = ("stratonovich",), ("diagonal", "scalar", "general")
        self.diffusion_evaluations = 1

    def init(self, system: System, t: Tensor, y: Tensor) -> Tensors:
        return (y, *fields_at(system, t, y))

    def first_stage(self, cache: Tensors) -> Tensor | None:
        return cache[1]

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, (z, *fields) = state.y, state.cache
        change = change_by(system, inc, fields)
        z1 = torch.add(change - z, y, alpha=2)
        fields1 = fields_at(system, inc.t1, z1)
        change1 = change_by(system, inc, fields1)
        y1 = torch.add(y, change + change1, alpha=0.5)
        powers = _powers(system, inc, y, y1) if dense else ()
        return Step(State(y1, (z1, *fields1)), 0.5 * (change1 - change) if error else None, None, powers)

    def before(self, system: System, state: State, inc: Increments) -> State:
        y1, (z1, *fields1) = state.y, state.cache
        change1 = change_by(system, inc, fields1)
        z = y1 - change1 - z1 + y1
        fields = fields_at(system, inc.t0, z)
        return State(torch.sub(y1, change_by(system, inc, fields) + change1, alpha=0.5), (z, *fields))

    def undo(self, system: System, inc: Increments, at: Behind, taken: Taken, pull: Pulled) -> Behind:
        y1, (z1, *fields1) = at.state.y, at.state.cache
        a, (b, *slopes) = at.gradient.y, at.gradient.cache
        back = at.back or pull(lambda z: fields_at(system, inc.t1, z), z1)[1]
        # y_1 reads the fields at z_1, which then hand on what they have got to z_1
        half = 0.5 * a
        slopes = [s + taken.alone(x) for s, x in zip(slopes, fields_pull(system, inc, half), strict=True)]
        b = b + taken.alone(back([taken.alone(s) for s in slopes]))

        change1 = change_by(system, inc, fields1)
        z = taken.choose(torch.sub(y1 - change1, z1).add_(y1), z1)
        fields, back = pull(lambda z: fields_at(system, inc.t0, z), z)
        y = taken.choose(torch.sub(y1, change_by(system, inc, fields).add_(change1), alpha=0.5), y1)
        slopes = [taken.choose(x, s) for x, s in zip(fields_pull(system, inc, half + b), slopes, strict=True)]
        gradient = State(taken.choose(torch.add(a, b, alpha=2), a), (taken.choose(-b, b), *slopes))
        return Behind(State(y, (z, *fields)), gradient, back)


def fields_at(system: System, t: Tensor, z: Tensor) -> Tensors:
    """f and, of an SDE, g."""
    f = system.drift(t, z)
    return (f, system.diffusion_in_full(t, z)) if system.is_sde else (f,)


def change_by(system: System, inc: Increments, fields: Sequence[Tensor]) -> Tensor:
    """f h + g dW."""
    if len(fields) == 1:
        return inc.h * fields[0]
    assert inc.w is not None
    return torch.addcmul(system.noise_term(fields[1], inc.w), fields[0], inc.h)


def fields_pull(system: System, inc: Increments, a: Tensor) -> list[Tensor]:
    """Gradients by f and g from that by f h + g dW."""
    return [inc.h * a] if inc.w is None else [inc.h * a, system.noise_pull(a, inc.w)]


class Coupled(ReversibleMethod):
    """Any one-step method, y -> y + Psi_h(t, y), made reversible by coupling two of its solutions.

    y_1 = c y + (1 - c) z + Psi_h(t, z),      z_1 = z - Psi_-h(t_1, y_1)

    with the order of the method (McCallum & Foster 2024, arXiv:2410.11648, (5)-(6) and theorem 2.1). Steps of an SDE
    take back their dW as well, which the Stratonovich integral allows.

    Parameters
    ----------
    method : of explicit Runge-Kutta type for an ODE, or ``"heun"`` for a Stratonovich SDE.
    coupling : c, 0 < c <= 1. y and z draw together by 1 - c a step, and apart where solutions are drawn together by
        more than that a step; rounding errors of the way back grow by 1/c a step. For equations that forget fast, c
        of 0.9 or less is stable, at steps of 1 - c over the rate.

    Examples
    --------
    >>> from sdesolve.methods import METHODS, Coupled
    >>> Coupled(METHODS["ode", "tsit5"], 0.99).order
    5
    """

    def __init__(self, method: Method, coupling: float = 0.999) -> None:
        if not isinstance(method, Method):
            accepted = "a method object such as ss.methods.METHODS['ode', 'rk4']"
            raise TypeError(message("method", repr(method), accepted))
        if not able(method):
            accepted = "an explicit Runge-Kutta method, or 'heun' for a Stratonovich SDE"
            raise ValueError(message("method", f"{method.name!r} to be made reversible", accepted))
        self.inner, self.coupling = method, check_coupling(coupling)
        self.name, self.problem = f"reversible {method.name}", method.problem
        for fact in ("order", "order_commutative", "order_additive", "weak_order", "weak_order_additive"):
            setattr(self, fact, getattr(method, fact))
        self.error_order, self.calculus, self.noise = method.error_order, method.calculus, method.noise
        self.source = f"{method.source}; McCallum & Foster 2024, arXiv:2410.11648"
        self.bare = method
        if isinstance(method, RungeKutta) and method.last:
            # the last stage stands at the step's end, where no step will start
            tab = method.tableau
            self.bare = RungeKutta(method.name, int(method.order), Tableau(tab.a[:-1], tab.b[:-1], tab.c[:-1]), "")
        self.drift_evaluations = 2 * self.bare.drift_evaluations
        self.diffusion_evaluations = 2 * self.bare.diffusion_evaluations
        self.error_drift_evaluations = method.error_drift_evaluations + (self.bare is not method)
        self.has_dense = method.has_dense

    def evaluations(self, *, dense: bool = False, error: bool = False) -> int:
        # the step from z is the method's own where its error or dense output is wanted
        own = self.inner if dense or error else self.bare
        first = own.first_evaluations if own is self.inner else 0
        return own.evaluations(dense=dense, error=error) + first + self.bare.drift_evaluations

    def init(self, system: System, t: Tensor, y: Tensor) -> Tensors:
        return (y,)

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, (z,) = state.y, state.cache
        inner = (self.inner if error or dense else self.bare).step(system, State(z), inc, error=error, dense=dense)
        y1 = torch.lerp(z, y, self.coupling) + (inner.state.y - z)
        after = State(y1, (z - self._change(system, _reversed(inc), y1),))
        if not dense:
            return Step(after, inner.error, coarse=inner.coarse)
        # y moves as the method does from z, and towards z
        first, *powers = inner.dense
        powers = [torch.add(first, z - y, alpha=1 - self.coupling), *powers]
        return Step(after, inner.error, None, tuple(powers), inner.coarse)

    def before(self, system: System, state: State, inc: Increments) -> State:
        y1, (z1,), c = state.y, state.cache, self.coupling
        z = z1 + self._change(system, _reversed(inc), y1)
        return State(torch.add(y1 - self._change(system, inc, z), z, alpha=c - 1) / c, (z,))

    def undo(self, system: System, inc: Increments, at: Behind, taken: Taken, pull: Pulled) -> Behind:
        y1, (z1,), c = at.state.y, at.state.cache, self.coupling
        a, (b,) = at.gradient.y, at.gradient.cache
        (change,), back = pull(lambda y: (self._change(system, _reversed(inc), y),), y1)
        z = taken.choose(z1 + change, z1)
        a = a + back((taken.alone(-b),))
        (change,), back = pull(lambda z: (self._change(system, inc, z),), z)
        y = taken.choose(torch.add(y1 - change, z, alpha=c - 1) / c, y1)
        passed = taken.alone(a)
        b = torch.add(b, passed, alpha=1 - c) + back((passed,))
        return Behind(State(y, (z,)), State(taken.choose(c * a, a), (b,)))

    def _change(self, system: System, inc: Increments, y: Tensor) -> Tensor:
        """Psi_h(t, y)."""
        return self.bare.step(system, State(y), inc).state.y - y


def _powers(system: System, inc: Increments, y: Tensor, y1: Tensor) -> Tensors:
    """Dense output by slopes at y, which no stage is evaluated at."""
    return hermite(y, y1, inc.h * system.drift(inc.t0, y), inc.h * system.drift(inc.t1, y1))


def able(method: Method) -> bool:
    """Whether a method can be coupled to itself."""
    return isinstance(method, (RungeKutta, StratonovichHeun))


def _reversed(inc: Increments) -> Increments:
    """The step from its end to its start."""
    return Increments(inc.t1, inc.t0, -inc.h, None if inc.w is None else -inc.w)


def check_coupling(coupling: Any) -> float:
    """A number above 0 and not above 1."""
    if isinstance(coupling, bool) or not isinstance(coupling, (int, float)):
        raise TypeError(message("coupling", repr(coupling), "a number, 0 < coupling <= 1"))
    if not 0 < coupling <= 1:
        raise ValueError(message("coupling", coupling, "0 < coupling <= 1"))
    return float(coupling)


REVERSIBLE = (ReversibleHeun("ode"), ReversibleHeun("sde"))
