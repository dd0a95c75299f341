"""What an eager step costs beside the user's functions: waits for the device, and operations."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sdesolve as ss
from sdesolve.shared_clock import SharedClock

WAITS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"}


class Count(TorchDispatchMode):
    """Operations, and waits for the device: numbers, lists and sizes that are read out of tensors."""

    def __init__(self):
        super().__init__()
        self.operations = self.waits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        self.waits += function._schema.name in WAITS
        return function(*args, **(kwargs or {}))


@pytest.fixture
def counted(monkeypatch):
    """run(f) -> (result, waits, operations)."""

    def run(function):
        with Count() as count, monkeypatch.context() as patch:
            # these never reach the dispatcher on the CPU
            for name in ("tolist", "cpu"):
                plain = getattr(torch.Tensor, name)

                def watched(self, *args, plain=plain, **kwargs):
                    count.waits += 1
                    return plain(self, *args, **kwargs)

                patch.setattr(torch.Tensor, name, watched)
            result = function()
        return result, count.waits, count.operations

    return run


def f(t, y):
    return torch.cos(3 * y)


def test_waits_are_counted(counted):
    x = torch.arange(3.0)
    reads = [
        lambda: x[0].item(),
        lambda: bool(x.any()),
        lambda: float(x[1]),
        lambda: x.tolist(),
        lambda: (x > 1).nonzero(),
    ]
    assert [counted(read)[1] for read in reads] == [1] * len(reads)
    assert counted(lambda: x + 1)[1:] == (0, 1)


@pytest.mark.parametrize("own", [False, True], ids=["shared times", "own times"])
@pytest.mark.parametrize("kind", ["ode", "diagonal", "scalar", "general", "along a path"])
def test_fixed_steps_never_wait(counted, kind, own):
    ts = torch.tensor([0.0, 0.5, 1.0])
    ts = torch.stack([ts, ts + 0.1, 2 * ts]) if own else ts
    y0 = torch.ones(3, 2)
    if kind == "ode":
        problem = ss.ODE(f)
    elif kind == "general":
        problem = ss.SDE(f, lambda t, y: 0.1 * torch.stack([y, y.flip(-1)], -1), noise="general")
    else:
        problem = ss.SDE(f, lambda t, y: 0.1 * y, noise="scalar" if kind == "scalar" else "diagonal")
    path = ss.BrownianPath(0, (3, 2), cell=1 / 256) if kind == "along a path" else None

    def solve(steps):
        given = {"brownian": path} if path is not None else {} if kind == "ode" else {"seed": 0}
        return ss.solve(problem, y0, ts, dt=1 / steps, **given)

    few, many = (counted(lambda n=n: solve(n))[1] for n in (8, 128))
    assert few == many


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "with a graph"])
# along a path the bridge asks three times more: how deep to go, and what lies between the ends
@pytest.mark.parametrize("how, most", [("shared", 1), ("own", 1), ("sde", 4)])
def test_an_adaptive_step_waits_once(counted, how, most, grad):
    y0 = torch.linspace(-1, 1, 5)[:, None].requires_grad_(grad)

    def solve(end):
        ts = torch.tensor([0.0, end])
        if how == "sde":
            sde = ss.SDE(f, lambda t, y: 0.1 * torch.cos(y))
            return ss.solve(sde, y0, ts, rtol=1e-2, atol=1e-2, seed=0, shared_steps=True)
        return ss.solve(ss.ODE(f), y0, ts, rtol=1e-4, atol=1e-4, shared_steps=how == "shared")

    (few, first, _), (many, second, _) = counted(lambda: solve(1.0)), counted(lambda: solve(6.0))
    steps = int(many.stats.steps.max() - few.stats.steps.max())
    assert steps > 5 and second - first <= most * steps


# Each bound is the number of operations when it was written: raise it for something worth the time it takes.
@pytest.mark.parametrize("shared, batch, most", [(True, 1, 53), (True, 64, 53), (False, 64, 185)])
def test_operations_of_an_adaptive_step_are_few(counted, shared, batch, most):
    """tsit5: six evaluations, of two operations each here."""
    y0 = torch.linspace(-1, 1, batch)[:, None]
    solve = lambda end: ss.solve(ss.ODE(f), y0, torch.tensor([0.0, end]), rtol=1e-4, atol=1e-4, shared_steps=shared)
    (few, _, first), (many, _, second) = counted(lambda: solve(1.0)), counted(lambda: solve(6.0))
    steps = int(many.stats.steps.max() - few.stats.steps.max())
    assert (second - first) / steps - 12 <= most


# Two for each sum of midpoint and of Heun, the time between or two differences; a view of scalar noise a sum.
@pytest.mark.parametrize(
    ("method", "noise", "most"),
    [
        ("heun", "diagonal", 6),
        ("midpoint", "diagonal", 5),
        ("midpoint", "scalar", 7),
        ("euler_heun", "diagonal", 6),
        ("slow_rk", "diagonal", 30),
    ],
)
def test_operations_of_a_fixed_sde_step_are_few(counted, method, noise, most):
    sde = ss.SDE(lambda t, y: -y, lambda t, y: y.cos(), noise=noise, calculus="stratonovich")
    solve = lambda n: ss.solve(sde, torch.ones(4, 2), torch.tensor([0.0, 1.0]), dt=1 / n, method=method, seed=0)
    # both draw their noise in one block
    (_, _, first), (many, _, second) = (counted(lambda n=n: solve(n)) for n in (4, 8))
    calls = many.stats.drift_evaluations + many.stats.diffusion_evaluations
    assert (second - first) / 4 - int(calls.max()) / 8 <= most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "how",
    [{}, {"dt": 1.0}, {"controller": ss.PID(1e-4, 1e-6, dt_max=0.05, jumps=(0.3,), d=0.05)}, {"dense": True}],
    ids=["plain", "rejections", "jumps", "dense"],
)
@pytest.mark.parametrize("ts", [[0.0, 0.7, 2.0], [1.0, 0.5, -1.0]], ids=["forwards", "backwards"])
def test_a_shared_clock_on_the_host_gives_bitwise_the_steps_of_one_in_tensors(monkeypatch, dtype, how, ts):
    y0 = torch.linspace(-2, 2, 5, dtype=dtype)[:, None]
    ode = ss.ODE(lambda t, y: torch.cos(3 * y * t) - y)
    given = {"rtol": 1e-5, "atol": 1e-6} if "controller" not in how else {}
    solve = lambda: ss.solve(ode, y0, torch.tensor(ts, dtype=dtype), shared_steps=True, **given, **how)
    host = solve()
    monkeypatch.setattr(SharedClock, "fits", staticmethod(lambda loop: False))
    tensors = solve()
    assert torch.equal(host.ys, tensors.ys) and torch.equal(host.status, tensors.status)
    for name in ("accepted", "rejected", "drift_evaluations"):
        assert torch.equal(getattr(host.stats, name), getattr(tensors.stats, name))
    assert "dt" not in how or host.stats.rejected.min() > 0
    if "dense" in how:
        assert torch.equal(host(sum(ts) / 3), tensors(sum(ts) / 3))


@pytest.mark.parametrize("how", [{"max_steps": 7}, {}], ids=["too many steps", "blow up"])
def test_trajectories_on_a_shared_clock_fail_as_they_do_on_one_in_tensors(monkeypatch, how):
    y0, ts = torch.tensor([[0.1], [0.2], [3.0]]), torch.tensor([0.0, 0.1, 1.0])
    ode = ss.ODE(lambda t, y: y * y)
    solve = lambda: ss.solve(ode, y0, ts, rtol=1e-6, atol=1e-6, shared_steps=True, on_failure="return", **how)
    host = solve()
    monkeypatch.setattr(SharedClock, "fits", staticmethod(lambda loop: False))
    tensors = solve()
    assert torch.equal(host.status, tensors.status) and (host.status != ss.Status.SUCCESS).any()
    assert torch.equal(host.ys.isnan(), tensors.ys.isnan())
    assert torch.equal(host.ys.nan_to_num(), tensors.ys.nan_to_num())
    assert torch.equal(host.stats.steps, tensors.stats.steps)
