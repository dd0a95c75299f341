"""What a method is: facts about itself, and one step as a pure function of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.system import System


class State(NamedTuple):
    """What a step starts from: the state y and what the method keeps between steps (a stage, a Jacobian), or ().

    evaluations : (batch,) of the drift up to here, where loops of fixed steps add up what steps report.
    """

    y: Tensor
    cache: tuple[Tensor, ...] = ()
    evaluations: Tensor | None = None


class Increments(NamedTuple):
    """One step: times t0 and t1, their difference h (signed), and the Brownian increments over it.

    Times are 0-d, or ``(batch, 1, ..., 1)``. ``w`` is W(t1) - W(t0), ``(batch, *noise)``; where a method asks for them
    with its ``levy``, ``H`` and ``K`` are the space-time and space-time-time Levy areas, of the same shape, and
    ``area`` the Levy areas between channels, ``(batch, m, m)`` (see :class:`sdesolve.brownian.levy.Increment`).
    """

    t0: Tensor
    t1: Tensor
    h: Tensor
    w: Tensor | None = None
    H: Tensor | None = None
    K: Tensor | None = None
    area: Tensor | None = None

    def at(self, c: float) -> Tensor:
        """t0 + c h, between t0 and t1 as rounded, which h is not: nothing is evaluated past the last output time."""
        return self.t1 if c == 1 else self.t0 if c == 0 else torch.lerp(self.t0, self.t1, c)


class Step(NamedTuple):
    """What a step gives.

    ``error`` has y's shape, None where it was not asked for; ``failed`` is a boolean a trajectory, True where the step
    could not be computed (an iteration that did not converge), None where that cannot happen; ``dense`` are tensors
    c_1, ..., c_p such that  y(t0 + theta h) ~ y + sum_j c_j theta^j, empty where it was not asked for. ``coarse`` is a
    second estimate, of lower order, by which the first is damped (`sdesolve.step_size.damped`), None: there is none.
    ``evaluations`` are those of the drift, (batch,), where they differ from step to step.
    """

    state: State
    error: Tensor | None = None
    failed: Tensor | None = None
    dense: tuple[Tensor, ...] = ()
    coarse: Tensor | None = None
    evaluations: Tensor | None = None


class Switches(NamedTuple):
    """What a method that is two has taken when, trajectory by trajectory.

    names : of the explicit method and of the stiff one. stiff : (batch,) whether the last step was left to the stiff
    one. steps : (batch,) accepted steps by the stiff one. counts : (batch,) how often a trajectory has changed from one
    to the other. times : (N, batch), where it did, at first from the explicit one; NaN behind a trajectory's last. The
    first 16 are kept.
    """

    names: tuple[str, str]
    stiff: Tensor
    steps: Tensor
    counts: Tensor
    times: Tensor


class Method:
    """Base of all methods. A method has no state: what it keeps between steps travels in ``State.cache``.

    Class attributes
    ----------------
    name : as given to ``solve(method=)``.
    problem : ``"ode"`` or ``"sde"``.
    made_for : ``"Langevin"``, ``"Semilinear"`` or ``"Hamiltonian"``: for these problems alone. None: for any.
    order : convergence order for ODEs; the strong order for SDEs, for general noise.
    order_commutative, order_additive : strong order for commutative and for additive noise, where it is higher.
    weak_order, weak_order_commutative, weak_order_additive : the same for the weak order; None: not known.
    error_order : order of the local error that ``error`` estimates (order of the lower solution + 1), or None: then
        only fixed steps can be taken.
    calculus, noise : what an SDE method solves.
    levy : what a step asks for besides W: None; ``"space-time"``, H; ``"space-time-time"``, H and K;
        ``"davie-foster"``, H and the areas between channels.
    levy_mixed_only : only general noise that is not additive asks for it. `levy_for` says what a problem does.
    may_fail : whether a step can report that it failed.
    additive_only : the diffusion must not depend on y.
    commutative_only : general noise must be commutative, or additive.
    error_drift_evaluations, error_diffusion_evaluations : more of them a step, when ``error`` is asked for.
    drift_evaluations, diffusion_evaluations : a step.
    general_diffusion_evaluations : where they are not the same for general noise of m > 1 Brownian motions, (p, q) for
        p + q m. additive_diffusion_evaluations : where they are not the same for additive noise.
    first_evaluations : drift evaluations of ``init``, once a solve.
    dense_evaluations : more drift evaluations a step, when ``dense`` is asked for.
    has_dense : whether ``dense`` can be given.
    reports_evaluations : steps say themselves how often they evaluate the drift; ``drift_evaluations`` is typical.
    adaptive_only : not with fixed steps.
    reads_tolerance : ``step`` takes ``tolerance=``, of y's shape: the error of a step that matters in each element.
        None, as with fixed steps: not known.
    source : where the coefficients stand.
    """

    name: str
    problem: str
    made_for: str | None = None
    order: float
    order_commutative: float | None = None
    order_additive: float | None = None
    weak_order: float | None = None
    weak_order_commutative: float | None = None
    weak_order_additive: float | None = None
    error_order: float | None = None
    calculus: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    levy: str | None = None
    levy_mixed_only: bool = False
    may_fail: bool = False
    additive_only: bool = False
    commutative_only: bool = False
    drift_evaluations: int
    diffusion_evaluations: int = 0
    general_diffusion_evaluations: tuple[int, int] | None = None
    additive_diffusion_evaluations: int | None = None
    error_drift_evaluations: int = 0
    error_diffusion_evaluations: int = 0
    first_evaluations: int = 0
    dense_evaluations: int = 0
    has_dense: bool = False
    reports_evaluations: bool = False
    adaptive_only: bool = False
    reads_tolerance: bool = False
    source: str

    def init(self, system: System, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """What the first step finds in its cache."""
        return ()

    def renew(self, system: System, t: Tensor, state: State) -> tuple[Tensor, ...]:
        """The cache where the state, or the right-hand side, has become another one."""
        return self.init(system, t, state.y)

    def first_stage(self, cache: tuple[Tensor, ...]) -> Tensor | None:
        """f(t, y) if ``init`` has computed it."""
        return None

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        """One step from ``state`` by ``inc``; no Python branch on a tensor's value."""
        raise NotImplementedError

    def evaluations(self, *, dense: bool = False, error: bool = False) -> int:
        """Of the drift, a step."""
        more = (self.dense_evaluations if dense else 0) + (self.error_drift_evaluations if error else 0)
        return self.drift_evaluations + more

    def evaluations_of_diffusion(self, system: System, channels: int, *, error: bool = False) -> int:
        """Evaluations of the diffusion, a step, with this many Brownian motions a trajectory."""
        count = self.diffusion_evaluations
        if system.additive and self.additive_diffusion_evaluations is not None:
            count = self.additive_diffusion_evaluations
        elif system.noise == "general" and channels > 1 and self.general_diffusion_evaluations is not None:
            fixed, each = self.general_diffusion_evaluations
            count = fixed + each * channels
        return count + (self.error_diffusion_evaluations if error else 0)

    def levy_for(self, system: System) -> str | None:
        """What a step of this system asks for besides W."""
        mixed = system.noise == "general" and not system.additive
        return self.levy if mixed or not self.levy_mixed_only else None

    def strong_order_for(self, structure: str) -> float:
        """Strong order for noise that is ``"general"``, ``"commutative"`` or ``"additive"``, which commutes too."""
        found = _for(structure, self.order, self.order_commutative, self.order_additive)
        assert found is not None
        return found

    def weak_order_for(self, structure: str) -> float | None:
        """Weak order for such noise."""
        return _for(structure, self.weak_order, self.weak_order_commutative, self.weak_order_additive)

    def discrepancy(self, state: State) -> Tensor | None:
        """How far the state is from what it should agree with, of y's shape; None: the method cannot tell."""
        return None

    def switches(self, system: System, state: State) -> Switches | None:
        """How the method has changed on the way; None: it is one."""
        return None

    def __repr__(self) -> str:
        return f"<sdesolve method {self.name!r}>"


def _for(structure: str, general: float | None, commutative: float | None, additive: float | None) -> float | None:
    commuting = general if commutative is None else commutative
    return {"general": general, "commutative": commuting, "additive": commuting if additive is None else additive}[
        structure
    ]


def combine(weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    """sum_j w_j k_j without the zero terms; at least one weight is not zero."""
    total: Tensor | None = None
    for weight, stage in zip(weights, stages, strict=False):
        if weight == 0.0:
            continue
        total = stage * weight if total is None else torch.add(total, stage, alpha=weight)
    assert total is not None
    return total


def plain_eager() -> bool:
    """Whether operations run one by one as they are written: not compiled, and not under a torch.func transform."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is None
