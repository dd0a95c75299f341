"""What stopping at t_min changes: exactly for exact denoisers, to first order for all others."""

import math

import pytest
import torch

import diffusion
from diffusion.trace import trace_estimator
from diffusion.truncation import first_order_truncation
from tests.diffusion.known import random_mixture
from tests.diffusion.test_processes import PROCESSES

F64 = torch.float64


@pytest.mark.parametrize("name", PROCESSES)
def test_the_first_order_has_an_error_of_second_order(name: str) -> None:
    process, mixture = PROCESSES[name], random_mixture(1)
    exact, x = mixture.denoiser(process), mixture.sample(20, seed=0)
    trace = trace_estimator("exact", 1, "rademacher", x, seed=0)
    times = [float(process.time_of_log_snr(torch.tensor(log_snr, dtype=F64))) for log_snr in (9.0, 11.0)]
    errors, scales, sizes = [], [], []
    for t in times:
        truth = exact.log_prob(t, x) - exact.log_prob(0.0, x)
        errors.append((first_order_truncation(exact, x, t, trace) - truth).abs().mean())
        time = torch.tensor(t, dtype=F64)
        scales.append(float((1 - process.alpha(time)).abs() + process.shift(time).abs() + process.variance(time)))
        sizes.append(truth.abs().mean())
    order = math.log(errors[0] / errors[1]) / math.log(scales[0] / scales[1])
    assert order == pytest.approx(2.0, abs=0.15)
    assert errors[1] < 0.05 * sizes[1]


def test_log_prob_less_truncation_is_that_of_the_data() -> None:
    process, mixture = diffusion.VP(), random_mixture(1)
    exact, x = mixture.denoiser(process), mixture.sample(10, seed=0)
    network = diffusion.Denoiser(lambda t, x: exact.score(t, x), process, "score")
    options = {"t_min": 1e-3, "prior": mixture.at(process, 1.0)}
    with torch.no_grad():
        known = diffusion.log_likelihood(exact, x, **options)
        first = diffusion.log_likelihood(network, x, **options)
        probed = diffusion.log_likelihood(network, x, trace="hutch++", probes=6, **options)
    wanted = mixture.log_prob(x)
    torch.testing.assert_close(known.log_prob - known.truncation, wanted, rtol=0, atol=1e-6)
    assert float((first.log_prob - wanted).abs().max()) > 1e-3
    torch.testing.assert_close(first.log_prob - first.truncation, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(probed.truncation, first.truncation)  # a sketch as wide as the state: exact


def test_data_without_a_density_have_no_truncation() -> None:
    covariance = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=F64)
    denoiser = diffusion.exact.Gaussian(torch.zeros(2, dtype=F64), covariance).denoiser(diffusion.EDM())
    found = diffusion.log_likelihood(denoiser, torch.ones(2, 2, dtype=F64), t_min=0.1, rtol=1e-5)
    assert found.truncation is None
    assert found.log_prob.isfinite().all()
