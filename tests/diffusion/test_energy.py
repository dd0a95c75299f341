"""Denoisers whose network is an energy: the score is its gradient, in samplers, likelihoods and training."""

import pytest
import torch
from torch import Tensor, nn

import diffusion
from tests.diffusion.known import random_mixture

F64 = torch.float64
PROCESS = diffusion.VP()
MIXTURE = random_mixture(0)
EXACT = MIXTURE.denoiser(PROCESS)


def of_mixture(prediction: str = "energy") -> diffusion.Denoiser:
    """The mixture's own energy, up to a constant of each time."""
    scale = (lambda t: 1.0) if prediction == "energy" else PROCESS.sigma
    return diffusion.Denoiser(lambda t, x: scale(t) * (3 * t - EXACT.log_prob(t, x)), PROCESS, prediction)


class Energy(nn.Module):
    """A small network in float64, one number a trajectory."""

    def __init__(self, dims: int = 2, width: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Linear(dims + 1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
            ).double()

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.layers(torch.cat([t[:, None], x], 1)).squeeze(1)


PREDICTIONS = pytest.mark.parametrize("prediction", ["energy", "scaled_energy"])


@PREDICTIONS
@pytest.mark.parametrize("t", [0.01, 0.3, torch.tensor([1.0, 0.2, 0.5, 0.01, 0.7], dtype=F64)])
def test_the_score_of_a_mixtures_energy_is_the_mixtures(prediction: str, t: float | Tensor) -> None:
    x, denoiser = MIXTURE.sample(5, seed=0), of_mixture(prediction)
    for view in ("score", "data", "noise", "velocity", "flow"):
        expected = getattr(EXACT, view)(t, x)
        assert (getattr(denoiser, view)(t, x) - expected).abs().max() < 1e-12 * (1 + expected.abs().max())


@PREDICTIONS
def test_the_energy_is_minus_the_log_density_and_a_constant(prediction: str) -> None:
    x = MIXTURE.sample(5, seed=0)
    expected = 0.9 - EXACT.log_prob(0.3, x)
    torch.testing.assert_close(of_mixture(prediction).energy(0.3, x), expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(EXACT.energy(0.3, x), -EXACT.log_prob(0.3, x))


@PREDICTIONS
@pytest.mark.parametrize("state", [(2,), (1, 2, 3)])
def test_a_trajectory_has_the_score_that_it_has_alone(prediction: str, state: tuple[int, ...]) -> None:
    net = Energy(torch.Size(state).numel())
    denoiser = diffusion.Denoiser(lambda t, x: net(t, x.flatten(1)), PROCESS, prediction)
    x, t = torch.randn(4, *state, dtype=F64), torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=F64)
    together = denoiser.score(t, x)
    alone = torch.cat([denoiser.score(t[i : i + 1], x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-13)
    other = x.clone()
    other[0] = 5.0
    torch.testing.assert_close(denoiser.score(t, other)[1:], together[1:], rtol=1e-12, atol=1e-13)


def test_the_likelihood_by_an_energy_is_the_mixtures() -> None:
    """The divergence of the flow takes second derivatives of the energy."""
    x = MIXTURE.sample(6, seed=1)
    found = diffusion.log_likelihood(
        of_mixture(), x, prior=MIXTURE.at(PROCESS, 1.0), t_min=1e-5, rtol=1e-8, atol=1e-8
    ).log_prob
    assert (found - EXACT.log_prob(1e-5, x)).abs().max() < 1e-6


@PREDICTIONS
def test_gradients_of_the_loss_by_parameters_are_those_of_differences(prediction: str) -> None:
    net = Energy()
    denoiser, x0 = diffusion.Denoiser(net, PROCESS, prediction), MIXTURE.sample(7, seed=0)
    loss = diffusion.DenoisingLoss(t_min=0.1)
    value = lambda: loss(denoiser, x0, torch.Generator().manual_seed(0)).mean()
    value().backward()
    for parameter in list(net.parameters())[:-1]:
        direction = torch.randn_like(parameter)
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step * direction
                ends.append(float(value()))
                parameter -= step * direction
        assert float((parameter.grad * direction).sum()) == pytest.approx(
            (ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-9
        )
    assert net.layers[-1].bias.grad is None  # a constant in the energy is none of its score


def test_the_loss_is_least_for_the_true_energy() -> None:
    """Least squares over the slopes a of E = a E_true finds a = 1 within the noise of 20,000 draws."""
    x0, loss = MIXTURE.sample(20_000, seed=2), diffusion.DenoisingLoss(t_min=0.05)
    slopes = torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    values = []
    for a in slopes.tolist():
        denoiser = diffusion.Denoiser(lambda t, x, a=a: a * EXACT.energy(t, x), PROCESS, "energy")
        values.append(loss(denoiser, x0, torch.Generator().manual_seed(0)).mean())
    low, middle, high = values
    assert float((low - high) / (2 * (low - 2 * middle + high)) + 1) == pytest.approx(1.0, abs=0.02)


def test_samples_by_an_energy_are_those_by_its_score_and_differentiable() -> None:
    options = {"steps": 10, "seed": 0}
    exact = diffusion.sample(EXACT, (4, 2), dtype=F64, **options)
    found = diffusion.sample(of_mixture(), (4, 2), dtype=F64, **options)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
    net = Energy()
    diffusion.sample(diffusion.Denoiser(net, PROCESS, "energy"), (4, 2), gradients=True, **options).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in list(net.parameters())[:-1])


@pytest.mark.compile
@pytest.mark.traced
def test_a_compiled_solve_by_an_energy_is_the_eager_one() -> None:
    denoiser = diffusion.Denoiser(Energy(), PROCESS, "scaled_energy").eval()
    options = {"sampler": "predictor_corrector", "steps": 5, "corrector_steps": 2, "seed": 0}
    eager, compiled = (diffusion.sample(denoiser, (4, 2), compile=c, **options) for c in (False, True))
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


def test_mistakes_name_the_argument() -> None:
    x = torch.zeros(3, 2, dtype=F64)
    with pytest.raises(ValueError, match=r"net: got a prediction of shape \(3, 2\).*\(3,\), one energy a trajectory"):
        diffusion.Denoiser(lambda t, x: x, PROCESS, "energy").score(0.5, x)
    with pytest.raises(ValueError, match=r"prediction: got 'noise'.*'energy' or 'scaled_energy'"):
        diffusion.Denoiser(lambda t, x: x, PROCESS).energy(0.5, x)
