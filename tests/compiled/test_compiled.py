"""The compiled loop takes the same steps as the eager one."""

import os
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch

import sdesolve as ss
from sdesolve.solution import Status

pytestmark = pytest.mark.compile


@pytest.mark.parametrize("noise", ["diagonal", pytest.param("general", marks=pytest.mark.traced)])
def test_compiled_euler_maruyama_follows_the_eager_path_for_every_seed_and_step(noise):
    matrix = torch.tensor([[0.2, 0.1, 0.0], [0.0, 0.3, 0.1]])
    diffusion = (lambda t, y: 0.2 * y) if noise == "diagonal" else (lambda t, y: matrix * y[..., None])
    sde = ss.SDE(lambda t, y: torch.cos(t) - y, diffusion, noise=noise)
    y0 = torch.linspace(0.5, 2, 14).reshape(7, 2)
    # 5 steps that start off the blocks of four; an interval off the grid; another number of steps; ids
    cases = [
        (torch.tensor([0.0, 0.5, 1.0]), 0.1, 1, None),
        (torch.tensor([0.3, 0.55, 1.0]), 0.1, 2, range(7)),
        (torch.linspace(0, 1, 3), 1 / 64, 2**40 + 3, range(10, 17)),
    ]
    for ts, dt, seed, paths in cases:
        ids = None if paths is None else list(paths)
        how = {"dt": dt, "seed": seed, "paths": ids, "method": "euler_maruyama"}
        compiled, eager = (ss.solve(sde, y0, ts, **how, compile=c) for c in (True, False))
        # logarithms and cosines of the normals may differ in the last bits, by 5e-7 at most
        torch.testing.assert_close(compiled.ys, eager.ys, rtol=1e-5, atol=1e-5)
        assert torch.equal(compiled.stats.steps, eager.stats.steps)


@pytest.mark.traced
def test_compiled_additive_noise_runs_backwards_along_the_eager_path():
    sde = ss.SDE(lambda t, y: torch.sin(t) * y, lambda t, y: 0.3 * torch.ones_like(y), additive=True)
    y0, ts = torch.ones(5, 2, dtype=torch.float64), torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)
    eager, compiled = (ss.solve(sde, y0, ts, dt=0.1, seed=4, compile=c).ys for c in (False, True))
    torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12)


def test_compiled_tsit5_takes_the_eager_steps_on_clocks_of_its_own():
    f = lambda t, y: torch.cat([y[:, 1:], -torch.sin(y[:, :1]) - 0.1 * t * y[:, 1:]], 1)
    ode = ss.ODE(f)
    y0 = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = torch.stack([torch.linspace(0, 1 + i, 4, dtype=torch.float64) for i in range(9)])
    for ts in (torch.linspace(0, 3, 5, dtype=torch.float64), torch.tensor([2.0, 0.5], dtype=torch.float64), own):
        for tolerance in (1e-4, 1e-7):
            eager, compiled = (ss.solve(ode, y0, ts, rtol=tolerance, atol=tolerance, compile=c) for c in (False, True))
            torch.testing.assert_close(compiled.ys, eager.ys, rtol=1e-10, atol=1e-10)
            assert torch.equal(compiled.stats.accepted, eager.stats.accepted)
            assert torch.equal(compiled.stats.rejected, eager.stats.rejected)


def test_compiled_tsit5_with_fixed_steps_and_parameters_changed_in_place_agrees_with_eager():
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    ode, y0 = ss.ODE(lambda t, y: net(y) * torch.cos(t)), torch.ones(3, 2, dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0, 1.5], dtype=torch.float64)
    for _ in range(2):
        with torch.no_grad():
            eager, compiled = (ss.solve(ode, y0, ts, dt=0.1, compile=c).ys for c in (False, True))
            net[0].weight.mul_(1.5)
        torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12)


@pytest.mark.traced
def test_a_trajectory_that_fails_in_the_compiled_loop_leaves_the_others_alone():
    ode = ss.ODE(lambda t, y: y * y)  # blows up at t = 1 / y0
    y0, ts = torch.tensor([[0.5], [2.0], [0.25]], dtype=torch.float64), torch.tensor([0.0, 0.3, 1.0])
    sol = ss.solve(ode, y0, ts, compile=True, on_failure="return")
    assert sol.status[0] == sol.status[2] == Status.SUCCESS
    assert sol.status[1] in (Status.NONFINITE, Status.STEP_UNDERFLOW)
    torch.testing.assert_close(sol.ys[-1, [0, 2]], y0[[0, 2]] / (1 - y0[[0, 2]]), rtol=1e-4, atol=0)
    assert not sol.ys[1].isnan().any() and sol.ys[2, 1].isnan().all()


def test_what_cannot_be_compiled_is_named_with_its_line():
    def drift(t, y):
        if y.sum() > 0:  # the culprit
            return -y
        return y

    with pytest.raises(ss.CompileError, match=r"test_compiled.py, line \d+: if y.sum\(\) > 0.*[Dd]rop compile=True"):
        ss.solve(ss.ODE(drift), torch.ones(2, 1), torch.tensor([0.0, 1.0]), shared_steps=True, compile=True)


def test_without_a_compiler_the_error_says_to_install_one_or_to_drop_compile():
    code = """
        import torch, sdesolve as ss
        try:
            ss.solve(ss.ODE(lambda t, y: -y), torch.ones(2, 1), torch.tensor([0.0, 1.0]), compile=True)
        except ss.CompileError as error:
            print(error)
    """
    environment = {**os.environ, "PATH": "/nonexistent", "CXX": "/nonexistent/g++", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert "C++ compiler" in done.stdout and "drop compile=True" in done.stdout, done.stderr


class Decay(torch.nn.Module):
    def forward(self, t, y):
        return -y


def test_a_problem_can_be_pickled_after_a_compiled_solve():
    ode, y0, ts = ss.ODE(Decay()), torch.ones(2, 1), torch.tensor([0.0, 1.0])
    first = ss.solve(ode, y0, ts, dt=0.5, compile=True).ys
    again = ss.solve(pickle.loads(pickle.dumps(ode)), y0, ts, dt=0.5).ys
    torch.testing.assert_close(again, first)
