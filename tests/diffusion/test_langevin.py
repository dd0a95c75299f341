"""Langevin dynamics against exact stationary laws, with the bias that unadjusted steps are known to have."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import diffusion
import sdesolve as ss
from diffusion.exact import Gaussian, GaussianMixture
from tests.diffusion.known import learned, random_gaussian, random_mixture

F64 = torch.float64
N = 10_000
FIVE = 5 * math.sqrt(2 / N)
"""Five standard errors of a variance, in parts of it."""
VE = diffusion.VE(sigma_max=20.0)


def anywhere(dims: int = 1, n: int = N) -> Tensor:
    return torch.zeros(n, dims, dtype=F64)


def narrow(x: Tensor) -> Tensor:
    """The score of N(0, 1/4)."""
    return -4 * x


@pytest.mark.parametrize("step", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_unadjusted_steps_have_the_variance_that_is_known(step: float, temperature: float) -> None:
    """T s^2 / (1 - h / (2 s^2)) for N(0, s^2): 1.11, 1.67 and 5 times too large here."""
    x = diffusion.langevin(narrow, anywhere(), step=step, steps=int(6 / step), temperature=temperature, seed=0)
    assert float(x.var()) == pytest.approx(0.25 * temperature / (1 - step / 0.5), rel=FIVE)


def test_unadjusted_steps_keep_mean_and_covariance_along_each_axis_of_a_gaussian() -> None:
    gaussian, step = random_gaussian(1, dims=3), 0.03
    x = diffusion.langevin(gaussian.denoiser(VE), anywhere(3), t=0.0, step=step, steps=600, seed=3)
    variances = gaussian.variances[0] / (1 - step / (2 * gaussian.variances[0]))
    z = (x - gaussian.means[0]) @ gaussian.basis[0] / variances.sqrt()
    assert float(z.mean(0).abs().max()) < 5 / math.sqrt(N)
    assert float((torch.cov(z.T) - torch.eye(3)).abs().max()) < FIVE


def test_steps_are_those_of_the_formula() -> None:
    mixture = random_mixture(2)
    denoiser, x = mixture.denoiser(VE), mixture.sample(4, seed=0)
    path, expected = ss.BrownianPath(5, (4, 2), cell=0.1, dtype=F64), x
    for k in range(3):
        expected = expected + 0.1 * denoiser.score(0.3, expected) + math.sqrt(2 * 0.7 * 0.1) * path.normals([k])[0]
    found = diffusion.langevin(denoiser, x, t=0.3, step=0.1, steps=3, temperature=0.7, seed=5)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_at_temperature_zero_it_climbs_the_density() -> None:
    x = diffusion.langevin(narrow, 3 + anywhere(n=2), step=0.1, steps=10, temperature=0.0, seed=0)
    torch.testing.assert_close(x, torch.full_like(x, 3 * 0.6**10), rtol=1e-12, atol=0.0)


def test_a_better_method_has_less_bias() -> None:
    """ShARK at a step with which Euler-Maruyama's variance is 1.67 times too large."""
    x = diffusion.langevin(narrow, anywhere(), step=0.2, steps=30, method="shark", seed=0)
    assert abs(float(x.var()) / 0.25 - 1) < 0.25


@pytest.mark.parametrize("step", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_adjusted_steps_have_the_exact_variance_at_any_length(step: float, temperature: float) -> None:
    """At h = 0.6 unadjusted steps are unstable."""
    log_prob = lambda x: -2 * x.square().sum(1)
    x = diffusion.langevin(narrow, anywhere(), step=step, steps=200, temperature=temperature, log_prob=log_prob, seed=0)
    assert float(x.var()) == pytest.approx(0.25 * temperature, rel=FIVE)
    assert stats.kstest(x[:, 0] / math.sqrt(0.25 * temperature), "norm").statistic < 1.95 / math.sqrt(N)


def test_adjusted_steps_have_the_law_of_a_mixture() -> None:
    """Which they keep, along three directions; with the score given, or found from the density."""
    mixture = random_mixture(3)
    exact = mixture.denoiser(VE)
    x0 = exact.mixture.sample(N, seed=1)
    x = diffusion.langevin(None, x0, step=0.1, steps=60, log_prob=lambda x: exact.log_prob(0.0, x), seed=0)
    by_score = diffusion.langevin(
        exact, x0, t=0.0, step=0.1, steps=60, log_prob=lambda x: -exact.energy(0.0, x), seed=0
    )
    torch.testing.assert_close(x, by_score, rtol=1e-6, atol=1e-6)
    fresh = mixture.sample(N, seed=2)
    for direction in torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=F64):
        assert stats.ks_2samp(x @ direction, fresh @ direction).statistic < 1.95 * math.sqrt(2 / N)
    assert not torch.equal(x, x0)


def test_adjusted_steps_accept_as_often_as_the_formula_says() -> None:
    """E min(1, a) by quadrature for N(0, 1) and h = 1.5: of proposals from the stationary law."""
    h = 1.5
    nodes = torch.linspace(-8, 8, 1601, dtype=F64)
    x, z = torch.meshgrid(nodes, nodes, indexing="ij")
    y = x - h * x + math.sqrt(2 * h) * z
    log_a = (x**2 - y**2) / 2 - ((x - y + h * y) ** 2 - (y - x + h * x) ** 2) / (4 * h)
    weight = torch.exp(-(x**2 + z**2) / 2)
    expected = float((weight * log_a.clamp(max=0).exp()).sum() / weight.sum())
    start = torch.randn(N, 1, dtype=F64)
    way = diffusion.langevin(
        lambda x: -x, start, step=h, steps=4, log_prob=lambda x: -0.5 * x.square().sum(1), trajectory=4, seed=1
    )
    accepted = (way[1:] != way[:-1]).double().mean()
    assert float(accepted) == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(N))


@pytest.mark.parametrize("step", [0.2, 0.9])
@pytest.mark.parametrize("mass", [1.0, 2.5])
def test_baoab_has_the_exact_law_of_x_for_a_gaussian_at_any_stable_step(step: float, mass: float) -> None:
    """Stable below 2 s sqrt(m) = 1."""
    x, v = diffusion.underdamped_langevin(
        narrow, anywhere(), step=step, steps=int(60 / step), mass=mass, friction=2.0, temperature=0.7, seed=0
    )
    assert float(x.var()) == pytest.approx(0.7 * 0.25, rel=FIVE)
    # and of v that of a step of Verlet's: T / m times 1 - h^2 / (4 s^2 m)
    assert float(v.var()) == pytest.approx(0.7 / mass * (1 - step**2 / mass), rel=FIVE)


@pytest.mark.parametrize("method", ["obabo", "quicsort"])
def test_other_splittings_have_the_law_of_short_steps(method: str) -> None:
    mass = torch.tensor([1.0, 4.0], dtype=F64)
    x, v = diffusion.underdamped_langevin(
        narrow, anywhere(2), step=0.08, steps=150, mass=mass, friction=3.0, method=method, seed=0
    )
    torch.testing.assert_close(x.var(0), torch.full((2,), 0.25, dtype=F64), rtol=FIVE + 0.005, atol=0.0)
    torch.testing.assert_close(v.var(0), 1 / mass, rtol=FIVE + 0.01, atol=0.0)


def test_mass_scales_the_equation() -> None:
    """x for force F, mass m and friction gamma is that of sdesolve's equation of unit mass for F / m and T / m."""
    x0, v0 = torch.randn(3, 2, dtype=F64), torch.randn(3, 2, dtype=F64)
    options = {"step": 0.1, "steps": 20, "friction": 0.5, "seed": 1}
    found = diffusion.underdamped_langevin(narrow, x0, v0=v0, mass=2.0, **options)
    unit = diffusion.underdamped_langevin(lambda x: narrow(x) / 2, x0, v0=v0, temperature=0.5, **options)
    for a, b in zip(found, unit, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


FAR = GaussianMixture(
    torch.tensor([[-5.0, -5.0], [5.0, 5.0]], dtype=F64),
    torch.eye(2, dtype=F64).expand(2, 2, 2),
    torch.tensor([0.2, 0.8]),
)
"""The example of Song & Ermon (2019), section 3.2.2."""


def test_annealed_langevin_finds_the_weights_that_plain_langevin_does_not() -> None:
    n, t = 4000, 0.5
    denoiser, law = FAR.denoiser(VE), FAR.at(VE, t)
    x0 = diffusion.NormalPrior(4.0).sample((n, 2), seed=7, dtype=F64)
    below = lambda x: float((x.sum(1) < 0).double().mean())
    plain = diffusion.langevin(denoiser, x0, t=0.0, step=0.1, steps=400, seed=0)
    assert below(plain) == pytest.approx(below(x0), abs=0.02)  # where it began, it stays: about one half
    assert below(plain) > 0.45
    x = diffusion.annealed_langevin(denoiser, (n, 2), levels=10, steps_per_level=100, t_min=t, seed=0)
    assert below(x) == pytest.approx(0.2, abs=5 * math.sqrt(0.16 / n))
    upper = x[x.sum(1) > 0]
    torch.testing.assert_close(upper.mean(0), law.means[1], rtol=0.0, atol=5 * 1.2 / math.sqrt(len(upper)))


def test_levels_are_by_default_as_many_as_the_noise_asks_for() -> None:
    """VE's noise falls from 20 to 0.0012 by factors of at most 1.3: 38 levels, so 76 steps of two a level."""
    process, x = diffusion.VE(0.01, 20.0), torch.randn(3, 2)
    denoiser = random_mixture(0).denoiser(process)
    ratio = float(torch.exp(0.5 * (process.log_snr(torch.tensor(1e-3)) - process.log_snr(torch.tensor(1.0)))))
    levels = 1 + math.ceil(math.log(ratio) / math.log(1.3))
    options = {"steps_per_level": 2, "prior": x, "seed": 0}
    found = diffusion.annealed_langevin(denoiser, (3, 2), **options)  # type: ignore[call-overload]
    assert torch.equal(found, diffusion.annealed_langevin(denoiser, (3, 2), levels=levels, **options))
    assert len(diffusion.annealed_langevin(denoiser, (3, 2), trajectory=2 * levels, **options)) == 2 * levels + 1
    with pytest.raises(ValueError, match=r"levels: got None between t_min=0.0"):
        diffusion.annealed_langevin(denoiser, (3, 2), t_min=0.0, grid="uniform")


def test_steps_that_explode_name_the_step() -> None:
    samplers = (diffusion.langevin, diffusion.underdamped_langevin)
    for sampler in samplers:
        with pytest.raises(ss.SolveError) as caught:
            sampler(lambda x: -(x**3) - 9 * x, torch.ones(4, 1), step=2.0, steps=200, seed=0)  # type: ignore[operator]
        assert "shorten step" in caught.value.__notes__[0]


def test_levels_of_annealed_langevin_are_those_of_the_algorithm() -> None:
    """Song & Ermon, algorithm 1: alpha_i = epsilon sigma_i^2 / sigma_L^2, x + alpha_i / 2 s + sqrt(alpha_i) z."""
    denoiser, times = random_mixture(1).denoiser(VE), torch.tensor([0.9, 0.5, 0.2], dtype=F64)
    sigma = VE.sigma(times)
    path, x, k = ss.BrownianPath(4, (3, 2), cell=1.0, dtype=F64), torch.randn(3, 2, dtype=F64), 0
    expected, epsilon = x, 0.3 * sigma[-1] ** 2
    for t, s in zip(times, sigma, strict=True):
        alpha = epsilon * s**2 / sigma[-1] ** 2
        for _ in range(2):
            z, k = path.normals([k])[0], k + 1
            expected = expected + alpha / 2 * denoiser.score(t, expected) + alpha.sqrt() * z
    found = diffusion.annealed_langevin(denoiser, (3, 2), grid=times, steps_per_level=2, step=0.15, prior=x, seed=4)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_at_the_last_level_the_variance_is_the_marginals_with_the_bias_of_the_step() -> None:
    process, step = diffusion.VP(), 0.2
    gaussian = Gaussian(torch.zeros(1, dtype=F64), torch.tensor([[0.25]], dtype=F64))
    times = torch.tensor([1.0, 0.5], dtype=F64)
    x = diffusion.annealed_langevin(
        gaussian.denoiser(process), (N, 1), grid=times, steps_per_level=60, step=step, seed=2
    )
    v, h = float(gaussian.at(process, 0.5).variances), step * float(process.variance(times[1]))
    assert float(x.var()) == pytest.approx(v / (1 - h / (2 * v)), rel=FIVE)


def energy(x: Tensor) -> Tensor:
    return -2 * x.square().sum(1)


DYNAMICS = {
    "plain": lambda x, **o: diffusion.langevin(narrow, x, step=0.1, steps=6, **o),
    "adjusted": lambda x, **o: diffusion.langevin(narrow, x, step=0.4, steps=6, log_prob=energy, **o),
    "underdamped": lambda x, **o: torch.cat(diffusion.underdamped_langevin(narrow, x, step=0.1, steps=6, **o), -1),
    "annealed": lambda x, **o: diffusion.annealed_langevin(
        learned(), x.shape, levels=3, steps_per_level=2, t_min=0.1, **o
    ),
}
every = pytest.mark.parametrize("run", DYNAMICS.values(), ids=DYNAMICS)


@every
def test_a_trajectory_is_the_same_in_every_batch(run) -> None:
    x = torch.randn(7, 2, dtype=F64)
    many = run(x, seed=3)
    torch.testing.assert_close(run(x[:3], seed=3), many[:3], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run(x[6:], seed=3, paths=[6]), many[6:], rtol=1e-10, atol=1e-10)
    assert torch.equal(run(x, seed=3), many)
    assert not torch.equal(run(x, seed=4), many)


@every
def test_a_trajectory_ends_at_the_sample(run) -> None:
    x = torch.randn(3, 2, dtype=F64)
    way = run(x, seed=3, trajectory=3)
    assert way.shape[:2] == (4, 3)
    torch.testing.assert_close(way[-1], run(x, seed=3), rtol=1e-12, atol=1e-12)


@every
def test_without_a_seed_torchs_global_generator_decides(run) -> None:
    x, found = torch.ones(2, 2, dtype=F64), []
    for s in (1, 1, 2):
        torch.manual_seed(s)
        found.append(run(x))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.compile
@pytest.mark.traced
def test_compiled_adjusted_steps_are_the_eager_ones() -> None:
    """With the score found from the density inside the loop."""
    x, how = torch.randn(3, 2, dtype=F64), {"step": 0.4, "steps": 6, "log_prob": energy, "seed": 0}
    eager, compiled = (diffusion.langevin(None, x, compile=c, **how) for c in (False, True))
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: diffusion.langevin(narrow, x, step=0.0, steps=1), "step: got 0.0"),
        (
            lambda x: diffusion.langevin(narrow, x, step=0.1, steps=0),
            "steps: got 0; accepted is an integer, at least 1",
        ),
        (lambda x: diffusion.langevin(narrow, x, step=0.1, steps=5, trajectory=2), "trajectory: got 2"),
        (lambda x: diffusion.langevin(learned(), x, step=0.1, steps=5), "t: got None with a denoiser"),
        (lambda x: diffusion.langevin(narrow, x, t=0.1, step=0.1, steps=5), "t: got 0.1; accepted is None"),
        (lambda x: diffusion.langevin(narrow, x, step=0.1, steps=5, temperature=-1.0), "temperature: got -1.0"),
        (
            lambda x: diffusion.langevin(narrow, x, step=0.1, steps=5, temperature=0.0, log_prob=energy),
            "temperature: got 0.0; accepted is a positive",
        ),
        (lambda x: diffusion.langevin(narrow, x, step=0.1, steps=5, log_prob=energy, method="sra1"), "method: got"),
        (lambda x: diffusion.langevin(narrow, x, step=0.1, steps=5, log_prob=narrow), "log_prob: got a function"),
        (lambda x: diffusion.underdamped_langevin(narrow, x, step=0.1, steps=5, mass=0.0), "mass: got 0.0"),
        (lambda x: diffusion.underdamped_langevin(narrow, x, step=0.1, steps=5, friction=0.0), "gamma: got 0"),
        (
            lambda x: diffusion.annealed_langevin(learned(), x.shape, levels=1),
            "levels: got 1; accepted is an integer, at least 2",
        ),
    ],
)
def test_mistakes_name_the_argument(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(torch.zeros(2, 2, dtype=F64))


def test_neither_score_nor_density_is_refused() -> None:
    with pytest.raises(TypeError, match=r"score: got NoneType.*or None with log_prob"):
        diffusion.langevin(None, torch.zeros(2, 2), step=0.1, steps=1)
