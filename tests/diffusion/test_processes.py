"""Every process against its own equation: moments by an independent integrator, rates by the definitions, inverses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import diffusion
import sdesolve as ss
from diffusion.process import Process
from diffusion.processes.quadrature import Nodes, integral
from tests.diffusion.known import random_mixture

F64 = torch.float64


class Trigonometric(Process):
    """What a user writes who knows no more than alpha and sigma."""

    def alpha(self, t):
        return torch.cos(1.5 * t)

    def sigma(self, t):
        return torch.sin(1.5 * t)


def affine(**known) -> diffusion.Affine:
    return diffusion.Affine(
        lambda t: torch.sin(3 * t) - 2, lambda t: torch.cos(5 * t), lambda t: 1 + 0.5 * torch.sin(t), end=2.0, **known
    )


PROCESSES = {
    "VP": diffusion.VP(),
    "SubVP": diffusion.SubVP(),
    "VE": diffusion.VE(),
    "cosine": diffusion.Cosine(),
    "rectified flow": diffusion.RectifiedFlow(),
    "EDM": diffusion.EDM(),
    "VP, any beta": diffusion.VariancePreserving(lambda t: 0.5 + 10 * torch.exp(t) * t**2),
    "affine": affine(),
    "alpha and sigma alone": Trigonometric(),
}
SHARES = (1e-3, 0.05, 0.4, 0.9)

every = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def at(t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=F64)


@every
@pytest.mark.parametrize("share", SHARES)
def test_marginals_solve_the_moment_equations(process, share):
    """m' = a m + b and v' = 2 a v + g^2 for m(0) = 0 and 1, v(0) = 0, to 1e-9."""

    def rates(t, y):
        a, b, g = (float(f(at(t))) for f in (process.drift_rate, process.drift_shift, process.diffusion_rate))
        return [a * y[0] + b, a * y[1] + b, 2 * a * y[2] + g * g]

    t = share * process.end
    found = solve_ivp(rates, (0, t), [0.0, 1.0, 0.0], method="DOP853", rtol=1e-12, atol=1e-15).y[:, -1]
    assert float(process.shift(at(t))) == pytest.approx(found[0], rel=1e-9, abs=1e-12)
    assert float(process.alpha(at(t))) == pytest.approx(found[1] - found[0], rel=1e-9)
    assert float(process.sigma(at(t))) ** 2 == pytest.approx(found[2], rel=1e-9)
    assert float(process.variance(at(t))) == pytest.approx(found[2], rel=1e-9)


@every
@pytest.mark.parametrize("share", SHARES)
def test_what_is_given_in_closed_form_is_what_follows_from_alpha_and_sigma(process, share):
    t = at(share * process.end)
    for name in ("log_snr", "drift_rate", "drift_shift", "diffusion_rate"):
        own, derived = getattr(process, name)(t), getattr(Process, name)(process, t)
        assert float(own) == pytest.approx(float(derived), rel=1e-10, abs=1e-12), name


@every
@given(share=st.floats(1e-6, 0.999))
def test_time_of_log_snr_is_the_inverse_of_log_snr(process, share):
    t = at(share * process.end)
    found = process.time_of_log_snr(process.log_snr(t))
    assert float(found) == pytest.approx(float(t), rel=1e-12)


@every
def test_the_inverse_is_differentiable_and_general(process):
    t = torch.tensor([0.01, 0.3, 0.8], dtype=F64) * process.end
    value = process.log_snr(t).detach()
    for inverse in (process.time_of_log_snr, lambda x: Process.time_of_log_snr(process, x)):
        wanted = value.clone().requires_grad_()
        found = inverse(wanted)
        torch.testing.assert_close(found, t, rtol=1e-12, atol=0)
        (slope,) = torch.autograd.grad(found.sum(), wanted)
        time = t.clone().requires_grad_()
        (rate,) = torch.autograd.grad(process.log_snr(time).sum(), time)
        torch.testing.assert_close(slope * rate, torch.ones_like(rate), rtol=1e-9, atol=0)


@every
def test_all_of_a_process_is_finite_between_its_ends_in_float32(process):
    t = torch.logspace(-6, 0, 50) * 0.999 * process.end
    for name in ("alpha", "sigma", "shift", "log_snr", "drift_rate", "drift_shift", "diffusion_rate"):
        single, double = getattr(process, name)(t), getattr(process, name)(t.double())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=1e-6, msg=name)


@every
def test_times_of_any_shape_are_taken_elementwise(process):
    t = (torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64) * 0.9 + 0.05) * process.end
    for name in ("alpha", "sigma", "shift", "log_snr", "drift_rate", "drift_shift", "diffusion_rate"):
        both = getattr(process, name)(t)
        assert both.shape == t.shape
        assert torch.allclose(both[1, 2], getattr(process, name)(t[1, 2]), rtol=1e-14, atol=0)


@every
def test_a_simulation_has_the_marginal(process):
    n, end = 4000, 0.5 * process.end
    x0 = torch.full((n, 1), 1.5, dtype=F64)
    x = ss.solve(process.forward_sde(), x0, torch.tensor([0.0, end]), method="sra1", dt=end / 200, seed=1).ys[-1]
    mean, std = process.marginal(end, x0)
    assert abs(float(x.mean() - mean[0])) < 4 * float(std) / n**0.5 + 1e-3 * float(std)
    assert float(x.std() / std) == pytest.approx(1.0, abs=4 / (2 * n) ** 0.5 + 2e-3)


def test_known_functions_stand_for_quadrature():
    ou = {"alpha": lambda t: torch.exp(-t), "sigma": lambda t: torch.sqrt(-torch.expm1(-2 * t))}
    rates = (lambda t: -1.0, lambda t: 3.0, lambda t: math.sqrt(2.0))
    known = diffusion.Affine(*rates, shift=lambda t: -3 * torch.expm1(-t), end=2.0, **ou)
    found = diffusion.Affine(*rates, end=2.0)
    t = torch.linspace(0.01, 2, 7, dtype=F64)
    for name in ("alpha", "sigma", "shift"):
        torch.testing.assert_close(getattr(found, name)(t), getattr(known, name)(t), rtol=1e-13, atol=0)
    assert known.prior.mean == pytest.approx(-3 * math.expm1(-2.0))


def test_quadrature_is_exact_for_polynomials_and_up_to_every_node():
    t = torch.tensor([0.3, 2.0], dtype=F64)
    torch.testing.assert_close(integral(lambda s: 7 * s**6, t), t**7, rtol=1e-13, atol=0)
    nodes = Nodes(t)
    torch.testing.assert_close(nodes.up_to(torch.cos(nodes.times)), torch.sin(nodes.times), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: diffusion.VE(sigma_min=2.0, sigma_max=1.0), r"sigma_max: got 1.0; accepted is above sigma_min = 2.0"),
        (lambda: diffusion.VE(sigma_min=0.0), "sigma_min: got 0.0"),
        (lambda: diffusion.SubVP(beta_min=-1.0), "beta_min: got -1.0"),
        (lambda: diffusion.Cosine(end=1.0), "end: got 1.0; accepted is a time between 0 and 1"),
        (lambda: diffusion.EDM(end=math.inf), "end: got inf"),
    ],
)
def test_values_out_of_range_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: diffusion.Affine(1.0, None, torch.ones_like), "a: got float; accepted is a function of t"),
        (lambda: diffusion.VariancePreserving(3.0), "beta: got float"),
    ],
)
def test_what_is_no_function_is_named(make, text):
    with pytest.raises(TypeError, match=text):
        make()


@every
def test_exact_scores_are_gradients_of_the_density_and_predictions_one_identity(process):
    mixture = random_mixture(0)
    denoiser = mixture.denoiser(process)
    t, x = 0.3 * process.end, 2 * torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    (score,) = torch.autograd.grad(denoiser.log_prob(t, x).sum(), x)
    x = x.detach()
    torch.testing.assert_close(denoiser.score(t, x), score, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mixture.at(process, t).log_prob(x), denoiser.log_prob(t, x), rtol=1e-12, atol=0)
    data, noise = denoiser.data(t, x), denoiser.noise(t, x)
    torch.testing.assert_close(process.perturb(t, data, noise), x, rtol=1e-12, atol=1e-12)
    outputs = {"data": data, "noise": noise}
    outputs |= {name: getattr(denoiser, name)(t, x) for name in ("velocity", "score", "flow")}
    for name, out in outputs.items():
        again = diffusion.Denoiser(lambda t, x, out=out: out, process, name)
        for other, wanted in outputs.items():
            torch.testing.assert_close(getattr(again, other)(t, x), wanted, rtol=1e-12, atol=1e-11)


def test_solves_end_where_the_process_does():
    process, mixture = diffusion.EDM(), random_mixture(3)
    denoiser, x = mixture.denoiser(process), mixture.sample(4, seed=2)
    with torch.no_grad():
        given, default = (diffusion.log_likelihood(denoiser, x, **how).log_prob for how in ({"t_max": 80.0}, {}))
    assert torch.equal(given, default)
    noise, samples = diffusion.sample(
        denoiser, (500, 2), sampler="probability_flow", seed=1, trajectory=1, dtype=F64
    ).ys
    assert float(noise.std()) == pytest.approx(80.0, rel=0.1)
    wanted = mixture.sample(4000, seed=5)
    torch.testing.assert_close(samples.mean(0), wanted.mean(0), rtol=0, atol=0.3)
