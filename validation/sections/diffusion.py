"""Diffusion with exact scores: marginals of the forward, reverse and probability-flow equations; likelihood.

For data from N(m, S) the marginals of VP are normal, with B(t) = int_0^t beta and a(t) = exp(-B(t)/2):

    mean a m,      covariance a^2 S + (1 - a^2) I      (Song et al. 2021, (33))

The reverse SDE is then linear, so that what a method makes of it is known without sampling, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

import diffusion
import sdesolve as ss
from diffusion.exact import Gaussian, GaussianMixture
from sdesolve.methods import METHODS
from validation.check import Case, Check, Section, Settings, bounded
from validation.moments import MomentRecursion, moment_vector
from validation.order import fit_order, order_check
from validation.sections import (
    diffusion_chains,
    diffusion_density,
    diffusion_langevin,
    diffusion_likelihood,
    diffusion_processes,
)
from validation.significance import kolmogorov_smirnov, mean_and_covariance

Array = NDArray[np.float64]

MEAN = np.array([1.0, -0.5])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])
BETA_MIN, BETA_MAX = 0.1, 20.0
STEPS = 400
"""Of Heun's method, whose bias on these linear equations is then below a tenth of a standard error."""
WEAK_BOUND = 0.3
PROCESS = diffusion.VP(BETA_MIN, BETA_MAX)


def law(t: float) -> tuple[Array, Array]:
    """Mean and covariance of x_t, written down here from the formula, not taken from the package."""
    B = BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t**2
    return math.exp(-B / 2) * MEAN, math.exp(-B) * COVARIANCE - math.expm1(-B) * np.eye(2)


def gaussian() -> Gaussian:
    return Gaussian(torch.from_numpy(MEAN), torch.from_numpy(COVARIANCE))


def score(t: Tensor, x: Tensor) -> Tensor:
    return gaussian().denoiser(PROCESS).score(t, x)


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def paths(settings: Settings) -> int:
    return 10_000 if settings.quick else 100_000


def marginals(name: str, solution: ss.Solution, at: list[int]) -> Iterator[Check]:
    """The states at the output times with these indices against the law."""
    for index in at:
        t = float(solution.ts[index])
        where = f"of the {name} at t = {t:g}"
        yield from mean_and_covariance(
            "diffusion", f"{name}, t = {t:g}", where, solution.ys[index].numpy(), *law(t), method="heun", steps=STEPS
        )


def forward(settings: Settings) -> Iterator[Check]:
    x0 = gaussian().sample(paths(settings), seed=settings.seed_of("forward data"))
    ts, seed = times(0.0, 0.1, 0.4, 1.0), settings.seed_of("forward")
    sde = PROCESS.forward_sde()
    yield from marginals("forward SDE", ss.solve(sde, x0, ts, method="heun", dt=1 / STEPS, seed=seed), [1, 2, 3])


def reverse(settings: Settings, eta: float) -> Iterator[Check]:
    """From the prior N(0, I), which misses the marginal at t = 1 by a(1) m, 0.007; at t = 0.4 nothing is left of it."""
    shape = (paths(settings), 2)
    start = PROCESS.prior.sample(shape, seed=settings.seed_of(f"prior {eta}"), dtype=torch.float64)
    ts, seed = times(1.0, 0.4, 0.1, 0.0), settings.seed_of(f"reverse {eta}")
    sde = diffusion.reverse_sde(PROCESS, score, eta)
    name = "reverse SDE" if eta == 1 else f"reverse SDE, eta = {eta:g}"
    yield from marginals(name, ss.solve(sde, start, ts, method="heun", dt=1 / STEPS, seed=seed), [1, 2, 3])


def moment_orders(direction: str, method_name: str, order: float, eta: float = 1.0) -> Iterator[Check]:
    """Exact moments of a method's steps against the law at the end: they converge to it, and to nothing else."""
    ends = (0.0, 1.0) if direction == "forward" else (1.0, 0.0)
    sde = PROCESS.forward_sde() if direction == "forward" else diffusion.reverse_sde(PROCESS, score, eta)
    recursion = MomentRecursion(sde, METHODS["sde", method_name], 2, 2, order=3)
    start, exact = moment_vector(*law(ends[0])), moment_vector(*law(ends[1]))
    counts = [2**k for k in range(6, 11)]
    if direction == "forward":
        ends = (0.0, 0.5)  # at t = 1 little is left of the data, and of the error
        exact = moment_vector(*law(0.5))
    errors = [float(np.linalg.norm(recursion.run(start, np.linspace(*ends, n + 1)) - exact)) for n in counts]
    name = f"{direction} SDE" + ("" if eta == 1 else f", eta = {eta:g}")
    yield order_check(
        "diffusion",
        f"{name}, moments, {method_name}",
        f"order of moments of the {name}, {method_name}",
        fit_order([abs(ends[1] - ends[0]) / n for n in counts], errors),
        order,
        WEAK_BOUND,
        figure="Moments of the forward and reverse SDE",
        label=f"{name}, {method_name}",
        y_label="|error of moments|",
    )


def sampler(settings: Settings) -> Iterator[Check]:
    """sample() in 50 steps against the exact moments of these 50 steps: noise and solver without any bias."""
    steps, t_min = 50, 1e-3
    shape, seed = (paths(settings), 2), settings.seed_of("sample")
    x = diffusion.sample(gaussian().denoiser(PROCESS), shape, steps=steps, t_min=t_min, seed=seed)
    recursion = MomentRecursion(diffusion.reverse_sde(PROCESS, score), METHODS["sde", "euler_maruyama"], 2, 2, order=3)
    v = recursion.run(moment_vector(np.zeros(2), np.eye(2)), np.linspace(1.0, t_min, steps + 1))
    mean, second = v[1:3], np.array([[v[3], v[4]], [v[4], v[5]]])
    what = f"of sample() in {steps} steps, exact for these"
    yield from mean_and_covariance(
        "diffusion", "sample()", what, x.numpy(), mean, second - np.outer(mean, mean), biased_mean=mean.tolist()
    )


def flow_map(x: Tensor, s: float, t: float) -> Tensor:
    """Where the probability flow takes x from time s to t: m_t + C_t^1/2 C_s^-1/2 (x - m_s), as all C_t commute."""
    (m_s, C_s), (m_t, C_t) = law(s), law(t)
    U = np.linalg.eigh(COVARIANCE).eigenvectors
    ratio = np.sqrt((U.T @ C_t @ U).diagonal() / (U.T @ C_s @ U).diagonal())
    return torch.from_numpy(m_t + (x.numpy() - m_s) @ (U * ratio) @ U.T)


def probability_flow() -> Iterator[Check]:
    """A deterministic map, which takes points with the mean and covariance of x_s to points with those of x_t."""
    ode, tolerance = diffusion.probability_flow(PROCESS, score), 1e-9
    angles = np.arange(8) * math.pi / 4
    ring = math.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], 1)  # mean 0, covariance I
    for s, t in ((0.0, 1.0), (1.0, 0.0)):
        mean, covariance = law(s)
        x = torch.from_numpy(mean + ring @ np.linalg.cholesky(covariance).T)
        middle = 0.5 * (s + t)
        ts = times(s, middle, t)
        ys = ss.solve(ode, x, ts, rtol=tolerance, atol=tolerance).ys
        span = f"from t = {s:g} to {t:g}"
        error = max(float((ys[k] - flow_map(x, s, float(ts[k]))).abs().max()) for k in (1, 2))
        what = f"probability flow {span}, pointwise error"
        yield bounded("diffusion", f"probability flow {span}, map", what, error, 100 * tolerance, rtol=tolerance)
        end_mean, end_covariance = law(t)
        found = torch.cov(ys[2].T, correction=0).numpy()
        gap = max(np.abs(ys[2].mean(0).numpy() - end_mean).max(), np.abs(found - end_covariance).max())
        what = f"probability flow {span}, error of mean and covariance"
        yield bounded("diffusion", f"probability flow {span}, moments", what, float(gap), 100 * tolerance)


def ring_of_modes() -> GaussianMixture:
    """Eight modes in the plane, of different shapes and weights."""
    angles = np.arange(8) * math.pi / 4
    means = 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
    outward = means / 2
    covariances = 0.02 * np.eye(2) + 0.05 * np.einsum("ki,kj->kij", outward, outward)
    return GaussianMixture(
        torch.from_numpy(means), torch.from_numpy(covariances), torch.arange(1, 9, dtype=torch.float64)
    )


def likelihood(settings: Settings) -> Iterator[Check]:
    mixture = ring_of_modes()
    points = 100 if settings.quick else 1000
    x = mixture.sample(points, seed=settings.seed_of("likelihood"))
    with torch.no_grad():
        found = diffusion.log_likelihood(
            mixture.denoiser(PROCESS), x, t_min=0.0, prior=mixture.at(PROCESS, 1.0), rtol=1e-9, atol=1e-9
        )
    error = float((found.log_prob - mixture.log_prob(x)).abs().max())
    what = f"log-likelihood of a mixture, {points} points, largest error"
    yield bounded("diffusion", "log-likelihood", what, error, 1e-6, points=points)


def two_modes(settings: Settings) -> Iterator[Check]:
    """Samples of a bimodal mixture in one dimension, by both equations, against its distribution function at t_min."""
    weights, means, scale, t_min = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), 0.3, 1e-3
    mixture = GaussianMixture(
        torch.from_numpy(means[:, None]),
        torch.full((2, 1, 1), scale**2, dtype=torch.float64),
        torch.from_numpy(weights),
    )
    denoiser = mixture.denoiser(PROCESS)
    B = BETA_MIN * t_min + 0.5 * (BETA_MAX - BETA_MIN) * t_min**2
    spread = math.sqrt(math.exp(-B) * scale**2 - math.expm1(-B))
    cdf = lambda x: (weights * stats.norm.cdf((x[..., None] - math.exp(-B / 2) * means) / spread)).sum(-1)
    n, seed = 10_000, settings.seed_of("two modes")
    start = mixture.at(PROCESS, 1.0).sample(n, seed=settings.seed_of("two modes, start"))
    samples = {
        "probability flow": diffusion.sample(
            denoiser, (n, 1), sampler="probability_flow", rtol=1e-6, atol=1e-6, prior=start, t_min=t_min
        ),
        "reverse SDE": diffusion.sample(denoiser, (n, 1), steps=500, prior=start, t_min=t_min, seed=seed),
    }
    for name, x in samples.items():
        what = f"samples of a two-mode mixture, {name}"
        yield kolmogorov_smirnov("diffusion", f"two modes, {name}", what, x.numpy(), cdf)


def cases(settings: Settings) -> list[Case]:
    return [
        Case("forward SDE", lambda: forward(settings)),
        Case("reverse SDE", lambda: reverse(settings, 1.0)),
        Case("reverse SDE, eta = 0.5", lambda: reverse(settings, 0.5)),
        Case("forward SDE, moments", lambda: moment_orders("forward", "euler_maruyama", 1.0)),
        Case("reverse SDE, moments", lambda: moment_orders("reverse", "euler_maruyama", 1.0)),
        Case("reverse SDE, moments, heun", lambda: moment_orders("reverse", "heun", 2.0)),
        Case("reverse SDE, moments, eta = 0.5", lambda: moment_orders("reverse", "euler_maruyama", 1.0, 0.5)),
        Case("sample()", lambda: sampler(settings)),
        Case("probability flow", probability_flow),
        Case("two modes", lambda: two_modes(settings)),
        Case("log-likelihood", lambda: likelihood(settings)),
        *diffusion_chains.cases(settings),
        *diffusion_langevin.cases(settings),
        *diffusion_likelihood.cases(settings),
        *diffusion_processes.cases(settings),
        *diffusion_density.cases(settings),
    ]


DIFFUSION = Section(
    "diffusion",
    "forward, reverse and probability-flow marginals of every process; densities; chains; Langevin; likelihood",
    cases,
)
