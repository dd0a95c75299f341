"""One prediction, seen as four; and the loss that the exact one minimises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import diffusion
from diffusion.loss import TIMES, WEIGHTINGS
from tests.diffusion.known import Dense, random_gaussian, random_mixture

PROCESS = diffusion.VP()
EXACT = random_mixture(0).denoiser(PROCESS)
VIEWS = ("score", "data", "noise", "velocity")


@given(st.floats(1e-4, 1.0), st.sampled_from(VIEWS))
@settings(max_examples=40)
def test_a_network_that_predicts_any_view_gives_all_of_them(t: float, prediction: str) -> None:
    denoiser = diffusion.Denoiser(getattr(EXACT, prediction), PROCESS, prediction)
    x = torch.randn(5, 2, dtype=torch.float64)
    for view in VIEWS:
        assert torch.allclose(getattr(denoiser, view)(t, x), getattr(EXACT, view)(t, x), rtol=1e-6, atol=1e-6)


@given(st.floats(1e-4, 1.0), st.sampled_from(VIEWS))
@settings(max_examples=40)
def test_views_satisfy_their_definitions(t: float, prediction: str) -> None:
    denoiser, x = diffusion.Denoiser(Dense(2), PROCESS, prediction), torch.randn(5, 2, dtype=torch.float64)
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = PROCESS.alpha(time), PROCESS.sigma(time)
    data, noise = denoiser.data(t, x), denoiser.noise(t, x)
    assert torch.allclose(alpha * data + sigma * noise, x, rtol=1e-9, atol=1e-9)
    assert torch.allclose(denoiser.score(t, x), -noise / sigma, rtol=1e-9)
    assert torch.allclose(denoiser.velocity(t, x), alpha * noise - sigma * data, rtol=1e-9, atol=1e-9)
    assert torch.equal(getattr(denoiser, prediction)(t, x), denoiser(t, x))


@pytest.mark.parametrize(("alias", "name"), [("epsilon", "noise"), ("sample", "data"), ("v_prediction", "velocity")])
def test_aliases_mean_the_same(alias: str, name: str) -> None:
    x = torch.randn(3, 2, dtype=torch.float64)
    a, b = (diffusion.Denoiser(Dense(2), PROCESS, p) for p in (alias, name))
    assert torch.equal(a.score(0.5, x), b.score(0.5, x))


@pytest.mark.parametrize("t", [0.5, torch.tensor(0.5), torch.full((4,), 0.5), torch.full((4, 1, 1, 1), 0.5)])
def test_time_reaches_the_network_as_one_number_a_trajectory(t: Tensor | float) -> None:
    seen = []

    def net(t: Tensor, x: Tensor) -> Tensor:
        seen.append(t)
        return x

    diffusion.Denoiser(net, PROCESS).score(t, torch.randn(4, 1, 8, 8))
    assert [tuple(s.shape) for s in seen] == [(4,)]
    assert torch.equal(seen[0], torch.full((4,), 0.5))


def test_mistakes_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"prediction: got 'noize'.*'epsilon'"):
        diffusion.Denoiser(Dense(2), PROCESS, "noize")
    with pytest.raises(TypeError, match="process: got"):
        diffusion.Denoiser(Dense(2), "vp")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="net: got"):
        diffusion.Denoiser(3, PROCESS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"net: got a prediction of shape \(3, 1\)"):
        diffusion.Denoiser(lambda t, x: x[:, :1], PROCESS).score(0.5, torch.randn(3, 2))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("times", TIMES)
def test_the_exact_denoiser_minimises_every_loss(weighting: str, times: str) -> None:
    """Same examples, times and noise for the exact denoiser and for ones that are off by a little."""
    gaussian = random_gaussian(1)
    x0, exact = gaussian.sample(4000, seed=0), gaussian.denoiser(PROCESS)
    loss = diffusion.DenoisingLoss(weighting, times, t_min=0.05)

    def value(error: float) -> Tensor:
        net = lambda t, x: exact.noise(t, x) + error * torch.tanh(x)
        return loss(diffusion.Denoiser(net, PROCESS), x0, torch.Generator().manual_seed(1)).mean()

    assert value(0.0) < value(0.2)
    assert value(0.0) < value(-0.2)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_how_times_are_drawn_does_not_change_the_loss(weighting: str) -> None:
    """Against quadrature: for x_0 = 0 and a denoiser that says 0, the error is |eps|^2 / D, of mean 1."""
    zero = diffusion.Denoiser(lambda t, x: torch.zeros_like(x), PROCESS)
    x0 = torch.zeros(40_000, 8, dtype=torch.float64)
    for name in TIMES:
        first, last = (0.05, 0.6) if "normal" in weighting + name else (0.01, 1.0)  # without the far tails of a normal
        loss = diffusion.DenoisingLoss(weighting, name, t_min=first, t_max=last)
        grid = torch.linspace(first, last, 100_001, dtype=torch.float64)
        expected = torch.trapezoid(loss.weight(zero, grid), grid)
        got = loss(zero, x0, torch.Generator().manual_seed(2))
        assert torch.allclose(got.mean(), expected, rtol=0, atol=5 * float(got.std()) / 200), name


def test_likelihood_weighting_is_half_the_squared_score_error_times_g_squared() -> None:
    loss, process = diffusion.DenoisingLoss("likelihood", "uniform", t_min=0.1), PROCESS
    t = torch.linspace(0.1, 1, 7, dtype=torch.float64)
    error = 0.7  # of the noise; of the score it is error / sigma
    expected = 0.5 * process.diffusion_rate(t) ** 2 * (error / process.sigma(t)) ** 2
    assert torch.allclose(loss.weight(EXACT, t) * error**2, expected)


def test_balanced_weight_integrates_to_one_and_is_constant_under_balanced_times() -> None:
    loss = diffusion.DenoisingLoss("balanced", "balanced", t_min=1e-3)
    t = torch.logspace(-3, 0, 200_001, dtype=torch.float64)
    assert float(torch.trapezoid(loss.weight(EXACT, t), t)) == pytest.approx(1.0, abs=1e-6)
    t, density = loss.draw_times(EXACT, torch.zeros(10_000, 2, dtype=torch.float64))
    assert torch.allclose(loss.weight(EXACT, t), density, rtol=1e-9)
    middle = (PROCESS.log_snr(t).abs() < 3).double().mean()
    span = PROCESS.log_snr(torch.tensor([1e-3, 1.0], dtype=torch.float64))
    assert float(middle) == pytest.approx(0.5 * 0.6827 + 0.5 * 6 / float(span[0] - span[1]), abs=0.01)


@pytest.mark.parametrize("times", ["uniform", "log_snr"])
def test_times_of_a_batch_are_evenly_spaced(times: str) -> None:
    t, _ = diffusion.DenoisingLoss(times=times).draw_times(EXACT, torch.zeros(64, 2, dtype=torch.float64))
    scale = t if times == "uniform" else PROCESS.log_snr(t)
    gaps = scale.sort().values.diff()
    assert torch.allclose(gaps, gaps.mean(), rtol=1e-6)


def test_the_loss_is_a_function_of_the_generator() -> None:
    x0, denoiser = torch.randn(6, 2, dtype=torch.float64), diffusion.Denoiser(Dense(2), PROCESS)
    a, b = (diffusion.DenoisingLoss()(denoiser, x0, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"weighting": "snr2"}, "weighting"),
        ({"times": "random"}, "times"),
        ({"t_min": 0.0}, "t_min"),
        ({"t_min": 0.5, "t_max": 0.4}, "t_min"),
        ({"gamma": 0.0}, "gamma"),
        ({"std": -1.0}, "std"),
        ({"mean": float("nan")}, "mean"),
    ],
)
def test_mistakes_in_the_loss_name_the_argument(arguments: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}.*: got .* accepted is"):
        diffusion.DenoisingLoss(**arguments)  # type: ignore[arg-type]
