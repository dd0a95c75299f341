"""What users may ask of sample() and of the reverse family: mistakes are named, and what is sensible is done."""

import copy
import math
import warnings

import pytest
import torch
from torch._dynamo.utils import counters

import diffusion
import sdesolve as ss
from tests.diffusion.known import Dense, learned, random_mixture
from tests.diffusion.test_processes import PROCESSES, Trigonometric, every

VP, FLOW = diffusion.VP(), diffusion.RectifiedFlow()


def sampled(denoiser, **options):
    return diffusion.sample(denoiser, (3, 2), **{"seed": 0, "sampler": "reverse_sde", **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 10.0}, "steps: got 10.0; accepted is an integer"),
        ({"steps": True}, "steps: got True"),
        ({"trajectory": 0}, "trajectory: got 0"),
        ({"trajectory": 2.5, "steps": 10}, "trajectory: got 2.5"),
        ({"seed": -1, "sampler": "probability_flow"}, "seed: got -1"),
        ({"t_max": 1.5}, r"t_min, t_max: got 0.001 and 1.5; accepted is 0 <= t_min < t_max <= 1\. Time runs"),
        ({"t_max": math.inf}, "t_min, t_max: got"),
        ({"t_min": math.nan}, "t_min, t_max: got"),
        ({"grid": torch.tensor([1.5, 1.0, 0.5])}, "t_min, t_max: got 0.5 and 1.5"),
        ({"grid": torch.tensor([1.0, 0.5, -0.5])}, "t_min, t_max: got -0.5 and 1.0"),
        ({"grid": [1.0, 0.5]}, r"grid: got \[1.0, 0.5\]"),
        ({"grid": torch.tensor([1.0, 0.6, 0.5]), "steps": 7}, "steps: got 7 beside a grid of 3 times"),
        ({"eta": lambda t: torch.ones(3, 2)}, r"eta: got a function that returns shape \(3, 2\)"),
    ],
)
def test_a_request_that_makes_no_sense_names_its_argument(options, text):
    with pytest.raises(ValueError, match=text):
        sampled(learned(), **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"eta": "much"}, "eta: got str; accepted is a number, or a function of t"),
        ({"eta": torch.ones(3, 1)}, "eta: got Tensor"),
        ({"eta": lambda t: None}, "eta: got a function that returns NoneType"),
        ({"prior": torch.ones(3, 2, dtype=torch.complex64)}, "prior: got a tensor of torch.complex64"),
    ],
)
def test_an_argument_of_another_kind_is_named(options, text):
    with pytest.raises(TypeError, match=text):
        sampled(learned(), **options)


@pytest.mark.parametrize("shape", [(), (0, 2), (-1, 2), (5.0, 2)])
def test_a_shape_without_samples_is_refused(shape):
    with pytest.raises(ValueError, match=r"shape: got .*\(batch, \*state\)"):
        diffusion.sample(learned(), shape, seed=0)
    with pytest.raises(TypeError, match="shape: got 5"):
        diffusion.sample(learned(), 5, seed=0)


def test_states_and_predictions_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="x: got int64"):
        learned().score(0.5, torch.ones(3, 2, dtype=torch.long))
    with pytest.raises(TypeError, match="net: got a prediction of type tuple"):
        diffusion.Denoiser(lambda t, x: (x, x), VP).score(0.5, torch.ones(3, 2))
    with pytest.raises(ValueError, match="x: got a single number"):
        learned().score(0.5, torch.tensor(1.0, dtype=torch.float64))


def test_noise_cannot_start_where_the_rates_are_infinite():
    denoiser = random_mixture(0).denoiser(FLOW)
    with pytest.raises(ValueError, match=r"t_max: got 1.0; accepted is t_max <= 0.999 for the reverse SDE"):
        sampled(denoiser, t_max=1.0)
    assert sampled(denoiser, t_max=0.9995, steps=5).isfinite().all()


@pytest.mark.parametrize("prediction", ["noise", "data", "velocity", "score", "flow", "edm"])
def test_the_flow_of_every_prediction_starts_where_it_is_finite(prediction):
    denoiser = diffusion.Denoiser(Dense(2), FLOW, prediction).eval()
    way = sampled(denoiser, sampler="probability_flow", trajectory=1, t_min=0.01)
    whole = prediction in ("data", "velocity", "flow", "edm")
    assert float(way.ts[0]) == denoiser.flow_end == (1.0 if whole else 0.999)
    assert way.ys.isfinite().all()
    ode = diffusion.log_likelihood(denoiser, way.ys[-1], t_min=0.1, method="heun", dt=0.3)
    assert ode.log_prob.isfinite().all()
    if not whole:
        with pytest.raises(ValueError, match=f"t_max: got 1.0; .*0.999 for the flow of a '{prediction}' prediction"):
            sampled(denoiser, sampler="probability_flow", t_max=1.0)


@every
def test_every_process_is_sampled_in_the_precision_of_the_network(process):
    """Fixed steps have one time for all, adaptive steps one for each."""
    denoiser = diffusion.Denoiser(Dense(2).float(), process, "edm").eval()
    how = [{"steps": 5}, {"steps": 5, "sampler": "probability_flow"}]
    if isinstance(process, Trigonometric):
        how += [{"rtol": 0.1, "atol": 0.1}, {"sampler": "probability_flow"}]
    for options in how:
        x = sampled(denoiser, **options)
        assert x.dtype == torch.float32 and x.isfinite().all()


@pytest.mark.parametrize("name", ["VP", "VP, any beta", "affine", "alpha and sigma alone"])
def test_a_copied_denoiser_has_the_same_process(name):
    """fit() returns a copy; processes that are written as classes are equal to no other object."""
    process = PROCESSES[name]
    denoiser = copy.deepcopy(diffusion.Denoiser(Dense(2), process))
    diffusion.reverse_sde(process, denoiser)
    for other in (diffusion.VE(), diffusion.VP(beta_max=19.0), diffusion.RectifiedFlow()):
        with pytest.raises(ValueError, match="score: got a denoiser of"):
            diffusion.reverse_sde(other, denoiser)


def test_a_grid_gives_as_many_outputs_as_the_trajectory_is_to_have():
    denoiser, grid = learned(), 1e-3 + (1 - 1e-3) * torch.linspace(1, 0, 13, dtype=torch.float64) ** 2
    every = sampled(denoiser, grid=grid, trajectory=12)
    some = sampled(denoiser, grid=grid, trajectory=3)
    torch.testing.assert_close(some.ts, grid[::4])
    assert torch.equal(some.ys, every.ys[::4])


def test_a_user_s_process_needs_no_more_than_alpha_and_sigma_in_float32():
    t = torch.tensor(0.3)
    for name in ("drift_rate", "diffusion_rate", "drift_shift", "sigma_rate"):
        assert getattr(Trigonometric(), name)(t).dtype == torch.float32


def test_an_eta_that_is_a_tensor_is_a_number():
    denoiser = learned()
    for eta in (0.0, 0.7):
        assert torch.equal(
            sampled(denoiser, eta=torch.tensor(eta, dtype=torch.float64), steps=5), sampled(denoiser, eta=eta, steps=5)
        )


def test_steps_that_are_short_where_the_drift_is_steep_are_no_reason_to_warn():
    """h times the rate at the start, not the longest h, is what makes a first step unstable."""
    sde = ss.SDE(lambda t, y: -y / (0.001 + t), lambda t, y: torch.ones_like(y), additive=True)
    ts = torch.tensor([0.0, 0.001, 0.01, 0.5, 1.0], dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ss.solve(sde, torch.ones(3, 1), ts, dt=1.0, seed=0)
    with pytest.warns(UserWarning, match="steps of 0.5 are too long"):
        ss.solve(sde, torch.ones(3, 1), ts[[0, 3, 4]], dt=1.0, seed=0)


@pytest.mark.compile
@pytest.mark.traced
def test_the_amount_of_noise_is_an_input_of_a_graph_where_it_is_a_tensor():
    """The reverse SDE of rectified flow from a preconditioned denoiser, eager and compiled once."""
    denoiser, made = diffusion.Denoiser(Dense(2), FLOW, "edm").eval(), []
    for eta in (0.5, 0.9):
        how = {"method": "sra1", "steps": 8, "eta": torch.tensor(eta, dtype=torch.float64)}
        eager, graph = (sampled(denoiser, compile=c, **how) for c in (False, True))
        torch.testing.assert_close(graph, eager, rtol=1e-9, atol=1e-9)
        made.append(counters["stats"]["unique_graphs"])
    assert made[0] == made[1] > 0
