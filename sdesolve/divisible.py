"""Whether functions give a part of a batch what they give it within the whole.

Those that read tensors of one batch, or number its trajectories, do not. Values at one time would not show it: a force
may be switched on later. So what the functions are made of is looked at as well: both times they must perform the same
operations, with the same numbers, and with the same tensors beside those that come from times and states. Only sizes
may differ, as the batches do, and tensors all of whose rows are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sdesolve.coupling import same
from sdesolve.semilinear import Semilinear
from sdesolve.system import System, version

#: (t, y) -> tensors with the batch in front, for any number of trajectories: t is (batch,)
Values = Callable[[Tensor, Tensor], list[Tensor]]


def divisible(values: Values, t: Tensor, y: Tensor, lanes: Tensor) -> bool:
    """Whether these trajectories, two or more but not all, may go on as a batch of their own. The functions are asked
    at times t, (batch,), and states y."""
    with torch.no_grad():
        try:
            whole, part = _Trace(values, t, y), _Trace(values, t[lanes], y[lanes])
            if not _alike(whole, part, len(y), len(lanes)):
                return False
        except Exception:
            return False
        return all(same(a.index_select(0, lanes), b) for a, b in zip(whole.found, part.found, strict=True))


def values_of(system: System, t: Tensor, y: Tensor) -> list[Tensor]:
    """All that a step may ask of a problem, with the batch in front, at times (n,)."""
    system = system.resized(len(y))
    spec, problem, t = system.spec, system.problem, system.spec.expand(t)
    found = [system.drift(t, y)]
    if system.is_sde:
        found.append(system.diffusion_in_full(t, y))
    if system.has_jacobian:
        found.append(system.jacobian(t, y))
    if isinstance(problem, Semilinear) and callable(getattr(problem, "integral", None)):
        found.append(system.coefficient("integral", t).expand(spec.shape))
    return found


class _Operation(NamedTuple):
    """One of a function's that depends on times and states: what it is, its arguments that are no tensors, and those
    that depend on neither, with how often they had been written into; None for what does depend on them."""

    name: Any
    numbers: tuple[Any, ...]
    constants: tuple[tuple[Tensor, int | None] | None, ...]


class _Trace(TorchDispatchMode):
    """What functions do at t and y. found : their values. operations : see above. free : of what they found on the way
    no number, and no truth, was read into Python."""

    def __init__(self, values: Values, t: Tensor, y: Tensor) -> None:
        super().__init__()
        self.operations: list[_Operation] = []
        self.free = True
        t, y = t.clone(), y.clone()  # in memory that nothing else has
        self._kept, self._made = [t, y], set[int]()
        self._moving = {_memory(t), _memory(y)}
        with self:
            self.found = values(t, y)
        self.operations.append(_Operation("values", (), self._constants(self.found)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = pytree.tree_leaves((args, kwargs), is_leaf=_is_size)
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        constants = self._constants(tensors)
        out = func(*args, **kwargs)
        results = pytree.tree_leaves(out)
        found = [x for x in results if isinstance(x, Tensor)]
        self._kept += [*tensors, *found]  # no memory is used twice
        memory = set(map(_memory, found))
        if None in constants and not _fills(func):
            self._moving |= memory
            self.free = self.free and len(found) == len([x for x in results if x is not None])
            numbers = tuple(x for x in leaves if not isinstance(x, Tensor))
            self.operations.append(_Operation(func, numbers, constants))
        else:
            self._made |= memory
        return out

    def _constants(self, tensors: list[Tensor]) -> tuple[tuple[Tensor, int | None] | None, ...]:
        """Those among them: tensors that the functions have made may be written into later."""
        found = []
        for x in tensors:
            memory = _memory(x)
            here = x.clone() if memory in self._made else x
            found.append(None if memory in self._moving else (here, version(here)))
        return tuple(found)


def _memory(x: Tensor) -> int:
    """By which a tensor and its views are known."""
    return x.untyped_storage()._cdata


def _is_size(x: Any) -> bool:
    return isinstance(x, (list, tuple)) and len(x) > 0 and all(type(k) is int for k in x)


def _fills(func: Any) -> bool:
    """Of the tensor that it is given reads the shape alone."""
    name = func._schema.name.removeprefix("aten::")
    return name.endswith("_like") or name.startswith("new_")


def _alike(whole: _Trace, part: _Trace, n: int, m: int) -> bool:
    """Whether nothing but sizes tells one from the other."""
    pairs = zip(whole.operations, part.operations, strict=True)
    return whole.free and part.free and all(_same_operation(a, b, n, m) for a, b in pairs)


def _same_operation(a: _Operation, b: _Operation, n: int, m: int) -> bool:
    if a.name is not b.name and a.name != b.name:
        return False
    view = getattr(a.name, "is_view", False)
    numbers = zip(a.numbers, b.numbers, strict=True)
    constants = zip(a.constants, b.constants, strict=True)
    return all(_same_number(x, y, n, m, view) for x, y in numbers) and all(_same_constant(x, y) for x, y in constants)


def _same_number(x: Any, y: Any, n: int, m: int, view: bool) -> bool:
    """Equal, or sizes that differ as the batches do."""
    if type(x) is not type(y):
        return False
    if _is_size(x):
        return len(x) == len(y) and all(i == j or i * m == j * n for i, j in zip(x, y, strict=True))
    if view and type(x) is int and x * m == y * n:
        return True
    return bool(x == y or (x != x and y != y))


def _same_constant(a: tuple[Tensor, int | None] | None, b: tuple[Tensor, int | None] | None) -> bool:
    """Equal, or of rows that are alike, and more of them in one."""
    if a is None or b is None:
        return a is b
    (x, before), (y, after) = a, b
    if x.ndim != y.ndim or x.dtype != y.dtype:
        return False
    if x.shape == y.shape:
        there = x.data_ptr() == y.data_ptr() and x.stride() == y.stride()
        return before == after if there else _equal(x, y)
    one, other = x, y
    for dim, sizes in enumerate(zip(x.shape, y.shape, strict=True)):
        if sizes[0] != sizes[1]:
            one, other = one.narrow(dim, 0, 1), other.narrow(dim, 0, 1)
    return _equal(one, other) and _equal(one.expand_as(x), x) and _equal(other.expand_as(y), y)


def _equal(x: Tensor, y: Tensor) -> bool:
    """As torch.equal, but NaN is equal to NaN."""
    return bool(((x == y) | ((x != x) & (y != y))).all())
