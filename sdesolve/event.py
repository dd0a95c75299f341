"""Events: conditions on time and state that end a trajectory, or change its state, where they pass through zero.

What the user gives, and these functions as the solver calls them; `crossing` finds where they pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from sdesolve.errors import FunctionError, message
from sdesolve.solution import Occurrences
from sdesolve.system import System, code_of, version, wrote_into_state


@dataclass(frozen=True)
class Event:
    """What is to happen where  g(t, y(t)) = 0.

    The condition g is looked at at the end of every accepted step and at three points between, a quarter of the step
    apart: where its sign has changed, the step is taken again up to the root, found to rounding. Two changes of sign
    between neighbouring points are not seen: bound the steps with ``ss.PID(dt_max=)`` where they may be so close. A
    condition that touches zero and turns back has not passed through. One that is zero at the start, or behind an
    event, counts as being on the side to which it moves; one that rests there, as being on that where it is next seen.
    The right-hand side is evaluated beyond the surface, too, as far as a step goes. A fixed step that an event has cut
    is taken to its end behind the event, so that all later ones are on the same grid.

    Times and states of events are differentiable (once): with g(t*, y*) = 0,

        dt*/dp = -(dg/dy . dy/dp + dg/dp) / (dg/dt + dg/dy . f),      dy*/dp = dy/dp + f dt*/dp

    and so are later outputs behind an ``affect``, f_+ being the right-hand side behind it:

        dy_+/dp = da/dy . dy*/dp + da/dt dt*/dp - f_+ dt*/dp

    Parameters
    ----------
    condition : ``g(t, y)``, real numbers of y's precision, (batch,), or (batch, k) for k conditions that share what
        happens; 0-d or (k,) for ``batched=False`` and ``vectorize=True``. t and y as the problem's functions get them:
        ``ss.batch_time(t, y)`` gives t as (batch,). It is differentiated in forward mode; one without a derivative
        (a sign, say) is located on the dense output, and its times count as constant in gradients.
    direction : 1 for g rising along the solve, -1 for falling, 0 for both.
    terminal : the trajectory ends there, with status ``EVENT``, which counts as success; later outputs are NaN.
        Otherwise the event is only written down.
    affect : ``a(t, y)`` -> the state behind the event, of y's shape; the trajectory then goes on from it, whatever
        ``terminal`` says. An output at the very time of the event is the state behind it.

    Raises
    ------
    TypeError, ValueError : something that cannot be called; an unknown direction.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> fall = ss.ODE(lambda t, y: torch.stack([y[:, 1], torch.full_like(y[:, 0], -9.81)], 1))
    >>> floor = ss.Event(lambda t, y: y[:, 0], direction=-1)
    >>> sol = ss.solve(fall, torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 9.0]), events=floor)
    >>> abs(sol.events[0].times[0].item() - (2 / 9.81) ** 0.5) < 1e-6
    True

    References
    ----------
    Shampine & Thompson 2000, Comput. Math. Appl. 39:43 (location); Hiskens & Pai 2000, IEEE Trans. Circuits Syst. I
    47:204 (derivatives).
    """

    condition: Callable[[Tensor, Any], Tensor]
    direction: int = field(default=0, kw_only=True)
    terminal: bool = field(default=True, kw_only=True)
    affect: Callable[[Tensor, Any], Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.condition):
            raise TypeError(message("condition", type(self.condition).__name__, "a function (t, y) -> tensor"))
        if self.affect is not None and not callable(self.affect):
            raise TypeError(message("affect", type(self.affect).__name__, "a function (t, y) -> y, or None"))
        if isinstance(self.direction, bool) or self.direction not in (-1, 0, 1):
            raise ValueError(message("direction", repr(self.direction), "1 (rising), -1 (falling) or 0 (both)"))
        if not isinstance(self.terminal, bool):
            raise TypeError(message("terminal", repr(self.terminal), "True or False"))

    @property
    def ends(self) -> bool:
        """Whether the trajectory ends there."""
        return self.terminal and self.affect is None


def read_events(events: Any) -> tuple[Event, ...]:
    """One event, several or none."""
    if events is None:
        return ()
    found = (events,) if isinstance(events, Event) else events
    if not isinstance(found, Sequence) or not all(isinstance(event, Event) for event in found):
        got = type(events).__name__ if not isinstance(events, Sequence) else repr(events)
        advice = "Wrap your condition: ss.Event(condition)."
        raise TypeError(message("events", got, "an ss.Event, a sequence of them, or None", advice))
    return tuple(found)


class Happened(NamedTuple):
    """Events of one round of steps: n of them, each of another trajectory.

    condition : (n,) which one of all conditions. lanes : (n,) whose. time : (n,), in float64. y : (n, ...) the states
    there. spent : (batch,) evaluations of the drift that finding them took.
    """

    condition: Tensor
    lanes: Tensor
    time: Tensor
    y: Tensor
    spent: Tensor

    def at(self, now: Tensor) -> Happened:
        """With the clocks' time, (batch,), added to what is there: zeros with a graph."""
        return self._replace(time=now[self.lanes] + self.time)

    def among(self, lanes: Tensor, batch: int) -> Happened:
        """The same where these are but some of the trajectories."""
        spent = self.spent.new_zeros(batch).index_copy(0, lanes, self.spent)
        return self._replace(lanes=lanes[self.lanes], spent=spent)


#: structure of a plain tensor
_LEAF = pytree.tree_structure(0)


class Conditions:
    """The conditions of all events as one function of internal tensors, (t, y) -> (K, batch), and their effects."""

    def __init__(self, events: tuple[Event, ...], system: System) -> None:
        self.events, self.system, self.spec = events, system, system.spec
        self.widths: dict[int, int] = {}

    def resized(self, system: System) -> Conditions:
        """The same for another number of trajectories."""
        found = Conditions(self.events, system)
        found.widths = dict(self.widths)
        return found

    @property
    def structure(self) -> Any:
        """What tells these conditions from others, for compiled code."""
        return tuple(code_of(event.condition) for event in self.events), tuple(self.owners)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([self.values(i, t, y) for i in range(len(self.events))])

    @property
    def owners(self) -> list[int]:
        """To which event each condition belongs, once they have been called."""
        return [i for i in range(len(self.events)) for _ in range(self.widths.get(i, 1))]

    def every(self, t: Tensor, y: Tensor) -> list[Tensor]:
        """All that the events' functions give, with the batch in front."""
        affecting = [i for i, event in enumerate(self.events) if event.affect is not None]
        return [self(t, y).T, *(self.affected(i, t, y) for i in affecting)]

    def values(self, i: int, t: Tensor, y: Tensor) -> Tensor:
        """The condition of event i, (k, batch)."""
        spec, name = self.spec, f"condition of events[{i}]"
        out: Tensor = self._call(name, self.events[i].condition, t, y)
        lead = (spec.batch,) if spec.batched else ()
        if out.ndim == 0 and t.ndim == 0:
            out = out.expand(lead)
        if torch.compiler.is_compiling():
            return out.reshape(spec.batch, self.widths[i]).T
        shape = tuple(out.shape)
        if shape[: len(lead)] != lead or len(shape) > len(lead) + 1 or 0 in shape:
            raise FunctionError(f"{name}: returned {self._shape(shape)}; accepted is {self._wanted(t, shape)}")
        width = shape[-1] if len(shape) > len(lead) else 1
        if self.widths.setdefault(i, width) != width:
            raise FunctionError(f"{name}: returned {width} conditions; accepted is {self.widths[i]}, as before.")
        return out.reshape(spec.batch, width).T

    def _shape(self, shape: tuple[int, ...]) -> str:
        return f"shape {shape[1:]} for each trajectory" if self.system.problem.vectorize else f"shape {shape}"

    def _wanted(self, t: Tensor, shape: tuple[int, ...]) -> str:
        if self.system.problem.vectorize or not self.spec.batched:
            return "a 0-d tensor, or (k,) for k conditions."
        batch = self.spec.batch
        hint = ""
        if t.ndim and len(shape) > 1:
            hint = f" (t has shape {tuple(t.shape)} here; ss.batch_time(t, y) gives ({batch},).)"
        return f"({batch},), a number for each trajectory, or ({batch}, k) for k conditions.{hint}"

    def affected(self, i: int, t: Tensor, y: Tensor) -> Tensor:
        """The states behind event i."""
        spec, name, affect = self.spec, f"affect of events[{i}]", self.events[i].affect
        assert affect is not None
        out = self._call(name, affect, t, y)
        leaves, tree = pytree.tree_flatten(out)
        if tree != (_LEAF if spec.tree is None else spec.tree):
            wanted = "a tensor" if spec.tree is None else f"that of y0, {spec.tree}"
            raise FunctionError(f"{name}: returned the structure {tree}; accepted is {wanted}.")
        shapes = spec.leaves if spec.tree is not None else (spec.shape,)
        for leaf, shape in zip(leaves, shapes, strict=True):
            if tuple(leaf.shape) != tuple(shape):
                raise FunctionError(
                    f"{name}: returned {self._shape(tuple(leaf.shape))} for y of {self._shape(tuple(shape))}; accepted "
                    "is y's own shape."
                )
        return spec.ravel(out)

    def _call(self, name: str, function: Callable[[Tensor, Any], Any], t: Tensor, y: Tensor) -> Any:
        """The user's function, of the batch or of one trajectory."""
        spec = self.spec
        if not self.system.problem.vectorize:
            t = t.reshape(-1) if spec.tree is not None and t.ndim else t
            if torch.compiler.is_compiling():
                return function(t, spec.unravel(y))
            before = version(y)
            with self.system.along or nullcontext():
                out = function(t, spec.unravel(y))
            out = self._checked(name, out)
            if version(y) != before:
                raise wrote_into_state(name)
            return out
        one = lambda time, state: self._checked(name, function(time, spec.unravel_one(state)))
        lane = None if t.ndim == 0 else 0
        return torch.func.vmap(one, in_dims=(lane, 0))(t if lane is None else t.reshape(-1), y)

    def _checked(self, name: str, out: Any) -> Any:
        """The same, if it is of tensors of the right kind."""
        tree, wanted = name.startswith("affect"), self.spec.time_dtype
        for leaf in pytree.tree_leaves(out) if tree else [out]:
            if not isinstance(leaf, Tensor):
                raise FunctionError(f"{name}: returned {type(leaf).__name__}; accepted is a torch tensor.")
            wanted = self.spec.dtype if tree else wanted
            if leaf.dtype != wanted:
                what = "a state" if tree else "a number that changes its sign at the event"
                raise FunctionError(f"{name}: returned dtype {leaf.dtype}; accepted is {what}, of dtype {wanted}.")
        return out


def occurrences(conditions: Conditions, rounds: list[Happened], ts: Tensor) -> tuple[Occurrences, ...]:
    """What happened, event by event, with times of the kind of the output times."""
    spec, owners = conditions.spec, np.array(conditions.owners)
    dtype = ts.dtype if ts.is_floating_point() else torch.float64
    row = lambda x, *shape: torch.full((1, *shape), x, dtype=torch.float64, device=spec.device)
    # behind everything a row for what did not happen
    times = torch.cat([*(r.time for r in rounds), row(torch.nan)]).to(dtype)
    ys = torch.cat([*(r.y for r in rounds), row(torch.nan, *spec.per_trajectory).to(spec.dtype)])
    lanes, which = (torch.cat([*x, row(-1).long()]) for x in ([r.lanes for r in rounds], [r.condition for r in rounds]))
    found = []
    for i in range(len(conditions.events)):
        first = int(np.argmax(owners == i))
        mine = (owners[which[:-1].cpu().numpy()] == i).nonzero()[0]
        place, counts = (torch.as_tensor(x, device=spec.device) for x in _placed(mine, lanes.cpu().numpy(), spec.batch))
        numbers = torch.where(place < 0, -1, which[place] - first)
        one = (lambda x: x) if spec.batched else (lambda x: x[..., 0])
        states = ys[place] if spec.batched else ys[place[:, 0]]
        found.append(Occurrences(one(times[place]), spec.unravel(states, lead=1), one(counts), one(numbers)))
    return tuple(found)


def _placed(
    mine: NDArray[np.int64], lanes: NDArray[np.int64], batch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of these rows the first, second, ... of each trajectory, (N, batch), -1 for none; and how many each has."""
    owner = lanes[mine]
    counts = np.bincount(owner, minlength=batch)
    place = np.full((counts.max(), batch), -1)
    order = np.argsort(owner, kind="stable")
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    place[rank, owner[order]] = mine[order]
    return place, counts
