"""Pictures of a solution with matplotlib: components against time, and phase portraits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.errors import message
from sdesolve.state import named_leaves

if TYPE_CHECKING:
    from sdesolve.solution import Solution

KINDS = ("time", "phase")

#: trajectories and components of a leaf that are drawn where nothing is said
TRAJECTORIES, COMPONENTS = 20, 4

#: trajectories drawn over a band of quantiles where nothing is said
OVER_BAND = 5


@dataclass(frozen=True)
class Leaf:
    """One tensor of the state: values (T, batch, *shape), for a complex one with the parts behind."""

    name: str
    values: Tensor
    is_complex: bool

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one trajectory."""
        return tuple(self.values.shape[2:])

    def component(self, number: int, leaf: int) -> Component:
        """A number of a trajectory's state, counted in the order of memory."""
        place = np.unravel_index(number, self.shape) if self.shape else ()
        values = self.values.reshape(*self.values.shape[:2], -1)[..., number]
        entry = [str(k) for k in (place[:-1] if self.is_complex else place)]
        name = f"{self.name}[{', '.join(entry)}]" if entry else self.name
        if self.is_complex:
            name = f"{'Im' if place[-1] else 'Re'} {name}"
        return Component(name, leaf, values.numpy())


@dataclass(frozen=True)
class Component:
    """A real number of the state over time: values (T, batch); leaf : which panel it belongs to."""

    name: str
    leaf: int
    values: NDArray[Any]


def plot(
    solution: Solution,
    kind: str,
    components: int | Sequence[int] | None,
    trajectories: int | Sequence[int] | None,
    labels: Sequence[str] | None,
    quantiles: tuple[float, float] | None,
    ax: Any,
) -> Any:
    """What :meth:`sdesolve.Solution.plot` does."""
    if kind not in KINDS:
        raise ValueError(message("kind", repr(kind), " or ".join(map(repr, KINDS))))
    _check_quantiles(quantiles)
    leaves = [_leaf(name, values, solution.batched) for name, values in named_leaves(solution.ys)]
    choose = _two if kind == "phase" else _some
    chosen = _labelled([_component(leaves, k) for k in choose(leaves, components)], labels)
    batch = leaves[0].values.shape[1]
    banded = kind == "time" and quantiles is not None and solution.seed is not None and solution.ts.ndim == 1
    usual = OVER_BAND if banded and batch > TRAJECTORIES else TRAJECTORIES
    picked = _picked(usual if trajectories is None else trajectories, batch)
    if kind == "phase":
        (axes,) = _axes(ax, 1, (5.0, 4.5))
        return _phase(axes, picked, *chosen)
    panels = list(dict.fromkeys(component.leaf for component in chosen))
    found = _axes(ax, len(panels), (7.0, 1.6 + 2.4 * len(panels)))
    for axes, panel in zip(found, panels, strict=True):
        of_panel = [component for component in chosen if component.leaf == panel]
        for color, component in enumerate(of_panel):
            if banded and quantiles is not None and len(picked) < batch:
                _band(axes, solution.ts, component, quantiles, f"C{color % 10}")
            _lines(axes, solution.ts, component, picked, f"C{color % 10}")
        if len(panels) > 1:
            axes.set_title(leaves[panel].name, fontsize="medium")
        axes.legend(loc="best", fontsize="small")
    found[-1].set_xlabel("t")
    return found[0] if len(found) == 1 else np.array(found)


def _lines(axes: Any, ts: Tensor, component: Component, picked: Sequence[int], color: str) -> None:
    """One line a trajectory; the first has the label."""
    style = {"color": color, "lw": 1.2 if len(picked) == 1 else 0.9, "alpha": 1.0 if len(picked) == 1 else 0.7}
    for k, i in enumerate(picked):
        times = (ts if ts.ndim == 1 else ts[i]).detach().cpu().numpy()
        axes.plot(times, component.values[:, i], label=component.name if k == 0 else None, **style)


def _band(axes: Any, ts: Tensor, component: Component, quantiles: tuple[float, float], color: str) -> None:
    """Between the two quantiles over all trajectories that have not failed."""
    values = torch.from_numpy(component.values)
    ends = torch.tensor(quantiles, dtype=values.dtype)
    # row by row: torch.quantile takes no more than 2^24 numbers
    low, high = torch.stack([row.nanquantile(ends) for row in values], 1).numpy()
    axes.fill_between(ts.detach().cpu().numpy(), low, high, color=color, alpha=0.2, lw=0)


def _phase(axes: Any, picked: Sequence[int], first: Component, second: Component) -> Any:
    """The second component over the first; a dot where each trajectory starts."""
    for k, i in enumerate(picked):
        x, y = first.values[:, i], second.values[:, i]
        axes.plot(x, y, color=f"C{k % 10}", lw=1.0, alpha=0.8)
        axes.scatter(x[:1], y[:1], color=f"C{k % 10}", s=14, zorder=3)
    axes.set_xlabel(first.name)
    axes.set_ylabel(second.name)
    return axes


def _leaf(name: str, values: Tensor, batched: bool) -> Leaf:
    values = values.detach().cpu()
    values = values if batched else values.unsqueeze(1)
    return Leaf(name, torch.view_as_real(values.resolve_conj()) if values.is_complex() else values, values.is_complex())


def _starts(leaves: Sequence[Leaf]) -> list[int]:
    """The number of each leaf's first component among all, and behind them how many there are."""
    counts = [prod(leaf.shape) for leaf in leaves]
    return [sum(counts[:k]) for k in range(len(counts) + 1)]


def _component(leaves: Sequence[Leaf], number: int) -> Component:
    starts = _starts(leaves)
    leaf = int(np.searchsorted(starts, number, side="right")) - 1
    return leaves[leaf].component(number - starts[leaf], leaf)


def _some(leaves: Sequence[Leaf], components: int | Sequence[int] | None) -> list[int]:
    """Numbers of the components to be drawn against time: the first of each leaf, or those named."""
    starts = _starts(leaves)
    if not starts[-1]:
        raise ValueError(message("plot", "a state without components", "a state of one or more"))
    given = COMPONENTS if components is None else components
    most = _count("components", given)
    if most is not None:
        return [k for first, last in pairwise(starts) for k in range(first, min(first + most, last))]
    return _numbers("components", given, starts[-1])


def _two(leaves: Sequence[Leaf], components: int | Sequence[int] | None) -> list[int]:
    """Numbers of the two components of a phase portrait: by default the first of two leaves, or the first two."""
    starts = _starts(leaves)
    accepted = "the numbers of two components, as (0, 1)"
    if components is None:
        filled = [first for first, last in pairwise(starts) if last > first]
        if starts[-1] < 2:
            got = f"a state of {starts[-1]} component for kind='phase'"
            raise ValueError(message("kind", got, "a state of two or more", "Draw it against time with kind='time'."))
        return filled[:2] if len(filled) > 1 else [0, 1]
    found = [] if isinstance(components, Integral) else _numbers("components", components, starts[-1])
    if len(found) != 2:
        raise ValueError(message("components", f"{components!r} for kind='phase'", accepted))
    return found


def _picked(trajectories: int | Sequence[int], batch: int) -> list[int]:
    """Places in the batch: the first so many, or those named."""
    most = _count("trajectories", trajectories)
    return _numbers("trajectories", trajectories, batch) if most is None else list(range(min(most, batch)))


def _count(argument: str, given: Any) -> int | None:
    """How many, if that is what is said; None for a sequence of numbers."""
    if not isinstance(given, Integral) or isinstance(given, bool):
        return None
    if int(given) < 1:
        raise ValueError(message(argument, repr(given), "a number of them >= 1, or a sequence of their numbers"))
    return int(given)


def _numbers(argument: str, given: Any, count: int) -> list[int]:
    """Integers in [0, count), at least one."""
    accepted = f"a number of them, or a sequence of integers from 0 to {count - 1}"
    try:
        found = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    except ValueError:
        found = np.empty(0)
    if found.ndim != 1 or not len(found) or found.dtype.kind not in "iu":
        raise TypeError(message(argument, repr(given), accepted))
    if found.min() < 0 or found.max() >= count:
        raise ValueError(message(argument, repr(given), accepted))
    return [int(k) for k in found]


def _labelled(chosen: list[Component], labels: Sequence[str] | None) -> list[Component]:
    if labels is None:
        return chosen
    if isinstance(labels, str) or len(labels) != len(chosen):
        got = repr(labels) if isinstance(labels, str) else f"{len(labels)} names"
        names = ", ".join(component.name for component in chosen)
        raise ValueError(message("labels", got, f"{len(chosen)} names, one a component drawn ({names})"))
    return [Component(label, own.leaf, own.values) for own, label in zip(chosen, labels, strict=True)]


def _check_quantiles(quantiles: Any) -> None:
    if quantiles is None:
        return
    try:
        low, high = quantiles
        good = bool(0 <= low < high <= 1)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(message("quantiles", repr(quantiles), "two numbers, 0 <= low < high <= 1, or None"))


def _axes(ax: Any, panels: int, size: tuple[float, float]) -> list[Any]:
    """The given axes, or a new figure's, one a panel below the other."""
    if ax is None:
        return list(_subplots()(panels, 1, sharex=True, figsize=size, layout="constrained", squeeze=False)[1][:, 0])
    found = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(found) != panels or not all(hasattr(axes, "fill_between") for axes in found):
        one = "one matplotlib Axes" if panels == 1 else f"{panels} matplotlib Axes, one a leaf of the state"
        got = f"{len(found)} Axes" if all(hasattr(axes, "fill_between") for axes in found) else repr(ax)
        raise ValueError(message("ax", got, one))
    return found


def _subplots() -> Callable[..., Any]:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        advice = "Install it with pip install sdesolve[plot]."
        raise ImportError(message("plot", "no package matplotlib", "matplotlib >= 3.8", advice)) from error
    return pyplot.subplots
