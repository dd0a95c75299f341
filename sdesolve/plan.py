"""A solve that is ready to run: the problem, the method, and either a table of fixed steps or a controller.

``run`` maps internal tensors to internal tensors; it is what ``solve`` and the adjoints call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.brownian.steps import StepNoise
from sdesolve.clock import Clock, Landings, RealClock
from sdesolve.coupling import refuse_coupled
from sdesolve.crossing import Crossings
from sdesolve.driver import drive
from sdesolve.event import Happened
from sdesolve.fixed import FixedLoop, FixedRun, shadows
from sdesolve.interpolate import DenseOutput, dense_output
from sdesolve.lattice_clock import LatticeClock, PathNoise
from sdesolve.loop import Carry, Loop, Watcher, failed
from sdesolve.methods.method import Method, State, Switches
from sdesolve.outputs import Between, Outputs, Record, Recorder
from sdesolve.solution import Status
from sdesolve.start import Beginning, Start, evaluations, first_carry, first_values
from sdesolve.state import finite
from sdesolve.step_size import PID, StepTable
from sdesolve.system import System
from sdesolve.table_clock import TableClock, TableLoop

Report = Callable[[float], None]


@dataclass
class Result:
    """What a run leaves: ys (T, batch, ...); status (batch,), None inside torch.func transforms; (batch,) counts; for
    each trajectory a time by which it had not failed."""

    ys: Tensor
    status: Tensor | None
    accepted: Tensor
    rejected: Tensor
    drift_evaluations: Tensor
    diffusion_evaluations: Tensor
    reached: Tensor
    dense: DenseOutput | None = None
    happened: list[Happened] = field(default_factory=list)
    switches: Switches | None = None


class Interrupted(Exception):  # noqa: N818 - carries a result, and is turned into SolveInterrupted by solve
    """Ctrl-C, with what was finished."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result


def first_time(plan: FixedPlan | AdaptivePlan) -> Tensor:
    """The first time, as the functions are given it."""
    return _output_time(plan, 0)


def last_time(plan: FixedPlan | AdaptivePlan) -> Tensor:
    """The last time, as the functions are given it."""
    return _output_time(plan, -1)


def _output_time(plan: FixedPlan | AdaptivePlan, i: int) -> Tensor:
    spec = plan.system.spec
    start = torch.as_tensor(plan.ts[i], dtype=spec.time_dtype, device=spec.device)
    own = isinstance(plan, AdaptivePlan) and not plan.shared
    return spec.expand(start.expand(spec.batch)) if own or len(start) > 1 else start[0]


def drew_apart(
    system: System, method: Method, ys: Tensor, end: State, rtol: float = 0.0, atol: float = 0.0
) -> Tensor | None:
    """(batch,) whose method says itself that they have gone wrong: by more than 1000 times the tolerance, or than both
    twice the solution's size and 10 times the tolerance; None: nobody."""
    with torch.no_grad():
        distance = method.discrepancy(end)
        if distance is None:
            return None
        batch = system.spec.batch
        size = (ys if system.spec.batched else ys[:, None]).abs().reshape(len(ys), batch, -1).amax(-1).amax(0)
        tolerance = rtol * size + atol
        most = torch.maximum(2 * size, 10 * tolerance)
        most = torch.minimum(most, 1000 * tolerance) if rtol or atol else most
        apart = distance.abs().reshape(batch, -1).amax(1) > most
        return apart if bool(apart.any()) else None


class Plan(Protocol):
    """A solve that is ready to run from a start state."""

    def run(self, y0: Tensor, report: Report | None = None) -> Result: ...


@dataclass
class FixedPlan:
    """A table of fixed steps. ts : (T, 1) or (T, batch), in float64. compile_chunk : makes the compiled chunk, or None.
    moves : see :class:`sdesolve.fixed.FixedLoop`. channels : Brownian motions of a trajectory.

    isolate : the result is used when a trajectory fails: if gradients are wanted, run again with that one following
    another, so that its NaN reaches no gradient. Otherwise the failure is reported: run again to find its time.
    """

    system: System
    method: Method
    table: StepTable
    ts: NDArray[np.float64]
    noise: StepNoise | None = None
    dense: bool = False
    isolate: bool = False
    compile_chunk: Callable[..., Any] | None = None
    recorder: Recorder | None = None
    moves: Tensor | None = None
    channels: int = 0

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        loop = FixedLoop(
            self.system,
            self.method,
            self.table,
            self.noise,
            dense=self.dense,
            recorder=self.recorder,
            moves=self.moves,
        )
        if self.compile_chunk is not None:
            loop = replace(loop, chunk=self.compile_chunk(loop))
        steps = (lambda k: report(k / self.table.total)) if report else None
        try:
            run = loop.run(y0, steps)
        except KeyboardInterrupt as interrupt:
            if not hasattr(interrupt, "run"):
                raise
            raise Interrupted(self._result(interrupt.run, interrupted=True)) from interrupt
        result = self._result(run)
        wrong = None if result.status is None else failed(result.status)
        if wrong is not None and wrong.any():
            result.ys = self._without_failures(result.ys)
            # a compiled loop does not say why a step gave NaN
            if not self.isolate or (self.compile_chunk is not None and self.method.may_fail):
                self._explain(result, loop, y0)
            if self.isolate and result.ys.requires_grad:
                result.ys = self._isolated(loop, y0, result.ys, wrong)
        return result

    def _explain(self, result: Result, loop: FixedLoop, y0: Tensor) -> None:
        """Up to when each trajectory was finite, and whose step failed: the run again, looking at every step, which a
        good run need not do."""
        with torch.no_grad():
            again = replace(loop, chunk=None, dense=False, survey=True, recorder=None).run(y0.detach())
        assert again.survived is not None and result.status is not None
        result.reached = torch.as_tensor(self.table.times(again.survived.cpu().numpy()))
        if again.stuck is not None:
            stuck = again.stuck & (result.status == Status.NONFINITE)
            result.status = torch.where(stuck, int(Status.NOT_CONVERGED), result.status)

    def _without_failures(self, ys: Tensor) -> Tensor:
        """NaN in all components of a trajectory from its first NaN or infinity on."""
        whole = ys if self.system.spec.batched else ys[:, None]
        good = finite(whole.detach(), 2).to(torch.int64).cumprod(0).bool()
        return torch.where(good.reshape(*good.shape, *(1,) * (whole.ndim - 2)), whole, torch.nan).reshape(ys.shape)

    def _isolated(self, loop: FixedLoop, y0: Tensor, ys: Tensor, wrong: Tensor) -> Tensor:
        """The run again, in which the failed trajectories follow a good one, so that no NaN enters the graph."""
        if bool(wrong.all()) or not self.system.spec.batched:
            return ys.detach()
        expand = self.system.spec.expand
        follow = shadows(wrong)
        again = replace(loop, follow=follow).run(torch.where(expand(wrong), y0.detach()[follow], y0))
        return torch.where(expand(wrong), ys.detach(), again.outputs())

    def _result(self, run: FixedRun, interrupted: bool = False) -> Result:
        spec, method = self.system.spec, self.method
        ys = run.outputs()
        taken = torch.as_tensor(self.table.saves[-1], device=spec.device)  # one number where all take the same steps
        if interrupted:
            steps_done = int(run.place.max(initial=-1) >= 0) and int(self.table.saves[run.place >= 0].max())
            taken = taken.clamp(max=steps_done)
        spent = taken * method.evaluations(dense=self.dense)
        if run.end is not None and run.end.evaluations is not None:
            spent = run.end.evaluations
        status, reached = None, torch.as_tensor(self.ts[0]).expand(spec.batch)
        if not torch._C._functorch.is_functorch_wrapped_tensor(ys):
            status, reached = self._status(ys.detach(), run, interrupted)
        return Result(
            ys,
            status,
            taken.expand(spec.batch),
            torch.zeros_like(taken).expand(spec.batch),
            (spent + method.first_evaluations).expand(spec.batch),
            (taken * method.evaluations_of_diffusion(self.system, self.channels)).expand(spec.batch),
            reached,
            self._dense(run) if self.dense and not interrupted else None,
        )

    def _status(self, ys: Tensor, run: FixedRun, interrupted: bool) -> tuple[Tensor, Tensor]:
        """Of each trajectory, and a time by which it had not failed."""
        spec = self.system.spec
        apart = None if run.end is None else drew_apart(self.system, self.method, ys, run.end)
        # no NaN and no infinity has a finite sum
        if run.stuck is None and apart is None and not interrupted and bool(torch.isfinite(ys.sum())):
            status = torch.full((spec.batch,), int(Status.SUCCESS), device=spec.device)
            return status, torch.as_tensor(self.ts[-1]).expand(spec.batch)
        good = finite(ys if self.system.spec.batched else ys[:, None], 2)
        status = torch.where(good.all(0), int(Status.SUCCESS), int(Status.NONFINITE))
        if run.stuck is not None:
            status = torch.where(run.stuck, int(Status.NOT_CONVERGED), status)
        if apart is not None:
            status = torch.where((status == Status.SUCCESS) & apart, int(Status.DREW_APART), status)
        if interrupted:
            arrived = finite(run.kept[-1] if self.system.spec.batched else run.kept[-1][None], 1)
            there = np.broadcast_to(run.place[-1] >= 0, (self.system.spec.batch,)).copy()
            under_way = arrived & ~torch.as_tensor(there, device=arrived.device)
            status = torch.where(under_way, int(Status.INTERRUPTED), status)
        last = (good.to(torch.int64).cumprod(0).sum(0) - 1).clamp(min=0).cpu().numpy()
        ts = np.broadcast_to(self.ts, (len(self.ts), self.system.spec.batch))
        return status, torch.as_tensor(ts[last, np.arange(len(last))].copy())

    def _dense(self, run: FixedRun) -> DenseOutput:
        spec = self.system.spec
        ends = [torch.as_tensor(t, device=spec.device) for t in (self.ts[0], self.ts[-1])]
        direction = 1.0 if self.ts[-1, 0] > self.ts[0, 0] else -1.0
        starts, lengths = self.table.rows(0, self.table.total)
        taken = None if self.table.shared else torch.as_tensor(lengths != 0, device=spec.device)
        times = []
        for (t0, h), *exact in zip(run.times, starts[:-1], lengths, strict=True):
            # in float64, with the graph that they may have
            exactly = (torch.as_tensor(x, device=spec.device).reshape(-1) for x in exact)
            t, length = (x.double() + (y - x.detach().double()) for x, y in zip((t0, h), exactly, strict=True))
            times.append((t, length))
        return dense_output(spec, direction, ends[0], ends[1], times, run.states, run.powers, taken)


@dataclass
class AdaptivePlan:
    """A controller of step sizes. ts : (T, 1) or (T, batch), in float64; shared : one clock for the whole batch.
    table : fixed steps, of which the watcher may take parts, instead of the controller's.

    first : the first step size, None to choose it. probe : look once whether trajectories read each other. noise : of
    an SDE, whose times then are ticks of its path. channels : Brownian motions of a trajectory.
    """

    system: System
    method: Method
    control: PID
    ts: NDArray[np.float64]
    shared: bool = False
    first: float | None = None
    max_steps: int = 100_000
    dense: bool = False
    probe: bool = True
    watcher: Watcher | None = None
    norm: Callable[[Tensor], Tensor] | None = None
    at_landing: Callable[[Tensor, int], Tensor] | None = None
    compile_chunk: Callable[..., Any] | None = None
    noise: PathNoise | None = None
    recorder: Recorder | None = None
    channels: int = 0
    table: StepTable | None = None

    def __post_init__(self) -> None:
        self.control = self.control.fitted("sde" if self.system.is_sde else "ode")

    def landings(self) -> Landings:
        """Where steps end."""
        return Landings.merge(self.ts, tuple(self.control.jumps), ends=self.control.interpolate)

    def run(self, y0: Tensor, report: Report | None = None) -> Result:
        spec, system = self.system.spec, self.system
        landings = self.landings()
        lanes = 1 if self.shared else spec.batch
        clock: Clock
        if self.table is not None:
            clock = TableClock.of_table(self.table, lanes, spec.time_dtype, spec.device)
        elif self.noise is None:
            clock = RealClock.of(landings, lanes, spec.time_dtype, spec.device)
        else:
            clock = LatticeClock.of(landings, lanes, spec.time_dtype, spec.device, self.noise)
        jumps = torch.as_tensor(landings.jumps, device=spec.device) if landings.jumps.any() else None
        loop = (Loop if self.table is None else TableLoop)(
            system,
            self.method,
            clock,
            self.control,
            noise=self.noise,
            watcher=self.watcher,
            norm=self.norm,
            at_landing=self.at_landing,
            jumps=jumps,
            max_steps=self.max_steps,
            dense=self.dense or self.control.interpolate or isinstance(self.watcher, Crossings),
        )
        # how far it is to the end, and the length of the first step where it is given
        span = torch.as_tensor(np.abs(self.ts[-1] - self.ts[0]), dtype=spec.time_dtype, device=spec.device)
        length = self.first if self.table is None else torch.inf
        first = None if length is None else torch.full((1,), length, dtype=spec.time_dtype, device=spec.device)
        carry: Carry | None = None
        compiled = None
        if self.compile_chunk is not None and isinstance(self.watcher, Crossings):
            carry, extra = self._start(loop, y0, span, first)
            compiled = self.compile_chunk(loop)
        elif self.compile_chunk is not None:
            check = lambda start: self._check_start(loop, start)
            compiled = self.compile_chunk(loop, Beginning(y0, span, first, check))
            extra = compiled.evaluations
        else:
            carry, extra = self._start(loop, y0, span, first)
        graph = torch.is_grad_enabled() and self.compile_chunk is None
        between = Between(self.ts, spec, lanes) if self.control.interpolate and len(self.ts) > 2 else None
        points = torch.as_tensor(landings.outputs, device=spec.device)
        outputs = Outputs.make(y0, len(self.ts), spec, points, graph, between)
        records: list[Record] | None = [] if self.dense else None
        tell = (lambda c: report(self._fraction(loop, c))) if report else None
        try:
            carry = drive(loop, carry, outputs, records, tell, compiled, self.recorder)
        except KeyboardInterrupt as interrupt:
            carry = getattr(interrupt, "carry", None)
            if carry is None:
                raise
            status = torch.where(carry.status == Status.RUNNING, int(Status.INTERRUPTED), carry.status)
            raise Interrupted(self._result(loop, carry._replace(status=status), outputs, None, extra)) from interrupt
        return self._result(loop, carry, outputs, records, extra)

    def _start(self, loop: Loop, y0: Tensor, span: Tensor, first: Tensor | None) -> tuple[Carry, tuple[int, int]]:
        """The carry before the first step; evaluations spent."""
        start, graph = first_values(loop, y0), torch.is_grad_enabled()
        if graph and self.system.spec.batched and start.bad.any() and not start.bad.all():
            # those that fail stand with one that does not: no NaN in the graph
            good = y0[int((~start.bad).nonzero()[0])].detach()
            y0 = torch.where(self.system.spec.expand(start.bad), good, y0)
            start = start._replace(cache=self.method.init(self.system, start.t0, y0))
        self._check_start(loop, start)
        carry = first_carry(loop, y0, start, span, first)
        if isinstance(self.watcher, Crossings):
            carry = carry._replace(watch=self.watcher.start(start.t0, start.y, start.f0))
        return carry, evaluations(loop, start, first)

    def _check_start(self, loop: Loop, start: Start) -> None:
        """Raises where trajectories with clocks of their own read each other."""
        if not self.probe or loop.clock.lanes == 1:
            return
        system, spec, t0 = self.system, self.system.spec, start.t0
        refuse_coupled(system.names[0], lambda y: system.drift(t0, y), start.y, start.f0, spec)
        if start.g0 is not None:
            shape = (*spec.shape, start.g0.shape[-1]) if system.noise == "general" else spec.shape
            diffusion = lambda y: system.diffusion(t0, y).expand(shape)
            refuse_coupled("diffusion", diffusion, start.y, start.g0.expand(shape), spec)

    def _fraction(self, loop: Loop, carry: Carry) -> float:
        idle = torch.zeros(loop.clock.lanes, dtype=torch.bool, device=carry.y.device)
        now = loop.clock.propose(carry.clock, carry.h, idle).t0.double().cpu().numpy()
        return float(np.clip((now - self.ts[0]) / (self.ts[-1] - self.ts[0]), 0.0, 1.0).mean())

    def _result(
        self, loop: Loop, carry: Carry, outputs: Outputs, records: list[Record] | None, extra: tuple[int, int]
    ) -> Result:
        spec, method = self.system.spec, self.method
        accepted, rejected = loop.to_batch(carry.accepted), loop.to_batch(carry.rejected)
        ys = outputs.states()
        tolerances = [float(torch.as_tensor(x).max()) for x in (self.control.rtol, self.control.atol)]
        tolerances = tolerances if self.table is None else []
        apart = drew_apart(self.system, method, ys, State(carry.y, carry.cache), *tolerances)
        if apart is not None:
            status = torch.where((carry.status == Status.SUCCESS) & apart, int(Status.DREW_APART), carry.status)
            carry = carry._replace(status=status)
        spent = (accepted + rejected) * loop.evaluations()
        if carry.evaluations is not None:
            spent = carry.evaluations
        reached = torch.as_tensor(self.ts[-1], device=spec.device).expand(spec.batch)
        if bool(failed(carry.status).any()):
            idle = torch.zeros(loop.clock.lanes, dtype=torch.bool, device=spec.device)
            reached = loop.to_batch(loop.clock.propose(carry.clock, carry.h, idle).t0)
            if loop.clock.lanes != spec.batch:
                reached = self._before_failure(ys.detach(), reached)
        located: Any = sum((each.spent for each in outputs.happened), extra[0])
        return Result(
            ys,
            carry.status,
            accepted,
            rejected,
            spent + located,
            (accepted + rejected) * method.evaluations_of_diffusion(self.system, self.channels, error=True) + extra[1],
            reached,
            self._dense(loop, records) if records else None,
            outputs.happened,
            method.switches(self.system, State(carry.y, carry.cache)),
        )

    def _before_failure(self, ys: Tensor, reached: Tensor) -> Tensor:
        """Where a shared clock has gone on since a trajectory failed: the last output time that it had reached."""
        last = finite(ys, 2).sum(0).cpu().numpy() - 1
        ahead = torch.as_tensor(self.ts[np.minimum(last + 1, len(self.ts) - 1), 0], device=reached.device)
        had = torch.as_tensor(self.ts[last.clip(min=0), 0], device=reached.device)
        forwards = bool(self.ts[-1, 0] > self.ts[0, 0])
        return torch.where(reached < ahead if forwards else reached > ahead, reached.double(), had)

    def _dense(self, loop: Loop, records: list[Record]) -> DenseOutput:
        spec = self.system.spec
        ends = [torch.as_tensor(t, device=spec.device) for t in (self.ts[0], self.ts[-1])]
        taken = torch.stack([r.taken for r in records])
        return dense_output(
            spec,
            loop.clock.direction,
            ends[0],
            ends[1],
            [(r.t0, r.h) for r in records],
            [r.y for r in records],
            [r.dense for r in records],
            taken,
        )
