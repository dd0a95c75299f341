"""Likelihoods of diffusion with exact scores: log-densities point by point, estimated traces, the variational bound.

With the exact score, and the exact marginal as prior, the probability flow finds the log-density itself, and the bound
of the reverse SDE is tight (Song, Durkan, Murray & Ermon 2021, theorem 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from scipy import stats
from torch import Tensor

import diffusion
from diffusion.exact import GaussianMixture
from diffusion.process import Process
from validation.check import Case, Check, Settings, bounded

NAME = "diffusion"
PROCESSES: dict[str, Process] = {
    "VP": diffusion.VP(),
    "EDM": diffusion.EDM(),
    "rectified flow": diffusion.RectifiedFlow(),
}
T_MIN = 1e-5


def mixture(dims: int) -> GaussianMixture:
    """Four modes with full covariances of their own."""
    generator = torch.Generator().manual_seed(dims)
    a = torch.randn(4, dims, dims, dtype=torch.float64, generator=generator)
    means = 2 * torch.randn(4, dims, dtype=torch.float64, generator=generator)
    covariances = 0.1 * a @ a.mT + 0.05 * torch.eye(dims, dtype=torch.float64)
    return GaussianMixture(means, covariances, torch.arange(1, 5, dtype=torch.float64))


def points(settings: Settings, law: GaussianMixture, quick: int, full: int, name: str) -> Tensor:
    return law.sample(quick if settings.quick else full, seed=settings.seed_of(name))


def by_default(settings: Settings, name: str, dims: int) -> Iterator[Check]:
    """log_likelihood() as it comes, in float64."""
    process, law = PROCESSES[name], mixture(dims)
    denoiser, x = law.denoiser(process), points(settings, law, 50, 10_000, f"{name} {dims}")
    with torch.no_grad():
        found = diffusion.log_likelihood(denoiser, x, prior=law.at(process, process.end))
    error = float((found.log_prob - denoiser.log_prob(T_MIN, x)).abs().max())
    what = f"log-likelihood by default settings, {name}, {dims}-d mixture, {len(x)} points, largest error"
    evaluations = float(found.stats.drift_evaluations.double().mean())
    yield bounded(NAME, f"{name}, {dims}-d", what, error, 1e-6, points=len(x), evaluations=evaluations)


def exceedances(settings: Settings, trace: str, probes: int, columns: int) -> Iterator[Check]:
    """How many of 100 seeds put the estimate more than three of its standard errors from the exact trace's, and how
    many Student's t allows."""
    dims, process = 12, PROCESSES["VP"]
    law = mixture(dims)
    denoiser = law.denoiser(process)
    x = law.sample(1, seed=settings.seed_of("probes")).expand(100, -1).contiguous()
    with torch.no_grad():
        found = diffusion.log_likelihood(
            denoiser,
            x,
            trace=trace,
            probes=probes,
            seed=settings.seed_of(trace),
            t_min=1e-2,
            prior=law.at(process, 1.0),
            rtol=1e-5,
            atol=1e-5,
        )
    gap = found.log_prob - denoiser.log_prob(1e-2, x[:1])
    assert found.std_error is not None
    count = int(((gap / found.std_error).abs() > 3).sum())
    allowed = float(stats.binom.isf(1e-4, 100, 2 * stats.t.sf(3, columns - 1)))
    what = f"{trace}, {probes} products: seeds of 100 farther than three standard errors from the log-density"
    yield bounded(NAME, f"{trace}, coverage", what, count, allowed, standard_deviation=float(gap.std()))
    mean = abs(float(gap.mean())) / (float(gap.std()) / 10)
    yield bounded(NAME, f"{trace}, bias", f"{trace}: |mean error| over 100 seeds in standard errors", mean, 4.0)


def truncated(name: str) -> Iterator[Check]:
    """The first-order estimate of log p_t - log p_0 that a network has; it predicts the exact data."""
    process, law = PROCESSES[name], mixture(2)
    exact, x = law.denoiser(process), law.sample(50, seed=0)
    network = diffusion.Denoiser(lambda t, x: exact.data(t, x), process, "data")
    t = float(process.time_of_log_snr(torch.tensor(11.0, dtype=torch.float64)))
    with torch.no_grad():
        found = diffusion.log_likelihood(network, x, t_min=t, prior=law.at(process, process.end), rtol=1e-6)
    assert found.truncation is not None
    truth = exact.log_prob(t, x) - exact.log_prob(0.0, x)
    error = float((found.truncation - truth).abs().mean() / truth.abs().mean())
    yield bounded(NAME, f"truncation, {name}", f"relative error of the truncation at t = {t:.1e}, {name}", error, 0.05)


def tight(settings: Settings, name: str) -> Iterator[Check]:
    """elbo() over many points, in standard errors from their log-densities."""
    process, law = PROCESSES[name], mixture(2)
    x, end = points(settings, law, 200, 2000, f"elbo {name}"), process.rates_end
    seed = settings.seed_of(f"elbo draws {name}")
    found = diffusion.elbo(
        law.denoiser(process), x, samples=200, t_min=T_MIN * end, t_max=end, prior=law.at(process, end), seed=seed
    )
    assert found.std_error is not None
    gap, error = float((found.bound - law.log_prob(x)).mean()), float(found.std_error.square().sum().sqrt()) / len(x)
    what = f"|variational bound - log-density| of {len(x)} points, {name}, in standard errors"
    yield bounded(NAME, f"bound, {name}", what, abs(gap) / error, 4.0, gap=gap, standard_error=error)


def cases(settings: Settings) -> list[Case]:
    """Of the section `diffusion`."""
    return [
        *(Case(f"{k}, {dims}-d", partial(by_default, settings, k, dims)) for k in PROCESSES for dims in (2, 5)),
        Case("hutchinson", partial(exceedances, settings, "hutchinson", 16, 16)),
        Case("hutch++", partial(exceedances, settings, "hutch++", 24, 8)),
        *(Case(f"truncation, {k}", partial(truncated, k)) for k in PROCESSES),
        *(Case(f"bound, {k}", partial(tight, settings, k)) for k in PROCESSES),
    ]
