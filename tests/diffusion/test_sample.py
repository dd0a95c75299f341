"""Reverse SDE, probability flow and sample(): marginals of Gaussians, invariance to the batch, mistakes."""

import math

import pytest
import torch
from torch import Tensor

import diffusion
import sdesolve as ss
from diffusion.exact import Gaussian
from diffusion.prior import derived_seed, trajectory_normals
from tests.diffusion.known import learned, random_gaussian, random_mixture

PROCESS = diffusion.VP()
N = 20_000


def assert_moments(x: Tensor, gaussian: Gaussian, slack: float = 0.0) -> None:
    """Mean and covariance within five standard errors, plus a bias that is allowed."""
    covariance = gaussian.basis[0] @ torch.diag(gaussian.variances[0]) @ gaussian.basis[0].T
    scale = covariance.diagonal().sqrt()
    assert ((x.mean(0) - gaussian.means[0]).abs() <= (5 / math.sqrt(len(x)) + slack) * scale).all()
    error = (torch.cov(x.T) - covariance).abs()
    assert (error <= (5 * math.sqrt(2 / len(x)) + 2 * slack) * torch.outer(scale, scale)).all()


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.5])
def test_every_member_of_the_reverse_family_has_the_marginals_of_the_forward_process(eta: float) -> None:
    gaussian, t = random_gaussian(0), 0.3
    start = gaussian.at(PROCESS, 1.0).sample(N, seed=1)
    sde = diffusion.reverse_sde(PROCESS, gaussian.denoiser(PROCESS).score, eta)
    x = ss.solve(sde, start, torch.tensor([1.0, t]), dt=0.7 / 200, seed=2).ys[-1]
    assert_moments(x, gaussian.at(PROCESS, t), slack=0.02)


@pytest.mark.parametrize("t", [0.0, 0.3])
def test_probability_flow_maps_a_gaussian_to_its_marginals_exactly(t: float) -> None:
    """For a Gaussian the flow is linear, x_t = m_t + C_t^1/2 C_1^-1/2 (x_1 - m_1), with commuting covariances."""
    gaussian = random_gaussian(3)
    start, end = gaussian.at(PROCESS, 1.0), gaussian.at(PROCESS, t)
    x1 = start.sample(50, seed=1)
    ode = diffusion.probability_flow(PROCESS, gaussian.denoiser(PROCESS).score)
    x = ss.solve(ode, x1, torch.tensor([1.0, t], dtype=torch.float64), rtol=1e-9, atol=1e-9).ys[-1]
    ratio = (end.variances[0] / start.variances[0]).sqrt()
    basis = gaussian.basis[0]
    expected = end.means[0] + (x1 - start.means[0]) @ basis @ torch.diag(ratio) @ basis.T
    assert torch.allclose(x, expected, rtol=1e-7, atol=1e-7)


def test_probability_flow_and_back_is_the_identity() -> None:
    denoiser = learned()
    ode = diffusion.probability_flow(PROCESS, denoiser.score)
    x = torch.randn(4, 2, dtype=torch.float64)
    ts = torch.tensor([0.05, 1.0], dtype=torch.float64)
    noise = ss.solve(ode, x, ts, rtol=1e-10, atol=1e-10).ys[-1]
    back = ss.solve(ode, noise, ts.flip(0), rtol=1e-10, atol=1e-10).ys[-1]
    assert torch.allclose(back, x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{"steps": 400}, {"sampler": "probability_flow"}, {"sampler": "probability_flow", "steps": 100}]
)
def test_samples_have_the_moments_of_the_data(options: dict[str, object]) -> None:
    gaussian = random_gaussian(5)
    x = diffusion.sample(gaussian.denoiser(PROCESS), (N, 2), seed=0, **options)  # type: ignore[call-overload]
    assert x.dtype == torch.float64
    # 0.02: Euler's bias in 400 steps, and a prior that is not quite the marginal
    assert_moments(x, gaussian, slack=0.025)


SAMPLERS = [
    {"sampler": "euler_maruyama", "steps": 20},
    {"sampler": "ancestral", "steps": 20},
    {"sampler": "probability_flow", "steps": 20},
    {"sampler": "probability_flow", "rtol": 1e-7, "atol": 1e-7},
]


@pytest.mark.parametrize("options", SAMPLERS)
def test_sample_i_is_the_same_in_every_batch(options: dict[str, object]) -> None:
    denoiser = random_mixture(0).denoiser(PROCESS)
    many = diffusion.sample(denoiser, (7, 2), seed=3, **options)  # type: ignore[call-overload]
    few = diffusion.sample(denoiser, (3, 2), seed=3, **options)  # type: ignore[call-overload]
    last = diffusion.sample(denoiser, (1, 2), seed=3, paths=[6], **options)  # type: ignore[call-overload]
    # step-size control may carry the rounding of a matrix product up to its tolerance
    assert torch.allclose(many[:3], few, rtol=1e-8, atol=1e-8)
    assert torch.allclose(many[6:], last, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("options", SAMPLERS)
def test_another_seed_gives_other_samples_and_the_same_seed_the_same(options: dict[str, object]) -> None:
    denoiser = random_mixture(0).denoiser(PROCESS)
    a, b, c = (diffusion.sample(denoiser, (3, 2), seed=s, **options) for s in (1, 1, 2))  # type: ignore[call-overload]
    assert torch.equal(a, b)
    assert not torch.isclose(a, c).any()


@pytest.mark.parametrize("options", SAMPLERS)
def test_without_a_seed_torchs_global_generator_decides(options: dict[str, object]) -> None:
    denoiser = random_mixture(0).denoiser(PROCESS)
    found = []
    for s in (1, 1, 2):
        torch.manual_seed(s)
        found.append(diffusion.sample(denoiser, (2, 2), **options))  # type: ignore[call-overload]
    assert torch.equal(found[0], found[1])
    assert not torch.isclose(found[0], found[2]).any()


def test_prior_noise_is_independent_of_the_noise_of_the_solve() -> None:
    """Same seed, same ids: the first Brownian increments and the starting noise are uncorrelated."""
    prior = trajectory_normals(0, "prior", (N, 1), dtype=torch.float64)[:, 0]
    steps = ss.BrownianPath(0, (N, 1), cell=1.0, dtype=torch.float64).increments(0, 1)[0, :, 0]
    for other in (steps, trajectory_normals(0, "probes", (N, 1), dtype=torch.float64)[:, 0]):
        correlation = torch.corrcoef(torch.stack([prior, other]))[0, 1]
        assert abs(float(correlation)) < 5 / math.sqrt(N)


def test_derived_seeds_are_frozen() -> None:
    """What a seed means must not change between versions."""
    assert derived_seed(0, "prior") == 5592051617109877076
    assert len({derived_seed(s, p) for s in range(100) for p in ("prior", "probes")}) == 200


@pytest.mark.parametrize("options", SAMPLERS)
def test_a_trajectory_ends_at_the_sample(options: dict[str, object]) -> None:
    denoiser = random_mixture(0).denoiser(PROCESS)
    alone = diffusion.sample(denoiser, (3, 2), seed=3, **options)  # type: ignore[call-overload]
    way = diffusion.sample(denoiser, (3, 2), seed=3, trajectory=5, **options)  # type: ignore[call-overload]
    assert way.ys.shape == (6, 3, 2)
    assert way.ts[0] == 1.0
    assert float(way.ts[-1]) == pytest.approx(1e-3)
    assert torch.allclose(way.ys[-1], alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(way.ys[0], diffusion.VP().prior.sample((3, 2), seed=3, dtype=torch.float64))


def test_a_grid_of_times_is_followed() -> None:
    """A uniform grid given as a tensor is the uniform grid by name."""
    denoiser = random_mixture(0).denoiser(PROCESS)
    times = torch.linspace(1, 1e-3, 11, dtype=torch.float64)
    for sampler in ("euler_maruyama", "probability_flow"):
        by_name = diffusion.sample(denoiser, (3, 2), seed=0, sampler=sampler, steps=10)
        by_times = diffusion.sample(denoiser, (3, 2), seed=0, sampler=sampler, grid=times)
        assert torch.allclose(by_name, by_times, rtol=1e-9, atol=1e-9)
    uneven = 1e-3 + (1 - 1e-3) * torch.linspace(1, 0, 11, dtype=torch.float64) ** 2
    x = diffusion.sample(denoiser, (3, 2), seed=0, sampler="probability_flow", grid=uneven, trajectory=10)
    assert torch.allclose(x.ts.double(), uneven)


def test_samples_are_differentiable_when_asked() -> None:
    denoiser = learned()
    x = diffusion.sample(denoiser, (2, 2), seed=0, steps=5, gradients=True)
    assert x.requires_grad
    assert not diffusion.sample(denoiser, (2, 2), seed=0, steps=5).requires_grad


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sampler": "ddpm"}, r"sampler: got 'ddpm'.*'euler_maruyama' or 'reverse_sde' or 'probability_flow'"),
        ({"steps": 10, "rtol": 1e-3}, "rtol, atol: got .*fixed steps"),
        ({"method": "heun"}, "method: got 'heun'"),
        ({"steps": 0}, "steps: got 0"),
        ({"grid": "spiral"}, "grid: got 'spiral'.*'uniform' or 'log_snr' or 'karras' or 'quadratic'"),
        (
            {"grid": "karras", "sampler": "reverse_sde"},
            "grid: got 'karras' for 'reverse_sde' with error control.*steps=.*trajectory=",
        ),
        ({"snr": 0.1}, "corrector_steps, snr: got None and 0.1 for 'euler_maruyama'"),
        ({"grid": torch.tensor([0.1, 1.0])}, "grid: got .*falling"),
        ({"t_min": 1.0}, "t_min, t_max: got"),
        ({"steps": 10, "trajectory": 3}, "trajectory: got 3; accepted is a divisor of the 10 steps"),
        ({"prior": torch.zeros(3, 2)}, r"prior: got a tensor of shape \(3, 2\)"),
    ],
)
def test_mistakes_name_the_argument(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        diffusion.sample(learned(), (2, 2), **options)  # type: ignore[call-overload]


def test_a_network_that_drops_out_is_refused() -> None:
    net = torch.nn.Dropout(0.5)
    denoiser = diffusion.Denoiser(lambda t, x: net(x), PROCESS)
    with pytest.raises(ss.errors.TrainingModeError, match="eval"):
        diffusion.sample(denoiser, (2, 2), steps=5, seed=0)


@pytest.mark.parametrize("eta", [-0.1, math.nan])
def test_reverse_sde_refuses_a_negative_eta(eta: float) -> None:
    with pytest.raises(ValueError, match="eta: got"):
        diffusion.reverse_sde(PROCESS, lambda t, x: x, eta)
