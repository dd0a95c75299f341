"""Predictor-corrector sampling: the published algorithms with the same noise, marginals of Gaussians and mixtures."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import Tensor

import diffusion
import sdesolve as ss
from diffusion.exact import GaussianMixture
from tests.diffusion.known import learned, random_gaussian, random_mixture

F64 = torch.float64
VP, VE = diffusion.VP(), diffusion.VE(sigma_max=5.0)
PC = {"sampler": "predictor_corrector"}


def by_hand(denoiser: diffusion.Denoiser, x: Tensor, times: Tensor, M: int, snr: float, seed: int) -> Tensor:
    """Algorithms 2 and 3 of Song et al. (2021) in their own letters; step k of all uses the normals of cell k."""
    path, k = ss.BrownianPath(seed, tuple(x.shape), cell=1.0, dtype=F64), 0
    process = denoiser.process
    for before, after in pairwise(times):
        z, k = path.normals([k])[0], k + 1
        if process is VP:
            beta = 1 - (process.alpha(before) / process.alpha(after)) ** 2
            x = (2 - (1 - beta).sqrt()) * x + beta * denoiser.score(before, x) + beta.sqrt() * z
            size = 2 * (1 - beta) * (snr * process.sigma(after)) ** 2
        else:
            more = process.sigma(before) ** 2 - process.sigma(after) ** 2
            x = x + more * denoiser.score(before, x) + more.sqrt() * z
            size = 2 * (snr * process.sigma(after)) ** 2
        for _ in range(M):
            z, k = path.normals([k])[0], k + 1
            x = x + size * denoiser.score(after, x) + (2 * size).sqrt() * z
    return x


@pytest.mark.parametrize("process", [VP, VE], ids=["VP", "VE"])
@pytest.mark.parametrize("correctors", [0, 1, 3])
def test_steps_are_those_of_the_published_algorithms(process: diffusion.Process, correctors: int) -> None:
    denoiser, times = random_mixture(1).denoiser(process), torch.linspace(1, 1e-3, 7, dtype=F64)
    start = process.prior.sample((5, 2), seed=4, dtype=F64)
    found = diffusion.sample(denoiser, (5, 2), steps=6, corrector_steps=correctors, snr=0.2, seed=4, **PC)
    torch.testing.assert_close(found, by_hand(denoiser, start, times, correctors, 0.2, 4), rtol=1e-10, atol=1e-10)


def variance(process: diffusion.Process, times: Tensor, correctors: int, snr: float, eta: float = 1.0) -> float:
    """That of the samples for data N(0, 1/4) from the right start, over the right one: every step is linear."""
    law = lambda t: float(process.alpha(t) ** 2 / 4 + process.sigma(t) ** 2)
    found = law(times[0])
    for late, early in pairwise(times):
        rho = float(process.alpha(late) / process.alpha(early))
        added = float(process.variance(late)) - rho**2 * float(process.variance(early))
        found = found * (2 - rho - 0.5 * (1 + eta**2) * added / law(late)) ** 2 + eta**2 * added
        size = 2 * (rho * snr) ** 2 * float(process.variance(early))
        for _ in range(correctors):
            found = found * (1 - size / law(early)) ** 2 + 2 * size
    return found / law(times[-1])


@pytest.mark.parametrize("process", [VP, VE, diffusion.RectifiedFlow()], ids=["VP", "VE", "rectified flow"])
def test_correctors_repair_the_variance_that_coarse_predictors_miss(process: diffusion.Process) -> None:
    """By the exact recursion; which the samples follow within five standard errors."""
    gaussian, n = diffusion.exact.Gaussian(torch.zeros(1, dtype=F64), torch.tensor([[0.25]], dtype=F64)), 10_000
    times = torch.linspace(process.rates_end, 0.3, 13, dtype=F64)
    prior = gaussian.at(process, process.rates_end).sample(n, seed=1)
    expected = {}
    for correctors in (0, 20):
        expected[correctors] = variance(process, times, correctors, 0.16)
        x = diffusion.sample(
            gaussian.denoiser(process), (n, 1), grid=times, corrector_steps=correctors, prior=prior, seed=2, **PC
        )
        found = float(x.square().mean()) / float(gaussian.at(process, 0.3).variances)
        assert found == pytest.approx(expected[correctors], rel=5 * math.sqrt(2 / n))
    assert abs(expected[0] - 1) > 0.2
    assert abs(expected[20] - 1) < 0.35 * abs(expected[0] - 1)


@pytest.mark.parametrize("eta", [0.5, 1.5])
def test_predictors_with_any_amount_of_noise_have_the_marginal_of_short_steps(eta: float) -> None:
    """Samples follow the recursion, whose bias halves with the steps."""
    gaussian, n = diffusion.exact.Gaussian(torch.zeros(1, dtype=F64), torch.tensor([[0.25]], dtype=F64)), 10_000
    times, prior = torch.linspace(1, 0.3, 201, dtype=F64), gaussian.at(VP, 1.0).sample(n, seed=1)
    options = {"grid": times, "eta": eta, "corrector_steps": 0, "prior": prior, "seed": 2, **PC}
    x = diffusion.sample(gaussian.denoiser(VP), (n, 1), **options)
    expected = variance(VP, times, 0, 0.16, eta)
    finer = variance(VP, torch.linspace(1, 0.3, 401, dtype=F64), 0, 0.16, eta)
    assert 1.8 < (expected - 1) / (finer - 1) < 2.2
    found = float(x.square().mean()) / float(gaussian.at(VP, 0.3).variances)
    assert found == pytest.approx(expected, rel=5 * math.sqrt(2 / n))


def test_correctors_alone_keep_the_marginal_up_to_the_bias_of_their_steps() -> None:
    """Steps of size h on N(0, v) keep v / (1 - h / (2 v)): at one level, with the time hardly moving."""
    gaussian = diffusion.exact.Gaussian(torch.zeros(1, dtype=F64), torch.tensor([[0.25]], dtype=F64))
    times = torch.tensor([0.4, 0.4 - 1e-9], dtype=F64)
    v, h = float(gaussian.at(VP, 0.4).variances), 2 * 0.5**2 * float(VP.variance(times[0]))
    n, kept = 20_000, v / (1 - h / (2 * v))
    for start in (v, kept):
        prior = math.sqrt(start) * torch.randn(n, 1, dtype=F64)
        x = diffusion.sample(
            gaussian.denoiser(VP), (n, 1), grid=times, corrector_steps=40, snr=0.5, prior=prior, seed=0, **PC
        )
        assert float(x.square().mean()) == pytest.approx(kept, rel=5 * math.sqrt(2 / n))
    assert kept > 1.2 * v


def test_norms_of_each_trajectory_in_the_step_size_would_change_the_law() -> None:
    """What `diffusion.predictor_corrector` says of algorithms 4 and 5: (1 + 2/D)^2 for N(0, I), here 1.266, where a
    step of the same mean length that does not look at the trajectory has 1 / (1 - epsilon / 2)."""
    n, D, snr = 1500, 16, 0.08
    generator = torch.Generator().manual_seed(0)
    x = math.sqrt(1.27) * torch.randn(n, D, dtype=F64, generator=generator)
    y = x.clone()
    for _ in range(250):
        z = torch.randn(n, D, dtype=F64, generator=generator)
        size = 2 * (snr * z.norm(dim=1, keepdim=True) / x.norm(dim=1, keepdim=True)) ** 2
        x = x - size * x + (2 * size).sqrt() * z
        y = y - 2 * snr**2 * y + 2 * snr * z
    assert float(x.square().mean()) == pytest.approx((1 + 2 / D) ** 2, rel=0.03)
    assert float(y.square().mean()) == pytest.approx(1 / (1 - snr**2), rel=0.03)


def test_a_mixture_has_its_law_with_correctors_and_another_without() -> None:
    means, spread = torch.tensor([[-1.5], [1.0]], dtype=F64), torch.tensor([[[0.25]], [[0.16]]], dtype=F64)
    mixture, n, t = GaussianMixture(means, spread, torch.tensor([0.3, 0.7])), 20_000, 0.2
    law, prior = mixture.at(VP, t), mixture.at(VP, 1.0).sample(n, seed=1)
    parts = list(
        zip(law.log_weights.exp().tolist(), law.means[:, 0].tolist(), law.variances[:, 0].tolist(), strict=True)
    )
    distance = {}
    for correctors in (0, 20):
        x = diffusion.sample(
            mixture.denoiser(VP),
            (n, 1),
            steps=20,
            corrector_steps=correctors,
            snr=0.2,
            t_min=t,
            prior=prior,
            seed=0,
            **PC,
        )
        cdf = lambda y: sum(w * stats.norm.cdf(y, m, math.sqrt(v)) for w, m, v in parts)
        distance[correctors] = stats.kstest(x[:, 0].numpy(), cdf).statistic
    assert distance[0] > 0.035
    assert distance[20] < 1.95 / math.sqrt(n)  # what one law in a thousand exceeds


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_sample_is_the_same_in_every_batch(eta: float) -> None:
    denoiser = random_mixture(0).denoiser(VP)
    options = {"steps": 5, "corrector_steps": 2, "eta": eta, "seed": 3, **PC}
    many = diffusion.sample(denoiser, (7, 2), **options)
    torch.testing.assert_close(diffusion.sample(denoiser, (3, 2), **options), many[:3], rtol=1e-10, atol=1e-10)
    last = diffusion.sample(denoiser, (1, 2), paths=[6], **options)
    torch.testing.assert_close(last, many[6:], rtol=1e-10, atol=1e-10)
    assert not torch.isclose(diffusion.sample(denoiser, (7, 2), **{**options, "seed": 4}), many).any()


def test_without_noise_and_correctors_it_is_a_discrete_probability_flow() -> None:
    """Of first order: for a Gaussian its error halves with the steps."""
    gaussian = random_gaussian(2)
    prior = gaussian.at(VP, 1.0).sample(50, seed=1)
    options = {"t_min": 0.1, "prior": prior, "seed": 0}
    exact = diffusion.sample(
        gaussian.denoiser(VP), (50, 2), sampler="probability_flow", rtol=1e-9, atol=1e-9, **options
    )
    error = []
    for steps in (200, 400):
        x = diffusion.sample(gaussian.denoiser(VP), (50, 2), steps=steps, eta=0.0, corrector_steps=0, **options, **PC)
        error.append(float((x - exact).abs().max()))
    assert 1.8 < error[0] / error[1] < 2.2


def test_a_trajectory_has_the_times_of_the_grid() -> None:
    way = diffusion.sample(learned(), (3, 2), steps=6, corrector_steps=2, trajectory=3, seed=0, **PC)
    torch.testing.assert_close(way.ts.double(), torch.linspace(1, 1e-3, 4, dtype=F64))
    assert torch.equal(way.ys[-1], diffusion.sample(learned(), (3, 2), steps=6, corrector_steps=2, seed=0, **PC))
    assert int(way.stats.drift_evaluations[0]) == 18


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"corrector_steps": -1}, "corrector_steps: got -1; accepted is an int >= 0"),
        ({"snr": 0.0}, "snr: got 0.0"),
        ({"method": "heun"}, "method: got 'heun'"),
        ({"rtol": 1e-3}, "rtol, atol: got"),
    ],
)
def test_mistakes_name_the_argument(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        diffusion.sample(learned(), (2, 2), seed=0, **PC, **options)  # type: ignore[call-overload]
