"""The toy sets: draws follow the density, the density integrates to one, and entropies are those of the literature."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from diffusion import toys
from diffusion.toys import TOYS, Toy

each = pytest.mark.parametrize("name", TOYS)
KNOWN = {"8gaussians": 2.832, "moons": 2.394, "circles": 3.268, "checkerboard": math.log(32)}


def cells(toy: Toy, count: int) -> tuple[Tensor, float]:
    """Middles of count^2 squares that cover the set, and their area."""
    width = 2 * toy.reach / count
    middles = width * (torch.arange(count, dtype=torch.float64) + 0.5) - toy.reach
    return torch.cartesian_prod(middles, middles), width**2


@each
def test_draws_follow_the_density(name: str) -> None:
    """The density integrates to 1; counts in 8 x 8 squares are those of its mass there, by chi-square; and the mean of
    -log p is the entropy."""
    toy, n, fine = TOYS[name], 10_000, 96
    x, area = cells(toy, fine)
    mass = area * toy.log_prob(x).exp().reshape(8, fine // 8, 8, fine // 8).sum((1, 3)).flatten().numpy()
    assert abs(mass.sum() - 1) < 1e-4
    draws = toy.sample(n, seed=0, dtype=torch.float64)
    column, row = ((draws + toy.reach) * (8 / (2 * toy.reach))).long().T
    counts = np.bincount((8 * column + row).numpy(), minlength=64)
    rare = n * mass < 10
    observed, expected = np.append(counts[~rare], counts[rare].sum()), n * np.append(mass[~rare], mass[rare].sum())
    chi_square = ((observed - expected) ** 2 / np.maximum(expected, 1e-3)).sum()
    assert stats.chi2.sf(chi_square, len(observed) - 1) > 1e-6
    surprise = -toy.log_prob(draws)
    assert abs(float(surprise.mean()) - toy.entropy) < 5 * float(surprise.std()) / math.sqrt(n) + 1e-6


@pytest.mark.parametrize("name", KNOWN)
def test_entropies_are_those_of_the_literature(name: str) -> None:
    assert abs(TOYS[name].entropy - KNOWN[name]) < 1e-3


def test_the_checkerboards_entropy_is_exact() -> None:
    assert abs(toys.checkerboard.entropy - math.log(32)) < 1e-12


def test_circles_have_the_density_of_bessel_functions() -> None:
    """1/2 sum_R exp(-(r - R)^2 / (2 s^2)) I_0e(r R / s^2) / (2 pi s^2), r = |x|."""
    x = 6 * torch.rand(200, 2, dtype=torch.float64) - 3
    r, s = x.norm(dim=1).numpy(), 0.24
    exact = sum(np.exp(-((r - R) ** 2) / (2 * s**2)) * special.i0e(r * R / s**2) for R in (3, 1.5)) / (4 * np.pi * s**2)
    np.testing.assert_allclose(toys.circles.log_prob(x).numpy(), np.log(exact), rtol=0, atol=1e-9)


@pytest.mark.parametrize("point", [(0.0, 0.3), (1.1, 1.4), (-3.2, -0.5), (4.0, 4.0)])
def test_moons_have_the_density_of_an_adaptive_quadrature(point: tuple[float, float]) -> None:
    def along(u: float) -> float:
        upper = (2 * math.cos(u) - 1, 2 * math.sin(u) - 0.2)
        lower = (1 - 2 * math.cos(u), 0.8 - 2 * math.sin(u))
        normal = lambda on: math.exp(-0.5 * math.dist(point, on) ** 2 / 0.04) / (2 * math.pi * 0.04)
        return 0.5 * (normal(upper) + normal(lower)) / math.pi

    exact, _ = integrate.quad(along, 0, math.pi, epsabs=0, epsrel=1e-10, limit=400)
    found = toys.two_moons.log_prob(torch.tensor([point], dtype=torch.float64))
    assert abs(float(found) - math.log(exact)) < 1e-8


def test_pinwheel_has_the_density_of_its_preimages() -> None:
    """Where arms do not overlap, that of the only f, by the Jacobian of automatic differentiation; everywhere, no less
    than that."""
    z = torch.randn(200, 3, dtype=torch.float64)
    x = toys.pinwheel.place(z)
    turned = torch.vmap(torch.func.jacrev(lambda f, arm: toys.pinwheel.place(torch.cat([f, arm])[None])[0]))
    slope = torch.linalg.det(turned(z[:, :2], z[:, 2:])).abs()
    own = -0.5 * z[:, :2].square().sum(1) - math.log(2 * math.pi) - slope.log()
    gain = toys.pinwheel.log_prob(x) - (own - math.log(5))
    assert float(gain.min()) > -1e-9
    assert float(gain.median()) < 1e-4


def test_pinwheel_counts_all_preimages_beyond_its_folds() -> None:
    """Against those that a fine grid of angles finds, at radii where the map folds and one point has up to nine."""
    pinwheel, grid = toys.pinwheel, torch.linspace(-math.pi, math.pi, 200_001, dtype=torch.float64)
    most = 0
    for r, phi in [(0.3, 1.0), (1.2, -2.0), (2.4, 0.5), (2.8, 2.5), (3.1, -1.0)]:
        turns = (grid - 0.25 * torch.exp(r * grid.cos()) - phi) / (2 * math.pi / 5)
        at = (turns.floor().diff() != 0).nonzero()[:, 0]
        psi = 0.5 * (grid[at] + grid[at + 1])
        f = r * torch.stack([psi.cos(), psi.sin()], 1)
        p = torch.exp(-0.5 * (((f[:, 0] - 1) / 0.3) ** 2 + (f[:, 1] / 0.1) ** 2)) / (2 * math.pi * 0.03)
        exact = torch.sum(p / (20 * (1 + 0.25 * f[:, 1] * f[:, 0].exp()).abs()))
        x = torch.tensor([[2 * r * math.cos(phi), 2 * r * math.sin(phi)]], dtype=torch.float64)
        assert abs(float(pinwheel.log_prob(x)) - math.log(exact)) < 0.02, (r, phi)
        most = max(most, len(at))
    assert most > 5


@each
def test_gradients_of_the_density_are_those_of_differences(name: str) -> None:
    if name == "checkerboard":
        return
    x = TOYS[name].sample(20, seed=3, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(TOYS[name].log_prob(x).sum(), x)
    for k in range(2):
        step = 1e-5 * torch.eye(2, dtype=torch.float64)[k]
        difference = (TOYS[name].log_prob(x.detach() + step) - TOYS[name].log_prob(x.detach() - step)) / 2e-5
        torch.testing.assert_close(gradient[:, k], difference, rtol=1e-5, atol=1e-5)


@each
def test_a_draw_depends_on_seed_and_its_own_number_alone(name: str) -> None:
    toy = TOYS[name]
    before = torch.get_rng_state()
    x = toy.sample(50, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(toy.sample(2, seed=4, paths=[40, 7]), x[[40, 7]])
    assert not torch.equal(toy.sample(50, seed=5), x)
    assert x.dtype == torch.float32 and toy.log_prob(x).dtype == torch.float32


def test_points_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x: got shape \(4, 3\)"):
        toys.two_moons.log_prob(torch.zeros(4, 3))
