"""Going back through many steps in stretches, few of whose states are held at a time.

Of N steps, s states are kept on the way forwards. On the way back a stretch between two of them is taken again, from
the state at its start; if it is long, it is divided, and a state in its middle is kept where one that is done with made
room. Divided in the best way, s states reach over C(s + r, s) stretches if each step may be taken again r times
(Griewank & Walther 2000, ACM Trans. Math. Softw. 26:1, "revolve").
"""

from __future__ import annotations

from math import comb
from typing import Generic, TypeVar

from sdesolve.methods.method import State

#: what is known behind a step: gradients by the state there
Cotangent = TypeVar("Cotangent")


class Stretches(Generic[Cotangent]):
    """The order in which stretches are gone through. room : how many states may be held, and steps are in a stretch."""

    def __init__(self, room: int) -> None:
        self.room = room

    def between(self, state: State, first: int, last: int) -> State:
        """The state behind the steps first <= k < last, from that before them."""
        raise NotImplementedError

    def pulled(self, first: int, last: int, state: State, cotangent: Cotangent) -> Cotangent:
        """The cotangent of the state before these steps, from that behind them."""
        raise NotImplementedError

    def back(self, kept: dict[int, State], last: int, cotangent: Cotangent) -> Cotangent:
        """From behind step ``last`` to the start. Kept states, by the number of steps before them, go as they are done
        with, all but the first: should someone ask again, this one is enough."""
        if last > 0:
            kept.pop(last, None)
        while last > 0:
            first = max(k for k in kept if k < last)
            state = kept.pop(first) if first else kept[0]
            free = self.room - len(kept) - (first > 0)
            cotangent = self._stretch(first, last, state, cotangent, free)
            last = first
        return cotangent

    def _stretch(self, first: int, last: int, state: State, cotangent: Cotangent, free: int) -> Cotangent:
        """The same for the steps first <= k < last; ``free`` states more may be kept."""
        while last - first > self.room:
            units = -(-(last - first) // self.room)
            middle = first + self.room * divide(units, free + 1)
            cotangent = self._stretch(middle, last, self.between(state, first, middle), cotangent, free - 1)
            last = middle
        return self.pulled(first, last, state, cotangent)


def divide(count: int, states: int) -> int:
    """Behind how many of ``count`` > 1 stretches to keep a state, where so many may be held, that at the start among
    them."""
    again = 0
    while comb(states + again, states) < count:
        again += 1
    # the first part is gone through once less with as many states, the second as often with one state less
    return min(comb(states + again - 1, states), count - 1)
