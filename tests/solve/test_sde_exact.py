"""SDEs against their closed forms along the same Brownian path, and strong orders by regression over coupled paths."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss

F64 = torch.float64
CELL = 2.0**-10
seeds = st.integers(0, 2**64 - 1)
unit = torch.tensor([0.0, 1.0], dtype=F64)


def rms(x):
    return float(x.square().mean().sqrt())


def slope_and_error(steps, errors, paths):
    """Slope of log rms error on log dt, and its standard error for independent rms errors (coupled ones vary less).

    An rms over n independent numbers has a relative standard error of about 1 / sqrt(2 n) for normal numbers; 3 times
    that is allowed for the heavier tails here.
    """
    x, y = torch.tensor(steps).log(), torch.tensor(errors).log()
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum()), 3 / math.sqrt(2 * paths) / float(x.square().sum().sqrt())


def strong_errors(solve, exact, steps, paths, channels, seed=0):
    path = ss.BrownianPath(seed, (paths, *channels), cell=CELL, dtype=F64)
    w = path(0.0, 1.0)
    return [rms(solve(dt, path) - exact(w)) for dt in steps]


STEPS = [2.0**-k for k in (3, 4, 5, 6, 7)]
PATHS = 2000


def measured(method, sde, y0, exact, channels=(1,)):
    start = torch.as_tensor(y0, dtype=F64).expand(PATHS, -1)
    solve = lambda dt, path: ss.solve(sde, start, unit, dt=dt, brownian=path, method=method).ys[-1]
    errors = strong_errors(solve, exact, STEPS, PATHS, channels)
    return slope_and_error(STEPS, errors, PATHS)


# the next power of sqrt(dt) bends the line; over these steps it moves the slope by less than this
BEND = 0.06


def test_euler_maruyama_strong_order_is_one_half_for_multiplicative_noise():
    sde = ss.SDE(lambda t, y: 0.5 * y, lambda t, y: 0.8 * y)
    slope, error = measured("euler_maruyama", sde, [1.0], lambda w: torch.exp((0.5 - 0.32) + 0.8 * w))
    assert abs(slope - 0.5) < BEND + 2 * error, slope


def test_euler_maruyama_strong_order_is_one_for_additive_noise():
    """Kloeden & Platen 1992, (4.4.3): X_t = (X_0 + b (t + a W_t)) / sqrt(1 + t)."""
    sde = ss.SDE(
        lambda t, y: 0.5 / (1 + t).sqrt() - y / (2 * (1 + t)), lambda t, y: 0.4 / (1 + t).sqrt(), additive=True
    )
    slope, error = measured("euler_maruyama", sde, [1.0], lambda w: (1 + 0.5 + 0.4 * w) / math.sqrt(2))
    assert abs(slope - 1.0) < BEND + 2 * error, slope


def test_heun_strong_order_is_one_for_diagonal_noise():
    sde = ss.SDE(lambda t, y: 0.3 * y, lambda t, y: 0.8 * y, calculus="stratonovich")
    slope, error = measured("heun", sde, [1.0], lambda w: torch.exp(0.3 + 0.8 * w))
    assert abs(slope - 1.0) < BEND + 2 * error, slope


def test_heun_strong_order_is_one_for_nonlinear_scalar_noise():
    """dy = sin(y) (-(1 + t) / 2 dt + o dW) has tan(y / 2) = tan(y_0 / 2) exp(-t / 2 - t^2 / 4 + W)."""
    sde = ss.SDE(
        lambda t, y: -(1 + t) * torch.sin(y) / 2, lambda t, y: torch.sin(y), calculus="stratonovich", noise="scalar"
    )
    start = 1.0
    exact = lambda w: 2 * torch.atan(math.tan(start / 2) * torch.exp(-0.75 + w))
    slope, error = measured("heun", sde, [start], exact)
    assert abs(slope - 1.0) < BEND + 2 * error, slope


def spiral(t, y):
    """Stretching by W_1 and rotation by W_2: two matrices that commute."""
    stretch, turn = 0.5 * y, 0.7 * torch.stack([-y[..., 1], y[..., 0]], -1)
    return torch.stack([stretch, turn], -1)


def spiralled(w, drift):
    size, angle = torch.exp(0.5 * w[:, 0] + drift), 0.7 * w[:, 1]
    return torch.stack([size * torch.cos(angle), size * torch.sin(angle)], -1)


def test_heun_strong_order_is_one_for_commutative_general_noise():
    sde = ss.SDE(lambda t, y: 0.2 * y, spiral, noise="general", commutative=True, calculus="stratonovich")
    slope, error = measured("heun", sde, [1.0, 0.0], lambda w: spiralled(w, 0.2), (2,))
    assert abs(slope - 1.0) < BEND + 2 * error, slope


def test_euler_maruyama_strong_order_is_one_half_for_general_noise():
    sde = ss.SDE(lambda t, y: 0.2 * y, spiral, noise="general", calculus="stratonovich").to_calculus("ito")
    slope, error = measured("euler_maruyama", sde, [1.0, 0.0], lambda w: spiralled(w, 0.2), (2,))
    assert abs(slope - 0.5) < BEND + 2 * error, slope


def test_heun_strong_order_is_one_half_for_noise_that_does_not_commute():
    """dX = dW_1, dY = X o dW_2: the Levy area, which W alone cannot know. rms of what is missing: sqrt(dt T) / 2."""
    sde = ss.SDE(
        lambda t, y: 0 * y,
        lambda t, y: torch.stack(
            [torch.stack([1 + 0 * y[:, 0], 0 * y[:, 0]], -1), torch.stack([0 * y[:, 0], y[:, 0]], -1)], -2
        ),
        noise="general",
        calculus="stratonovich",
    )
    y0 = torch.zeros(PATHS, 2, dtype=F64)
    path = ss.BrownianPath(0, (PATHS, 2), cell=2.0**-10, dtype=F64)
    solve = lambda dt: ss.solve(sde, y0, unit, dt=dt, brownian=path, method="heun").ys[-1]
    fine = solve(2.0**-10)
    for dt in (2.0**-3, 2.0**-5, 2.0**-7):
        # over a step: Var = h^2 / 4 for the Levy area; what the fine solve lacks is independent of what it has
        wanted = 0.5 * math.sqrt(dt - 2.0**-10)
        assert abs(rms((solve(dt) - fine)[:, 1]) / wanted - 1) < 5 / math.sqrt(2 * PATHS)


@settings(max_examples=15)
@given(seed=seeds, steps=st.integers(1, 64), theta=st.floats(0, 3), sigma=st.floats(0, 2))
def test_euler_maruyama_of_ornstein_uhlenbeck_is_a_sum_over_the_increments(seed, steps, theta, sigma):
    """X_N = (1 - theta h)^N X_0 + sigma sum_n (1 - theta h)^(N - 1 - n) dW_n."""
    h = 1 / steps
    path = ss.BrownianPath(seed, (5, 2), cell=h, dtype=F64)
    sde = ss.SDE(lambda t, y: -theta * y, lambda t, y: sigma, additive=True)
    y0 = torch.linspace(-1, 1, 10, dtype=F64).reshape(5, 2)
    sol = ss.solve(sde, y0, unit, dt=h, brownian=path, method="euler_maruyama")
    decay = (1 - theta * h) ** torch.arange(steps - 1, -1, -1, dtype=F64)
    wanted = (1 - theta * h) ** steps * y0 + sigma * torch.einsum("n,nbc->bc", decay, path.increments(0, steps))
    assert torch.allclose(sol.ys[-1], wanted, rtol=1e-11, atol=1e-11 * max(1.0, abs(1 - theta * h)) ** steps)


@settings(max_examples=15)
@given(seed=seeds, steps=st.integers(1, 64), a=st.floats(-1, 1), b=st.floats(-1, 1))
def test_euler_maruyama_and_heun_of_geometric_brownian_motion_are_products_over_the_increments(seed, steps, a, b):
    h = 1 / steps
    path = ss.BrownianPath(seed, (5, 2), cell=h, dtype=F64)
    w = path.increments(0, steps)
    y0 = torch.linspace(-1, 1, 10, dtype=F64).reshape(5, 2)
    sde = ss.SDE(lambda t, y: a * y, lambda t, y: b * y)
    ito = ss.solve(sde, y0, unit, dt=h, brownian=path, method="euler_maruyama").ys[-1]
    assert torch.allclose(ito, y0 * (1 + a * h + b * w).prod(0), rtol=1e-11, atol=1e-12)
    sde = ss.SDE(lambda t, y: a * y, lambda t, y: b * y, calculus="stratonovich")
    z = a * h + b * w
    heun = ss.solve(sde, y0, unit, dt=h, brownian=path, method="heun").ys[-1]
    assert torch.allclose(heun, y0 * (1 + z + z * z / 2).prod(0), rtol=1e-11, atol=1e-12)


def test_moments_of_ornstein_uhlenbeck_are_those_of_the_recursion():
    """Euler-Maruyama's own mean and variance, exact for every dt, within 5 standard errors; no path is given."""
    n, theta, sigma, steps = 20_000, 1.5, 0.8, 20
    sde = ss.SDE(lambda t, y: -theta * y, lambda t, y: sigma * torch.ones_like(y), additive=True)
    y0 = torch.full((n, 1), 2.0, dtype=F64)
    y = ss.solve(sde, y0, unit, dt=1 / steps, seed=11, method="euler_maruyama").ys[-1]
    r = 1 - theta / steps
    variance = sigma**2 / steps * (1 - r ** (2 * steps)) / (1 - r * r)
    assert abs(float(y.mean()) - 2 * r**steps) < 5 * math.sqrt(variance / n)
    assert abs(float(y.var()) / variance - 1) < 5 * math.sqrt(2 / n)
