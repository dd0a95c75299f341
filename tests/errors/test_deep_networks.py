"""How deep a network is nested hides nothing from the solver."""

import pytest
import torch

import sdesolve as ss


def nested(module, levels):
    for _ in range(levels):
        module = torch.nn.Sequential(module)
    return module


def test_dropout_thirty_modules_deep_is_refused():
    net = nested(torch.nn.Dropout(0.5), 30)
    with pytest.raises(ss.errors.TrainingModeError):
        ss.solve(ss.ODE(lambda t, y: net(y)), torch.ones(2, 1), torch.tensor([0.0, 1.0]))


def test_a_parameter_thirty_modules_deep_has_its_gradient_by_backsolve():
    torch.manual_seed(0)
    net = nested(torch.nn.Linear(2, 2).double(), 30)
    y0, ts = torch.ones(3, 2, dtype=torch.float64), torch.tensor([0.0, 1.0])
    gradients = []
    for adjoint in ("direct", "backsolve"):
        ys = ss.solve(ss.ODE(lambda t, y: net(y)), y0, ts, rtol=1e-8, atol=1e-8, adjoint=adjoint).ys
        gradients.append(torch.autograd.grad(ys[-1].sum(), list(net.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
