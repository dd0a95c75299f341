"""Order conditions of the Stratonovich Runge-Kutta methods in (W, H), to rounding.

With p_i = sum_j aw_ij and q_i = sum_j ah_ij a stage holds the noise p_i W + q_i H, and Var H = h/12.
"""

import numpy as np
import pytest

from sdesolve.methods import METHODS

NAMES = ("euler_heun", "midpoint", "general_shark", "slow_rk", "spark")
HIGH = ("general_shark", "slow_rk", "spark")


class Dense:
    """The tableau with its zeros."""

    def __init__(self, name):
        tab = METHODS["sde", name].tableau
        n = tab.stages
        square = lambda rows: np.array([(*row, *(0.0,) * (n - len(row))) for row in (*rows, *((),) * (n - len(rows)))])
        self.a, self.aw, self.ah = square(tab.a), square(tab.aw), square(tab.ah)
        self.b, self.bw, self.bh = square((tab.weights.b, tab.weights.bw, tab.weights.bh))[:3]
        self.c, self.p, self.q = np.array(tab.c), self.aw.sum(1), self.ah.sum(1)


def close(a, b):
    return abs(a - b) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_noise_that_commutes_has_order_one(name):
    """The solution holds g W and 1/2 g'g W^2, and neither g H, nor g'g W H, nor g'g H^2, whose mean is not 0."""
    t = Dense(name)
    assert close(t.b.sum(), 1) and close(t.bw.sum(), 1) and close(t.bh.sum(), 0)
    assert close(t.bw @ t.p, 0.5)
    assert close(t.bw @ t.q + t.bh @ t.p, 0) and close(t.bh @ t.q, 0)


@pytest.mark.parametrize("name", HIGH)
def test_additive_noise_has_order_three_halves(name):
    """f'g int W = f'g h (W/2 + H), the mean of 1/2 f''(g W)^2 over the step, and int g dW for g on a line:
    g' h (W/2 - H)."""
    t = Dense(name)
    assert close(t.b @ t.p, 0.5) and close(t.b @ t.q, 1) and close(t.b @ (t.p**2 + t.q**2 / 12), 0.5)
    assert close(t.bw @ t.c, 0.5) and close(t.bh @ t.c, -1)
    assert close(t.b @ t.c, 0.5) and close(t.b @ t.a.sum(1), 0.5)


@pytest.mark.parametrize(("name", "holds"), [("slow_rk", True), ("general_shark", False), ("spark", False)])
def test_slow_rk_alone_has_order_three_halves_for_noise_that_commutes(name, holds):
    """1/6 W^3 (g''gg + g'g'g), and f'g, g'f with W/2 + H and W/2 - H in  y + f h + g W + ... ."""
    t = Dense(name)
    cubic = close(t.bw @ t.p**2, 1 / 3) and close(t.bw @ (t.aw @ t.p), 1 / 6)
    # g'f: what f does to the stages of g
    after = close(t.bw @ t.a.sum(1), 0.5) and close(t.bh @ t.a.sum(1), -1)
    assert (cubic and after) == holds


@pytest.mark.parametrize("name", ("sea", "shark"))
def test_shifted_stages_satisfy_the_conditions_of_additive_noise(name):
    method = METHODS["sde", name]
    b, p, c = np.array(method.b), np.array(method.aw), np.array(method.c)
    assert close(b.sum(), 1) and close(b @ p, 0.5)  # q = 1
    if name == "shark":
        assert close(b @ c, 0.5) and close(b @ (p**2 + 1 / 12), 0.5)


def test_the_tableaus_can_tell_a_wrong_coefficient():
    t = Dense("spark")
    t.q[1] *= 1.01
    assert not close(t.b @ t.q, 1) and not close(t.b @ (t.p**2 + t.q**2 / 12), 0.5)
