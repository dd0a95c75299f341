"""A solution as a Dataset: every number, and where it belongs."""

import sys

import numpy as np
import pytest
import torch

import sdesolve as ss

TS = torch.linspace(0, 1, 4)
DECAY = ss.ODE(lambda t, y: -y)
NOISY = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y)


@pytest.fixture
def xarray():
    return pytest.importorskip("xarray")


def test_without_xarray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"pip install sdesolve\[xarray\]"):
        ss.solve(DECAY, torch.ones(2, 1), TS).to_xarray()


def test_states_stand_over_time_and_trajectory(xarray):
    solution = ss.solve(NOISY, torch.rand(3, 2), TS, dt=0.1, seed=7, paths=[4, 5, 9], method="euler_maruyama")
    dataset = solution.to_xarray()
    assert isinstance(dataset, xarray.Dataset)
    assert dataset["y"].dims == ("time", "trajectory", "y_0")
    np.testing.assert_array_equal(dataset["y"], solution.ys)
    np.testing.assert_array_equal(dataset["time"], TS)
    assert dataset["trajectory"].values.tolist() == [4, 5, 9]
    np.testing.assert_array_equal(dataset["y"].sel(trajectory=9, y_0=1), solution.ys[:, 2, 1])
    assert dataset.attrs == {"method": "euler_maruyama", "seed": 7}


def test_status_and_costs_are_variables_of_each_trajectory(xarray):
    ode = ss.ODE(lambda t, y: torch.where(y > 2, float("nan"), -y))
    solution = ss.solve(ode, torch.tensor([[1.0], [3.0], [0.5]]), TS, on_failure="return")
    dataset = solution.to_xarray()
    assert dataset["status"].dims == ("trajectory",)
    np.testing.assert_array_equal(dataset["status"], solution.status)
    meanings = dict(
        zip(dataset["status"].attrs["flag_values"], dataset["status"].attrs["flag_meanings"].split(), strict=True)
    )
    assert [meanings[k] for k in dataset["status"].values] == ["SUCCESS", "NONFINITE", "SUCCESS"]
    for name in ("steps", "accepted", "rejected", "drift_evaluations", "diffusion_evaluations"):
        np.testing.assert_array_equal(dataset[name], getattr(solution.stats, name))
        assert dataset[name].dims == ("trajectory",)
    assert np.isnan(dataset["y"].values[-1, 1]).all()
    assert "seed" not in dataset.attrs


def test_times_of_their_own_are_a_coordinate_of_two_dimensions(xarray):
    ts = torch.stack([TS, 2 * TS, 3 * TS])
    solution = ss.solve(DECAY, torch.rand(3, 2), ts)
    dataset = solution.to_xarray()
    assert dataset["t"].dims == ("trajectory", "time")
    assert "t" in dataset["y"].coords
    assert "time" not in dataset.coords
    np.testing.assert_array_equal(dataset["t"], ts)
    np.testing.assert_array_equal(dataset["y"].transpose("trajectory", "time", "y_0"), solution.ys.transpose(0, 1))


def test_leaves_of_a_pytree_are_variables_by_their_path(xarray):
    f = lambda t, y: {"x": -y["x"], "more": (-y["more"][0],)}
    solution = ss.solve(ss.ODE(f), {"x": torch.rand(3, 2), "more": (torch.rand(3),)}, TS)
    dataset = solution.to_xarray()
    np.testing.assert_array_equal(dataset["y['x']"], solution.ys["x"])
    np.testing.assert_array_equal(dataset["y['more'][0]"], solution.ys["more"][0])
    assert dataset["y['x']"].dims == ("time", "trajectory", "y['x']_0")
    assert dataset["y['more'][0]"].dims == ("time", "trajectory")


def test_one_trajectory_without_a_batch_has_no_such_dimension(xarray):
    solution = ss.solve(ss.ODE(lambda t, y: -y, batched=False), torch.rand(2, 3), TS)
    dataset = solution.to_xarray()
    assert dataset["y"].dims == ("time", "y_0", "y_1")
    np.testing.assert_array_equal(dataset["y"], solution.ys)
    assert dataset["status"].ndim == dataset["steps"].ndim == 0
    assert int(dataset["steps"]) == int(solution.stats.steps)
    assert "trajectory" not in dataset.dims


def test_gradients_are_left_behind_and_complex_numbers_kept(xarray):
    y0 = torch.tensor([[1 + 2j]], requires_grad=True)
    solution = ss.solve(ss.ODE(lambda t, y: 1j * y), y0, TS)
    dataset = solution.to_xarray()
    assert dataset["y"].dtype == np.complex64
    np.testing.assert_array_equal(dataset["y"], solution.ys.detach())


def test_a_method_that_switches_says_so(xarray):
    van_der_pol = ss.ODE(lambda t, y: torch.stack([y[:, 1], 100 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1))
    solution = ss.solve(van_der_pol, torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, 20.0]), method="auto")
    dataset = solution.to_xarray()
    assert solution.stats.switches is not None and solution.stats.switches.counts.min() > 0
    np.testing.assert_array_equal(dataset["switches"], solution.stats.switches.counts)
    np.testing.assert_array_equal(dataset["stiff_steps"], solution.stats.switches.steps)
