"""What the coefficients must satisfy, in algebra: no differential equation is solved here."""

import numpy as np
import pytest

from sdesolve.methods import METHODS, RungeKutta
from tests.methods.rooted_trees import density, stage_weights, trees

METHODS_ = [method for method in METHODS.values() if isinstance(method, RungeKutta)]
each = pytest.mark.parametrize("method", METHODS_, ids=lambda m: m.name)
embedded = pytest.mark.parametrize("method", [m for m in METHODS_ if m.tableau.lower], ids=lambda m: m.name)
interpolated = pytest.mark.parametrize("method", [m for m in METHODS_ if m.tableau.dense], ids=lambda m: m.name)


def matrix(method: RungeKutta) -> np.ndarray:
    stages = method.tableau.stages
    return np.array([[*row, *(0.0,) * (stages - len(row))] for row in method.tableau.a])


def defects(weights: np.ndarray, a: np.ndarray, order: int, theta: float = 1.0) -> list[float]:
    """|sum_i b_i g_i(tree) gamma(tree) / theta^order - 1| over the trees of this order: 0 is a condition met."""
    return [abs(weights @ stage_weights(tree, a) * density(tree) / theta**order - 1) for tree in trees(order)]


def test_there_are_1_1_2_4_9_20_rooted_trees():
    assert [len(trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


def test_the_names_promised_are_there():
    assert {m.name for m in METHODS_} == {"euler", "midpoint", "heun", "rk4", "bosh3", "tsit5", "dopri5"}


@each
def test_nodes_are_row_sums(method):
    assert np.abs(matrix(method).sum(1) - method.tableau.c).max() < 1e-14


@each
def test_weights_satisfy_every_order_condition_up_to_the_order_and_not_beyond(method):
    a, b = matrix(method), np.array(method.tableau.b)
    for order in range(1, method.order + 1):
        assert max(defects(b, a, order)) < 1e-13, order
    assert max(defects(b, a, method.order + 1)) > 1e-4


@embedded
def test_embedded_weights_have_exactly_their_order(method):
    a, lower = matrix(method), np.array(method.tableau.lower)
    for order in range(1, method.tableau.lower_order + 1):
        assert max(defects(lower, a, order)) < 1e-13, order
    assert max(defects(lower, a, method.tableau.lower_order + 1)) > 1e-4
    assert method.error_order == method.tableau.lower_order + 1 <= method.order + 1


@interpolated
def test_dense_weights_satisfy_the_order_conditions_up_to_four_at_every_theta(method):
    a, coefficients = matrix(method), np.array(method.tableau.dense)
    # the coefficients, up to 50 in size and given to 16 digits, cancel: their rounding is what is allowed
    rounding = 8 * np.finfo(float).eps * np.abs(coefficients).sum()
    for theta in np.linspace(0.05, 1, 20):
        weights = coefficients @ theta ** np.arange(1, coefficients.shape[1] + 1)
        for order in range(1, 5):
            assert max(defects(weights, a, order, theta)) * theta**order < rounding
    # in the middle of a step the interpolant is not of order five: four is exact
    weights = coefficients @ 0.5 ** np.arange(1, coefficients.shape[1] + 1)
    assert max(defects(weights, a, 5, 0.5)) > 1e-4


@interpolated
def test_dense_output_joins_with_continuous_derivative(method):
    powers = np.array(method.tableau.dense)
    degrees = np.arange(1, powers.shape[1] + 1)
    first, last = np.eye(method.tableau.stages)[[0, -1]]
    assert np.abs(powers.sum(1) - method.tableau.b).max() < 2e-14  # b_i(1) = b_i
    assert np.abs(powers[:, 0] - first).max() < 2e-14  # b_i'(0): the first stage alone
    assert np.abs(powers @ degrees - last).max() < 1e-13  # b_i'(1): f at the end of the step alone


@each
def test_first_same_as_last_saves_one_evaluation_a_step(method):
    tableau = method.tableau
    last = matrix(method)[-1]
    is_last = bool(tableau.c[-1] == 1 and np.array_equal(last, tableau.b))
    assert tableau.first_same_as_last == is_last == (method.name in ("bosh3", "tsit5", "dopri5"))
    assert method.drift_evaluations == tableau.stages - is_last
    assert method.first_evaluations == is_last
