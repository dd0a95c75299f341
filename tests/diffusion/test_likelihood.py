"""log_likelihood against exact log-densities, and Hutchinson's estimate against the exact trace."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import diffusion
from tests.diffusion.known import learned, random_gaussian, random_mixture
from tests.diffusion.test_processes import PROCESSES

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


@pytest.mark.parametrize(("name", "dims"), [("VP", 5), ("EDM", 2), ("rectified flow", 5)])
def test_default_settings_find_log_densities_to_one_millionth(name: str, dims: int) -> None:
    """Of 10,000 points the validation says the same."""
    process, mixture = PROCESSES[name], random_mixture(4, count=4, dims=dims)
    denoiser, x = mixture.denoiser(process), mixture.sample(100, seed=0)
    with torch.no_grad():
        found = diffusion.log_likelihood(denoiser, x, prior=mixture.at(process, process.end))
    assert (found.log_prob - denoiser.log_prob(1e-5, x)).abs().max() < 1e-6


@pytest.mark.parametrize("name", PROCESSES)
def test_from_the_data_to_the_end_likelihoods_are_exact_and_their_gradients_the_score(name: str) -> None:
    process, mixture = PROCESSES[name], random_mixture(3)
    denoiser, x = mixture.denoiser(process), mixture.sample(4, seed=2).requires_grad_()
    prior = mixture.at(process, process.end)
    found = diffusion.log_likelihood(denoiser, x, t_min=0.0, prior=prior)
    torch.testing.assert_close(found.log_prob, mixture.log_prob(x), rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.log_prob.sum(), x)
    torch.testing.assert_close(gradient, denoiser.score(0.0, x), rtol=1e-5, atol=1e-4)
    assert torch.equal(found.truncation, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("adjoint", ["direct", "checkpoint", "backsolve"])
def test_gradients_are_the_score_whichever_way_they_are_found(adjoint: str) -> None:
    mixture = random_mixture(3)
    denoiser, x = mixture.denoiser(PROCESS), mixture.sample(3, seed=2).requires_grad_()
    prior = mixture.at(PROCESS, 1.0)
    found = diffusion.log_likelihood(denoiser, x, t_min=0.01, prior=prior, adjoint=adjoint)
    (gradient,) = torch.autograd.grad(found.log_prob.sum(), x)
    torch.testing.assert_close(gradient, denoiser.score(0.01, x), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("trace", ["exact", "hutchinson", "hutch++"])
def test_an_outlier_changes_nobody_elses_likelihood(trace: str) -> None:
    """Of a mixture with one covariance: far out, others switch from one component to the next as if by a jump."""
    single = random_gaussian(2, dims=4)
    means = torch.stack([single.means[0], -single.means[0]])
    mixture = diffusion.exact.GaussianMixture(means, single.covariances.expand(2, -1, -1))
    denoiser, x = mixture.denoiser(PROCESS), mixture.sample(64, seed=0)
    far = x.clone()
    far[17] = 1e3
    options = {"trace": trace, "probes": 1 if trace == "exact" else 3, "rtol": 1e-6, "atol": 1e-6}
    with torch.no_grad():
        among, beside = (diffusion.log_likelihood(denoiser, batch, **options) for batch in (x, far))
    others = torch.arange(64) != 17
    for name in ("log_prob", "latent"):
        torch.testing.assert_close(getattr(beside, name)[others], getattr(among, name)[others], rtol=1e-12, atol=1e-12)
    assert torch.equal(beside.stats.steps[others], among.stats.steps[others])
    assert float(beside.log_prob[17]) < -1e4


def test_the_error_of_a_log_density_does_not_grow_with_dimensions_that_are_easy() -> None:
    """Beside standard normal components, which the flow of VP leaves alone, the accuracy of the one that moves."""
    errors = []
    for dims in (1, 40):
        means, covariances = torch.zeros(2, dims).double(), torch.eye(dims).double().repeat(2, 1, 1)
        means[:, 0], covariances[:, 0, 0] = torch.tensor([-1.0, 1.0]).double(), 0.02
        mixture = diffusion.exact.GaussianMixture(means, covariances)
        x = torch.zeros(10, dims).double()
        x[:, 0] = torch.linspace(-1.5, 1.4, 10)
        options = {"method": "tsit5", "rtol": 1e-5, "atol": 1e-12, "prior": mixture.at(PROCESS, 1.0)}
        with torch.no_grad():
            found = diffusion.log_likelihood(mixture.denoiser(PROCESS), x, **options)
        errors.append(float((found.log_prob - mixture.denoiser(PROCESS).log_prob(1e-5, x)).abs().max()))
    assert errors[1] < 3 * errors[0]


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


@pytest.mark.parametrize(("trace", "probes", "columns"), [("hutchinson", 16, 16), ("hutch++", 30, 10)])
def test_over_a_hundred_seeds_estimates_lie_within_three_of_their_standard_errors(
    trace: str, probes: int, columns: int
) -> None:
    """As often as Student's t says, but for one set of seeds in 10,000. Trajectories draw probes of their own."""
    dims = 12
    denoiser, x = learned(dims, seed=1), torch.randn(1, dims, dtype=torch.float64).expand(100, -1).contiguous()
    options = {"rtol": 1e-5, "atol": 1e-5, "t_min": 1e-2}
    with torch.no_grad():
        exact = diffusion.log_likelihood(denoiser, x[:1], **options).log_prob
        found = diffusion.log_likelihood(denoiser, x, trace=trace, probes=probes, seed=2, **options)
    z = (found.log_prob - exact) / found.std_error
    often = 2 * stats.t.sf(3, columns - 1)
    assert int((z.abs() > 3).sum()) <= stats.binom.isf(1e-4, 100, often)
    assert abs(float(z.mean())) < 4 * float(z.std()) / 10
    assert 0.75 < float(found.std_error.square().mean().sqrt() / found.log_prob.std()) < 1.35


def test_probes_are_kept_throughout_a_solve() -> None:
    """With a probe drawn anew at every evaluation, the error control would never be content."""
    denoiser, x = learned(4), torch.randn(2, 4, dtype=torch.float64)
    options = {"trace": "hutchinson", "seed": 2, "t_min": 1e-2}
    coarse = diffusion.log_likelihood(denoiser, x, rtol=1e-6, atol=1e-6, **options)
    fine = diffusion.log_likelihood(denoiser, x, rtol=1e-9, atol=1e-9, **options)
    assert torch.allclose(coarse.log_prob, fine.log_prob, atol=1e-4)
    assert int(fine.stats.steps.max()) < 1000


@pytest.mark.parametrize("trace", ["exact", "hutchinson", "hutch++"])
def test_a_point_has_the_same_likelihood_in_every_batch(trace: str) -> None:
    denoiser, x = learned(3), torch.randn(5, 3, dtype=torch.float64)
    options = {"trace": trace, "probes": 1 if trace == "exact" else 3, "t_min": 1e-2, "rtol": 1e-8, "atol": 1e-8}
    together = diffusion.log_likelihood(denoiser, x, **options).log_prob
    alone = diffusion.log_likelihood(denoiser, x[4:], paths=[4], **options).log_prob
    assert torch.allclose(together[4:], alone, rtol=1e-8)


@pytest.mark.parametrize("trace", ["exact", "hutchinson", "hutch++"])
def test_log_likelihood_is_differentiable_in_x_and_parameters(trace: str) -> None:
    denoiser = learned(2)
    weight = denoiser.net.layers[0].weight

    def f(x: Tensor, w: Tensor) -> Tensor:
        net = lambda t, y: torch.func.functional_call(denoiser.net, {"layers.0.weight": w}, (t, y))
        options = {"trace": trace, "probes": 1 if trace == "exact" else 3, "t_min": 0.1}
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


def test_bits_per_dimension_are_those_of_the_log_density() -> None:
    found = diffusion.log_likelihood(learned(), torch.randn(3, 2).double(), dt=0.1)
    wanted = diffusion.bits_per_dimension(found.log_prob, 2, levels=256, range=(-2.0, 2.0))
    assert torch.equal(found.bits_per_dimension(levels=256, range=(-2.0, 2.0)), wanted)


@pytest.mark.compile
def test_compiled_log_likelihood_is_the_eager_one() -> None:
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eager, compiled = (diffusion.log_likelihood(learned(), x, dt=0.1, compile=c).log_prob for c in (False, True))
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


@pytest.mark.compile
@pytest.mark.traced
def test_the_basis_of_a_sketch_is_found_in_compiled_code() -> None:
    x = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"trace": "hutch++", "probes": 3, "dt": 0.25}
    with torch.no_grad():
        eager, compiled = (
            diffusion.log_likelihood(learned(3), x, compile=c, **options).log_prob for c in (False, True)
        )
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"trace": "skilling"}, r"trace: got 'skilling'; accepted is 'exact' or 'hutchinson' or 'hutch\+\+'"),
        ({"trace": "exact", "probes": 2}, "probes: got 2"),
        ({"trace": "hutchinson", "probes": 0}, "probes: got 0"),
        ({"trace": "hutch++", "probes": 2}, "probes: got 2"),
        ({"probe": "cauchy"}, "probe: got 'cauchy'"),
        ({"rtol": -1.0}, "rtol: got -1.0"),
        ({"t_min": 2.0}, "t_min, t_max: got"),
    ],
)
def test_mistakes_name_the_argument(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        diffusion.log_likelihood(learned(), torch.randn(2, 2), **options)  # type: ignore[arg-type]


def test_a_prior_without_a_density_is_named() -> None:
    with pytest.raises(TypeError, match=r"prior: got int.*log_prob"):
        diffusion.log_likelihood(learned(), torch.randn(2, 2).double(), prior=3)


def test_hutch_plus_plus_is_exact_by_default_where_the_flow_only_scales() -> None:
    """Of data at one point the flow of EDM is x / t, whose divergence is D / t."""
    law = diffusion.exact.Gaussian(torch.zeros(6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64))
    x, options = torch.randn(20, 6, dtype=torch.float64), {"t_min": 1.0, "rtol": 1e-5, "atol": 1e-7}
    exact, default, signs = (
        diffusion.log_likelihood(law.denoiser(diffusion.EDM()), x, **options, **how).log_prob  # type: ignore[arg-type]
        for how in ({}, {"trace": "hutch++", "probes": 6}, {"trace": "hutch++", "probes": 6, "probe": "rademacher"})
    )
    assert (default - exact).abs().max() < 1e-5
    assert (signs - exact).abs().max() > 1.0
