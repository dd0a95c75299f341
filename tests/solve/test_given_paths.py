"""A given Brownian path may be cut anywhere: steps, output times and trajectories need not know its cells."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss

F32, F64 = torch.float32, torch.float64
seeds = st.integers(0, 2**64 - 1)
#: a cell may be shorter than a step, longer than the solve, a divisor of neither
cells = st.one_of(st.sampled_from([0.1, 0.25, 1.0, 30.0]), st.floats(0.05, 3))
noises = st.sampled_from(["diagonal", "scalar", "general"])
CHANNELS = {"diagonal": (2,), "scalar": (1,), "general": (3,)}
BATCH = 4
MOTION = torch.tensor([[1.0, -0.5, 0.0], [0.25, 2.0, 1.0]], dtype=F64)


def motion(noise):
    """dX = g dW with a constant g."""
    g = {"diagonal": MOTION[:, 0], "scalar": MOTION[:, 0], "general": MOTION}[noise]
    return ss.SDE(lambda t, y: 0 * y, lambda t, y: g.to(y.dtype), noise=noise, additive=True)


def moved(noise, w):
    """g W."""
    return w @ MOTION.T if noise == "general" else w * MOTION[:, 0]


@st.composite
def times(draw, own=False):
    """Three times forwards or backwards, (T,) or (BATCH, T)."""
    rows = draw(st.lists(st.tuples(st.floats(-2, 2), *[st.floats(0.05, 1)] * 2), min_size=BATCH, max_size=BATCH))
    ts = torch.tensor(rows, dtype=F64).cumsum(1)
    ts = ts.flip(1) if draw(st.booleans()) else ts
    return ts if own else ts[0]


def along(path, ts, k):
    """W(t_k) - W(t_0) of each trajectory at its own times."""
    if ts.ndim == 1:
        return path(ts[0], ts[k])
    return torch.cat([path.for_paths(path.paths[i : i + 1])(row[0], row[k]) for i, row in enumerate(ts)])


HOW = st.sampled_from([{"dt": 0.1}, {"dt": 0.37}, {"dt": 5.0}, {"rtol": 1e-3, "atol": 1e-3}])


@settings(max_examples=15)
@given(seed=seeds, cell=cells, origin=st.floats(-1, 1), ts=times(), noise=noises, how=HOW)
def test_constant_noise_adds_up_to_the_paths_own_values_wherever_its_cells_lie(seed, cell, origin, ts, noise, how):
    """X(t_k) - X(t_0) = g (W(t_k) - W(t_0)), for fixed and adaptive steps, forwards and backwards."""
    path = ss.BrownianPath(seed, (BATCH, *CHANNELS[noise]), cell=cell, origin=origin, dtype=F64)
    ys = ss.solve(motion(noise), torch.zeros(BATCH, 2, dtype=F64), ts, brownian=path, **how).ys
    for k in (1, 2):
        wanted = moved(noise, along(path, ts, k)).expand(BATCH, 2)
        assert torch.allclose(ys[k], wanted, rtol=0, atol=1e-12)


@settings(max_examples=15)
@given(seed=seeds, cell=cells, ts=times(own=True), noise=noises, how=HOW)
def test_trajectories_with_times_of_their_own_follow_a_given_path(seed, cell, ts, noise, how):
    path = ss.BrownianPath(seed, (BATCH, *CHANNELS[noise]), cell=cell, dtype=F64)
    ys = ss.solve(motion(noise), torch.zeros(BATCH, 2, dtype=F64), ts, brownian=path, **how).ys
    for k in (1, 2):
        wanted = moved(noise, along(path, ts, k)).expand(BATCH, 2)
        assert torch.allclose(ys[k], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", [{"dt": 0.1}, {"rtol": 1e-3}], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("cell", [0.1, 0.07, 0.25])
def test_float32_times_and_states_follow_the_float64_path(cell, how):
    """0.7 in float32 is not 0.7, and must not miss its cell: W is of size 1, and rounded 12 times at most."""
    ts = torch.tensor([0.0, 0.3, 0.7, 1.2])
    path, exact = (ss.BrownianPath(3, (50, 2), cell=cell, dtype=dtype) for dtype in (F32, F64))
    ys = ss.solve(motion("diagonal"), torch.zeros(50, 2), ts, brownian=path, **how).ys
    for k, t in enumerate([0.0, 0.3, 0.7, 1.2]):
        # where t is not a boundary it is read as the float32 number that it is: off by 3e-8, W by its root
        wanted = exact(0.0, t if abs(t / cell - round(t / cell)) < 1e-9 else float(ts[k]))
        assert torch.allclose(ys[k].double(), moved("diagonal", wanted), rtol=0, atol=2e-5)


GBM = ss.SDE(lambda t, y: 0.3 * y, lambda t, y: 0.7 * y)
START = torch.ones(400, 1, dtype=F64)


def gbm(path, ts):
    """exp((a - b^2 / 2) t + b W)."""
    w = torch.stack([along(path, ts, k) for k in range(ts.shape[-1])])
    elapsed = ts - ts[..., :1]
    elapsed = elapsed[:, None, None] if ts.ndim == 1 else elapsed.T[..., None]
    return torch.exp((0.3 - 0.245) * elapsed + 0.7 * w)


def rms(x):
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("cell", [0.3, 7.0])
@pytest.mark.parametrize("sde", [GBM, GBM.to_calculus("stratonovich")], ids=["sosri", "heun"])
def test_adaptive_steps_tend_to_the_solution_along_the_given_path_as_tolerances_fall(sde, cell):
    ts = torch.tensor([0.0, 0.4, 1.1], dtype=F64)
    path = ss.BrownianPath(1, START.shape, cell=cell, dtype=F64)
    errors = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        solution = ss.solve(sde, START, ts, rtol=tolerance, atol=tolerance, brownian=path)
        errors.append(rms(solution.ys - gbm(path, ts)))
    assert len(solution.stats.steps.unique()) > 10 and (solution.stats.rejected > 0).any()
    # an error of a few tolerances of each kind, of states of size 1
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.25 * errors[0] and errors[2] < 5e-3, errors


def test_adaptive_steps_are_no_longer_than_a_cell_of_the_given_path():
    path = ss.BrownianPath(1, (BATCH, 2), cell=0.1, dtype=F64)
    ts, y0 = torch.tensor([0.0, 1.05], dtype=F64), torch.zeros(BATCH, 2, dtype=F64)
    assert (ss.solve(motion("diagonal"), y0, ts, rtol=1.0, brownian=path).stats.accepted >= 11).all()


def test_adaptive_steps_at_times_of_each_trajectorys_own_follow_the_given_path():
    generator = torch.Generator().manual_seed(0)
    y0 = START[:100]
    ts = torch.rand(len(y0), 3, generator=generator, dtype=F64).add(0.05).cumsum(1) - 1
    path = ss.BrownianPath(1, y0.shape, cell=0.3, dtype=F64)
    loose, tight = (
        rms(ss.solve(GBM, y0, ts, rtol=tol, atol=tol, brownian=path).ys - gbm(path, ts)) for tol in (1e-1, 1e-3)
    )
    assert tight < 0.25 * loose and tight < 5e-3, (loose, tight)


def test_fixed_and_adaptive_steps_meet_on_the_given_path_but_not_on_another():
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    path, other = (ss.BrownianPath(seed, START.shape, cell=0.3, dtype=F64) for seed in (1, 2))
    fixed = ss.solve(GBM, START, ts, dt=1 / 256, brownian=path).ys
    adaptive = lambda path: ss.solve(GBM, START, ts, rtol=1e-4, atol=1e-4, brownian=path).ys
    assert rms(adaptive(path) - fixed) < 5e-3
    assert rms(adaptive(other) - fixed) > 0.5


@pytest.mark.parametrize("method", ["euler_maruyama", "milstein", "sriw1", "sosri"])
def test_a_finer_solve_along_cells_that_are_cut_converges_at_the_order_along_whole_cells(method):
    """The same errors, up to what chance makes of them, whether the steps are cells or cut them."""
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    ratios = []
    for cell in (1 / 128, 0.37):
        path = ss.BrownianPath(5, START.shape, cell=cell, dtype=F64)
        coarse, fine = (
            rms(ss.solve(GBM, START, ts, dt=dt, brownian=path, method=method).ys - gbm(path, ts))
            for dt in (1 / 32, 1 / 128)
        )
        ratios.append(math.log(coarse / fine, 4))
    order = {"euler_maruyama": 0.5, "milstein": 1.0, "sriw1": 1.5, "sosri": 1.5}[method]
    # an rms over 400 paths is off by 4 % or so, more with the heavy tails here, and the next power bends the line
    assert all(abs(found - order) < 0.2 for found in ratios), ratios


@settings(max_examples=8)
@given(seed=seeds, cell=st.sampled_from([0.3, 3.0]), own=st.booleans(), adaptive=st.booleans(), data=st.data())
def test_a_trajectory_of_a_given_path_is_the_same_alone(seed, cell, own, adaptive, data):
    """Bitwise, but for adaptive steps over spans of their own, which are roots of the bridge: there, up to rounding."""
    ts = data.draw(times(own=own))
    ids = [3, 1, 4, 15]
    path = ss.BrownianPath(seed, (BATCH, 2), cell=cell, paths=ids, dtype=F64)
    y0 = torch.linspace(0.5, 1, 2 * BATCH, dtype=F64).reshape(BATCH, 2)
    sde = ss.SDE(lambda t, y: torch.cos(y) - t, lambda t, y: 0.4 * torch.sin(y), calculus="stratonovich")
    how = {"rtol": 1e-1, "atol": 1e-1} if adaptive else {"dt": 0.1}
    together = ss.solve(sde, y0, ts, brownian=path, **how)
    for i in range(BATCH):
        row = ts[i] if own else ts
        alone = ss.solve(sde, y0[i : i + 1], row, brownian=path.for_paths(ids[i : i + 1]), **how)
        assert torch.allclose(alone.ys, together.ys[:, i : i + 1], rtol=0, atol=1e-12 if own and adaptive else 0)
        assert torch.equal(alone.stats.steps, together.stats.steps[i : i + 1])


@settings(max_examples=15)
@given(seed=seeds, cell=cells, at=st.floats(0.1, 0.9), method=st.sampled_from(["heun", "sosri"]))
def test_a_solve_split_within_a_cell_follows_the_same_path(seed, cell, at, method):
    """The second half begins with the path's value where the first ended: constant noise, and any drift of time."""
    path = ss.BrownianPath(seed, (BATCH, 2), cell=cell, dtype=F64)
    sde = ss.SDE(lambda t, y: torch.cos(t).expand(y.shape), lambda t, y: torch.ones_like(y), additive=True)
    ts, y0 = torch.tensor([0.0, at, 1.0], dtype=F64), torch.zeros(BATCH, 2, dtype=F64)
    solve = lambda y, ts: ss.solve(sde, y, ts, dt=0.05, brownian=path, method=method).ys[-1]
    second = solve(solve(y0, ts[:2]), ts[1:])
    wanted = math.sin(1.0) + path(0.0, 1.0)
    # quadrature of second order of a cosine, in steps of 0.05 at most
    assert torch.allclose(second, wanted, rtol=0, atol=0.05**2 / 3)
    assert torch.allclose(solve(y0, ts[[0, 2]]), wanted, rtol=0, atol=0.05**2 / 3)


SIZES = torch.tensor([0.6, 0.5], dtype=F64)
RHO = torch.tensor([[1.0, -0.7], [-0.7, 1.0]], dtype=F64)
#: dX = 0.3 X dt + X (0.6 dB_1 + 0.5 dB_2)
TWO = ss.SDE(lambda t, y: 0.3 * y, lambda t, y: y[..., None] * SIZES, noise="general", commutative=True)


@pytest.mark.parametrize(
    ("method", "calculus"),
    [
        *((name, "ito") for name in ("milstein", "derivative_free_milstein", "platen", "dri1", "implicit_milstein")),
        *((name, "stratonovich") for name in ("milstein", "heun", "slow_rk", "rs1", "log_ode")),
    ],
)
def test_correlated_motions_of_general_noise_converge_at_the_order_of_independent_ones(method, calculus):
    """X = exp((0.3 - s^T R s / 2) t + s^T B) with E B B^T = R t, of which methods know independent motions alone."""
    path = ss.BrownianPath(3, (400, 2), cell=1 / 64, correlation=RHO, dtype=F64)
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    exact = torch.exp(0.3 - 0.5 * SIZES @ RHO @ SIZES + path(0.0, 1.0) @ SIZES)
    sde = TWO.to_calculus(calculus)
    coarse, fine = (
        rms(ss.solve(sde, START, ts, dt=dt, brownian=path, method=method).ys[-1, :, 0] - exact)
        for dt in (1 / 16, 1 / 64)
    )
    assert fine < 0.35 * coarse and fine < 0.01, (coarse, fine)


@pytest.mark.parametrize("adjoint", ["direct", "backsolve"])
def test_gradients_along_correlated_motions_are_those_of_the_process(adjoint):
    path = ss.BrownianPath(3, (20, 2), cell=1 / 256, correlation=RHO, dtype=F64)
    y0 = torch.ones(20, 1, dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    ys = ss.solve(TWO, y0, ts, dt=1 / 256, brownian=path, method="milstein", adjoint=adjoint).ys
    (found,) = torch.autograd.grad(ys[-1].sum(), y0)
    # X is proportional to its start
    assert torch.allclose(found, ys[-1].detach(), rtol=0.02 if adjoint == "backsolve" else 1e-12)


def test_general_noise_of_another_width_than_a_correlated_path_is_refused():
    path = ss.BrownianPath(3, (4, 3), cell=1 / 4, correlation=torch.eye(3), dtype=F64)
    with pytest.raises(ValueError, match=r"brownian: got a path of shape \(4, 3\).*accepted is shape \(4, 2\)"):
        ss.solve(TWO, START[:4], torch.tensor([0.0, 1.0], dtype=F64), dt=0.25, brownian=path)
