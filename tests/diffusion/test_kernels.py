"""Transitions and posteriors of every process: composition, Bayes' rule, marginals, ends, and no cancellation."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

import diffusion
from diffusion.kernels import denoised, posterior, transition
from tests.diffusion.known import Dense, random_gaussian

SHIFTED = diffusion.Affine(lambda t: -1.0 - t, lambda t: torch.cos(3 * t), lambda t: 0.5 + t, end=2.0)
PROCESSES = [
    diffusion.VP(),
    diffusion.SubVP(),
    diffusion.VE(),
    diffusion.RectifiedFlow(),
    diffusion.EDM(),
    diffusion.Cosine(),
    SHIFTED,
]
NAMES = [type(process).__name__ for process in PROCESSES]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=NAMES)


def spread(process: diffusion.Process) -> tuple[Tensor, Tensor]:
    """Pairs s < t over the whole span, both ends included."""
    grid = process.end * torch.tensor([0.0, 1e-4, 0.03, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    i, j = torch.triu_indices(len(grid), len(grid), 1)
    return grid[i], grid[j]


@every_process
def test_a_transition_after_a_marginal_is_a_marginal(process: diffusion.Process) -> None:
    s, t = spread(process)
    kernel = transition(process, s, t)
    assert torch.allclose(kernel.scale * process.alpha(s), process.alpha(t), rtol=1e-13, atol=0)
    total = kernel.scale**2 * process.variance(s) + kernel.std**2
    assert torch.allclose(total, process.variance(t), rtol=1e-12, atol=0)
    assert torch.allclose(kernel.scale * process.shift(s) + kernel.shift, process.shift(t), rtol=1e-12, atol=1e-15)


@every_process
def test_a_short_transition_is_a_step_of_the_forward_sde(process: diffusion.Process) -> None:
    h = 1e-6 * process.end
    s = process.end * torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)
    kernel, x = transition(process, s, s + h), torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    drift = (kernel.mean(x) - x) / h
    middle = s + 0.5 * h
    assert torch.allclose(drift, process.drift(middle, x), rtol=1e-4, atol=1e-6)
    assert torch.allclose(kernel.std**2 / h, process.diffusion_rate(middle) ** 2, rtol=1e-4, atol=0)


@every_process
def test_posteriors_are_bayes_rule(process: diffusion.Process) -> None:
    """(x_s, x_t) given x_0 is normal; condition it on x_t by the general formula."""
    s, t = spread(process)
    inside = s > 0
    s, t = s[inside], t[inside]
    kernel, x_t, x_0 = posterior(process, s, t), 0.7, -1.3
    a = (process.alpha(t) / process.alpha(s)).numpy()
    mean_s, mean_t = ((process.alpha(u) * x_0 + process.shift(u)).numpy() for u in (s, t))
    var_s, var_t = (process.variance(u).numpy() for u in (s, t))
    mean = mean_s + a * var_s / var_t * (x_t - mean_t)
    variance = var_s - (a * var_s) ** 2 / var_t  # this one cancels
    full = torch.full((len(s), 1), 1.0, dtype=torch.float64)
    assert np.allclose(kernel.mean(x_t * full, x_0 * full)[:, 0].numpy(), mean, rtol=1e-10, atol=1e-12)
    assert np.allclose((kernel.std**2).numpy(), variance, rtol=1e-9, atol=1e-14 * var_s.max())


@every_process
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_eta_keeps_the_marginals(process: diffusion.Process, eta: float) -> None:
    s, t = spread(process)
    kernel = posterior(process, s, t, eta)
    assert all(bool(part.isfinite().all()) for part in kernel)
    assert torch.allclose(kernel.scale * process.alpha(t) + kernel.data, process.alpha(s), rtol=1e-12, atol=0)
    total = kernel.scale**2 * process.variance(t) + kernel.std**2
    assert torch.allclose(total, process.variance(s), rtol=1e-12, atol=0)
    assert torch.allclose(kernel.scale * process.shift(t) + kernel.shift, process.shift(s), rtol=1e-12, atol=1e-15)
    if eta == 0:
        assert not kernel.std.any()


def test_the_noise_of_eta_is_ddims() -> None:
    """Song, Meng & Ermon (2021), (16), in their alpha, which is our alpha^2."""
    process, eta = diffusion.VP(), 0.6
    s, t = (x[2:] for x in spread(process))
    before, after = process.alpha(s) ** 2, process.alpha(t) ** 2
    inside = s > 1e-3
    std = eta * torch.sqrt((1 - before) / (1 - after)) * torch.sqrt(1 - after / before)
    kernel = posterior(process, s, t, eta)
    assert torch.allclose(kernel.std[inside], std[inside], rtol=1e-10, atol=0)
    direction = torch.sqrt(1 - before - std**2) / torch.sqrt(1 - after)  # (12)
    assert torch.allclose(kernel.scale[inside], direction[inside], rtol=1e-10, atol=1e-14)


@every_process
def test_steps_to_the_data_and_from_pure_noise_are_finite(process: diffusion.Process) -> None:
    x, x0 = torch.randn(4, 2).double(), torch.randn(4, 2).double()
    end = posterior(process, 0.0, process.end)
    assert torch.equal(end.mean(x, x0), x0)
    assert float(end.std) == 0
    whole = transition(process, 0.0, process.end)
    mean, std = process.marginal(process.end, x0)
    assert torch.allclose(whole.mean(x0), mean, rtol=1e-14, atol=1e-15)
    assert torch.allclose(whole.std, std, rtol=1e-14, atol=0)
    rest = transition(process, 0.0, 0.0)
    back = posterior(process, 0.0, 0.0)
    assert torch.equal(rest.mean(x0), x0) and float(rest.std) == 0
    assert torch.equal(back.mean(x, x0), x) and float(back.std) == 0


def test_where_nothing_is_left_of_the_data_the_posterior_is_a_marginal() -> None:
    s = torch.tensor([0.1, 0.5, 0.99], dtype=torch.float64)
    kernel = posterior(diffusion.RectifiedFlow(), s, torch.ones_like(s))
    assert torch.equal(kernel.data, 1 - s)
    assert torch.equal(kernel.std, s)
    assert not kernel.scale.any()


@pytest.mark.parametrize(("t", "h"), [(0.5, 1e-6), (0.01, 1e-7), (1.0, 1e-3)])
def test_short_steps_do_not_cancel(t: float, h: float) -> None:
    """Against 50 digits; the error of log_snr, a few units in 10, is what is left, over its difference."""
    s = t - h
    kernel, back = transition(diffusion.VP(), s, t), posterior(diffusion.VP(), s, t, 0.5)
    with mpmath.workdps(50):
        B = lambda u: mpmath.mpf(u) * (mpmath.mpf(0.1) + mpmath.mpf(u) * mpmath.mpf(20.0 - 0.1) / 2)
        step = -mpmath.expm1(B(s) - B(t))
        w2 = step * -mpmath.expm1(-B(s)) / -mpmath.expm1(-B(t))
        kept = mpmath.sqrt((-mpmath.expm1(-B(s)) - w2 / 4) / -mpmath.expm1(-B(t)))
        data = mpmath.exp(-B(s) / 2) - mpmath.exp(-B(t) / 2) * kept
        wanted = [float(x) for x in (mpmath.sqrt(step), mpmath.sqrt(w2) / 2, kept, data)]
        change = float(mpmath.log(step) - mpmath.log(-mpmath.expm1(-B(t))))
    allowed = 20 * 2.2e-16 * 10 / math.exp(change)
    for found, right in zip((kernel.std, back.std, back.scale, back.data), wanted, strict=True):
        assert abs(float(found) / right - 1) < allowed


def test_a_denoised_step_of_gaussian_data_has_the_exact_mean_and_no_more_than_the_exact_variance() -> None:
    """x_s | x_t of the data themselves: E[x_s | x_t] is linear regression, its covariance is at least the step's."""
    gaussian, process, s, t = random_gaussian(0), diffusion.VP(), 0.3, 0.5
    x = torch.randn(5, 2, dtype=torch.float64)
    mean, std = denoised(gaussian.denoiser(process), s, t, x)
    C_s, C_t = gaussian.at(process, s).covariances[0], gaussian.at(process, t).covariances[0]
    a = transition(process, s, t).scale
    gain = a * C_s @ torch.linalg.inv(C_t)
    exact = gaussian.at(process, s).means[0] + (x - gaussian.at(process, t).means[0]) @ gain.T
    assert torch.allclose(mean, exact, rtol=1e-12, atol=1e-12)
    missing = C_s - a * gain @ C_s - std**2 * torch.eye(2)
    assert bool((torch.linalg.eigvalsh(missing) > 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prediction", ["data", "velocity", "flow", "edm"])
def test_denoised_steps_start_where_alpha_is_zero(prediction: str, dtype: torch.dtype) -> None:
    process = diffusion.RectifiedFlow()
    denoiser = diffusion.Denoiser(Dense(2).to(dtype), process, prediction)
    x = torch.randn(3, 2, dtype=dtype)
    mean, std = denoised(denoiser, 0.75, 1.0, x)
    assert mean.dtype == std.dtype == dtype
    assert torch.allclose(mean, 0.25 * denoiser.data(1.0, x))
    assert torch.allclose(std, torch.full_like(std, 0.75))


def test_times_of_each_trajectory_are_its_own() -> None:
    denoiser, x = random_gaussian(1).denoiser(diffusion.VP()), torch.randn(3, 2, dtype=torch.float64)
    s, t = torch.tensor([0.0, 0.2, 0.4], dtype=torch.float64), torch.tensor([0.3, 0.5, 1.0], dtype=torch.float64)
    mean, std = denoised(denoiser, s, t, x, 0.5)
    for k in range(3):
        one, scale = denoised(denoiser, float(s[k]), float(t[k]), x[k : k + 1], 0.5)
        assert torch.allclose(mean[k], one[0], rtol=1e-13, atol=1e-13)
        assert torch.allclose(std[k], scale, rtol=1e-13, atol=0)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_an_eta_beyond_the_posterior_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=r"eta: got .*; accepted is a number from 0"):
        posterior(diffusion.VP(), 0.1, 0.2, eta)
