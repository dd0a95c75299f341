"""The ancestral sampler: exact recursions of Gaussians, DDIM, single points, ends, batches, calls, compiled steps."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusion
import sdesolve as ss
from diffusion.ancestral import Ancestral, Transitions
from diffusion.exact import Gaussian
from tests.diffusion.known import Dense, learned, random_gaussian, random_mixture
from validation.moments import MomentRecursion, moment_vector

VP, FLOW = diffusion.VP(), diffusion.RectifiedFlow()
SHIFTED = diffusion.Affine(lambda t: -1.0 - t, lambda t: torch.cos(3 * t), lambda t: 0.5 + t, end=2.0)
PROCESSES = [VP, diffusion.SubVP(), diffusion.VE(), FLOW, diffusion.EDM(), diffusion.Cosine(), SHIFTED]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=[type(process).__name__ for process in PROCESSES])


def recursion(
    process: diffusion.Process, gaussian: Gaussian, times: Tensor, eta: float, mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and covariance behind DDIM's steps (12), (16), from alpha and sigma alone, with E[x_0 | x_t] by regression:
    data(x) = m + alpha C (alpha^2 C + sigma^2)^-1 (x - alpha m - shift)."""
    m, C, eye = gaussian.means[0], gaussian.covariances[0], torch.eye(2, dtype=torch.float64)
    for t, s in pairwise(times):
        (a, v, b), (a_s, v_s, b_s) = ((process.alpha(u), process.variance(u), process.shift(u)) for u in (t, s))
        gain = a * C @ torch.linalg.inv(a**2 * C + v * eye)
        w2 = eta**2 * v_s / v * (v - (a / a_s) ** 2 * v_s)
        kept = torch.sqrt(v_s - w2) / torch.sqrt(v)
        M = kept * eye + (a_s - a * kept) * gain
        mean = b_s + a_s * m + M @ (mean - a * m - b)
        covariance = M @ covariance @ M.T + w2 * eye
    return mean, covariance


@every_process
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_moments_of_gaussians_are_those_of_the_linear_recursion(process: diffusion.Process, eta: float) -> None:
    """To rounding, from the very end to 0: the method's own steps, by quadrature over their noise."""
    gaussian = random_gaussian(0)
    times = process.end * torch.linspace(1, 0, 9, dtype=torch.float64) ** 2
    prior = process.prior
    start = torch.full((2,), prior.mean, dtype=torch.float64), prior.scale**2 * torch.eye(2, dtype=torch.float64)
    mean, covariance = recursion(process, gaussian, times, eta, *start)
    sde = diffusion.reverse_sde(process, gaussian.denoiser(process), eta)
    v = MomentRecursion(sde, Ancestral(), 2, 2, order=2).run(
        moment_vector(*(part.numpy() for part in start)), times.numpy()
    )
    size = prior.scale**2
    assert np.allclose(v, moment_vector(mean.numpy(), covariance.numpy()), rtol=1e-10, atol=1e-13 * size)


@pytest.mark.parametrize(("process", "eta"), [(VP, 1.0), (FLOW, 1.0), (FLOW, 0.5), (diffusion.VE(), 1.0)])
def test_samples_have_the_moments_of_the_linear_recursion(process: diffusion.Process, eta: float) -> None:
    gaussian, n, steps = random_gaussian(1), 20_000, 12
    x = diffusion.sample(
        gaussian.denoiser(process), (n, 2), sampler="ancestral", steps=steps, eta=eta, t_min=0.0, seed=4
    )
    times = torch.linspace(process.end, 0, steps + 1, dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    mean, covariance = recursion(process, gaussian, times, eta, 0 * eye[0], process.prior.scale**2 * eye)
    scale = covariance.diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() < 5 / math.sqrt(n) * scale).all()
    assert ((torch.cov(x.T) - covariance).abs() < 5 * math.sqrt(2 / n) * torch.outer(scale, scale)).all()


def test_without_noise_it_is_ddim() -> None:
    """Song, Meng & Ermon (2021), (12) with sigma = 0, in terms of the noise that the network predicts."""
    denoiser, steps = learned(), 10
    times = torch.linspace(1, 1e-3, steps + 1, dtype=torch.float64)
    start = torch.randn(4, 2, dtype=torch.float64)
    x = start
    for t, s in pairwise(times):
        bar_t, bar_s = VP.alpha(t) ** 2, VP.alpha(s) ** 2
        epsilon = denoiser.noise(t, x).detach()
        data = (x - torch.sqrt(1 - bar_t) * epsilon) / torch.sqrt(bar_t)
        x = torch.sqrt(bar_s) * data + torch.sqrt(1 - bar_s) * epsilon
    for seed in (0, 1):
        found = diffusion.sample(denoiser, (4, 2), sampler="ancestral", steps=steps, eta=0.0, prior=start, seed=seed)
        assert torch.allclose(found, x, rtol=1e-9, atol=1e-9)


def test_without_noise_it_goes_to_the_probability_flow_at_first_order() -> None:
    denoiser, start = random_mixture(0).denoiser(VP), torch.randn(8, 2, dtype=torch.float64)
    exact = diffusion.sample(denoiser, (8, 2), sampler="probability_flow", prior=start, rtol=1e-9, atol=1e-9)
    errors = []
    for steps in (100, 200, 400):
        x = diffusion.sample(denoiser, (8, 2), sampler="ancestral", steps=steps, eta=0.0, prior=start, seed=0)
        errors.append(float((x - exact).norm()))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (abs(orders - 1) < 0.15).all(), orders
    assert errors[-1] < 0.1


@every_process
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_single_point_is_sampled_exactly_whatever_the_steps(process: diffusion.Process, steps: int) -> None:
    """The data are constant, so the posterior is the reverse process itself: marginals on the way, the point at 0."""
    point = torch.tensor([0.7, -1.3], dtype=torch.float64)
    data = Gaussian(point, torch.zeros(2, 2, dtype=torch.float64))
    sde, t_min = diffusion.reverse_sde(process, data.denoiser(process)), 0.05 * process.end
    end, low = (data.at(process, t) for t in (process.end, t_min))
    moments = [moment_vector(g.means[0].numpy(), g.covariances[0].numpy()) for g in (end, low)]
    times = np.linspace(process.end, t_min, steps + 1)
    found = MomentRecursion(sde, Ancestral(), 2, 2, order=2).run(moments[0], times)
    assert np.allclose(found, moments[1], rtol=1e-10, atol=1e-13 * float(end.variances.max()))
    x = diffusion.sample(
        data.denoiser(process), (5, 2), sampler="ancestral", steps=steps, t_min=0.0, seed=0, dtype=torch.float64
    )
    assert torch.allclose(x, point.expand(5, 2), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("prediction", ["data", "velocity", "flow", "edm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_starts_where_alpha_is_zero(prediction: str, dtype: torch.dtype) -> None:
    denoiser = diffusion.Denoiser(Dense(2).to(dtype), FLOW, prediction).eval()
    way = diffusion.sample(denoiser, (3, 2), sampler="ancestral", steps=4, t_min=0.0, seed=0, trajectory=4)
    assert way.ts[0] == 1.0 and way.ts[-1] == 0.0
    assert way.ys.dtype == dtype and bool(way.ys.isfinite().all())
    assert torch.equal(way.ys[0], FLOW.prior.sample((3, 2), seed=0, dtype=dtype))


def test_noise_where_alpha_is_zero_says_nothing_of_the_data_and_steps_start_before() -> None:
    denoiser = diffusion.Denoiser(Dense(2), FLOW, "noise").eval()
    with pytest.raises(ValueError, match=r"t_max: got 1.0; accepted is t_max <= 0.999"):
        diffusion.sample(denoiser, (3, 2), sampler="ancestral", steps=4, seed=0, t_max=1.0)
    assert diffusion.sample(denoiser, (3, 2), sampler="ancestral", steps=4, seed=0).isfinite().all()


@pytest.mark.parametrize("process", [VP, FLOW], ids=["vp", "flow"])
def test_samples_do_not_depend_on_their_batch_bitwise(process: diffusion.Process) -> None:
    denoiser = diffusion.Denoiser(lambda t, x: torch.tanh(x), process, "data")
    draw = lambda n, **options: diffusion.sample(denoiser, (n, 3), sampler="ancestral", steps=20, seed=1, **options)
    many = draw(9)
    assert torch.equal(many[:4], draw(4))
    assert torch.equal(many[8:], draw(1, paths=[8]))
    assert not torch.isclose(many[0], many[1]).any()


def test_one_call_of_the_network_a_step() -> None:
    calls: list[float] = []

    def net(t: Tensor, x: Tensor) -> Tensor:
        calls.append(float(t[0]))
        return x

    denoiser = diffusion.Denoiser(net, VP, "data")
    way = diffusion.sample(denoiser, (2, 3), sampler="ancestral", steps=8, seed=0, trajectory=2)
    assert calls == pytest.approx(np.linspace(1, 1e-3, 9)[:-1].tolist())
    assert way.stats.drift_evaluations.tolist() == [8, 8]
    calls.clear()
    diffusion.sample(denoiser, (2, 3), sampler="ancestral", seed=0)
    assert len(calls) == 250


def test_an_eta_of_time_is_read_where_a_step_begins() -> None:
    denoiser = diffusion.Denoiser(lambda t, x: torch.tanh(x), VP, "data")
    draw = lambda eta: diffusion.sample(denoiser, (3, 2), sampler="ancestral", steps=6, seed=2, eta=eta)
    assert torch.allclose(draw(lambda t: 0 * t + 0.4), draw(0.4), rtol=1e-6, atol=1e-6)
    late = diffusion.sample(
        denoiser, (3, 2), sampler="ancestral", steps=6, seed=2, eta=lambda t: (t < 0.5).to(t), trajectory=6
    )
    still = diffusion.sample(denoiser, (3, 2), sampler="ancestral", steps=6, seed=2, eta=0.0, trajectory=6)
    assert torch.allclose(late.ys[:4], still.ys[:4], rtol=1e-6, atol=1e-6)
    assert not torch.isclose(late.ys[5:6], still.ys[5:6]).any()


def test_the_score_alone_is_enough() -> None:
    """As a method of the solver, for any reverse SDE."""
    gaussian, x = random_gaussian(0), torch.randn(3, 2, dtype=torch.float64)
    denoiser = gaussian.denoiser(VP)
    found = [
        ss.solve(diffusion.reverse_sde(VP, score), x, [1.0, 0.1], method=diffusion.Ancestral(), dt=0.1, seed=0).ys[-1]
        for score in (denoiser, denoiser.score)
    ]
    assert torch.allclose(*found, rtol=1e-9, atol=1e-9)


def test_trajectories_with_clocks_of_their_own() -> None:
    """Starts where alpha is 0, and an early end at 0, where its trajectory rests; values and gradients."""
    denoiser = diffusion.Denoiser(lambda t, x: torch.tanh(x), FLOW, "data")
    sde, x = diffusion.reverse_sde(FLOW, denoiser), torch.randn(3, 2, dtype=torch.float64)
    ts = torch.tensor([[1.0, 0.5, 0.1], [1.0, 0.6, 0.3], [0.5, 0.3, 0.0]], dtype=torch.float64)
    every, start = [], x.clone().requires_grad_()
    for k in range(3):
        one = ss.solve(sde, start[k : k + 1], ts[k], method=Ancestral(), dt=0.1, seed=0, paths=[k]).ys[-1]
        every.append(one)
    alone = torch.autograd.grad(torch.cat(every).sum(), start)[0]
    together = ss.solve(sde, start, ts, method=Ancestral(), dt=0.1, seed=0).ys[-1]
    assert torch.allclose(together, torch.cat(every), rtol=1e-12, atol=1e-12)
    assert torch.allclose(torch.autograd.grad(together.sum(), start)[0], alone, rtol=1e-12, atol=1e-12)


def test_gradients_of_samples_reach_the_network() -> None:
    net = Dense(2)
    denoiser = diffusion.Denoiser(net, FLOW, "flow").eval()
    x = diffusion.sample(denoiser, (3, 2), sampler="ancestral", steps=4, t_min=0.0, seed=0, gradients=True)
    x.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


@pytest.mark.compile
@pytest.mark.traced
def test_compiled_steps_are_the_eager_ones() -> None:
    denoiser = diffusion.Denoiser(Dense(2), FLOW, "flow").eval()
    eager, compiled = (
        diffusion.sample(denoiser, (3, 2), sampler="ancestral", steps=6, t_min=0.0, seed=0, compile=c)
        for c in (False, True)
    )
    assert torch.allclose(eager, compiled, rtol=1e-12, atol=1e-12)


def test_exact_transitions_reach_the_marginal_in_one_step_or_many() -> None:
    x0 = torch.tensor([[1.5]], dtype=torch.float64).expand(20_000, 1)
    mean, std = SHIFTED.marginal(2.0, x0[:1])
    for dt in (2.0, 0.25):
        x = ss.solve(SHIFTED.forward_sde(), x0, [0.0, 2.0], method=Transitions(SHIFTED), dt=dt, seed=0).ys[-1]
        assert abs(float(x.mean() - mean)) < 5 * float(std) / math.sqrt(len(x))
        assert abs(float(x.std() / std) - 1) < 5 / math.sqrt(2 * len(x))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"eta": 1.5}, "eta: got 1.5; accepted is a number from 0"),
        ({"eta": -0.5}, "eta: got -0.5"),
        ({"method": "heun"}, "method: got 'heun'"),
        ({"rtol": 1e-3}, "rtol, atol: got"),
    ],
)
def test_mistakes_name_the_argument(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        diffusion.sample(learned(), (2, 2), sampler="ancestral", **options)  # type: ignore[call-overload]


def test_it_is_a_method_of_reverse_sdes_alone() -> None:
    with pytest.raises(TypeError, match=r"problem: got SDE; accepted is one made by diffusion\.reverse_sde"):
        ss.solve(VP.forward_sde(), torch.zeros(1, 2), [0.0, 1.0], method=Ancestral(), dt=0.1, seed=0)
    with pytest.raises(ValueError, match="variance: got 'small'; accepted is 'posterior' or 'forward'"):
        Ancestral("small")
