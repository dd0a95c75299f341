"""A solve in a table of fixed steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.brownian.steps import StepNoise
from sdesolve.fixed import FixedLoop, FixedRun, shadows
from sdesolve.interpolate import DenseOutput, dense_output
from sdesolve.loop import failed
from sdesolve.methods.method import Method
from sdesolve.outputs import Recorder
from sdesolve.plan import Interrupted, Report, Result, drew_apart
from sdesolve.solution import Status
from sdesolve.state import finite
from sdesolve.step_size import StepTable
from sdesolve.system import System


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

    @property
    def own_clocks(self) -> bool:
        return self.ts.shape[1] > 1

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
        spent = None if run.end is None else run.end.evaluations
        if spent is None:
            spent = taken * method.evaluations(dense=self.dense)
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
