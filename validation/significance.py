"""Statistical comparisons with exact answers.

Each check on random numbers raises a false alarm with probability at most `FALSE_ALARM`; comparisons within a check
share it (Bonferroni). A run of a hundred such checks is then wrong once in ten thousand seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from validation.check import Check, Curve
from validation.order import CONFIDENCE

FALSE_ALARM = 1e-6


def agreement(
    section: str,
    name: str,
    what: str,
    measured: ArrayLike,
    expected: ArrayLike,
    std_error: ArrayLike,
    labels: Sequence[str],
    curves: tuple[Curve, ...] = (),
    **details: Any,
) -> Check:
    """Normal estimates with known standard errors against exact values: z-tests, Bonferroni-corrected.

    The row shows the estimate that lies farthest away in standard errors, with the simultaneous 95% interval.
    """
    measured, expected, std_error = np.broadcast_arrays(
        *(np.asarray(values, float).ravel() for values in (measured, expected, std_error))
    )
    count = measured.size
    z = (measured - expected) / std_error
    worst = int(np.argmax(np.where(np.isnan(z), np.inf, np.abs(z))))
    p = float(np.minimum(1.0, count * 2 * stats.norm.sf(abs(z[worst]))))
    reach = stats.norm.isf((1 - CONFIDENCE) / (2 * count)) * std_error[worst]
    limit = stats.norm.isf(FALSE_ALARM / (2 * count))
    among = f" ({labels[worst]})" if count > 1 else ""
    return Check(
        section,
        name,
        what + among,
        float(expected[worst]),
        f"{count} z-test{'s' * (count > 1)}, |z| at most {limit:.2f}",
        float(measured[worst]),
        (float(measured[worst] - reach), float(measured[worst] + reach)),
        bool(p >= FALSE_ALARM),  # NaN fails
        {
            "labels": list(labels),
            "measured": measured.tolist(),
            "expected": expected.tolist(),
            "std_error": std_error.tolist(),
            "z": z.tolist(),
            "p_value": p,
            **details,
        },
        curves,
    )


def kolmogorov_smirnov(section: str, name: str, what: str, sample: ArrayLike, cdf: Callable[[Any], Any]) -> Check:
    """A sample against a distribution function: D = sup |F_n - F|, with the exact law of D."""
    sample = np.asarray(sample, float).ravel()
    found = stats.kstest(sample, cdf)
    limit = stats.kstwo.isf(FALSE_ALARM, sample.size)
    passed = bool(found.pvalue >= FALSE_ALARM)
    details = {"sample_size": sample.size, "p_value": found.pvalue}
    criterion = f"Kolmogorov-Smirnov D at most {limit:.2g}"
    return Check(section, name, what, None, criterion, float(found.statistic), None, passed, details)


def kolmogorov_smirnov_of(
    section: str, name: str, what: str, samples: Mapping[str, tuple[ArrayLike, Callable[[Any], Any]]]
) -> Check:
    """Samples by their names, each against a distribution function: as above, Bonferroni-corrected; they may depend on
    each other. The row shows the least probable D."""
    found = {label: stats.kstest(np.asarray(sample, float).ravel(), cdf) for label, (sample, cdf) in samples.items()}
    worst = min(found, key=lambda label: found[label].pvalue)  # NaN is looked for below
    size, count = np.size(samples[worst][0]), len(found)
    limit = stats.kstwo.isf(FALSE_ALARM / count, size)
    passed = all(each.pvalue >= FALSE_ALARM / count for each in found.values())
    details = {label: {"D": float(each.statistic), "p_value": float(each.pvalue)} for label, each in found.items()}
    criterion = f"{count} Kolmogorov-Smirnov tests, D at most {limit:.2g}"
    measured = float(found[worst].statistic)
    return Check(section, name, f"{what} ({worst})", None, criterion, measured, None, passed, details)


def histogram(
    section: str,
    name: str,
    what: str,
    counts: ArrayLike,
    probabilities: ArrayLike,
    curves: tuple[Curve, ...] = (),
    **details: Any,
) -> Check:
    """Counts in bins against the bins' probabilities p: the distance sum |counts / n - p|.

    Its expectation is at most  sum sqrt(p (1 - p) / n), and as one draw changes it by at most 2 / n, it is above that
    by d with a probability of at most exp(-n d^2 / 2) (McDiarmid's inequality; Boucheron, Lugosi & Massart 2013,
    Concentration inequalities, theorem 6.2).
    """
    counts, p = np.asarray(counts, float), np.asarray(probabilities, float)
    n = counts.sum()
    distance = float(np.abs(counts / n - p).sum())
    expected = float(np.sqrt(np.maximum(p * (1 - p), 0) / n).sum())
    limit = expected + float(np.sqrt(-2 * np.log(FALSE_ALARM) / n))
    criterion = f"L1 distance at most {limit:.2g}"
    passed = bool(distance <= limit)  # NaN fails
    found = {"paths": int(n), "bins": len(p), "expected_at_most": expected, **details}
    return Check(section, name, what, None, criterion, distance, None, passed, found, curves)


def mean_and_covariance(
    section: str,
    name: str,
    what: str,
    sample: ArrayLike,
    mean: ArrayLike,
    covariance: ArrayLike,
    **details: Any,
) -> list[Check]:
    """A sample (n, d) against the normal law that it should have: one check of its mean and one of its covariance.

    Under that law the mean has covariance S / n, and the second moments about the exact mean have variances
    (S_ii S_jj + S_ij^2) / n (Anderson 2003, An introduction to multivariate statistical analysis, section 3.4).
    """
    sample, mean, S = (np.asarray(values, float) for values in (sample, mean, covariance))
    n, d = sample.shape
    offset = sample - mean
    i, j = np.triu_indices(d)
    second = (offset.T @ offset / n)[i, j]
    error = np.sqrt((S[i, i] * S[j, j] + S[i, j] ** 2) / n)
    first = [f"component {k + 1}" for k in range(d)]
    pairs = [f"components {a + 1}, {b + 1}" for a, b in zip(i, j, strict=True)]
    scale = np.sqrt(S.diagonal() / n)
    means = agreement(section, f"{name}, mean", f"mean {what}", sample.mean(0), mean, scale, first, paths=n, **details)
    covariances = agreement(
        section, f"{name}, covariance", f"covariance {what}", second, S[i, j], error, pairs, paths=n, **details
    )
    return [means, covariances]
