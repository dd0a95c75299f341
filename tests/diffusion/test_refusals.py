"""What would give a number without meaning, or fail far from its cause, is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diffusion
from diffusion.checkpoint import CheckpointError

LAW = diffusion.exact.Gaussian(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
VP, FLOW = LAW.denoiser(diffusion.VP()), LAW.denoiser(diffusion.RectifiedFlow())
X = LAW.sample(3, seed=0)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: diffusion.log_likelihood(VP, X, t_max=2.0), "t_min, t_max: got 1e-05 and 2.0"),
        (lambda: diffusion.elbo(VP, X, t_max=2.0), "t_min, t_max: got 1e-05 and 2.0"),
        (lambda: diffusion.elbo(FLOW, X, t_max=1.0), "log_snr of RectifiedFlow.. is finite, such as t_max=0.999"),
        (lambda: diffusion.annealed_langevin(VP, (3, 2), t_max=3.0), "t_min, t_max: got 0.001 and 3.0"),
        (lambda: diffusion.annealed_langevin(VP, (3, 2), grid=torch.tensor([0.5, -0.1])), "t_min, t_max: got -0.1"),
        (lambda: diffusion.langevin(VP, X, step=0.1, steps=1, t=5.0), "t: got 5.0; accepted is a time from 0 to"),
    ],
)
def test_times_outside_the_process_are_refused(call: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        call()


@pytest.mark.parametrize("seed", [-1, True, 1.5, "a", 2**64])
def test_seeds_are_integers_from_0_to_2_to_the_64(seed: Any) -> None:
    for call in (
        lambda: diffusion.log_likelihood(VP, X, trace="hutchinson", seed=seed),
        lambda: diffusion.elbo(VP, X, seed=seed),
        lambda: diffusion.dequantise(torch.zeros(3), 4, seed=seed),
    ):
        with pytest.raises(ValueError, match="seed: got"):
            call()


@pytest.mark.parametrize("x", [X[:0], X[:, :0], X[:, 0]], ids=["no states", "no components", "numbers"])
def test_states_are_at_least_one_of_at_least_one_component(x: Tensor) -> None:
    plain = diffusion.Denoiser(lambda t, x: 0 * x, diffusion.VP())
    for call in (
        lambda: diffusion.log_likelihood(plain, x),
        lambda: diffusion.elbo(plain, x),
        lambda: diffusion.DenoisingLoss()(plain, x),
        lambda: diffusion.ImplicitLoss(level=0.0)(plain, x),
    ):
        with pytest.raises(ValueError, match=r"x0?: got shape"):
            call()


def test_losses_of_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x0: got int64; accepted is \(batch, \*state\) of floating-point numbers"):
        diffusion.DenoisingLoss()(VP, X.long())


def test_a_corrector_takes_an_elementwise_eta_alone() -> None:
    with pytest.raises(ValueError, match="eta: got a function that returns shape"):
        diffusion.sample(VP, (3, 2), sampler="predictor_corrector", steps=5, eta=lambda t: torch.ones(2))


def test_mixtures_are_of_finite_numbers() -> None:
    means, covariances = torch.zeros(2, 1), torch.ones(2, 1, 1)
    for name, given in {
        "weights": (means, covariances, torch.tensor([1.0, torch.inf])),
        "means": (means * torch.nan, covariances),
        "covariances": (means, covariances * torch.inf),
    }.items():
        with pytest.raises(ValueError, match=f"{name}: got"):
            diffusion.exact.GaussianMixture(*given)


def test_a_shift_without_what_makes_it_is_refused() -> None:
    with pytest.raises(ValueError, match="shift: got a function beside b=None"):
        diffusion.Affine(torch.zeros_like, None, torch.ones_like, shift=torch.sin)


def test_metropolis_steps_take_states_of_one_number() -> None:
    def steps(x: Tensor) -> Tensor:
        return diffusion.langevin(None, x, step=0.1, steps=20, log_prob=log_prob, seed=0)

    def log_prob(x: Tensor) -> Tensor:
        return -0.5 * x.reshape(len(x), -1).square().sum(1)

    assert torch.equal(steps(X[:, 0]), steps(X[:, :1])[:, 0])


def denoiser(process: diffusion.Process | None = None, **options: Any) -> diffusion.Denoiser:
    torch.manual_seed(0)
    return diffusion.Denoiser(diffusion.network.MLP(2, width=4, depth=1).double(), process or diffusion.VP(), **options)


def trained(which: diffusion.Denoiser, **options: Any) -> diffusion.Fit:
    return diffusion.fit(which, X, **{"steps": 2, "batch_size": 2, "progress": False, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 2.5},
        {"steps": True},
        {"batch_size": 1.5},
        {"checkpoint_every": 0},
        {"ema": 1.0},
        {"clip": -1.0},
        {"steps": None, "epochs": float("nan")},
        {"facts": {"step": 7}},
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any]) -> None:
    name = list(options)[-1]
    with pytest.raises((TypeError, ValueError), match=f"{name}: got"):
        trained(denoiser(), **options)


def test_a_resumed_training_has_the_same_shift_and_scalings(tmp_path: Path) -> None:
    def pushed(c: float) -> diffusion.Process:
        return diffusion.Affine(lambda t: -2.0, lambda t: c, lambda t: 1.0)

    for name, before, after in (
        ("process", denoiser(pushed(1.0)), denoiser(pushed(2.0))),
        ("sigma_data", denoiser(prediction="edm", sigma_data=0.5), denoiser(prediction="edm", sigma_data=2.0)),
    ):
        path = tmp_path / f"{name}.safetensors"
        trained(before, checkpoint=path)
        with pytest.raises(CheckpointError, match=f"{name}="):
            trained(after, checkpoint=path, resume=True)


class _Root(nn.Module):
    """A finite output with an infinite derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return x + self.w.sqrt()


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_ends_the_training_before_it_reaches_the_weights(clip: float | None) -> None:
    which = diffusion.Denoiser(_Root(), diffusion.VP())
    with pytest.raises(FloatingPointError, match="gradient: got norm"):
        trained(which, steps=1, clip=clip)
    assert bool(next(which.parameters()).isfinite().all())


def test_training_leaves_no_gradient_on_its_data() -> None:
    data = X.clone().requires_grad_()
    diffusion.fit(denoiser(), data, steps=1, batch_size=2, progress=False)
    assert data.grad is None
