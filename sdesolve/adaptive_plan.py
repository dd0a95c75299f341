"""A solve whose steps a controller chooses, or a watcher of fixed ones cuts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.clock import Clock, Landings, RealClock
from sdesolve.coupling import refuse_coupled
from sdesolve.crossing import Crossings
from sdesolve.driver import drive
from sdesolve.interpolate import DenseOutput, dense_output
from sdesolve.lattice_clock import LatticeClock, PathNoise
from sdesolve.loop import Carry, Loop, Watcher, failed
from sdesolve.methods.method import Method, State
from sdesolve.outputs import Between, Outputs, Record, Recorder
from sdesolve.plan import Interrupted, Report, Result, drew_apart
from sdesolve.solution import Status
from sdesolve.start import Beginning, Start, evaluations, first_carry, first_values
from sdesolve.state import finite
from sdesolve.step_size import PID, StepTable
from sdesolve.system import System
from sdesolve.table_clock import TableClock, TableLoop


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

    @property
    def own_clocks(self) -> bool:
        return not self.shared

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
