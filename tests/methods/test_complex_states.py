"""Complex states: explicit and exponential methods take them, forwards, backwards and in gradients; implicit ones say
why they do not. Orders of the explicit ones are measured on complex states in test_convergence.py."""

import cmath

import pytest
import torch

import sdesolve as ss
from sdesolve.methods import METHODS, made_for, names
from tests.methods.every_ode import IMPLICIT

C128, F64 = torch.complex128, torch.float64
EXPONENTIAL = [name for name in made_for("Semilinear") if ("ode", name) in METHODS]
EXPLICIT = [name for name in names("ode") if name not in IMPLICIT and not METHODS["ode", name].adaptive_only]
TAKEN = [*(("ODE", name) for name in EXPLICIT), *(("Semilinear", name) for name in EXPONENTIAL)]
both_ways = pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])


def schroedinger(kind, omega):
    """psi' = -i (omega + |psi|^2) psi, which keeps |psi|:  psi = psi_0 exp(-i (omega + |psi_0|^2) t)."""
    turn = lambda t, y: -1j * y * (y * y.conj()).real
    if kind == "Semilinear":
        return ss.Semilinear(-1j * omega, turn)
    return ss.ODE(lambda t, y: turn(t, y) - 1j * omega * y)


def span(backwards):
    return torch.tensor([1.0, 0.0] if backwards else [0.0, 1.0], dtype=F64)


@both_ways
@pytest.mark.parametrize(("kind", "name"), TAKEN)
def test_a_complex_state_ends_where_it_should(kind, name, backwards):
    method, errors = METHODS["ode", name], []
    psi0, way = torch.tensor([[1.0], [0.6 + 0.8j]], dtype=C128), -1 if backwards else 1
    for dt in (1 / 16, 1 / 32):
        end = ss.solve(schroedinger(kind, 2.0), psi0, span(backwards), dt=dt, method=name).ys[-1]
        errors.append(float((end - psi0 * cmath.exp(-3j * way)).abs().max()))
    assert errors[1] < 1e-11 or 0.7 * 2**method.order < errors[0] / errors[1] < 1.6 * 2**method.order, errors


@both_ways
@pytest.mark.parametrize(("kind", "name"), TAKEN)
def test_gradients_of_complex_states_and_parameters_are_those_of_finite_differences(kind, name, backwards):
    def end(y, omega):
        return ss.solve(schroedinger(kind, omega), y, span(backwards), dt=0.5, method=name).ys[-1]

    y = torch.tensor([[0.4 + 0.3j], [-0.2 + 0.5j]], dtype=C128).requires_grad_()
    omega = torch.tensor(0.7 - 0.2j, dtype=C128).requires_grad_()
    assert torch.autograd.gradcheck(end, (y, omega), fast_mode=True)


@pytest.mark.parametrize("how", [{"dt": 0.1}, {"rtol": 1e-3}], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_methods_refuse_complex_states_and_say_what_to_do(name, how):
    with pytest.raises(ValueError, match=r"y0: got dtype torch.complex128; .*real and imaginary parts as components"):
        ss.solve(schroedinger("ODE", 1.0), torch.ones(1, 1, dtype=C128), span(False), method=name, **how)
