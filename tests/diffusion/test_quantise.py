"""Bits per dimension against direct computation over discrete levels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import diffusion

RANGES = st.tuples(st.floats(-5, 5), st.floats(0.1, 10)).map(lambda r: (r[0], r[0] + r[1]))
LEVELS = st.integers(2, 300)


@given(LEVELS, RANGES, st.integers(1, 5))
def test_a_density_constant_on_each_level_has_the_bits_of_its_probabilities(
    levels: int, range: tuple[float, float], dims: int
) -> None:
    generator = torch.Generator().manual_seed(levels)
    probabilities = torch.softmax(torch.randn(levels, dtype=torch.float64, generator=generator), 0)
    k = torch.randint(levels, (50, dims), generator=generator)
    x = diffusion.dequantise(k, levels, range, seed=0, dtype=torch.float64)
    width = (range[1] - range[0]) / levels
    found = diffusion.quantise(x, levels, range)
    log_density = (probabilities[found] / width).log().sum(1)
    direct = -probabilities[k].log2().sum(1) / dims
    bits = diffusion.bits_per_dimension(log_density, dims, levels=levels, range=range)
    assert torch.allclose(bits, direct, rtol=1e-9, atol=1e-9)


def test_a_smooth_density_bounds_the_bits_of_its_level_probabilities_from_above() -> None:
    """Exact probabilities of a normal on 17 levels by its distribution function; Jensen's gap is positive."""
    normal, levels, range = torch.distributions.Normal(0.1, 0.3), 17, (-2.0, 2.0)
    edges = torch.linspace(*range, levels + 1, dtype=torch.float64)
    probabilities = normal.cdf(edges).diff()
    exact = float(-(probabilities * probabilities.log2()).sum())
    k = torch.multinomial(probabilities, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    x = diffusion.dequantise(k, levels, range, seed=1, dtype=torch.float64)
    bound = diffusion.bits_per_dimension(normal.log_prob(x), 1, levels=levels, range=range)
    standard_error = float(bound.std()) / math.sqrt(len(k))
    assert exact - 4 * standard_error < float(bound.mean()) < exact + 0.1
    assert float(bound.mean()) > exact


def test_uniform_levels_cost_log2_of_their_number() -> None:
    log_prob = -4 * torch.log(torch.tensor(255.0))
    bits = diffusion.bits_per_dimension(log_prob, 4, levels=256, range=(0, 255))
    assert float(bits) == pytest.approx(8.0)


@given(LEVELS, RANGES)
def test_quantise_undoes_dequantise(levels: int, range: tuple[float, float]) -> None:
    k = torch.arange(levels).repeat(3)
    x = diffusion.dequantise(k, levels, range, seed=0, dtype=torch.float64)
    assert torch.equal(diffusion.quantise(x, levels, range), k)
    assert range[0] <= float(x.min())
    assert float(x.max()) <= range[1]


def test_dequantisation_noise_follows_the_seed() -> None:
    k = torch.zeros(1000, dtype=torch.uint8)
    a, b, c = (diffusion.dequantise(k, 17, seed=s) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("k", [torch.tensor([17]), torch.tensor([-1]), torch.tensor([0.5])])
def test_levels_out_of_range_are_an_error(k: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"k: got .* whole numbers 0 \.\. 16"):
        diffusion.dequantise(k, 17)


@pytest.mark.parametrize(
    ("levels", "range", "named"), [(0, (0.0, 1.0), "levels"), (17, (1.0, 0.0), "range"), (17, (0.0, math.inf), "range")]
)
def test_mistakes_name_the_argument(levels: int, range: tuple[float, float], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}: got"):
        diffusion.bits_per_dimension(torch.zeros(2), 4, levels=levels, range=range)
