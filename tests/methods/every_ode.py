"""Every ODE method on a problem that it solves: an equation of no structure, or one of the kind that it is made for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.methods import METHODS, Rosenbrock, made_for, names

KINDS = ("Semilinear", "Hamiltonian")

#: (kind of problem, method): every method that takes fixed steps, and some for any problem on those of a kind
CASES = [
    *(("ODE", name) for name in names("ode") if not METHODS["ode", name].adaptive_only),
    *((kind, name) for kind in KINDS for name in made_for(kind) if ("ode", name) in METHODS),
    *((kind, "tsit5") for kind in (*KINDS, "SplitODE")),
    ("SplitODE", "kencarp4"),
    ("Hamiltonian", "rosenbrock23"),
    *(("ODE, its Jacobian known", name) for name in ("rosenbrock23", "kencarp4")),
    ("Semilinear, the integral known", "exponential_heun"),
]
ADAPTIVE = [
    *((kind, name) for kind, name in CASES if METHODS["ode", name].error_order is not None),
    *(("ODE", name) for name in names("ode") if METHODS["ode", name].adaptive_only),
]
IMPLICIT = [
    name for name in names("ode") if METHODS["ode", name].may_fail or isinstance(METHODS["ode", name], Rosenbrock)
]

each = pytest.mark.parametrize(("kind", "name"), CASES)
each_adaptive = pytest.mark.parametrize(("kind", "name"), ADAPTIVE)


class Noted(ss.Hamiltonian):
    """A chain of pendulums, and the times at which it is asked."""

    def __init__(self, rate, note):
        super().__init__(force=lambda q: -rate * torch.sin(q + 0.5 * q.flip(-1)), velocity=lambda p: rate * p)
        self.note = note

    def force_at(self, t, q):
        self.note(t)
        return super().force_at(t, q)

    def velocity_at(self, t, p):
        self.note(t)
        return super().velocity_at(t, p)


def problem_of(kind: str, rate=1.0, wave=0.0, note: Callable[[Tensor], None] = lambda t: None):
    """A nonlinear problem that couples the components, of derivatives about `rate`, dependent on t by `wave`. Its
    functions tell `note` the times at which they are asked."""

    def f(t, y):
        note(t)
        return rate * torch.cos(y.flip(-1) + wave * t)

    def jacobian(t, y):
        note(t)
        return torch.diag_embed(-rate * torch.sin(y.flip(-1) + wave * t)).flip(-1)

    def A(t):
        note(t)
        return -rate * (1 + wave * t)

    def integral(t):
        note(t)
        return -rate * (t + 0.5 * wave * t * t)

    def pull(t, y):
        note(t)
        return -rate * (1 + wave) * y

    makers = {
        "ODE": lambda: ss.ODE(f),
        "ODE, its Jacobian known": lambda: ss.ODE(f, jacobian=jacobian),
        "Semilinear": lambda: ss.Semilinear(A, f),
        "Semilinear, the integral known": lambda: ss.Semilinear(A, f, integral=integral),
        "Hamiltonian": lambda: Noted(rate, note),
        "SplitODE": lambda: ss.SplitODE(pull, f),
    }
    return makers[kind]()


def start_of(kind: str, y: Tensor):
    return (y, 0.5 * y) if kind == "Hamiltonian" else y


def joined(ys) -> Tensor:
    """States of any kind as one tensor."""
    return torch.cat(ys, -1) if isinstance(ys, tuple) else ys


def plain(t: Tensor) -> Tensor:
    """The values of a tensor that torch.func transforms have wrapped."""
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t.detach()
