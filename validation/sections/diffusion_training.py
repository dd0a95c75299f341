"""Networks trained on sets of known entropy: they come within a tenth of a nat of it, and never below.

For draws x of the data p and the model q, by the same draws,

    NLL = mean(-log q(x)),      KL(p || q) = mean(log p(x) - log q(x)) >= 0

and the second mean has a tenth of the first one's error, as what p does cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

import diffusion
from diffusion.toys import TOYS, Toy
from validation.check import Case, Check, Curve, Section, Settings, bounded
from validation.significance import FALSE_ALARM

SECTION = "training"
T_MIN = 5e-4
"""sigma is 0.007 there: blurred so, the checkerboard, 2 of perimeter an area of 1, is 0.005 nats from itself."""
SIGMA_DATA = 2.0
EXAMPLES, HELD_OUT, DRAWN = 100_000, 4000, 800
TOLERANCE = 1e-4
KNOWN = {"8gaussians": 2.832, "moons": 2.394, "circles": 3.268, "checkerboard": math.log(32)}
"""Entropies of FFJORD's sets, to the digits that are known of them."""


@dataclass(frozen=True)
class Recipe:
    """How long a set is trained on, and how near to its entropy that leads; where the figure cuts through it."""

    steps: int
    bound: float = 0.1
    width: int = 128
    batch: int = 512
    lr: float = 3e-3
    cut: float = 0.0


RECIPES = {
    "8gaussians": Recipe(2000, bound=0.15),
    "moons": Recipe(2500, cut=0.3),
    "circles": Recipe(2500),
    "checkerboard": Recipe(6000, cut=1.0),
    "pinwheel": Recipe(2500),
}
"""The divergences that they lead to, with seed 0: 0.043, 0.017, 0.028, 0.045, 0.037, each within 0.01."""
QUICK = {"8gaussians": Recipe(300, bound=0.3, width=64, batch=1024, lr=0.01)}


def trained(toy: Toy, recipe: Recipe, seed: int) -> diffusion.Denoiser:
    """A network on Fourier features between the scalings of Karras et al., by the likelihood's weight, most of the
    times where the noise is of the size of the data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = diffusion.network.FourierMLP(2, width=recipe.width)
    denoiser = diffusion.Denoiser(net, diffusion.VP(), prediction="edm", sigma_data=SIGMA_DATA)
    data = toy.sample(EXAMPLES, seed=seed + 1, dtype=torch.float32)
    loss = diffusion.DenoisingLoss("likelihood", "balanced", t_min=T_MIN)
    options = {"steps": recipe.steps, "batch_size": recipe.batch, "lr": recipe.lr, "ema": 0.998}
    return diffusion.fit(denoiser, data, loss=loss, seed=seed, progress=False, **options).denoiser


def log_density(denoiser: diffusion.Denoiser, x: Tensor) -> Tensor:
    with torch.no_grad():
        found = diffusion.log_likelihood(denoiser, x.float(), t_min=T_MIN, rtol=TOLERANCE, atol=TOLERANCE)
    return found.log_prob.double()


def mean_check(name: str, what: str, values: Tensor, least: float, bound: float, **details: object) -> Check:
    """A mean that may not lie below `least`, but for its error, nor above ``least + bound``."""
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(len(values))
    low = least - float(stats.norm.isf(FALSE_ALARM)) * error
    criterion = f"in [{low:.4g}, {least + bound:.4g}]"
    interval = (mean - 1.96 * error, mean + 1.96 * error)
    passed = bool(low <= mean <= least + bound)  # NaN fails
    return Check(SECTION, name, what, None, criterion, mean, interval, passed, dict(details))


def reaches(name: str, recipe: Recipe, settings: Settings) -> Iterator[Check]:
    toy = TOYS[name]
    denoiser = trained(toy, recipe, settings.seed_of(f"training {name}"))
    x = toy.sample(HELD_OUT, seed=settings.seed_of(f"held out {name}"), dtype=torch.float64)
    surprise = -log_density(denoiser, x)
    facts = {"entropy": toy.entropy, "steps": recipe.steps, "held out": HELD_OUT}
    what = f"{name}: negative log-likelihood a point, of entropy {toy.entropy:.3f}"
    yield mean_check(f"{name}, NLL", what, surprise, toy.entropy, recipe.bound, **facts)
    gap = surprise + toy.log_prob(x)
    yield mean_check(f"{name}, KL", f"{name}: divergence from the model, KL(p || q)", gap, 0.0, recipe.bound, **facts)
    what = f"{name}: standard deviation of log p(x) / q(x), sqrt(2 KL) where q is near p"
    yield bounded(SECTION, f"{name}, pointwise", what, float(gap.std()), 1.0, **facts)
    if not settings.quick:
        yield from pictures(name, toy, recipe, denoiser, settings)


def pictures(name: str, toy: Toy, recipe: Recipe, denoiser: diffusion.Denoiser, settings: Settings) -> Iterator[Check]:
    """Samples, and the density along a line through the set beside the exact one."""
    along = torch.linspace(-4.5, 4.5, 91, dtype=torch.float64)
    line = torch.stack([along, torch.full_like(along, recipe.cut)], 1)
    fine = torch.stack([torch.linspace(-4.5, 4.5, 901, dtype=torch.float64), torch.full((901,), recipe.cut)], 1)
    model, exact = log_density(denoiser, line).exp(), toy.log_prob(fine).exp()
    density = Curve(
        f"{name}: density along y = {recipe.cut:g}",
        "trained (points), exact (line)",
        along.tolist(),
        model.tolist(),
        line=(fine[:, 0].tolist(), exact.tolist()),
        x_label="x",
        y_label="density",
        log=False,
    )
    seed = settings.seed_of(f"samples {name}")
    samples = diffusion.sample(
        denoiser, (DRAWN, 2), sampler="probability_flow", t_min=T_MIN, rtol=TOLERANCE, atol=TOLERANCE, seed=seed
    )
    cloud = Curve(
        f"{name}: samples", "of the trained network", *samples.T.tolist(), x_label="x", y_label="y", log=False
    )
    off = float((samples.abs() > toy.reach).any(1).double().mean())
    what = f"{name}: part of {DRAWN} samples outside the square that holds the set"
    yield Check(SECTION, f"{name}, samples", what, None, "at most 0.05", off, None, off <= 0.05, {}, (density, cloud))


def entropies() -> Iterator[Check]:
    for name, known in KNOWN.items():
        found = TOYS[name].entropy
        what = f"{name}: entropy by quadrature, in nats"
        yield Check(SECTION, f"{name}, entropy", what, known, "within 0.001", found, None, abs(found - known) < 1e-3)


def cases(settings: Settings) -> list[Case]:
    recipes = QUICK if settings.quick else RECIPES
    training = [
        Case(name, lambda name=name, recipe=recipe: reaches(name, recipe, settings)) for name, recipe in recipes.items()
    ]
    return training if settings.quick else [Case("entropies", entropies), *training]


TRAINING = Section(SECTION, "networks trained on sets of known entropy, by exact likelihood", cases)
