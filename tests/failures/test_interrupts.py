"""Ctrl-C leaves the part that was finished."""

import pytest
import torch

import sdesolve as ss
from sdesolve import Status

TS = torch.linspace(0, 1, 6)
ADAPTIVE = {"own": {}, "shared": {"shared_steps": True}, "backsolve": {"adjoint": "backsolve"}}
FIXED = {"fixed": {"dt": 0.01}, "fixed_backsolve": {"dt": 0.01, "adjoint": "backsolve"}}
EVERY = ADAPTIVE | FIXED


class Interrupting:
    """dy/dt = -y, and Ctrl-C when it is first evaluated after a time."""

    def __init__(self, after):
        self.after = after

    def __call__(self, t, y):
        if (t > self.after).any():
            raise KeyboardInterrupt
        return -y


def check(solution, reached):
    """Exact up to output number ``reached``, NaN behind."""
    exact = torch.exp(-TS)[:, None, None].expand_as(solution.ys)
    torch.testing.assert_close(solution.ys[: reached + 1].detach(), exact[: reached + 1], rtol=1e-4, atol=0.0)
    assert solution.ys[reached + 1 :].isnan().all()
    assert (solution.status == Status.INTERRUPTED).all()
    assert not solution.success.any()


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY.keys())
def test_an_interrupted_solve_keeps_its_finished_outputs(options):
    y0 = torch.ones(3, 2, requires_grad="adjoint" in options)
    with pytest.raises(ss.SolveInterrupted) as caught:
        ss.solve(ss.ODE(Interrupting(0.7)), y0, TS, **options)
    check(caught.value.solution, 3)
    assert (caught.value.solution.stats.steps > 0).all()
    assert ".solution" in str(caught.value)


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY.keys())
def test_a_solve_that_is_interrupted_before_the_first_output_keeps_its_start(options):
    with pytest.raises(ss.SolveInterrupted) as caught:
        ss.solve(ss.ODE(Interrupting(0.05)), torch.ones(3, 2), TS, **options)
    check(caught.value.solution, 0)


def test_an_interrupted_sde_keeps_its_finished_outputs():
    sde = ss.SDE(Interrupting(0.5), lambda t, y: 0.1 * y)
    with pytest.raises(ss.SolveInterrupted) as caught:
        ss.solve(sde, torch.ones(3, 2), TS, dt=0.01, seed=0)
    interrupted = caught.value.solution
    whole = ss.solve(ss.SDE(lambda t, y: -y, sde.diffusion), torch.ones(3, 2), TS, dt=0.01, seed=0)
    finished = interrupted.ys.isfinite().all(-1).all(-1)
    assert finished.tolist() == [True, True, True, False, False, False]
    assert torch.equal(interrupted.ys[finished], whole.ys[finished])


def test_an_interrupt_is_a_keyboard_interrupt_and_no_exception():
    assert issubclass(ss.SolveInterrupted, KeyboardInterrupt)
    assert not issubclass(ss.SolveInterrupted, Exception)


@pytest.mark.parametrize("options", [{}, {"dt": 0.0005}], ids=["adaptive", "fixed"])
def test_ctrl_c_while_progress_is_told_interrupts_too(options, monkeypatch):
    monkeypatch.setattr("sdesolve.progress.time.monotonic", iter(range(10**6)).__next__)

    def tell(fraction):
        if fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(ss.SolveInterrupted) as caught:
        ss.solve(ss.ODE(lambda t, y: -y), torch.ones(3, 2), TS, progress=tell, **options)
    finished = int(caught.value.solution.ys.isfinite().all(-1).all(-1).sum())
    assert 2 <= finished <= 5
    check(caught.value.solution, finished - 1)


@pytest.mark.parametrize("options", [{}, {"dt": 0.01}], ids=["adaptive", "fixed"])
def test_trajectories_that_had_arrived_are_successes(options):
    ts = torch.tensor([[0.0, 0.1, 0.2], [0.0, 0.5, 1.0]])
    hasty = {} if "dt" in options else {"controller": ss.PID(dt_max=0.1)}
    with pytest.raises(ss.SolveInterrupted) as caught:
        ss.solve(ss.ODE(Interrupting(0.7)), torch.ones(2, 1), ts, **options, **hasty)
    solution = caught.value.solution
    assert solution.status.tolist() == [Status.SUCCESS, Status.INTERRUPTED]
    assert solution.ys[:, 0].isfinite().all()
    assert solution.ys[:, 1].isfinite().flatten().tolist() == [True, True, False]


def test_a_trajectory_that_had_failed_before_the_interrupt_is_a_failure():
    lost = torch.tensor([[False], [True]])

    def f(t, y):
        if (t > 0.8).any():
            raise KeyboardInterrupt
        return torch.where(lost, float("nan"), -y)

    for options in ({"controller": ss.PID(dt_max=0.1)}, {"dt": 0.01}):
        with pytest.raises(ss.SolveInterrupted) as caught:
            ss.solve(ss.ODE(f), torch.ones(2, 1), TS, **options)
        assert caught.value.solution.status.tolist() == [Status.INTERRUPTED, Status.NONFINITE]
