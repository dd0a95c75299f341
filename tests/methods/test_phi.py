"""The phi functions against mpmath, and the quadrature that is made of them."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdesolve.methods.phi import doubled, fitted_weights, integrals_to_end, lagrange, phi, radau_nodes

mpmath.mp.dps = 50
POINTS = [0.0, 1e-300, -1e-30, 1e-8, -1e-8, 1.0, -1.0, 1.999, -1.999, 2.0, -2.0, 2.001, -2.001, -50.0, 80.0, -1e4, -1e8]


def exact(k: int, z: float, derivative: int = 0):
    """phi_k(z) = 1F1(1; k + 1; z) / k!, and its derivative 1F1(2; k + 2; z) / (k + 1)! ... by d/dz 1F1(a; b; z)."""
    a, b = 1 + derivative, k + 1 + derivative
    factor = mpmath.mpf(1) / (k + 1) if derivative else mpmath.mpf(1)
    return factor * mpmath.hyp1f1(a, b, mpmath.mpf(z)) / mpmath.factorial(k)


def units(found: float, wanted, dtype: torch.dtype) -> float:
    """The relative error in rounding units."""
    return float(abs((mpmath.mpf(found) - wanted) / wanted)) / torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(
    z=st.one_of(st.sampled_from(POINTS), st.floats(-4, 4), st.floats(-1e4, 80), st.floats(-1e-3, 1e-3)),
    count=st.integers(1, 4),
)
def test_phi_functions_are_right_to_rounding(dtype, z, count):
    argument = torch.tensor(z, dtype=dtype)
    for k, value in enumerate(phi(argument, count), 1):
        assert value.dtype == dtype
        assert units(float(value), exact(k, float(argument)), dtype) < 10


@given(z=st.one_of(st.sampled_from(POINTS), st.floats(-5, 5)), count=st.integers(1, 4))
def test_derivatives_of_phi_functions_are_right_and_finite_at_zero(z, count):
    argument = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    for k, value in enumerate(phi(argument, count), 1):
        (slope,) = torch.autograd.grad(value, argument, retain_graph=True)
        # beyond the series derivatives are differences: at |z| = 2 of numbers up to (k + 1)! times as large
        assert units(float(slope), exact(k, z, 1), torch.float64) < 500


@given(z=st.one_of(st.sampled_from(POINTS), st.floats(-1e3, 40)), count=st.integers(1, 4))
def test_doubled_phi_functions_are_those_of_twice_the_argument(z, count):
    z = float(max(z, -1e6)) if z < 40 else 40.0
    argument = torch.tensor(z, dtype=torch.float64)
    found = doubled(argument.exp(), phi(argument, count))
    for k, value in enumerate(found, 1):
        # exp(z) has the relative error that z has in absolute terms: |z| / 2 units at most
        assert units(float(value), exact(k, 2 * z), torch.float64) < 20


def test_phi_functions_are_elementwise_and_complex_arguments_work():
    z = torch.tensor([[0.1, -30.0], [2.5, 0.0]], dtype=torch.float64)
    for whole, rows in zip(phi(z, 3), zip(*(phi(row, 3) for row in z), strict=True), strict=True):
        assert torch.equal(whole, torch.stack(rows))
    turning = 1j * z
    for k, value in enumerate(phi(turning, 3), 1):
        wanted = [complex(mpmath.hyp1f1(1, k + 1, x) / mpmath.factorial(k)) for x in turning.flatten().tolist()]
        assert np.allclose(value.flatten().numpy(), wanted, rtol=1e-14, atol=0)


# ---- nodes and weights


@pytest.mark.parametrize("count", [2, 3, 4])
def test_radau_weights_integrate_polynomials_of_twice_the_degree_and_end_at_one(count):
    nodes, weights = np.array(radau_nodes(count)), np.array(integrals_to_end(radau_nodes(count))[-1])
    assert nodes[-1] == 1 and (np.diff(nodes) > 0).all() and nodes[0] > 0
    for k in range(2 * count - 1):
        assert abs(weights @ nodes**k - 1 / (k + 1)) < 2e-15
    assert abs(weights @ nodes ** (2 * count - 1) - 1 / (2 * count)) > 1e-6


def test_the_radau_nodes_of_three_stages_are_those_of_the_literature():
    root = math.sqrt(6)
    assert np.allclose(radau_nodes(3), [(4 - root) / 10, (4 + root) / 10, 1], atol=1e-16)


def test_integrals_to_the_end_are_those_of_polynomials():
    nodes = radau_nodes(4)
    for row, s in zip(integrals_to_end(nodes), (*nodes, 0.0), strict=True):
        for k in range(4):
            assert abs(np.dot(row, np.array(nodes) ** k) - (1 - s ** (k + 1)) / (k + 1)) < 1e-15


@settings(max_examples=50)
@given(
    z=st.one_of(st.floats(-1e4, 20), st.floats(-3, 3)),
    coefficients=st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    nodes=st.sampled_from([radau_nodes(4), tuple((np.polynomial.legendre.leggauss(4)[0] + 1) / 2)]),
)
def test_fitted_quadrature_is_exact_for_exponential_times_polynomial(z, coefficients, nodes):
    """int exp(z (1 - s)) s^k ds = k! phi_(k+1)(z)."""
    weights = fitted_weights(phi(torch.tensor(z, dtype=torch.float64), 4), lagrange(nodes))
    found = sum(
        float(w) * np.polynomial.polynomial.polyval(s, coefficients) for w, s in zip(weights, nodes, strict=True)
    )
    moments = [float(mpmath.factorial(k) * exact(k + 1, z)) for k in range(4)]
    size = moments[0]
    assert abs(found - np.dot(moments, coefficients)) < 1e-13 * size
