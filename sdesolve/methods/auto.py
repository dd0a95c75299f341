"""A method that is two: an explicit Runge-Kutta method, and where steps would be short for the sake of its stability
alone, a Rosenbrock method. Each trajectory starts with the first, and changes by what its own steps show.

    explicit step :  rho = |k_s - k_s-1| / |g_s - g_s-1|     of the last two stages, both at the end of the step
    stiff step :     rho = max_i (|J| x)_i / x_i,  x = |J|^m 1

The first measures df/dy along what f does last, which near the bound of stability is the fastest direction (Shampine
1977, ACM Trans. Math. Softw. 3:44; Hairer & Wanner II, IV.2). The second bounds the spectral radius of J for any m,
closer for a larger one, whatever the units of the components (Collatz 1942, Math. Z. 48:221).

With L the length of the explicit method's interval of stability, steps with  h rho > 0.6 L  say that a problem is
stiff: 15 of them, between which there are not 6 others in a row, and the stiff method goes on (Hairer & Wanner II,
IV.2). Back it goes behind 5 steps in a row with  h rho < 0.2 L,  which the explicit method could have taken, for less
(Petzold 1983, SIAM J. Sci. Stat. Comput. 4:136).

Stability alone holds h rho at L. At tight tolerances what an explicit step makes of the fast directions costs accuracy
before it costs stability, and holds it lower: where f changes by less than  h rho |f| / 100  in a step, as on a smooth
solution that others are drawn to (from 1/8 of it upwards where nothing is stiff), steps say so from  0.05 L  on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.errors import message
from sdesolve.methods.explicit import TSIT5
from sdesolve.methods.method import Increments, Method, State, Step, Switches, plain_eager
from sdesolve.methods.newton import anyone
from sdesolve.methods.rosenbrock import Rosenbrock
from sdesolve.methods.rosenbrock_tableaus import RODAS5P
from sdesolve.methods.runge_kutta import RungeKutta
from sdesolve.system import System

Tensors = tuple[Tensor, ...]

#: of the interval of stability: from where on explicit steps are bound by it, and below which they would not be
BOUND, FREE = 0.6, 0.2
#: the first for those in which f changes so many times less than df/dy would let it
BOUND_OF_SLOW, SLOWER = 0.05, 100.0
#: steps that speak for the other method before it is taken, from the explicit one and back; steps in a row that speak
#: against it and have the count begin anew
STIFF, MILD = 15, 5
RESET, RESET_BACK = 6, 1
#: products with |J| for the bound on its spectral radius; times of switches that are kept
POWERS, KEPT = 4, 16

#: columns of what is remembered of a trajectory: whether the stiff method is on, steps that speak for the other one,
#: steps since the last of these, accepted steps by the stiff one, switches
_COLUMNS = 5


class Auto(Method):
    """An explicit method while that is the cheaper one, and a stiff one else, for each trajectory by itself.

    The cache holds f at the start of the step (for those with the explicit method on), what is remembered, and when the
    method changed. A step computes what someone needs: where trajectories differ both methods, of which the stiff one
    solves the linear systems of its own trajectories alone. Complex states, which Rosenbrock methods do not take, stay
    with the explicit one.

    Parameters
    ----------
    explicit : a Runge-Kutta method whose last two stages both stand at the end of the step, the last one as the first
        of the next. stiff : a Rosenbrock method with an error estimate of the same order.

    Raises
    ------
    ValueError : methods that do not go together.
    """

    problem, has_dense = "ode", True
    adaptive_only = reports_evaluations = True
    first_evaluations = 1
    source = "Hairer & Wanner II, IV.2; Petzold 1983, SIAM J. Sci. Stat. Comput. 4:136"

    def __init__(self, name: str = "auto", explicit: RungeKutta = TSIT5, stiff: Rosenbrock = RODAS5P) -> None:
        if not (explicit.last and explicit.tableau.c[-2] == 1):
            accepted = "a Runge-Kutta method with both last stages at the end of the step, as tsit5 or dopri5"
            raise ValueError(message("explicit", repr(explicit.name), accepted))
        if stiff.error_order != explicit.error_order:
            accepted = (
                f"a Rosenbrock method whose error estimate is of order {explicit.error_order}, as that of explicit"
            )
            raise ValueError(message("stiff", repr(stiff.name), accepted))
        self.name, self.explicit, self.stiff = name, explicit, stiff
        self.order, self.error_order = min(explicit.order, stiff.order), explicit.error_order
        self.drift_evaluations = explicit.drift_evaluations
        self.interval = explicit.tableau.stability_interval

    def init(self, system: System, t: Tensor, y: Tensor) -> Tensors:
        first = system.drift(t, y)
        if y.is_complex():
            return (first,)
        memory = torch.zeros((system.spec.batch, _COLUMNS), dtype=y.dtype, device=y.device)
        return first, memory, torch.full((system.spec.batch, KEPT), torch.nan, dtype=y.dtype, device=y.device)

    def renew(self, system: System, t: Tensor, state: State) -> Tensors:
        return system.drift(t, state.y), *state.cache[1:]

    def first_stage(self, cache: Tensors) -> Tensor | None:
        known = len(cache) == 1 or torch.compiler.is_compiling() or not anyone(cache[1][:, 0] > 0)
        return cache[0] if known else None

    def switches(self, system: System, state: State) -> Switches:
        names = self.explicit.name, self.stiff.name
        if len(state.cache) == 1:
            none = torch.zeros(system.spec.batch, dtype=torch.int64, device=state.y.device)
            return Switches(names, none > 0, none, none, torch.empty((0, *none.shape), device=none.device))
        stiff, _, _, steps, counts = state.cache[1].long().unbind(1)
        return Switches(names, stiff > 0, steps, counts, state.cache[2][:, : int(counts.max())].T)

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        if len(state.cache) == 1:
            step, each = self.explicit.step(system, state, inc, error=error, dense=dense), self._each(error, dense)[1]
            return step._replace(evaluations=torch.full((system.spec.batch,), each, device=state.y.device))
        first, memory, times = state.cache
        stiff = memory[:, 0] > 0
        taken = self._taken(_Asked(system, state.y, inc, error, dense), first, stiff)
        first, spent = taken.first, torch.where(stiff, *self._each(error, dense))
        product = taken.rho * inc.h.detach().abs().reshape(-1)
        compiling = torch.compiler.is_compiling()
        if compiling or anyone(stiff | (memory[:, 1] > 0) | self._other(stiff, product)):
            memory, switched = self._remembered(memory, stiff, product)
            if compiling or anyone(switched):
                now = (memory[:, 4:] == torch.arange(1, KEPT + 1, device=memory.device)) & switched[:, None]
                times = torch.where(now, inc.t1.detach().reshape(-1, 1), times)
                back = stiff & switched
                again = lambda: (torch.where(system.spec.expand(back), system.drift(inc.t1, taken.y), taken.first),)
                (first,), spent = _if_any(back, again, (first,)), spent + back
        return Step(State(taken.y, (first, memory, times)), taken.error, None, taken.dense, evaluations=spent)

    def _each(self, error: bool, dense: bool) -> tuple[int, int]:
        """Evaluations of f by a stiff step and by an explicit one."""
        count = lambda method: method.evaluations(error=error, dense=dense)
        return count(self.stiff), count(self.explicit)

    def _taken(self, asked: _Asked, first: Tensor, stiff: Tensor) -> _Taken:
        """The step of each trajectory, by the method that it is with: what nobody needs is not computed."""
        moving, mine = (asked.inc.h != 0).reshape(-1), asked.system.spec.expand(stiff)
        if not plain_eager():
            return self._masked(asked, first, mine, stiff & moving)
        lanes = (stiff & moving).nonzero()[:, 0]
        if not len(lanes):
            return self._explicit(asked, first)
        if len(lanes) == len(stiff):
            return self._stiff(asked)
        others = bool((~stiff & moving).any())
        taken = self._explicit(asked.resting(mine), first) if others else asked.nothing(first)
        return _put(taken, lanes, self._stiff(asked.part(lanes)))

    def _masked(self, asked: _Asked, first: Tensor, mine: Tensor, needed: Tensor) -> _Taken:
        """The same where no tensor can be looked at: in compiled code and under transforms of torch.func."""
        taken = self._explicit(asked.resting(mine), first)
        both = lambda: _merged(mine, self._stiff(asked.resting(~mine)), taken)
        if not torch.compiler.is_compiling():
            return both() if anyone(needed) else taken
        y, rho, following, *estimate = _if_any(needed, lambda: both().tensors(), taken.tensors())
        return _Taken(y, rho, following, estimate[0] if estimate else None)

    def _explicit(self, asked: _Asked, first: Tensor) -> _Taken:
        system, y, inc, error, dense = asked
        step, sums = self.explicit.with_sums(system, State(y, (first,)), inc, error=error, dense=dense)
        with torch.no_grad():
            change, distance = (_size(system, x) for x in (sums.stages[-1] - sums.stages[-2], sums.y1 - sums.before))
            rho = torch.where(distance > 0, change / distance, 0.0)
            last, moved = (_size(system, x) for x in (sums.stages[-1], sums.stages[-1] - first))
            slow = SLOWER * moved < rho * inc.h.abs().reshape(-1) * last
            weight = torch.where(slow, BOUND / BOUND_OF_SLOW, 1.0).to(rho.dtype)
        return _Taken(step.state.y, rho * weight, sums.stages[-1], step.error, step.dense)

    def _stiff(self, asked: _Asked) -> _Taken:
        system, y, inc, error, dense = asked
        step, jacobian = self.stiff.with_jacobian(system, State(y), inc, error=error, dense=dense)
        with torch.no_grad():
            rho = radius_bound(jacobian)
        return _Taken(step.state.y, rho, torch.zeros_like(y), step.error, step.dense)

    def _other(self, stiff: Tensor, product: Tensor) -> Tensor:
        """Whose step speaks for the other method, (batch,); product : h rho, weighted."""
        return torch.where(stiff, product < FREE * self.interval, product > BOUND * self.interval)

    def _remembered(self, memory: Tensor, stiff: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
        """What is remembered behind a step, and whose method changes, (batch,)."""
        _, streak, calm, steps, counts = memory.unbind(1)
        other = self._other(stiff, product)
        calm = torch.where(other | (streak == 0), 0.0, calm + 1)
        streak = torch.where(other, streak + 1, torch.where(calm < torch.where(stiff, RESET_BACK, RESET), streak, 0.0))
        switched = streak >= torch.where(stiff, MILD, STIFF)
        begun = [torch.where(switched, 0.0, x) for x in (streak, calm)]
        return torch.stack([(stiff ^ switched).to(steps.dtype), *begun, steps + stiff, counts + switched], 1), switched


class _Asked(NamedTuple):
    """What a step is asked for."""

    system: System
    y: Tensor
    inc: Increments
    error: bool
    dense: bool

    def resting(self, mask: Tensor) -> _Asked:
        """With a length of 0 where the mask, as wide as a state, is true."""
        t0, t1, h, *_ = self.inc
        t1 = torch.where(mask, t0, t1) if t0.ndim else t1
        return self._replace(inc=Increments(t0, t1, torch.where(mask, 0.0, h)))

    def part(self, lanes: Tensor) -> _Asked:
        """Of some of the trajectories."""
        pick = lambda x: x.index_select(0, lanes) if x.ndim else x
        inc = Increments(*map(pick, self.inc[:3]))
        return self._replace(system=_Part(self.system, lanes), y=pick(self.y), inc=inc)

    def nothing(self, first: Tensor) -> _Taken:
        """A step of length 0."""
        zero = torch.zeros_like(self.y)
        return _Taken(self.y, zero.new_zeros(len(zero)), first, zero if self.error else None)


class _Part(System):
    """Some of the trajectories of a system, as one of their own: the functions see the whole batch, in which the others
    stand with one of these. What is solved for each, linear systems, is solved for these alone."""

    def __init__(self, whole: System, lanes: Tensor) -> None:
        self.whole, self.lanes, self.spec = whole, lanes, whole.spec.resized(len(lanes))

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        return self.whole.drift(self._all(t), self._all(y)).index_select(0, self.lanes)

    @property
    def has_jacobian(self) -> bool:
        return self.whole.has_jacobian

    def jacobian(self, t: Tensor, y: Tensor) -> Tensor:
        return self.whole.jacobian(self._all(t), self._all(y)).index_select(0, self.lanes)

    def _all(self, x: Tensor) -> Tensor:
        if not x.ndim:
            return x
        others = x.detach()[:1].expand(self.whole.spec.batch, *x.shape[1:])
        return others.index_copy(0, self.lanes, x)


class _Taken(NamedTuple):
    """A step: the new state; rho, (batch,), of explicit steps weighted to be compared with one bound; the first stage
    of the next step (zeros where it is not known); the error and the dense output if they were asked for."""

    y: Tensor
    rho: Tensor
    first: Tensor
    error: Tensor | None = None
    dense: Tensors = ()

    def tensors(self) -> Tensors:
        """Without dense output, which compiled loops do not have."""
        return (self.y, self.rho, self.first, *(() if self.error is None else (self.error,)))


def _merged(mask: Tensor, a: _Taken, b: _Taken) -> _Taken:
    """The first where the mask, as wide as a state, is true."""
    error = None if a.error is None or b.error is None else torch.where(mask, a.error, b.error)
    dense = tuple(torch.where(mask, x, y) for x, y in zip(a.dense, b.dense, strict=True))
    rho = torch.where(mask.reshape(-1), a.rho, b.rho)
    return _Taken(torch.where(mask, a.y, b.y), rho, torch.where(mask, a.first, b.first), error, dense)


def _put(taken: _Taken, lanes: Tensor, part: _Taken) -> _Taken:
    """The step, with that of some of the trajectories in place."""
    put = lambda x, new: x.index_copy(0, lanes, new)
    error = None if taken.error is None or part.error is None else put(taken.error, part.error)
    dense = taken.dense or (torch.zeros_like(taken.y),) * len(part.dense)
    return _Taken(
        put(taken.y, part.y),
        put(taken.rho, part.rho),
        put(taken.first, part.first),
        error,
        tuple(map(put, dense, part.dense)),
    )


def _if_any(mask: Tensor, compute: Callable[[], Tensors], otherwise: Tensors) -> Tensors:
    """What is computed, if the mask is true anywhere; else the other tensors, of the same shapes."""
    if not torch.compiler.is_compiling():
        return compute() if anyone(mask) else otherwise
    # a loop of one round or none: behind a torch.cond the batch is a symbol of its own (torch 2.13)
    start = torch.zeros((), dtype=torch.int64, device=mask.device), *(x.clone() for x in otherwise)
    body = lambda n, *held: (n + 1, *(x.contiguous() for x in compute()))
    found: Tensors = while_loop(lambda n, *held: (n < 1) & mask.any(), body, start)
    return found[1:]


def _size(system: System, x: Tensor) -> Tensor:
    """Length of each trajectory's vector, (batch,)."""
    dims = system.spec.dims
    return torch.linalg.vector_norm(x, dim=dims).reshape(-1) if dims else x.abs()


def radius_bound(jacobian: Tensor) -> Tensor:
    """An upper bound of the spectral radius of each matrix, (batch, n, n) -> (batch,): Collatz's, of |J| x over x."""
    size = jacobian.abs()
    x, tiny = torch.ones_like(size[..., 0]), torch.finfo(size.dtype).tiny
    bound = x[:, 0]
    for _ in range(POWERS):
        # of sums over the last dimension each is the same in every batch, which products of matrices do not promise
        product = (size * x[:, None, :]).sum(-1)
        bound = torch.where(x > 0, product / x.clamp(min=tiny), 0.0).amax(1)
        x = product / product.amax(1, keepdim=True).clamp(min=tiny)
    return bound


AUTO = Auto()
