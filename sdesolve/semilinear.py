"""Semilinear problems: a linear part that is solved exactly, whatever its size, and the rest.

dy = (A(t) y + f(t, y)) dt + g(t) dW      with A elementwise, so that exp(int A) is elementwise as well
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Complex, Real
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sdesolve.errors import FunctionError, message
from sdesolve.problem import Problem
from sdesolve.state import StateSpec

_ACCEPTED = "a number, a tensor or a function of t alone (for a pytree y0 also a pytree of them)"


class Semilinear(Problem):
    """dy = (A(t) y + f(t, y)) dt + g(t) dW, elementwise in A and g; without g an ODE.

    The exponential methods, among them the default ``"exponential_heun"``, take constant A and g exactly, and functions
    of t but for O(h^7): no step is too long for a stiff A, and for f = 0 a step has the law of the Ornstein-Uhlenbeck
    process. Every other method solves the problem as well, with drift A y + f and additive diagonal noise, for which
    both calculi agree.

    Parameters
    ----------
    A : rate, in 1 / time: a number, a tensor or a function ``A(t)``, that broadcasts against y; for a pytree y0 also a
        pytree of its structure. ``t`` is 0-d when all trajectories share a clock, and for pytrees; else
        ``(batch, 1, ..., 1)`` with y's rank.
    f : ``f(t, y)`` with y's shape, the rest of the drift, as for :class:`ODE`. Default None: 0.
    g : size of the noise, one Brownian motion an element; like A. Default None: there is no noise.
    integral : an antiderivative of A, ``t -> int_0^t A`` or one that differs from it by a constant, of A's shape.
        Default None: A is integrated numerically over each step, exactly where it is a polynomial of degree 6 in t.
    batched, vectorize, allow_training : see :class:`Problem`; by default True, False, False.

    A subclass may define methods ``A(self, t)``, ``f(self, t, y)``, ``g(self, t)`` and ``integral(self, t)`` instead.
    Tensors are held as buffers and read in y's dtype; what a function returns must have it. Numbers become part of
    compiled code, which is made again for others. A and g are complex only where y is.

    Raises
    ------
    TypeError, ValueError : an argument of another kind. During a solve :class:`sdesolve.errors.FunctionError`, a
        ValueError, for shapes and dtypes.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> stiff = ss.Semilinear(-1e4, lambda t, y: torch.sin(y), g=100.0)
    >>> sol = ss.solve(stiff, torch.ones(4000, 1), torch.tensor([0.0, 1.0]), dt=0.1, seed=0)
    >>> abs(sol.ys[-1].var().item() - 0.5) < 0.05
    True
    """

    kind = "Semilinear"
    functions = ("f", "g")
    given = ("A", "f", "g", "integral")

    def __init__(
        self,
        A: Any = None,
        f: Callable[[Tensor, Any], Any] | None = None,
        g: Any = None,
        *,
        integral: Callable[[Tensor], Any] | None = None,
        batched: bool = True,
        vectorize: bool = False,
        allow_training: bool = False,
    ) -> None:
        super().__init__(batched=batched, vectorize=vectorize, allow_training=allow_training)
        for name, value in (("A", A), ("f", f), ("g", g), ("integral", integral)):
            self._hold(name, value)
        if self.constant("A") and self._has("integral"):
            advice = "A constant A is integrated exactly; pass integral= with a function A."
            raise ValueError(message("integral", "a function beside a constant A", "None there", advice))
        if self._has("g"):
            self.noise, self.additive, self.commutative, self.calculus = "diagonal", True, True, "ito"

    def _hold(self, name: str, value: Any) -> None:
        """Register what was given for A, f, g or integral, or accept the method of a subclass."""
        if value is None:
            if callable(getattr(type(self), name, None)):
                return
            if name == "A":
                raise TypeError(message("A", "nothing", _ACCEPTED, "Without a linear part, write ss.ODE or ss.SDE."))
            setattr(self, name, None)
        elif callable(value):
            setattr(self, name, value)
        elif name in ("f", "integral"):
            accepted = "a function (t, y) -> tensor, or None" if name == "f" else "a function t -> int_0^t A, or None"
            raise TypeError(message(name, _shown(value), accepted))
        elif isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter):
            self.register_buffer(name, value, persistent=False)
        else:
            for leaf in pytree.tree_leaves(value):
                if not isinstance(leaf, Tensor) and not _is_number(leaf):
                    raise TypeError(message(name, _shown(leaf), _ACCEPTED))
            setattr(self, name, float(value) if isinstance(value, Real) else value)

    def _has(self, name: str) -> bool:
        return getattr(self, name, None) is not None

    def constant(self, name: str) -> bool:
        """Whether A or g is the same at all times."""
        return not callable(getattr(self, name))

    def coefficient(self, name: str, t: Tensor, spec: StateSpec) -> Tensor:
        """A, g or the integral at a time, in the form in which the solver holds the state, against which it broadcasts.
        t : 0-d or (batch, 1, ..., 1)."""
        shapes = spec.leaves if spec.tree is not None else (spec.shape,)
        found = self._by_leaf(name, t, [len(shape) for shape in shapes], spec)
        parts = [_checked(name, x, shape, spec) for x, shape in zip(found, shapes, strict=True)]
        if spec.tree is None:
            return parts[0]
        return spec.ravel([part.expand(shape) for part, shape in zip(parts, shapes, strict=True)])

    def _by_leaf(self, name: str, t: Tensor, ranks: list[int], spec: StateSpec) -> list[Any]:
        """What belongs to each leaf of the state; one time a trajectory is handed on as it is to functions of the whole
        batch, for which a plain state says how it broadcasts."""
        given = getattr(self, name)
        if not callable(given):
            return [_in_precision(_leaf(name, given, i, spec), spec) for i in range(len(ranks))]
        if t.ndim == 0 or (spec.tree is None and not self.vectorize):
            value = _called(name, given, t)
            return [_leaf(name, value, i, spec) for i in range(len(ranks))]

        def single(time: Tensor) -> list[Tensor]:
            value = _called(name, given, time)
            leaves = [_tensor(name, _leaf(name, value, i, spec), spec) for i in range(len(ranks))]
            # all dimensions of a trajectory, so that the batch will stand where y has it
            missing = [max(rank - 1 - leaf.ndim, 0) for leaf, rank in zip(leaves, ranks, strict=True)]
            return [leaf.reshape((1,) * k + leaf.shape) for leaf, k in zip(leaves, missing, strict=True)]

        found: list[Any] = torch.func.vmap(single)(t.reshape(-1))
        return found


def _called(name: str, function: Callable[[Tensor], Any], t: Tensor) -> Any:
    if torch.compiler.is_compiling():
        return function(t)
    try:
        return function(t)
    except Exception as error:
        error.add_note(f"sdesolve: {name} of ss.Semilinear is a function of t alone, here of shape {tuple(t.shape)}.")
        raise


def _leaf(name: str, found: Any, i: int, spec: StateSpec) -> Any:
    """What belongs to the i-th leaf of the state: its own, or one for all."""
    if spec.tree is None or isinstance(found, Tensor) or _is_number(found):
        return found
    leaves, tree = pytree.tree_flatten(found)
    if tree != spec.tree:
        raise FunctionError(
            f"{name}: has the structure {tree}; accepted is that of y0, {spec.tree}, or one tensor for all of its "
            "leaves."
        )
    return leaves[i]


def _is_number(x: Any) -> bool:
    return isinstance(x, Complex) and not isinstance(x, bool)


def _in_precision(x: Any, spec: StateSpec) -> Any:
    """A tensor of real or of complex numbers in the state's precision."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return x.to(spec.time_dtype)
    return x.to(spec.dtype) if isinstance(x, Tensor) and x.is_complex() and spec.dtype.is_complex else x


def _tensor(name: str, x: Any, spec: StateSpec) -> Tensor:
    if _is_number(x):
        if isinstance(x, Real):
            return torch.full((), float(x), dtype=spec.time_dtype, device=spec.device)
        x = torch.full((), x, dtype=spec.dtype if spec.dtype.is_complex else torch.complex64, device=spec.device)
    if not isinstance(x, Tensor):
        raise FunctionError(f"{name}: gave {type(x).__name__}; accepted is a torch tensor or a number.")
    if x.dtype not in (spec.dtype, spec.time_dtype):
        raise FunctionError(
            f"{name}: has dtype {x.dtype} for a state of dtype {spec.dtype}; accepted is the state's. Convert it or y0."
        )
    return x


def _checked(name: str, x: Any, shape: tuple[int, ...], spec: StateSpec) -> Tensor:
    """The value as a tensor that broadcasts against a state of this shape."""
    x = _tensor(name, x, spec)
    if x.ndim == 0 or x.shape == shape:
        return x
    pairs = zip(reversed(x.shape), reversed(shape), strict=False)
    if x.ndim > len(shape) or any(a not in (1, b) for a, b in pairs):
        raise FunctionError(
            f"{name}: has shape {tuple(x.shape)} for y of shape {tuple(shape)}; accepted is what broadcasts to it, as "
            "A y and g dW are elementwise. For matrices write ss.SDE with noise='general' and additive=True, or ss.ODE."
        )
    return x


def _shown(value: Any) -> str:
    return f"{value!r}, a {type(value).__name__}"
