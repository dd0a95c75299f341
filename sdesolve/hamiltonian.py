"""Separable Hamiltonian systems as a problem: positions and momenta, and a force that depends on positions alone.

q' = V(p),      p' = F(q) = -grad U(q)

For V = grad K the flow keeps the energy H(q, p) = K(p) + U(q) and the symplectic form; for V(p) = p, K is |p|^2 / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sdesolve.errors import message
from sdesolve.force import Forced
from sdesolve.state import StateSpec


class Hamiltonian(Forced):
    """q' = V(p),  p' = F(q)  with  F = -grad U.

    The state is the tuple (q, p) of positions and momenta, two real tensors of one shape. Every ODE method solves it;
    ``"leapfrog"`` (the default for fixed steps) and ``"blanes_moan4"`` are made for it: they keep the symplectic form,
    so that over long times the energy swings and does not drift. They take fixed steps, as steps that adapt would lose
    this; with tolerances the default is ``"tsit5"``. Evaluations are counted of F.

    Parameters
    ----------
    potential : ``U(q) -> (batch,)``, the energy of each trajectory; 0-d for ``batched=False`` and ``vectorize=True``.
        Its gradient is taken by ``torch.func.grad``, which ``compile=True`` takes in solves without gradients alone.
    force : ``F(q)``, of q's shape, instead of the potential.
    velocity : ``V(p)``, of p's shape, the gradient of the kinetic energy, as ``lambda p: p / mass``. Default None: p.
    batched, vectorize, allow_training : see :class:`sdesolve.problem.Problem`; by default True, False, False.

    A subclass may define potential or force, and velocity, as methods.

    Raises
    ------
    ValueError, TypeError : neither or both of potential and force; something that cannot be called. During a solve
        :class:`sdesolve.errors.FunctionError`, a ValueError, for shapes and dtypes.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> pendulum = ss.Hamiltonian(lambda q: -torch.cos(q).sum(-1))
    >>> start = torch.tensor([[1.0]]), torch.tensor([[0.0]])
    >>> q, p = ss.solve(pendulum, start, torch.tensor([0.0, 100.0]), dt=0.1).ys
    >>> energy = 0.5 * p * p - torch.cos(q)
    >>> bool((energy[-1] - energy[0]).abs() < 1e-3)
    True

    References
    ----------
    Hairer, Lubich & Wanner (2006). Geometric numerical integration, 2nd edition. Springer, chapters I and VI.
    """

    kind = "Hamiltonian"
    functions = ("f",)
    given = ("potential", "force", "velocity")
    letters, moving = ("q", "p"), "momenta"
    velocity: Any

    def __init__(
        self,
        potential: Callable[[Tensor], Tensor] | None = None,
        *,
        force: Callable[[Tensor], Tensor] | None = None,
        velocity: Callable[[Tensor], Tensor] | None = None,
        batched: bool = True,
        vectorize: bool = False,
        allow_training: bool = False,
    ) -> None:
        super().__init__(batched=batched, vectorize=vectorize, allow_training=allow_training)
        self._take_force(potential, force)
        if velocity is not None and not callable(velocity):
            raise TypeError(
                message("velocity", type(velocity).__name__, "a function p -> tensor, or None for p itself")
            )
        if velocity is not None or not callable(getattr(type(self), "velocity", None)):
            self.velocity = velocity

    def check_state(self, spec: StateSpec) -> None:
        """Refuse a start that is not a pair (q, p) of real tensors."""
        self._check_pair(spec)
        if spec.dtype.is_complex:
            advice = "Split real and imaginary parts."
            raise TypeError(message("y0", f"dtype {spec.dtype} for a Hamiltonian", "a real dtype", advice))

    def f(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(V(p), F(q))."""
        q, p = y
        return self.velocity_at(t, p), self.force_at(t, q)

    def force_at(self, t: Tensor, q: Tensor) -> Tensor:
        """F(q), or minus the gradient of the potential; the same at all times."""
        return self._force(q)

    def velocity_at(self, t: Tensor, p: Tensor) -> Tensor:
        """V(p), the same at all times."""
        if self.velocity is None:
            return p
        return self._checked("velocity", self.velocity(p), tuple(p.shape), p, "p")
