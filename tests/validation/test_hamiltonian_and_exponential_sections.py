"""The sections of Hamiltonian and of semilinear ODEs pass for what is right, and fail for what is not."""

import numpy as np
import pytest
import torch

from sdesolve.methods import METHODS, Increments, State, Step, made_for
from sdesolve.methods.exponential import ExponentialRK3
from sdesolve.methods.flow import flow
from sdesolve.methods.symplectic import BLANES_MOAN4, Composition
from validation.check import Settings
from validation.sections import ode_exponential, ode_hamiltonian
from validation.sections.ode_exponential import PROBLEMS, orders, phi_functions
from validation.sections.ode_hamiltonian import KEPLER, MOST_GROWTH, SYSTEMS, energy_order, equal_steps, growth_check

QUICK = Settings(quick=True)


@pytest.mark.parametrize("kind", ["Hamiltonian", "Semilinear"])
def test_every_method_that_is_made_for_them_is_measured(kind):
    section, problems = {
        "Hamiltonian": (ode_hamiltonian, SYSTEMS),
        "Semilinear": (ode_exponential, PROBLEMS),
    }[kind]
    found = {case.name for case in section.cases(QUICK)}
    for name in made_for(kind):
        if ("ode", name) in METHODS:
            assert all(any(case.startswith(name) and case.endswith(p.name) for case in found) for p in problems), name


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_the_force_is_minus_the_gradient_of_the_potential(system):
    q = system.start()[0] + 0.1
    q.requires_grad_()
    (slope,) = torch.autograd.grad(system.potential(q).sum(), q)
    np.testing.assert_allclose(system.force(q).detach(), -slope, rtol=1e-12)


def test_the_energy_of_rk4_grows_and_that_of_leapfrog_does_not():
    growth = lambda name, steps: growth_check(
        KEPLER, name, equal_steps(KEPLER, METHODS["ode", name], steps, 10, 3), MOST_GROWTH, ""
    )
    assert growth("leapfrog", 50).passed and not growth("rk4", 50).passed


def test_a_composition_with_a_wrong_coefficient_fails_its_order():
    """Symmetric, and with the right sums: of order 2."""
    a, b, *_ = BLANES_MOAN4.drifts
    drifts = a + 0.05, b, 0.5 - a - 0.05 - b
    wrong = Composition("wrong", 4, BLANES_MOAN4.kicks, (*drifts, *drifts[::-1]), "none")
    assert next(energy_order(KEPLER, BLANES_MOAN4, True)).passed
    assert not next(energy_order(KEPLER, wrong, True)).passed


class ETD3RK(ExponentialRK3):
    """Cox and Matthews' own second stage, whose order falls where A is stiff."""

    def step(self, system, state, inc, *, error=False, dense=False):
        y, middle = state.y, inc.at(0.5)
        half, whole = flow(system, Increments(inc.t0, middle, 0.5 * inc.h)), flow(system, inc, 3)
        first, second, third = whole.moments
        f1 = system.rest(inc.t0, y)
        f2 = system.rest(middle, half.decay * y + half.moments[0] * f1)
        f3 = system.rest(inc.t1, whole.decay * y + first * (2 * f2 - f1))
        bend = (2 * third - second) * (f3 - 2 * f2 + f1)
        return Step(State(whole.decay * y + first * f1 + 2 * second * (f2 - f1) + bend))


def test_the_order_of_etd3rk_is_reduced_on_the_heat_equation_and_that_of_exponential_rk3_is_not():
    heat = PROBLEMS[0]
    assert next(orders(heat, METHODS["ode", "exponential_rk3"], True)).passed
    assert not next(orders(heat, ETD3RK(), True)).passed


def test_phi_functions_with_a_wrong_constant_are_found(monkeypatch):
    arguments = np.array([-30.0, -1.0, 1e-3, 5.0])
    assert next(phi_functions("real", arguments, 4)).passed
    right = ode_exponential.phi
    monkeypatch.setattr(ode_exponential, "phi", lambda z, count: tuple(x * (1 + 1e-14) for x in right(z, count)))
    assert not next(phi_functions("real", arguments, 4)).passed
