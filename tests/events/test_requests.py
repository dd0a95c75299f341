"""Requests with events that make no sense, and functions of events that return the wrong thing."""

import pytest
import torch

import sdesolve as ss
from sdesolve.errors import CompileError, CoupledTrajectoriesError, FunctionError
from tests.events.known import F64, fall, first, swing

Y = torch.tensor([[1.0, 0.0], [2.0, 0.5], [3.0, 0.0]], dtype=F64)
TS = torch.tensor([0.0, 1.0, 2.0], dtype=F64)
EVENT = ss.Event(first)
NOISY = ss.SDE(swing, lambda t, y: 0.1 * y)


def refused(kind, call, *fragments):
    with pytest.raises(kind) as caught:
        call()
    for fragment in fragments:
        assert fragment in str(caught.value), f"{fragment!r} is not in {str(caught.value)!r}"


def cases(**named):
    return pytest.mark.parametrize("case", named.values(), ids=named.keys())


@cases(
    condition=(TypeError, lambda: ss.Event(3), "condition: got int", "(t, y) -> tensor"),
    affect=(TypeError, lambda: ss.Event(first, affect=3), "affect: got int", "(t, y) -> y"),
    direction=(ValueError, lambda: ss.Event(first, direction=2), "direction: got 2", "rising"),
    word=(ValueError, lambda: ss.Event(first, direction="up"), "direction: got 'up'", "rising"),
    terminal=(TypeError, lambda: ss.Event(first, terminal=1), "terminal: got 1", "True or False"),
)
def test_an_event_that_cannot_be_one_is_refused(case):
    kind, call, *fragments = case
    refused(kind, call, *fragments)


@cases(
    function=(TypeError, {"events": first}, "events: got function", "ss.Event(condition)"),
    functions=(TypeError, {"events": [first]}, "events: got [", "ss.Event(condition)"),
    dense=(CompileError, {"events": EVENT, "compile": True, "dense": True}, "compile: got True with dense=True"),
    compiled=(
        CompileError,
        {"events": ss.Event(first, terminal=False), "compile": True, "adjoint": "backsolve"},
        "compile: got True with adjoint='backsolve' and events",
    ),
    checkpoint=(ValueError, {"events": EVENT, "adjoint": "checkpoint"}, "adjoint: got 'checkpoint' with events"),
    backsolve=(ValueError, {"events": EVENT, "adjoint": ss.Backsolve()}, "adjoint: got", "'direct'"),
    times=(ValueError, {"events": EVENT, "ts": TS.clone().requires_grad_()}, "ts: got times with a gradient", "detach"),
)
def test_what_events_cannot_go_with_is_refused(case):
    kind, request, *fragments = case
    refused(kind, lambda: ss.solve(ss.ODE(swing), Y, **{"ts": TS, **request}), *fragments)


def test_events_of_sdes_are_refused():
    for how in ({"dt": 0.1}, {"rtol": 1e-2}):
        refused(ValueError, lambda how=how: ss.solve(NOISY, Y, TS, events=EVENT, seed=0, **how), "events: got", "noise")


def test_methods_without_dense_output_are_refused():
    problem = ss.Semilinear(-1.0, lambda t, y: -(y**3))
    refused(ValueError, lambda: ss.solve(problem, Y, TS, events=EVENT, rtol=1e-3), "dense output", "tsit5")


def test_transforms_of_torch_func_are_refused():
    found = lambda y: ss.solve(ss.ODE(swing), y, TS, events=EVENT).events[0].times.sum()
    refused(ValueError, lambda: torch.func.jvp(found, (Y,), (Y,)), "torch.func", "torch.autograd")


def test_a_condition_that_draws_noise_is_refused():
    net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout(0.5)).double()
    with pytest.raises(ss.errors.TrainingModeError, match="Dropout"):
        ss.solve(ss.ODE(swing), Y, TS, events=ss.Event(lambda t, y: net(y)[:, 0]))


def test_no_events_are_none():
    for events in (None, [], ()):
        sol = ss.solve(ss.ODE(swing), Y, TS, events=events)
        assert sol.events == () and sol.success.all()


CONDITIONS = {
    "number": (lambda t, y: 1.0, "condition of events[0]: returned float", "a torch tensor"),
    "boolean": (lambda t, y: y[:, 0] > 0, "returned dtype torch.bool", "changes its sign"),
    "single": (lambda t, y: y[:, 0].float(), "returned dtype torch.float32", "torch.float64"),
    "total": (lambda t, y: y.sum(), "returned shape ()", "(3,)"),
    "half": (lambda t, y: y[:2, 0], "returned shape (2,)", "(3, k)"),
    "crossed": (lambda t, y: y[:, 0] - t, "returned shape (3, 3)", "batch_time"),
    "deep": (lambda t, y: y[:, :, None], "returned shape (3, 2, 1)", "(3, k)"),
    "writes": (lambda t, y: y[:, 0].mul_(2), "wrote into the state", "clone"),
    "none": (lambda t, y: y[:, :0], "returned shape (3, 0)", "(3, k)"),
}


@pytest.mark.parametrize("name", [n for n in CONDITIONS if n != "crossed"])
def test_a_condition_that_returns_the_wrong_thing_is_refused(name):
    condition, *fragments = CONDITIONS[name]
    refused(FunctionError, lambda: ss.solve(ss.ODE(swing), Y, TS, events=ss.Event(condition)), *fragments)


def test_a_condition_that_forgets_that_each_trajectory_has_a_time_is_told_so():
    wide = ss.Event(lambda t, y: y[:, 0] - t[:, :, None])
    refused(FunctionError, lambda: ss.solve(ss.ODE(swing), Y, TS, events=wide), "batch_time(t, y) gives (3,)")
    # (3, 3) could be three conditions: but then trajectories read each other
    crossed = ss.Event(CONDITIONS["crossed"][0])
    refused(CoupledTrajectoriesError, lambda: ss.solve(ss.ODE(swing), Y, TS, events=crossed), "condition of events[0]")


def test_a_condition_that_reads_other_trajectories_is_refused():
    mean = ss.Event(lambda t, y: y[:, 0] - y[:, 0].mean())
    call = lambda: ss.solve(ss.ODE(swing), Y, TS, events=[EVENT, mean])
    refused(CoupledTrajectoriesError, call, "condition of events[1]", "do not read each other")


AFFECTS = {
    "number": (lambda t, y: 1.0, "affect of events[0]: returned float", "a torch tensor"),
    "shape": (lambda t, y: y[:, :1], "returned shape (3, 1)", "y's own shape"),
    "dtype": (lambda t, y: y.float(), "returned dtype torch.float32", "torch.float64"),
    "writes": (lambda t, y: y.mul_(2), "affect of events[0]: wrote into the state", "clone"),
    "pair": (lambda t, y: (y, y), "returned the structure", "a tensor"),
}


@pytest.mark.parametrize("name", AFFECTS)
def test_an_effect_that_returns_the_wrong_thing_is_refused(name):
    affect, *fragments = AFFECTS[name]
    event = ss.Event(first, affect=affect)
    refused(FunctionError, lambda: ss.solve(ss.ODE(fall), Y, TS, events=event), *fragments)


def test_functions_of_one_trajectory_are_checked_too():
    problem = ss.ODE(swing, vectorize=True)
    for condition, text in ((lambda t, y: y[None], "(1, 2) for each trajectory"), (lambda t, y: 1.0, "float")):
        refused(FunctionError, lambda c=condition: ss.solve(problem, Y, TS, events=ss.Event(c)), text)


def test_a_condition_that_becomes_nan_fails_its_trajectory_alone():
    y0 = torch.tensor([[1.0, 0.0], [100.0, 0.0]], dtype=F64)
    event = ss.Event(lambda t, y: torch.log(y[:, 0]) + 50)
    sol = ss.solve(ss.ODE(fall), y0, TS, events=event, on_failure="return")
    assert sol.status.tolist() == [ss.Status.NONFINITE, ss.Status.SUCCESS]
    with pytest.raises(ss.SolveError, match="condition NaN"):
        ss.solve(ss.ODE(fall), y0, TS, events=event)


def test_a_solution_says_in_a_word_how_it_ended():
    sol = ss.solve(ss.ODE(fall), Y, TS, events=EVENT)
    assert "EVENT x 3" in repr(sol) and "counts=1" in repr(sol.events[0])
