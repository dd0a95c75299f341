"""Gaussian mixtures against torch.distributions, autograd and convolution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import diffusion
from diffusion.exact import Gaussian, GaussianMixture
from tests.diffusion.known import random_covariances, random_gaussian, random_mixture

SEEDS = st.integers(0, 1000)
PROCESS = diffusion.VP()


def reference(seed: int, t: float) -> MixtureSameFamily:
    """The marginal at t of random_mixture(seed), by torch.distributions."""
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(3, 2, dtype=torch.float64, generator=generator)
    weights = 0.2 + torch.rand(3, dtype=torch.float64, generator=generator)
    covariances = random_covariances(3, 2, generator)
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = PROCESS.alpha(time), PROCESS.sigma(time)
    moved = alpha**2 * covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(alpha * means, moved))


@given(SEEDS, st.floats(0, 1))
@settings(max_examples=25)
def test_log_density_at_every_time_is_that_of_the_convolved_mixture(seed: int, t: float) -> None:
    mixture, x = random_mixture(seed), 3 * torch.randn(6, 2, dtype=torch.float64)
    expected = reference(seed, t).log_prob(x)
    assert torch.allclose(mixture.denoiser(PROCESS).log_prob(t, x), expected, rtol=1e-10, atol=1e-10)
    assert torch.allclose(mixture.at(PROCESS, t).log_prob(x), expected, rtol=1e-10, atol=1e-10)


@given(SEEDS, st.floats(0, 1))
@settings(max_examples=25)
def test_score_is_the_gradient_of_the_log_density(seed: int, t: float) -> None:
    denoiser = random_mixture(seed).denoiser(PROCESS)
    x = (3 * torch.randn(6, 2, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(denoiser.log_prob(t, x).sum(), x)
    assert torch.allclose(denoiser.score(t, x), gradient, rtol=1e-9, atol=1e-9)


def test_own_times_give_what_each_time_gives_alone() -> None:
    denoiser, x = random_mixture(1).denoiser(PROCESS), torch.randn(4, 2, dtype=torch.float64)
    t = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
    alone = torch.cat([denoiser.score(s, x[i : i + 1]) for i, s in enumerate(t)])
    for shape in ((4,), (4, 1)):
        assert torch.allclose(denoiser.score(t.reshape(shape), x), alone, rtol=1e-12)


def test_data_prediction_of_a_gaussian_is_its_posterior_mean() -> None:
    """E[x_0 | x_t] = m + alpha S (alpha^2 S + sigma^2)^-1 (x - alpha m), the rule of linear regression."""
    gaussian, x, t = random_gaussian(2), torch.randn(5, 2, dtype=torch.float64), torch.tensor(0.3).double()
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    covariance = gaussian.basis[0] @ torch.diag(gaussian.variances[0]) @ gaussian.basis[0].T
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
    expected = gaussian.means + (x - alpha * gaussian.means) @ gain.T
    assert torch.allclose(gaussian.denoiser(PROCESS).data(t, x), expected, rtol=1e-9)


def test_draws_have_the_moments_of_the_mixture() -> None:
    mixture, n = random_mixture(3), 200_000
    x = mixture.sample(n, seed=0)
    weights = mixture.log_weights.exp()
    mean = weights @ mixture.means
    second = torch.einsum("kij,kj,klj->kil", mixture.basis, mixture.variances, mixture.basis)
    second = second + torch.einsum("ki,kj->kij", mixture.means, mixture.means)
    covariance = torch.einsum("k,kij->ij", weights, second) - torch.outer(mean, mean)
    assert torch.allclose(x.mean(0), mean, atol=5 * float(covariance.max() / n) ** 0.5)
    assert torch.allclose(torch.cov(x.T), covariance, rtol=0.03, atol=0.03)
    assert torch.equal(mixture.sample(5, seed=7), mixture.sample(5, seed=7))


def test_images_are_states_too() -> None:
    flat, shaped = torch.randn(2, 4), torch.eye(4).expand(2, 4, 4)
    plain, image = GaussianMixture(flat, shaped), GaussianMixture(flat.reshape(2, 1, 2, 2), shaped)
    x = torch.randn(3, 4)
    assert torch.allclose(plain.log_prob(x), image.log_prob(x.reshape(3, 1, 2, 2)))
    score = image.denoiser(PROCESS).score(0.2, x.reshape(3, 1, 2, 2))
    assert torch.allclose(plain.denoiser(PROCESS).score(0.2, x), score.flatten(1))
    assert image.sample(3).shape == (3, 1, 2, 2)


def test_a_point_mass_has_the_kernel_as_its_marginal() -> None:
    points = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    denoiser = GaussianMixture(points, torch.zeros(1, 2, 2)).denoiser(PROCESS)
    x = torch.randn(4, 2, dtype=torch.float64)
    assert torch.allclose(denoiser.score(0.5, x), PROCESS.conditional_score(0.5, x, points), rtol=1e-12)


def test_fit_is_the_gaussian_of_greatest_likelihood() -> None:
    x = torch.randn(50, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    best = Gaussian.fit(x)
    covariance = torch.cov(x.T, correction=0)
    for scale in (0.95, 1.05):
        assert Gaussian(x.mean(0), scale * covariance).log_prob(x).sum() < best.log_prob(x).sum()
    assert Gaussian(x.mean(0) + 0.05, covariance).log_prob(x).sum() < best.log_prob(x).sum()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((torch.zeros(3), torch.eye(3)[None]), "means"),
        ((torch.zeros(1, 2), torch.eye(3)[None]), "covariances"),
        ((torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])), "covariances"),
        ((torch.zeros(1, 2), -torch.eye(2)[None]), "covariances"),
        ((torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2), torch.tensor([1.0, 0.0])), "weights"),
        ((torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2), torch.ones(3)), "weights"),
    ],
)
def test_mistakes_name_the_argument(arguments: tuple[torch.Tensor, ...], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}: got .* accepted is"):
        GaussianMixture(*arguments)
