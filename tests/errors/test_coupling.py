"""With clocks of their own trajectories must not read each other; a probe finds those that do."""

import pytest
import torch

import sdesolve as ss
from sdesolve.errors import CoupledTrajectoriesError

TS = torch.tensor([0.0, 1.0])
COUPLED = {
    "mean": lambda t, y: y.mean(0) - y,
    "neighbour": lambda t, y: y.roll(1, 0) - y,
    "normalised": lambda t, y: -y / y.norm(),
    "product": lambda t, y: -(y @ y.T) @ y / 10,
}


def start(batch=4):
    return torch.linspace(0.5, 1.5, 2 * batch).reshape(batch, 2)


@pytest.mark.parametrize("f", COUPLED.values(), ids=COUPLED.keys())
def test_coupled_trajectories_are_refused_with_both_remedies(f):
    with pytest.raises(CoupledTrajectoriesError) as caught:
        ss.solve(ss.ODE(f), start(), TS)
    text = str(caught.value)
    assert "f: the value for one trajectory changes with another's state" in text
    assert "batched=False" in text
    assert "shared_steps=True" in text


@pytest.mark.parametrize("f", COUPLED.values(), ids=COUPLED.keys())
def test_the_remedies_for_coupled_trajectories_agree(f):
    tight = {"rtol": 1e-6, "atol": 1e-8}
    one = ss.solve(ss.ODE(f, batched=False), start().double(), TS, **tight).ys
    shared = ss.solve(ss.ODE(f), start().double(), TS, shared_steps=True, **tight).ys
    fixed = ss.solve(ss.ODE(f), start().double(), TS, dt=0.001).ys
    assert one.shape == shared.shape == fixed.shape == (2, 4, 2)
    torch.testing.assert_close(one, fixed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared, fixed, rtol=1e-4, atol=1e-5)


#: diffusions of an SDE, by its noise
COUPLED_NOISE = {
    "diagonal": lambda t, y: 0.3 * y.mean(0).expand_as(y),
    "scalar": lambda t, y: 0.3 * y.roll(1, 0),
    "general": lambda t, y: torch.stack([0.3 * y.flip(0), 0.1 * torch.ones_like(y)], -1),
}
CALCULI = pytest.mark.parametrize("calculus", ["ito", "stratonovich"])


def decay(noise, calculus="ito", **facts):
    """With noise that couples the trajectories; commutative, so that there are methods of either calculus."""
    facts = {"noise": noise, "calculus": calculus, "commutative": noise == "general", **facts}
    return ss.SDE(lambda t, y: -y, COUPLED_NOISE[noise], **facts)


@CALCULI
@pytest.mark.parametrize("noise", COUPLED_NOISE)
def test_a_coupled_diffusion_is_refused_where_trajectories_have_steps_of_their_own(noise, calculus):
    method = "milstein" if (noise, calculus) == ("general", "ito") else None
    with pytest.raises(CoupledTrajectoriesError) as caught:
        ss.solve(decay(noise, calculus), start(), TS, rtol=1e-2, seed=0, method=method)
    text = str(caught.value)
    assert "diffusion: the value for one trajectory changes with another's state" in text
    assert "batched=False" in text
    assert "shared_steps=True" in text


@pytest.mark.parametrize("noise", COUPLED_NOISE)
def test_the_remedies_for_a_coupled_diffusion_are_accepted(noise):
    method = "milstein" if noise == "general" else None
    solve = lambda sde, **options: ss.solve(sde, start(), TS, seed=0, method=method, **options)
    for solution in (
        solve(decay(noise), rtol=1e-2, shared_steps=True),
        solve(decay(noise, batched=False), rtol=1e-2),
        solve(decay(noise), dt=0.1),
    ):
        assert solution.success.all() and solution.ys.shape == (2, 4, 2)


def test_a_coupled_drift_of_an_sde_is_refused_and_shared_steps_give_what_fixed_steps_do():
    """dX_i = (mean X - X_i) dt + 0.3 dW_i."""
    sde = ss.SDE(COUPLED["mean"], lambda t, y: 0.3, additive=True)
    y0 = start().double()
    path = ss.BrownianPath(0, (4, 2), cell=0.3, dtype=torch.float64)
    with pytest.raises(CoupledTrajectoriesError, match="drift: the value for one trajectory changes"):
        ss.solve(sde, y0, TS, rtol=1e-4, atol=1e-4, brownian=path)
    shared = ss.solve(sde, y0, TS, rtol=1e-5, atol=1e-5, brownian=path, shared_steps=True).ys
    fixed = ss.solve(sde, y0, TS, dt=0.001, brownian=path).ys
    torch.testing.assert_close(shared, fixed, rtol=1e-3, atol=1e-3)


@CALCULI
def test_noise_with_parameters_of_each_trajectorys_own_or_that_all_share_is_not_coupled(calculus):
    rate = torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    for g in (lambda t, y: rate * y, lambda t, y: 0.3, lambda t, y: torch.tensor([0.1, 0.2]), lambda t, y: rate):
        sde = ss.SDE(lambda t, y: -rate * y, g, calculus=calculus)
        assert ss.solve(sde, start(), TS, rtol=1e-2, atol=1e-2, seed=0).success.all()


def test_a_random_diffusion_is_told_from_a_coupled_one():
    sde = ss.SDE(lambda t, y: -y, lambda t, y: torch.randn_like(y))
    with pytest.raises(CoupledTrajectoriesError, match="diffusion: two evaluations at the same t and y differ"):
        ss.solve(sde, start(), TS, rtol=1e-2, seed=0)


def test_one_trajectory_has_nobody_to_be_coupled_with():
    assert ss.solve(ss.ODE(COUPLED["mean"]), start(1), TS).success.all()


def test_trajectories_with_parameters_of_their_own_are_not_coupled():
    rate = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert ss.solve(ss.ODE(lambda t, y: -rate * y), start(), TS).success.all()


def test_a_matrix_product_is_not_taken_for_coupling():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 64), torch.nn.Tanh(), torch.nn.Linear(64, 5))
    for batch in (2, 3, 7, 33):
        y0 = torch.randn(batch, 5)
        assert ss.solve(ss.ODE(lambda t, y: network(y)), y0, TS, rtol=1e-3).success.all()


def test_trajectories_that_give_nan_are_not_taken_for_coupled():
    y0 = start()
    y0[1] = float("nan")
    solution = ss.solve(ss.ODE(lambda t, y: -y), y0, TS, on_failure="return")
    assert solution.success.tolist() == [True, False, True, True]


def test_a_random_drift_is_told_from_coupled_trajectories():
    with pytest.raises(CoupledTrajectoriesError) as caught:
        ss.solve(ss.ODE(lambda t, y: torch.randn_like(y)), start(), TS)
    text = str(caught.value)
    assert "f: two evaluations at the same t and y differ" in text
    assert "random numbers" in text
    assert "write an SDE" in text


def test_a_drift_that_counts_its_calls_is_refused():
    calls = []

    def f(t, y):
        calls.append(t)
        return -y * len(calls)

    with pytest.raises(CoupledTrajectoriesError, match="keep state between calls"):
        ss.solve(ss.ODE(f), start(), TS)


@pytest.mark.parametrize("batch", [2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize(
    "couple",
    [
        lambda y: y.flip(0),
        lambda y: y.roll(1, 0),
        lambda y: y.mean(0, keepdim=True).expand_as(y),
        lambda y: torch.cat([y[1:2], y[:1], y[2:]]),
    ],
    ids=["reversal", "shift", "mean", "one pair"],
)
def test_reversal_shift_mean_and_pairs_of_the_batch_are_all_seen(batch, couple):
    y0 = torch.linspace(0.1, 1, batch)[:, None]
    with pytest.raises(ss.errors.CoupledTrajectoriesError):
        ss.solve(ss.ODE(lambda t, y: couple(y) - y), y0, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("batch", [2, 3, 6])
def test_a_leader_whom_all_others_follow_is_seen(batch):
    def drift(t, y):
        return torch.cat([-y[:1], y[:1] - y[1:]])

    y0 = torch.linspace(0.1, 1, batch)[:, None]
    with pytest.raises(ss.errors.CoupledTrajectoriesError):
        ss.solve(ss.ODE(drift), y0, torch.tensor([0.0, 1.0]))


def test_a_function_that_refuses_the_probes_states_is_solved_all_the_same():
    def drift(t, y):
        if (y > 1.05).any():
            raise ValueError("outside the domain")
        return -y

    sol = ss.solve(ss.ODE(drift), torch.ones(3, 2), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(sol.ys[-1], torch.full((3, 2), 0.36787944), rtol=1e-5, atol=0)
