"""The Ito and the Stratonovich integral, and the way from one to the other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss

F64 = torch.float64
seeds = st.integers(0, 2**64 - 1)
unit = torch.tensor([0.0, 1.0], dtype=F64)


def w_dw(calculus):
    """dW = dW, dX = W dW."""
    g = lambda t, y: torch.stack([torch.ones_like(y[:, 0]), y[:, 0]], -1)
    return ss.SDE(lambda t, y: 0 * y, g, noise="scalar", calculus=calculus)


@settings(max_examples=10)
@given(seed=seeds, steps=st.integers(1, 100))
def test_the_sums_of_w_dw_telescope(seed, steps):
    """sum W_n dW_n = (W^2 - sum dW_n^2) / 2 and sum (W_n + W_n+1) / 2 dW_n = W^2 / 2: algebra, on every path."""
    path = ss.BrownianPath(seed, (6, 1), cell=1 / steps, dtype=F64)
    dw, y0 = path.increments(0, steps)[..., 0], torch.zeros(6, 2, dtype=F64)
    w = dw.sum(0)
    ito = ss.solve(w_dw("ito"), y0, unit, dt=1 / steps, brownian=path, method="euler_maruyama").ys[-1]
    assert torch.allclose(ito, torch.stack([w, (w * w - (dw * dw).sum(0)) / 2], -1), atol=1e-12)
    stratonovich = ss.solve(w_dw("stratonovich"), y0, unit, dt=1 / steps, brownian=path, method="heun").ys[-1]
    assert torch.allclose(stratonovich, torch.stack([w, w * w / 2], -1), atol=1e-12)


def test_the_ito_integral_of_w_dw_tends_to_half_of_w_squared_minus_t():
    """For the sums of Euler-Maruyama the difference has mean 0 and variance T dt / 2."""
    n = 20_000
    y0 = torch.zeros(n, 2, dtype=F64)
    for steps in (16, 128):
        y = ss.solve(w_dw("ito"), y0, unit, dt=1 / steps, seed=2, method="euler_maruyama").ys[-1]
        gap = y[:, 1] - (y[:, 0] ** 2 - 1) / 2
        deviation = math.sqrt(1 / steps / 2)
        assert abs(float(gap.mean())) < 5 * deviation / math.sqrt(n)
        assert abs(float(gap.std()) / deviation - 1) < 5 / math.sqrt(n)


NOISES = {
    "diagonal": lambda t, y: 0.4 * torch.sin(y) + 0.3 * (1 + t),
    "scalar": lambda t, y: 0.3 * torch.stack([torch.cos(y[..., 1]), y[..., 0]], -1) * (1 + t),
    "general": lambda t, y: 0.3 * torch.stack([torch.cos(y), y.flip(-1), 1 + 0 * y], -1),
}


@pytest.mark.parametrize("noise", NOISES)
@settings(max_examples=10)
@given(t=st.floats(-1, 1), entries=st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_the_correction_is_half_of_the_columns_derivatives_along_themselves(noise, t, entries):
    """c_i = 1/2 sum_jk g_jk d g_ik / d y_j, with the Jacobian from autograd; there and back is nothing."""
    g, f = NOISES[noise], lambda t, y: torch.sin(y) + t
    y, t = torch.tensor(entries, dtype=F64).reshape(3, 2), torch.tensor(t, dtype=F64)
    sde = ss.SDE(f, g, noise=noise)
    wanted = []
    for one in y:
        matrix = lambda x: (
            g(t, x)[:, None] if noise == "scalar" else g(t, x) if noise == "general" else torch.diag(g(t, x))
        )
        jacobian = torch.autograd.functional.jacobian(matrix, one)
        wanted.append(0.5 * torch.einsum("jk,ikj->i", matrix(one), jacobian))
    correction = torch.stack(wanted)
    stratonovich = sde.to_calculus("stratonovich")
    assert torch.allclose(stratonovich.drift(t, y), f(t, y) - correction, atol=1e-12)
    assert torch.allclose(stratonovich.to_calculus("ito").drift(t, y), f(t, y), atol=1e-12)
    assert stratonovich.calculus == "stratonovich" and sde.to_calculus("ito") is sde


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("source", ["ito", "stratonovich"])
@pytest.mark.parametrize("vectorize", [False, True])
def test_euler_maruyama_and_heun_meet_on_the_path_as_dt_falls(noise, source, vectorize):
    """Both at strong order 1/2 at least: their distance falls by 4 when dt does by 16, but not uncorrected."""
    n = 400
    sde = ss.SDE(lambda t, y: torch.cos(y), NOISES[noise], noise=noise, calculus=source, vectorize=vectorize)
    y0 = torch.linspace(-1, 1, 2 * n, dtype=F64).reshape(n, 2)
    m = {"diagonal": (2,), "scalar": (1,), "general": (3,)}[noise]
    path = ss.BrownianPath(4, (n, *m), cell=2.0**-8, dtype=F64)

    def gap(dt, convert=True):
        ito, strato = (sde.to_calculus("ito"), sde.to_calculus("stratonovich")) if convert else (
            ss.SDE(sde.drift, sde.diffusion, noise=noise, vectorize=vectorize),
            ss.SDE(sde.drift, sde.diffusion, noise=noise, vectorize=vectorize, calculus="stratonovich"),
        )  # fmt: skip
        a = ss.solve(ito, y0, unit, dt=dt, brownian=path, method="euler_maruyama").ys[-1]
        b = ss.solve(strato, y0, unit, dt=dt, brownian=path, method="heun").ys[-1]
        return float((a - b).square().mean().sqrt())

    coarse, fine = gap(2.0**-4), gap(2.0**-8)
    assert 3 < coarse / fine < 5.5, (coarse, fine)
    assert gap(2.0**-8, convert=False) > 3 * fine


@settings(max_examples=10)
@given(a=st.floats(-1, 1), b=st.floats(0.1, 1))
def test_geometric_brownian_motion_in_stratonovich_form_loses_half_of_b_squared(a, b):
    sde = ss.SDE(lambda t, y: a * y, lambda t, y: b * y).to_calculus("stratonovich")
    y = torch.tensor([[1.5]], dtype=F64)
    assert torch.allclose(sde.drift(torch.tensor(0.0), y), (a - b * b / 2) * y, atol=1e-14)
    path = ss.BrownianPath(0, (50, 1), cell=2.0**-7, dtype=F64)
    sol = ss.solve(sde, y.expand(50, 1), unit, dt=2.0**-7, brownian=path, method="heun").ys[-1]
    exact = 1.5 * torch.exp(a - b * b / 2 + b * path(0.0, 1.0))
    # heun: an error of order dt times a random number of deviation below |z|^3 / 6 summed over steps
    assert (sol / exact - 1).abs().max() < 6 * (abs(a) + b) ** 3 * 2.0**-7


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_for_additive_noise_both_calculi_are_the_same(noise):
    g = {
        "diagonal": lambda t, y: torch.cos(t).expand(2),
        "scalar": lambda t, y: torch.stack([torch.cos(t), t]),
        "general": lambda t, y: torch.stack([torch.cos(t), t, t, t * t]).reshape(2, 2),
    }[noise]
    sde = ss.SDE(lambda t, y: -y, g, noise=noise, additive=True)
    y0 = torch.ones(20, 2, dtype=F64)
    other = sde.to_calculus("stratonovich")
    assert other.drift is sde.drift and other.calculus == "stratonovich" and other.additive
    solve = lambda problem, method: ss.solve(problem, y0, unit, dt=1 / 16, seed=0, method=method).ys
    for method in ("euler_maruyama", "heun"):
        assert torch.equal(solve(sde, method), solve(other, method))


@settings(max_examples=6)
@given(seed=seeds, method=st.sampled_from(["euler_maruyama", "heun"]))
def test_noise_types_agree_where_they_overlap(seed, method):
    """General with a diagonal matrix is diagonal; general with one column is scalar; one component is all three."""
    calculus = "ito" if method == "euler_maruyama" else "stratonovich"
    g = lambda t, y: 0.5 * torch.cos(y) + t
    y0 = torch.linspace(-1, 1, 12, dtype=F64).reshape(4, 3)

    def solve(diffusion, noise, start=y0):
        sde = ss.SDE(lambda t, y: torch.sin(y), diffusion, noise=noise, calculus=calculus)
        return ss.solve(sde, start, unit, dt=1 / 8, seed=seed, method=method).ys

    close = lambda a, b: torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    assert close(solve(g, "diagonal"), solve(lambda t, y: torch.diag_embed(g(t, y)), "general"))
    assert close(solve(g, "scalar"), solve(lambda t, y: g(t, y)[..., None], "general"))
    assert close(solve(g, "scalar", y0[:, :1]), solve(g, "diagonal", y0[:, :1]))
