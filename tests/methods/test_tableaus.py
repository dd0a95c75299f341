"""What the coefficients must satisfy, in algebra: no differential equation is solved here."""

from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdesolve.methods import METHODS, RungeKutta, dop853, dopri5, verner
from sdesolve.methods.printed import nested
from sdesolve.methods.runge_kutta import unnested
from tests.methods.rooted_trees import density, stage_weights, trees

#: a condition that is not met misses by more; one that printed coefficients meet, by less
LEAST, TINY = 1e-6, 1e-14
#: of the continuous extensions; the others are cubic Hermite interpolants
DENSE_ORDER = {"tsit5": 4, "dopri5": 4, "vern7": 7, "dop853": 7}
METHODS_ = [method for method in METHODS.values() if isinstance(method, RungeKutta)]
each = pytest.mark.parametrize("method", METHODS_, ids=lambda m: m.name)
embedded = pytest.mark.parametrize("method", [m for m in METHODS_ if m.tableau.lower], ids=lambda m: m.name)
interpolated = pytest.mark.parametrize("method", [m for m in METHODS_ if m.tableau.dense], ids=lambda m: m.name)


def matrix(method: RungeKutta, rows: tuple = ()) -> np.ndarray:
    """a, and the rows of the stages that dense output adds, as a square."""
    rows = (*method.tableau.a, *rows)
    return np.array([[*row, *(0.0,) * (len(rows) - len(row))] for row in rows])


def defects(weights: np.ndarray, a: np.ndarray, order: int, theta: float = 1.0) -> list[float]:
    """|sum_i b_i g_i(tree) - theta^order / gamma(tree)| over the trees of this order: 0 is a condition met."""
    return [abs(weights @ stage_weights(tree, a) - theta**order / density(tree)) for tree in trees(order)]


def test_there_are_1_1_2_4_9_20_48_115_286_rooted_trees():
    assert [len(trees(n)) for n in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]


def test_the_names_promised_are_there():
    low = {"euler", "midpoint", "heun", "ralston", "rk4", "bosh3"}
    assert {m.name for m in METHODS_} == low | {"tsit5", "dopri5", "vern7", "dop853"}


@each
def test_nodes_are_row_sums(method):
    tableau = method.tableau
    a, nodes = matrix(method, tableau.dense_a), (*tableau.c, *tableau.dense_c)
    # the coefficients, up to 200 in size, are rounded
    assert (np.abs(a.sum(1) - nodes) <= np.finfo(float).eps * (1 + np.abs(a).sum(1))).all()
    assert min(nodes) >= 0 and max(nodes) <= 1


@each
def test_weights_satisfy_every_order_condition_up_to_the_order_and_not_beyond(method):
    a, b = matrix(method), np.array(method.tableau.b)
    # 1e-14, and twice that for tsit5, whose rounding of weights and coefficients, up to 13 in size, adds up
    most = 2e-14 if method.name == "tsit5" else 1e-14
    for order in range(1, method.order + 1):
        assert max(defects(b, a, order)) < most, order
    assert max(defects(b, a, method.order + 1)) > LEAST


@embedded
def test_embedded_weights_have_exactly_their_order(method):
    tableau, a = method.tableau, matrix(method)
    for weights, exactly in ((tableau.lower, tableau.lower_order), (tableau.coarse, tableau.coarse_order)):
        if weights is not None:
            for order in range(1, exactly + 1):
                assert max(defects(np.array(weights), a, order)) < 1e-14, order
            assert max(defects(np.array(weights), a, exactly + 1)) > LEAST
    assert (tableau.coarse is not None) == (method.name == "dop853")
    # h^(p+1), or of the damped estimate h^(2 (p + 1) - (q + 1))
    assert method.error_order == (8 if method.name == "dop853" else tableau.lower_order + 1) <= method.order + 1


def basis(method: RungeKutta, theta: float) -> np.ndarray:
    """theta, theta^2, theta^3, ..., or theta, theta (1 - theta), theta^2 (1 - theta), ..."""
    j = np.arange(len(method.tableau.dense[0]))
    return theta ** (j // 2 + 1) * (1 - theta) ** ((j + 1) // 2) if method.tableau.nested else theta ** (j + 1)


@interpolated
def test_dense_weights_satisfy_the_order_conditions_up_to_their_order_at_every_theta(method):
    a, coefficients = matrix(method, method.tableau.dense_a), np.array(method.tableau.dense)
    exactly = DENSE_ORDER[method.name]
    for theta in np.linspace(0.05, 1, 20):
        parts = coefficients * basis(method, theta)
        # the coefficients cancel, and are rounded
        rounding = 8 * np.finfo(float).eps * np.abs(parts).sum()
        for order in range(1, exactly + 1):
            assert max(defects(parts.sum(1), a, order, theta)) < 1e-14 + rounding
    weights = coefficients @ basis(method, 0.5)
    assert max(defects(weights, a, exactly + 1, 0.5)) > LEAST


@interpolated
def test_dense_output_joins_with_continuous_derivative(method):
    tableau = method.tableau
    powers = np.array([unnested(row) if tableau.nested else row for row in tableau.dense])
    degrees = np.arange(1, powers.shape[1] + 1)
    first, last = np.eye(len(powers))[[0, tableau.stages - 1]]
    b = np.pad(tableau.b, (0, len(tableau.dense_c)))
    # the rounding of each coefficient, and of their sums
    rounding = 2 * np.finfo(float).eps * np.abs(powers) @ degrees
    assert (np.abs(powers.sum(1) - b) <= rounding).all()  # b_i(1) = b_i
    assert (np.abs(powers[:, 0] - first) <= rounding).all()  # b_i'(0): the first stage alone
    assert (np.abs(powers @ degrees - last) <= rounding).all()  # b_i'(1): f at the end of the step alone


@given(row=st.lists(st.fractions(-9, 9, max_denominator=9), min_size=1, max_size=8), theta=st.fractions(0, 1))
def test_nested_factors_and_powers_are_the_same_polynomial(row, theta):
    value, factors = Fraction(0), nested(tuple(row))
    for k, factor in reversed(list(enumerate(factors))):
        value = (value + factor) * (1 - theta if k % 2 else theta)
    assert value == sum(x * theta ** (j + 1) for j, x in enumerate(row))
    assert unnested(factors) == tuple(row)


@each
def test_first_same_as_last_saves_one_evaluation_a_step(method):
    tableau = method.tableau
    last = matrix(method)[-1]
    is_last = bool(tableau.c[-1] == 1 and np.array_equal(last, tableau.b))
    assert tableau.first_same_as_last == is_last == (method.name in ("bosh3", "tsit5", "dopri5", "vern7", "dop853"))
    assert method.drift_evaluations + method.error_drift_evaluations == tableau.stages - is_last
    assert method.first_evaluations == is_last


@each
def test_without_the_error_a_stage_is_left_out_that_nothing_else_reads(method):
    bare, tableau = method.bare.tableau, method.tableau
    idle = {"vern7": [9]}.get(method.name, [])
    kept = [i for i in range(tableau.stages) if i not in idle]
    assert bare.stages == len(kept) and method.error_drift_evaluations == len(idle)
    everything = [*kept, *range(tableau.stages, tableau.stages + len(tableau.dense_c))]
    a, b = matrix(method, tableau.dense_a), matrix(method.bare, bare.dense_a)
    assert np.array_equal(b, a[np.ix_(everything, everything)])
    assert np.array_equal(bare.b, np.array(tableau.b)[kept]) and np.array_equal(bare.c, np.array(tableau.c)[kept])
    if tableau.dense:
        assert np.array_equal(bare.dense, np.array(tableau.dense)[everything])
    # what is left out has no weight in what is kept
    assert not a[np.ix_(everything, idle)].any() and not np.array(tableau.b)[idle].any()
    assert not method.bare.differences or method.bare is method


def printed_matrix(module) -> np.ndarray:
    """a with the rows of dense output, in decimals of 60 digits."""
    rows = (*module.A, *getattr(module, "DENSE_A", ()))
    return decimals([(*row, *(Fraction(0),) * (len(rows) - len(row))) for row in rows])


def decimals(rows: list) -> np.ndarray:
    return np.array([[Decimal(x.numerator) / Decimal(x.denominator) for x in row] for row in rows])


@pytest.mark.parametrize("module", [dopri5, verner, dop853], ids=lambda module: module.__name__.split(".")[-1])
def test_printed_coefficients_satisfy_the_order_conditions_in_every_power_of_theta(module):
    """Without the rounding to float64: sum_i b_ij g_i(tree) is 1 / gamma(tree) for j = order of the tree, else 0."""
    method = next(x for x in vars(module).values() if isinstance(x, RungeKutta))
    with localcontext(Context(prec=60)):
        a, dense = printed_matrix(module), decimals(module.DENSE)
        nodes = decimals([(*module.C, *getattr(module, "DENSE_C", ()))])[0]
        assert max(abs(a.sum(1) - nodes)) < TINY
        orders = {"B": method.order, "LOWER": method.tableau.lower_order, "COARSE": method.tableau.coarse_order}
        for name, exactly in orders.items():
            if exactly is not None:
                weights = decimals([getattr(module, name)])[0]
                for order in range(1, exactly + 1):
                    for tree in trees(order):
                        found = weights @ stage_weights(tree, a)[: len(weights)]
                        assert abs(found - 1 / Decimal(density(tree))) < TINY, (name, tree)
        for order in range(1, DENSE_ORDER[method.name] + 1):
            for tree in trees(order):
                found = stage_weights(tree, a) @ dense
                found[order - 1] -= 1 / Decimal(density(tree))
                assert max(abs(found)) < TINY, tree
