"""Regression finds orders, and its intervals cover as often as they say."""

import numpy as np
import pytest

from validation.order import fit_order, fit_sampled_order, order_check

H = 2.0 ** -np.arange(3, 9)


@pytest.mark.parametrize("order", [0.5, 1.0, 1.5, 5.0])
def test_slope_of_a_power_law_is_its_exponent(order: float) -> None:
    fit = fit_order(H, 0.7 * H**order)
    assert fit.order == pytest.approx(order, abs=1e-12)
    assert fit.constant == pytest.approx(0.7, rel=1e-10)
    assert fit.interval == pytest.approx((order, order), abs=1e-10)


def test_student_interval_covers_the_order_as_often_as_it_says() -> None:
    rng, runs = np.random.default_rng(0), 2000
    covered = 0
    for _ in range(runs):
        low, high = fit_order(H, H**1.5 * np.exp(0.1 * rng.standard_normal(len(H)))).interval
        covered += low <= 1.5 <= high
    # binomial: 95% of 2,000 with a standard deviation of 0.5%
    assert abs(covered / runs - 0.95) < 0.02


def test_sampled_interval_covers_at_least_as_often_as_it_says() -> None:
    rng, runs, paths = np.random.default_rng(1), 100, 200
    covered = 0
    for _ in range(runs):
        # paths with heavy tails, common to all levels, and noise of each level
        common, own = rng.standard_exponential(paths), rng.standard_exponential((len(H), paths))
        fit = fit_sampled_order(H, H[:, None] ** 0.5 * (common + own))
        covered += fit.interval[0] <= 0.5 <= fit.interval[1]
    assert covered / runs > 0.88


def test_sampled_interval_shrinks_like_the_root_of_the_number_of_paths() -> None:
    rng = np.random.default_rng(2)

    def width(paths: int) -> float:
        low, high = fit_sampled_order(H, H[:, None] * rng.standard_exponential((len(H), paths))).interval
        return high - low

    # by more than 6, less the part that comes from the bend of the line
    assert 0.5 * width(50) > width(2000)


def test_bent_line_widens_the_interval() -> None:
    low, high = fit_order(H, H * (1 + 20 * H)).interval
    assert high - low > 0.1


def test_interval_must_lie_within_the_bound() -> None:
    def passed(order: float, noise: float) -> bool:
        errors = H**order * np.exp(noise * np.array([1, -1, 1, -1, 1, -1]))
        check = order_check("s", "n", "w", fit_order(H, errors), 1.0, 0.15, figure="f", label="l")
        return check.passed

    assert passed(1.0, 0.0)
    assert passed(1.1, 0.0)
    assert not passed(1.2, 0.0)
    assert not passed(0.8, 0.0)
    assert not passed(1.0, 0.5)


@pytest.mark.parametrize(("h", "errors"), [(H[:3], H[:3]), (H, np.zeros(6)), (H, H * np.nan), (H, np.full(6, np.inf))])
def test_no_order_is_read_off_three_levels_or_errors_without_logarithms(h, errors) -> None:
    with pytest.raises(ValueError, match=r"at least 4|no logarithms"):
        fit_order(h, errors)
