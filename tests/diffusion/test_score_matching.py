"""Explicit, implicit, sliced and denoising score matching: one minimiser, and differences that no model changes.

Where data are Gaussian and the model is affine, every loss is quadratic in what it averages over, and the points of
`sigma_points` have the moments that such averages need: expectations are exact.
"""

import math

import pytest
import torch

import diffusion
from diffusion import DenoisingLoss, ExplicitLoss, ImplicitLoss, SlicedLoss
from tests.diffusion.known import VECTORS, random_gaussian
from tests.diffusion.test_processes import PROCESSES, every

F64 = torch.float64
D = 2
GAUSSIAN = random_gaussian(4, dims=D)
MEAN, S = GAUSSIAN.means[0], GAUSSIAN.covariances[0]
SLICES = math.sqrt(D) * torch.eye(D, dtype=F64)[:, None]
"""Directions with E v v^T = I, to be taken all."""


def sigma_points():
    """x_0 and eps, ``(4 D, D)`` each, of the mean and covariance of N(MEAN, S) x N(0, I)."""
    z = math.sqrt(2 * D) * torch.cat([torch.eye(2 * D, dtype=F64), -torch.eye(2 * D, dtype=F64)])
    return MEAN + z[:, :D] @ torch.linalg.cholesky(S).T, z[:, D:]


def affine_model(theta, process, prediction="score"):
    """A x + c, theta = (A, c)."""
    A, c = theta[: D * D].reshape(D, D), theta[D * D :]
    return diffusion.Denoiser(lambda t, x: x @ A.T + c, process, prediction, sigma_data=0.7)


def expected(kind, theta, process, t, prediction="score"):
    """The exact expectation of a loss at time t; explicit, implicit and sliced without their weight 2 w sigma^2."""
    model, (x0, eps) = affine_model(theta, process, prediction), sigma_points()
    t = torch.full(x0.shape[:1], t, dtype=F64)
    x = process.perturb(t, x0, eps)
    if kind == "denoising":
        return DenoisingLoss().at(model, t, x0, eps).mean()
    if kind == "explicit":
        return ExplicitLoss(GAUSSIAN.denoiser(process)).objective(model, t, x).mean()
    if kind == "implicit":
        return ImplicitLoss().objective(model, t, x).mean()
    slices = SLICES.expand(-1, *x.shape)
    return SlicedLoss(reduced=kind == "sliced, reduced").along(model, t, x, slices).mean()


KINDS = ("denoising", "explicit", "implicit", "sliced", "sliced, reduced")


def minimiser(loss):
    """Of a loss quadratic in theta, by its normal equations."""
    zero = torch.zeros(D * D + D, dtype=F64)
    return torch.linalg.solve(torch.func.jacrev(torch.func.grad(loss))(zero), -torch.func.grad(loss)(zero))


def exact_score(process, t):
    """A and c of the score of N(alpha MEAN + shift, alpha^2 S + sigma^2 I)."""
    time = torch.tensor(t, dtype=F64)
    alpha, sigma = process.alpha(time), process.sigma(time)
    A = -torch.linalg.inv(alpha**2 * S + sigma**2 * torch.eye(D, dtype=F64))
    return torch.cat([A.flatten(), -A @ (alpha * MEAN + process.shift(time))])


@every
@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_is_least_at_the_exact_score_of_a_gaussian(process, kind):
    t = 0.3 * process.end
    found = minimiser(lambda theta: expected(kind, theta, process, t))
    torch.testing.assert_close(found, exact_score(process, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "denoising"])
def test_without_noise_the_score_of_the_data_is_found(kind):
    found = minimiser(lambda theta: expected(kind, theta, diffusion.VP(), 0.0))
    torch.testing.assert_close(found, exact_score(diffusion.VP(), 0.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", [diffusion.VP(), diffusion.EDM(), PROCESSES["affine"]], ids=["VP", "EDM", "affine"])
@pytest.mark.parametrize("kind", ["denoising", "implicit"])
@pytest.mark.parametrize("prediction", VECTORS)
def test_a_network_of_any_prediction_is_led_to_the_exact_score(process, kind, prediction):
    t = 0.3 * process.end
    theta = minimiser(lambda theta: expected(kind, theta, process, t, prediction))
    x = torch.linspace(-2, 2, 10, dtype=F64).reshape(5, D)
    exact = GAUSSIAN.denoiser(process).score(t, x)
    torch.testing.assert_close(affine_model(theta, process, prediction).score(t, x), exact, rtol=1e-7, atol=1e-7)


@every
def test_losses_differ_by_numbers_that_no_model_changes(process):
    """With C = alpha^2 S + sigma^2 I the law's covariance, and a denoising loss in terms of the score:

    denoising - explicit = (D / sigma^2 - tr C^-1) / 2 D (Vincent 2011), explicit - implicit = tr C^-1 / 2 D (Hyvarinen
    2005).
    """
    t = 0.3 * process.end
    variance = float(process.variance(torch.tensor(t, dtype=F64)))
    trace = -float(exact_score(process, t)[: D * D].reshape(D, D).trace())
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        theta = torch.randn(D * D + D, dtype=F64, generator=generator)
        found = {kind: float(expected(kind, theta, process, t)) for kind in KINDS}
        model, time = affine_model(theta, process), torch.tensor(t, dtype=F64)
        denoising = found["denoising"] / float(2 * DenoisingLoss().weight(model, time) * variance)
        assert denoising - found["explicit"] == pytest.approx((D / variance - trace) / (2 * D), rel=1e-8, abs=1e-8)
        assert found["explicit"] - found["implicit"] == pytest.approx(trace / (2 * D), rel=1e-8, abs=1e-8)
        assert found["sliced"] == pytest.approx(found["implicit"], rel=1e-12)
        assert found["sliced, reduced"] == pytest.approx(found["implicit"], rel=1e-12)


@pytest.mark.parametrize("process", [diffusion.VP(), diffusion.EDM()], ids=["VP", "EDM"])
@pytest.mark.parametrize("weighting", ["likelihood", "simple", "edm"])
def test_over_all_times_losses_tell_the_same_difference_between_two_models(process, weighting):
    """By their own draws, the same for both: what explicit and denoising losses estimate of loss(a) - loss(b).

    Implicit and sliced losses differ from the explicit one in J alone, which is compared above.
    """
    exact, x0 = GAUSSIAN.denoiser(process), GAUSSIAN.sample(20_000, seed=0)
    settings = {"weighting": weighting, "times": "importance", "t_min": 0.1}

    def difference(loss):
        a, b = (
            diffusion.Denoiser(lambda t, x, size=size: exact.noise(t, x) + size * torch.tanh(x), process)
            for size in (0.7, -0.3)
        )
        return loss(a, x0, torch.Generator().manual_seed(1)) - loss(b, x0, torch.Generator().manual_seed(1))

    denoising = difference(DenoisingLoss(**settings))
    gap = difference(ExplicitLoss(exact, **settings)) - denoising
    assert float(gap.mean().abs()) < 5 * float(gap.std()) / math.sqrt(len(x0)) < 0.1 * float(denoising.mean())


class Energy(torch.nn.Module):
    """The score -grad E of E(x) = x^T P x / 2 - b^T x, found by differentiation."""

    def __init__(self, P, b):
        super().__init__()
        self.P, self.b = torch.nn.Parameter(P), torch.nn.Parameter(b)

    def forward(self, t, x):
        return -torch.func.grad(lambda x: (0.5 * (x @ self.P * x).sum(1) - x @ self.b).sum())(x)


@pytest.mark.parametrize("loss", [ImplicitLoss(), SlicedLoss()], ids=["implicit", "sliced"])
def test_an_energy_without_its_normalisation_is_matched_to_the_data(loss):
    """The gradient of the loss in the parameters is 0 at P = S^-1, b = S^-1 MEAN, and not elsewhere."""
    x0, _ = sigma_points()
    t, P = torch.zeros(len(x0), dtype=F64), torch.linalg.inv(S)
    for factor in (1.0, 1.1):
        model = diffusion.Denoiser(Energy(factor * P, P @ MEAN), diffusion.VP(), "score")
        if isinstance(loss, SlicedLoss):
            value = loss.along(model, t, x0, SLICES.expand(-1, *x0.shape))
        else:
            value = loss.objective(model, t, x0)
        gradients = torch.autograd.grad(value.mean(), list(model.parameters()))
        size = max(float(g.abs().max()) for g in gradients)
        assert size < 1e-10 if factor == 1 else size > 1e-2


def test_at_a_level_only_that_time_is_looked_at():
    process, seen = diffusion.VP(), []
    net = lambda t, x: seen.append((t, x)) or -x
    x0 = GAUSSIAN.sample(5, seed=0)
    for level in (0.0, 0.4):
        ImplicitLoss(level=level)(diffusion.Denoiser(net, process, "score"), x0)
        t, x = seen.pop()
        assert torch.equal(t, torch.full((5,), level, dtype=F64))
        assert torch.equal(x, x0) == (level == 0)


def test_reduced_slices_by_signs_are_exact_where_components_do_not_mix():
    model = diffusion.Denoiser(lambda t, x: 2 * torch.sin(x), diffusion.VP(), "score")
    x = GAUSSIAN.sample(50, seed=0)
    exact = ImplicitLoss(level=0.0)(model, x)
    torch.testing.assert_close(SlicedLoss(level=0.0)(model, x), exact, rtol=1e-12, atol=1e-12)
    for other in (SlicedLoss(level=0.0, reduced=False), SlicedLoss(level=0.0, directions="normal")):
        assert not torch.allclose(other(model, x), exact, rtol=0.1, atol=0.1)
        many = torch.stack([other(model, x) for _ in range(400)])
        assert ((many.mean(0) - exact).abs() < 5 * many.std(0) / 20 + 1e-12).all()


@pytest.mark.parametrize("chunk", [None, 1])
def test_the_divergence_is_the_trace_of_the_jacobian(chunk):
    model = diffusion.Denoiser(diffusion.network.MLP(3, width=8).double(), diffusion.VP(), "score")
    x, t = torch.randn(4, 3, dtype=F64), torch.rand(4, dtype=F64)
    found = ImplicitLoss(chunk=chunk).objective(model, t, x)
    for i in range(4):
        point = lambda y, i=i: model.score(t[i], y[None])[0]
        trace = torch.autograd.functional.jacobian(point, x[i]).trace()
        torch.testing.assert_close(found[i], (0.5 * point(x[i]).square().sum() + trace) / 3)


@pytest.mark.parametrize(
    ("loss", "prediction"),
    [
        (ExplicitLoss(GAUSSIAN.denoiser(diffusion.VP()), t_min=0.01), "noise"),
        (ImplicitLoss(weighting="likelihood", times="importance", t_min=0.01), "noise"),
        (SlicedLoss(slices=2, t_min=0.01), "velocity"),
        (DenoisingLoss("constant", t_min=0.01), "edm"),
        (ImplicitLoss(level=0.0), "score"),
        (SlicedLoss(level=0.3), "score"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_training_by_any_loss_brings_a_network_nearer_to_the_true_score(loss, prediction):
    torch.manual_seed(0)
    process, data = diffusion.VP(), GAUSSIAN.sample(512, seed=0).float()
    model = diffusion.Denoiser(diffusion.network.MLP(D, width=16, depth=2), process, prediction)
    level = getattr(loss, "level", None)
    truth = ExplicitLoss(GAUSSIAN.to(torch.float32).denoiser(process), level=level, t_min=0.01)

    @torch.no_grad()
    def error(model):
        return float(truth(model, data, torch.Generator().manual_seed(0)).mean())

    before = error(model)
    fit = diffusion.fit(model, data, steps=100, batch_size=128, lr=1e-2, warmup=5, loss=loss, progress=False)
    assert error(fit.denoiser) < 0.5 * before
    assert fit.losses[-10:].mean() < fit.losses[:10].mean()


def test_losses_are_named_without_addresses():
    named = lambda t, x: -x
    a, b = (ExplicitLoss(GAUSSIAN.denoiser(diffusion.VariancePreserving(lambda t: 1 + t))) for _ in range(2))
    for loss in (a, ExplicitLoss(named), ImplicitLoss(), SlicedLoss(), DenoisingLoss()):
        assert "0x" not in repr(loss)
    assert repr(a) == repr(b)
    assert repr(a).startswith("ExplicitLoss(exact=ExactDenoiser, weighting='simple'")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ExplicitLoss(3), "exact: got int"),
        (lambda: ImplicitLoss(level=-1.0), r"level: got -1\.0"),
        (lambda: SlicedLoss(slices=0), "slices: got 0"),
        (lambda: SlicedLoss(directions="sphere"), "directions: got 'sphere'"),
        (lambda: ImplicitLoss(weighting="snr"), "weighting: got 'snr'"),
        (
            lambda: ImplicitLoss(level=0.0)(diffusion.Denoiser(lambda t, x: x, diffusion.VP()), torch.zeros(2, D)),
            "score' or",
        ),
        (lambda: ImplicitLoss(level=1.5)(GAUSSIAN.denoiser(diffusion.VP()), torch.zeros(2, D)), r"level: got 1\.5"),
    ],
)
def test_mistakes_name_the_argument(make, text):
    with pytest.raises((TypeError, ValueError), match=text):
        make()
