"""What a function is given: the shape and dtype of its time, and a state of the dtype and device it started with."""

import pytest
import torch

import sdesolve as ss

TS = torch.linspace(0, 1, 4)
OWN = torch.stack([TS, 2 * TS, 3 * TS])


def seen_by(make, y0, ts=TS, **options):
    """Shapes and dtypes of (t, y) at every evaluation."""
    seen = set()

    def look(t, y):
        seen.add((tuple(t.shape), t.dtype))
        return torch.utils._pytree.tree_map(lambda leaf: -leaf, y)

    ss.solve(make(look), y0, ts, **options)
    assert len(seen) == 1, "always the same"
    return seen.pop()


ode = ss.ODE
sde = lambda f: ss.SDE(f, lambda t, y: 0.1 * y)
sde_g = lambda g: ss.SDE(lambda t, y: -y, g)


@pytest.mark.parametrize(
    ("make", "shape", "ts", "options", "wanted"),
    [
        (ode, (3, 2), TS, {}, (3, 1)),
        (ode, (3,), TS, {}, (3,)),
        (ode, (3, 2, 4, 5), TS, {}, (3, 1, 1, 1)),
        (ode, (3, 2), TS, {"method": "bosh3", "dense": True}, (3, 1)),
        (ode, (3, 2), TS, {"adjoint": "backsolve"}, (3, 1)),
        (ode, (3, 2), TS, {"shared_steps": True}, ()),
        (ode, (3, 2), TS, {"dt": 0.1}, ()),
        (ode, (3, 2), TS, {"dt": 0.1, "adjoint": "backsolve"}, ()),
        (ode, (1, 2), TS, {}, ()),
        (ode, (1, 2), TS, {"dt": 0.1}, ()),
        (ode, (3, 2), OWN, {}, (3, 1)),
        (ode, (3, 2), OWN, {"dt": 0.1}, (3, 1)),
        (sde, (3, 2), TS, {"dt": 0.1}, ()),
        (sde, (3, 2), OWN, {"dt": 0.1}, (3, 1)),
        (sde_g, (3, 2), OWN, {"dt": 0.1}, (3, 1)),
    ],
)
def test_time_is_a_number_on_a_shared_clock_and_has_the_rank_of_y_otherwise(make, shape, ts, options, wanted):
    y0 = torch.ones(shape, requires_grad=options.get("adjoint") == "backsolve")
    assert seen_by(make, y0, ts, **options) == (wanted, torch.float32)


@pytest.mark.parametrize(
    ("ts", "options", "wanted"),
    [
        (TS, {}, (3,)),
        (TS, {"dt": 0.1}, ()),
        (TS, {"shared_steps": True}, ()),
        (OWN, {"dt": 0.1}, (3,)),
        (OWN, {}, (3,)),
    ],
)
def test_the_time_of_a_pytree_is_one_number_a_trajectory(ts, options, wanted):
    y0 = {"a": torch.ones(3, 2), "b": torch.ones(3)}
    assert seen_by(ode, y0, ts, **options) == (wanted, torch.float32)


@pytest.mark.parametrize("steps", [{}, {"dt": 0.1}, {"shared_steps": True}], ids=["own", "fixed", "shared"])
def test_the_time_of_a_state_without_a_batch_is_a_number(steps):
    assert seen_by(lambda f: ss.ODE(f, batched=False), torch.ones(3, 2), **steps)[0] == ()


def test_the_backward_solve_of_an_adjoint_gives_the_same_times():
    for options, wanted in (({}, (3, 1)), ({"dt": 0.1}, ()), ({"shared_steps": True}, ())):
        seen = set()

        def f(t, y, seen=seen):
            seen.add(tuple(t.shape))
            return -y

        y0 = torch.ones(3, 2, requires_grad=True)
        ss.solve(ss.ODE(f), y0, TS, adjoint="backsolve", **options).ys.sum().backward()
        assert seen == {wanted}


@pytest.mark.parametrize("ts_dtype", [torch.float32, torch.float64, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("steps", [{}, {"dt": 0.1}, {"shared_steps": True}], ids=["own", "fixed", "shared"])
def test_the_dtype_of_y_is_kept_and_times_have_its_real_dtype(dtype, ts_dtype, steps):
    ts = torch.tensor([0, 1, 2], dtype=ts_dtype)
    y0 = torch.ones(3, 2, dtype=dtype)
    assert seen_by(ode, y0, ts, **steps)[1] == dtype.to_real()
    solution = ss.solve(ss.ODE(lambda t, y: -y), y0, ts, **steps)
    assert solution.ys.dtype == dtype
    assert solution.ys.device == y0.device
    assert solution.ts is ts
    exact = torch.exp(-ts.double())[:, None, None].expand(3, 3, 2).to(dtype)
    torch.testing.assert_close(solution.ys, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_sde_keeps_the_dtype_of_y(dtype):
    solution = ss.solve(sde(lambda t, y: -y), torch.ones(3, 2, dtype=dtype), TS, dt=0.1, seed=0)
    assert solution.ys.dtype == dtype


@pytest.mark.parametrize("steps", [{}, {"dt": 0.01}, {"shared_steps": True}, {"adjoint": "backsolve"}], ids=str)
def test_a_complex_state_turns_in_the_plane(steps):
    rate = torch.tensor([[1j], [2j], [-0.5 + 1j]], dtype=torch.complex128)
    ts = TS.double()
    y0 = torch.tensor([[1.0], [1j], [1.0 + 1j]], dtype=torch.complex128, requires_grad="adjoint" in steps)
    ys = ss.solve(ss.ODE(lambda t, y: rate * y), y0, ts, **steps).ys
    torch.testing.assert_close(ys, y0 * torch.exp(rate * ts[:, None, None]), rtol=1e-4, atol=1e-5)


def test_complex_gradients_agree_between_adjoints():
    grads = []
    for adjoint in ("direct", "backsolve"):
        y0 = torch.tensor([[1.0 + 0.5j], [0.3j]], dtype=torch.complex128, requires_grad=True)
        rate = torch.tensor(-0.5 + 1j, dtype=torch.complex128, requires_grad=True)
        ode = ss.ODE(lambda t, y, rate=rate: rate * y * y.abs())
        ys = ss.solve(ode, y0, TS.double(), adjoint=adjoint, rtol=1e-9, atol=1e-11).ys
        grads.append(torch.autograd.grad(ys[-1].real.sum(), (y0, rate)))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-8)


def test_batch_time_is_one_number_a_trajectory():
    y = torch.ones(3, 2, 4)
    assert ss.batch_time(torch.tensor(0.5), y).tolist() == [0.5] * 3
    assert ss.batch_time(torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1), y).tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert ss.batch_time(torch.tensor(0.5), {"a": y, "b": y}).shape == (3,)


@pytest.mark.parametrize("steps", [{}, {"dt": 0.01}, {"shared_steps": True}], ids=["own", "fixed", "shared"])
def test_batch_time_lets_one_drift_run_on_every_clock(steps):
    def f(t, y):
        times = ss.batch_time(t, y)
        assert times.shape == (3,)
        return -times[:, None] * y

    ys = ss.solve(ss.ODE(f), torch.ones(3, 2), TS, **steps).ys
    torch.testing.assert_close(ys, torch.exp(-(TS**2) / 2)[:, None, None].expand_as(ys), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [{}, {"dt": 0.1}], ids=["adaptive", "fixed"])
def test_everything_in_a_solution_is_on_the_device_of_y(steps):
    solution = ss.solve(ss.ODE(lambda t, y: -y), torch.ones(2, 1), TS.double(), **steps)
    for tensor in (
        solution.ys,
        solution.status,
        solution.paths,
        solution.stats.steps,
        solution.stats.drift_evaluations,
    ):
        assert tensor.device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("steps", [{}, {"dt": 0.1}, {"shared_steps": True}], ids=["own", "fixed", "shared"])
def test_the_device_of_y_is_kept(steps):
    y0 = torch.ones(3, 2, device="cuda")
    solution = ss.solve(ss.ODE(lambda t, y: -y * t), y0, TS, dense=True, **steps)
    for tensor in (solution.ys, solution.status, solution.paths, solution.stats.steps, solution(0.5)):
        assert tensor.device == y0.device
    noisy = ss.solve(sde(lambda t, y: -y), y0, TS, dt=0.1, seed=0)
    assert noisy.ys.device == y0.device
    cpu = ss.solve(sde(lambda t, y: -y), y0.cpu(), TS, dt=0.1, seed=0)
    torch.testing.assert_close(noisy.ys.cpu(), cpu.ys, rtol=1e-5, atol=1e-6)
