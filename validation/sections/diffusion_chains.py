"""Chains of DDPM and NCSN, and ancestral steps: how fast they go to the SDEs of VP and VE, without sampling.

Forwards the chains are linear. Backwards, with the exact denoiser of Gaussian data, a step maps mean and covariance:

    x_(i-1) = c x_i + d data(x_i) + w xi,      data(x) = A x + b

so that what N steps make of them is known to rounding. For a mixture, whose denoiser is not linear, expectations come
from u_i(x) = E[u_(i-1)(x_(i-1)) | x_i = x] on a grid, by splines of degree 7 and Gauss-Hermite quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline, make_interp_spline

import diffusion
from diffusion.chains import Chain
from diffusion.exact import Gaussian, GaussianMixture
from diffusion.kernels import Posterior, posterior
from validation.check import Case, Check, Settings, bounded
from validation.order import fit_order, order_check
from validation.significance import mean_and_covariance

Array = NDArray[np.float64]

MEAN = np.array([1.0, -0.5])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])
BETA_MIN, BETA_MAX = 0.1, 20.0
SIGMA_MIN, SIGMA_MAX = 0.01, 50.0
VP, VE = diffusion.VP(BETA_MIN, BETA_MAX), diffusion.VE(SIGMA_MIN, SIGMA_MAX)
BOUND = 0.15
FIGURE = "Chains and ancestral steps"
WEIGHTS, CENTRES, WIDTH = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), 0.3
"""A mixture in one dimension."""


def gaussian() -> Gaussian:
    return Gaussian(torch.from_numpy(MEAN), torch.from_numpy(COVARIANCE))


def levels(first: int, settings: Settings) -> list[int]:
    return [2**k for k in range(first, first + (4 if settings.quick else 6))]


def order(name: str, what: str, counts: list[int], errors: list[float]) -> Check:
    fit = fit_order([1 / n for n in counts], errors)
    return order_check(
        "diffusion", name, what, fit, 1.0, BOUND, figure=FIGURE, label=name, y_label="|error of moments|"
    )


def gap(mean: Array, covariance: Array, other_mean: Array, other: Array) -> float:
    return math.hypot(float(np.linalg.norm(mean - other_mean)), float(np.linalg.norm(covariance - other)))


def forward_moments(chain: Chain, steps: int) -> tuple[Array, Array]:
    """Mean and covariance of x_i, i = steps, step by step."""
    mean, covariance = MEAN, COVARIANCE
    kernel = chain.transition(torch.arange(1, steps + 1))
    for c, std in zip(kernel.scale.tolist(), kernel.std.tolist(), strict=True):
        mean, covariance = c * mean, c**2 * covariance + std**2 * np.eye(2)
    return mean, covariance


def forward(settings: Settings) -> Iterator[Check]:
    """At t = 1/2 against the laws, written down here: those of VP, and of VE from data blurred by sigma_min."""
    counts = levels(7, settings)
    B = 0.5 * BETA_MIN + 0.125 * (BETA_MAX - BETA_MIN)
    vp = math.exp(-B / 2) * MEAN, math.exp(-B) * COVARIANCE - math.expm1(-B) * np.eye(2)
    ve = MEAN, COVARIANCE + SIGMA_MIN * SIGMA_MAX * np.eye(2)
    makers: dict[str, tuple[Callable[[int], Chain], tuple[Array, Array]]] = {
        "DDPM chain": (lambda n: diffusion.DDPMChain.of(VP, n), vp),
        "NCSN chain": (lambda n: diffusion.NCSNChain.geometric(SIGMA_MIN, SIGMA_MAX, n), ve),
    }
    for name, (make, law) in makers.items():
        errors = [gap(*forward_moments(make(n), n // 2), *law) for n in counts]
        yield order(f"{name}, forwards", f"order of the marginals of the {name} at t = 1/2", counts, errors)
    found = forward_moments(diffusion.NCSNChain.of(VE, 256), 128)
    exact = MEAN, COVARIANCE + SIGMA_MIN**2 * (SIGMA_MAX / SIGMA_MIN - 1) * np.eye(2)
    what = "NCSN chain with the sigmas of VE, error of the marginal at t = 1/2"
    yield bounded("diffusion", "NCSN chain of VE, forwards", what, gap(*found, *exact), 1e-12)


def data_maps(process: diffusion.Process, times: torch.Tensor) -> tuple[Array, Array]:
    """A, (times, 2, 2), and b, (times, 2), of the exact denoiser data(x) = A x + b."""
    x = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double().repeat(len(times), 1)
    found = gaussian().denoiser(process).data(times.repeat_interleave(3), x).reshape(-1, 3, 2).numpy()
    return (found[:, 1:] - found[:, :1]).transpose(0, 2, 1), found[:, 0]


def backward_moments(
    process: diffusion.Process, times: torch.Tensor, kernels: Posterior, start: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Mean and covariance behind the steps from these times by these kernels, with the exact denoiser."""
    mean, covariance = start
    for A, b, c, d, shift, std in zip(
        *data_maps(process, times), *(part.expand_as(times).numpy() for part in kernels), strict=True
    ):
        M = c * np.eye(2) + d * A
        mean, covariance = M @ mean + d * b + shift, M @ covariance @ M.T + std**2 * np.eye(2)
    return mean, covariance


def law(process: diffusion.Process, t: float) -> tuple[Array, Array]:
    at = gaussian().at(process, t)
    return at.means[0].numpy(), at.covariances[0].numpy()


def chain_kernels(chain: Chain, last: int, variance: str) -> tuple[torch.Tensor, Posterior]:
    """Times and kernels of the reverse steps from x_N to x_last."""
    i = torch.arange(chain.steps, last, -1)
    kernels = chain.posterior(i)
    if variance == "forward":
        kernels = kernels._replace(std=torch.where(i == 1, 0.0, chain.transition(i).std))
    return i / chain.steps, kernels


def backward(settings: Settings) -> Iterator[Check]:
    """From the chain's own marginal to the law of the data; with sigma_1 = sigma_min for all N, to x_1."""
    makers: dict[str, tuple[Callable[[int], Chain], int, str]] = {
        "DDPM chain": (lambda n: diffusion.DDPMChain.of(VP, n), 0, "posterior"),
        "DDPM chain, forward variance": (lambda n: diffusion.DDPMChain.of(VP, n), 0, "forward"),
        "NCSN chain of VE": (lambda n: diffusion.NCSNChain.of(VE, n), 0, "posterior"),
        "NCSN chain": (lambda n: diffusion.NCSNChain.geometric(SIGMA_MIN, SIGMA_MAX, n), 1, "posterior"),
    }
    for name, (make, last, variance) in makers.items():
        counts = levels(9 if variance == "forward" else 7, settings)
        errors = []
        for n in counts:
            chain = make(n)
            found = backward_moments(chain.process, *chain_kernels(chain, last, variance), law(chain.process, 1.0))
            blur = SIGMA_MIN**2 if last else 0.0
            errors.append(gap(*found, MEAN, COVARIANCE + blur * np.eye(2)))
            if variance == "posterior" and n == counts[0]:
                what = f"reverse {name} of {n} steps, error of the mean"
                yield bounded("diffusion", f"{name}, mean", what, float(np.abs(found[0] - MEAN).max()), 1e-12)
        yield order(f"{name}, backwards", f"order of ancestral sampling by the {name}", counts, errors)


def ancestral(settings: Settings) -> Iterator[Check]:
    """Ancestral steps of processes from their very ends to t = 0."""
    counts = levels(7, settings)
    for process, eta in ((VP, 1.0), (VP, 0.5), (VP, 0.0), (diffusion.RectifiedFlow(), 1.0), (VE, 1.0)):
        errors = []
        for n in counts:
            times = torch.linspace(process.end, 0, n + 1, dtype=torch.float64)
            kernels = posterior(process, times[1:], times[:-1], eta)
            errors.append(gap(*backward_moments(process, times[:-1], kernels, law(process, process.end)), *law(VP, 0)))
        name = f"ancestral steps, {type(process).__name__}, eta = {eta:g}"
        yield order(name, f"order of moments of {name}", counts, errors)


def expectation(chain: Chain, phi: Callable[[Array], Array]) -> float:
    """E phi(x_0) of the reverse chain with the exact denoiser of the mixture, from the chain's own marginal at N."""
    x, (nodes, weights) = np.linspace(-7, 7, 241), np.polynomial.hermite_e.hermegauss(7)
    mixture = GaussianMixture(
        torch.from_numpy(CENTRES[:, None]),
        torch.full((2, 1, 1), WIDTH**2, dtype=torch.float64),
        torch.from_numpy(WEIGHTS),
    )
    denoiser, u = mixture.denoiser(chain.process), phi(x)
    unit = make_interp_spline(x, np.eye(len(x)), k=7)
    kernels = chain.posterior(torch.arange(1, chain.steps + 1))
    for k, (c, d, _, std) in enumerate(zip(*(part.tolist() for part in kernels), strict=True)):
        data = denoiser.data((k + 1) / chain.steps, torch.from_numpy(x[:, None]))[:, 0].numpy()
        y = (c * x + d * data)[:, None] + std * nodes
        u = BSpline(unit.t, unit.c @ u, 7)(y.clip(x[0], x[-1])) @ weights / weights.sum()
    alpha, variance = float(chain.alphas[-1]), float(chain.variances[-1])
    spread = alpha**2 * WIDTH**2 + variance
    density = np.exp(-0.5 * (x[:, None] - alpha * CENTRES) ** 2 / spread) @ WEIGHTS / math.sqrt(2 * math.pi * spread)
    return float((u * density).sum() * (x[1] - x[0]))


def mixture(settings: Settings) -> Iterator[Check]:
    counts = levels(6, settings)
    exact = float(WEIGHTS @ np.cos(2 * CENTRES)) * math.exp(-2 * WIDTH**2)
    errors = [abs(expectation(diffusion.DDPMChain.of(VP, n), lambda x: np.cos(2 * x)) - exact) for n in counts]
    yield order("DDPM chain, mixture", "order of E cos(2 x) by the reverse DDPM chain, mixture", counts, errors)


def sampler(settings: Settings) -> Iterator[Check]:
    """sample() in 20 steps against the exact moments of these 20 steps."""
    process, steps = diffusion.RectifiedFlow(), 20
    n, seed = 10_000 if settings.quick else 100_000, settings.seed_of("ancestral")
    x = diffusion.sample(gaussian().denoiser(process), (n, 2), sampler="ancestral", steps=steps, t_min=0.0, seed=seed)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    kernels = posterior(process, times[1:], times[:-1])
    mean, covariance = backward_moments(process, times[:-1], kernels, (np.zeros(2), np.eye(2)))
    what = f'of sample(sampler="ancestral") in {steps} steps, exact for these'
    yield from mean_and_covariance("diffusion", "ancestral sample()", what, x.numpy(), mean, covariance)


def cases(settings: Settings) -> list[Case]:
    return [
        Case("chains, forwards", lambda: forward(settings)),
        Case("chains, backwards", lambda: backward(settings)),
        Case("ancestral steps", lambda: ancestral(settings)),
        Case("reverse chain of a mixture", lambda: mixture(settings)),
        Case("ancestral sample()", lambda: sampler(settings)),
    ]
