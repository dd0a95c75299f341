"""solve(): the front door. It checks the request, picks the pieces and returns a Solution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.adjoint import Adjoint, Direct, MovingTimes, RecordedEvents, Way, read_adjoint
from sdesolve.brownian import BrownianPath
from sdesolve.capture import captured, refuse_training
from sdesolve.compiled import compile_adaptive, compile_fixed
from sdesolve.crossing import Crossings
from sdesolve.errors import CompileError, SolveInterrupted, message
from sdesolve.event import Conditions, occurrences, read_events
from sdesolve.failure import failure
from sdesolve.fixed_plan import FixedPlan
from sdesolve.loop import failed
from sdesolve.methods import Method
from sdesolve.plan import Interrupted, Result
from sdesolve.problem import Problem
from sdesolve.progress import Report, reporting
from sdesolve.request import (
    asks_to_adapt,
    check_brownian,
    check_direction,
    check_events,
    check_problem_type,
    fitted_control,
    one_of,
    read_control,
    read_max_steps,
    read_moves,
    read_paths,
    read_seed,
    read_step,
    read_times,
    refuse_complex_noise,
    with_standard_noise,
)
from sdesolve.setting_up import first_time_of, fixed_plan, path_noise, step_table_of
from sdesolve.solution import Solution, Stats
from sdesolve.state import StateSpec, state_spec
from sdesolve.step_size import PID
from sdesolve.stiffness import warn_of_stiffness
from sdesolve.system import System


def solve(
    problem: Problem,
    y0: Any,
    ts: Tensor,
    *,
    method: str | Method | None = None,
    dt: float | None = None,
    rtol: float | Tensor | None = None,
    atol: float | Tensor | None = None,
    controller: PID | None = None,
    seed: int | None = None,
    paths: Any = None,
    brownian: BrownianPath | None = None,
    adjoint: str | Way = "direct",
    events: Any = None,
    dense: bool = False,
    shared_steps: bool = False,
    max_steps: int | None = None,
    compile: bool = False,
    progress: bool | Report = False,
    on_failure: str = "raise",
) -> Solution:
    """Solve an ODE or SDE from ``ts[0]`` and return the states at ``ts``.

    Parameters
    ----------
    problem : an :class:`ODE`, :class:`SDE`, :class:`SplitODE`, :class:`Semilinear`, :class:`Langevin` or
        :class:`Hamiltonian`.
    y0 : start state, (batch, *state), or a pytree of such tensors; with ``batched=False`` in the problem, one
        trajectory without the batch dimension. float32, float64 (ODEs: complex too); dtype and device are kept.
    ts : output times, (T,), or (batch, T) for times of each trajectory's own; strictly monotone, forwards or backwards.
        The functions get them in y's precision: with times large against the steps use float64 states.
        ``ts[0]`` is the start; steps end exactly on each of them, which makes outputs exact, and expensive where they
        are closer than steps would be: there ``ss.PID(interpolate=True)`` reads them off the steps of an ODE. The
        functions are never evaluated outside their span. Gradients by the times (ODEs) are those of fixed steps as they
        are taken with ``"direct"`` and ``"checkpoint"``, otherwise those of the equation, right up to the error of the
        solve.
    method : name or method object; ``python -m sdesolve methods`` lists them. ``"auto"`` (ODEs, adaptive steps) starts
        each trajectory with ``"tsit5"`` and leaves it to ``"rodas5p"`` while it is stiff; ``stats.switches`` of the
        Solution tells when. Default: ``"tsit5"`` for an ODE, ``"rodas5p"`` for one that says ``stiff=True``,
        ``"baoab"`` for Langevin dynamics, ``"exponential_heun"`` for a Semilinear problem, ``"kencarp4"`` for a
        SplitODE, for a Hamiltonian one ``"leapfrog"`` for fixed and ``"tsit5"`` for adaptive steps; for an SDE by
        calculus, noise, additivity and stiffness, as it says of itself (:func:`sdesolve.methods.default`). Where fixed
        steps are too long for it at the start, a UserWarning says so.
    dt : fixed steps: each output interval gets ceil(gap/dt) equal steps. With tolerances or a controller it is the
        first step.
    rtol, atol : adaptive steps. ODE default, without dt: 1e-5 and 1e-7; an SDE needs dt or one of them. If one is given
        the other keeps its default. Adaptive steps of an SDE visit again whatever time they have looked at, along one
        path for all tolerances and methods; their outputs must be 8 ticks of 2^-32 of the span apart. What no step
        looks at, a short pulse say, is not seen: name it in ``ss.PID(jumps=)``.
    controller : an ``ss.PID(rtol, atol, ...)``, to say more about adaptive steps.
    seed : int of the noise. Default: drawn from torch's global generator, so that ``torch.manual_seed`` reproduces a
        run.
    paths : (batch,) trajectory ids; default 0, 1, ..., batch - 1. Noise is a function of (seed, id, time).
    brownian : a :class:`BrownianPath` to follow, of shape (batch, *noise): for diagonal noise (batch, *state), or
        (batch, elements) of a pytree; for scalar noise (batch, 1); for general noise (batch, m). Steps of whole cells
        are the cheapest, others are bridged at many times the cost; adaptive steps are no longer than a cell. Default:
        the cells are the fixed steps, so that another dt is another path; for adaptive steps, the path of the seed,
        which is the same whatever the times, steps and method.
    adjoint : ``"direct"``, autograd through the solve; ``"checkpoint"`` or ``ss.Checkpoint(steps=)``, the same
        gradients in memory that hardly grows with the number of steps; ``"backsolve"`` or ``ss.Backsolve(...)``, the
        continuous adjoint, right up to the error of the solve, in memory that does not grow; ``"reversible"`` or
        ``ss.Reversible(coupling=)``, exact gradients in such memory, by methods whose steps can be taken back.
    dense : keep what ``solution(t)`` needs between output times (ODEs, ``adjoint="direct"``). With (batch, T) times,
        t must be common to all.
    shared_steps : adaptive steps common to the batch instead of a step size for every trajectory.
    max_steps : steps a trajectory may take. Default: 100,000 for adaptive steps, no limit for fixed ones.
    compile : run the loop as one compiled graph, and that of its gradients as another (one derivative: not gradients
        of gradients). Results agree with eager ones to rounding; where an error estimate is itself rounding, as with
        tolerances near 1e-5 in float32, a trajectory may take a step more or less. Graphs are kept by the structure of
        the problem and of the request, and their first call takes seconds, adaptive SDE steps and gradients some tens:
        seeds, tolerances, step counts, tensors that the functions read and batches above 1 are inputs (with
        ``"backsolve"`` each batch has a graph). Python numbers in closures, globals and attributes are constants, of
        which each new value makes a graph: keep those that change in tensors. The functions must not branch on a
        tensor's value, print, count their calls, or read two tensors that share memory. Gradients: ``"direct"``,
        ``"backsolve"`` of ODEs, and with fixed steps ``"checkpoint"``, ``"reversible"``, and ``"backsolve"`` of SDEs
        that are Stratonovich or additive; all but those of ODEs by ``"backsolve"`` not with ``vectorize=True``, nor
        where the functions use ``torch.func.grad`` or ``vjp``, as implicit methods do. Not with ``dense``, outputs that
        are interpolated, fixed steps at (batch, T) times, adaptive steps of an SDE at (batch, T) times,
        ``torch.autocast``. Trajectories that read each other are looked for at the first solve of a structure.
    events : an :class:`Event`, or several: conditions on (t, y) that end a trajectory or change its state where they
        pass through zero (ODEs, methods with dense output, ``adjoint="direct"``; compiled without gradients).
        ``Solution.events`` has times and states, of each event one :class:`Occurrences`; of two events in one step the
        earlier comes first, of two at one time the first of the list. With events trajectories have clocks of their
        own by fixed steps, too (``shared_steps=True``: one). Compiled, steps with events are taken eagerly, for all
        trajectories that have one at a time.
    progress : True for a bar (needs rich), or a function of the finished fraction.
    on_failure : ``"raise"`` a :class:`SolveError` with the partial solution if a trajectory fails, or ``"return"`` the
        solution with ``status``; the others are not affected, in values or gradients.

    Returns
    -------
    Solution : ``ys`` is (T, batch, *state).

    Raises
    ------
    FunctionError : a drift or diffusion returned something of the wrong shape or dtype, or wrote into its arguments.
    CoupledTrajectoriesError : with clocks of their own, trajectories read each other. TrainingModeError : dropout or
        batch norm in training mode. (These three are ValueErrors.)
    SolveError : a trajectory failed. CompileError : ``compile=True`` is not possible here.
    ValueError, TypeError : a request that makes no sense; the text names the argument and what is accepted.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> sol = ss.solve(ss.ODE(lambda t, y: -y), torch.ones(2, 1), torch.tensor([0.0, 1.0, 2.0]))
    >>> sol.ys.shape
    torch.Size([3, 2, 1])
    """
    problem = check_problem_type(problem)
    one_of("on_failure", on_failure, ("raise", "return"))
    for name, flag in (("dense", dense), ("shared_steps", shared_steps), ("compile", compile)):
        one_of(name, flag, (True, False))
    backwards = read_adjoint(adjoint)
    given = read_events(events)
    spec, y = state_spec(y0, problem.batched)
    problem.check_state(spec)
    system = System(problem, spec)
    refuse_complex_noise(system)
    times, columns, eps = read_times(ts, spec)
    moves = read_moves(times, spec, system)
    step = read_step(dt)
    chosen = backwards.method(system, method, adaptive=asks_to_adapt(step, rtol, atol, controller))
    control = read_control(system, chosen, step, rtol, atol, controller)
    check_events(given, system, chosen, backwards.name, compile, dense)
    if given and moves is not None:
        raise ValueError(message("ts", "times with a gradient beside events", "ts.detach()"))
    check_direction(system, columns[-1, 0] < columns[0, 0])
    check_brownian(system, brownian, seed, paths)
    system, brownian = with_standard_noise(system, brownian)
    ids = read_paths(paths, spec) if brownian is None else brownian.paths
    number = read_seed(seed, system.is_sde) if brownian is None else brownian.seed
    limit = read_max_steps(max_steps, control is not None)
    if dense and not chosen.has_dense:
        raise ValueError(
            message("dense", f"True with method {chosen.name!r}", "True for ODE methods with dense output")
        )
    backwards.refuse(system, control is not None)
    found = captured(system.problem)
    if not problem.allow_training:
        refuse_training([*found.modules, *(m for event in given for m in captured(event.condition).modules)])

    conditions = Conditions(given, system) if given else None
    plan: FixedPlan | AdaptivePlan
    probes = 0
    if control is None and conditions is None:
        assert step is not None
        if method is None:
            probes = warn_of_stiffness(system, chosen, first_time_of(system, columns), y, columns, step)
        plan = fixed_plan(system, chosen, y, columns, eps, step, number, ids, brownian, limit, dense)
        plan.isolate = on_failure == "return"
    else:
        if torch._C._functorch.is_batchedtensor(y):
            raise ValueError(message("dt", "adaptive steps inside torch.func.vmap", "fixed steps, dt=, there"))
        table = None
        if control is None:
            assert step is not None
            table, control = step_table_of(columns, eps, step, limit), PID(p=0.0)
        shared = shared_steps or not spec.batched or (spec.batch == 1 and columns.shape[1] == 1)
        if shared and columns.shape[1] > 1:
            raise ValueError(
                message("shared_steps", "True with (batch, T) output times", "False, or (T,) times that all share")
            )
        _check_control(control, columns)
        if control.interpolate:
            _check_interpolation(chosen, compile)
        control = fitted_control(control, spec)
        plan = AdaptivePlan(system, chosen, control, columns, shared, step, limit, dense, table=table)
        if conditions is not None:
            # rounding of the state and of times grows with the way that they have come
            span = columns[-1] - columns[0]
            plan.watcher = Crossings(conditions, chosen, float(np.sign(span[0])), float(np.abs(span).max()))
        if system.is_sde:
            plan.noise = path_noise(system, chosen, y, columns, eps, number, ids, brownian, limit)
            plan.channels = math.prod(plan.noise.window.shape)
    if compile:
        plan.compile_chunk = compile_fixed if isinstance(plan, FixedPlan) else compile_adaptive
    if dense and not isinstance(backwards, Direct):
        raise ValueError(message("dense", f"True with adjoint={adjoint!r}", "dense=True with adjoint='direct'"))
    # fixed steps can be differentiated as they are taken; otherwise it is the equation that says how outputs move
    exact = isinstance(plan, FixedPlan) and backwards.exact_times
    if moves is not None and isinstance(plan, FixedPlan) and exact:
        _move(plan, moves)
    way = backwards.run(plan, found)
    if given and not isinstance(backwards, Direct):
        way = RecordedEvents(way, given, backwards.name)
    if moves is not None and not exact:
        way = MovingTimes(plan, way, moves)
    # a matrix was asked for how many Brownian motions there are
    probed = probes, int(system.noise == "general")
    return _finish(way, y, spec, times, ids, number, chosen, probed, conditions, progress, on_failure)


def _move(plan: FixedPlan, moves: Tensor) -> None:
    """Let the steps move with the output times."""
    if plan.compile_chunk is not None:
        advice = "Drop compile=True, or take adaptive steps."
        raise CompileError(
            message("compile", "True with fixed steps and times that need a gradient", "ts.detach()", advice)
        )
    plan.moves = moves[:, 0] if plan.table.shared else moves


def _check_control(control: PID, columns: NDArray[np.float64]) -> None:
    if len(tuple(control.jumps)) and columns.shape[1] > 1:
        raise ValueError(message("jumps", "jumps with (batch, T) output times", "jumps with (T,) output times"))


def _check_interpolation(method: Method, compile: bool) -> None:
    if not method.has_dense:
        advice = "What lies between the steps of an SDE is for its path to say." if method.problem == "sde" else ""
        raise ValueError(
            message(
                "interpolate", f"True with method {method.name!r}", "True for ODE methods with dense output", advice
            )
        )
    if compile:
        accepted = "one of the two"
        raise CompileError(message("compile", "True with PID(interpolate=True)", accepted))


def _finish(
    way: Adjoint,
    y: Tensor,
    spec: StateSpec,
    times: Tensor,
    ids: Tensor,
    seed: int | None,
    method: Method,
    probes: tuple[int, int],
    conditions: Conditions | None,
    progress: bool | Report,
    on_failure: str,
) -> Solution:
    """Run, and tell how it ended. probes : evaluations of drift and diffusion before it."""

    def solution(result: Result) -> Solution:
        stats = Stats(
            method.name,
            result.accepted + result.rejected,
            result.accepted,
            result.rejected,
            result.drift_evaluations + probes[0],
            result.diffusion_evaluations + probes[1],
            result.switches,
        )
        ys = spec.unravel(result.ys, lead=1)
        happened = () if conditions is None else occurrences(conditions, result.happened, times)
        return Solution(times, ys, result.status, stats, ids, seed, spec.batched, result.dense, happened)

    try:
        with reporting(progress, f"solve ({method.name})") as report:
            result = way.run(y, report)
    except Interrupted as interrupted:
        raise SolveInterrupted(solution(interrupted.result)) from None
    if on_failure == "raise" and result.status is not None and bool(failed(result.status).any()):
        raise failure(result, solution(result), ids, method)
    return solution(result)
