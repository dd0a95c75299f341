"""Where to look at a function: states near a given one, moves of a part of a state, and what they change.

A function whose value does not depend on a part of the state gives the same numbers wherever that part stands, whether
or not it has derivatives. Only rounding may tell them apart, and that does not fall when the moves get shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.state import StateSpec
from sdesolve.testing.functions import Function

#: how parts of a state move: by factors that keep their signs, by one to three times their size, and by one to three
KINDS = ("relative", "absolute", "unit")
#: lengths of a move: the second one where the first leads out of the function's domain
SIZES = (1.0, 0.05)
#: the least number of moves from a state
MOVES = 8
#: short moves that measure rounding, and how much longer ones must exceed it
SHORT_MOVES, EXCESS = 8, 16.0


class Change(NamedTuple):
    """One element of a value that changed, though nothing that it may depend on had moved.

    ``place`` is its index in the value, ``state`` the moved state, ``before`` and ``after`` the two numbers.
    """

    place: tuple[int, ...]
    state: Tensor
    before: float | complex
    after: float | complex


class Mover:
    """Draws random moves."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, y: Tensor) -> Tensor:
        """Numbers between 1/2 and 3/2, of random signs: no move is short."""
        real = y.dtype.to_real()
        size, other = (torch.rand(y.shape, generator=self._generator, dtype=real) for _ in range(2))
        found = (size + 0.5) * torch.where(other < 0.5, -1.0, 1.0).to(real)
        if y.dtype.is_complex:
            found = found * torch.exp(2j * torch.pi * torch.rand(y.shape, generator=self._generator, dtype=real))
        return found.to(y.device, y.dtype)

    def near(self, y: Tensor, kind: str, size: float) -> Tensor:
        """A state near y."""
        away = size * self.draw(y)
        if kind == "unit":
            return y + 2 * away
        length = y.abs()
        typical = length.mean()
        length = torch.where(length > 0, length, torch.where(typical > 0, typical, 1.0))
        if kind == "absolute":
            return y + 2 * length * away
        return torch.where(y.abs() > 0, y * torch.exp(0.3 * away), 0.3 * length * away)


def separating(count: int) -> Iterator[Tensor]:
    """Boolean masks (count,): of every two things, each is in a mask without the other.

    These are the 2 ceil(log2(count)) bits of the things' numbers, again and again where there are few.
    """
    index, bits = torch.arange(count), max(count - 1, 0).bit_length()
    for bit in range(max(MOVES // 2, bits) if bits else 0):
        chosen = (index >> bit % bits) & 1 == 1
        yield chosen
        yield ~chosen


def change(
    function: Function,
    y: Tensor,
    value: Tensor,
    moved: Tensor,
    watched: Tensor,
    mover: Mover,
    kind: str,
    tolerance: float,
    spec: StateSpec,
) -> Change | None:
    """What of ``value``, where ``watched``, changes when y moves where ``moved``; None: nothing does.

    The masks broadcast against y and the value. A change counts if it is above ``tolerance`` of what changes, and above
    rounding: above ``tolerance`` of the trajectory's largest element, or the root of the rounding unit of its own size,
    and on the batch's average above what short moves change, by a factor.
    """
    watched = watched.expand(value.shape)
    for size in SIZES:
        state = torch.where(moved, mover.near(y, kind, size), y)
        found = function.tried(state)
        if found is None:
            continue
        away = distance(value, found)
        wrong = watched & _above_rounding(away, torch.maximum(value.abs(), found.abs()), tolerance, spec)
        if bool(wrong.any()):
            wrong &= _average(away, spec) > EXCESS * _rounding(function, y, state, moved, mover, kind, spec)
        if bool(wrong.any()):
            first = torch.where(wrong, away, -1.0).argmax()
            index = tuple(int(i) for i in torch.unravel_index(first, value.shape))
            return Change(index, state, value[index].item(), found[index].item())
        if bool(torch.isfinite(torch.where(watched, found, 0.0)).all()):
            return None
    return None


def distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|, 0 where one of them is not finite."""
    return torch.where(torch.isfinite(a) & torch.isfinite(b), (a - b).abs(), 0.0)


def _above_rounding(away: Tensor, size: Tensor, tolerance: float, spec: StateSpec) -> Tensor:
    dims = tuple(range(1 if spec.batched else 0, size.ndim))
    largest = size.nan_to_num(0.0, 0.0).amax(dims, keepdim=True) if dims else size
    root = torch.finfo(size.dtype).eps ** 0.5
    return (away > tolerance * size) & ((away > tolerance * largest) | (away > root * size))


def _average(away: Tensor, spec: StateSpec) -> Tensor:
    return away.mean(0, keepdim=True) if spec.batched else away


def _rounding(
    function: Function, y: Tensor, state: Tensor, moved: Tensor, mover: Mover, kind: str, spec: StateSpec
) -> Tensor:
    """How much the value changes, at most, over moves from y and from ``state`` by the root of the rounding unit."""
    short = torch.finfo(y.dtype).eps ** 0.5
    largest = torch.zeros((), dtype=y.dtype.to_real(), device=y.device)
    for start in (y, state):
        value = function.call(start)
        for _ in range(SHORT_MOVES):
            found = function.tried(torch.where(moved, mover.near(start, kind, short), start))
            if found is not None:
                largest = torch.maximum(largest, _average(distance(value, found), spec))
    return largest


def culprit(
    function: Function, y: Tensor, change: Change, places: Tensor, mask: Callable[[Tensor], Tensor], tolerance: float
) -> int | None:
    """The one of the moved ``places`` whose move alone changes the element; None: only several together do.

    ``mask`` gives the mask of y for some of them.
    """
    while len(places) > 1:
        half = len(places) // 2
        for some in (places[:half], places[half:]):
            found = function.tried(torch.where(mask(some), change.state, y))
            if found is not None and abs(found[change.place].item() - change.before) > tolerance * abs(change.before):
                places = some
                break
        else:
            return None
    return int(places[0]) if len(places) else None
