"""The preconditioned network: a Gaussian's exact denoiser, and the network's share in coordinates of unit variance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import diffusion
from diffusion.exact import Gaussian
from diffusion.network import FourierMLP, GaussianPreconditioned, ImageNet

PROCESS = diffusion.VP()


def image_gaussian(seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    mean = torch.randn(1, 2, 2, dtype=torch.float64, generator=generator)
    return Gaussian(mean, 0.2 * a @ a.T + 0.01 * torch.eye(4, dtype=torch.float64))


class Recorder(nn.Module):
    """Returns what `answer` says and keeps what it was asked."""

    def __init__(self, answer: float = 0.0) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, c: Tensor, h: Tensor) -> Tensor:
        self.clock, self.seen = c, h
        return torch.full_like(h[:, :1], self.answer)


def preconditioned(net: nn.Module) -> diffusion.Denoiser:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return diffusion.Denoiser(GaussianPreconditioned(net, PROCESS, image_gaussian()), PROCESS)
    finally:
        torch.set_default_dtype(before)


@given(st.floats(1e-5, 1.0))
@settings(max_examples=20)
def test_with_a_network_that_is_zero_it_is_the_exact_denoiser_of_the_gaussian(t: float) -> None:
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    expected = image_gaussian().denoiser(PROCESS).noise(t, x)
    assert torch.allclose(preconditioned(Recorder()).noise(t, x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t", [1e-5, 0.01, 0.3, 1.0])
def test_the_network_sees_white_inputs_and_its_target_is_white_too(t: float) -> None:
    n = 40_000
    x0, noise = image_gaussian().sample(n, seed=0), torch.randn(n, 1, 2, 2, dtype=torch.float64)
    x = PROCESS.perturb(t, x0, noise)
    zero, one = Recorder(), Recorder(1.0)
    gaussian_noise = preconditioned(zero).noise(t, x)
    white = torch.cov(zero.seen[:, 0].flatten(1).T)
    assert torch.allclose(white, torch.eye(4, dtype=torch.float64), atol=0.04)
    assert torch.equal(zero.seen[:, 1:], x)
    # its answer F changes the noise by -M F with M symmetric, M^2 = alpha^2 S C^-1 = Cov(noise - gaussian's noise)
    change = preconditioned(one).noise(t, x)[0] - gaussian_noise[0]
    residual = torch.cov((noise - gaussian_noise).flatten(1).T)
    values, basis = torch.linalg.eigh(residual)
    root = basis @ torch.diag(values.clamp(min=0).sqrt()) @ basis.T
    assert torch.allclose(-change.flatten(), root @ torch.ones(4, dtype=torch.float64), atol=0.05)


def test_the_clock_of_the_network_is_an_eighth_of_log_snr() -> None:
    recorder = Recorder()
    t = torch.tensor([0.1, 0.9], dtype=torch.float64)
    preconditioned(recorder).noise(t, torch.randn(2, 1, 2, 2, dtype=torch.float64))
    assert torch.allclose(recorder.clock, PROCESS.log_snr(t) / 8)


def test_image_network_returns_zero_before_training_and_learns_everywhere() -> None:
    net = ImageNet(1, (8, 8), inputs=2, width=8, depth=2).train()
    c, h = torch.randn(3), torch.randn(3, 2, 8, 8)
    assert torch.equal(net(c, h), torch.zeros(3, 1, 8, 8))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):  # the zeros open one after the other
        optimizer.zero_grad()
        (net(c, h) - 1).square().mean().backward()
        optimizer.step()
    for name, parameter in net.named_parameters():
        assert float(parameter.grad.abs().max()) > 0, name


def test_image_network_depends_on_the_clock_and_on_each_image_alone() -> None:
    net = ImageNet(1, (8, 8), width=8, depth=1).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    c, h = torch.tensor([0.1, 0.1, 0.9]), torch.randn(1, 1, 8, 8).expand(3, 1, 8, 8)
    out = net(c, h)
    assert torch.allclose(out[0], out[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(out[0], out[2], rtol=1e-2)
    assert torch.allclose(net(c[:1], h[:1]), out[:1], rtol=1e-4, atol=1e-4)


def test_fourier_network_returns_zero_before_training_and_then_tells_points_and_times_apart() -> None:
    net = FourierMLP(2, width=16, depth=2, features=4)
    c, x = torch.tensor([0.1, 0.1, 0.9]), torch.randn(1, 2).expand(3, 2)
    assert torch.equal(net(c, x), torch.zeros(3, 2))
    nn.init.normal_(net.leave.weight)
    out, moved = net(c, x), net(c, x + 0.1)
    assert torch.allclose(out[0], out[1]) and not torch.allclose(out[0], out[2], rtol=1e-2)
    assert not torch.allclose(out[0], moved[0], rtol=1e-2)
    assert torch.allclose(net(c[:1], x[:1]), out[:1], atol=1e-6)


def test_fourier_network_learns_a_step_that_dense_layers_smear() -> None:
    """sign(sin(6 x)) on [-1, 1] by 150 steps of Adam: the mean squared error of both."""
    found = {}
    for net in (FourierMLP(1, width=32, depth=1, scale=6.0), diffusion.network.MLP(1, width=32, depth=2)):
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(150):
            x = 2 * torch.rand(128, 1) - 1
            loss = (net(torch.zeros(128), x) - torch.sign(torch.sin(6 * x))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[type(net).__name__] = loss.item()
    assert found["FourierMLP"] < 0.5 * found["MLP"]


def test_mistakes_name_the_argument() -> None:
    with pytest.raises(ValueError, match="width: got 12"):
        ImageNet(1, (8, 8), width=12)
    with pytest.raises(ValueError, match=r"x: got shape \(2, 1, 3, 3\)"):
        preconditioned(Recorder()).noise(0.5, torch.randn(2, 1, 3, 3, dtype=torch.float64))
