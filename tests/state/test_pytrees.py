"""A state may be any tensor or pytree of tensors; the numbers are those of the same problem written otherwise."""

from typing import NamedTuple

import pytest
import torch

import sdesolve as ss

TS = torch.linspace(0, 1, 4, dtype=torch.float64)
STEPS = {"own": {}, "shared": {"shared_steps": True}, "fixed": {"dt": 0.1}, "rk4": {"dt": 0.1, "method": "rk4"}}
by_steps = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())


def flat_pendulum(t, y):
    """Angle (2), speed (2), heat (1) of a damped pendulum in the plane."""
    angle, speed = y[:, :2], y[:, 2:4]
    return torch.cat([speed, -torch.sin(angle) - 0.1 * speed, 0.1 * (speed**2).sum(1, keepdim=True)], 1)


def parts(angle, speed):
    return speed, -torch.sin(angle) - 0.1 * speed, 0.1 * (speed**2).sum(1)


def start(batch=3):
    torch.manual_seed(0)
    return torch.randn(batch, 5, dtype=torch.float64)


class Pendulum(NamedTuple):
    angle: torch.Tensor
    speed: torch.Tensor
    heat: torch.Tensor


def by_key(t, y):
    angle, speed, heat = parts(y["angle"], y["speed"])
    return {"angle": angle, "speed": speed, "heat": heat}


def by_place(t, y):
    (angle, speed), _ = y
    a, s, h = parts(angle, speed)
    return (a, s), [h]


def by_name(t, y):
    return Pendulum(*parts(y.angle, y.speed))


TREES = {
    "dict": (
        by_key,
        lambda a, s, h: {"angle": a, "speed": s, "heat": h},
        lambda y: (y["angle"], y["speed"], y["heat"]),
    ),
    "nested": (by_place, lambda a, s, h: ((a, s), [h]), lambda y: (*y[0], *y[1])),
    "named_tuple": (by_name, Pendulum, lambda y: (y.angle, y.speed, y.heat)),
}


@by_steps
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_a_pytree_has_the_numbers_of_the_flat_state(tree, steps):
    f, make, read = tree
    y0 = start()
    flat = ss.solve(ss.ODE(flat_pendulum), y0, TS, **steps)
    solution = ss.solve(ss.ODE(f), make(y0[:, :2], y0[:, 2:4], y0[:, 4]), TS, **steps)
    assert type(solution.ys) is type(make(1, 2, 3))
    angle, speed, heat = read(solution.ys)
    assert heat.shape == (4, 3)
    assert torch.equal(torch.cat([angle, speed, heat[..., None]], -1), flat.ys)
    assert torch.equal(solution.stats.steps, flat.stats.steps)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_a_pytree_sde_has_the_numbers_of_the_flat_state(noise):
    y0 = start()
    matrix = lambda y: torch.stack([0.1 * y, torch.cos(y)], -1)
    flat_g = (lambda t, y: matrix(y)) if noise == "general" else (lambda t, y: 0.1 * y)
    leaf_g = matrix if noise == "general" else (lambda leaf: 0.1 * leaf)
    flat = ss.SDE(flat_pendulum, flat_g, noise=noise)
    tree = ss.SDE(by_key, lambda t, y: {key: leaf_g(leaf) for key, leaf in y.items()}, noise=noise)
    options = {"dt": 0.1, "seed": 7}
    wanted = ss.solve(flat, y0, TS, **options).ys
    got = ss.solve(tree, {"angle": y0[:, :2], "speed": y0[:, 2:4], "heat": y0[:, 4]}, TS, **options).ys
    assert torch.equal(torch.cat([got["angle"], got["speed"], got["heat"][..., None]], -1), wanted)


def test_leaves_of_a_diffusion_may_be_numbers_and_may_broadcast():
    y0 = {"a": torch.ones(3, 2), "b": torch.ones(3)}
    drift = lambda t, y: {"a": -y["a"], "b": -y["b"]}
    whole = ss.SDE(drift, lambda t, y: {"a": torch.tensor([0.3, 0.1]).expand(3, 2), "b": 0.2 * torch.ones(3)})
    short = ss.SDE(drift, lambda t, y: {"a": torch.tensor([0.3, 0.1]), "b": 0.2})
    wanted, got = (ss.solve(sde, y0, TS, dt=0.1, seed=0).ys for sde in (whole, short))
    for key in y0:
        assert torch.equal(got[key], wanted[key])


@by_steps
@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2), (3, 1, 2, 2), (3, 0), (3, 2, 0)], ids=str)
def test_a_tensor_of_any_rank_has_the_numbers_of_its_flat_form(shape, steps):
    y0 = (
        torch.linspace(0.5, 2, max(torch.Size(shape).numel(), 1)).reshape(shape)
        if 0 not in shape
        else torch.ones(shape)
    )
    ode = ss.ODE(lambda t, y: torch.cos(3 * t) * y)
    solution = ss.solve(ode, y0, TS, **steps)
    assert solution.ys.shape == (4, *shape)
    assert solution.success.all()
    assert torch.equal(solution.ys.reshape(4, 3, -1), ss.solve(ode, y0.reshape(3, -1), TS, **steps).ys)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize("shape", [(3,), (3, 2, 2)], ids=str)
def test_a_tensor_of_any_rank_solves_an_sde(shape, noise):
    y0 = torch.linspace(0.5, 2, torch.Size(shape).numel()).reshape(shape)
    g = (lambda t, y: torch.stack([0.1 * y, 0.2 * y], -1)) if noise == "general" else lambda t, y: 0.1 * y
    sde = ss.SDE(lambda t, y: -y, g, noise=noise)
    wanted = ss.solve(sde, y0.reshape(3, -1), TS, dt=0.1, seed=0).ys
    assert torch.equal(ss.solve(sde, y0, TS, dt=0.1, seed=0).ys.reshape(4, 3, -1), wanted)


@by_steps
def test_one_trajectory_without_a_batch_is_a_batch_of_one(steps):
    y0 = start(1)
    batched = ss.solve(ss.ODE(flat_pendulum), y0, TS, **steps)
    one = ss.ODE(lambda t, y: flat_pendulum(t, y[None])[0], batched=False)
    solution = ss.solve(one, y0[0], TS, **steps)
    assert solution.ys.shape == (4, 5)
    assert torch.equal(solution.ys, batched.ys[:, 0])
    assert solution.status.shape == solution.stats.steps.shape == solution.paths.shape == (1,)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_one_sde_trajectory_without_a_batch_is_a_batch_of_one(noise):
    g = (lambda t, y: torch.stack([0.1 * y, y], -1)) if noise == "general" else lambda t, y: 0.1 * y
    y0 = start(1)
    options = {"dt": 0.1, "seed": 7, "paths": [3]}
    wanted = ss.solve(ss.SDE(lambda t, y: -y, g, noise=noise), y0, TS, **options).ys
    one = ss.SDE(lambda t, y: -y, g, noise=noise, batched=False)
    assert torch.equal(ss.solve(one, y0[0], TS, **options).ys, wanted[:, 0])


@by_steps
def test_a_state_without_a_batch_may_be_a_number_or_a_pytree(steps):
    number = ss.solve(ss.ODE(lambda t, y: -y, batched=False), torch.tensor(1.0, dtype=torch.float64), TS, **steps)
    torch.testing.assert_close(number.ys, torch.exp(-TS), rtol=1e-4, atol=0.0)
    f = lambda t, y: {"a": -y["a"], "b": -2 * y["b"]}
    y0 = {"a": torch.tensor(1.0, dtype=torch.float64), "b": torch.ones(2, 3, dtype=torch.float64)}
    tree = ss.solve(ss.ODE(f, batched=False), y0, TS, **steps).ys
    assert tree["a"].shape == (4,)
    assert tree["b"].shape == (4, 2, 3)
    torch.testing.assert_close(tree["b"][:, 1, 2], torch.exp(-2 * TS), rtol=1e-4, atol=0.0)


def test_the_start_state_is_the_first_output_and_is_not_written_to():
    for steps in STEPS.values():
        y0 = start()
        before = y0.clone()
        solution = ss.solve(ss.ODE(flat_pendulum), y0, TS, **steps)
        assert torch.equal(solution.ys[0], before)
        solution.ys.fill_(0.0)
        assert torch.equal(y0, before), steps


def test_a_start_state_that_is_not_contiguous_is_like_its_copy():
    wide = torch.randn(5, 6, dtype=torch.float64)
    for y0 in (wide.T[:3], wide[:, ::2].T, start(1).expand(3, 5)):
        for steps in STEPS.values():
            wanted = ss.solve(ss.ODE(flat_pendulum), y0.contiguous(), TS, **steps).ys
            assert torch.equal(ss.solve(ss.ODE(flat_pendulum), y0, TS, **steps).ys, wanted)


def test_gradients_reach_every_leaf_of_a_pytree():
    y0 = {"angle": start()[:, :2].requires_grad_(), "speed": start()[:, 2:4].requires_grad_(), "heat": start()[:, 4]}
    flat = start().requires_grad_()
    wanted = torch.autograd.grad(ss.solve(ss.ODE(flat_pendulum), flat, TS).ys[-1, :, 4].sum(), flat)[0]
    got = torch.autograd.grad(ss.solve(ss.ODE(by_key), y0, TS).ys["heat"][-1].sum(), (y0["angle"], y0["speed"]))
    torch.testing.assert_close(torch.cat(got, 1), wanted[:, :4], rtol=1e-10, atol=1e-12)


def test_without_grad_mode_no_graph_is_kept():
    y0 = start().requires_grad_()
    for steps in STEPS.values():
        with torch.no_grad():
            assert not ss.solve(ss.ODE(flat_pendulum), y0, TS, **steps).ys.requires_grad
        assert ss.solve(ss.ODE(flat_pendulum), y0, TS, **steps).ys.requires_grad
        assert not ss.solve(ss.ODE(flat_pendulum), y0.detach(), TS, **steps).ys.requires_grad
