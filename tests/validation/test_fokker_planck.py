"""The finite volumes themselves, on equations whose densities are known."""

import numpy as np
import pytest
from scipy import integrate, stats

from validation.fokker_planck import Cells, Rates, fokker_planck, rates, transported, trbdf2

RATE, NOISE, START, SPREAD = 1.3, 0.8, 1.5, 0.3
OUTSIDE = 6.0


def drift(t, x):
    """Pulls towards a centre that moves."""
    return -RATE * (x - np.sin(2 * t))


def diffusion(t, x):
    return NOISE * np.sqrt(1 + t) + 0 * x


def law(t):
    """By the moments' own equations."""
    mean = integrate.quad(lambda s: np.exp(-RATE * (t - s)) * RATE * np.sin(2 * s), 0, t, epsabs=1e-13)[0]
    heat = integrate.quad(lambda s: np.exp(-2 * RATE * (t - s)) * NOISE**2 * (1 + s), 0, t, epsabs=1e-13)[0]
    return stats.norm(START * np.exp(-RATE * t) + mean, np.sqrt(SPREAD**2 * np.exp(-2 * RATE * t) + heat))


def error(cells, ts):
    found = fokker_planck(drift, diffusion, cells, cells.masses(law(0.0).cdf), ts)
    return float(np.abs(found.masses[-1] - cells.masses(law(ts[-1]).cdf)).sum())


def order(errors):
    """Of errors at sizes that are halved each time."""
    return float(-np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0])


@pytest.mark.parametrize("core", [0.7, 100.0], ids=["graded", "equal"])
def test_order_in_space_is_two(core):
    errors = [error(Cells.graded(OUTSIDE, n, core), np.linspace(0, 1, 401)) for n in (60, 120, 240, 480)]
    assert order(errors) == pytest.approx(2, abs=0.1)
    assert errors[-1] < 4e-4


def test_order_in_time_is_two_with_coefficients_that_depend_on_it():
    cells = Cells.graded(OUTSIDE, 4800)
    errors = [error(cells, np.linspace(0, 1, n + 1)) for n in (8, 16, 32, 64)]
    assert order(errors) == pytest.approx(2, abs=0.1)
    assert errors[-1] < 2e-4


def test_order_is_two_for_a_mixture():
    """Two modes that spread by noise alone, which stay a mixture."""
    weights, means = np.array([0.3, 0.7]), np.array([-1.0, 0.8])
    cdf = lambda x, t: stats.norm.cdf((x[..., None] - means) / np.sqrt(0.09 + t)) @ weights
    errors = []
    for n in (50, 100, 200, 400):
        cells = Cells.graded(8.0, n, 2.0)
        start = cells.masses(lambda x: cdf(x, 0.0))
        found = fokker_planck(lambda t, x: 0 * x, lambda t, x: 1 + 0 * x, cells, start, np.linspace(0, 1, n + 1))
        errors.append(np.abs(found.masses[-1] - cells.masses(lambda x: cdf(x, 1.0))).sum())
    assert order(errors) == pytest.approx(2, abs=0.1)


def test_falling_times_are_those_of_the_equation_read_backwards():
    """dx = a x dt + g dw from t = 1 down to 0: with s = 1 - t that is dx = -a x ds + g dw."""
    cells, ts = Cells.graded(OUTSIDE, 400), np.linspace(1, 0, 101)
    start = cells.masses(stats.norm(START, SPREAD).cdf)
    found = fokker_planck(lambda t, x: RATE * t * x, lambda t, x: NOISE + 0 * x, cells, start, ts)
    # of s: mean START exp(-RATE (s - s^2 / 2)), and variance by its equation
    share = lambda s: np.exp(-RATE * (s - s * s / 2))
    heat = integrate.quad(lambda s: (share(1.0) / share(s) * NOISE) ** 2, 0, 1)[0]
    exact = stats.norm(START * share(1.0), np.sqrt((share(1.0) * SPREAD) ** 2 + heat))
    assert np.abs(found.masses[-1] - cells.masses(exact.cdf)).sum() < 5e-4


def test_mass_is_conserved_and_none_is_negative():
    """Step by step before anything is scaled; from all mass in one cell too, in steps of any length."""
    cells = Cells.graded(OUTSIDE, 800)
    one = np.zeros(800)
    one[300] = 1.0
    for masses, steps in ((cells.masses(law(0.0).cdf), 200), (one, 200), (one, 3)):
        found = fokker_planck(drift, diffusion, cells, masses, np.linspace(0, 1, steps + 1))
        assert found.leak < 1e-12
        assert np.abs(found.masses.sum(1) - 1).max() < 1e-14
        assert (found.masses >= 0).all()
    smooth = fokker_planck(drift, diffusion, cells, cells.masses(law(0.0).cdf), np.linspace(0, 1, 201))
    assert smooth.cut < 1e-15


def test_what_is_cut_off_takes_no_density_farther_from_the_right_one():
    """A step that is long for a narrow density, with what is negative and without."""
    cells, ts = Cells.graded(OUTSIDE, 800), np.array([0.0, 0.2])
    narrow = cells.masses(stats.norm(START, 0.02).cdf)
    still, noise = lambda t, x: 0 * x, lambda t, x: 1 + 0 * x
    exact = cells.masses(stats.norm(START, np.sqrt(0.02**2 + 0.2)).cdf)
    found = fokker_planck(still, noise, cells, narrow, ts)
    both = rates(still, noise, cells, ts[:1, None])
    always = Rates(both.up[0], both.down[0])
    whole = trbdf2(always, always, always, 0.2, narrow)
    assert found.cut == pytest.approx(-whole[whole < 0].sum())
    assert found.cut > 1e-3
    assert np.abs(found.masses[-1] - exact).sum() <= np.abs(whole - exact).sum()


def test_rates_are_not_negative_and_upwind_without_noise():
    cells, t = Cells.graded(3.0, 50), np.array([[0.0], [0.5]])
    for noise in (0.0, 1e-8, 1e-3, 1.0, 1e3):
        found = rates(lambda t, x: 50 * np.sin(5 * x + t), lambda t, x, g=noise: g + 0 * x, cells, t)
        for each in (found.up, found.down):
            assert np.isfinite(each).all()
            assert (each >= 0).all()
    found = rates(lambda t, x: 2 + 0 * x, lambda t, x: 0 * x, cells, t)
    np.testing.assert_allclose(found.up * cells.widths[:-1], 2.0)
    assert not found.down.any()


def test_noise_that_depends_on_the_state_is_that_of_ito():
    """At rest p ~ exp(int 2 f / g^2) / g^2, by quadrature, and the answer is independent of where the mass began."""
    f, g = lambda x: x - x**3, lambda x: 0.5 + 0.25 * np.sin(2 * x)
    fine = np.linspace(-4, 4, 80001)
    exponent = integrate.cumulative_simpson(2 * f(fine) / g(fine) ** 2, x=fine, initial=0)
    p = np.exp(exponent - exponent.max()) / g(fine) ** 2
    rising = integrate.cumulative_simpson(p, x=fine, initial=0)
    away = []
    for n in (400, 800, 1600):
        cells = Cells.graded(4.0, n, 10.0)
        start, ts = cells.masses(stats.norm(-0.3, 0.2).cdf), np.concatenate([[0.0], np.geomspace(1e-2, 1e5, 200)])
        found = fokker_planck(lambda t, x: f(x), lambda t, x: g(x), cells, start, ts)
        right = cells.masses(lambda x: np.interp(x, fine, rising / rising[-1]))
        away.append(np.abs(found.masses[-1] - right).sum())
    assert away[-1] < 1e-4
    assert order(away) == pytest.approx(2, abs=0.15)


def test_implicit_rates_solve_their_equation():
    generator = np.random.default_rng(0)
    found, m = Rates(generator.random(9), generator.random(9)), generator.random(10)
    solved = found.implicit(0.7, m)
    np.testing.assert_allclose(solved - 0.7 * found.change(solved), m, rtol=1e-13)


def test_cells_move_along_a_nonlinear_flow():
    """dx/dt = cos(t) x (1 - x^2), whose solution is known; up and down in time."""
    cells = Cells(np.linspace(-0.9, 1.4, 60))
    there = transported(lambda t, x: np.cos(t) * x * (1 - x * x), cells, np.array([0.0, 0.5, 1.0]))
    x, s = cells.edges, np.sin(1.0)
    exact = x * np.exp(s) / np.sqrt(1 + x * x * np.expm1(2 * s))
    np.testing.assert_allclose(there[-1], exact, rtol=0, atol=1e-6)
    back = transported(lambda t, x: np.cos(t) * x * (1 - x * x), Cells(there[-1]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(back[-1], x, rtol=0, atol=1e-6)


def test_masses_and_distribution_functions_are_each_others_inverse():
    cells = Cells.graded(5.0, 40)
    m = cells.masses(stats.norm(0.3, 0.5).cdf)
    assert m.sum() == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(cells.cdf(m)(cells.edges[1:-1]), stats.norm(0.3, 0.5).cdf(cells.edges[1:-1]), atol=1e-14)
