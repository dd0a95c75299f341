"""Flows of every prediction against finite differences of the law, at both ends; the scalings of Karras et al."""

import pytest
import torch

import diffusion
import sdesolve as ss
from diffusion.exact import GaussianMixture
from diffusion.prediction import PREDICTIONS
from tests.diffusion.known import random_gaussian, random_mixture
from tests.diffusion.test_processes import PROCESSES, every

F64 = torch.float64
FINITE_WITHOUT_DATA = ("data", "velocity", "flow", "edm")
"""Predictions whose flow is finite where alpha is 0."""


def points(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(seed))


def predicting(prediction: str, process: diffusion.Process, mixture: diffusion.exact.GaussianMixture):
    """A denoiser whose network says what is exact, for "edm" by the formulas of the paper written down again."""
    exact = mixture.denoiser(process)
    if prediction == "energy":
        return diffusion.Denoiser(lambda t, x: -exact.log_prob(t, x), process, prediction)
    if prediction == "scaled_energy":
        return diffusion.Denoiser(lambda t, x: -process.sigma(t) * exact.log_prob(t, x), process, prediction)
    if prediction != "edm":
        return diffusion.Denoiser(getattr(exact, prediction), process, prediction)

    def net(clock, scaled):
        t = process.time_of_log_snr(-8 * clock)[:, None]
        noise_level, alpha = process.sigma(t) / process.alpha(t), process.alpha(t)
        y = scaled * torch.sqrt(noise_level**2 + 0.49)
        data = exact.data(t, alpha * y + process.shift(t))
        skip, out = 0.49 / (noise_level**2 + 0.49), 0.7 * noise_level / torch.sqrt(noise_level**2 + 0.49)
        return (data - skip * y) / out

    return diffusion.Denoiser(net, process, prediction, sigma_data=0.7)


@every
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_flow_moves_a_gaussian_as_its_mean_and_covariance_move(process, prediction):
    """x = mean_t + C_t^(1/2) z along the flow of a one-dimensional normal, by central differences."""
    mixture, t, h = random_gaussian(1, dims=1), 0.4 * process.end, 1e-5 * process.end
    z = torch.linspace(-2, 2, 5, dtype=F64)[:, None]

    def along(t):
        moved = mixture.at(process, t)
        return moved.means + moved.variances.sqrt() * z

    velocity = (along(t + h) - along(t - h)) / (2 * h)
    found = predicting(prediction, process, mixture).flow(t, along(t))
    torch.testing.assert_close(found, velocity, rtol=1e-6, atol=1e-6)


@every
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_reverse_drift_is_that_of_the_score(process, prediction):
    mixture, t, x = random_mixture(2), 0.3 * process.end, points()
    denoiser = predicting(prediction, process, mixture)
    for eta in (0.0, 0.5, 1.0, 1.5):
        from_score = diffusion.reverse_sde(process, mixture.denoiser(process).score, eta).drift(torch.tensor(t), x)
        found = diffusion.reverse_sde(process, denoiser, eta).drift(torch.tensor(t), x)
        torch.testing.assert_close(found, from_score, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("process", [PROCESSES["rectified flow"]], ids=["rectified flow"])
@pytest.mark.parametrize("prediction", FINITE_WITHOUT_DATA)
def test_flows_are_finite_and_right_where_nothing_is_left_of_the_data(process, prediction):
    """At t = 1: E[eps - x_0 | eps = x] = x - E[x_0]."""
    mixture = random_mixture(3)
    exact = mixture.denoiser(process)
    mean = (mixture.log_weights.exp()[:, None] * mixture.means).sum(0)
    nets = {
        "data": lambda t, x: mean.expand_as(x),
        "velocity": lambda t, x: -mean.expand_as(x),
        "flow": lambda t, x: x - mean,
        "edm": lambda t, x: mean.expand_as(x) / 0.5,
    }
    x = points()
    for denoiser in (exact, diffusion.Denoiser(nets[prediction], process, prediction)):
        torch.testing.assert_close(denoiser.flow(1.0, x), x - mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(denoiser.data(1.0, x), mean.expand_as(x), rtol=1e-12, atol=1e-12)


def test_preconditioned_networks_see_and_say_variance_one():
    """At every time, for data of the variance that is promised: the input and the least-squares target."""
    process, seen = diffusion.VP(), []
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(200_000, 1, dtype=F64, generator=generator) for _ in range(2))
    x0 = 0.7 * x0

    def net(clock, x):
        seen.append(x)
        return torch.zeros_like(x)

    denoiser = diffusion.Denoiser(net, process, "edm", sigma_data=0.7)
    one = diffusion.Denoiser(lambda c, x: torch.ones_like(x), process, "edm", sigma_data=0.7)
    for t in (0.01, 0.2, 0.6, 1.0):
        x = process.perturb(t, x0, eps)
        skip = denoiser.data(t, x)
        target = (x0 - skip) / (one.data(t, x) - skip)
        assert seen[-1].var() == pytest.approx(1, abs=0.02)
        assert target.var() == pytest.approx(1, abs=0.02)


@every
@pytest.mark.parametrize("sampler", ["euler_maruyama", "reverse_sde", "probability_flow"])
def test_generation_starts_at_the_end_and_stops_at_zero_without_nan(process, sampler):
    denoiser = random_mixture(0).denoiser(process)
    x = diffusion.sample(denoiser, (3, 2), sampler=sampler, t_min=0.0, seed=0)
    assert x.isfinite().all()


def test_eta_may_depend_on_time():
    """eta(t) = sqrt(1 - t) makes the reverse drift and noise of rectified flow finite at t = 1."""
    process, mixture = diffusion.RectifiedFlow(), random_gaussian(5)
    eta = lambda t: torch.sqrt(1 - t)
    sde = diffusion.reverse_sde(process, mixture.denoiser(process), eta)
    t, x = torch.tensor(0.9, dtype=F64), points()
    constant = diffusion.reverse_sde(process, mixture.denoiser(process), float(eta(t)))
    torch.testing.assert_close(sde.drift(t, x), constant.drift(t, x))
    torch.testing.assert_close(sde.diffusion(t, x), constant.diffusion(t, x))
    start = process.prior_at(0.999).sample((4000, 2), seed=1, dtype=F64)
    ys = ss.solve(sde, start, torch.tensor([0.999, 0.0], dtype=F64), dt=0.005, method="heun", seed=0).ys[-1]
    assert torch.allclose(ys.mean(0), mixture.means[0], atol=5 * float(ys.std(0).max()) / 4000**0.5)
    assert torch.allclose(torch.cov(ys.T), mixture.covariances[0], atol=0.05)


def test_a_denoiser_of_another_process_is_refused():
    denoiser = random_mixture(0).denoiser(diffusion.VP())
    with pytest.raises(ValueError, match="score: got a denoiser of VP"):
        diffusion.probability_flow(diffusion.VE(), denoiser)


@pytest.mark.parametrize("name", ["SubVP", "rectified flow", "EDM"])
def test_the_noise_of_a_preconditioned_network_is_no_difference_of_large_numbers(name):
    """(x - alpha data) / sigma cancels where sigma is small, in float32; at t = 0 it would be 0 / 0."""
    process, x = PROCESSES[name], points()
    net = lambda c, x: torch.tanh(x.flip(1) + c[:, None])
    denoiser = diffusion.Denoiser(net, process, "edm", sigma_data=0.7)
    for t in (1e-6, 1e-4, 1e-2, 0.5):
        noise = denoiser.noise(t, x)
        torch.testing.assert_close(process.perturb(t, denoiser.data(t, x), noise), x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(denoiser.noise(t, x.float()).double(), noise, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(denoiser.flow(t, x.float()).double(), denoiser.flow(t, x), rtol=1e-4, atol=1e-4)
    assert denoiser.flow(0.0, x).isfinite().all()
    ends = diffusion.sample(denoiser, (4, 2), sampler="probability_flow", t_min=0.0, seed=0, dtype=F64)
    assert ends.isfinite().all()


class Quarter(diffusion.Process):
    """A quarter of a circle, as users write it; alpha is 0 at the end, in float32 a little less."""

    def alpha(self, t):
        return torch.cos(0.5 * torch.pi * t)

    def sigma(self, t):
        return torch.sin(0.5 * torch.pi * t)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_process_that_forgets_the_data_by_its_end_is_found_to(dtype):
    """Generation with noise starts before, that without at the end."""
    process, mixture = Quarter(), random_gaussian(5)
    assert process.rates_end == 0.999
    exact = GaussianMixture(*(x.to(dtype) for x in (mixture.means, mixture.covariances))).denoiser(process)
    edm = diffusion.Denoiser(lambda c, x: torch.tanh(x + c[:, None]), process, "edm")
    for sampler in ("probability_flow", "euler_maruyama")[: 2 if dtype == torch.float32 else 1]:
        x = diffusion.sample(exact, (1000, 2), sampler=sampler, seed=0).double()
        assert torch.allclose(x.mean(0), mixture.means[0], atol=5 * float(x.std(0).max()) / 1000**0.5 + 0.03)
        assert torch.allclose(torch.cov(x.T), mixture.covariances[0], atol=0.08)
        assert diffusion.sample(edm, (4, 2), sampler=sampler, seed=0, dtype=dtype).isfinite().all()


@every
def test_only_processes_that_forget_the_data_have_rates_that_end_early(process):
    early = isinstance(process, diffusion.RectifiedFlow)
    assert process.rates_end == (0.999 if early else process.end)
