"""Underdamped Langevin dynamics as a problem: positions and velocities, friction, and noise of a temperature.

dx = v dt,      dv = (-grad U(x) - gamma v) dt + sqrt(2 gamma T) dW      (unit mass)

Its stationary law, for T > 0, is proportional to exp(-(U(x) + |v|^2 / 2) / T).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn

from sdesolve.errors import message
from sdesolve.force import Forced
from sdesolve.problem import CALCULI, SDE, _one_of
from sdesolve.state import StateSpec


class Langevin(SDE, Forced):
    """dx = v dt,  dv = (F(x) - gamma v) dt + sqrt(2 gamma T) dW  with  F = -grad U.

    The state is the tuple (x, v) of positions and velocities, two tensors of one shape. Every SDE method solves it, as
    one with additive noise; ``"baoab"`` (the default), ``"obabo"`` and ``"quicsort"`` are made for it, and take fixed
    steps. A path given as ``brownian=`` has a channel for each element of x and, behind them, one for each of v: the
    former have no effect.

    Parameters
    ----------
    potential : ``U(x) -> (batch,)``, the energy of each trajectory; 0-d for ``batched=False`` and ``vectorize=True``.
        Its gradient is taken by ``torch.func.grad``, which ``compile=True`` takes in solves without gradients alone.
    force : ``F(x)``, of x's shape, instead of the potential. A subclass may define one of both as a method.
    gamma : friction, a number > 0 or a tensor that broadcasts against x, per unit of time. (Tensors become buffers;
        numbers are constants in compiled code.)
    temperature : T >= 0 in units of energy, a number or a tensor that broadcasts against x. Where it is 0 there is no
        noise, and gradients by it are 0.
    batched, vectorize, allow_training : see :class:`sdesolve.problem.Problem`; by default True, False, False.

    Raises
    ------
    ValueError, TypeError : neither or both of potential and force; a friction or temperature that is not accepted.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> langevin = ss.Langevin(lambda x: 0.5 * (x * x).sum(-1), gamma=1.0, temperature=0.5)
    >>> start = torch.zeros(4000, 1), torch.zeros(4000, 1)
    >>> x, v = ss.solve(langevin, start, torch.tensor([0.0, 10.0]), dt=0.2, seed=0).ys
    >>> abs(x[-1].var().item() - 0.5) < 0.05 and abs(v[-1].var().item() - 0.5) < 0.05
    True

    References
    ----------
    Leimkuhler & Matthews (2015). Molecular dynamics. Springer, chapter 6.
    """

    kind = "Langevin"
    given = ("potential", "force", "gamma", "temperature")
    letters, moving = ("x", "v"), "velocities"
    gamma: float | Tensor
    temperature: float | Tensor

    def __init__(
        self,
        potential: Callable[[Tensor], Tensor] | None = None,
        *,
        force: Callable[[Tensor], Tensor] | None = None,
        gamma: float | Tensor,
        temperature: float | Tensor = 1.0,
        batched: bool = True,
        vectorize: bool = False,
        allow_training: bool = False,
    ) -> None:
        super().__init__(additive=True, batched=batched, vectorize=vectorize, allow_training=allow_training)
        self._take_force(potential, force)
        self._keep("gamma", gamma, positive=True)
        self._keep("temperature", temperature, positive=False)

    def _keep(self, name: str, value: float | Tensor, positive: bool) -> None:
        """A coefficient that has been checked: a number, a parameter or a buffer."""
        accepted = f"a number {'>' if positive else '>='} 0, or a tensor of such that broadcasts against x"
        if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
            raise TypeError(message(name, repr(value), accepted))
        if isinstance(value, Tensor) and not value.is_floating_point():
            raise TypeError(message(name, f"a tensor of {value.dtype}", accepted))
        if not _all_right(value, positive):
            got = f"a tensor of shape {tuple(value.shape)} with others" if isinstance(value, Tensor) else value
            raise ValueError(message(name, got, accepted))
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value)
        else:
            setattr(self, name, value if isinstance(value, nn.Parameter) else float(value))

    def check_state(self, spec: StateSpec) -> None:
        """Refuse a start that is not a pair (x, v), and coefficients that do not broadcast against x."""
        self._check_pair(spec)
        shape = spec.leaves[0][1:] if self.vectorize else spec.leaves[0]
        for name in ("gamma", "temperature"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and not _broadcasts(tuple(value.shape), shape):
                got, accepted = f"shape {tuple(value.shape)}", f"a number, or a tensor that broadcasts against {shape}"
                raise ValueError(message(name, got, accepted))

    def to_calculus(self, calculus: str) -> Langevin:
        """The same: the integrals of additive noise are one."""
        _one_of("calculus", calculus, CALCULI)
        other = copy.copy(self)
        other.calculus = calculus
        return other

    def coefficient(self, name: str, x: Tensor) -> Tensor:
        """gamma or temperature as a tensor of x's kind."""
        value = getattr(self, name)
        if isinstance(value, Tensor):
            return value.to(x.dtype)
        return torch.full((), value, dtype=x.dtype, device=x.device)

    def drift(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(v, F(x) - gamma v)."""
        x, v = y
        return v, self._force(x) - self.coefficient("gamma", x) * v

    def diffusion(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(0, sqrt(2 gamma T))."""
        x, v = y
        spread = (2 * self.coefficient("gamma", x)).sqrt() * root(self.coefficient("temperature", x))
        return torch.zeros_like(x), spread.expand(v.shape)


def root(temperature: Tensor) -> Tensor:
    """Square root, whose derivative at 0 counts as 0."""
    warm = temperature > 0
    return torch.where(warm, torch.where(warm, temperature, 1.0).sqrt(), 0.0)


def _all_right(value: float | Tensor, positive: bool) -> bool:
    """Whether all are finite and above 0, or not below it."""
    x = torch.as_tensor(value)
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    with torch._C._DisableFuncTorch():
        x = x.detach()
        return bool((torch.isfinite(x) & ((x > 0) if positive else (x >= 0))).all())


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(a in (1, b) for a, b in pairs)
