"""Exact scores, the reverse family and what a network learns of them, shortened."""

import json

import pytest
import torch

import diffusion
from tests.examples.test_examples import example


def test_every_eta_ends_in_the_mixture_and_the_network_learns_more_than_a_covariance(tmp_path):
    arguments = ["--process", "flow", "--samples", "500", "--steps", "400", "--output", str(tmp_path)]
    found = example("mixture").main(arguments)
    for eta in ("0", "0.5", "1", "1.5"):
        assert found[f"eta = {eta}: Kolmogorov distance of x_1, times sqrt(n)"] < 1.95
        off = found[f"eta = {eta}: mean log-density of the samples"] - found["mean log-density of draws"]
        assert abs(off) < 4 * found["its standard error for as many samples"]
    bounds = [v for name, v in found.items() if "Kullback-Leibler" in name]
    assert bounds[0] < 0.7 * bounds[1]
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "mixture.png").stat().st_size > 10_000


def test_the_bound_is_the_divergence_of_two_gaussians():
    """Of the exact scores of N(0, 1) and N(0, v): KL(p_0 || q_0) - KL(p_T || q_T), as the time derivative of the
    divergence is -g^2/2 E |difference of scores|^2."""
    module, process = example("mixture"), diffusion.VP()
    p, q = (diffusion.exact.Gaussian(torch.zeros(2).double(), v * torch.eye(2).double()) for v in (1.0, 3.0))
    log_snr = torch.linspace(-4, 9, 53, dtype=torch.float64)
    (found,) = module.errors(p.denoiser(process), [q.denoiser(process)], log_snr, 20_000, 0)
    bound = 0.5 * torch.trapezoid(found, log_snr)

    def divergence(log_snr):
        ratio = (3 * log_snr.sigmoid() + (-log_snr).sigmoid()) ** -1
        return (ratio - 1 - ratio.log()).item()

    wanted = divergence(log_snr[-1]) - divergence(log_snr[0])
    assert float(bound) == pytest.approx(wanted, rel=0.04)


def test_kolmogorovs_distance_tells_the_marginal_from_one_that_is_moved():
    module = example("mixture")
    law = module.mixture()
    x = law.sample(2000, seed=0)[:, 0]
    assert module.distance(law, x) < 1.95 < module.distance(law, x + 0.1)


@pytest.mark.parametrize("name", ["subvp", "ve", "cosine"])
def test_the_other_processes_go_the_same_way(name):
    module = example("mixture")
    exact = module.mixture().denoiser(module.PROCESSES[name])
    for x in module.samples(exact, 200, 0).values():
        assert module.distance(exact.mixture, x[:, 0]) < 1.95
