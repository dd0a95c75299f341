"""What varies from solve to solve is an input of the graph: nothing is compiled anew for it."""

import pytest
import torch
from torch._dynamo.utils import counters

import sdesolve as ss
from sdesolve.compiled import graphs

pytestmark = pytest.mark.compile

F64 = torch.float64
TS = torch.tensor([0.0, 1.0])
TS64 = TS.double()


def compilations(run):
    before = counters["stats"]["unique_graphs"]
    run()
    return counters["stats"]["unique_graphs"] - before


def decay(rate):
    """A new problem with a function of the same code."""
    return ss.ODE(lambda t, y: -rate * y)


def test_adaptive_steps_compile_once_for_all_problems_of_one_code():
    def solve(batch=3, rate=1.0, tolerance=1e-4, ts=TS64, **how):
        problem, y0 = decay(torch.tensor(rate, dtype=F64)), torch.ones(batch, 2, dtype=F64)
        how |= {"rtol": tolerance, "atol": tolerance, "on_failure": "return"}
        with torch.no_grad():
            compiled, eager = (ss.solve(problem, y0, ts, compile=c, **how) for c in (True, False))
        assert torch.equal(compiled.stats.accepted, eager.stats.accepted)
        assert torch.equal(compiled.status, eager.status)
        torch.testing.assert_close(compiled.ys, eager.ys, rtol=1e-12, atol=0, equal_nan=True)

    assert compilations(solve) == 1
    for change in (
        {"batch": 2},
        {"batch": 1000},
        {"rate": 2.0},
        {"tolerance": 1e-6},
        {"ts": torch.linspace(0, 3, 7, dtype=F64)},
        {"max_steps": 3},
        {"batch": 5},
    ):
        assert compilations(lambda change=change: solve(**change)) == 0, change
    assert compilations(lambda: solve(batch=1)) == 1
    assert compilations(lambda: solve(batch=1, rate=3.0)) == 0


def test_fixed_steps_compile_once_for_all_seeds_steps_and_batches():
    def solve(batch=3, dt=0.1, seed=0, ts=TS, paths=None):
        sde = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y, calculus="stratonovich")
        how = {"dt": dt, "seed": seed, "paths": paths, "method": "heun"}
        with torch.no_grad():
            ys = ss.solve(sde, torch.ones(batch, 1), ts, compile=True, **how).ys
        torch.testing.assert_close(ys, ss.solve(sde, torch.ones(batch, 1), ts, **how).ys, rtol=1e-4, atol=1e-5)

    assert compilations(solve) == 1
    for change in ({"batch": 50_000}, {"dt": 1e-3}, {"seed": 2**63}, {"paths": [7, 8, 9]}, {"ts": torch.arange(4.0)}):
        assert compilations(lambda change=change: solve(**change)) == 0, change


@pytest.mark.traced
def test_parameters_of_a_network_that_were_replaced_are_seen_without_compiling():
    def solve(net):
        with torch.no_grad():
            return ss.solve(ss.ODE(lambda t, y: net(y)), torch.ones(3, 2), TS, dt=0.5, compile=True).ys[-1]

    nets = [torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)) for _ in range(2)]
    found = []
    assert compilations(lambda: found.append(solve(nets[0]))) == 1
    assert compilations(lambda: found.append(solve(nets[1]))) == 0
    with torch.no_grad():
        for net, ys in zip(nets, found, strict=True):
            expected = ss.solve(ss.ODE(lambda t, y, net=net: net(y)), torch.ones(3, 2), TS, dt=0.5).ys[-1]
            torch.testing.assert_close(ys, expected)


def test_tensors_of_one_batch_in_a_closure_compile_for_that_batch():
    def solve(batch):
        rates = torch.linspace(1, 2, batch)[:, None]
        with torch.no_grad():
            ys = ss.solve(decay(rates), torch.ones(batch, 1), TS, dt=0.01, compile=True).ys[-1]
        torch.testing.assert_close(ys, torch.exp(-rates), rtol=1e-4, atol=0)

    solve(3)
    solve(4)
    assert compilations(lambda: solve(3)) == 0


@pytest.mark.traced
def test_twenty_functions_of_one_structure_are_compiled_each():
    for constant in range(20):  # torch's own limit of recompilations is 8
        f = lambda t, y, constant=constant: -constant * y
        with torch.no_grad():
            ys = ss.solve(ss.ODE(f), torch.ones(2, 1), TS, dt=0.5, method="euler", compile=True).ys[-1]
            torch.testing.assert_close(ys, ss.solve(ss.ODE(f), torch.ones(2, 1), TS, dt=0.5, method="euler").ys[-1])


@pytest.mark.traced
def test_behind_the_last_graph_of_a_function_all_are_made_anew_with_a_warning(monkeypatch):
    monkeypatch.setitem(graphs.LIMITS, "recompile_limit", 2)

    def solve(constant):
        ode = ss.ODE(lambda t, y: -constant * y)
        with torch.no_grad():
            ys = ss.solve(ode, torch.ones(2, 1), TS, dt=0.5, method="heun", compile=True).ys[-1]
        torch.testing.assert_close(ys, ss.solve(ode, torch.ones(2, 1), TS, dt=0.5, method="heun").ys[-1])

    solve(1.0)
    solve(2.0)
    with pytest.warns(UserWarning, match="keep those that change in tensors"):
        solve(3.0)
    assert compilations(lambda: solve(3.0)) == 0


@pytest.mark.traced
def test_a_hook_that_a_module_gets_later_is_seen():
    layer = torch.nn.Linear(2, 2)
    net = torch.nn.Sequential(layer)
    ode, y0 = ss.ODE(lambda t, y: net(y)), torch.ones(3, 2)

    def solve(compile):
        with torch.no_grad():
            return ss.solve(ode, y0, TS, dt=0.5, method="heun", compile=compile).ys

    solve(True)
    layer.register_forward_hook(lambda module, given, out: 2 * out)
    torch.testing.assert_close(solve(True), solve(False))
