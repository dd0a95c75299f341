"""Weights and times of losses: densities against quantiles, weights against their definitions, finite at both ends."""

import math

import pytest
import torch

import diffusion
from diffusion.loss import TIMES, WEIGHTINGS, DenoisingLoss
from diffusion.loss.target import target
from tests.diffusion.known import VECTORS, random_gaussian, random_mixture
from tests.diffusion.test_processes import every

F64 = torch.float64


def affine_net(t, x):
    return 0.3 * x + 0.1 * t[:, None]


def denoiser_of(process, prediction="noise"):
    return diffusion.Denoiser(affine_net, process, prediction, sigma_data=0.7)


@every
@pytest.mark.parametrize("times", [name for name in TIMES if name != "balanced"])
def test_the_density_of_times_is_the_slope_of_their_quantiles(process, times):
    """1 / density = |dt / du| by central differences, where t lies inside the span; importance is that of min_snr."""
    law = DenoisingLoss("min_snr", times)._times(denoiser_of(process))
    u, h = torch.arange(1, 40, dtype=F64) / 40 + 0.003, 1e-6
    t = law.quantile(u)
    slope = ((law.quantile(u + h) - law.quantile(u - h)) / (2 * h)).abs()
    speed = (process.diffusion_rate(t) / process.sigma(t)) ** 2 if law.per_log_snr else 1.0
    inside = (t > 1.01 * law.first) & (t < 0.99 * law.last)
    assert inside.sum() >= 10
    torch.testing.assert_close((law.density(t) * speed * slope)[inside], torch.ones_like(t)[inside], rtol=1e-5, atol=0)


@every
@pytest.mark.parametrize("prediction", VECTORS)
def test_targets_are_what_the_predictions_mean(process, prediction):
    """A network that says the target of (x_0, eps) is right about x_0 and eps."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(5, 2, dtype=F64, generator=generator) for _ in range(2))
    t = process.end * torch.linspace(0.1, 0.9, 5, dtype=F64)
    said = target(denoiser_of(process, prediction), t, x0, eps)
    knows = diffusion.Denoiser(lambda t, x: said, process, prediction, sigma_data=0.7)
    x = process.perturb(t, x0, eps)
    torch.testing.assert_close(knows.data(t, x), x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(knows.noise(t, x), eps, rtol=1e-6, atol=1e-6)


@every
@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "constant"])
def test_a_weight_counts_the_same_errors_whatever_is_predicted(process, weighting):
    """Losses of one denoiser as if its network had predicted each quantity, against w |error of the noise|^2 / D."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(5, 2, dtype=F64, generator=generator) for _ in range(2))
    t = process.end * torch.linspace(0.1, 0.9, 5, dtype=F64)
    x, guess = process.perturb(t, x0, eps), denoiser_of(process)
    loss = DenoisingLoss(weighting, t_max=process.rates_end)
    expected = loss.weight(guess, t) * (guess.noise(t, x) - eps).square().mean(1)
    for prediction in VECTORS:
        if prediction == "edm":
            skip, out = (
                diffusion.Denoiser(lambda c, x, v=v: v + 0 * x, process, "edm", sigma_data=0.7) for v in (0, 1)
            )
            base = skip.data(t, x)
            said = (guess.data(t, x) - base) / (out.data(t, x) - base)
        else:
            said = getattr(guess, prediction)(t, x)
        same = diffusion.Denoiser(lambda t, x, said=said: said, process, prediction, sigma_data=0.7)
        torch.testing.assert_close(loss.at(same, t, x0, eps), expected, rtol=1e-6, atol=1e-9)


@every
def test_weights_are_their_definitions(process):
    """From errors of the data, of the flow and of the remainder of Karras et al., made from an error of the noise."""
    t, net = process.end * torch.linspace(0.1, 0.9, 7, dtype=F64), denoiser_of(process)
    alpha, sigma, span = process.alpha(t), process.sigma(t), process.rates_end - 1e-5
    data = -sigma / alpha
    velocity = alpha - sigma * data
    flow = process.alpha_rate(t) * data + process.sigma_rate(t)
    c_out = 0.7 * sigma / alpha / torch.sqrt((sigma / alpha) ** 2 + 0.49)

    def stated(mean, std):
        """Density of t where log(sigma / alpha) is normal, on the span."""
        normal = torch.distributions.Normal(torch.tensor(mean, dtype=F64), torch.tensor(std, dtype=F64))
        ends = -0.5 * process.log_snr(torch.tensor([1e-5, process.rates_end], dtype=F64))
        mass = normal.cdf(ends).diff()
        return normal.log_prob(torch.log(sigma / alpha)).exp() / mass * 0.5 * (process.diffusion_rate(t) / sigma) ** 2

    expected = {
        "simple": torch.ones_like(t) / span,
        "data": data**2 / span,
        "velocity": velocity**2 / span,
        "flow": flow**2 / span,
        "likelihood": process.diffusion_rate(t) ** 2 / (2 * sigma**2),
        "min_snr": torch.minimum(torch.ones_like(t), 3.0 * (sigma / alpha) ** 2) / span,
        "edm": stated(-1.2, 1.2) * (data / c_out) ** 2,
        "logit_normal": stated(0.0, 1.0) * flow**2,
    }
    for weighting, value in expected.items():
        loss = DenoisingLoss(weighting, t_max=process.rates_end, gamma=3.0)
        torch.testing.assert_close(loss.weight(net, t), value, rtol=1e-6, atol=0)


def test_logit_normal_times_of_rectified_flow_are_those_of_esser_et_al():
    loss = DenoisingLoss("logit_normal", "importance", mean=0.3, std=0.8)
    t, _ = loss.draw_times(denoiser_of(diffusion.RectifiedFlow(), "flow"), torch.zeros(20_000, 1, dtype=F64))
    logit = torch.logit(t)
    assert float(logit.mean()) == pytest.approx(0.3, abs=1e-3)
    assert float(logit.std()) == pytest.approx(0.8, abs=1e-3)


def test_conditional_flow_matching_and_the_training_of_karras_et_al_as_they_wrote_them():
    """Lipman et al. eq. (9); and E lambda(sigma) |D - x_0|^2 with lambda = 1 / c_out^2 over log-normal sigma."""
    x0 = random_gaussian(0).sample(64, seed=0)
    flow = denoiser_of(diffusion.RectifiedFlow(), "flow")
    generator = torch.Generator().manual_seed(3)
    found = DenoisingLoss("constant")(flow, x0, torch.Generator().manual_seed(3))
    t, _ = DenoisingLoss("constant").draw_times(flow, x0, generator)
    eps = torch.randn(x0.shape, dtype=F64, generator=generator)
    x_t = (1 - t[:, None]) * x0 + t[:, None] * eps
    torch.testing.assert_close(found, (affine_net(t, x_t) - (eps - x0)).square().mean(1))

    edm, generator = denoiser_of(diffusion.EDM(), "edm"), torch.Generator().manual_seed(3)
    loss = DenoisingLoss("edm", "importance")
    found = loss(edm, x0, torch.Generator().manual_seed(3))
    t, _ = loss.draw_times(edm, x0, generator)
    eps = torch.randn(x0.shape, dtype=F64, generator=generator)
    c_out = t * 0.7 / torch.sqrt(t**2 + 0.49)
    data = edm.data(t, x0 + t[:, None] * eps)
    torch.testing.assert_close(found, (data - x0).square().mean(1) / c_out**2)
    t, _ = loss.draw_times(edm, torch.zeros(20_000, 1, dtype=F64))
    assert float(torch.log(t).mean()) == pytest.approx(-1.2, abs=1e-3)
    assert float(torch.log(t).std()) == pytest.approx(1.2, abs=1e-3)


@every
@pytest.mark.parametrize("prediction", VECTORS)
def test_every_weight_is_finite_at_both_ends_for_every_prediction(process, prediction):
    """In single precision, which ends sooner."""
    net, x0 = denoiser_of(process, prediction), torch.ones(2, 2)
    for weighting in WEIGHTINGS:
        for times in ("uniform", "log_snr", "importance"):
            loss = DenoisingLoss(weighting, times)
            ends = torch.tensor(loss.span(net))
            counts = loss._counts(net, ends, prediction, loss._times(net))
            assert counts.isfinite().all(), (weighting, times, counts)
            assert loss.at(net, ends, x0, x0).isfinite().all(), (weighting, times)


def test_losses_go_to_the_end_where_nothing_is_left_of_the_data_unless_a_weight_is_infinite_there():
    process = diffusion.RectifiedFlow()
    last = lambda prediction, *loss: DenoisingLoss(*loss).span(denoiser_of(process, prediction))[1]
    assert last("flow", "constant") == last("noise", "simple") == last("data", "min_snr") == last("flow", "flow") == 1.0
    assert last("flow", "logit_normal", "importance") == last("noise", "min_snr", "importance") == 1.0
    assert last("flow", "likelihood") == last("flow", "simple", "log_snr") == last("noise", "data") == 0.999
    assert DenoisingLoss().span(denoiser_of(diffusion.EDM()))[1] == 80.0
    with pytest.raises(ValueError, match=r"t_max: got 1\.0 .*accepted is t_min < t_max < 1\.0.*take t_max=0\.999"):
        DenoisingLoss("likelihood", t_max=1.0)(denoiser_of(process), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"t_max: got 90\.0 .*accepted is t_min < t_max <= 80\.0"):
        DenoisingLoss(t_max=90.0)(denoiser_of(diffusion.EDM()), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("process", "weighting", "factor"),
    [(diffusion.VP(), "likelihood", 10), (diffusion.VE(), "likelihood", 5), (diffusion.EDM(), "edm", 100)],
    ids=["VP", "VE", "EDM"],
)
def test_importance_sampled_times_lower_the_variance(process, weighting, factor):
    """Of the loss of an exact denoiser of a Gaussian, one time a batch, at equal means."""
    gaussian = random_gaussian(1)
    net, x0 = gaussian.denoiser(process), gaussian.sample(20_000, seed=0)
    found = {}
    for times in ("uniform", "importance"):
        loss = DenoisingLoss(weighting, times, t_min=1e-3)
        found[times] = loss(net, x0, torch.Generator().manual_seed(0))
    plain, better = found["uniform"], found["importance"]
    difference = float((plain.mean() - better.mean()).abs())
    assert difference < 4 * math.sqrt(float(plain.var() + better.var()) / len(x0))
    assert float(plain.var()) > factor * float(better.var())


def test_a_table_of_times_makes_min_snr_weights_equal():
    for process in (diffusion.VP(), diffusion.Cosine(), diffusion.RectifiedFlow()):
        net, loss = random_mixture(0).denoiser(process), DenoisingLoss("min_snr", "importance", gamma=2.0)
        t, _ = loss.draw_times(net, torch.zeros(1000, 2, dtype=F64))
        counts = loss._counts(net, t, "noise", loss._times(net))
        grid = torch.linspace(*loss.span(net), 100_001, dtype=F64)
        torch.testing.assert_close(
            counts, torch.trapezoid(loss.weight(net, grid), grid).expand(1000), rtol=1e-2, atol=0
        )


@every
@pytest.mark.parametrize("prediction", VECTORS)
def test_fit_trains_every_prediction_of_every_process_by_every_loss(process, prediction):
    gaussian = random_gaussian(0)
    data, exact = gaussian.sample(32, seed=0).float(), gaussian.float().denoiser(process)
    denoiser = diffusion.Denoiser(diffusion.network.MLP(2, width=8, depth=1), process, prediction)
    for loss in (
        DenoisingLoss(),
        DenoisingLoss("constant", "importance"),
        DenoisingLoss("edm", "importance"),
        diffusion.ExplicitLoss(exact, weighting="likelihood", times="importance"),
        diffusion.ImplicitLoss(t_min=1e-3),
        diffusion.SlicedLoss(t_min=1e-3),
    ):
        fit = diffusion.fit(denoiser, data, steps=1, batch_size=16, loss=loss, progress=False)
        assert fit.losses.isfinite().all()
        assert all(p.isfinite().all() for p in fit.denoiser.parameters())
