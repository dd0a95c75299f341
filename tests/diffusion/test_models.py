"""Models of every process and prediction: all start as the exact Gaussian, say one thing, and come back from JSON."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn

import diffusion
from diffusion.exact import Gaussian
from diffusion.models.model import ModelConfig, build_denoiser, gaussian_of, span_of_times
from diffusion.models.named import PROCESSES, named_process, process_name
from diffusion.models.scaling import Scaling
from diffusion.network import ImageNet, VectorNet
from tests.diffusion.known import random_gaussian

PREDICTIONS = ("noise", "data", "velocity", "score", "flow")
SHAPES = {"vectors": (3,), "images": (3, 8, 8)}


@pytest.fixture
def float64() -> object:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def opened(denoiser: diffusion.Denoiser) -> diffusion.Denoiser:
    """With weights in place of the zeros that training starts from."""
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    return denoiser.eval()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", PROCESSES)
def test_an_untrained_model_is_the_exact_denoiser_of_the_gaussian(float64: None, name: str, prediction: str) -> None:
    gaussian = random_gaussian(1, 3)
    denoiser = build_denoiser(ModelConfig((3,), process=name, prediction=prediction, width=8, depth=1), gaussian)
    process = denoiser.process
    exact = gaussian.denoiser(process)
    for t in (span_of_times(process)[0], 0.3 * process.end, process.rates_end):
        x = gaussian.at(process, t).sample(20, seed=0)
        for quantity in PREDICTIONS:
            found, expected = getattr(denoiser, quantity)(t, x), getattr(exact, quantity)(t, x)
            assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())), (t, quantity)


@pytest.mark.parametrize("name", PROCESSES)
def test_whatever_a_model_predicts_it_says_the_same(float64: None, name: str) -> None:
    gaussian, data = random_gaussian(1, 3), []
    x = torch.randn(5, 3)
    for prediction in PREDICTIONS:
        torch.manual_seed(0)
        config = ModelConfig((3,), process=name, prediction=prediction, width=8, depth=1)
        data.append(opened(build_denoiser(config, gaussian)).data(0.4, x))
    assert not torch.allclose(data[0], gaussian.denoiser(named_process(name)).data(0.4, x), rtol=1e-2)
    for other in data[1:]:
        assert torch.allclose(data[0], other, rtol=1e-8, atol=1e-10)


def test_flow_and_data_are_finite_at_the_end_of_rectified_flow(float64: None) -> None:
    gaussian = random_gaussian(1, 3)
    for prediction in ("flow", "data", "velocity"):
        config = ModelConfig((3,), process="rectified-flow", prediction=prediction, width=8, depth=1)
        net = build_denoiser(config, gaussian)
        assert torch.allclose(net.data(0.999999, torch.zeros(2, 3)), gaussian.means[0], atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("prediction", "gaussian"), [("noise", True), ("edm", False), ("velocity", False)])
def test_a_model_comes_back_from_its_checkpoint(tmp_path: object, kind: str, prediction: str, gaussian: bool) -> None:
    shape = SHAPES[kind]
    scaling = Scaling(None, (0.1,) * math.prod(shape), (0.2,) * math.prod(shape)) if kind == "vectors" else Scaling(256)
    config = ModelConfig(
        shape, scaling, "edm:end=40.0", prediction, gaussian, width=8, depth=1, sigma_data=0.7, t_min=1e-3, t_max=40.0
    )
    assert ModelConfig.from_json(json.loads(json.dumps(asdict(config)))) == config
    x = torch.randn(30, *shape)
    denoiser = opened(build_denoiser(config, gaussian_of(x) if gaussian else None))
    path = f"{tmp_path}/model.safetensors"
    weights = {f"average/{name}": value for name, value in denoiser.state_dict().items()}
    diffusion.save_checkpoint(path, weights, {"model": asdict(config)})
    again, known = diffusion.models.load_denoiser(path)
    assert known == config
    assert torch.equal(again.data(3.0, x), denoiser.data(3.0, x))
    assert repr(again.process) == "EDM(end=40.0)"
    assert not again.training


def test_a_gaussian_of_few_examples_is_shrunk_as_ledoit_and_wolf_say_and_one_of_many_is_not() -> None:
    """As scikit-learn has it; then new data are as likely as they can be, which those of too few examples are not."""
    wide = torch.tensor([10.0, 3.0, *[0.5] * 28], dtype=torch.float64)
    few, new = wide * torch.randn(20, 30, dtype=torch.float64), wide * torch.randn(200, 30, dtype=torch.float64)
    found = gaussian_of(few)
    expected, share = ledoit_wolf(few.numpy())
    assert 0.01 < share < 0.9
    assert np.allclose(found.covariances[0], expected, rtol=1e-9, atol=1e-9)
    exact = torch.distributions.Normal(0, wide).log_prob(new).sum(1).mean()
    assert exact - 30 < float(found.log_prob(new).mean()) < exact
    plenty = torch.randn(5000, 3)
    unshrunk = Gaussian.fit(plenty.double()).covariances + 0.5 * torch.eye(3, dtype=torch.float64)
    assert torch.allclose(gaussian_of(plenty, noise=0.5).covariances, unshrunk)


def test_a_gaussian_has_a_part_in_directions_in_which_the_data_do_not_vary() -> None:
    x = torch.cat([torch.randn(100, 2), torch.zeros(100, 1)], 1)
    assert float(gaussian_of(x).variances.min()) == pytest.approx(1e-4 * float(x.var(0, correction=0).mean()))


def test_a_network_without_a_gaussian_sees_states_of_order_one_at_any_noise(float64: None) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    process = named_process("ve")
    net = diffusion.network.Rescaled(lambda c, h: seen.append((c, h)) or h, process)  # type: ignore[arg-type,func-returns-value]
    t = torch.tensor([0.1, 1.0])
    x = process.perturb(t, torch.randn(2, 4000), torch.randn(2, 4000))
    net(t, x)
    clock, h = seen[0]
    assert torch.allclose(h.std(1), torch.ones(2), atol=0.05)
    assert torch.allclose(clock, process.log_snr(t) / 8)


def test_each_vector_is_seen_by_itself_and_the_clock_is_seen() -> None:
    net = VectorNet(2, inputs=4, width=8, depth=2)
    c, h = torch.tensor([0.1, 0.1, 0.9]), torch.randn(1, 4).expand(3, 4)
    assert torch.equal(net(c, h), torch.zeros(3, 2))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    out = net(c, h)
    assert torch.allclose(out[0], out[1])
    assert not torch.allclose(out[0], out[2], rtol=1e-2)
    assert torch.allclose(net(c[:1], h[:1]), out[:1], atol=1e-6)


def test_every_pixel_of_a_large_image_depends_on_every_other_and_has_a_divergence() -> None:
    net = ImageNet(1, (40, 33), width=8, depth=1).eval()
    assert net.mixers[0].across_pixels.weight.shape == (32 * 32, 32 * 32)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    c, h = torch.zeros(1), torch.randn(1, 1, 40, 33)
    _, pull = torch.func.vjp(lambda h: net(c, h), h)
    corners = torch.zeros(2, 1, 1, 40, 33)
    corners[0, ..., 0, 0] = corners[1, ..., -1, -1] = 1
    (rows,) = torch.vmap(pull)(corners)  # as the likelihood takes its products
    assert bool((rows != 0).flatten(1).all())
    assert torch.allclose(rows[1], pull(corners[1])[0], rtol=1e-3, atol=1e-4 * float(rows.detach().abs().max()))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_comes_back_from_its_name_and_is_trained_from_a_thousandth_of_noise(name: str) -> None:
    process = named_process(name)
    assert named_process(process_name(process)) == process
    t_min, t_max = span_of_times(process)
    noise_to_signal = torch.exp(-0.5 * process.log_snr(torch.tensor(t_min, dtype=torch.float64)))
    assert float(noise_to_signal) == pytest.approx(1e-3, rel=1e-4)
    assert t_max == process.rates_end


def test_parameters_of_a_process_stand_behind_its_name() -> None:
    assert named_process("vp:beta_max=15,beta_min=0.2") == diffusion.VP(0.2, 15.0)
    assert process_name(named_process("edm:end=40")) == "edm:end=40.0"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ddpm", "process: got 'ddpm'; accepted is vp or subvp or ve"),
        ("vp:sigma=3", "the parameters of vp: beta_min, beta_max"),
        ("vp:beta_max", "a number for beta_max"),
        ("vp:beta_max=high", "a number for beta_max"),
        ("vp:beta_max=-1", "beta_max: got -1.0"),
        ("rectified-flow:a=1", "it has none"),
    ],
)
def test_a_name_that_is_no_process_is_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        named_process(name)


def test_a_gaussian_beside_the_scalings_of_edm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction: got 'edm'.*for a network alone"):
        build_denoiser(ModelConfig((3,), prediction="edm"))
