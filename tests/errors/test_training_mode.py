"""Modules in training mode that draw noise or move buffers are found wherever a function keeps them."""

import functools

import pytest
import torch
from torch import nn

import sdesolve as ss
from sdesolve.errors import TrainingModeError

Y = torch.ones(3, 2)
TS = torch.tensor([0.0, 1.0])


class Plain:
    """An object that is no module."""

    def __init__(self, network):
        self.network = network

    def __call__(self, t, y):
        return self.network(y)

    def method(self, t, y):
        return self.network(y)


class Slotted:
    __slots__ = ("network",)

    def __init__(self, network):
        self.network = network

    def __call__(self, t, y):
        return self.network(y)


class Module(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, t, y):
        return self.network(y)


class Subclass(ss.ODE):
    def __init__(self, network, **options):
        super().__init__(**options)
        self.network = network

    def f(self, t, y):
        return self.network(y)


GLOBAL = nn.Identity()


def reads_a_global(t, y):
    return GLOBAL(y)


def nested(network):
    def outer(t, y):
        def inner(z):
            return network(z)

        return inner(y)

    return outer


PLACES = {
    "registered": lambda n: ss.ODE(Module(n)),
    "subclass": Subclass,
    "closure": lambda n: ss.ODE(lambda t, y: n(y)),
    "nested_closure": lambda n: ss.ODE(nested(n)),
    "global": lambda n: ss.ODE(reads_a_global),
    "object": lambda n: ss.ODE(Plain(n)),
    "slots": lambda n: ss.ODE(Slotted(n)),
    "method": lambda n: ss.ODE(Plain(n).method),
    "partial": lambda n: ss.ODE(functools.partial(lambda network, t, y: network(y), n)),
    "keyword": lambda n: ss.ODE(functools.partial(lambda t, y, network: network(y), network=n)),
    "default": lambda n: ss.ODE(lambda t, y, network=n: network(y)),
    "list": lambda n: ss.ODE((lambda parts: lambda t, y: parts[0].network(y))([Plain(n)])),
    "dict": lambda n: ss.ODE((lambda parts: lambda t, y: parts["net"](y))({"net": n})),
    "diffusion": lambda n: ss.SDE(lambda t, y: -y, lambda t, y: n(y)),
}
NETWORKS = {
    "dropout": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), "Dropout", "draws new noise"),
    "batch_norm": (lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "BatchNorm1d", "moves its buffers"),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_module_in_training_mode_is_refused_until_it_is_put_into_evaluation_mode(place, network, monkeypatch):
    make, name, what = network
    made = make()
    monkeypatch.setitem(globals(), "GLOBAL", made)
    problem = place(made)
    with pytest.raises(TrainingModeError) as caught:
        ss.solve(problem, Y, TS, dt=0.5)
    for fragment in ("problem: ", name, what, ".eval()", "allow_training=True"):
        assert fragment in str(caught.value)
    made.eval()
    assert ss.solve(problem, Y, TS, dt=0.5).success.all()


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_training_mode_is_accepted_on_request(network):
    for problem in (ss.ODE(Module(network[0]()), allow_training=True), Subclass(network[0](), allow_training=True)):
        assert ss.solve(problem, Y, TS, dt=0.5).success.all()


def test_dropout_that_drops_nothing_is_accepted():
    assert ss.solve(ss.ODE(Module(nn.Dropout(0.0))), Y, TS, dt=0.5).success.all()


def test_layers_without_noise_or_buffers_may_stay_in_training_mode():
    network = nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 2)).train()
    assert ss.solve(ss.ODE(Module(network)), Y, TS, dt=0.5).success.all()
    tracking = nn.BatchNorm1d(2, track_running_stats=False).train()
    assert ss.solve(ss.ODE(Module(tracking)), Y * torch.arange(3.0)[:, None], TS, dt=0.5).success.all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.RReLU(),
        lambda: nn.Dropout2d(0.1),
        lambda: nn.AlphaDropout(0.1),
        lambda: nn.MultiheadAttention(2, 1, dropout=0.1),
        lambda: nn.LSTM(2, 2, num_layers=2, dropout=0.1),
        lambda: nn.InstanceNorm1d(2, track_running_stats=True),
        lambda: nn.SyncBatchNorm(2),
    ],
    ids=lambda make: type(make()).__name__,
)
def test_other_modules_that_draw_noise_or_move_buffers_are_refused(make):
    with pytest.raises(TrainingModeError, match=type(make()).__name__):
        ss.solve(ss.ODE(Module(make())), Y, TS, dt=0.5)
