"""log_likelihood against exact log-densities, and Hutchinson's estimate against the exact trace."""

import math

import pytest
import torch
from torch import Tensor

import diffusion
from tests.diffusion.known import learned, random_gaussian, random_mixture

PROCESS = diffusion.VP()


@pytest.mark.parametrize("t_min", [0.0, 1e-5, 0.1])
@pytest.mark.parametrize("dims", [1, 3])
def test_log_likelihood_of_a_mixture_is_exact_at_every_point(t_min: float, dims: int) -> None:
    mixture = random_mixture(4, count=4, dims=dims)
    denoiser = mixture.denoiser(PROCESS)
    x = torch.cat([mixture.sample(20, seed=0), 3 * torch.randn(10, dims, dtype=torch.float64)])
    found = diffusion.log_likelihood(denoiser, x, prior=mixture.at(PROCESS, 1.0), t_min=t_min, rtol=1e-9, atol=1e-9)
    assert (found.log_prob - denoiser.log_prob(t_min, x)).abs().max() < 1e-6
    assert torch.equal(found.std_error, torch.zeros(30, dtype=torch.float64))
    assert found.latent.shape == x.shape
    assert int(found.stats.drift_evaluations.min()) > 0


def test_prior_gap_is_what_the_standard_prior_costs() -> None:
    mixture = random_mixture(4)
    denoiser, x = mixture.denoiser(PROCESS), mixture.sample(10, seed=0)
    exact = diffusion.log_likelihood(denoiser, x, prior=mixture.at(PROCESS, 1.0), rtol=1e-9, atol=1e-9)
    standard = diffusion.log_likelihood(denoiser, x, rtol=1e-9, atol=1e-9)
    assert torch.allclose(standard.log_prob + standard.prior_gap, exact.log_prob, rtol=0, atol=1e-9)
    assert float(standard.prior_gap.abs().max()) > 1e-4
    assert float(exact.prior_gap.abs().max()) < 1e-12


def test_prior_gap_is_known_for_a_network_only_when_the_marginal_is_given() -> None:
    x, marginal = torch.randn(3, 2, dtype=torch.float64), random_gaussian(0)
    assert diffusion.log_likelihood(learned(), x).prior_gap is None
    found = diffusion.log_likelihood(learned(), x, marginal=marginal)
    expected = marginal.log_prob(found.latent) - PROCESS.prior.log_prob(found.latent)
    assert torch.allclose(found.prior_gap, expected)


def test_hutchinson_agrees_with_the_exact_trace_within_its_standard_error() -> None:
    """The dense network couples all components, so single probes differ; their mean must not."""
    denoiser, x = learned(4), torch.randn(60, 4, dtype=torch.float64)
    options = {"rtol": 1e-6, "atol": 1e-6, "t_min": 1e-2}
    with torch.no_grad():
        exact = diffusion.log_likelihood(denoiser, x, **options)
        found = diffusion.log_likelihood(denoiser, x, trace="hutchinson", probes=50, seed=1, **options)
        one = diffusion.log_likelihood(denoiser, x, trace="hutchinson", seed=1, **options)
    assert torch.allclose(found.latent, exact.latent, atol=1e-4)
    z = (found.log_prob - exact.log_prob) / found.std_error
    assert float(z.abs().max()) < 5
    assert 0.65 < float(z.square().mean().sqrt()) < 1.4  # the standard error is neither too small nor too large
    assert one.std_error is None
    spread = (one.log_prob - exact.log_prob) / (found.std_error * math.sqrt(50))
    assert 0.65 < float(spread.square().mean().sqrt()) < 1.4


def test_probes_are_kept_throughout_a_solve() -> None:
    """With a probe drawn anew at every evaluation, the error control would never be content."""
    denoiser, x = learned(4), torch.randn(2, 4, dtype=torch.float64)
    options = {"trace": "hutchinson", "seed": 2, "t_min": 1e-2}
    coarse = diffusion.log_likelihood(denoiser, x, rtol=1e-6, atol=1e-6, **options)
    fine = diffusion.log_likelihood(denoiser, x, rtol=1e-9, atol=1e-9, **options)
    assert torch.allclose(coarse.log_prob, fine.log_prob, atol=1e-4)
    assert int(fine.stats.steps.max()) < 1000


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_point_has_the_same_likelihood_in_every_batch(trace: str) -> None:
    denoiser, x = learned(3), torch.randn(5, 3, dtype=torch.float64)
    options = {"trace": trace, "probes": 3 if trace == "hutchinson" else 1, "t_min": 1e-2, "rtol": 1e-8, "atol": 1e-8}
    together = diffusion.log_likelihood(denoiser, x, **options).log_prob
    alone = diffusion.log_likelihood(denoiser, x[4:], paths=[4], **options).log_prob
    assert torch.allclose(together[4:], alone, rtol=1e-8)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_log_likelihood_is_differentiable_in_x_and_parameters(trace: str) -> None:
    denoiser = learned(2)
    weight = denoiser.net.layers[0].weight

    def f(x: Tensor, w: Tensor) -> Tensor:
        net = lambda t, y: torch.func.functional_call(denoiser.net, {"layers.0.weight": w}, (t, y))
        options = {"trace": trace, "probes": 2 if trace == "hutchinson" else 1, "t_min": 0.1}
        return diffusion.log_likelihood(diffusion.Denoiser(net, PROCESS), x, method="rk4", dt=0.3, **options).log_prob

    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    w = weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(f, (x, w), atol=1e-5)


def test_gradients_by_backsolve_agree_with_direct_ones() -> None:
    denoiser, x = learned(2), torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    inputs = [x, *denoiser.parameters()]
    gradients = {}
    for adjoint in ("direct", "backsolve"):
        found = diffusion.log_likelihood(denoiser, x, adjoint=adjoint, t_min=0.05, rtol=1e-8, atol=1e-8)
        gradients[adjoint] = torch.autograd.grad(found.log_prob.sum(), inputs)
    for a, b in zip(gradients["direct"], gradients["backsolve"], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_images_and_chunks_change_nothing() -> None:
    mixture = random_mixture(0, dims=4)
    flat = mixture.denoiser(PROCESS)
    image = diffusion.exact.GaussianMixture(
        mixture.means.reshape(-1, 1, 2, 2),
        torch.einsum("kij,kj,klj->kil", mixture.basis, mixture.variances, mixture.basis),
        mixture.log_weights.exp(),
    ).denoiser(PROCESS)
    x, options = mixture.sample(5, seed=0), {"rtol": 1e-8, "atol": 1e-8}
    expected = diffusion.log_likelihood(flat, x, **options).log_prob
    as_image = diffusion.log_likelihood(image, x.reshape(5, 1, 2, 2), **options).log_prob
    in_chunks = diffusion.log_likelihood(flat, x, chunk=1, **options).log_prob
    assert torch.allclose(as_image, expected, rtol=1e-7)
    assert torch.allclose(in_chunks, expected, rtol=1e-7)


@pytest.mark.compile
def test_compiled_log_likelihood_is_the_eager_one() -> None:
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eager, compiled = (diffusion.log_likelihood(learned(), x, dt=0.1, compile=c).log_prob for c in (False, True))
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"trace": "skilling"}, "trace: got 'skilling'; accepted is 'exact' or 'hutchinson'"),
        ({"trace": "exact", "probes": 2}, "probes: got 2"),
        ({"trace": "hutchinson", "probes": 0}, "probes: got 0"),
        ({"t_min": 2.0}, "t_min, t_max: got"),
    ],
)
def test_mistakes_name_the_argument(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        diffusion.log_likelihood(learned(), torch.randn(2, 2), **options)  # type: ignore[arg-type]


def test_a_prior_without_a_density_is_named() -> None:
    with pytest.raises(TypeError, match=r"prior: got int.*log_prob"):
        diffusion.log_likelihood(learned(), torch.randn(2, 2).double(), prior=3)
