"""Problems are modules: functions that are modules are registered, and subclasses may define them as methods."""

import pytest
import torch
from torch import nn

import sdesolve as ss

TS = torch.linspace(0, 1, 4)


class Field(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(width, width)

    def forward(self, t, y):
        return torch.tanh(self.layer(y))


class Decay(ss.ODE):
    def __init__(self, rate, **options):
        super().__init__(**options)
        self.rate = nn.Parameter(torch.tensor(rate))

    def f(self, t, y):
        return -self.rate * y


class OrnsteinUhlenbeck(ss.SDE):
    def __init__(self, rate, sigma):
        super().__init__(additive=True)
        self.rate, self.sigma = nn.Parameter(torch.tensor(rate)), nn.Parameter(torch.tensor(sigma))

    def drift(self, t, y):
        return -self.rate * y

    def diffusion(self, t, y):
        return self.sigma.expand_as(y)


def test_a_module_as_drift_is_registered():
    field = Field()
    names = {name for name, _ in ss.ODE(field).named_parameters()}
    assert names == {"f.layer.weight", "f.layer.bias"}
    sde = ss.SDE(field, Field())
    assert len(list(sde.parameters())) == 4
    assert set(sde.state_dict()) == {
        f"{part}.layer.{name}" for part in ("drift", "diffusion") for name in ("weight", "bias")
    }


def test_a_problem_moves_and_changes_mode_as_a_module():
    ode = ss.ODE(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    assert not ode.eval().f[1].training
    assert ode.double().f[0].weight.dtype == torch.float64


@pytest.mark.parametrize("steps", [{}, {"dt": 0.1}, {"shared_steps": True}], ids=["own", "fixed", "shared"])
def test_a_subclass_with_a_method_is_the_function(steps):
    wanted = ss.solve(ss.ODE(lambda t, y: -0.5 * y), torch.ones(3, 2), TS, **steps).ys
    assert torch.equal(ss.solve(Decay(0.5), torch.ones(3, 2), TS, **steps).ys.detach(), wanted)
    assert ss.solve(Decay(0.5, batched=False), torch.ones(3, 2), TS, **steps).ys.shape == (4, 3, 2)


def test_a_subclassed_sde_is_the_functions():
    plain = ss.SDE(lambda t, y: -0.5 * y, lambda t, y: 0.3, additive=True)
    wanted = ss.solve(plain, torch.ones(3, 2), TS, dt=0.1, seed=0).ys
    mine = ss.solve(OrnsteinUhlenbeck(0.5, 0.3), torch.ones(3, 2), TS, dt=0.1, seed=0).ys
    assert torch.equal(mine.detach(), wanted)


@pytest.mark.parametrize(
    "make", [lambda ou: ou.to_calculus("stratonovich"), ss.time_reversed], ids=["other", "reversed"]
)
def test_a_problem_made_of_a_subclass_keeps_its_parameters_and_gradients(make):
    source = OrnsteinUhlenbeck(0.5, 0.3)
    ys = ss.solve(make(source), torch.ones(3, 2), TS, dt=0.1, seed=0).ys
    ys.sum().backward()
    assert source.rate.grad is not None and source.rate.grad != 0
    assert source.sigma.grad is not None and source.sigma.grad != 0


@pytest.mark.parametrize("adjoint", ["direct", "backsolve"])
@pytest.mark.parametrize("steps", [{}, {"dt": 0.1}], ids=["adaptive", "fixed"])
def test_gradients_reach_registered_parameters(steps, adjoint):
    field = Field()
    ss.solve(ss.ODE(field), torch.ones(3, 2), TS, adjoint=adjoint, **steps).ys[-1].sum().backward()
    for parameter in field.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_problem_and_states_of_a_solve_are_left_as_they_were():
    field = Field()
    ode = ss.ODE(field)
    before = {key: value.clone() for key, value in ode.state_dict().items()}
    ss.solve(ode, torch.ones(3, 2), TS)
    assert all(torch.equal(before[key], value) for key, value in ode.state_dict().items())
    assert ode.training
    assert all(parameter.grad is None for parameter in ode.parameters())
