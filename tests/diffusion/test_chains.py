"""DDPM and NCSN chains: marginals, posteriors as in the papers, ancestral sampling, their processes, mistakes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusion
import sdesolve as ss
from diffusion.chains import Chain
from diffusion.chains.monotone import Monotone
from tests.diffusion.known import Dense, random_gaussian, random_mixture
from validation.check import Settings
from validation.sections import diffusion_chains

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
HO = diffusion.DDPMChain(BETAS)
DDPM = diffusion.DDPMChain(torch.linspace(1e-3, 0.2, 100))
NCSN = diffusion.NCSNChain.geometric(0.01, 50.0, 100)
CHAINS = [DDPM, NCSN, diffusion.DDPMChain.of(diffusion.VP(), 50), diffusion.NCSNChain.of(diffusion.EDM(), 20)]
every_chain = pytest.mark.parametrize("chain", CHAINS, ids=["ddpm", "geometric", "vp", "edm"])


def normals(seed: int, shape: tuple[int, ...], steps: int) -> Tensor:
    """Of the steps of a solve over [0, 1], ``(steps, *shape)``: W(i/N) - W((i-1)/N) over the root of 1/N."""
    path = ss.BrownianPath(seed, shape, cell=1 / steps, dtype=torch.float64)
    return path.increments(0, steps) * math.sqrt(steps)


@every_chain
def test_marginals_are_what_the_steps_add_up_to(chain: Chain) -> None:
    alpha, variance = [1.0], [0.0]
    kernel = chain.transition(torch.arange(1, chain.steps + 1))
    for c, std in zip(kernel.scale.tolist(), kernel.std.tolist(), strict=True):
        alpha.append(c * alpha[-1])
        variance.append(c**2 * variance[-1] + std**2)
    every = chain.marginal(torch.arange(chain.steps + 1))
    assert np.allclose(every.scale.numpy(), alpha, rtol=1e-11, atol=0)
    assert np.allclose((every.std**2).numpy(), variance, rtol=1e-11, atol=0)


def test_the_products_of_ho_are_those_of_the_paper() -> None:
    """alpha_bar as a product of 1 - beta_i; KL(q(x_T | x_0) || N(0, I)) is about 1e-5 bits a dimension (section 4)."""
    alpha_bar = np.cumprod(1 - BETAS.numpy())
    assert np.allclose(HO.alphas[1:].numpy() ** 2, alpha_bar, rtol=1e-12)
    a, v = float(HO.alphas[-1]) ** 2, float(HO.variances[-1])
    bits = 0.5 * (v + a * 0.25 - 1 - math.log(v)) / math.log(2)  # data of mean square 1/4
    assert 0.5e-5 < bits < 2e-5


@every_chain
@pytest.mark.parametrize("step", [1, 2, 7, -1])
def test_posteriors_are_bayes_rule(chain: Chain, step: int) -> None:
    i = step if step > 0 else chain.steps
    kernel, forward = chain.posterior(i), chain.transition(i)
    before = chain.marginal(i - 1)
    if i == 1:
        assert float(kernel.scale) == float(kernel.std) == 0
        assert float(kernel.data) == pytest.approx(1, rel=1e-14)
        return
    precision = 1 / before.std**2 + forward.scale**2 / forward.std**2
    assert float(kernel.std**2) == pytest.approx(float(1 / precision), rel=1e-11)
    assert float(kernel.scale) == pytest.approx(float(forward.scale / forward.std**2 / precision), rel=1e-11)
    assert float(kernel.data) == pytest.approx(float(before.scale / before.std**2 / precision), rel=1e-11)


def test_ddpm_posteriors_are_those_of_ho() -> None:
    """Ho et al. (2020), (7)."""
    beta, alpha_bar = BETAS.numpy(), np.concatenate([[1.0], np.cumprod(1 - BETAS.numpy())])
    before, after = alpha_bar[:-1], alpha_bar[1:]
    kernel = HO.posterior(torch.arange(1, 1001))
    assert np.allclose(kernel.data.numpy(), np.sqrt(before) * beta / (1 - after), rtol=1e-9)
    assert np.allclose(kernel.scale.numpy(), np.sqrt(1 - beta) * (1 - before) / (1 - after), rtol=1e-9)
    assert np.allclose(kernel.std.numpy() ** 2, (1 - before) / (1 - after) * beta, rtol=1e-9)


@every_chain
@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_a_reverse_step_is_the_posterior_with_the_denoisers_data(chain: Chain, variance: str) -> None:
    denoiser, x = random_mixture(0).denoiser(chain.process), torch.randn(5, 2, dtype=torch.float64)
    for i in (1, 2, chain.steps // 2, chain.steps):
        mean, std = chain.reverse(denoiser, i, x, variance)
        by_function, _ = chain.reverse(denoiser.score, i, x)
        wanted = chain.posterior(i).mean(x, denoiser.data(i / chain.steps, x))
        assert torch.allclose(mean, wanted, rtol=1e-8, atol=1e-9)
        assert torch.equal(by_function, mean)
        right = chain.posterior(i).std if variance == "posterior" or i == 1 else chain.transition(i).std
        assert float(std) == float(right)


def test_ancestral_sampling_of_ddpm_is_algorithm_2_of_ho() -> None:
    n, seed = 3, 5
    chain = diffusion.DDPMChain.of(diffusion.VP(), 40)
    net = Dense(2)
    start = torch.randn(n, 2, dtype=torch.float64)
    beta = (0.1 + 19.9 * np.arange(1, 41) / 40) / 40
    alpha_bar = np.cumprod(1 - beta)
    z = -normals(seed, (n, 2), 40)  # steps go down
    for variance in ("posterior", "forward"):
        x = start.clone()
        for i in range(40, 0, -1):
            b, a = beta[i - 1], alpha_bar[i - 1]
            epsilon = net(torch.full((n,), i - 1.0, dtype=torch.float64), x)
            x = (x - b / math.sqrt(1 - a) * epsilon) / math.sqrt(1 - b)
            if i > 1:
                wide = b if variance == "forward" else (1 - alpha_bar[i - 2]) / (1 - a) * b
                x = x + math.sqrt(wide) * z[i - 1]
        with torch.no_grad():
            found = chain.sample(chain.denoiser(net), start, variance=variance, seed=seed).ys[-1]
        assert torch.allclose(found, x, rtol=1e-9, atol=1e-9)


def test_ancestral_sampling_of_ncsn_is_that_of_song() -> None:
    """Song et al. (2021), (47): x + (sigma_i^2 - sigma_(i-1)^2) score, sigma_(i-1)^2 (sigma_i^2 - ...) / sigma_i^2."""
    gaussian, n, seed, steps = random_gaussian(0), 4, 3, NCSN.steps
    sigma = np.concatenate([[0.0], 0.01 * 5000.0 ** (np.arange(steps) / (steps - 1))])
    x = start = 50 * torch.randn(n, 2, dtype=torch.float64)
    z, C, m = -normals(seed, (n, 2), steps), gaussian.covariances[0], gaussian.means[0]
    for i in range(steps, 0, -1):
        score = -torch.linalg.solve(C + sigma[i] ** 2 * torch.eye(2), (x - m).T).T
        rise = sigma[i] ** 2 - sigma[i - 1] ** 2
        x = x + rise * score + math.sqrt(sigma[i - 1] ** 2 * rise) / sigma[i] * z[i - 1]
    found = NCSN.sample(gaussian.denoiser(NCSN.process), start, seed=seed, trajectory=10)
    assert found.ys.shape == (11, n, 2)
    assert torch.equal(found.ys[0], start)
    assert torch.allclose(found.ys[-1], x, rtol=1e-8, atol=1e-8)


@every_chain
def test_forward_simulation_is_the_recursion(chain: Chain) -> None:
    n, seed, steps = 3, 7, chain.steps
    x = x0 = torch.randn(n, 2, dtype=torch.float64)
    xi = normals(seed, (n, 2), steps)
    kernel = chain.transition(torch.arange(1, steps + 1))
    for k in range(steps):
        x = kernel.scale[k] * x + kernel.std[k] * xi[k]
    found = chain.simulate(x0, seed=seed, trajectory=steps // 5)
    assert torch.allclose(found.ys[-1], x, rtol=1e-7, atol=1e-7)
    assert len(found.ts) == steps // 5 + 1
    alone = chain.simulate(x0[1:2], seed=seed, paths=[1]).ys[-1]
    assert torch.equal(alone, chain.simulate(x0, seed=seed).ys[-1][1:2])


def test_simulated_noise_has_the_marginal_law() -> None:
    x0 = torch.tensor([[2.0, -1.0]], dtype=torch.float64).expand(20_000, 2)
    chain = diffusion.DDPMChain.of(diffusion.VP(), 50)
    x = chain.simulate(x0, seed=0, trajectory=2).ys[1]
    kernel = chain.marginal(25)
    assert ((x.mean(0) - kernel.scale * x0[0]).abs() < 5 * kernel.std / math.sqrt(len(x))).all()
    assert ((x.std(0) / kernel.std - 1).abs() < 5 / math.sqrt(2 * len(x))).all()
    assert abs(float(torch.corrcoef(x.T)[0, 1])) < 5 / math.sqrt(len(x))


@every_chain
def test_a_chains_process_has_its_marginals_and_a_positive_rate(chain: Chain) -> None:
    t = torch.arange(chain.steps + 1, dtype=torch.float64) / chain.steps
    process = chain.process
    assert torch.allclose(process.alpha(t), chain.alphas, rtol=1e-12, atol=0)
    assert torch.allclose(process.variance(t), chain.variances, rtol=1e-12, atol=0)
    between = torch.linspace(1e-6, 1, 3001, dtype=torch.float64)
    assert (process.diffusion_rate(between) > 0).all()
    assert (process.log_snr(between).diff() < 0).all()
    h = 1e-7
    inside = between[1:-1]
    slope = (process.variance(inside + h) - process.variance(inside - h)) / (2 * h)
    assert torch.allclose(slope, process.variance_rate(inside), rtol=1e-5, atol=1e-5)


def test_a_chain_that_matches_vp_has_vp_for_its_process() -> None:
    """Between the times of the chain, too: B is quadratic, and the spline exact for such."""
    t, right = torch.linspace(1e-9, 1, 777, dtype=torch.float64), diffusion.VP()
    process = diffusion.DDPMChain.matching(right, 50).process
    assert torch.allclose(process.log_snr(t), right.log_snr(t), rtol=1e-11, atol=1e-11)
    assert torch.allclose(process.diffusion_rate(t), right.diffusion_rate(t), rtol=1e-9, atol=0)


def test_a_chain_that_matches_a_cosine_has_a_process_near_it() -> None:
    t, right, errors = torch.linspace(0, 1, 777, dtype=torch.float64), diffusion.Cosine(), []
    for steps in (50, 100, 200):
        chain = diffusion.DDPMChain.matching(right, steps)
        grid = right.end * torch.arange(steps + 1, dtype=torch.float64) / steps
        assert torch.allclose(chain.alphas, right.alpha(grid), rtol=1e-11, atol=0)
        errors.append(float((chain.process.variance(t) - right.variance(right.end * t)).abs().max()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("first", [0, 1])
def test_a_network_of_the_chain_sees_its_indices(first: int, dtype: torch.dtype) -> None:
    seen: list[Tensor] = []

    def net(index: Tensor, x: Tensor) -> Tensor:
        assert index.shape == x.shape[:1] and index.dtype == dtype
        seen.append(index)
        return 0.1 * x

    denoiser, t = HO.denoiser(net, first=first), torch.arange(1, 1001, dtype=dtype) / 1000
    denoiser.noise(t, torch.zeros(1000, 3, dtype=dtype))
    assert seen.pop().tolist() == [float(first + k) for k in range(1000)]
    denoiser.noise(torch.tensor([0.5, 1.5], dtype=dtype) / 1000, torch.zeros(2, 3, dtype=dtype))
    assert seen.pop().tolist() == pytest.approx([first, first + 0.5], abs=1e-4)
    DDPM.sample(DDPM.denoiser(net, first=first), torch.randn(2, 3, dtype=dtype), seed=0)
    assert [float(index[0]) for index in seen] == [float(first + k) for k in range(99, -1, -1)]


@pytest.mark.parametrize(
    "chain",
    [diffusion.DDPMChain.matching(diffusion.VP(), 50), diffusion.NCSNChain.of(diffusion.EDM(5.0), 50)],
    ids=["ddpm", "ncsn"],
)
def test_a_chains_denoiser_serves_every_sampler(chain: Chain) -> None:
    """A network that knows the chain's exact noise by its index: the probability flow brings Gaussians home."""
    gaussian, steps = random_gaussian(1), chain.steps
    exact = gaussian.denoiser(chain.process)
    denoiser = chain.denoiser(lambda index, x: exact.noise(((index + 1) / steps).clamp(min=0.2 / steps), x))
    start = gaussian.at(chain.process, 1.0)
    x1, t_min = start.sample(6, seed=0), 1 / steps
    x = diffusion.sample(
        denoiser, (6, 2), sampler="probability_flow", prior=x1, t_min=t_min, rtol=1e-6, atol=1e-6, dtype=torch.float64
    )
    end = gaussian.at(chain.process, t_min)
    ratio, basis = (end.variances[0] / start.variances[0]).sqrt(), end.basis[0]
    wanted = end.means[0] + (x1 - start.means[0]) @ basis @ torch.diag(ratio) @ basis.T
    assert torch.allclose(x, wanted, rtol=1e-4, atol=1e-4)
    for options in ({"sampler": "euler_maruyama", "steps": 10}, {"sampler": "ancestral", "steps": 10, "t_min": 0.0}):
        y = diffusion.sample(denoiser, (3, 2), seed=0, dtype=torch.float64, **options)  # type: ignore[call-overload]
        assert y.isfinite().all()


def test_the_ancestral_sampler_on_a_chains_times_is_the_chain() -> None:
    gaussian = random_gaussian(2)
    denoiser = gaussian.denoiser(NCSN.process)
    by_chain = NCSN.sample(denoiser, (3, 2), seed=0)
    start = by_chain.ys[0].double()
    x = diffusion.sample(denoiser, (3, 2), sampler="ancestral", steps=100, t_min=0.0, seed=0, prior=start)
    assert torch.allclose(x, NCSN.sample(denoiser, start, seed=0).ys[-1], rtol=1e-12, atol=1e-12)
    assert torch.equal(by_chain.ys[0], NCSN.process.prior.sample((3, 2), seed=0))


def test_samples_of_a_chain_do_not_depend_on_their_batch() -> None:
    denoiser = diffusion.Denoiser(lambda t, x: torch.tanh(x), NCSN.process, "data")
    many, few = (NCSN.sample(denoiser, (n, 3), seed=1).ys[-1] for n in (7, 3))
    assert torch.equal(many[:3], few)
    assert torch.equal(many[5:6], NCSN.sample(denoiser, (1, 3), seed=1, paths=[5]).ys[-1])
    assert not torch.isclose(many, NCSN.sample(denoiser, (7, 3), seed=2).ys[-1]).all()


@pytest.mark.parametrize(
    "case", [case for case in diffusion_chains.cases(Settings(quick=True)) if "sam" not in case.name]
)
def test_chains_go_to_their_sdes_at_first_order(case) -> None:
    checks = list(case.run())
    assert checks and all(check.passed for check in checks), [check.what for check in checks if not check.passed]


def test_a_chain_with_a_wrong_variance_fails_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Chain.posterior
    wrong = lambda chain, i: (kernel := right(chain, i))._replace(std=0.95 * kernel.std)
    monkeypatch.setattr(Chain, "posterior", wrong)
    checks = list(diffusion_chains.backward(Settings(quick=True)))
    assert not any(check.passed for check in checks if "backwards" in check.name and "forward" not in check.name)


def test_the_spline_rises_through_its_values_and_is_exact_for_lines() -> None:
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    line = Monotone(torch.linspace(0, 3, 7))
    assert torch.allclose(line(t), 3 * t, rtol=1e-14, atol=1e-15)
    assert torch.allclose(line.rate(t), torch.full_like(t, 3.0), rtol=1e-13, atol=0)
    values = torch.rand(11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).pow(6).cumsum(0)
    spline = Monotone(values)
    assert torch.allclose(spline(torch.linspace(0, 1, 11, dtype=torch.float64)), values, rtol=1e-12)
    assert (spline.rate(t) >= 0).all() and (spline(t).diff() > 0).all()
    slope = (spline(t[1:-1] + 1e-6) - spline(t[1:-1] - 1e-6)) / 2e-6
    assert torch.allclose(slope, spline.rate(t[1:-1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: diffusion.DDPMChain(torch.tensor([0.1, 1.0])), r"betas: got from 0.1\d* to 1.0; accepted is between"),
        (lambda: diffusion.DDPMChain(torch.tensor(0.1)), r"betas: got shape \(\); accepted is \(N,\)"),
        (lambda: diffusion.DDPMChain.of(diffusion.VE(), 10), "process: got VE.*variance-preserving"),
        (lambda: diffusion.DDPMChain.of(diffusion.VP(), 10), "steps: got 10, which makes beta_i = 2.*above 20"),
        (lambda: diffusion.DDPMChain.of(diffusion.VP(), 1), "steps: got 1; accepted is at least 2"),
        (lambda: diffusion.NCSNChain.of(diffusion.VP(), 10), "process: got VP.*alpha = 1"),
        (lambda: diffusion.NCSNChain(torch.tensor([1.0, 1.0])), "sigmas: got values that do not rise"),
        (lambda: diffusion.NCSNChain.geometric(1.0, 0.5, 10), "sigma_min, sigma_max: got 1.0 and 0.5"),
        (lambda: NCSN.posterior(0), "i: got 0; accepted is integers from 1 to 100"),
        (lambda: NCSN.marginal(torch.tensor([0, 101])), "i: got .*from 0 to 100"),
        (lambda: NCSN.denoiser(lambda i, x: x, "edm"), "prediction: got 'edm'"),
        (lambda: NCSN.simulate(torch.zeros(1, 1), trajectory=3), "trajectory: got 3; accepted is a divisor"),
        (lambda: NCSN.reverse(lambda t, x: x, 1, torch.zeros(1, 1), "small"), "variance: got 'small'"),
        (lambda: NCSN.sample(random_gaussian(0).denoiser(diffusion.VE()), (1, 2)), "score: got a denoiser of VE"),
    ],
)
def test_mistakes_name_the_argument(make, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
