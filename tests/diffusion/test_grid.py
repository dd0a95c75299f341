"""Time grids against their closed forms, for every process."""

import math

import numpy as np
import pytest
import torch

import diffusion
from diffusion.exact import Gaussian
from diffusion.grid import GRIDS, time_grid
from tests.diffusion.known import learned
from tests.diffusion.test_processes import every

F64 = torch.float64


@every
@pytest.mark.parametrize("grid", GRIDS)
def test_grids_fall_from_t_max_to_t_min(process, grid):
    low, high = 1e-3 * process.end, 0.9 * process.end
    times = time_grid(grid, 9, low, high, process)
    assert times.shape == (10,) and times.dtype == F64
    assert bool((times.diff() < 0).all())
    assert (float(times[0]), float(times[-1])) == pytest.approx((high, low), rel=1e-14)


@every
def test_log_snr_falls_in_equal_steps(process):
    found = process.log_snr(time_grid("log_snr", 20, 1e-3 * process.end, 0.9 * process.end, process))
    gaps = found.diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(20), rtol=1e-8, atol=1e-8)


@every
def test_the_noise_levels_of_karras_grow_by_equal_seventh_roots(process):
    low, high = 1e-3 * process.end, 0.9 * process.end
    times = time_grid("karras", 6, low, high, process)
    level = (process.sigma(times) / process.alpha(times)).numpy()
    i = np.arange(7)
    expected = (level[0] ** (1 / 7) + i / 6 * (level[-1] ** (1 / 7) - level[0] ** (1 / 7))) ** 7
    np.testing.assert_allclose(level, expected, rtol=1e-8)


def test_the_levels_of_edm_are_those_of_the_paper():
    """Karras et al., table 1: sigma from 80 to 0.002 in 18 levels; their second and last but one by hand."""
    times = time_grid("karras", 17, 0.002, 80.0, diffusion.EDM())
    between = lambda i: (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(times.numpy(), [between(i) for i in range(18)], rtol=1e-12)
    assert between(1) == pytest.approx(57.586, abs=1e-3)


def test_closed_forms_of_quadratic_and_geometric_grids():
    process = diffusion.VE()
    np.testing.assert_allclose(time_grid("quadratic", 4, 0.0, 1.0, process), [1, 9 / 16, 1 / 4, 1 / 16, 0], rtol=1e-15)
    times = time_grid("log_snr", 3, 1e-3, 8e-3, diffusion.EDM())  # sigma = t: a geometric sequence
    np.testing.assert_allclose(times, [8e-3, 4e-3, 2e-3, 1e-3], rtol=1e-12)


@every
def test_karras_levels_end_without_noise(process):
    """As in the paper, where sigma = 0 is the last level; log SNR has no such end."""
    last = 0.9 * process.end
    times = time_grid("karras", 6, 0.0, last, process)
    level = (process.sigma(times[:-1]) / process.alpha(times[:-1])).numpy()
    np.testing.assert_allclose(level, level[0] * (np.arange(6, 0, -1) / 6) ** 7, rtol=1e-8)
    assert times[-1] == 0 and times[0] == last
    with pytest.raises(ValueError, match=r"t_min: got 0.0; accepted is a time where log_snr"):
        time_grid("log_snr", 5, 0.0, last, process)


@pytest.mark.parametrize("sampler", ["euler_maruyama", "ancestral", "predictor_corrector", "probability_flow"])
def test_steps_of_edm_stand_by_default_where_karras_has_them(sampler):
    """Of its time, the noise from 80 to 0, equal steps would be longer than all there is to see of the data."""
    law = diffusion.exact.Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 0.5]]))
    x = diffusion.sample(law.denoiser(diffusion.EDM()), (4000, 2), sampler=sampler, steps=100, seed=0)
    torch.testing.assert_close(torch.cov(x.T), law.covariances[0].float(), rtol=0.12, atol=0.05)
    again = diffusion.sample(law.denoiser(diffusion.EDM()), (9, 2), sampler=sampler, steps=100, seed=0, grid="karras")
    assert torch.equal(again, x[:9])


def test_outputs_of_adaptive_steps_stand_on_the_grid():
    denoiser, options = learned(), {"sampler": "probability_flow", "seed": 0}
    way = diffusion.sample(denoiser, (3, 2), grid="log_snr", trajectory=8, **options)
    torch.testing.assert_close(way.ts.double(), time_grid("log_snr", 8, 1e-3, 1.0, diffusion.VP()))
    torch.testing.assert_close(way.ys[-1], diffusion.sample(denoiser, (3, 2), **options), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("grid", ["log_snr", "karras"])
def test_ends_without_a_finite_signal_to_noise_ratio_are_named(grid):
    with pytest.raises(ValueError, match=r"t_max: got 1.0; .*rates_end"):
        time_grid(grid, 5, 1e-3, 1.0, diffusion.RectifiedFlow())


@pytest.mark.parametrize("sampler", ["euler_maruyama", "probability_flow", "predictor_corrector"])
def test_samplers_follow_a_grid_and_thin_its_outputs(sampler):
    denoiser, process = learned(), diffusion.VP()
    for grid in ("log_snr", "karras", "quadratic"):
        times = time_grid(grid, 6, 1e-3, 1.0, process)
        options = {"sampler": sampler, "seed": 0}
        by_name = diffusion.sample(denoiser, (3, 2), grid=grid, steps=6, trajectory=3, **options)
        by_times = diffusion.sample(denoiser, (3, 2), grid=times, trajectory=6, **options)
        torch.testing.assert_close(by_name.ts.double(), times[::2])
        assert torch.equal(by_name.ys, by_times.ys[::2])
        assert torch.equal(by_name.ys[-1], diffusion.sample(denoiser, (3, 2), grid=grid, steps=6, **options))


def test_levels_of_karras_serve_narrow_data_better_than_equal_times():
    """24 steps of Heun's method along the flow of N(0, 1e-4), which is linear: x sigma_1 / sigma_0."""
    gaussian, process = Gaussian(torch.zeros(1, dtype=F64), torch.tensor([[1e-4]], dtype=F64)), diffusion.VP()
    end, start = (float(gaussian.at(process, t).variances) for t in (1e-3, 1.0))
    prior = torch.ones(1, 1, dtype=F64)
    error = {}
    for grid in ("uniform", "karras"):
        options = {"sampler": "probability_flow", "steps": 24, "grid": grid, "prior": prior}
        x = diffusion.sample(gaussian.denoiser(process), (1, 1), **options)
        error[grid] = abs(float(x) / math.sqrt(end / start) - 1)
    assert 10 * error["karras"] < error["uniform"]
