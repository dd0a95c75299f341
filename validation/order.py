"""Orders of convergence by regression:  log error = log C + p log h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from validation.check import Check, Curve, Interval

Array = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Fit:
    """A regression line through (log h, log error): order, constant C and the interval of the order.

    errors : (levels,), with their own intervals low and high where they are means over paths.
    """

    h: Array
    errors: Array
    order: float
    constant: float
    interval: Interval
    low: Array | None = None
    high: Array | None = None

    def line(self) -> tuple[list[float], list[float]]:
        """The two ends of the regression line."""
        ends = np.array([self.h.min(), self.h.max()])
        return ends.tolist(), (self.constant * ends**self.order).tolist()


def fit_order(h: ArrayLike, errors: ArrayLike, confidence: float = CONFIDENCE) -> Fit:
    """Least-squares slope of log error on log h, with Student's interval (levels - 2 degrees of freedom).

    Right where the deviations of the logarithms from the line are independent and normal; for errors without
    randomness the interval says how straight the line is.

    Raises
    ------
    ValueError : fewer than four levels, an error that is not positive and finite.
    """
    h, errors = np.asarray(h, float), np.asarray(errors, float)
    if len(h) < 4:
        raise ValueError(f"an order is measured over at least 4 step sizes, not {len(h)}")
    if not (np.isfinite(errors).all() and (errors > 0).all()):
        raise ValueError(f"errors {errors.tolist()} have no logarithms")
    line = stats.linregress(np.log(h), np.log(errors))
    reach = stats.t.ppf(0.5 + confidence / 2, len(h) - 2) * line.stderr
    return Fit(h, errors, line.slope, np.exp(line.intercept), (line.slope - reach, line.slope + reach))


def fit_sampled_order(h: ArrayLike, errors: ArrayLike, *, seed: int = 0, confidence: float = CONFIDENCE) -> Fit:
    """The order of the mean error over paths, for errors (levels, paths) that were measured along the same paths.

    The interval is the hull of two: the percentile bootstrap over paths (all levels of a path are drawn together, as
    they are dependent), which sees the noise of sampling, and that of `fit_order`, which sees a line that is bent.

    References
    ----------
    Efron, Tibshirani (1993). An introduction to the bootstrap. Chapter 13.
    """
    h, errors = np.asarray(h, float), np.asarray(errors, float)
    fit = fit_order(h, errors.mean(1), confidence)
    paths = errors.shape[1]
    counts = np.random.default_rng(seed).multinomial(paths, np.full(paths, 1 / paths), RESAMPLES)
    means = counts @ errors.T / paths
    x = np.log(h) - np.log(h).mean()
    slopes = np.log(means) @ x / (x @ x)
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    low, high = np.percentile(slopes, tails)
    interval = (float(min(low, fit.interval[0])), float(max(high, fit.interval[1])))
    bars = np.percentile(means, tails, axis=0)
    return Fit(fit.h, fit.errors, fit.order, fit.constant, interval, bars[0], bars[1])


def order_check(
    section: str,
    name: str,
    what: str,
    fit: Fit,
    expected: float,
    bound: float,
    *,
    figure: str,
    label: str,
    x_label: str = "step size",
    y_label: str = "error",
    **details: Any,
) -> Check:
    """Whether the whole interval of the order lies within `bound` of the expected one."""
    low, high = fit.interval
    curve = Curve(
        figure,
        f"{label}: {fit.order:.2f}",
        fit.h.tolist(),
        fit.errors.tolist(),
        None if fit.low is None else fit.low.tolist(),
        None if fit.high is None else fit.high.tolist(),
        fit.line(),
        x_label,
        y_label,
    )
    return Check(
        section,
        name,
        what,
        expected,
        f"interval within {bound:g}",
        fit.order,
        fit.interval,
        expected - bound <= low and high <= expected + bound,
        {
            x_label.replace(" ", "_") + "s": fit.h.tolist(),
            "errors": fit.errors.tolist(),
            "constant": fit.constant,
            **details,
        },
        (curve,),
    )
