"""A problem bound to the shape of its state: what methods see. Tensors in, tensors out, checked at every call."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from math import prod
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from sdesolve.errors import FunctionError
from sdesolve.hamiltonian import Hamiltonian
from sdesolve.problem import ODE, SDE, Problem
from sdesolve.semilinear import Semilinear
from sdesolve.split import SplitODE
from sdesolve.state import StateSpec


class System:
    """The drift and diffusion of a problem as functions of internal tensors.

    Times are 0-d, or broadcast against the state (``(batch, 1, ..., 1)``) where trajectories have clocks of their own.
    ``halves`` are the force and the velocity of a Hamiltonian problem as systems, of positions and of momenta alone.
    """

    _jacobian: Callable[..., Any] | None = None
    along: TorchFunctionMode | None = None

    def __init__(self, problem: Problem, spec: StateSpec, half: str | None = None) -> None:
        self.problem, self.spec = problem, spec
        self.is_sde = problem.noise is not None
        self.noise, self.additive, self.calculus = problem.noise, problem.additive, problem.calculus
        self.names = problem.functions if self.is_sde else problem.functions[:1]
        self._returned: dict[str, tuple[Tensor, int | None]] = {}
        self._drift: Callable[..., Any] = getattr(problem, problem.functions[0])
        self._diffusion: Any = getattr(problem, self.names[1]) if self.is_sde else None
        if isinstance(problem, ODE):
            self._jacobian = getattr(problem, "jacobian", None)
        #: of a split problem, the stiff part and the other
        self.parts: tuple[System, System] | None = None
        if isinstance(problem, SplitODE):
            stiff, nonstiff = problem.parts
            self.parts = System(stiff, spec), System(nonstiff, spec)
        self.halves: dict[str, System] = {}
        if half is not None:
            self.names, self._drift = (half,), getattr(problem, f"{half}_at")
        elif isinstance(problem, Hamiltonian):
            one = StateSpec(spec.batch, spec.batched, spec.leaves[0], spec.dtype, spec.device)
            self.halves = {name: System(problem, one, name) for name in ("force", "velocity")}

    @property
    def structure(self) -> Any:
        """What tells this system's functions from another's, for compiled code."""
        return (type(self.problem), *(code_of(getattr(self.problem, name)) for name in self.problem.given))

    def resized(self, batch: int, along: TorchFunctionMode | None = None) -> System:
        """The same for another number of trajectories. along : in which the functions are called."""
        found = System(self.problem, self.spec.resized(batch))
        for system in (found, *(found.parts or ()), *found.halves.values()):
            system.along = along
        return found

    def stratonovich(self) -> System:
        """The same process in the calculus of the chain rule, which for additive noise is both."""
        if not isinstance(self.problem, SDE):
            return self
        return System(self.problem.to_calculus("stratonovich"), self.spec)

    def _call(self, name: str, function: Callable[..., Any], t: Tensor, y: Tensor) -> Any:
        spec = self.spec
        if self.problem.vectorize:
            return self._vectorized(name, function, t, y)
        if spec.tree is not None and t.ndim:
            t = t.reshape(-1)
        if torch.compiler.is_compiling():
            return function(t, spec.unravel(y))
        before = version(y)
        out = self._noted(name, function, t, y)
        if before is not None and y._version != before:
            raise wrote_into_state(name)
        self._refuse_reuse(name, out)
        return out

    def _refuse_reuse(self, name: str, out: Any) -> None:
        """Refuse a function that writes its result into the tensor it returned before: stages would become one."""
        kept = self._returned.get(name)
        if kept is not None and kept[1] is not None and kept[0]._version != kept[1]:
            raise FunctionError(
                f"{name}: changed a tensor that it had returned before; accepted is a new tensor at every evaluation. "
                "Drop out= and buffers that are used again."
            )
        first = [out] if isinstance(out, Tensor) else pytree.tree_leaves(out)[:1]
        if first and isinstance(first[0], Tensor):
            self._returned[name] = (first[0], version(first[0]))

    def _noted(self, name: str, function: Callable[..., Any], t: Tensor, y: Tensor) -> Any:
        """The function's value; an error gets a note on what t is, where that is not 0-d."""
        try:
            state = self.spec.unravel(y)
            if self.along is None:
                return function(t, state)
            with self.along:
                return function(t, state)
        except Exception as error:
            if _wrote_in_place(error):
                # where the function is being differentiated, torch does not let it
                raise FunctionError(
                    f"{name}: wrote into a tensor that it had not made; accepted is a function that returns a new "
                    "tensor. Begin with y.clone() where the state is changed. Drop out= and buffers that are used "
                    "again."
                ) from error
            if isinstance(error, RuntimeError):
                self._note_of_derivatives(error, t, y)
            if t.ndim == 0:
                raise
            error.add_note(
                f"sdesolve: here t has shape {tuple(t.shape)}, one time a trajectory, for y of shape "
                f"{tuple(y.shape)}. ss.batch_time(t, y) gives (batch,); shared_steps=True gives one 0-d time."
            )
            raise

    @staticmethod
    def _note_of_derivatives(error: RuntimeError, t: Tensor, y: Tensor) -> None:
        """What differentiation asks of a function, on an error from inside one."""
        text = str(error)
        wrapped = any(torch._C._functorch.is_functorch_wrapped_tensor(x) for x in (t, y))
        if wrapped and any(word in text for word in ("storage", "setup_context", "transform")):
            error.add_note(
                "sdesolve: here torch.func differentiates the function, as methods for stiff ODEs do. It is to be made "
                "of torch operations, without .numpy() and .detach(); an autograd.Function needs setup_context. Where "
                "ss.ODE(f, jacobian=) gives the derivative, 'kvaerno3' and 'esdirk54' do not differentiate f."
            )
        elif "does not require grad" in text:
            error.add_note(
                "sdesolve: functions may be called under torch.no_grad(). For derivatives inside one take "
                "torch.func.grad; or torch.autograd.grad under torch.enable_grad(), of y.detach().requires_grad_() "
                "where there is no graph."
            )

    def _vectorized(self, name: str, function: Callable[..., Any], t: Tensor, y: Tensor) -> Any:
        """The function of one trajectory, mapped over the batch."""

        def single(time: Tensor, one: Tensor) -> Any:
            try:
                out = function(time, self.spec.unravel_one(one))
            except Exception as error:
                error.add_note(
                    "sdesolve: with vectorize=True the function sees one trajectory, here a 0-d t and "
                    f"y of shape {tuple(one.shape)}, without a batch dimension."
                )
                raise
            out = pytree.tree_map(lambda leaf: self._tensor(name, leaf), out)
            return self._padded(out, one) if name == "diffusion" else out

        lane = None if t.ndim == 0 else 0
        return torch.func.vmap(single, in_dims=(lane, 0))(t if lane is None else t.reshape(-1), y)

    def _padded(self, out: Any, one: Tensor) -> Any:
        """One trajectory's diffusion with all its dimensions, so that the batch will stand where y has it."""
        leaves, tree = pytree.tree_flatten(out)
        states, wanted = pytree.tree_flatten(self.spec.unravel_one(one))
        if tree != wanted:
            return out
        extra = 1 if self.noise == "general" else 0
        for leaf, state in zip(leaves, states, strict=True):
            if extra and leaf.ndim == 0:
                raise FunctionError(_diffusion_text(leaf, tuple(state.shape), general=True))
        missing = [max(state.ndim + extra - leaf.ndim, 0) for leaf, state in zip(leaves, states, strict=True)]
        padded = [leaf.reshape((1,) * k + leaf.shape) for leaf, k in zip(leaves, missing, strict=True)]
        return pytree.tree_unflatten(padded, tree)

    def _leaves(self, name: str, out: Any) -> list[Any]:
        spec = self.spec
        if spec.tree is None:
            return [out]
        leaves, tree = pytree.tree_flatten(out)
        if tree != spec.tree:
            raise FunctionError(f"{name}: returned the structure {tree}; accepted is that of y0, {spec.tree}.")
        return leaves

    def _tensor(self, name: str, out: Any) -> Tensor:
        if isinstance(out, (int, float)) and name == "diffusion":
            return torch.full((), out, dtype=self.spec.dtype, device=self.spec.device)
        if not isinstance(out, Tensor):
            raise FunctionError(f"{name}: returned {type(out).__name__}; accepted is a torch tensor.")
        if out.dtype != self.spec.dtype:
            raise FunctionError(
                f"{name}: returned dtype {out.dtype} for a state of dtype {self.spec.dtype}; accepted is the state's. "
                "Make constants with the state's dtype, or convert y0."
            )
        return out

    def _fits(self, out: Any) -> TypeGuard[Tensor]:
        """Whether this is a plain state's tensor of its shape and dtype, as it nearly always is."""
        spec = self.spec
        return isinstance(out, Tensor) and spec.tree is None and out.shape == spec.shape and out.dtype == spec.dtype

    def coefficient(self, name: str, t: Tensor) -> Tensor:
        """A, g or integral of a semilinear problem; broadcasts against y."""
        assert isinstance(self.problem, Semilinear)
        return self.problem.coefficient(name, t, self.spec)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """f(t, y) with y's shape; A y + f(t, y) for a semilinear problem, the sum of both for a split one."""
        if self.parts is not None:
            return self.parts[0].drift(t, y) + self.parts[1].drift(t, y)
        if not isinstance(self.problem, Semilinear):
            return self.rest(t, y)
        linear = self.coefficient("A", t) * y
        return linear if self._drift is None else linear + self.rest(t, y)

    def rest(self, t: Tensor, y: Tensor) -> Tensor:
        """f(t, y) with y's shape: of the drift, what is not A y."""
        name, spec = self.names[0], self.spec
        found = self._call(name, self._drift, t, y)
        if self._fits(found):
            return found
        shapes = spec.leaves if spec.tree is not None else (spec.shape,)
        parts = []
        for leaf, shape in zip(self._leaves(name, found), shapes, strict=True):
            out = self._tensor(name, leaf)
            if tuple(out.shape) != tuple(shape):
                raise FunctionError(
                    f"{name}: returned shape {tuple(out.shape)} for y of shape {tuple(shape)}; accepted is y's own "
                    f"shape." + _hint(t, out)
                )
            parts.append(out)
        if spec.tree is None:
            return parts[0]
        if spec.batched:
            return torch.cat([part.reshape(y.shape[0], -1) for part in parts], -1)
        return torch.cat([part.reshape(-1) for part in parts])

    @property
    def has_jacobian(self) -> bool:
        """Whether the problem gives df/dy."""
        return self._jacobian is not None

    def jacobian(self, t: Tensor, y: Tensor) -> Tensor:
        """df/dy of each trajectory as the problem gives it, (batch, n, n)."""
        assert self._jacobian is not None
        n = prod(self.spec.per_trajectory)
        out = self._tensor("jacobian", self._call("jacobian", self._jacobian, t, y))
        wanted = (y.shape[0], n, n) if self.spec.batched else (n, n)
        if tuple(out.shape) != wanted:
            whole = "" if y.ndim == len(wanted) - 1 and self.spec.tree is None else " flattened (leaves one by one)"
            raise FunctionError(
                f"jacobian: returned shape {tuple(out.shape)} for y of shape {tuple(y.shape)}; accepted is {wanted}, "
                f"where entry (i, j) is the derivative of component i of f by component j of y{whole}."
                + (" If it is the same for all trajectories, expand it." if tuple(out.shape) == (n, n) else "")
                + _hint(t, out)
            )
        return out.reshape(-1, n, n)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """g(t, y): broadcastable to y's shape, or to (*y.shape, m) for general noise."""
        if isinstance(self.problem, Semilinear):
            return self.coefficient("g", t)
        spec, general = self.spec, self.noise == "general"
        found = self._call("diffusion", self._diffusion, t, y)
        if not general and self._fits(found):
            return found
        shapes = spec.leaves if spec.tree is not None else (spec.shape,)
        outs = self._leaves("diffusion", found)
        parts = []
        for leaf, shape in zip(outs, shapes, strict=True):
            out = self._tensor("diffusion", leaf)
            if general and (out.ndim == 0 or out.shape[-1] == 0):
                raise FunctionError(_diffusion_text(out, shape, general))
            wanted = (*shape, out.shape[-1]) if general else tuple(shape)
            if tuple(out.shape) != wanted and not _broadcasts(tuple(out.shape), wanted):
                raise FunctionError(_diffusion_text(out, shape, general) + _hint(t, out))
            if spec.tree is not None:
                out = out.expand(wanted)
            parts.append(out)
        if spec.tree is None:
            return parts[0]
        lead = (spec.batch,) if spec.batched else ()
        if general:
            if len({part.shape[-1] for part in parts}) > 1:
                found = ", ".join(str(tuple(part.shape)) for part in parts)
                raise FunctionError(
                    f"diffusion: returned leaves of shapes {found}; accepted are leaves (*leaf.shape, m) with one "
                    "m, as one Brownian motion of m components drives them all."
                )
            return torch.cat([part.reshape(*lead, -1, part.shape[-1]) for part in parts], -2)
        return torch.cat([part.reshape(*lead, -1) for part in parts], -1)

    def noise_shape(self, t: Tensor, y: Tensor) -> tuple[int, ...]:
        """Shape of one trajectory's Brownian motion; evaluates a general diffusion once to learn m."""
        if self.noise == "diagonal":
            return self.spec.per_trajectory
        if self.noise == "scalar":
            return (1,)
        with torch.no_grad():
            return (self.diffusion(t, y).shape[-1],)

    def diffusion_in_full(self, t: Tensor, y: Tensor) -> Tensor:
        """g(t, y) of y's shape, or (*y.shape, m)."""
        g = self.diffusion(t, y)
        return g.expand((*self.spec.shape, g.shape[-1]) if self.noise == "general" else self.spec.shape)

    def noise_size(self, g: Tensor) -> Tensor:
        """Standard deviation of g dW over a unit of time, elementwise: |g|, or the norms of the rows of a matrix."""
        size = torch.linalg.vector_norm(g, dim=-1) if self.noise == "general" else g.abs()
        return size.expand(self.spec.shape)

    def moved(self, y: Tensor, h: Tensor, f: Tensor, g: Tensor, w: Tensor, part: float = 1.0) -> Tensor:
        """y + part (h f + g dW)."""
        return self.plus_noise(torch.addcmul(y, f, h, value=part), g, w, part)

    def plus_noise(self, y: Tensor, g: Tensor, w: Tensor, part: float = 1.0) -> Tensor:
        """y + part g dW."""
        if self.noise == "general":
            return torch.add(y, self.noise_term(g, w), alpha=part)
        return torch.addcmul(y, g, self._beside(w), value=part)

    def noise_term(self, g: Tensor, w: Tensor) -> Tensor:
        """g dW: elementwise, one w for all elements, or a matrix-vector product."""
        if self.noise != "general":
            return g * self._beside(w)
        m = g.shape[-1]
        if m != w.shape[-1]:
            raise FunctionError(
                f"diffusion: returned {m} columns, where it had returned {w.shape[-1]} before; accepted is the same "
                "number of Brownian motions at every (t, y)."
            )
        w = self._beside(w)
        if m > 8:
            return (g * w).sum(-1)
        # a few columns are added one by one: the order, so the last bit, is then the same for every batch size
        total = g[..., 0] * w[..., 0]
        for k in range(1, m):
            total = total + g[..., k] * w[..., k]
        return total

    def noise_pull(self, a: Tensor, w: Tensor) -> Tensor:
        """a^T d(g dW)/dg, of g's full shape."""
        return (a[..., None] if self.noise == "general" else a) * self._beside(w)

    def _beside(self, w: Tensor) -> Tensor:
        """The increments in a shape that broadcasts against g."""
        if self.noise == "diagonal":
            return w if self.spec.batched else w.reshape(self.spec.shape)
        lead, ones = (self.spec.batch,) if self.spec.batched else (), (1,) * len(self.spec.per_trajectory)
        return w.reshape((*lead, *ones, *((w.shape[-1],) if self.noise == "general" else ())))


def code_of(thing: Any) -> Any:
    """The code of a function, the type of an object that is called, or a number."""
    if isinstance(thing, float):
        return thing
    if isinstance(thing, types.FunctionType):
        return thing.__code__
    if isinstance(thing, types.MethodType):
        return code_of(thing.__func__), type(thing.__self__)
    if isinstance(thing, functools.partial):
        return "partial", code_of(thing.func)
    return type(thing)


def wrote_into_state(name: str) -> FunctionError:
    """Of this function."""
    return FunctionError(
        f"{name}: wrote into the state it was given; accepted is a function that returns a new tensor. "
        "In-place operations such as y[:, 0] = ... or y.mul_() change the solver's own state: begin with y.clone()."
    )


def version(x: Tensor) -> int | None:
    """How often x was written into; None where torch does not count."""
    if x.is_inference() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return None
    return x._version


def _wrote_in_place(error: Exception) -> bool:
    """Whether this is torch's refusal of a write into the state, or into a tensor from outside the function."""
    return isinstance(error, RuntimeError) and "in-place operation" in str(error)


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) <= len(wanted) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(wanted), strict=False)
    )


def _hint(t: Tensor, out: Tensor) -> str:
    if out.shape == t.shape:
        return " If it read t as y: functions are called with (t, y), in this order."
    if t.ndim and out.ndim > t.ndim:
        return f" (t has shape {tuple(t.shape)} here: every trajectory has a clock of its own; see ss.batch_time.)"
    return ""


def _diffusion_text(out: Tensor, shape: tuple[int, ...], general: bool) -> str:
    if general:
        wanted = ", ".join(map(str, (*shape, "m")))
        return (
            f"diffusion: returned shape {tuple(out.shape)} for y of shape {tuple(shape)} and noise='general'; accepted "
            f"is ({wanted}) with m Brownian motions, or what broadcasts to it. For one noise an element write "
            "noise='diagonal'; for one a trajectory noise='scalar'."
        )
    return (
        f"diffusion: returned shape {tuple(out.shape)} for y of shape {tuple(shape)}; accepted is y's own shape or "
        "what broadcasts to it. For a matrix diffusion (*y.shape, m) write noise='general'."
    )
