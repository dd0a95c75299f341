"""Order conditions of the stochastic Runge-Kutta methods, in algebra: no differential equation is solved here.

Numbers after the conditions are what their left sides must be (Roessler 2010, SIAM J. Numer. Anal. 48:922).
"""

from dataclasses import replace

import numpy as np
import pytest

from sdesolve.methods import METHODS
from sdesolve.methods.stochastic_runge_kutta import StochasticRungeKutta

METHODS_ = [method for method in METHODS.values() if isinstance(method, StochasticRungeKutta)]
each = pytest.mark.parametrize("method", METHODS_, ids=lambda m: m.name)
additive = pytest.mark.parametrize("method", [m for m in METHODS_ if m.additive_only], ids=lambda m: m.name)
multiplicative = pytest.mark.parametrize("method", [m for m in METHODS_ if not m.additive_only], ids=lambda m: m.name)


def matrix(rows) -> np.ndarray:
    stages = len(rows)
    return np.array([[*row, *(0.0,) * (stages - len(row))] for row in rows])


class Dense:
    """A tableau as matrices and vectors; beta and lower in the order I_1, I_11, I_10, I_111."""

    def __init__(self, method):
        tab = method.tableau
        zero = np.zeros(tab.stages)
        self.A0, self.B0 = matrix(tab.A0), matrix(tab.B0)
        self.alpha, self.c0, self.c1 = np.array(tab.alpha), np.array(tab.c0), np.array(tab.c1)
        self.e = np.ones(tab.stages)
        if method.additive_only:
            self.beta = np.array([tab.beta_w, tab.beta_10])
            self.lower = np.array([tab.lower_w, zero])
        else:
            self.A1, self.B1 = matrix(tab.A1), matrix(tab.B1)
            self.beta = np.array([tab.beta_w, tab.beta_11, tab.beta_10, tab.beta_111])
            self.lower = np.array([tab.lower_w, tab.lower_11, zero, zero])


def close(values, wanted) -> bool:
    return bool(np.abs(np.asarray(values) - np.asarray(wanted)).max() < 1e-12)


def test_the_names_promised_are_there():
    assert {m.name for m in METHODS_ if m.additive_only} == {"sra1", "sra3", "sosra"}
    assert {m.name for m in METHODS_ if not m.additive_only} == {"sriw1", "sriw2", "sosri"}


@each
def test_the_drift_satisfies_its_five_conditions(method):
    tab = Dense(method)
    shift = tab.B0 @ tab.e
    assert close(tab.alpha @ tab.e, 1)
    assert close(tab.alpha @ (tab.A0 @ tab.e), 1 / 2)
    assert close(tab.alpha @ shift, 1)
    assert close(tab.alpha @ shift**2, 3 / 2)
    assert close(tab.alpha @ tab.c0, 1 / 2)


@additive
def test_the_weights_of_an_additive_diffusion_satisfy_their_four_conditions(method):
    tab = Dense(method)
    assert close(tab.beta @ tab.e, [1, 0])
    assert close(tab.beta @ tab.c1, [1, -1])


@multiplicative
def test_the_weights_of_the_diffusion_satisfy_their_twenty_one_conditions(method):
    tab = Dense(method)
    Be = tab.B1 @ tab.e
    assert close(tab.beta @ tab.e, [1, 0, 0, 0])
    assert close(tab.beta @ Be, [0, 1, 0, 0])
    assert close(tab.beta @ (tab.A1 @ tab.e), [1, 0, -1, 0])
    assert close(tab.beta @ Be**2, [1, 0, -1, 2])
    assert close(tab.beta @ (tab.B1 @ Be), [0, 0, 0, 1])
    mixed = tab.A1 @ (tab.B0 @ tab.e)
    assert close(tab.beta[0] @ mixed / 2 + tab.beta[2] @ mixed / 3, 0)


@multiplicative
def test_the_nodes_of_the_diffusion_are_row_sums(method):
    tab = Dense(method)
    assert close(tab.c1, tab.A1 @ tab.e)
    assert close(tab.beta @ tab.c1, [1, 0, -1, 0])


@each
def test_all_nodes_lie_within_the_step(method):
    tab = method.tableau
    assert all(0 <= c <= 1 for c in (*tab.c0, *tab.c1))


@additive
def test_the_lower_method_is_euler_maruyama(method):
    tab = Dense(method)
    start = tab.c1 == 0
    assert close(tab.lower @ start, [1, 0]) and not tab.lower[:, ~start].any()


@multiplicative
def test_the_lower_method_has_strong_order_one_and_not_more(method):
    """Its conditions are  gamma.e = (1, 0, 0, 0)  and  gamma.B1e = (0, 1, 0, 0);  for order 1.5 gamma_3.A1e is -1."""
    tab = Dense(method)
    assert close(tab.lower @ tab.e, [1, 0, 0, 0])
    assert close(tab.lower @ (tab.B1 @ tab.e), [0, 1, 0, 0])
    assert not close(tab.lower @ (tab.A1 @ tab.e), [1, 0, -1, 0])


@each
def test_the_weights_of_the_error_are_those_of_the_method_less_the_lower_ones(method):
    tab = Dense(method)
    order = [0, 1] if method.additive_only else [0, 2, 1, 3]  # I_1, I_10, I_11, I_111
    assert close(method.tableau.beta, tab.beta[order].T)
    assert close(method.tableau.beta_difference, (tab.beta - tab.lower)[order].T)
    assert close(method.tableau.alpha_difference, tab.alpha - np.eye(len(tab.e))[0])


@pytest.mark.parametrize(
    ("name", "drift", "diffusion"), [("sra1", 2, 2), ("sosra", 3, 3), ("sriw1", 2, 4), ("sosri", 4, 4)]
)
def test_the_methods_take_these_evaluations_a_step(name, drift, diffusion):
    method = METHODS["sde", name]
    assert (method.drift_evaluations, method.diffusion_evaluations) == (drift, diffusion)


def test_equal_stages_are_evaluated_once_and_unused_ones_not_at_all():
    """The third drift of SRIW1 is its first, and is asked for; the fourth is not asked for, also where it differs."""
    tableau = METHODS["sde", "sriw1"].tableau
    assert tableau.drift_from == (0, 1, 0, 0) and tableau.diffusion_from == (0, 1, 2, 3)
    other = replace(tableau, c0=(0.0, 3 / 4, 0.0, 1.0))
    assert other.drift_from == (0, 1, 0, 0)
    assert replace(other, alpha=(1 / 3, 2 / 3, 0.0, 1.0)).drift_from == (0, 1, 0, 3)
    assert replace(tableau, A0=((), (3 / 4,), (0.0, 0.0), ())).drift_from == (0, 1, 0, 0)
    assert replace(
        tableau,
        c1=(0.0, 1 / 4, 1 / 4, 1 / 4),
        A1=((), (1 / 4,), (1 / 4,), (0.0, 0.0, 1 / 4)),
        B1=((), (1 / 2,), (1 / 2, 0.0), (-5.0, 3.0, 1 / 2)),
    ).diffusion_from == (0, 1, 1, 3)
