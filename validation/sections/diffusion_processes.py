"""Marginals of every process, simulated: forward, reverse with several eta, and along the probability flow.

Data are an anisotropic Gaussian and a mixture of two, in the plane; all marginals are then mixtures, written down here
from alpha, sigma and shift alone:

    p_t = sum_k w_k N(alpha m_k + shift, alpha^2 S_k + sigma^2 I)

Simulations start from the exact marginal, backwards at `rates_end`, in steps of equal size in the logarithm of the
signal-to-noise ratio. What these steps do to the moments of the Gaussian is measured without sampling noise
(`validation.moments`): at most a tenth of a standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

import diffusion
import sdesolve as ss
from diffusion.exact import GaussianMixture
from diffusion.process import Process
from sdesolve.methods import METHODS
from validation.check import Case, Check, Settings, bounded
from validation.moments import MomentRecursion, moment_vector
from validation.significance import agreement, kolmogorov_smirnov_of

Array = NDArray[np.float64]

METHOD, FLOW_METHOD = "shark", "rk4"
STEPS = {None: 128, 0.0: 64, 0.5: 128, 1.0: 176, 1.5: 256}
"""By eta; None: forward. The more noise, the faster are the rates of the equation."""
LOG_SNR = 0.0, 6.0
"""Where marginals are compared; the last one is where generation ends."""
ETAS = 0.5, 1.0, 1.5
PATHS, QUICK_PATHS = 6_000, 3_000
ANGLES = np.arange(4) * np.pi / 4
"""Directions of the projections."""


class Trigonometric(Process):
    """A process by alpha and sigma alone."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(1.5 * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(1.5 * t)


PROCESSES: dict[str, Process] = {
    "VP": diffusion.VP(),
    "SubVP": diffusion.SubVP(),
    "VE": diffusion.VE(),
    "Cosine": diffusion.Cosine(),
    "RectifiedFlow": diffusion.RectifiedFlow(),
    "EDM": diffusion.EDM(),
    "VariancePreserving": diffusion.VariancePreserving(lambda t: 0.5 + 10 * torch.exp(t) * t**2),
    "Affine": diffusion.Affine(
        lambda t: torch.sin(3 * t) - 2, lambda t: torch.cos(5 * t), lambda t: 1 + 0.5 * torch.sin(t), end=2.0
    ),
    "alpha and sigma alone": Trigonometric(),
}
QUICK = "RectifiedFlow", "Affine"


def time(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


@dataclass(frozen=True)
class Normals:
    """sum_k weights_k N(means_k, covariances_k), of shapes (K,), (K, d), (K, d, d)."""

    weights: Array
    means: Array
    covariances: Array

    def at(self, process: Process, t: float) -> Normals:
        """The law of x_t."""
        alpha, sigma, shift = (float(of(time(t))) for of in (process.alpha, process.sigma, process.shift))
        noise = sigma**2 * np.eye(self.means.shape[1])
        return Normals(self.weights, alpha * self.means + shift, alpha**2 * self.covariances + noise)

    @property
    def mean(self) -> Array:
        return self.weights @ self.means

    @property
    def covariance(self) -> Array:
        offset = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covariances + offset[:, :, None] * offset[:, None])

    def cdf(self, direction: Array) -> Callable[[Array], Array]:
        """Of the component along a unit vector."""
        means, spread = self.means @ direction, np.sqrt(np.einsum("i,kij,j->k", direction, self.covariances, direction))
        return lambda x: stats.norm.cdf((np.asarray(x)[..., None] - means) / spread) @ self.weights

    @property
    def data(self) -> GaussianMixture:
        """As the package has it."""
        return GaussianMixture(*map(torch.from_numpy, (self.means, self.covariances, self.weights)))


GAUSSIAN = Normals(np.ones(1), np.array([[1.0, -0.5]]), np.array([[[0.5, 0.3], [0.3, 0.4]]]))
LAWS = {
    "Gaussian": GAUSSIAN,
    "mixture": Normals(
        np.array([0.3, 0.7]),
        np.array([[-1.0, 0.5], [0.8, -0.3]]),
        np.array([[[0.10, 0.06], [0.06, 0.09]], [[0.15, -0.05], [-0.05, 0.08]]]),
    ),
}

Reverse = Callable[[Process, diffusion.Denoiser, float], ss.SDE]
Found = dict[str, tuple[Tensor, Normals]]
"""A sample (n, d) and the law that it should have, by what it is."""


def grid(process: Process, steps: int, log_snr: float = LOG_SNR[-1]) -> Tensor:
    """Falling times with equal steps of log_snr, from `rates_end` on."""
    first = float(process.log_snr(time(process.rates_end)))
    ts = process.time_of_log_snr(torch.linspace(first, log_snr, steps + 1, dtype=torch.float64))
    return torch.cat([time(process.rates_end)[None], ts[1:]])


def compared(process: Process, ts: Tensor) -> list[int]:
    """The indices of those times that are nearest to where marginals are compared."""
    found = process.log_snr(ts)
    return [int((found - value).abs().argmin()) for value in LOG_SNR]


def longest(ts: Tensor) -> float:
    """The longest step: with it, times are those of the steps."""
    return float(ts.diff().abs().max())


def solved(sde: ss.SDE, start: Tensor, ts: Tensor, seed: int) -> Tensor:
    return ss.solve(sde, start, ts, method=METHOD, dt=longest(ts), seed=seed).ys


def along(name: str, process: Process, law: Normals, ys: Tensor, ts: Tensor, at: list[int]) -> Found:
    return {f"{name}, t = {float(ts[k]):.3g}": (ys[k], law.at(process, float(ts[k]))) for k in at}


def forward(process: Process, law: Normals, name: str, paths: int, settings: Settings) -> Found:
    """From data, to the end."""
    falling = grid(process, STEPS[None])
    ts = torch.cat([time(0.0)[None], falling.flip(0)])
    x0 = law.data.sample(paths, seed=settings.seed_of(f"{name}, data"))
    ys = solved(process.forward_sde(), x0, ts, settings.seed_of(name))
    return along(name, process, law, ys, ts, [len(ts) - 1 - compared(process, falling)[0], len(ts) - 1])


def marginal_start(process: Process, law: Normals, name: str, paths: int, settings: Settings) -> Tensor:
    """Draws of the exact marginal where generation starts."""
    return law.data.at(process, process.rates_end).sample(paths, seed=settings.seed_of(f"{name}, start"))


def reverse(
    process: Process,
    law: Normals,
    name: str,
    paths: int,
    settings: Settings,
    eta: float,
    equation: Reverse = diffusion.reverse_sde,
) -> Found:
    ts, start = grid(process, STEPS[eta]), marginal_start(process, law, name, paths, settings)
    ys = solved(equation(process, law.data.denoiser(process), eta), start, ts, settings.seed_of(name))
    return along(name, process, law, ys, ts, compared(process, ts))


def flow(process: Process, law: Normals, name: str, paths: int, settings: Settings) -> Found:
    ts, start = grid(process, STEPS[0.0]), marginal_start(process, law, name, paths, settings)
    ode = diffusion.probability_flow(process, law.data.denoiser(process))
    ys = ss.solve(ode, start, ts, method=FLOW_METHOD, dt=longest(ts)).ys
    return along(name, process, law, ys, ts, compared(process, ts))


EQUATIONS: dict[str, Callable[..., Found]] = {
    "forward": forward,
    **{f"reverse, eta = {eta:g}": partial(reverse, eta=eta) for eta in ETAS},
    "probability flow": flow,
}


def moments(name: str, what: str, found: Found) -> Check:
    """All means and second moments about the exact mean, as one check; standard errors are those of the sample."""
    measured, expected, errors, labels = [], [], [], []
    for label, (x, law) in found.items():
        offset = x.numpy() - law.mean
        i, j = np.triu_indices(offset.shape[1])
        values = np.concatenate([offset, offset[:, i] * offset[:, j]], 1)
        measured += list(values.mean(0))
        expected += [0.0] * offset.shape[1] + list(law.covariance[i, j])
        errors += list(values.std(0) / len(x) ** 0.5)
        names = [f"mean {k + 1}" for k in range(offset.shape[1])] + [
            f"covariance {a + 1}, {b + 1}" for a, b in zip(i, j, strict=True)
        ]
        labels += [f"{label}, {each}" for each in names]
    return agreement("diffusion", f"{name}, moments", f"moments of {what}", measured, expected, errors, labels)


def projections(name: str, what: str, found: Found) -> Check:
    """Distributions along several directions, as one check."""
    samples = {}
    for label, (x, law) in found.items():
        for angle in ANGLES:
            direction = np.array([np.cos(angle), np.sin(angle)])
            samples[f"{label}, at {np.rad2deg(angle):.0f} degrees"] = (x.numpy() @ direction, law.cdf(direction))
    return kolmogorov_smirnov_of("diffusion", f"{name}, projections", f"projections of {what}", samples)


def marginals(process: str, equation: str, settings: Settings) -> Iterator[Check]:
    """Simulated marginals of all laws against the exact ones."""
    name, found = f"{process}, {equation}", {}
    for kind, law in LAWS.items():
        if not settings.quick or kind == "mixture":
            paths = QUICK_PATHS if settings.quick else PATHS
            found |= {
                f"{kind}{label.removeprefix(name)}": pair
                for label, pair in EQUATIONS[equation](PROCESSES[process], law, name, paths, settings).items()
            }
    yield moments(name, f"marginals of {process}, {equation}", found)
    yield projections(name, f"marginals of {process}, {equation}", found)


def bias(process: Process, eta: float | None = None) -> float:
    """Of the steps of a simulation, for the Gaussian: greatest error of a mean or a covariance where marginals are
    compared, in standard errors of `PATHS` paths. eta None: forward."""
    ts = grid(process, STEPS[eta])
    at = compared(process, ts)
    if eta is None:
        sde, at = process.forward_sde(), [len(ts) - at[0], len(ts)]
        ts = torch.cat([time(0.0)[None], ts.flip(0)])
    else:
        sde = diffusion.reverse_sde(process, GAUSSIAN.data.denoiser(process), eta)
    recursion = MomentRecursion(sde, METHODS["sde", METHOD], 2, 2, order=2)
    first = GAUSSIAN.at(process, float(ts[0]))
    v, worst = moment_vector(first.mean, first.covariance), 0.0
    with torch.no_grad():
        for k, (t0, t1) in enumerate(pairwise(ts.tolist())):
            v = v @ recursion.step(t0, t1)
            if k + 1 in at:
                worst = max(worst, in_standard_errors(v, GAUSSIAN.at(process, t1)))
    return worst


def in_standard_errors(v: Array, law: Normals) -> float:
    """Greatest distance between the moments 1, x, x x' and those of a normal law."""
    mean, S = law.mean, law.covariance
    i, j = np.triu_indices(len(mean))
    off = v[1 : 1 + len(mean)] - mean
    second = v[1 + len(mean) :] - mean[i] * mean[j] - off[i] * mean[j] - mean[i] * off[j] - S[i, j]
    z = np.concatenate([off / np.sqrt(S.diagonal()), second / np.sqrt(S[i, i] * S[j, j] + S[i, j] ** 2)])
    return float(np.abs(z).max()) * PATHS**0.5


def biases(process: str, settings: Settings) -> Iterator[Check]:
    """Forward, and backwards with every eta."""
    worst = max(bias(PROCESSES[process], eta) for eta in (None, *ETAS))
    what = f"bias of the steps of {METHOD}, in standard errors, {process}"
    yield bounded("diffusion", f"{process}, bias of the simulation", what, worst, 0.1, paths=PATHS)


def cases(settings: Settings) -> list[Case]:
    names = QUICK if settings.quick else tuple(PROCESSES)
    equations = ("forward", "reverse, eta = 1", "probability flow") if settings.quick else tuple(EQUATIONS)
    found = [Case(f"{name}, {each}", partial(marginals, name, each, settings)) for name in names for each in equations]
    if settings.quick:
        return found
    return found + [Case(f"{name}, bias", partial(biases, name, settings)) for name in names]
