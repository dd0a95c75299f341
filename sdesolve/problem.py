"""What is to be solved: ODE and SDE, and the step between the Itô and Stratonovich calculus.

ODE   dy/dt = f(t, y)
SDE   dy = f(t, y) dt + g(t, y) dW      (Itô),      dy = f(t, y) dt + g(t, y) o dW      (Stratonovich)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sdesolve.errors import message
from sdesolve.state import StateSpec

NOISES = ("diagonal", "scalar", "general")
CALCULI = ("ito", "stratonovich")


def _one_of(argument: str, got: object, accepted: tuple[str, ...]) -> None:
    if got not in accepted:
        raise ValueError(message(argument, repr(got), " or ".join(map(repr, accepted))))


class Problem(nn.Module):
    """What all problems share.

    Class attributes
    ----------------
    kind : what the problem is, by the name of its class in ``sdesolve``.
    functions : what messages call the drift and, if there is one, the diffusion.
    given : names of what the user gives.
    noise : form of the noise; None: there is none.
    additive, commutative, calculus : see :class:`SDE`; the last is None without noise.

    Parameters
    ----------
    batched : dimension 0 of the state is the batch, y[i] is trajectory i; False: the whole state is one trajectory.
    vectorize : the functions are written for one trajectory (no batch dimension, t 0-d); torch.func.vmap does the rest.
        What differs between trajectories must then stand in the state.
    allow_training : accept modules in training mode that draw noise or move buffers (dropout, batch norm).
    """

    kind: str = ""
    functions: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    noise: str | None = None
    additive: bool = False
    commutative: bool = False
    calculus: str | None = None

    def __init__(self, *, batched: bool, vectorize: bool, allow_training: bool) -> None:
        super().__init__()
        if vectorize and not batched:
            raise ValueError(message("vectorize", "True with batched=False", "vectorize=True only with batched=True"))
        self.batched, self.vectorize, self.allow_training = batched, vectorize, allow_training

    def _take(self, name: str, function: Any) -> None:
        """Register a function (a module with its parameters), or accept the method of a subclass."""
        if function is None:
            if not callable(getattr(type(self), name, None)):
                raise TypeError(
                    message(
                        name,
                        "nothing",
                        "a function (t, y) -> tensor",
                        f"Pass it, or define a method {name}(self, t, y) in your subclass of {type(self).__name__}.",
                    )
                )
        elif not callable(function):
            raise TypeError(message(name, type(function).__name__, "a function (t, y) -> tensor"))
        else:
            setattr(self, name, function)

    def check_state(self, spec: StateSpec) -> None:
        """Raise for a start that the problem cannot have."""


class ODE(Problem):
    """dy/dt = f(t, y).

    Parameters
    ----------
    f : ``f(t, y) -> dy/dt`` with y's shape. ``t`` is 0-d when all trajectories share a clock, else
        ``(batch, 1, ..., 1)`` with y's rank (``(batch,)`` for pytree states). A module is registered. A subclass may
        define the method ``f`` instead.
    jacobian : ``jacobian(t, y) -> df/dy``, (batch, n, n), of which entry (i, j) is the derivative of component i of f
        by component j of y, for the n elements of a trajectory's state in the order of its ``reshape(n)`` (those of a
        pytree leaf by leaf); (n, n) with ``batched=False``, or where the functions are written for one trajectory. For
        methods that ask for it (stiff ones); default: by automatic differentiation, in n vector-Jacobian products.
        Gradients of ``"rosenbrock23"`` and ``"rodas5p"`` go through it: make it of torch operations, without detach.
        :func:`sdesolve.testing.check_problem` compares it with differences. A subclass may define the method
        ``jacobian`` instead.
    stiff : f draws solutions together much faster than they move: the default method is then implicit.
    batched, vectorize, allow_training : see :class:`Problem`; by default True, False, False.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> sol = ss.solve(ss.ODE(lambda t, y: -y), torch.ones(1, 1), torch.tensor([0.0, 1.0]))
    >>> abs(sol.ys[-1].item() - 0.36787944) < 1e-5
    True
    """

    kind = "ODE"
    functions = ("f",)
    given: tuple[str, ...] = ("f",)
    stiff: bool = False
    f: Callable[[Tensor, Any], Any]

    def __init__(
        self,
        f: Callable[[Tensor, Any], Any] | None = None,
        *,
        jacobian: Callable[[Tensor, Any], Tensor] | None = None,
        stiff: bool = False,
        batched: bool = True,
        vectorize: bool = False,
        allow_training: bool = False,
    ) -> None:
        super().__init__(batched=batched, vectorize=vectorize, allow_training=allow_training)
        self._take("f", f)
        if jacobian is not None:
            self._take("jacobian", jacobian)
        self.stiff = stiff
        if callable(getattr(self, "jacobian", None)):
            self.given = ("f", "jacobian")


class SDE(Problem):
    """dy = f(t, y) dt + g(t, y) dW.

    Parameters
    ----------
    drift : ``f(t, y)``, of y's shape; t as for :class:`ODE`.
    diffusion : ``g(t, y)``, of y's shape for ``"diagonal"`` and ``"scalar"`` noise, ``(*y.shape, m)`` for
        ``"general"``; whatever broadcasts to it is accepted.
    noise : ``"diagonal"``: one Brownian motion an element, and component i of g depends on component i of y alone;
        ``"scalar"``: one Brownian motion a trajectory; ``"general"``: m Brownian motions a trajectory.
    additive : g does not depend on y.
    stiff : the drift draws solutions together much faster than they move: the default method is then implicit.
    commutative : the columns of g satisfy  sum_i g_ij d g_kl / d y_i = sum_i g_il d g_kj / d y_i.
    calculus : ``"ito"`` or ``"stratonovich"``.
    batched, vectorize, allow_training : see :class:`Problem`.

    Raises
    ------
    ValueError, TypeError : an unknown noise or calculus; something that cannot be called.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> sde = ss.SDE(lambda t, y: -y, lambda t, y: 0.3 * torch.ones_like(y), additive=True)
    >>> ss.solve(sde, torch.ones(4, 2), torch.tensor([0.0, 1.0]), dt=0.01, seed=0).ys.shape
    torch.Size([2, 4, 2])
    """

    kind = "SDE"
    functions = ("drift", "diffusion")
    given: tuple[str, ...] = ("drift", "diffusion")
    noise: str
    calculus: str
    stiff: bool
    drift: Callable[[Tensor, Any], Any]
    diffusion: Callable[[Tensor, Any], Any]

    def __init__(
        self,
        drift: Callable[[Tensor, Any], Any] | None = None,
        diffusion: Callable[[Tensor, Any], Any] | None = None,
        *,
        noise: str = "diagonal",
        additive: bool = False,
        commutative: bool = False,
        stiff: bool = False,
        calculus: str = "ito",
        batched: bool = True,
        vectorize: bool = False,
        allow_training: bool = False,
    ) -> None:
        super().__init__(batched=batched, vectorize=vectorize, allow_training=allow_training)
        _one_of("noise", noise, NOISES)
        _one_of("calculus", calculus, CALCULI)
        self._take("drift", drift)
        self._take("diffusion", diffusion)
        self.noise, self.additive, self.commutative, self.calculus = noise, additive, commutative, calculus
        self.stiff = stiff

    def _like(self, drift: Any, diffusion: Any, calculus: str, *, stiff: bool) -> SDE:
        return SDE(
            drift,
            diffusion,
            noise=self.noise,
            additive=self.additive,
            commutative=self.commutative,
            stiff=stiff,
            calculus=calculus,
            batched=self.batched,
            vectorize=self.vectorize,
            allow_training=self.allow_training,
        )

    def _renamed(self, calculus: str) -> SDE:
        """The same functions, parameters and type under another name of the integral."""
        same = copy.copy(self)
        # what is registered with one later is not registered with the other
        for name in ("_parameters", "_buffers", "_modules"):
            same.__dict__[name] = dict(self.__dict__[name])
        same.calculus = calculus
        return same

    def to_calculus(self, calculus: str) -> SDE:
        """The same process written in the other calculus, by automatic differentiation of the diffusion.

        f_Stratonovich = f_Ito - 1/2 sum_k (dg_k/dy) g_k   over the columns g_k of the diffusion
        (Kloeden & Platen 1992, (4.9.11)). Costs one forward-mode derivative of g for each column and evaluation of
        the drift (one in all for diagonal noise, whose component i depends on y_i alone). With additive noise nothing
        but the name changes, and an object of a subclass stays one. There and back is the SDE itself.
        """
        _one_of("calculus", calculus, CALCULI)
        if calculus == self.calculus:
            return self
        if self.additive:
            return self._renamed(calculus)
        if isinstance(self.drift, _CorrectedDrift) and self.drift.sde.diffusion == self.diffusion:
            return self.drift.sde
        drift = _CorrectedDrift(self, -0.5 if calculus == "stratonovich" else 0.5)
        return self._like(drift, self.diffusion, calculus, stiff=self.stiff)

    def mixed(self, factor: Tensor) -> SDE:
        """dy = f dt + g L dW for general noise: the process that f dt + g dB is with B = L W, of which W is standard.
        factor : L, (m, m)."""
        if isinstance(self.drift, _CorrectedDrift):
            return self.drift.sde.mixed(factor).to_calculus(self.calculus)
        return self._like(self.drift, _MixedColumns(self, factor), self.calculus, stiff=self.stiff)


class _MixedColumns(nn.Module):
    """g(t, y) L."""

    factor: Tensor

    def __init__(self, sde: SDE, factor: Tensor) -> None:
        super().__init__()
        self.sde = sde
        self.register_buffer("factor", factor, persistent=False)

    def forward(self, t: Tensor, y: Any) -> Any:
        return pytree.tree_map(self._times, self.sde.diffusion(t, y))

    def _times(self, g: Any) -> Any:
        # of another width, it is for the solver to refuse
        if not isinstance(g, Tensor) or g.shape[-1:] != self.factor.shape[:1]:
            return g
        # column by column: a matrix product may add in another order for another batch
        total = g[..., :1] * self.factor[0]
        for k in range(1, g.shape[-1]):
            total = total + g[..., k : k + 1] * self.factor[k]
        return total


class _CorrectedDrift(nn.Module):
    """f + c sum_k (dg_k/dy) g_k, with the source's functions."""

    def __init__(self, sde: SDE, factor: float) -> None:
        super().__init__()
        self.sde, self.factor = sde, factor

    def forward(self, t: Tensor, y: Any) -> Any:
        def g(state: Any) -> Any:
            found = self.sde.diffusion(t, state)
            tail = (1,) if self.sde.noise == "general" else ()
            return pytree.tree_map(
                lambda out, leaf: torch.broadcast_to(
                    torch.as_tensor(out, dtype=leaf.dtype, device=leaf.device),
                    (*leaf.shape, out.shape[-1]) if tail else leaf.shape,
                ).clone(),
                found,
                state,
            )

        drift = self.sde.drift(t, y)
        # forward mode writes tangents into the layout of y, in which expanded elements would overlap
        y = pytree.tree_map(lambda leaf: leaf.contiguous(), y)
        columns = g(y)
        if self.sde.noise != "general":
            change = _derivative(g, y, columns)
            return pytree.tree_map(lambda f, c: f + self.factor * c, drift, change)
        width = pytree.tree_leaves(columns)[0].shape[-1]
        for k in range(width):
            column = pytree.tree_map(lambda leaf, k=k: leaf[..., k], columns)
            change = _derivative(g, y, column)
            drift = pytree.tree_map(lambda f, c, k=k: f + self.factor * c[..., k], drift, change)
        return drift


def _derivative(g: Callable[[Any], Any], y: Any, direction: Any) -> Any:
    """(dg/dy) direction, in forward mode."""
    derivative: Any = torch.func.jvp(g, (y,), (direction,))[1]
    return derivative


def time_reversed(sde: SDE) -> SDE:
    """The equation in s = -t:  dY = -f(-s, Y) ds + g(-s, Y) dW(s).

    Backwards output times ask for a path that is read backwards, which only the Stratonovich integral and additive
    noise can give a meaning to. This equation runs forwards in s instead, from s = -t0 to -t1, with a Brownian motion
    of its own: in the Itô calculus its coefficients stand at the later time t of each step.
    """
    if not isinstance(sde, SDE):
        raise TypeError(message("sde", type(sde).__name__, "an sdesolve.SDE"))
    drift, diffusion = _ReversedFunction(sde, "drift", -1.0), _ReversedFunction(sde, "diffusion", 1.0)
    # what draws solutions together forwards drives them apart backwards
    return sde._like(drift, diffusion, sde.calculus, stiff=False)


class _ReversedFunction(nn.Module):
    def __init__(self, sde: SDE, name: str, sign: float) -> None:
        super().__init__()
        self.sde, self.name, self.sign = sde, name, sign

    def forward(self, s: Tensor, y: Any) -> Any:
        return pytree.tree_map(lambda leaf: self.sign * leaf, getattr(self.sde, self.name)(-s, y))
