"""elbo against quadrature for a wrong denoiser, and against the log-density, which it is for the exact one."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import diffusion
from tests.diffusion.known import learned, random_mixture
from tests.diffusion.test_processes import PROCESSES

F64 = torch.float64
PROCESS = diffusion.VP()


def points(n: int, dims: int = 2) -> Tensor:
    return torch.randn(n, dims, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prior", ["closed form", "function"])
def test_the_bound_of_a_wrong_denoiser_is_that_of_quadrature(prior: str) -> None:
    """For eps_hat = c x_t:  E|eps - eps_hat|^2 = D (1 - c sigma)^2 + c^2 alpha^2 |x|^2."""
    c, t_min, t_max = 0.4, 1e-3, 0.9
    x = points(200)
    size = x.square().sum(1)
    ends = [float(PROCESS.log_snr(torch.tensor(t, dtype=F64))) for t in (t_max, t_min)]

    def moments(log_snr: float) -> tuple[float, float]:
        alpha2, sigma2 = 1 / (1 + math.exp(-log_snr)), 1 / (1 + math.exp(log_snr))
        return 2 * (1 - c * math.sqrt(sigma2)) ** 2, c**2 * alpha2

    constant, slope = (quad(lambda u, k=k: moments(u)[k], *ends, epsabs=1e-11)[0] + moments(ends[1])[k] for k in (0, 1))
    kl = 0.5 * (size * math.exp(ends[0]))  # N(alpha x, sigma^2) from N(0, sigma^2)
    decoder = 0.5 * 2 * (math.log(2 * math.pi) - ends[1])
    wanted = -kl - 0.5 * (constant + slope * size) - decoder

    law = PROCESS.prior_at(t_max)
    given = None if prior == "closed form" else law.log_prob
    denoiser = diffusion.Denoiser(lambda t, x: c * x, PROCESS)
    found = diffusion.elbo(denoiser, x, samples=64, t_min=t_min, t_max=t_max, prior=given, seed=2)
    z = (found.bound - wanted) / found.std_error
    assert abs(float(z.mean())) < 4 / math.sqrt(200)
    assert 0.85 < float(z.square().mean().sqrt()) < 1.2  # over strata, no more than the truth
    if given is None:
        torch.testing.assert_close(found.prior_kl, kl, rtol=1e-9, atol=1e-12)
    else:
        assert float((found.prior_kl - kl).abs().mean()) < 0.02


@pytest.mark.parametrize("process", [PROCESSES[k] for k in ("VP", "VE", "rectified flow", "EDM")], ids=str)
def test_the_bound_is_tight_for_the_exact_score_and_prior(process: diffusion.Process) -> None:
    """Song, Durkan, Murray & Ermon (2021), theorem 2, point by point."""
    mixture, end = random_mixture(3), process.rates_end
    x = mixture.sample(400, seed=1)
    options = {"samples": 200, "t_min": 1e-5 * end, "t_max": end, "seed": 5}
    found = diffusion.elbo(mixture.denoiser(process), x, prior=mixture.at(process, end), **options)
    gap, own = found.bound - mixture.log_prob(x), found.std_error.square()
    assert abs(float(gap.sum())) < 4 * float(own.sum().sqrt())
    assert float(own.sum().sqrt()) / 400 < 0.03
    # few draws fall where modes are decided, so that a point's own error is known roughly; without bias, its square
    assert float((gap.square().mean() / own.mean()).sqrt()) == pytest.approx(1.0, abs=0.15)


def test_a_denoiser_that_is_off_is_told_from_the_exact_one_by_the_bound() -> None:
    mixture, x = random_mixture(3), random_mixture(3).sample(200, seed=1)
    exact = mixture.denoiser(PROCESS)
    off = diffusion.Denoiser(lambda t, x: 0.8 * exact.noise(t, x), PROCESS)
    better, worse = (diffusion.elbo(d, x, samples=64, seed=1) for d in (exact, off))
    # the same draws for both: the difference is known better than either
    assert float((better.bound - worse.bound).mean()) > 0.3


def test_a_point_has_the_same_bound_in_every_batch_and_in_chunks() -> None:
    x = points(5)
    together = diffusion.elbo(learned(), x, samples=8, seed=1)
    alone = diffusion.elbo(learned(), x[3:4], samples=8, seed=1, paths=[3])
    in_chunks = diffusion.elbo(learned(), x, samples=8, seed=1, chunk=3)
    for name in ("bound", "std_error"):
        torch.testing.assert_close(getattr(alone, name), getattr(together, name)[3:4], rtol=1e-9, atol=0)
        torch.testing.assert_close(getattr(in_chunks, name), getattr(together, name), rtol=1e-9, atol=0)
    assert diffusion.elbo(learned(), x, samples=1).std_error is None


def test_the_bound_is_differentiable_in_x_and_parameters() -> None:
    denoiser = learned()
    weight = denoiser.net.layers[0].weight.detach().clone().requires_grad_()

    def bound(x: Tensor, w: Tensor) -> Tensor:
        net = lambda t, y: torch.func.functional_call(denoiser.net, {"layers.0.weight": w}, (t, y))
        return diffusion.elbo(diffusion.Denoiser(net, PROCESS), x, samples=2).bound

    assert torch.autograd.gradcheck(bound, (points(2).requires_grad_(), weight), atol=1e-5)


def test_images_and_bits_per_dimension() -> None:
    net = lambda t, x: 0.1 * x
    found = diffusion.elbo(diffusion.Denoiser(net, PROCESS), torch.zeros(3, 1, 4, 4), samples=4)
    assert found.bound.dtype == torch.float32 and found.dims == 16
    wanted = diffusion.bits_per_dimension(found.bound, 16, levels=17, range=(0.0, 1.0))
    assert torch.equal(found.bits_per_dimension(levels=17, range=(0.0, 1.0)), wanted)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"samples": 3}, "samples: got 3; accepted is 1, or an even number"),
        ({"samples": 0}, "samples: got 0"),
        ({"t_min": 0.0}, "t_min, t_max: got 0.0 and 1.0"),
        ({"chunk": 0}, "chunk: got 0"),
    ],
)
def test_mistakes_name_the_argument(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        diffusion.elbo(learned(), points(2), **options)  # type: ignore[arg-type]
