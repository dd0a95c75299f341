"""The loop of fixed steps: every time is known beforehand, so nothing is judged and the host never waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sdesolve.brownian.levy import Increment
from sdesolve.brownian.steps import StepNoise
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.outputs import Recorder
from sdesolve.step_size import StepTable
from sdesolve.system import System

#: steps whose times are put on the device at once
BLOCK_STEPS = 256

#: (state, first, last) -> state after the steps first <= k < last
Chunk = Callable[[State, int, int], State]


@dataclass
class FixedRun:
    """What a loop of fixed steps leaves behind, also when it is interrupted.

    kept, place : states, and for each output and trajectory the number of its state (-1: not reached). stuck : (batch,)
    trajectories whose step failed. end : the state behind the last step. survived : (batch,) steps before the first NaN
    or infinity, if asked for. Dense records as in :func:`sdesolve.interpolate.dense_output`.
    """

    kept: list[Tensor]
    place: np.ndarray
    stuck: Tensor | None = None
    end: State | None = None
    survived: Tensor | None = None
    times: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    powers: list[tuple[Tensor, ...]] = field(default_factory=list)

    def outputs(self) -> Tensor:
        """(T, batch, ...), or (T, ...) for a single trajectory; NaN where nothing was reached."""
        missing = (self.place < 0).any()
        stacked = torch.stack([*self.kept, torch.full_like(self.kept[0], torch.nan)] if missing else self.kept)
        if self.place.ndim == 1:
            if not missing and (self.place == np.arange(len(self.kept))).all():
                return stacked
            return stacked[torch.as_tensor(self.place, device=stacked.device)]
        place = torch.as_tensor(self.place, device=stacked.device)
        return stacked[place, torch.arange(place.shape[1], device=place.device)]


def shadows(wrong: Tensor) -> Tensor:
    """(batch,) whom to follow, where those that are wrong follow the first that is not."""
    return torch.where(wrong, (~wrong).nonzero()[0], torch.arange(len(wrong), device=wrong.device))


@dataclass
class FixedLoop:
    """Steps of a table, with noise in blocks.

    follow : (batch,) the trajectory that each one follows, its own number or another's, or None. dense : record what
    interpolation needs. survey : count the steps that each trajectory survives. recorder : is told of every step.
    moves : of the output times, as the table's ``ts``: zeros with a graph, if gradients by the times are wanted.
    """

    system: System
    method: Method
    table: StepTable
    noise: StepNoise | None = None
    follow: Tensor | None = None
    dense: bool = False
    survey: bool = False
    chunk: Chunk | None = None
    recorder: Recorder | None = None
    moves: Tensor | None = None

    def run(self, y0: Tensor, report: Callable[[int], None] | None = None) -> FixedRun:
        """Take all steps; on Ctrl-C the run is left on the exception as ``run``."""
        saves = self.table.saves
        run = FixedRun([y0], np.where(saves == 0, 0, -1))
        due = set(saves.reshape(-1).tolist())
        state = self.start(y0)
        if self.recorder:
            self.recorder.begin(None, state)
        try:
            for first, last in self._chunks():
                state = self.advance(state, first, last, due, run, report)
            run.end = state
        except KeyboardInterrupt as interrupt:
            interrupt.run = run  # type: ignore[attr-defined]
            raise
        return run

    def start(self, y0: Tensor) -> State:
        """Before the first step."""
        return State(y0, self.method.init(self.system, self._rows(0, 0)[0][0], y0))

    def _chunks(self) -> list[tuple[int, int]]:
        """Stretches that are taken at once: blocks, or as far as a compiled chunk goes until it has to stop to save."""
        if self.chunk is None:
            return self.blocks(0, self.table.total)
        return list(pairwise([0, *(int(k) for k in np.unique(self.table.saves) if k > 0)]))

    def _tensors(self, array: np.ndarray) -> list[Tensor]:
        spec = self.system.spec
        rows = torch.as_tensor(np.ascontiguousarray(array), dtype=spec.time_dtype).to(spec.device).unbind()
        return list(rows) if array.ndim == 1 else [spec.expand(row) for row in rows]

    def _rows(self, first: int, last: int) -> tuple[list[Tensor], list[Tensor]]:
        """The table's rows on the device, which move with the output times."""
        times, steps = map(self._tensors, self.table.rows(first, last))
        if self.moves is None:
            return times, steps
        row, place, length = self.table.shares(first, last)
        rows = torch.as_tensor(row, device=self.moves.device)
        lanes = () if self.table.shared else (torch.arange(self.moves.shape[1], device=self.moves.device),)
        low, high = self.moves[(rows, *lanes)], self.moves[(rows + 1, *lanes)]
        share = lambda x: torch.as_tensor(x, dtype=low.dtype, device=low.device)
        wide = lambda x: list(x.unbind()) if self.table.shared else [self.system.spec.expand(r) for r in x.unbind()]
        moves = wide(torch.lerp(low, high, share(place))), wide((high - low)[:-1] * share(length))
        return [t + m for t, m in zip(times, moves[0], strict=True)], [
            h + m for h, m in zip(steps, moves[1], strict=True)
        ]

    def advance(
        self,
        state: State,
        first: int,
        last: int,
        due: set[int],
        run: FixedRun,
        report: Callable[[int], None] | None = None,
    ) -> State:
        """Take the steps first <= k < last; states after numbers of steps that are due go into the run."""
        if self.chunk is not None:
            state = self.chunk(state, first, last)
            self._save(last, state, run)
            if report:
                report(last)
            return state
        for k, inc in enumerate(self.increments(first, last)):
            state = self._step(state, inc, run)
            if self.recorder:
                self.recorder.add(state)
            if first + k + 1 in due:
                self._save(first + k + 1, state, run)
            if report:
                report(first + k + 1)
        return state

    def increments(self, first: int, last: int) -> list[Increments]:
        """Of the steps first <= k < last, no more than their noise is drawn for at a time."""
        times, steps = self._rows(first, last)
        # the parts of the noise, each cut into steps
        noise = [
            (None,) * (last - first) if x is None else x.unbind()
            for x in (self.noise(first, last) if self.noise else Increment())
        ]
        each = zip(*noise, strict=True)
        return [Increments(times[k], times[k + 1], steps[k], *parts) for k, parts in enumerate(each)]

    def blocks(self, first: int, last: int) -> list[tuple[int, int]]:
        """The steps first <= k < last in stretches whose noise can be drawn at a time."""
        size = min(self.noise.size if self.noise else BLOCK_STEPS, BLOCK_STEPS)
        return [(k, min(k + size, last)) for k in range(first, last, size)]

    def _step(self, state: State, inc: Increments, run: FixedRun) -> State:
        if self.follow is not None:
            state, inc = self._followed(state, inc, self.follow)
        end = state
        if not self.table.shared:
            # a trajectory that has finished is asked for its start again: where it ended f may have no derivative
            state = state._replace(y=torch.where(inc.h == 0, run.kept[0].detach(), state.y))
        step = self.method.step(self.system, state, inc, dense=self.dense)
        if self.dense:
            run.times.append((inc.t0.reshape(-1), inc.h.reshape(-1)))
            run.states.append(state.y)
            run.powers.append(step.dense)
        y1, expand = step.state.y, self.system.spec.expand
        cache = step.state.cache
        if not self.table.shared:
            y1 = torch.where(inc.h == 0, end.y, y1)
            rests = inc.h.reshape(-1) == 0
            wide = lambda x: rests.reshape(-1, *(1,) * (x.ndim - 1))
            cache = tuple(torch.where(wide(x), x, new) for x, new in zip(end.cache, cache, strict=True))
        if step.failed is not None:
            # behind a NaN nothing converges
            stuck = step.failed & torch.isfinite(state.y).reshape(self.system.spec.batch, -1).all(1)
            run.stuck = stuck if run.stuck is None else run.stuck | stuck
            y1 = torch.where(expand(run.stuck), torch.nan, y1)
        if self.survey:
            alive = torch.isfinite(y1).reshape(self.system.spec.batch, -1).all(1)
            run.survived = alive.to(torch.int64) + (0 if run.survived is None else run.survived)
        return State(y1, cache, self._spent(end.evaluations, step, inc))

    def _spent(self, before: Tensor | None, step: Step, inc: Increments) -> Tensor | None:
        """Evaluations of the drift so far, if steps report them."""
        if step.evaluations is None:
            return None
        mine = step.evaluations if self.table.shared else torch.where(inc.h.reshape(-1) == 0, 0, step.evaluations)
        return mine if before is None else before + mine

    def _followed(self, state: State, inc: Increments, follow: Tensor) -> tuple[State, Increments]:
        """The same step, in which some trajectories are in every respect another one's shadow."""
        shadow = follow != torch.arange(len(follow), device=follow.device)

        def other(x: Tensor) -> Tensor:
            return torch.where(shadow.reshape(-1, *(1,) * (x.ndim - 1)), x.detach().index_select(0, follow), x)

        parts = {k: other(x) for k, x in inc._asdict().items() if x is not None and x.ndim}
        return state._replace(y=other(state.y), cache=tuple(map(other, state.cache))), inc._replace(**parts)

    def _save(self, count: int, state: State, run: FixedRun) -> None:
        run.place[self.table.saves == count] = len(run.kept)
        run.kept.append(state.y)
