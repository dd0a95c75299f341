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
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sdesolve.along import Along
from sdesolve.coupling import same
from sdesolve.semilinear import Semilinear
from sdesolve.system import System, version

#: (t, y, what they read in the place of tensors that they carry with them) -> tensors with the batch in front, for any
#: number of trajectories: t is (batch,)
Values = Callable[[Tensor, Tensor, Any], list[Tensor]]


def divisible(values: Values, t: Tensor, y: Tensor, lanes: Tensor) -> bool:
    """Whether these trajectories, two or more but not all, may go on as a batch of their own. The functions are asked
    at times t, (batch,), and states y."""
    return carried(values, t, y, lanes, Along({})) is not None


def carried(values: Values, t: Tensor, y: Tensor, lanes: Tensor, before: Along | None = None) -> Along | None:
    """The same, with what the functions are to read then of tensors that they carry with them; None: they may not.
    before : what they read now, None for those tensors themselves."""
    try:
        whole = _Trace(values, t, y, before)
        ways = [Along(whole.in_rows()), Along({})] if before is None else [before]
    except Exception:
        return None
    for now in ways if ways[0].rows else ways[-1:]:
        try:
            then = now.part(lanes)
            part = _Trace(values, t[lanes], y[lanes], then)
            if _alike(whole, part, lanes):
                return then
        except Exception:
            continue
    return None


def values_of(system: System, t: Tensor, y: Tensor, along: Any = None) -> list[Tensor]:
    """All that a step may ask of a problem, with the batch in front, at times (n,)."""
    system = system.resized(len(y), along)
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
    that depend on neither, with how often they had been written into; None for what does depend on them. shape : of
    what it gives."""

    name: Any
    numbers: tuple[Any, ...]
    constants: tuple[tuple[Tensor, int | None] | None, ...]
    shape: tuple[int, ...]

    def by_rows(self, x: Tensor) -> bool:
        """Whether each row of what it gives has its row of a constant."""
        if torch.Tag.pointwise not in getattr(self.name, "tags", ()) and not _copies(self.name):
            return self.name == "values"
        return x.ndim == len(self.shape) and x.shape[:1] == self.shape[:1]


class _Trace(TorchDispatchMode):
    """What functions do at t and y. found : their values. operations : see above. free : of what they found on the way
    no number, and no truth, was read into Python."""

    def __init__(self, values: Values, t: Tensor, y: Tensor, along: Along | None) -> None:
        super().__init__()
        self.operations, self.batch = list[_Operation](), len(y)
        self.free, self.read, self.results = True, dict[int, Tensor](), dict[int, Tensor]()
        t, y = t.clone(), y.clone()  # in memory that nothing else has
        self._kept, self._made = [t, y], set[int]()
        self._moving = {_memory(t), _memory(y)}
        with torch.no_grad(), _Calls(self), self:
            self.found = values(t, y, along)
        self.operations.append(_Operation("values", (), self._constants(self.found), ()))

    def called(self, name: str, tensors: list[Tensor]) -> None:
        """Note that a function of torch is called with these tensors, which may never come to an operation."""
        for x in tensors:
            if is_functorch_wrapped_tensor(x):
                continue
            if name in _INTO_PYTHON and _memory(x) in self._moving:
                self.free = False
            if x.shape[:1] == (self.batch,) and id(x) not in self.results:
                self.read[id(x)] = x

    def in_rows(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Of the tensors that are read, those with as many rows as the batch has that were there before, and of which
        operations read one row a trajectory."""
        others = self._moving | self._made
        for operation in self.operations:
            read = (x[0] for x in operation.constants if x is not None)
            others |= {_memory(x) for x in read if not operation.by_rows(x)}
        return {k: (x, x) for k, x in self.read.items() if _memory(x) not in others}

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
            self.operations.append(_Operation(func, numbers, constants, tuple(found[0].shape) if found else ()))
        else:
            self._made |= memory.difference(map(_memory, tensors))
        return out

    def _constants(self, tensors: list[Tensor]) -> tuple[tuple[Tensor, int | None] | None, ...]:
        """Those among them: tensors that the functions have made may be written into later."""
        found = []
        for x in tensors:
            memory = _memory(x)
            here = x.clone() if memory in self._made else x
            found.append(None if memory in self._moving else (here, version(here)))
        return tuple(found)


class _Calls(TorchFunctionMode):
    """Tells a trace of calls as they are written in Python."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.trace.called(getattr(func, "__name__", ""), tensors)
        out = func(*args, **(kwargs or {}))
        self.trace.results |= {id(x): x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)}
        return out


#: read numbers out of a tensor past all operations
_INTO_PYTHON = {"numpy", "tolist", "__array__", "__dlpack__"}


def _memory(x: Tensor) -> int:
    """By which a tensor and its views are known."""
    return x.untyped_storage()._cdata


def _is_size(x: Any) -> bool:
    return isinstance(x, (list, tuple)) and len(x) > 0 and all(type(k) is int for k in x)


def _fills(func: Any) -> bool:
    """Of the tensor that it is given reads the shape alone."""
    name = func._schema.name.removeprefix("aten::")
    return name.endswith("_like") or name.startswith("new_")


def _copies(func: Any) -> bool:
    """Whether it writes one tensor into another."""
    return getattr(func, "_schema", None) is not None and func._schema.name == "aten::copy_"


def _alike(whole: _Trace, part: _Trace, lanes: Tensor) -> bool:
    """Whether nothing but sizes and rows tells one from the other."""
    n, m = whole.batch, part.batch
    operations = zip(whole.operations, part.operations, strict=True)
    values = zip(whole.found, part.found, strict=True)
    return (
        whole.free
        and part.free
        and all(_same_operation(a, b, n, m, lanes) for a, b in operations)
        and all(same(a.index_select(0, lanes), b) for a, b in values)
    )


def _same_operation(a: _Operation, b: _Operation, n: int, m: int, lanes: Tensor) -> bool:
    if a.name is not b.name and a.name != b.name:
        return False
    rows = lambda x, y: None not in (x, y) and _rows_of(x[0], y[0], lanes) and a.by_rows(x[0]) and b.by_rows(y[0])
    view = getattr(a.name, "is_view", False)
    numbers = zip(a.numbers, b.numbers, strict=True)
    constants = zip(a.constants, b.constants, strict=True)
    return all(_same_number(x, y, n, m, view) for x, y in numbers) and all(
        _same_constant(x, y) or rows(x, y) for x, y in constants
    )


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


def _rows_of(x: Tensor, y: Tensor, lanes: Tensor) -> bool:
    """Whether y is these rows of x."""
    there = x.ndim == y.ndim > 0 and x.shape[1:] == y.shape[1:] and len(y) == len(lanes) < len(x)
    return there and _equal(x.index_select(0, lanes), y)


def _equal(x: Tensor, y: Tensor) -> bool:
    """As torch.equal, but NaN is equal to NaN."""
    return bool(((x == y) | ((x != x) & (y != y))).all())
