"""dy/dt = A y: the matrix exponential, time reversal, composition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

import sdesolve as ss

F64 = torch.float64
seeds = st.integers(0, 2**32 - 1)


def matrices(seed, batch, d):
    """Random matrices with entries of order one over the square root of d."""
    rng = np.random.default_rng(seed)
    return torch.as_tensor(rng.normal(size=(batch, d, d)) / np.sqrt(d)), torch.as_tensor(rng.normal(size=(batch, d)))


def linear(a):
    return ss.ODE(lambda t, y: (a * y[:, None, :]).sum(-1))


@settings(max_examples=25)
@given(
    seed=seeds,
    d=st.integers(1, 5),
    method=st.sampled_from(["tsit5", "dopri5"]),
    ends=st.tuples(*[st.floats(-2, 2)] * 2),
)
def test_adaptive_solution_is_the_matrix_exponential(seed, d, method, ends):
    t0, t1 = ends if abs(ends[1] - ends[0]) > 1e-3 else (ends[0], ends[0] + 1)
    a, y0 = matrices(seed, 3, d)
    ts = torch.linspace(t0, t1, 4, dtype=F64)
    sol = ss.solve(linear(a), y0, ts, method=method, rtol=1e-9, atol=1e-11)
    for i in range(3):
        norm = float(torch.linalg.matrix_norm(a[i], 2))
        for k, t in enumerate(ts.tolist()):
            wanted = expm(a[i].numpy() * (t - t0)) @ y0[i].numpy()
            # local errors of 1e-9 of |y| (as a mean over components) a step, at most some 40 (1 + |A| t) of them, each
            # amplified by exp(|A| t) at most
            reach = norm * abs(t - t0)
            bound = 40e-9 * (1 + reach) * np.exp(reach) * np.sqrt(d) * float(y0[i].norm()) + 1e-9
            assert np.abs(sol.ys[k, i].numpy() - wanted).max() < bound


@settings(max_examples=15)
@given(seed=seeds, d=st.integers(1, 4), steps=st.integers(1, 6))
def test_fixed_steps_multiply_by_the_taylor_polynomial_of_the_matrix_exponential(seed, d, steps):
    """rk4: I + z + z^2/2 + z^3/6 + z^4/24 with z = h A, as often as there are steps."""
    a, y0 = matrices(seed, 2, d)
    h = 1.0 / steps
    sol = ss.solve(linear(a), y0, torch.tensor([0.0, 1.0], dtype=F64), method="rk4", dt=h)
    z = h * a
    eye = torch.eye(d, dtype=F64)
    once = eye + z @ (eye + z @ (eye + z @ (eye + z / 4) / 3) / 2)
    wanted = torch.linalg.matrix_power(once, steps) @ y0[..., None]
    assert torch.allclose(sol.ys[-1], wanted[..., 0], rtol=1e-12, atol=1e-12)


@settings(max_examples=15)
@given(seed=seeds, split=st.floats(0.2, 0.8))
def test_forwards_then_backwards_returns_to_the_start(seed, split):
    """On a nonlinear, non-autonomous problem; through an output time in the middle."""
    a, y0 = matrices(seed, 4, 3)
    ode = ss.ODE(lambda t, y: torch.sin((a * y[:, None, :]).sum(-1)) + torch.cos(t))
    ts = torch.tensor([0.0, split, 1.0], dtype=F64)
    there = ss.solve(ode, y0, ts, rtol=1e-9, atol=1e-9).ys
    back = ss.solve(ode, there[-1], ts.flip(0), rtol=1e-9, atol=1e-9).ys
    # |df/dy| <= |A|, so an error made anywhere grows by exp(|A|) at most; some 40 steps there and back, of 1e-9 each
    growth = torch.linalg.matrix_norm(a, 2).exp().max()
    assert (back.flip(0) - there).abs().max() < 80e-9 * growth * (1 + there.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@settings(max_examples=10)
@given(seed=seeds, method=st.sampled_from(["euler", "rk4", "tsit5"]), at=st.integers(1, 15))
def test_fixed_steps_compose_bitwise(dtype, seed, method, at):
    """A solve to s and on to t takes the steps of the solve to t: with dyadic times, the same numbers."""
    a, y0 = (x.to(dtype) for x in matrices(seed, 2, 3))
    ode = ss.ODE(lambda t, y: (a * y[:, None, :]).sum(-1) + t)
    solve = lambda y, t0, t1: ss.solve(ode, y, torch.tensor([t0, t1]), dt=1 / 16, method=method).ys[-1]
    assert torch.equal(solve(solve(y0, 0.0, at / 16), at / 16, 1.0), solve(y0, 0.0, 1.0))


@settings(max_examples=10)
@given(seed=seeds, split=st.floats(0.05, 0.95))
def test_adaptive_solves_compose_within_the_tolerance(seed, split):
    a, y0 = matrices(seed, 3, 3)
    tolerance = {"rtol": 1e-8, "atol": 1e-8}
    whole = ss.solve(linear(a), y0, torch.tensor([0.0, 1.0], dtype=F64), **tolerance).ys[-1]
    first = ss.solve(linear(a), y0, torch.tensor([0.0, split], dtype=F64), **tolerance).ys[-1]
    second = ss.solve(linear(a), first, torch.tensor([split, 1.0], dtype=F64), **tolerance).ys[-1]
    growth = torch.linalg.matrix_norm(a, 2).exp().max()
    assert (second - whole).abs().max() < 80e-8 * growth * (1 + y0.abs().max())


@settings(max_examples=10)
@given(seed=seeds, weights=st.tuples(*[st.floats(-3, 3)] * 2), method=st.sampled_from(["heun", "bosh3", "dopri5"]))
def test_fixed_steps_are_linear_in_the_start_of_a_linear_problem(seed, weights, method):
    a, y0 = matrices(seed, 1, 4)
    u, v = weights
    stack = torch.stack([y0[0], y0[0].flip(0), u * y0[0] + v * y0[0].flip(0)])
    y, z, w = ss.solve(linear(a), stack, torch.tensor([0.0, 1.0], dtype=F64), dt=0.1, method=method).ys[-1]
    assert torch.allclose(w, u * y + v * z, rtol=1e-12, atol=1e-12 * (1 + abs(u) + abs(v)) * float(y.abs().max() + 1))
