"""Fits against closed forms, fans against exact quantiles, a price against Black & Scholes."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

import sdesolve as ss
from tests.examples.test_examples import example

F64 = torch.float64


def test_finance(tmp_path):
    found = example("finance").main(["--paths", "2000", "--output", str(tmp_path)])
    for name in ("mu", "sigma"):
        assert found[f"stock: {name} by the solver"] == pytest.approx(found[f"stock: {name}"], rel=1e-6)
    for name in ("kappa", "level", "sigma"):
        assert found[f"Vasicek by the solver: {name}"] == pytest.approx(found[f"Vasicek: {name}"], rel=1e-4)
    for name in ("stock", "Vasicek", "square root"):
        assert found[f"{name}: fan against the exact quantiles, in standard errors"] < 4
    for name in ("price", "delta"):
        off = found[f"option: {name}"] - found[f"option: {name} by Black & Scholes"]
        assert abs(off) < 4 * found[f"option: {name}, standard error"]
    for method, order in (("euler_maruyama", 0.5), ("milstein", 1.0), ("sosri", 1.5)):
        assert found[f"strong order of {method}"] == pytest.approx(order, abs=0.1)
    assert found["stock: probability of such returns, were they normal"] < 1e-6
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "finance.png").stat().st_size > 10_000


def simulated(module, sde, gap, count, **how):
    times = gap * torch.arange(count + 1, dtype=F64)
    return module.fan(sde, 0.05, times, 1, 0, **how)[:, 0]


def test_the_fits_find_what_simulated_rates_were_made_with():
    """Within four standard errors, which the likelihood's curvature gives for the levels: sigma / (kappa sqrt(T)) and
    for sigma itself sigma / sqrt(2 n)."""
    module = example("finance")
    kappa, level, n = 0.8, 0.06, 1000
    years = n * module.QUARTER
    for sigma, sde, fitted in (
        (0.02, module.vasicek_sde, module.fit_vasicek),
        (0.08, module.square_root_sde, lambda seen, gap: module.fit_square_root((0.5, 0.05, 0.1), seen, gap)),
    ):
        size = sigma * (level**0.5 if sde is module.square_root_sde else 1.0)
        seen = simulated(module, sde(kappa, level, sigma), module.QUARTER, n, dt=1 / 32, method="euler_maruyama")
        found = fitted(seen, module.QUARTER)
        assert abs(found[1] - level) < 4 * size / (kappa * years**0.5)
        assert abs(found[0] - kappa) < 4 * math.sqrt(2 * kappa / years) * 1.3
        assert abs(found[2] - sigma) < 4 * sigma / math.sqrt(2 * n) * 1.3


def test_moments_of_a_transition_are_those_of_its_law():
    """Gaussian and chi-square laws have the mean and variance that the moments' ODE gives."""
    module, gap = example("finance"), 0.25
    p = torch.tensor([math.log(0.3), 0.06, math.log(0.07)], dtype=F64)
    for model, law in ((module.vasicek, module.normal), (module.square_root, module.chi_square)):
        moments = model(p)
        ode = ss.ODE(lambda t, y, moments=moments: torch.stack(moments(y[:, 0], y[:, 1]), 1))
        start = torch.tensor([[0.09, 0.0], [0.01, 0.0]], dtype=F64)
        found = ss.solve(ode, start, torch.tensor([0.0, gap]), rtol=1e-10, atol=1e-13).ys[-1]
        exact = law(0.3, 0.06, 0.07, start[:, 0].numpy(), gap)
        np.testing.assert_allclose(found[:, 0], exact.mean(), rtol=1e-8)
        np.testing.assert_allclose(found[:, 1], exact.var(), rtol=1e-7)


def test_a_wrong_fan_is_seen():
    """Quantiles of a volatility that is a tenth too large are more than four standard errors off."""
    module = example("finance")
    values = module.fan(module.stock_sde(0.05, 0.2), 1.0, torch.tensor([0.0, 1.0]), 20_000, 0, dt=1 / 12)
    exact = lambda sigma: np.exp(0.05 - 0.5 * sigma**2 + sigma * stats.norm.ppf(module.BAND))[None]
    assert module.off(values[1:], exact(0.2)) < 4 < module.off(values[1:], exact(0.22))
