"""Statistical checks pass for the right law, fail for wrong ones, and rarely raise a false alarm."""

import numpy as np
import pytest
from scipy import stats

from validation import significance
from validation.significance import agreement, kolmogorov_smirnov, mean_and_covariance

COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])


def sample(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal([1.0, -0.5], COVARIANCE, n)


def verdicts(x: np.ndarray, mean=(1.0, -0.5), covariance=COVARIANCE) -> list[bool]:
    return [check.passed for check in mean_and_covariance("s", "n", "w", x, mean, covariance)]


def test_right_law_passes() -> None:
    assert verdicts(sample(10_000)) == [True, True]


def test_mean_that_is_off_by_a_tenth_of_a_deviation_fails() -> None:
    assert verdicts(sample(10_000), mean=(1.07, -0.5))[0] is False


def test_covariance_without_its_correlation_fails() -> None:
    assert verdicts(sample(10_000), covariance=np.diag(COVARIANCE.diagonal())) == [True, False]


def test_false_alarms_have_the_stated_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rate, runs = 0.05, 1000
    monkeypatch.setattr(significance, "FALSE_ALARM", rate)
    alarms = np.array([[not v for v in verdicts(sample(200, seed))] for seed in range(runs)]).mean(0)
    # Bonferroni keeps it below the rate, by little for independent components
    assert (alarms < rate + 4 * np.sqrt(rate * (1 - rate) / runs)).all()
    assert (alarms > rate / 4).all()


def test_row_shows_the_estimate_that_is_farthest_away() -> None:
    check = agreement("s", "n", "what", [1.0, 2.5, 3.0], [1.1, 2.0, 3.0], [1.0, 0.1, 0.1], ["a", "b", "c"])
    assert check.what == "what (b)"
    assert (check.expected, check.measured) == (2.0, 2.5)
    assert not check.passed or check.details["p_value"] >= significance.FALSE_ALARM


def test_estimate_that_is_not_a_number_fails() -> None:
    assert not agreement("s", "n", "w", [0.0, np.nan], 0.0, 1.0, ["a", "b"]).passed


def test_kolmogorov_smirnov_sees_a_scale_that_is_wrong_by_a_tenth() -> None:
    z = np.random.default_rng(0).standard_normal(20_000)
    assert kolmogorov_smirnov("s", "n", "w", z, stats.norm.cdf).passed
    assert not kolmogorov_smirnov("s", "n", "w", 1.1 * z, stats.norm.cdf).passed
