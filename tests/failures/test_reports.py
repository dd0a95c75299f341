"""A failure is reported with its reason, time and trajectories; NaN stands from it on; NaN never passes as success."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve import Status

NAN, INF = float("nan"), float("inf")
STEPS = {"own": {}, "shared": {"shared_steps": True}, "fixed": {"dt": 0.01}}
by_steps = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())


def turning(value, at=0.6, lanes=(1,), batch=3):
    """dy/dt = -y, which turns into ``value`` after a time in some trajectories."""
    hit = torch.zeros(batch, 1, dtype=torch.bool)
    hit[list(lanes)] = True
    return ss.ODE(lambda t, y: torch.where(hit & (t > at), value, -y))


def statuses(solution):
    return [Status(int(s)).name for s in solution.status]


@by_steps
@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_a_drift_that_turns_nan_or_infinite_fails_its_trajectory_alone(value, steps):
    y0, ts = torch.ones(3, 2), torch.linspace(0, 1, 6)
    solution = ss.solve(turning(value), y0, ts, on_failure="return", **steps)
    assert statuses(solution) == ["SUCCESS", "NONFINITE", "SUCCESS"]
    assert torch.isfinite(solution.ys[:4, 1]).all()
    assert solution.ys[4:, 1].isnan().all()
    torch.testing.assert_close(solution.ys[:, 0], torch.exp(-ts)[:, None].expand(-1, 2), rtol=1e-4, atol=0.0)


@by_steps
def test_solve_error_has_time_paths_reason_and_the_partial_solution(steps):
    y0, ts = torch.ones(3, 2), torch.linspace(0, 1, 6)
    with pytest.raises(ss.SolveError) as caught:
        ss.solve(turning(NAN, lanes=(1, 2)), y0, ts, paths=[10, 20, 30], **steps)
    error = caught.value
    assert error.reason is Status.NONFINITE
    assert error.paths == [20, 30]
    assert 0.4 <= error.time <= 0.6 + 1e-6
    assert torch.isfinite(error.solution.ys[:, 0]).all()
    assert error.solution.ys[4:, 1:].isnan().all()
    text = str(error)
    for fragment in (
        "2 of 3 trajectories",
        "ids 20, 30",
        f"t = {error.time:.6g}",
        "became NaN or infinite",
        '"return"',
    ):
        assert fragment in text
    assert "Check the right-hand side" in text


def test_the_time_of_a_failure_is_where_the_last_good_step_ended():
    with pytest.raises(ss.SolveError) as caught:
        ss.solve(turning(NAN, at=0.37), torch.ones(3, 1).double(), torch.tensor([0.0, 1.0]))
    assert caught.value.time == pytest.approx(0.37, abs=1e-6)


@by_steps
def test_a_drift_that_is_nan_at_the_start_fails_there(steps):
    ode = ss.ODE(lambda t, y: y * torch.tensor([[1.0], [NAN]]))
    solution = ss.solve(ode, torch.ones(2, 1), torch.tensor([0.0, 0.5, 1.0]), on_failure="return", **steps)
    assert statuses(solution) == ["SUCCESS", "NONFINITE"]
    assert solution.ys[0].isfinite().all()
    assert solution.ys[1:, 1].isnan().all()


@by_steps
def test_a_start_state_with_nan_fails_its_trajectory(steps):
    y0 = torch.tensor([[1.0, 1.0], [1.0, NAN]])
    solution = ss.solve(ss.ODE(lambda t, y: -y), y0, torch.tensor([0.0, 1.0]), on_failure="return", **steps)
    assert statuses(solution) == ["SUCCESS", "NONFINITE"]
    assert solution.ys[-1, 1].isnan().all()


def test_a_blow_up_is_a_step_underflow_at_its_time():
    y0, ts = torch.tensor([[1.0], [0.1]]).double(), torch.tensor([0.0, 0.5, 2.0])
    with pytest.raises(ss.SolveError, match="step size became too small") as caught:
        ss.solve(ss.ODE(lambda t, y: y**2), y0, ts)
    error = caught.value
    assert error.reason is Status.STEP_UNDERFLOW
    assert error.time == pytest.approx(1.0, abs=1e-3)
    assert error.paths == [0]
    assert "ss.PID(jumps=)" in str(error)
    assert error.solution.ys[1, 0].item() == pytest.approx(2.0, rel=1e-4)
    assert error.solution.ys[2, 0].isnan().all()
    assert error.solution.ys[2, 1].item() == pytest.approx(0.1 / 0.8, rel=1e-4)


def test_a_smallest_step_that_fails_fails_its_trajectory():
    ode, y0 = ss.ODE(lambda t, y: torch.cos(100 * t) * 100 * y), torch.ones(2, 1)
    control = ss.PID(rtol=1e-6, atol=1e-9, dt_min=0.05)
    solution = ss.solve(ode, y0, torch.tensor([0.0, 1.0]), controller=control, on_failure="return")
    assert statuses(solution) == ["STEP_UNDERFLOW"] * 2


@pytest.mark.parametrize("steps", [{}, {"shared_steps": True}], ids=["own", "shared"])
def test_no_trajectory_takes_more_than_max_steps(steps):
    ode, y0, ts = ss.ODE(lambda t, y: -y), torch.ones(2, 1), torch.tensor([0.0, 1.0])
    needed = int(ss.solve(ode, y0, ts, **steps).stats.steps.max())
    assert ss.solve(ode, y0, ts, max_steps=needed, **steps).success.all()
    with pytest.raises(ss.SolveError, match="Raise max_steps") as caught:
        ss.solve(ode, y0, ts, max_steps=needed - 1, **steps)
    assert caught.value.reason is Status.MAX_STEPS
    assert (caught.value.solution.stats.steps == needed - 1).all()
    assert 0 < caught.value.time < 1


def test_many_failed_paths_are_named_by_the_first_eight():
    with pytest.raises(ss.SolveError) as caught:
        ss.solve(ss.ODE(lambda t, y: y * NAN), torch.ones(20, 1), torch.tensor([0.0, 1.0]))
    assert "(ids 0, 1, 2, 3, 4, 5, 6, 7, ...)" in str(caught.value)
    assert caught.value.paths == list(range(20))


@by_steps
def test_one_trajectory_without_a_batch_fails_alike(steps):
    ode = ss.ODE(lambda t, y: torch.where(t > 0.6, NAN, -y), batched=False)
    solution = ss.solve(ode, torch.ones(3), torch.linspace(0, 1, 6), on_failure="return", **steps)
    assert statuses(solution) == ["NONFINITE"]
    assert solution.ys[:4].isfinite().all()
    assert solution.ys[4:].isnan().all()


@by_steps
def test_a_leaf_that_turns_nan_fails_the_whole_trajectory(steps):
    def f(t, y):
        return {"a": -y["a"], "b": torch.where(y["a"][:, 0] < 0.6, NAN, 0.0) + 0 * y["b"]}

    y0 = {"a": torch.tensor([[1.0], [9.0]]), "b": torch.zeros(2)}
    solution = ss.solve(ss.ODE(f), y0, torch.linspace(0, 1, 6), on_failure="return", **steps)
    assert statuses(solution) == ["NONFINITE", "SUCCESS"]
    for leaf in solution.ys.values():
        assert leaf[3:, 0].isnan().all()
        assert leaf[:, 1].isfinite().all()


def test_trajectories_with_times_of_their_own_fail_at_their_own():
    ts = torch.tensor([[0.0, 0.2, 0.5], [0.0, 0.4, 0.8], [0.0, 0.5, 1.0]])
    for steps in ({}, {"dt": 0.01}):
        ode = ss.ODE(lambda t, y: torch.where(t > 0.6, NAN, -y))
        solution = ss.solve(ode, torch.ones(3, 1), ts, on_failure="return", **steps)
        assert statuses(solution) == ["SUCCESS", "NONFINITE", "NONFINITE"]
        assert solution.ys[:2].isfinite().all()
        assert solution.ys[2, 1:].isnan().all()


@by_steps
def test_dense_output_is_nan_behind_a_failure(steps):
    solution = ss.solve(
        turning(NAN), torch.ones(3, 1), torch.tensor([0.0, 0.3, 1.0]), dense=True, on_failure="return", **steps
    )
    inside = solution(torch.tensor([0.0, 0.2, 0.5]))
    torch.testing.assert_close(inside[:, 1], torch.exp(-torch.tensor([[0.0], [0.2], [0.5]])), rtol=1e-3, atol=0.0)
    behind = solution(torch.tensor([0.65, 0.9, 1.0]))
    assert behind[:, 1].isnan().all()
    assert behind[:, [0, 2]].isfinite().all()


def test_an_exact_zero_with_a_relative_tolerance_alone_is_no_failure():
    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    solution = ss.solve(ss.ODE(lambda t, y: -y), y0, torch.tensor([0.0, 1.0]), rtol=1e-4, atol=0.0)
    assert (solution.ys[:, :, 1] == 0).all()


when = st.floats(-0.125, 1.25, width=32)
steps_drawn = st.sampled_from(
    [
        {},
        {"shared_steps": True},
        {"dt": 0.03},
        {"dt": 0.03, "method": "rk4"},
        {"dt": 0.03, "method": "euler"},
        {"method": "bosh3", "rtol": 1e-2},
        {"method": "midpoint", "rtol": 1e-2},
        {"adjoint": "backsolve", "rtol": 1e-3},
    ]
)


@given(
    times=st.lists(when, min_size=1, max_size=4),
    gone=st.lists(st.floats(0.0, 0.3), min_size=4, max_size=4),
    value=st.sampled_from([NAN, INF, -INF]),
    components=st.integers(1, 3),
    outputs=st.integers(2, 5),
    steps=steps_drawn,
    gradients=st.booleans(),
)
def test_nan_is_never_returned_as_success(times, gone, value, components, outputs, steps, gradients):
    """Right-hand sides that turn NaN in random trajectories and components, for a while or for good, seen or not."""
    batch = len(times)
    start = torch.tensor(times)[:, None]
    end = start + torch.tensor(gone[:batch])[:, None]
    place = torch.arange(components) == components - 1
    touched = torch.zeros(batch, 1, dtype=torch.bool)

    def f(t, y):
        hit = (t > start) & (t <= end) & place
        touched.logical_or_(hit.any(1, keepdim=True))
        return torch.where(hit, value, -y)

    ts = torch.linspace(0, 1, outputs)
    y0 = torch.ones(batch, components, requires_grad=gradients)
    solution = ss.solve(ss.ODE(f), y0, ts, on_failure="return", **steps)
    finite = solution.ys.isfinite().all(-1)
    assert torch.equal(solution.success, finite.all(0))
    assert not (solution.success & ~solution.ys.detach().isfinite().all(-1).all(0)).any()
    # NaN stands exactly from the failure on, in every component
    assert torch.equal(finite, finite.to(torch.int64).cumprod(0).bool())
    assert torch.equal(solution.ys.isnan().any(-1), ~finite)
    exact = torch.exp(-ts)[:, None, None].expand_as(solution.ys)
    untouched = solution.success & ~touched[:, 0]
    tolerance = 0.05 if steps.get("method") in ("euler", "bosh3", "midpoint") else 2e-3
    torch.testing.assert_close(solution.ys[:, untouched].detach(), exact[:, untouched], rtol=tolerance, atol=0.0)


@given(
    times=st.lists(when, min_size=1, max_size=4),
    where=st.sampled_from(["drift", "diffusion"]),
    calculus=st.sampled_from(["ito", "stratonovich"]),
    noise=st.sampled_from(["diagonal", "scalar", "general"]),
    value=st.sampled_from([NAN, INF]),
)
def test_nan_of_an_sde_is_never_returned_as_success(times, where, calculus, noise, value):
    start = torch.tensor(times)[:, None]
    turn = lambda t, x: torch.where(t > start, value, x)
    drift = lambda t, y: turn(t, -y) if where == "drift" else -y
    plain = lambda t, y: turn(t, 0.1 * y) if where == "diffusion" else 0.1 * y
    g = (lambda t, y: torch.stack([plain(t, y), y], -1)) if noise == "general" else plain
    sde = ss.SDE(drift, g, noise=noise, calculus=calculus)
    solution = ss.solve(sde, torch.ones(len(times), 2), torch.linspace(0, 1, 3), dt=0.1, seed=1, on_failure="return")
    finite = solution.ys.isfinite().all(-1)
    assert torch.equal(solution.success, finite.all(0))
    # the last step starts at 0.9 (and Heun's second stage stands at 1.0)
    assert not (solution.success & (start[:, 0] < 0.89)).any()
    assert solution.success[start[:, 0] > 1.01].all()


@pytest.mark.parametrize("steps", [{"dt": 0.1}, {}], ids=["fixed", "adaptive"])
def test_raise_is_the_default(steps):
    with pytest.raises(ss.SolveError):
        ss.solve(turning(NAN), torch.ones(3, 1), torch.tensor([0.0, 1.0]), **steps)


def test_solve_error_is_a_runtime_error():
    assert issubclass(ss.SolveError, RuntimeError)
    assert issubclass(ss.CompileError, ss.SolveError)


def test_on_a_shared_clock_the_time_is_that_of_the_trajectory_that_failed_and_not_of_the_clock():
    for ts in (torch.linspace(0, 1, 6), torch.linspace(1, 0, 6)):
        late = ss.ODE(lambda t, y, ts=ts: torch.where((t - ts[0]).abs() > torch.tensor([[0.3], [9.0]]), NAN, -y))
        with pytest.raises(ss.SolveError) as caught:
            ss.solve(late, torch.ones(2, 1), ts, shared_steps=True)
        assert caught.value.time == pytest.approx(ts[1].item(), abs=1e-6)
