"""method="auto": each trajectory starts with an explicit method, is left to a stiff one while stiff, and says so."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods import METHODS, Auto
from sdesolve.methods.auto import BOUND, BOUND_OF_SLOW, KEPT, radius_bound
from sdesolve.methods.method import Increments, State
from sdesolve.solution import Status
from sdesolve.state import state_spec
from sdesolve.system import System

F64 = torch.float64
AUTO = METHODS["ode", "auto"]
EXPLICIT = [m for m in METHODS.values() if isinstance(m, ss.methods.RungeKutta) and m.tableau.stages > 1]


def tensor(*numbers):
    return torch.tensor(numbers, dtype=F64)


def lotka_volterra(t, y):
    prey, predators = y.unbind(-1)
    return torch.stack([1.5 * prey - prey * predators, prey * predators - 3 * predators], -1)


def van_der_pol(mu):
    def f(t, y):
        u, v = y[..., :1], y[..., 1:]
        return torch.cat([v, mu * (1 - u * u) * v - u], -1)

    return f


def spell(top, steepness=4.0):
    """dy/dt = -k(t) (y - cos t) - sin t, with k near 1 but for t between 2 and 4, where it is near ``top``. From 1 the
    solution is cos t."""

    def f(t, y):
        inside = torch.sigmoid(steepness * (t - 2)) * torch.sigmoid(steepness * (4 - t))
        return -(top**inside) * (y - torch.cos(t)) - torch.sin(t)

    return f


def solve(f, y0, ts, **options):
    problem = f if isinstance(f, ss.ODE) else ss.ODE(f)
    return ss.solve(problem, y0, ts, **{"method": "auto", "rtol": 1e-6, "atol": 1e-8} | options)


def assert_same(a, b):
    """Bitwise the same solutions, of the same steps."""
    assert torch.equal(a.ys, b.ys)
    for name in ("accepted", "rejected", "drift_evaluations"):
        assert torch.equal(getattr(a.stats, name), getattr(b.stats, name)), name


# ---- what stiffness is told by


def growth(tableau, z):
    """R(z), by a step of y' = z y."""
    stages = []
    for row in tableau.a:
        stages.append(z * (1 + sum(a * k for a, k in zip(row, stages, strict=False))))
    return 1 + sum(b * k for b, k in zip(tableau.b, stages, strict=True))


@pytest.mark.parametrize("method", EXPLICIT, ids=lambda method: method.name)
def test_steps_within_the_interval_of_stability_do_not_grow_and_those_beyond_it_do(method):
    x = method.tableau.stability_interval
    for k in range(1, 2000):
        assert abs(growth(method.tableau, -x * k / 2000)) <= 1
    assert abs(abs(growth(method.tableau, -x)) - 1) < 1e-9
    assert abs(growth(method.tableau, -1.001 * x)) > 1


def test_the_classical_intervals_of_stability():
    """Hairer & Wanner II, IV.2: the root of  1 - x/2 + x^2/6 - x^3/24 = 0  for order 4 in 4 stages."""
    interval = lambda name: METHODS["ode", name].tableau.stability_interval
    assert abs(interval("heun") - 2) < 1e-12 and abs(interval("midpoint") - 2) < 1e-12
    x = interval("rk4")
    assert abs(1 - x / 2 + x**2 / 6 - x**3 / 24) < 1e-12
    assert abs(interval("dopri5") - 3.3066) < 1e-4 and abs(interval("tsit5") - 3.5068) < 1e-4


@settings(max_examples=50)
@given(n=st.integers(1, 6), seed=st.integers(0, 2**20), spread=st.integers(0, 6))
def test_the_bound_of_the_spectral_radius_is_one_and_does_not_feel_the_units_of_components(n, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(5, n, n, generator=generator, dtype=F64)
    units = 2.0 ** torch.randint(-spread, spread + 1, (n,), generator=generator)
    bound = radius_bound(J)
    radius = torch.linalg.eigvals(J).abs().amax(1)
    assert (bound >= radius * (1 - 1e-12)).all()
    # the Perron root of |J| is the best that such a bound can be, whatever the units
    perron = torch.linalg.eigvals(J.abs()).abs().amax(1)
    for found in (bound, radius_bound(units[:, None] * J / units)):
        assert (found >= perron * (1 - 1e-12)).all()


def test_the_bound_is_close_where_components_differ_in_size():
    """Of the van der Pol oscillator in a jump: the largest entry is a thousand times the spectral radius."""
    J = tensor([0.0, 1.0], [-1e6, 1e3])[None]
    assert 1e3 < radius_bound(J).item() < 2.5e3
    assert radius_bound(torch.zeros(1, 3, 3)).item() == 0
    # a chain of reactions, whose matrix is nilpotent
    assert radius_bound(tensor([0.0, 0.0], [5.0, 0.0])[None]).item() == 0


@given(rate=st.floats(1.0, 1e6), h=st.floats(1e-3, 1.0))
def test_an_explicit_step_measures_the_rate_of_a_linear_problem(rate, h):
    y = tensor([1.0, -0.5])
    system = System(ss.ODE(lambda t, y: -rate * y), state_spec(y, True)[0])
    t, h = tensor(0.0)[0], tensor(h / rate)[0]
    state = State(y, AUTO.init(system, t, y))
    _, sums = AUTO.explicit.with_sums(system, State(y, state.cache[:1]), Increments(t, h, h), error=True, dense=False)
    assert abs((sums.stages[-1] - sums.stages[-2]).norm() / (sums.y1 - sums.before).norm() - rate) < 1e-6 * rate


# ---- switching


def test_a_problem_that_is_not_stiff_takes_bitwise_the_steps_of_the_explicit_method():
    y0, ts = tensor([1.0, 1.0], [3.0, 0.5], [0.2, 4.0]), torch.linspace(0, 10, 5, dtype=F64)
    for options in ({}, {"shared_steps": True}, {"dense": True}, {"rtol": 1e-3, "atol": 1e-3}, {"rtol": 1e-10}):
        auto, tsit5 = (solve(lotka_volterra, y0, ts, method=name, **options) for name in ("auto", "tsit5"))
        assert_same(auto, tsit5)
        assert not auto.stats.switches.steps.any() and not auto.stats.switches.counts.any()
        assert auto.stats.switches.times.shape == (0, 3) and tsit5.stats.switches is None


def test_f_is_not_asked_more_often_than_by_the_explicit_method():
    calls = []

    def f(t, y):
        calls.append(t)
        return lotka_volterra(t, y)

    counts = []
    for name in ("auto", "tsit5"):
        calls.clear()
        solve(f, tensor([1.0, 1.0]), tensor(0.0, 10.0), method=name)
        counts.append(len(calls))
    assert counts[0] == counts[1]


def test_a_stiff_oscillator_is_left_to_the_stiff_method_and_takes_a_tenth_of_the_evaluations():
    f, y0, ts = van_der_pol(1000.0), tensor([2.0, 0.0]), tensor(0.0, 2.0)
    auto, tsit5 = (solve(f, y0, ts, method=name) for name in ("auto", "tsit5"))
    assert 10 * auto.stats.drift_evaluations.item() < tsit5.stats.drift_evaluations.item()
    assert (auto.ys - tsit5.ys).abs().max() < 1e-5
    switches = auto.stats.switches
    assert switches.stiff.tolist() == [True] and switches.counts.tolist() == [1]
    assert 0 < switches.steps.item() < auto.stats.accepted.item() and 0 < switches.times.item() < 0.1


def test_relaxation_oscillations_meet_the_tolerance():
    """To t = 2000 through two jumps; the end is that of the Test Set for IVP Solvers (Mazzia & Magherini 2008)."""
    sol = solve(van_der_pol(1000.0), tensor([2.0, 0.0]), tensor(0.0, 2000.0), rtol=1e-6, atol=1e-8)
    exact = tensor([1.706167732170483, -0.8928097010247975e-3])
    assert ((sol.ys[-1] - exact) / (1e-8 + 1e-6 * exact.abs())).norm() < 100
    assert sol.stats.steps.item() < 2500


def test_a_problem_that_is_stiff_for_a_time_switches_there_and_back():
    ts = tensor(0.0, 1.0, 3.0, 6.0, 9.0)
    sol = solve(spell(1e5), tensor([1.0]), ts)
    assert (sol.ys[:, 0, 0] - torch.cos(ts)).abs().max() < 1e-5
    switches = sol.stats.switches
    assert switches.counts.tolist() == [2] and switches.stiff.tolist() == [False]
    first, second = switches.times[:, 0].tolist()
    assert 1.0 < first < 2.5 and 3.5 < second < 6.0
    assert 0 < switches.steps.item() < sol.stats.accepted.item()
    # for some 2 units of time the explicit method would have to take steps of 3.5e-5
    assert 100 * sol.stats.drift_evaluations.item() < 6 * 2 * 1e5 / AUTO.interval


def test_a_solution_that_moves_slowly_where_others_are_drawn_to_it_is_stiff_before_stability_binds():
    """Robertson's kinetics at 1e-8: accuracy holds tsit5 at a tenth of the steps that are stable."""

    def robertson(t, y):
        a, b, c = y.unbind(-1)
        slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
        return torch.stack([back - slow, slow - back - fast, fast], -1)

    y0, ts = tensor([1.0, 0.0, 0.0]), tensor(0.0, 1.0)
    auto, tsit5 = (solve(robertson, y0, ts, method=name, rtol=1e-8, atol=1e-13) for name in ("auto", "tsit5"))
    assert auto.stats.switches.times[0].item() < 0.1
    assert 5 * auto.stats.drift_evaluations.item() < tsit5.stats.drift_evaluations.item()
    assert ((auto.ys - tsit5.ys) / (1e-13 + 1e-8 * tsit5.ys)).abs().max() < 10


def test_evaluations_are_those_of_the_steps_that_were_taken():
    sol = solve(spell(1e4), tensor([1.0]), tensor(0.0, 9.0))
    calls = []

    def f(t, y):
        calls.append(1)
        return spell(1e4)(t, y)

    # the derivative by t, in forward mode, and the Jacobian come with evaluations that are counted
    again = solve(f, tensor([1.0]), tensor(0.0, 9.0))
    assert_same(sol, again)
    assert len(calls) == sol.stats.drift_evaluations.item()


def test_times_behind_the_sixteenth_switch_are_not_kept():
    def f(t, y):
        k = 10 ** (2.5 - 2.5 * torch.cos(2 * math.pi * t))
        return -k * (y - torch.cos(t)) - torch.sin(t)

    sol = solve(f, tensor([1.0]), tensor(0.0, 10.0), rtol=1e-4, atol=1e-4)
    assert sol.stats.switches.counts.item() > KEPT
    times = sol.stats.switches.times
    assert times.shape == (KEPT, 1) and (times.diff(dim=0) > 0).all()


# ---- a batch


def test_a_trajectory_is_bitwise_the_same_alone_and_beside_others():
    mu = tensor([0.5], [1000.0], [3.0], [200.0], [50.0], [1e-3])
    y0, ts = tensor([2.0, 0.0]).expand(6, 2) + 0.1 * torch.arange(6)[:, None], tensor(0.0, 0.5, 2.0)
    together = solve(van_der_pol(mu), y0, ts)
    switches = together.stats.switches
    assert switches.counts.tolist()[:4] == [0, 1, 0, 1] and len(together.stats.steps.unique()) == 6
    for rows in ([0], [1], [3, 2], [5, 4, 3, 2, 1, 0]):
        part = solve(van_der_pol(mu[rows]), y0[rows], ts)
        assert torch.equal(part.ys, together.ys[:, rows])
        for name in ("accepted", "rejected", "drift_evaluations"):
            assert torch.equal(getattr(part.stats, name), getattr(together.stats, name)[rows]), name
        for name in ("stiff", "steps", "counts"):
            assert torch.equal(getattr(part.stats.switches, name), getattr(switches, name)[rows]), name
        kept = switches.times[: len(part.stats.switches.times), rows]
        assert torch.equal(part.stats.switches.times.nan_to_num(-1), kept.nan_to_num(-1))


def test_those_that_are_not_stiff_take_bitwise_the_steps_of_the_explicit_method_beside_stiff_ones():
    mu = tensor([0.5], [1000.0], [3.0])
    y0, ts = tensor([2.0, 0.0]).expand(3, 2), tensor(0.0, 2.0)
    together = solve(van_der_pol(mu), y0, ts)
    assert together.stats.switches.counts.tolist() == [0, 1, 0]
    alone = solve(van_der_pol(mu[[0, 2]]), y0[[0, 2]], ts, method="tsit5")
    assert torch.equal(together.ys[:, [0, 2]], alone.ys)
    assert torch.equal(together.stats.drift_evaluations[[0, 2]], alone.stats.drift_evaluations)


def test_on_a_shared_clock_each_trajectory_has_its_own_method():
    mu, y0, ts = tensor([0.5], [1000.0]), tensor([2.0, 0.0]).expand(2, 2), tensor(0.0, 2.0)
    sol = solve(van_der_pol(mu), y0, ts, shared_steps=True)
    assert sol.stats.switches.counts.tolist() == [0, 1] and sol.stats.steps[0] == sol.stats.steps[1]
    exact = solve(van_der_pol(mu), y0, ts, rtol=1e-9, atol=1e-10)
    assert (sol.ys - exact.ys).abs().max() < 1e-5


# ---- with everything else


def test_a_whole_state_and_pytrees_are_solved_as_the_batch_is():
    f, ts = van_der_pol(1000.0), tensor(0.0, 2.0)
    batch = solve(f, tensor([2.0, 0.0]), ts)
    whole = solve(ss.ODE(f, batched=False), tensor(2.0, 0.0), ts)
    assert torch.equal(whole.ys, batch.ys[:, 0]) and torch.equal(whole.stats.switches.times, batch.stats.switches.times)
    tree = lambda t, y: {"u": y["v"], "v": 1000.0 * (1 - y["u"] ** 2) * y["v"] - y["u"]}
    found = solve(tree, {"u": tensor(2.0), "v": tensor(0.0)}, ts).ys
    torch.testing.assert_close(torch.stack([found["u"], found["v"]], -1), batch.ys, rtol=1e-9, atol=1e-12)


def test_dense_output_and_outputs_between_steps_follow_both_methods():
    ts, queries = tensor(0.0, 9.0), torch.linspace(0, 9, 181, dtype=F64)
    dense = solve(spell(1e4), tensor([1.0], [1.0]), ts, dense=True, rtol=1e-7)
    assert (dense(queries)[..., 0] - torch.cos(queries)[:, None]).abs().max() < 1e-5
    assert dense.stats.switches.counts.tolist() == [2, 2]
    control = ss.PID(rtol=1e-7, atol=1e-8, interpolate=True)
    between = solve(spell(1e4), tensor([1.0], [1.0]), queries, controller=control, rtol=None, atol=None)
    assert torch.equal(between.stats.steps, dense.stats.steps)
    torch.testing.assert_close(between.ys, dense(queries), rtol=0.0, atol=1e-13)


def test_times_of_each_trajectorys_own_and_backward_times():
    ts = tensor([0.0, 3.0, 9.0], [1.0, 2.0, 3.0], [5.0, 7.0, 9.0])
    y0 = torch.cos(ts[:, :1])
    sol = solve(spell(1e4), y0, ts)
    assert (sol.ys[..., 0] - torch.cos(ts).T).abs().max() < 1e-5
    assert sol.stats.switches.counts.tolist() == [2, 1, 0]
    mirrored = solve(lambda t, y: -spell(1e4)(-t, y), y0, -ts)
    assert torch.equal(mirrored.ys, sol.ys)
    assert torch.equal(mirrored.stats.switches.times.nan_to_num(0), -sol.stats.switches.times.nan_to_num(0))


def test_a_jump_of_the_right_hand_side_keeps_the_method_and_what_is_known_of_it():
    f = lambda t, y: -torch.where(t < 1, 1e4, 1.0) * (y - torch.where(t < 1, 1.0, 2.0))
    control = ss.PID(rtol=1e-6, atol=1e-8, jumps=[1.0])
    for y0 in (tensor([0.0]), tensor([0.0], [5.0])):
        sol = solve(f, y0, tensor(0.0, 5.0), controller=control, rtol=None, atol=None)
        torch.testing.assert_close(sol.ys[-1], torch.full_like(y0, 2 - math.exp(-4)), rtol=1e-5, atol=0.0)
        assert sol.stats.switches.counts.tolist() == [2] * len(y0)
        first, second = sol.stats.switches.times[:, 0].tolist()
        assert first < 1 < second


def test_an_event_that_changes_the_state_keeps_the_method():
    """y is drawn to cos t in 1e-4, and put to 0 where it comes down to 1/2; the slope of a stiff trajectory, which no
    step keeps, is asked for."""
    drop = ss.Event(lambda t, y: y[:, 0] - 0.5, affect=lambda t, y: 0 * y, terminal=False, direction=-1)
    sol = solve(spell(1e4, 40.0), tensor([1.0], [1.0]), tensor(0.0, 3.0), events=drop)
    assert (sol.ys[-1] - math.cos(3)).abs().max() < 1e-5
    assert abs(sol.events[0].times[0, 0].item() - math.pi / 3) < 1e-6


def test_complex_states_stay_with_the_explicit_method():
    y0 = torch.tensor([[1.0 + 0.5j], [2.0 - 1.0j]], dtype=torch.complex128)
    f = lambda t, y: (1j - 60) * y
    auto, tsit5 = (solve(f, y0, tensor(0.0, 2.0), method=name) for name in ("auto", "tsit5"))
    assert_same(auto, tsit5)
    assert auto.stats.switches.counts.tolist() == [0, 0] and auto.stats.switches.times.shape == (0, 2)


def test_single_precision_switches_too():
    y0, ts = torch.tensor([[2.0, 0.0]]), torch.tensor([0.0, 5.0])
    sol = solve(van_der_pol(1000.0), y0, ts, rtol=1e-4, atol=1e-5)
    assert sol.ys.dtype == torch.float32 and sol.stats.switches.counts.tolist() == [1]
    exact = solve(van_der_pol(1000.0), y0.double(), ts.double())
    assert (sol.ys - exact.ys).abs().max() < 1e-3


def test_a_trajectory_that_fails_changes_neither_values_nor_gradients_of_the_others():
    def run(y0):
        p = torch.tensor(0.7, dtype=F64, requires_grad=True)
        y0 = y0.clone().requires_grad_()
        bad = lambda y: y[:, :1] > 2.5
        f = lambda t, y: p * van_der_pol(1000.0)(t, y) * torch.where(bad(y) & (t > 0.3), torch.nan, 1.0)
        sol = solve(f, y0, torch.linspace(0, 1, 3, dtype=F64), on_failure="return", max_steps=1000)
        return sol, *torch.autograd.grad((sol.ys[:, sol.success] ** 2).sum(), (p, y0))

    y0 = tensor([2.0, 0.0], [3.0, 0.0], [0.1, 0.1])
    together, by_p, by_y = run(y0)
    assert together.status.tolist() == [Status.SUCCESS, Status.NONFINITE, Status.SUCCESS]
    alone, p_alone, y_alone = run(y0[[0, 2]])
    assert torch.equal(together.ys[:, [0, 2]], alone.ys)
    torch.testing.assert_close(by_p, p_alone, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(by_y[[0, 2]], y_alone, rtol=1e-12, atol=1e-14)
    assert (by_y[1] == 0).all()


def test_max_steps_end_a_trajectory():
    sol = solve(van_der_pol(1000.0), tensor([2.0, 0.0]), tensor(0.0, 2000.0), max_steps=60, on_failure="return")
    assert sol.status.tolist() == [Status.MAX_STEPS] and sol.stats.steps.tolist() == [60]
    assert sol.stats.switches.steps.item() > 0


# ---- gradients


def test_gradients_are_those_of_the_solution():
    """Through both methods and both switches, by central differences of tight solves."""

    def end(p, tolerance):
        f = lambda t, y: spell(1e3)(t, y) + 0.3 * p * torch.sin(y + t)
        y0 = torch.ones_like(p)
        return solve(f, y0, tensor(0.0, 3.0, 6.0), rtol=tolerance, atol=tolerance)

    p = tensor([0.8], [1.3]).requires_grad_()
    sol = end(p, 1e-7)
    assert sol.stats.switches.counts.tolist() == [2, 2]
    (found,) = torch.autograd.grad(sol.ys[1:].sum(), p)
    d = 1e-4
    with torch.no_grad():
        ahead, behind = end(torch.cat([p + d, p - d]), 1e-9).ys[1:].sum(0).chunk(2)
    torch.testing.assert_close(found, (ahead - behind) / (2 * d), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [{}, {"shared_steps": True}], ids=["own", "shared"])
def test_checkpointed_gradients_are_the_direct_ones(way):
    def gradients(adjoint):
        y0, mu = tensor([2.0, 0.0], [1.0, -0.5]).requires_grad_(), tensor([500.0], [2.0]).requires_grad_()
        sol = solve(van_der_pol(mu), y0, tensor(0.0, 0.5, 1.0), rtol=1e-5, adjoint=adjoint, **way)
        assert sol.stats.switches.counts.tolist() == [1, 0]
        return torch.autograd.grad(sol.ys[1:].square().sum(), (y0, mu))

    for direct, checkpointed in zip(gradients("direct"), gradients("checkpoint"), strict=True):
        torch.testing.assert_close(checkpointed, direct, rtol=1e-9, atol=1e-12)


# ---- what it says, and what it refuses


def test_stats_name_the_methods_and_tell_when():
    mu, y0 = tensor([0.5], [1000.0]), tensor([2.0, 0.0]).expand(2, 2)
    sol = solve(van_der_pol(mu), y0, tensor(0.0, 2.0))
    steps = sol.stats.switches.steps.tolist()
    assert sol.stats.method == "auto" and sol.stats.switches.names == ("tsit5", "rodas5p")
    told = f"(tsit5; rodas5p for 0..{steps[1]} steps, 0..1 switches, 1 of 2 ended with rodas5p)"
    assert told in repr(sol) and told in repr(sol.stats)
    times = sol.stats.switches.times
    assert times.shape == (1, 2) and times[0, 0].isnan() and 0 < times[0, 1] < 2


def test_fixed_steps_are_refused():
    with pytest.raises(ValueError, match=r"dt: got fixed steps for method 'auto'.*rtol=, atol=.*'tsit5', or 'rodas5p'"):
        ss.solve(ss.ODE(lambda t, y: -y), tensor([1.0]), tensor(0.0, 1.0), method="auto", dt=0.1)
    # with tolerances it is the first step
    assert solve(lambda t, y: -y, tensor([1.0]), tensor(0.0, 1.0), dt=0.1).success.all()


def test_an_sde_is_told_what_to_write():
    sde = ss.SDE(lambda t, y: -y, lambda t, y: y)
    with pytest.raises(ValueError, match=r"method: got 'auto'.*'auto' is for ODEs\. .*stiff=True in the SDE"):
        ss.solve(sde, tensor([1.0]), tensor(0.0, 1.0), method="auto", rtol=1e-2)


@pytest.mark.parametrize("adjoint", ["backsolve", "reversible"])
def test_adjoints_that_need_explicit_methods_are_refused(adjoint):
    with pytest.raises(ValueError, match="'auto'"):
        solve(lambda t, y: -y, tensor([1.0]), tensor(0.0, 1.0), adjoint=adjoint)


def test_pairs_that_do_not_go_together_are_refused():
    pair = lambda explicit, stiff: Auto("own", METHODS["ode", explicit], METHODS["ode", stiff])
    with pytest.raises(ValueError, match="explicit: got 'bosh3'"):
        pair("bosh3", "rosenbrock23")
    with pytest.raises(ValueError, match=r"stiff: got 'rosenbrock23'.*order 5"):
        pair("tsit5", "rosenbrock23")
    sol = solve(van_der_pol(1000.0), tensor([2.0, 0.0]), tensor(0.0, 2.0), method=pair("dopri5", "rodas5p"))
    assert sol.stats.switches.counts.tolist() == [1] and sol.stats.switches.names == ("dopri5", "rodas5p")


def test_the_default_for_an_ode_that_says_that_it_is_stiff():
    f, y0, ts = van_der_pol(1000.0), tensor([2.0, 0.0]), tensor(0.0, 2.0)
    sol = ss.solve(ss.ODE(f, stiff=True), y0, ts)
    assert sol.stats.method == "rodas5p" and sol.stats.steps.item() < 100
    assert ss.solve(ss.ODE(lambda t, y: -y), y0, ts).stats.method == "tsit5"
    assert ss.solve(ss.ODE(f, stiff=True), y0, ts, dt=0.1).stats.method == "rodas5p"


def test_steps_are_bound_by_stability_near_the_end_of_the_interval():
    """h rho of explicit steps that are never given up, where the estimate of rho is right."""
    seen = []

    class Stubborn(Auto):
        def _other(self, stiff, product):
            seen.append(float(product))
            return torch.zeros_like(stiff)

    for f, y0 in ((lambda t, y: -1000 * (y - 1), [0.0]), (van_der_pol(1000.0), [2.0, 0.0])):
        seen.clear()
        solve(f, tensor(y0), tensor(0.0, 1.0), method=Stubborn("stubborn"), rtol=1e-3, atol=1e-3)
        late = torch.tensor(seen[len(seen) // 2 :])
        # those in which f hardly changes are weighted
        late = torch.where(late > 2 * AUTO.interval, late * BOUND_OF_SLOW / BOUND, late)
        assert (late / AUTO.interval - 1).abs().median() < 0.01
    assert BOUND < 0.99


@pytest.mark.compile
@pytest.mark.traced
def test_a_compiled_solve_is_the_eager_one():
    mu = tensor([1.0], [30.0], [1000.0])
    y0, ts = tensor([2.0, 0.0]).expand(3, 2).clone(), tensor(0.0, 1.0, 10.0)
    eager, compiled = (solve(van_der_pol(mu), y0, ts, compile=c) for c in (False, True))
    assert torch.equal(eager.stats.steps, compiled.stats.steps)
    assert torch.equal(eager.stats.drift_evaluations, compiled.stats.drift_evaluations)
    assert torch.equal(eager.stats.switches.steps, compiled.stats.switches.steps)
    torch.testing.assert_close(compiled.ys, eager.ys, rtol=1e-9, atol=1e-9)


def test_compiled_gradients_are_refused():
    y0 = tensor([1.0, 2.0]).requires_grad_()
    with pytest.raises(ss.CompileError, match=r"True with method='auto', where gradients.*compile=False"):
        solve(lambda t, y: -y, y0, tensor(0.0, 1.0), compile=True)
