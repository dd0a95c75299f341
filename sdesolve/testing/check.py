"""check_problem: what a solver relies on and cannot see in the numbers of a solve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sdesolve.capture import captured, refuse_training
from sdesolve.errors import CoupledTrajectoriesError, FunctionError, message
from sdesolve.problem import Problem
from sdesolve.request import check_problem_type, refuse_complex_noise
from sdesolve.semilinear import Semilinear
from sdesolve.split import SplitODE
from sdesolve.state import state_spec
from sdesolve.system import System
from sdesolve.testing.commutators import not_commutative
from sdesolve.testing.functions import Function, Functions
from sdesolve.testing.jacobians import wrong_jacobian
from sdesolve.testing.moves import KINDS, SIZES, Mover, distance
from sdesolve.testing.places import component, where
from sdesolve.testing.promises import Look, not_additive, not_diagonal, read_other_times, read_other_trajectories

Fault = FunctionError | CoupledTrajectoriesError


def check_problem(
    problem: Problem,
    y0: Any,
    t: float | Sequence[float] | Tensor = (0.0, 1.0),
    *,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Check a problem at ``y0`` and at states near it, at the times ``t`` and at one between them.

    - The functions return finite numbers of the right shape and dtype, leave their arguments alone, give the same
      values when asked again, and do not let trajectories read each other, nor each other's times.
    - ``noise="diagonal"``: component i of the diffusion depends on component i of y alone.
    - ``additive=True``: the diffusion does not depend on y.
    - ``commutative=True``: sum_i g_ij dg_kl/dy_i = sum_i g_il dg_kj/dy_i for all columns j and l.
    - ``jacobian=`` of an ODE is df/dy, as far as central differences can tell.

    The three before the last are promises: solves rely on them, and lose their order of convergence where they are
    false. To find a dependence, the rest of the state is moved, and what must not change is compared; every pair of
    components and every pair of trajectories is told apart so. Commutators of the columns take derivatives, in forward
    mode where the diffusion has them, else central differences. States at which a function raises, or gives NaN or
    infinity, are passed over, except y0 itself.

    Parameters
    ----------
    problem : an :class:`ODE`, :class:`SDE`, :class:`SplitODE` (each part by itself), :class:`Semilinear`,
        :class:`Langevin` or :class:`Hamiltonian`.
    y0 : a state, as for ``solve``. Several trajectories that differ are several places to look at.
    t : one time, or times to look at; of two or more, a time between the first and the last is added.
    tolerance : changes below it, relative to the number that changes, are rounding. Default: 16 rounding units of y0's
        dtype; for commutators, their power of 3/4.
    seed : of the states and moves.

    Raises
    ------
    FunctionError : what was found, where, and what to write instead; if several promises are broken, all of them.
    CoupledTrajectoriesError : trajectories read each other, and nothing else was found.
    TrainingModeError : as in ``solve``. (These three are ValueErrors.)
    ValueError, TypeError : an argument that makes no sense.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> ss.testing.check_problem(ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y), torch.ones(1, 2))
    >>> try:
    ...     ss.testing.check_problem(ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y.flip(-1)), torch.ones(1, 2))
    ... except ValueError as error:
    ...     print(str(error)[:75])
    diffusion: component (0,) of trajectory 0 changes with component (1,) of y
    """
    given = check_problem_type(problem)
    faults: list[Fault] = []
    for part in given.parts if isinstance(given, SplitODE) else (given,):
        check = _Check(part, y0, _times(t), _tolerance(tolerance), seed)
        check.run()
        faults += check.faults.values()
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise FunctionError("\n".join([f"problem: {len(faults)} faults.", *(f"- {fault}" for fault in faults)]))


def _times(t: Any) -> list[float]:
    if isinstance(t, Tensor):
        t = t.tolist()
    found = [t] if isinstance(t, Real) else t
    accepted = "a finite time, or a sequence of them"
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(x, Real) for x in found):
        raise TypeError(message("t", repr(t), accepted))
    times = [float(x) for x in found]
    if not times or not all(map(math.isfinite, times)):
        raise ValueError(message("t", repr(t), accepted))
    return times if len(times) == 1 else [*times, times[0] + 0.382 * (times[-1] - times[0])]


def _tolerance(tolerance: Any) -> float | None:
    if tolerance is not None and not (isinstance(tolerance, Real) and 0 < float(tolerance) < 1):
        raise ValueError(message("tolerance", repr(tolerance), "None, or a number between 0 and 1"))
    return None if tolerance is None else float(tolerance)


class _Check:
    """All that is looked at in one problem; ``faults`` holds the first fault of each kind."""

    def __init__(self, problem: Any, y0: Any, times: list[float], tolerance: float | None, seed: int) -> None:
        if not problem.allow_training:
            refuse_training(captured(problem).modules)
        self.spec, y = state_spec(y0, problem.batched)
        problem.check_state(self.spec)
        self.system, self.y, self.times = System(problem, self.spec), y.detach(), times
        refuse_complex_noise(self.system)
        if not bool(torch.isfinite(self.y).all()):
            raise ValueError(message("y0", "NaN or infinity", "finite numbers"))
        unit = torch.finfo(self.spec.dtype).eps
        self.tolerance = 16 * unit if tolerance is None else tolerance
        self.commutator_tolerance = unit**0.75 if tolerance is None else tolerance
        self.functions, self.mover = Functions(self.system, seed), Mover(seed)
        self.faults: dict[tuple[str, str], Fault] = {}

    def run(self) -> None:
        """Look everywhere, less at what is known to be wrong."""
        for time in self.times:
            for function in self._functions(time):
                try:
                    self._look_around(function)
                except FunctionError as fault:
                    self._fault(function.name, "value", fault)
        for name in self.system.names:
            if not any(fault[0] == name for fault in self.faults):
                self._fault(name, "times", read_other_times(self.functions, name, self.y, self.times, self.spec))
        if self.system.has_jacobian and not self.faults:
            for time in self.times:
                self._fault("jacobian", "value", wrong_jacobian(self.system, self._functions(time), self.y))

    def _look_around(self, function: Function) -> None:
        value = self._value(function)
        if value is not None:
            for kind, y in self._states(function):
                self._look(function, y, kind)
            self._repeats(function, value)

    def _functions(self, time: float) -> Iterator[Function]:
        for name in self.system.names:
            if (name, "value") not in self.faults:
                yield self.functions.readable(name, time, self.y)

    def _fault(self, name: str, kind: str, fault: Fault | None) -> None:
        if fault is not None:
            self.faults.setdefault((name, kind), fault)

    def _value(self, function: Function) -> Tensor | None:
        """The value at y0, if it can be relied on."""
        name = function.name
        value = function.call(self.y)
        if not bool(torch.isfinite(value).all()):
            wrong = component(
                self.spec, tuple((~torch.isfinite(value)).nonzero()[0].tolist()), name != self.system.names[0]
            )
            text = (
                f"{self._culprit(function)}: returned NaN or infinity at y0 in {wrong}, {where(function)}; accepted: "
                "finite numbers."
            )
            self._fault(name, "value", FunctionError(text))
            return None
        return value if self._repeats(function, value) else None

    def _culprit(self, function: Function) -> str:
        """What is not finite: of a semilinear problem, A or f."""
        system, name = self.system, function.name
        if not isinstance(system.problem, Semilinear) or name != system.names[0]:
            return name
        t = torch.as_tensor(function.time, dtype=self.spec.time_dtype, device=self.spec.device)
        return name if bool(torch.isfinite(system.coefficient("A", t)).all()) else "A"

    def _repeats(self, function: Function, value: Tensor) -> bool:
        """Whether the function gives at y0 what it gave before."""
        if value.numel() == 0:
            return True
        size = value.abs()
        away = distance(value, function.call(self.y))
        if not bool((away > self.commutator_tolerance * size + self.tolerance * size.max()).any()):
            return True
        text = (
            f"{function.name}: two evaluations at the same t and y differ, {where(function)}; accepted is a function "
            "of (t, y). Does it draw random numbers, or keep state between calls?"
        )
        advice = "" if self.system.is_sde else " For noise write an SDE."
        self._fault(function.name, "value", FunctionError(text + advice))
        return False

    def _states(self, function: Function) -> Iterator[tuple[str, Tensor]]:
        """y0, and states near it without its symmetries and zeros; and how to move from there."""
        yield "relative", self.y
        for kind, move in zip(KINDS[::2], KINDS[1:], strict=True):
            for size in SIZES:
                near = self.mover.near(self.y, kind, size)
                value = function.tried(near)
                if value is not None and bool(torch.isfinite(value).any()):
                    yield move, near
                    break

    def _look(self, function: Function, y: Tensor, kind: str) -> None:
        value = function.tried(y)
        if value is None or y.numel() == 0:
            return
        name, system = function.name, self.system
        look = Look(function, y, value, kind, self.mover, self.tolerance, self.spec)
        if (name, "batch") not in self.faults:
            self._fault(name, "batch", read_other_trajectories(look))
        if name == system.names[0] or (name, "promise") in self.faults:
            return
        if system.additive:
            self._fault(name, "promise", not_additive(look))
        elif system.noise == "diagonal":
            self._fault(name, "promise", not_diagonal(look))
        elif system.noise == "general" and getattr(system.problem, "commutative", False):
            tolerance = self.commutator_tolerance
            self._fault(name, "promise", not_commutative(function, y, value, tolerance, self.mover, self.spec))
