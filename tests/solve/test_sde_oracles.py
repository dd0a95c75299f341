"""Euler-Maruyama and Heun against loops written by hand and against torchsde, along the same increments."""

import pytest
import torch
import torchsde
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss

F64 = torch.float64
seeds = st.integers(0, 2**64 - 1)
#: the steps of 1/8; half of them; some that they are not multiples of; longer than any solve
CELLS = [0.125, 0.0625, 0.05, 0.3, 7.0]
NOISES = {
    "diagonal": (lambda t, y: 0.5 * torch.cos(y) + t, (3,)),
    "scalar": (lambda t, y: 0.5 * torch.cos(y) + t, (1,)),
    "general": (lambda t, y: torch.stack([0.5 * torch.cos(y), y.flip(-1), t + 0 * y, 1 + 0 * y], -1), (4,)),
}


def drift(t, y):
    return torch.sin(y.flip(-1)) - t * y


def times(g, noise, w):
    """g dW with plain einsum."""
    subscripts = {"diagonal": "bi,bi->bi", "scalar": "bi,bj->bi", "general": "bij,bj->bi"}[noise]
    return torch.einsum(subscripts, g, w)


def by_hand(noise, y, t0, h, increments, method):
    g = NOISES[noise][0]
    states = [y]
    for n, w in enumerate(increments):
        t, t1 = torch.tensor(t0 + n * h, dtype=F64), torch.tensor(t0 + (n + 1) * h, dtype=F64)
        f, gw = drift(t, y), times(g(t, y), noise, w)
        if method == "heun":
            z = y + f * h + gw
            f, gw = (f + drift(t1, z)) / 2, (gw + times(g(t1, z), noise, w)) / 2
        y = y + f * h + gw
        states.append(y)
    return torch.stack(states)


def calculus_of(method):
    return "ito" if method == "euler_maruyama" else "stratonovich"


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("method", ["euler_maruyama", "heun"])
@settings(max_examples=10)
@given(seed=seeds, steps=st.integers(1, 20), start=st.integers(-8, 8), cell=st.sampled_from([None, *CELLS]))
def test_a_solve_is_the_loop_that_one_would_write(noise, method, seed, steps, start, cell):
    """Along a path whose cells may lie as they like; and without brownian=, where it is that of the seed with the steps
    as its cells."""
    g, channels = NOISES[noise]
    h, t0 = 0.125, start * 0.125
    y0 = torch.linspace(-1, 1, 12, dtype=F64).reshape(4, 3)
    path = ss.BrownianPath(seed, (4, *channels), cell=h if cell is None else cell, dtype=F64)
    ts = t0 + h * torch.arange(steps + 1, dtype=F64)
    sde = ss.SDE(drift, g, noise=noise, calculus=calculus_of(method))
    how = {"seed": seed} if cell is None else {"brownian": path}
    sol = ss.solve(sde, y0, ts, dt=h, method=method, **how)
    increments = [path(t0 + n * h, t0 + (n + 1) * h) for n in range(steps)]
    wanted = by_hand(noise, y0, t0, h, increments, method)
    assert torch.allclose(sol.ys, wanted, rtol=1e-11, atol=1e-11)


class Same(torchsde._brownian.BaseBrownian):
    """Our path in the peer's clothes."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def __call__(self, ta, tb=None, return_U=False, return_A=False):
        assert not (return_U or return_A)
        return self.path(ta, tb)

    def __repr__(self):
        return "Same"

    dtype = property(lambda self: self.path.dtype)
    device = property(lambda self: self.path.device)
    shape = property(lambda self: self.path.shape)
    levy_area_approximation = "none"


@pytest.mark.parametrize("cell", [1 / 64, 0.3], ids=["whole cells", "cut cells"])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("method", ["euler_maruyama", "heun"])
def test_torchsde_gives_the_same_numbers_along_the_same_path(noise, method, cell):
    g, channels = NOISES[noise]

    class Theirs(torch.nn.Module):
        noise_type, sde_type = noise, calculus_of(method)

        def f(self, t, y):
            return drift(t, y)

        def g(self, t, y):
            return g(t, y)[..., None] if noise == "scalar" else g(t, y)

    y0 = torch.linspace(-1, 1, 30, dtype=F64).reshape(10, 3)
    ts = torch.linspace(0, 1, 5, dtype=F64)
    path = ss.BrownianPath(7, (10, *channels), cell=cell, dtype=F64)
    sde = ss.SDE(drift, g, noise=noise, calculus=calculus_of(method))
    ours = ss.solve(sde, y0, ts, dt=1 / 32, brownian=path, method=method).ys
    name = "euler" if method == "euler_maruyama" else "heun"
    theirs = torchsde.sdeint(Theirs(), y0, ts, bm=Same(path), method=name, dt=1 / 32)
    assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_torchsde_gives_the_same_law_with_noise_of_its_own():
    """Mean and variance of a nonlinear SDE, within 5 standard errors of their difference."""
    n = 10_000

    class Theirs(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return torch.sin(y) + t

        def g(self, t, y):
            return 0.5 * torch.cos(y)

    y0, ts = torch.full((n, 1), 0.5, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    sde = ss.SDE(Theirs().f, Theirs().g)
    ours = ss.solve(sde, y0, ts, dt=1 / 16, seed=0, method="euler_maruyama").ys[-1]
    bm = torchsde.BrownianInterval(0.0, 1.0, size=(n, 1), dtype=F64, entropy=1, tol=1e-5)
    theirs = torchsde.sdeint(Theirs(), y0, ts, bm=bm, method="euler", dt=1 / 16)[-1]
    variances = ours.var() + theirs.var()
    assert (ours.mean() - theirs.mean()).abs() < 5 * (variances / n).sqrt()
    fourth = sum(((x - x.mean()) ** 4).mean() - x.var() ** 2 for x in (ours, theirs))
    assert (ours.var() - theirs.var()).abs() < 5 * (fourth / n).sqrt()
