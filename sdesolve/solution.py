"""What a solve returns: the states at the output times, how it ended, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sdesolve import export, plots
from sdesolve.errors import message
from sdesolve.interpolate import DenseOutput
from sdesolve.methods.method import Switches

__all__ = ["Occurrences", "Solution", "Stats", "Status"]


class Status(IntEnum):
    """How a trajectory stands; above ``SUCCESS`` it failed. ``EVENT`` counts as success."""

    EVENT = -2
    RUNNING = -1
    SUCCESS = 0
    NONFINITE = 1
    STEP_UNDERFLOW = 2
    MAX_STEPS = 3
    NOT_CONVERGED = 4
    INTERRUPTED = 5
    DREW_APART = 6
    ZENO = 7

    @property
    def text(self) -> str:
        """What happened, in words."""
        return {
            Status.EVENT: "ended at an event",
            Status.RUNNING: "is still running",
            Status.SUCCESS: "reached the last output time",
            Status.NONFINITE: "the state or the right-hand side became NaN or infinite, or a condition NaN",
            Status.STEP_UNDERFLOW: "the step size became too small: the tolerance cannot be met here",
            Status.MAX_STEPS: "took max_steps steps before the last output time",
            Status.NOT_CONVERGED: "the iteration inside a step did not converge",
            Status.INTERRUPTED: "was interrupted",
            Status.DREW_APART: "the two solutions of a reversible method drew apart, so that neither is right",
            Status.ZENO: "met event after event while time stood still (Zeno)",
        }[self]


@dataclass(frozen=True, eq=False)
class Stats:
    """What a solve cost. Tensors are (batch,), one number a trajectory.

    ``steps`` = ``accepted`` + ``rejected``; evaluations are those of the steps and of their start (a first stage, a
    first step size), not the two that look for coupled trajectories. ``switches``: of ``method="auto"``, which methods
    it was, when, and for how many steps (:class:`sdesolve.methods.Switches`); None: the method is one.
    """

    method: str
    steps: Tensor
    accepted: Tensor
    rejected: Tensor
    drift_evaluations: Tensor
    diffusion_evaluations: Tensor
    switches: Switches | None = None

    def __repr__(self) -> str:
        def span(x: Tensor) -> str:
            low, high = int(x.min()), int(x.max())
            return str(low) if low == high else f"{low}..{high}"

        switched = ""
        if self.switches is not None:
            (explicit, stiff), ended, steps, counts, _ = self.switches
            switched = f" ({explicit}; {stiff} for {span(steps)} steps"
            switched += f", {span(counts)} switches, {int(ended.sum())} of {len(ended)} ended with {stiff})"
        return (
            f"Stats(method={self.method!r}{switched}, steps={span(self.steps)}, rejected={span(self.rejected)}, "
            f"drift_evaluations={span(self.drift_evaluations)}, "
            f"diffusion_evaluations={span(self.diffusion_evaluations)})"
        )


@dataclass(frozen=True, eq=False)
class Occurrences:
    """When one event happened. N is the most times that it did in any trajectory; for ``batched=False`` there is no
    dimension of the batch.

    Attributes
    ----------
    times : (N, batch), in the order of the solve; NaN behind a trajectory's last.
    ys : the states there, (N, batch, *state), or a pytree of these: before the event has changed them.
    counts : (batch,) how often it happened.
    which : (N, batch) which of the event's conditions it was, 0, 1, ...; -1 for none.
    """

    times: Tensor
    ys: Any
    counts: Tensor
    which: Tensor

    def __repr__(self) -> str:
        low, high = int(self.counts.min()), int(self.counts.max())
        return f"Occurrences(counts={low if low == high else f'{low}..{high}'})"


@dataclass(frozen=True, repr=False)
class Solution:
    """Result of :func:`sdesolve.solve`.

    Attributes
    ----------
    ts : the output times as given, (T,) or (batch, T).
    ys : states there, (T, batch, *state), or (T, *state) for ``batched=False``; a pytree of these for a pytree state.
    NaN
        from where a trajectory failed, and behind an event that ends it.
    status : (batch,) of :class:`Status` numbers; 0 is success, and so is ``Status.EVENT``. None inside ``torch.func``
        transforms.
    stats : what it cost.
    paths : (batch,) trajectory ids.
    seed : the seed of the noise, None for an ODE.
    events : for each event of the request when it happened, as :class:`Occurrences`.
    """

    ts: Tensor
    ys: Any
    status: Tensor | None
    stats: Stats
    paths: Tensor
    seed: int | None = None
    batched: bool = True
    dense: DenseOutput | None = field(default=None)
    events: tuple[Occurrences, ...] = ()

    def __repr__(self) -> str:
        shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(self.ys)]
        if self.status is None:
            ended = "unknown"
        else:
            names, counts = torch.unique(self.status, return_counts=True)
            ended = ", ".join(f"{Status(n).name} x {c}" for n, c in zip(names.tolist(), counts.tolist(), strict=True))
        shape = shapes[0] if len(shapes) == 1 else shapes
        return f"Solution(ys={shape}, status=[{ended}], {self.stats})"

    @property
    def success(self) -> Tensor | None:
        """(batch,) booleans."""
        return None if self.status is None else (self.status == Status.SUCCESS) | (self.status == Status.EVENT)

    def __call__(self, t: float | Tensor) -> Any:
        """The state between the output times, from ``solve(..., dense=True)``.

        ``t`` is a number: result (batch, *state); or (Q,): result (Q, batch, *state). Times outside the span of
        ``ts`` are
        refused.
        """
        if self.dense is None:
            raise ValueError(message("t", repr(t), "a time, of a solution with dense output", "Solve with dense=True."))
        return self.dense(t)

    def plot(
        self,
        kind: str = "time",
        *,
        components: int | Sequence[int] | None = None,
        trajectories: int | Sequence[int] | None = None,
        labels: Sequence[str] | None = None,
        quantiles: tuple[float, float] | None = (0.05, 0.95),
        ax: Any = None,
    ) -> Any:
        """Draw components of trajectories with matplotlib: against time, or one over another.

        A state's numbers are its components, counted leaf after leaf; of a complex state the real and the imaginary
        parts are components of their own, one after the other.

        Parameters
        ----------
        kind : ``"time"``, a panel for each leaf of the state; ``"phase"``, a phase portrait of two components, with a
            dot where each trajectory starts.
        components : how many of each leaf, the first ones; or their numbers. Default: 4 of each leaf; for a portrait
            the first of the first two leaves, or the first two of a state that is one tensor.
        trajectories : how many, the first ones; or their places in the batch. Default: 20, or 5 over a band.
        labels : names for the components drawn, in their order, in place of y[0], y[1], ...
        quantiles : an SDE with more trajectories than are drawn gets a band between these two quantiles over all of
            them, at each output time that they share. None: no band.
        ax : where to draw, a matplotlib Axes (one a panel for a pytree). Default: a new figure, which is not shown.

        Returns
        -------
        The Axes, or an array of them for a state of several leaves; the figure is ``axes.figure``.

        Raises
        ------
        ImportError : without matplotlib.
        ValueError, TypeError : components or trajectories that do not exist; as many labels or axes as do not fit.
        """
        return plots.plot(self, kind, components, trajectories, labels, quantiles, ax)

    def to_xarray(self) -> Any:
        """All of it but the dense output as an ``xarray.Dataset``, on the CPU and without gradients.

        A state that is a tensor is the variable ``y``, (time, trajectory, y_0, y_1, ...); each leaf of a pytree is one
        by its path, as ``y['x']``, (time, trajectory, y['x']_0, ...). ``status`` and the numbers of ``stats`` are
        variables (trajectory,), and of ``method="auto"`` ``switches`` and ``stiff_steps``; method and seed are
        attributes. The coordinate ``time`` holds the output times, or ``t``, (trajectory, time), where trajectories
        have times of their own; ``trajectory`` holds their ids. With ``batched=False`` there is no dimension
        ``trajectory``.

        Raises
        ------
        ImportError : without xarray.
        """
        return export.to_xarray(self, Status)
