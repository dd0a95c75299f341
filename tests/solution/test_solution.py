"""What a solution shows, draws, exports and counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve import Status

TS = torch.linspace(0, 1, 4)
DECAY = ss.ODE(lambda t, y: -y)
NOISY = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y)


def tree_solution():
    f = lambda t, y: {"x": -y["x"], "v": -y["v"]}
    return ss.solve(ss.ODE(f), {"x": torch.ones(3, 2), "v": torch.ones(3)}, TS)


def test_repr_says_shape_endings_method_and_cost():
    ode = ss.ODE(lambda t, y: torch.where(y > 2, float("nan"), -y))
    solution = ss.solve(ode, torch.tensor([[1.0], [3.0], [0.5]]), TS, on_failure="return")
    text = repr(solution)
    for fragment in ("ys=(4, 3, 1)", "SUCCESS x 2", "NONFINITE x 1", "'tsit5'", "steps=0..", "rejected=0"):
        assert fragment in text
    assert "ys=[(4, 3, 2), (4, 3)]" in repr(tree_solution())
    assert len(repr(ss.solve(DECAY, torch.ones(5000, 1), TS))) < 300


def test_a_solution_inside_a_transform_has_no_status_and_still_a_repr():
    seen = []

    def last(y):
        seen.append(ss.solve(DECAY, y, TS, dt=0.1))
        return seen[0].ys[-1].sum()

    torch.func.grad(last)(torch.ones(2, 1))
    assert seen[0].status is None
    assert seen[0].success is None
    assert "unknown" in repr(seen[0])


def test_success_is_a_boolean_for_each_trajectory():
    solution = ss.solve(DECAY, torch.ones(3, 1), TS)
    assert solution.success.dtype == torch.bool
    assert solution.success.tolist() == [True] * 3
    assert solution.status.tolist() == [Status.SUCCESS] * 3


@pytest.mark.parametrize("status", list(Status), ids=lambda status: status.name)
def test_every_status_has_words(status):
    assert len(status.text) > 5


def test_the_solution_keeps_times_ids_and_seed_as_given():
    solution = ss.solve(NOISY, torch.ones(2, 1), TS, dt=0.1, seed=5, paths=torch.tensor([9, 4]))
    assert solution.ts is TS
    assert solution.paths.tolist() == [9, 4]
    assert solution.seed == 5
    assert ss.solve(DECAY, torch.ones(2, 1), TS).seed is None


def test_a_drawn_seed_reproduces_its_run_and_follows_the_global_generator():
    torch.manual_seed(0)
    first = ss.solve(NOISY, torch.ones(2, 1), TS, dt=0.1)
    second = ss.solve(NOISY, torch.ones(2, 1), TS, dt=0.1)
    torch.manual_seed(0)
    third = ss.solve(NOISY, torch.ones(2, 1), TS, dt=0.1)
    assert not torch.equal(first.ys, second.ys)
    assert torch.equal(first.ys, third.ys)
    assert torch.equal(first.ys, ss.solve(NOISY, torch.ones(2, 1), TS, dt=0.1, seed=first.seed).ys)


def test_a_solution_without_dense_output_says_how_to_get_it():
    with pytest.raises(ValueError, match=r"t: got 0\.5.*Solve with dense=True"):
        ss.solve(DECAY, torch.ones(2, 1), TS)(0.5)


@pytest.fixture(scope="module")
def dense():
    return ss.solve(DECAY, torch.ones(3, 2), TS, dense=True)


@pytest.mark.parametrize("t", [1.5, -0.1, float("nan"), [0.5, 2.0]], ids=str)
def test_dense_output_refuses_times_outside_the_span(dense, t):
    with pytest.raises(ValueError, match=r"t: got .*times from 0\.0 to 1\.0"):
        dense(t)


@pytest.mark.parametrize("t", [torch.zeros(2, 2), torch.zeros(0)], ids=["matrix", "empty"])
def test_dense_output_refuses_wrong_shapes(dense, t):
    with pytest.raises(ValueError, match=r"t: got shape .*\(Q,\)"):
        dense(t)


@pytest.mark.parametrize("t", ["a", None], ids=str)
def test_dense_output_refuses_what_is_no_number(dense, t):
    with pytest.raises(TypeError, match=r"t: got .*a number"):
        dense(t)


def test_dense_output_of_a_number_and_of_many(dense):
    assert dense(0.5).shape == (3, 2)
    assert dense([0.1, 0.5, 1.0]).shape == (3, 3, 2)
    torch.testing.assert_close(dense(TS), dense.ys, rtol=1e-6, atol=1e-7)


@settings(max_examples=30)
@given(
    method=st.sampled_from(["midpoint", "heun", "bosh3", "tsit5", "dopri5"]),
    rate=st.floats(0.1, 20.0),
    tolerance=st.sampled_from([1e-2, 1e-4]),
    shared=st.booleans(),
)
def test_steps_are_accepted_and_rejected_ones_and_evaluations_follow_from_them(method, rate, tolerance, shared):
    calls = torch.zeros(3, dtype=torch.int64)
    y0 = torch.tensor([[1.0], [2.0], [0.5]])

    def f(t, y):
        calls.add_(1)
        return torch.cos(rate * t) * y

    solution = ss.solve(ss.ODE(f), y0, TS, method=method, rtol=tolerance, atol=tolerance, shared_steps=shared)
    stats = solution.stats
    assert stats.method == method
    assert torch.equal(stats.steps, stats.accepted + stats.rejected)
    assert (stats.accepted >= len(TS) - 1).all()
    assert (stats.diffusion_evaluations == 0).all()
    chosen = ss.methods.METHODS["ode", method]
    first = stats.drift_evaluations - stats.steps * chosen.drift_evaluations
    assert first.unique().tolist() == [2], "the first stage, and one trial step to choose the first step size"
    # all trajectories are evaluated together: the slowest one says how often, and the probe of coupling adds two
    assert calls[0] == stats.drift_evaluations.max() + (0 if shared else 2)


@given(dt=st.sampled_from([0.5, 0.1, 0.03]), method=st.sampled_from(["euler_maruyama", "heun"]))
def test_fixed_steps_are_all_accepted(dt, method):
    sde = NOISY if method == "euler_maruyama" else NOISY.to_calculus("stratonovich")
    stats = ss.solve(sde, torch.ones(2, 1), torch.tensor([0.0, 1.0]), dt=dt, method=method, seed=0).stats
    steps, each = -(-1 // dt), 1 if method == "euler_maruyama" else 2
    assert stats.steps.tolist() == stats.accepted.tolist() == [steps] * 2
    assert stats.rejected.tolist() == [0, 0]
    assert stats.drift_evaluations.tolist() == stats.diffusion_evaluations.tolist() == [each * steps] * 2
