"""VP against quadrature of its rate, the moments of a Gaussian through its own equation, and simulation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

import diffusion
import sdesolve as ss

TIMES = st.floats(1e-8, 1.0)
RATES = st.tuples(st.floats(0.01, 5.0), st.floats(0.0, 30.0)).map(lambda r: (r[0], r[0] + r[1]))


def at(t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


@given(TIMES, RATES)
def test_alpha_and_sigma_come_from_the_integral_of_beta(t: float, rates: tuple[float, float]) -> None:
    process = diffusion.VP(*rates)
    integral, _ = quad(lambda s: float(process.diffusion_rate(at(s))) ** 2, 0, t, epsabs=0, epsrel=1e-12)
    assert float(process.alpha(at(t))) == pytest.approx(math.exp(-integral / 2), rel=1e-10)
    assert float(process.sigma(at(t))) == pytest.approx(math.sqrt(-math.expm1(-integral)), rel=1e-10)


@given(TIMES, RATES)
def test_time_of_log_snr_is_the_inverse_of_log_snr(t: float, rates: tuple[float, float]) -> None:
    process = diffusion.VP(*rates)
    log_snr = process.log_snr(at(t))
    expected = 2 * math.log(float(process.alpha(at(t)) / process.sigma(at(t))))
    assert float(log_snr) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert float(process.time_of_log_snr(log_snr)) == pytest.approx(t, rel=1e-9)


def test_sigma_keeps_all_digits_in_float32_near_time_zero() -> None:
    process, t = diffusion.VP(), torch.tensor([1e-7, 1e-5, 1e-3])
    exact = process.sigma(t.double())
    assert torch.allclose(process.sigma(t).double(), exact, rtol=1e-6, atol=0)


@given(TIMES)
def test_rates_are_the_derivatives_of_alpha_and_sigma(t: float) -> None:
    process, time = diffusion.VP(), at(t).requires_grad_()
    (log_alpha,) = torch.autograd.grad(process.alpha(time).log(), time)
    (variance,) = torch.autograd.grad(process.sigma(time) ** 2, time)
    time = time.detach()
    f, g = process.drift_rate(time), process.diffusion_rate(time)
    assert float(f) == pytest.approx(float(log_alpha), rel=1e-9)
    assert float(g**2) == pytest.approx(float(variance - 2 * f * process.sigma(time) ** 2), rel=1e-9)


@pytest.mark.parametrize("t", [0.05, 0.4, 1.0])
def test_marginals_solve_the_moment_equations(t: float) -> None:
    """m' = f m and v' = 2 f v + g^2 for m(0) = 1, v(0) = 0: independent of the closed forms."""
    process = diffusion.VP()
    f = lambda s: float(process.drift_rate(at(s)))
    g = lambda s: float(process.diffusion_rate(at(s)))
    moments = solve_ivp(
        lambda s, y: [f(s) * y[0], 2 * f(s) * y[1] + g(s) ** 2], (0, t), [1.0, 0.0], rtol=1e-11, atol=1e-13
    ).y[:, -1]
    mean, std = process.marginal(t, torch.ones(1, 1, dtype=torch.float64))
    assert float(mean) == pytest.approx(moments[0], rel=1e-8)
    assert float(std) ** 2 == pytest.approx(moments[1], rel=1e-8)


def test_forward_sde_reaches_the_closed_form_marginal() -> None:
    process, n, t = diffusion.VP(), 20_000, 0.5
    x0 = torch.tensor([[2.0, -1.0]], dtype=torch.float64).expand(n, 2)
    x = ss.solve(process.forward_sde(), x0, torch.tensor([0.0, t]), dt=t / 100, seed=3).ys[-1]
    mean, std = process.marginal(t, x0)
    # Euler's bias at this step size is below 1 percent; the noise of 20,000 draws is 0.7 percent
    assert torch.allclose(x.mean(0), mean[0], atol=0.03)
    assert torch.allclose(x.std(0), std.expand(2), rtol=0.03)


@pytest.mark.parametrize("shape", [(), (3,), (1,), (3, 1, 1), (1, 1, 1)])
def test_all_shapes_of_a_common_time_give_the_same_perturbation(shape: tuple[int, ...]) -> None:
    process, x, noise = diffusion.VP(), torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    expected = process.perturb(0.3, x, noise)
    assert torch.equal(process.perturb(torch.full(shape, 0.3), x, noise), expected)


def test_own_times_act_on_their_own_rows() -> None:
    process, x = diffusion.VP(), torch.ones(3, 2)
    t = torch.tensor([0.1, 0.5, 0.9])
    for shape in ((3,), (3, 1)):
        assert torch.allclose(process.drift(t.reshape(shape), x)[:, 0], process.drift_rate(t))


@pytest.mark.parametrize("shape", [(2,), (3, 4), (1, 3), (3, 1, 1)])
def test_a_time_of_another_shape_is_an_error_that_names_t(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"t: got shape .*accepted is a 0-d t"):
        diffusion.VP().drift(torch.zeros(shape), torch.zeros(3, 4))


@given(TIMES)
def test_conditional_score_is_the_gradient_of_the_log_kernel(t: float) -> None:
    process, x0 = diffusion.VP(), torch.tensor([[0.3, -2.0]], dtype=torch.float64)
    mean, std = process.marginal(t, x0)
    x = (mean + std * torch.tensor([[0.5, -1.5]])).requires_grad_()
    log_kernel = torch.distributions.Normal(mean, std).log_prob(x).sum()
    (gradient,) = torch.autograd.grad(log_kernel, x)
    assert torch.allclose(process.conditional_score(t, x, x0), gradient, rtol=1e-9)


def test_prior_is_standard_normal_and_its_draws_do_not_depend_on_the_batch() -> None:
    prior = diffusion.VP().prior
    x = prior.sample((5, 2, 3), seed=4, dtype=torch.float64)
    alone = prior.sample((1, 2, 3), seed=4, paths=[3], dtype=torch.float64)
    assert torch.equal(x[3:4], alone)
    scale = diffusion.VP().sigma(at(1.0))
    expected = torch.distributions.Normal(0.0, scale).log_prob(x).sum((1, 2))
    assert torch.allclose(prior.log_prob(x), expected, rtol=1e-12)


@pytest.mark.parametrize("rates", [(0.0, 20.0), (-1.0, 20.0), (0.1, math.inf), (2.0, 1.0)])
def test_rates_out_of_range_are_named(rates: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"beta_m(in|ax): got"):
        diffusion.VP(*rates)


@pytest.mark.parametrize("question", ["log_snr", "drift_rate", "time_of_log_snr"])
def test_a_schedule_of_python_numbers_is_named(question: str) -> None:
    class Constant(diffusion.Process):
        def alpha(self, t: torch.Tensor) -> torch.Tensor:
            return 1.0  # type: ignore[return-value]

        def sigma(self, t: torch.Tensor) -> torch.Tensor:
            return t

    with pytest.raises(TypeError, match=r"Constant\.alpha: got a result of type float.*torch\.full_like"):
        getattr(Constant(), question)(torch.tensor(0.5))
