"""Those that are left of an eager solve go on as a smaller batch: the results are those of the whole batch, bitwise."""

from itertools import product

import pytest
import torch
from torch import nn

import sdesolve as ss
from sdesolve import fewer
from tests.events.known import bounce, fall

F64 = torch.float64
BATCH = 16
TS = torch.tensor([0.0, 0.4, 1.0, 2.0], dtype=F64)
OWN_TS = TS * torch.linspace(0.5, 2.0, BATCH, dtype=F64)[:, None]


def f(t, y):
    """Rotations from slow to fast, whose square's radius is the last component; with forcing."""
    a, b, w = y.unbind(1)
    return torch.stack([-w * b, w * a + torch.cos(t[:, 0]), 0.01 * a], 1)


def starts():
    w = torch.logspace(0, 1, BATCH, dtype=F64)
    w = w[torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))]
    return torch.stack([torch.ones_like(w), 0.01 * w, w], 1)


@pytest.fixture
def sizes(monkeypatch):
    """Batches of 4 are large enough; how many went on together, negative where the functions refused."""
    found = []
    monkeypatch.setattr(fewer, "LEAST", 1)
    monkeypatch.setattr(fewer, "LEAST_ALONG", 1)
    monkeypatch.setattr(fewer, "ROUNDS", 1)
    plain = fewer.UnderWay.divide

    def noted(self, outputs):
        plain(self, outputs)
        found.append(self.loop.system.spec.batch if self.few or self.loop.system.spec.batch < 4 else -1)

    monkeypatch.setattr(fewer.UnderWay, "divide", noted)
    return found


def both(run, monkeypatch):
    """The result in parts, and that of the whole batch."""
    parts = run()
    with monkeypatch.context() as patch:
        patch.setattr(fewer, "LEAST", 10**9)
        return parts, run()


def equal(parts, whole):
    assert torch.equal(parts.ys.nan_to_num(7.0), whole.ys.nan_to_num(7.0))
    assert torch.equal(parts.status, whole.status)
    for name in ("steps", "accepted", "rejected", "drift_evaluations", "diffusion_evaluations"):
        assert torch.equal(getattr(parts.stats, name), getattr(whole.stats, name))


CONTROLS = {
    "plain": {},
    "tight": {"rtol": 1e-7, "atol": 1e-8},
    "tolerances of each": {"rtol": torch.logspace(-3, -8, BATCH, dtype=F64)[:, None]},
    "interpolated": {"controller": ss.PID(1e-5, 1e-7, interpolate=True)},
    "jumps": {"controller": ss.PID(1e-5, 1e-7, jumps=[0.7, 1.5], d=0.05, dt_max=0.2)},
    "implicit": {"method": "kencarp4", "rtol": 1e-4, "atol": 1e-4},
    "rosenbrock": {"method": "rodas5p", "rtol": 1e-4, "atol": 1e-4},
    "no first same as last": {"method": "dop853"},
    "changing": {"method": "auto", "rtol": 1e-4, "atol": 1e-4},
}


TIMES = {"shared times": TS, "own times": OWN_TS, "backwards": -TS}


@pytest.mark.parametrize(
    ("how", "ts"),
    [
        pytest.param(CONTROLS[control], TIMES[times], id=f"{control}, {times}")
        for control, times in product(CONTROLS, TIMES)
        if (control, times) != ("jumps", "own times")
    ],
)
def test_an_ode_in_parts_is_the_ode_of_the_whole_batch(sizes, monkeypatch, how, ts):
    parts, whole = both(lambda: ss.solve(ss.ODE(f), starts(), ts, **how), monkeypatch)
    assert min(sizes) == 2 or len(sizes) > 1, "parts of parts"
    equal(parts, whole)


def test_trajectories_that_change_their_method_do_so_in_parts(sizes, monkeypatch):
    """Stiff ones beside others, which are done long before."""
    y0 = torch.zeros(BATCH, 3, dtype=F64)
    y0[:, 2] = torch.where(torch.arange(BATCH) % 3 == 0, 1e4, torch.linspace(1, 30, BATCH, dtype=F64))

    def pulled(t, y):
        x, v, k = y.unbind(-1)
        return torch.stack([v, -k * (v - torch.cos(t[:, 0])) - x, torch.zeros_like(k)], -1)

    run = lambda: ss.solve(ss.ODE(pulled), y0, 3 * TS, method="auto", rtol=1e-5, atol=1e-6)
    parts, whole = both(run, monkeypatch)
    assert len(sizes) > 0 and min(sizes) > 0
    equal(parts, whole)
    assert torch.equal(parts.stats.switches.counts, whole.stats.switches.counts)
    assert torch.equal(parts.stats.switches.steps, whole.stats.switches.steps)
    assert parts.stats.switches.counts[::3].min() > 0 and parts.stats.switches.counts[1::3].max() == 0


@pytest.mark.parametrize("interpolate", [False, True])
def test_gradients_in_parts_are_those_of_the_whole_batch(sizes, monkeypatch, interpolate):
    rate = torch.tensor(0.3, dtype=F64, requires_grad=True)
    y0 = starts().requires_grad_()
    control = ss.PID(1e-5, 1e-7, interpolate=interpolate)
    weights = torch.randn(len(TS), BATCH, 3, dtype=F64, generator=torch.Generator().manual_seed(1))

    def run():
        sol = ss.solve(ss.ODE(lambda t, y: f(t, y) - rate * y), y0, TS, controller=control)
        return sol, torch.autograd.grad((weights * sol.ys).sum(), [y0, rate])

    (parts, found), (whole, wanted) = both(run, monkeypatch)
    assert len(sizes) > 1
    equal(parts, whole)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_what_has_finished_keeps_its_values_and_gradients_whatever_comes_after(sizes):
    """The slowest fails, in its part: the others have finished, and their gradients are their own."""
    y0 = starts().requires_grad_()
    last = int(y0[:, 2].argmax())
    cut = lambda t, y: torch.where((y[:, 2:] > 9.9) & (t > 1.9), torch.nan, f(t, y))
    sol = ss.solve(ss.ODE(cut), y0, TS, on_failure="return")
    good = torch.arange(BATCH) != last
    assert sol.success.tolist() == good.tolist() and min(sizes) > 0
    alone = ss.solve(ss.ODE(f), y0, TS)
    assert torch.equal(sol.ys[:, good], alone.ys[:, good]) and sol.ys[-1, last].isnan().all()
    grads = [torch.autograd.grad(s.ys[:, good].sum(), y0)[0] for s in (sol, alone)]
    assert torch.isfinite(grads[0]).all()
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "with a graph"])
def test_failures_are_isolated_in_parts(sizes, monkeypatch, grad):
    blows = torch.linspace(0.0, 1.0, BATCH, dtype=F64)

    def grows(t, y):
        return torch.cat([f(t, y[:, :3]), y[:, 3:] ** 2 * 1.3], 1)

    def run():
        y0 = torch.cat([starts(), blows[:, None]], 1).requires_grad_(grad)
        sol = ss.solve(ss.ODE(grows), y0, TS, on_failure="return", max_steps=400)
        found = torch.autograd.grad(sol.ys[:, sol.success].sum(), y0)[0] if grad else None
        return sol, found

    (parts, found), (whole, wanted) = both(run, monkeypatch)
    assert len(sizes) > 1 and 0 < parts.success.sum() < BATCH
    equal(parts, whole)
    if grad:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "with a graph"])
def test_dense_output_of_parts_is_that_of_the_whole_batch(sizes, monkeypatch, grad):
    y0 = starts().requires_grad_(grad)
    at = torch.linspace(0.0, 2.0, 23, dtype=F64)

    def run():
        found = ss.solve(ss.ODE(f), y0, TS, dense=True)(at)
        return found, torch.autograd.grad(found.sum(), y0)[0] if grad else None

    (parts, found), (whole, wanted) = both(run, monkeypatch)
    assert len(sizes) > 1 and torch.equal(parts, whole)
    if grad:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize("ts", [TS, OWN_TS], ids=["shared times", "own times"])
def test_an_sde_in_parts_follows_the_same_paths(sizes, monkeypatch, noise, ts):
    g = {
        "diagonal": lambda t, y: 0.3 * torch.cos(2 * y) + 0.2 * t,
        "scalar": lambda t, y: 0.3 * torch.cos(2 * y) + 0.2 * t,
        "general": lambda t, y: 0.3 * torch.stack([torch.cos(y), 0.2 * y, torch.ones_like(y)], -1),
    }[noise]
    sde = ss.SDE(lambda t, y: torch.sin(y) - t * y, g, noise=noise, calculus="stratonovich")
    y0 = torch.linspace(-2, 4, 2 * BATCH, dtype=F64).reshape(BATCH, 2)
    ids = torch.arange(BATCH) ** 2 + 5
    run = lambda: ss.solve(sde, y0, ts, rtol=1e-2, atol=1e-2, seed=3, paths=ids, method="heun")
    parts, whole = both(run, monkeypatch)
    assert sizes and min(sizes) > 0
    equal(parts, whole)


@pytest.mark.parametrize("method, noise", [("sosri", "diagonal"), ("log_ode", "general")])
def test_an_sde_whose_method_asks_for_levy_areas_goes_on_in_parts(sizes, monkeypatch, method, noise):
    g = lambda t, y: 0.3 * torch.cos(2 * y)
    matrix = lambda t, y: torch.stack([g(t, y), 0.1 * y], -1)
    calculus = "ito" if noise == "diagonal" else "stratonovich"
    sde = ss.SDE(
        lambda t, y: torch.sin(y) - t * y, g if noise == "diagonal" else matrix, noise=noise, calculus=calculus
    )
    y0 = torch.linspace(-2, 4, 2 * BATCH, dtype=F64).reshape(BATCH, 2)
    parts, whole = both(lambda: ss.solve(sde, y0, TS, rtol=1e-2, atol=1e-2, seed=3, method=method), monkeypatch)
    assert sizes and min(sizes) > 0
    equal(parts, whole)


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "with a graph"])
def test_events_in_parts_are_those_of_the_whole_batch(sizes, monkeypatch, grad):
    heights = torch.linspace(20.0, 1.0, BATCH, dtype=F64)
    y0 = torch.stack([heights, torch.zeros_like(heights)], 1).requires_grad_(grad)
    top = ss.Event(lambda t, y: y[:, 1], terminal=False)
    end = ss.Event(lambda t, y: torch.stack([y[:, 0] + 1, t[:, 0] * y[:, 1] - 9], 1))

    def run():
        sol = ss.solve(ss.ODE(fall), y0, TS, events=[bounce(0.95), top, end], rtol=1e-7, atol=1e-9)
        values = [x.nan_to_num() for event in sol.events for x in (event.times, event.ys)]
        return sol, torch.autograd.grad(sum(x.sum() for x in values), y0)[0] if grad else None

    (parts, found), (whole, wanted) = both(run, monkeypatch)
    assert sizes and min(sizes) > 0
    equal(parts, whole)
    for one, other in zip(parts.events, whole.events, strict=True):
        for x, y in zip((one.times, one.ys, one.counts), (other.times, other.ys, other.counts), strict=True):
            assert torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0))
    if grad:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 3)).double()

    def forward(self, t, y):
        return f(t, y) + self.net(y)


def test_a_network_in_parts_agrees_with_that_of_the_whole_batch_to_rounding(sizes, monkeypatch):
    net = Network()

    def run():
        sol = ss.solve(ss.ODE(net), starts(), TS, rtol=1e-6, atol=1e-6)
        return sol.ys.detach(), torch.autograd.grad(sol.ys.square().mean(), list(net.parameters()))

    (parts, found), (whole, wanted) = both(run, monkeypatch)
    assert len(sizes) > 1 and min(sizes) > 0
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


OWN = torch.linspace(0.5, 1.0, BATCH, dtype=F64)[:, None]
KNOWING = {
    "numbers": lambda t, y: f(t, y) - 0.1 * torch.arange(len(y))[:, None] * y,
    "numbers, later": lambda t, y: f(t, y) - torch.relu(t - 1.95) * torch.arange(len(y))[:, None] * y,
}


@pytest.mark.parametrize("g", KNOWING.values(), ids=KNOWING.keys())
def test_functions_that_know_the_batch_are_given_all_of_it(sizes, monkeypatch, g):
    parts, whole = both(lambda: ss.solve(ss.ODE(g), starts(), TS), monkeypatch)
    assert sizes == [-1], "asked once, and refused"
    equal(parts, whole)


class Rates(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(OWN[:, 0].clone())
        self.levels = OWN.clone()

    def forward(self, t, y):
        return self.rate.reshape(-1, 1) * f(t, y)


@pytest.mark.parametrize("events", [False, True], ids=["plain", "events"])
def test_tensors_of_the_batch_are_taken_along(sizes, monkeypatch, events):
    """In values and gradients: of a module's parameters, of a closure's tensors, of a condition's levels."""
    rates, shift = Rates(), (0.1 * OWN).requires_grad_()
    crossing = ss.Event(lambda t, y: y[:, 0] - rates.levels[:, 0], terminal=False)

    def run():
        sol = ss.solve(ss.ODE(lambda t, y: rates(t, y) - shift), starts(), TS, events=crossing if events else None)
        value = sol.ys.square().sum() + sum(event.times.nan_to_num().sum() for event in sol.events)
        return sol, torch.autograd.grad(value, [rates.rate, shift])

    (parts, found), (whole, wanted) = both(run, monkeypatch)
    assert len(sizes) > 1 and min(sizes) > 0
    equal(parts, whole)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("adjoint", ["backsolve", "checkpoint", "reversible"])
def test_adjoints_find_the_same_gradients(sizes, monkeypatch, adjoint):
    y0 = starts().requires_grad_()

    def run():
        sol = ss.solve(ss.ODE(f), y0, TS, adjoint=adjoint, rtol=1e-5, atol=1e-5)
        return sol, torch.autograd.grad(sol.ys.sum(), y0)[0]

    (parts, found), (whole, wanted) = both(run, monkeypatch)
    equal(parts, whole)
    assert torch.equal(found, wanted)


def test_an_interrupted_solve_keeps_what_its_parts_have_done(sizes):
    calls = []

    def interrupting(t, y):
        calls.append(len(y))
        if calls.count(2) > 30:
            raise KeyboardInterrupt
        return f(t, y)

    with pytest.raises(ss.SolveInterrupted) as caught:
        ss.solve(ss.ODE(interrupting), starts(), TS)
    found, whole = caught.value.solution, ss.solve(ss.ODE(f), starts(), TS)
    done = found.status == ss.Status.SUCCESS
    assert min(sizes) > 0 and 0 < done.sum() < BATCH and (found.status[~done] == ss.Status.INTERRUPTED).all()
    assert torch.equal(found.ys[:, done], whole.ys[:, done])
    assert torch.equal(found.stats.steps[done], whole.stats.steps[done])
    assert (found.stats.steps[~done] > found.stats.steps[done].max()).all()
    there = ~found.ys.isnan()
    assert torch.equal(found.ys[there], whole.ys[there]) and there[:3].all()


def test_progress_is_that_of_all(sizes, monkeypatch):
    monkeypatch.setattr("sdesolve.progress.time.monotonic", iter(range(10**6)).__next__)
    found = []
    ss.solve(ss.ODE(f), starts(), TS, progress=found.append)
    assert min(sizes) > 0 and found == sorted(found) and found[-1] == 1.0
    # one of 16 was left at the end
    assert 1 - found[-3] < 1 / BATCH
