"""progress= shows a bar, or tells a function a fraction that grows to 1."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss

DECAY = ss.ODE(lambda t, y: -y)
NOISY = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y)


def every_report(problem, y0, ts, **options):
    """All fractions, as though each step took a second."""
    fractions = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdesolve.progress.time.monotonic", iter(range(1, 10**6)).__next__)
        ss.solve(problem, y0, ts, progress=fractions.append, **options)
    return fractions


@settings(max_examples=30)
@given(
    options=st.sampled_from(
        [
            {},
            {"shared_steps": True},
            {"controller": ss.PID(jumps=[0.25, 0.3, 0.5, 0.6])},
            {"dt": 0.002},
            {"dt": 0.1},
            {"adjoint": "backsolve"},
            {"method": "heun", "rtol": 1e-4},
        ]
    ),
    outputs=st.integers(2, 20),
    batch=st.integers(1, 3),
    backwards=st.booleans(),
)
def test_the_fraction_never_falls_and_ends_at_one(options, outputs, batch, backwards):
    ts = torch.linspace(0, 1, outputs)
    fractions = every_report(DECAY, torch.ones(batch, 1), ts.flip(0) if backwards else ts, **options)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert all(0 <= fraction <= 1 for fraction in fractions)


def test_the_fraction_grows_between_output_times():
    fractions = every_report(DECAY, torch.ones(2, 1), torch.tensor([0.0, 1.0]), controller=ss.PID(dt_max=0.05))
    assert len(set(fractions)) >= 20
    fractions = every_report(NOISY, torch.ones(2, 1), torch.tensor([0.0, 1.0]), dt=1e-3, seed=0)
    assert len(set(fractions)) >= 4


def test_the_fraction_of_trajectories_with_times_of_their_own_is_their_mean():
    ts = torch.tensor([[0.0, 0.1], [0.0, 1.0], [2.0, 3.0]])
    for options in ({}, {"dt": 0.001}):
        fractions = every_report(DECAY, torch.ones(3, 1), ts, **options)
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0


def test_progress_is_told_the_end_even_of_a_short_solve():
    fractions = []
    ss.solve(DECAY, torch.ones(2, 1), torch.tensor([0.0, 1.0]), dt=0.5, progress=fractions.append)
    assert fractions[-1] == 1.0


def test_progress_changes_no_number():
    ts, y0 = torch.linspace(0, 1, 4), torch.rand(3, 2)
    for problem, options in ((DECAY, {}), (NOISY, {"dt": 0.01, "seed": 0})):
        plain = ss.solve(problem, y0, ts, **options).ys
        assert torch.equal(ss.solve(problem, y0, ts, progress=lambda fraction: None, **options).ys, plain)


@pytest.mark.parametrize("options", [{}, {"dt": 0.1}], ids=["adaptive", "fixed"])
def test_true_shows_a_bar_with_the_method(capfd, options):
    pytest.importorskip("rich")
    ss.solve(DECAY, torch.ones(2, 1), torch.tensor([0.0, 1.0]), progress=True, **options)
    shown = "".join(capfd.readouterr())
    assert "tsit5" in shown
    assert "100%" in shown


def test_without_rich_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match="pip install rich, or pass a function"):
        ss.solve(DECAY, torch.ones(2, 1), torch.tensor([0.0, 1.0]), progress=True)


def test_nothing_is_printed_without_progress(capfd):
    ss.solve(DECAY, torch.ones(2, 1), torch.tensor([0.0, 1.0]))
    assert "".join(capfd.readouterr()) == ""
