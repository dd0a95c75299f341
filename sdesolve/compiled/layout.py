"""How the loop's carry travels through a compiled loop: few tensors, whose last dimension is the batch.

Each tensor that a ``while_loop`` carries costs some 100 ns a step, and C++ vectorises over the last dimension. So what
has one number a lane is stacked, integers and reals apart; and so are the components of states that have few.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from math import prod

import torch
from torch import Tensor

from sdesolve.lookout import Watch
from sdesolve.loop import Carry
from sdesolve.state import StateSpec

#: states of up to this many components are carried as component vectors
SMALL = 8
#: of the sides of conditions, -1, 0 and 1, which is NaN
_NAN = 2


def few_components(spec: StateSpec, cache: tuple[Tensor, ...]) -> bool:
    """Whether a state is carried as component vectors, and with it the method's cache: where a trajectory has few of
    them, and is one of several. Not of complex numbers, which are not fused into kernels."""
    small = (
        spec.batched and len(spec.shape) > 1 and 0 < prod(spec.per_trajectory) <= SMALL and not spec.dtype.is_complex
    )
    return small and all(x.shape == spec.shape and x.dtype == spec.dtype for x in cache)


def to_rows(y: Tensor) -> tuple[Tensor, ...]:
    """(batch, *state) -> its components, (batch,) each."""
    return y.flatten(1).unbind(1)


def from_rows(rows: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
    """The reverse for trajectories of this shape."""
    return torch.stack(rows, 1).unflatten(1, shape)


def pack_states(states: tuple[Tensor, ...], shape: tuple[int, ...] | None) -> tuple[Tensor, ...]:
    """New tensors that hold these, of one shape each: one tensor of their components, or copies."""
    if shape is None:
        return tuple(x.clone() for x in states)
    return (torch.stack([row for x in states for row in to_rows(x)]),)


def unpack_states(held: tuple[Tensor, ...], shape: tuple[int, ...] | None) -> tuple[Tensor, ...]:
    """The reverse."""
    if shape is None:
        return held
    rows, width = held[0].unbind(0), prod(shape)
    return tuple(from_rows(rows[k : k + width], shape) for k in range(0, len(rows), width))


@dataclass(frozen=True)
class Layout:
    """Of a carry.

    shape : of a trajectory where states are carried as components, else None. cache : number of tensors in the method's
    cache. clock : for each tensor of the clock, whether it is real. memory : numbers that the controller remembers.
    counted : steps report their evaluations. conditions : of events, how many.
    """

    shape: tuple[int, ...] | None
    cache: int
    clock: tuple[bool, ...]
    memory: int
    counted: bool = False
    conditions: int = 0

    @staticmethod
    def of(carry: Carry, spec: StateSpec) -> Layout:
        shape = spec.per_trajectory if few_components(spec, carry.cache) else None
        kinds = tuple(x.is_floating_point() for x in carry.clock)
        conditions = len(carry.watch.side) if isinstance(carry.watch, Watch) else 0
        return Layout(shape, len(carry.cache), kinds, len(carry.memory), carry.evaluations is not None, conditions)

    def room(self, spec: StateSpec, lanes: int, caches: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
        """Tensors of the shapes of a packed carry; caches : shapes of the tensors of a method's cache, behind the
        batch if there is one."""
        new = lambda shape, dtype: torch.empty(shape, dtype=dtype, device=spec.device)
        lead = (spec.batch,) if spec.batched else ()
        if self.shape is None:
            held = [new(spec.shape, spec.dtype), *(new((*lead, *shape), spec.dtype) for shape in caches)]
        else:
            held = [new(((1 + self.cache) * prod(self.shape), spec.batch), spec.dtype)]
        reals = new((sum(self.clock) + 1 + self.memory, lanes), spec.time_dtype)
        integers = new((len(self.clock) - sum(self.clock) + 2, lanes), torch.int64)
        return (*held, reals, integers, new((1 + self.counted, spec.batch), torch.int64))

    def pack(self, carry: Carry) -> tuple[Tensor, ...]:
        """New tensors: those of the state, reals and integers of the lanes, integers of the trajectories."""
        held = pack_states((carry.y, *carry.cache), self.shape)
        real = [x for x, kind in zip(carry.clock, self.clock, strict=True) if kind]
        whole = [x for x, kind in zip(carry.clock, self.clock, strict=True) if not kind]
        reals = torch.stack([*real, carry.h, *carry.memory])
        spent = () if carry.evaluations is None else (carry.evaluations,)
        return (
            *held,
            reals,
            torch.stack([*whole, carry.accepted, carry.rejected]),
            torch.stack([carry.status, *spent, *self._pack_watch(carry.watch)]),
        )

    def _pack_watch(self, watch: Watch | None) -> tuple[Tensor, ...]:
        """What is known of events, as integers; nobody waits."""
        if watch is None or not self.conditions:
            return ()
        waits = torch.zeros_like(watch.still) if watch.waits is None else watch.waits.to(torch.int64)
        return watch.still, waits, *torch.nan_to_num(watch.side, nan=_NAN).to(torch.int64).unbind(0)

    def unpack(self, packed: tuple[Tensor, ...]) -> Carry:
        """The reverse."""
        *held, reals, integers, own = packed
        status, *spent = own.unbind(0)
        watch = None
        if self.conditions:
            side = own[-self.conditions :].to(reals.dtype)
            still, waits = own[-self.conditions - 2], own[-self.conditions - 1] > 0
            watch = Watch(torch.where(side == _NAN, torch.nan, side), still, waits)
            spent = spent[: self.counted]
        states = unpack_states(tuple(held), self.shape)
        real, whole = iter(reals.unbind(0)), iter(integers.unbind(0))
        clock = tuple(next(real if kind else whole) for kind in self.clock)
        h, memory = next(real), tuple(islice(real, self.memory))
        carry = Carry(states[0], tuple(states[1:]), clock, h, memory, status, next(whole), next(whole), *spent)
        return carry._replace(watch=watch)
