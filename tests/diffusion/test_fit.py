"""Training: exact resumption, Ctrl-C, averaging, clipping, checkpoints that are whole and hold no code."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diffusion
from diffusion.checkpoint import CheckpointError
from diffusion.fit import _examples
from tests.diffusion.known import random_gaussian

PROCESS = diffusion.VP()
DATA = random_gaussian(0).sample(40, seed=0).float()


class Dropping(nn.Module):
    """A network with dropout: what it draws must be resumed too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Dropout(0.3), nn.Linear(16, 2))
        self.register_buffer("scale", torch.ones(1))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.scale * self.layers(torch.cat([t[:, None], x], 1))


def new_denoiser(seed: int = 0) -> diffusion.Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return diffusion.Denoiser(Dropping(), PROCESS)


def train(denoiser: diffusion.Denoiser | None = None, **options: Any) -> diffusion.Fit:
    noisy = lambda x, generator: x + 0.01 * torch.randn(x.shape, generator=generator)
    defaults = {"steps": 12, "batch_size": 16, "transform": noisy, "seed": 3, "progress": False, "warmup": 3}
    return diffusion.fit(denoiser or new_denoiser(), DATA, **{**defaults, **options})


def assert_same_bits(a: diffusion.Fit, b: diffusion.Fit) -> None:
    assert torch.equal(a.losses, b.losses)
    for x, y in zip(a.denoiser.state_dict().values(), b.denoiser.state_dict().values(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_resumed_training_gives_the_same_bits_as_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    whole_net, resumed_net = new_denoiser(), new_denoiser()
    whole = train(whole_net)

    def interrupt(step: int, loss: float) -> None:
        if step == stop:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(diffusion.TrainingInterrupted):
        train(checkpoint=path, on_step=interrupt)
    torch.rand(7)  # whatever else the program draws in between
    resumed = train(resumed_net, checkpoint=path, resume=True)
    assert_same_bits(whole, resumed)
    for a, b in zip(whole_net.parameters(), resumed_net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    before = signal.getsignal(signal.SIGINT)

    def press(batch: Tensor, generator: torch.Generator) -> Tensor:
        press.calls += 1  # type: ignore[attr-defined]
        if press.calls == 4:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGINT)  # in the middle of step 4
        return batch

    press.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt, match=r"after 4 of 12 steps.*resume=True") as raised:
        train(checkpoint=path, transform=press)
    assert isinstance(raised.value, diffusion.TrainingInterrupted)
    assert str(path) in str(raised.value)
    assert signal.getsignal(signal.SIGINT) is before
    assert diffusion.load_checkpoint(path)[1]["step"] == 4
    assert_same_bits(train(transform=lambda x, g: x), train(checkpoint=path, resume=True, transform=lambda x, g: x))


def test_an_interrupt_without_a_checkpoint_says_that_nothing_was_kept() -> None:
    def interrupt(step: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="nothing was kept; pass checkpoint=path"):
        train(on_step=interrupt)


def test_training_does_not_depend_on_or_touch_the_global_generator() -> None:
    torch.manual_seed(1)
    a = train()
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    torch.manual_seed(2)
    assert_same_bits(a, train())


def test_checkpoints_are_written_on_the_way_and_hold_plain_tensors_and_json(tmp_path: Path) -> None:
    path, seen = tmp_path / "deep" / "checkpoint.safetensors", []
    look = lambda step, loss: seen.append(diffusion.load_checkpoint(path)[1]["step"] if path.exists() else 0)
    train(checkpoint=path, checkpoint_every=5, facts={"note": "hello"}, on_step=look)
    assert seen == [0] * 5 + [5] * 5 + [10] * 2
    tensors, facts = diffusion.load_checkpoint(path)
    assert (facts["step"], facts["note"]) == (12, "hello")
    assert len(tensors["losses"]) == 12
    header = path.read_bytes()
    json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert list(path.parent.iterdir()) == [path]  # nothing half-written stays behind


def test_average_follows_its_recursion() -> None:
    weights, net = [], new_denoiser()
    first = [p.detach().clone() for p in net.parameters()]
    found = train(net, ema=0.6, on_step=lambda n, loss: weights.append([p.detach().clone() for p in net.parameters()]))
    average = first
    for n, now in enumerate(weights):
        decay = min(0.6, (1 + n) / (10 + n))
        average = [decay * a + (1 - decay) * b for a, b in zip(average, now, strict=True)]
    for a, b in zip(average, found.denoiser.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert not found.denoiser.training
    assert not net.training


def test_training_approaches_the_exact_denoiser() -> None:
    gaussian = random_gaussian(0)
    data = gaussian.sample(2000, seed=0).float()
    net = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))
    denoiser = diffusion.Denoiser(lambda t, x: net(torch.cat([t[:, None], x], 1)), PROCESS)
    denoiser.inner = net  # a lambda hides its network from the optimiser
    before = error_against(gaussian, denoiser)
    found = diffusion.fit(denoiser, data, steps=400, lr=1e-2, ema=0.95, progress=False)
    assert float(found.losses[-50:].mean()) < float(found.losses[:20].mean())
    assert error_against(gaussian, denoiser) < 0.1 * before


def error_against(gaussian: diffusion.exact.Gaussian, denoiser: diffusion.Denoiser) -> float:
    x = gaussian.at(PROCESS, 0.3).sample(500, seed=1)
    with torch.no_grad():
        return float((denoiser.noise(0.3, x.float()) - gaussian.denoiser(PROCESS).noise(0.3, x)).square().mean())


@pytest.mark.parametrize("step", range(6))
def test_every_example_is_visited_once_an_epoch(step: int) -> None:
    stream = torch.cat([_examples(10, n, 4, seed=0) for n in range(5)])
    for epoch in stream.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(stream[:10], stream[10:])


def test_clipping_bounds_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    original = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: Any) -> Any:
        gradients = [p.grad.norm() for g in self.param_groups for p in g["params"]]
        norms.append(float(torch.stack(gradients).norm()))
        return original(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    train(clip=0.01, steps=3)
    assert max(norms) <= 0.01 * (1 + 1e-4)
    norms.clear()
    train(clip=None, steps=3)
    assert max(norms) > 0.01


def test_epochs_are_steps_over_the_data() -> None:
    assert len(train(steps=None, epochs=2).losses) == math.ceil(2 * 40 / 16)


def test_progress_can_be_handed_in() -> None:
    fractions: list[float] = []
    train(progress=fractions.append)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 41}, "batch_size: got 41; accepted is 1 to the number of examples, 40"),
        ({"steps": None}, "steps: got both or neither"),
        ({"epochs": 1}, "steps: got both or neither"),
        ({"steps": 0}, "steps: got 0"),
        ({"resume": True}, "resume: got True without checkpoint"),
    ],
)
def test_mistakes_name_the_argument(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        train(**options)


def test_resuming_with_other_settings_is_an_error_that_names_them(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train(checkpoint=path, steps=2)
    with pytest.raises(CheckpointError, match=r"lr=0.002 there, 0.1 here.*resume=False"):
        train(checkpoint=path, steps=2, lr=0.1, resume=True)


@pytest.mark.parametrize(
    ("prediction", "process", "shift"),
    [("data", diffusion.VP(), 0.0), ("noise", diffusion.VP(0.1, 5.0), 0.0), ("noise", diffusion.VP(), 1.0)],
    ids=["prediction", "process", "data"],
)
def test_weights_trained_for_another_prediction_process_or_data_are_not_taken_up(
    tmp_path: Path, prediction: str, process: diffusion.VP, shift: float
) -> None:
    path, data = tmp_path / "checkpoint.safetensors", torch.linspace(-1, 1, 40).reshape(20, 2)
    first = diffusion.Denoiser(diffusion.network.MLP(2, width=8, depth=1), diffusion.VP(), prediction="noise")
    diffusion.fit(first, data, steps=2, batch_size=4, checkpoint=path, progress=False)
    other = diffusion.Denoiser(diffusion.network.MLP(2, width=8, depth=1), process, prediction=prediction)
    with pytest.raises(CheckpointError):
        diffusion.fit(other, data + shift, steps=2, batch_size=4, checkpoint=path, resume=True, progress=False)


@pytest.mark.parametrize("beta_max", [2.0, 3.0])
def test_a_process_without_a_name_is_known_by_its_noise(tmp_path: Path, beta_max: float) -> None:
    """It is another object after a restart; one with other rates is refused, and so are the same data in another
    order."""

    def begin(beta_max: float, data: torch.Tensor) -> diffusion.Fit:
        process = diffusion.VariancePreserving(lambda t: 0.1 + beta_max * t)
        net = diffusion.network.MLP(2, width=8, depth=1)
        options: dict[str, Any] = {"steps": 2, "batch_size": 4, "checkpoint": path, "resume": True, "progress": False}
        return diffusion.fit(diffusion.Denoiser(net, process), data, loss=lambda d, x, g: d(0.5, x).sum(1), **options)

    path, data = tmp_path / "checkpoint.safetensors", torch.linspace(-1, 1, 40).reshape(20, 2)
    losses = begin(2.0, data).losses
    if beta_max == 2.0:
        assert torch.equal(begin(2.0, data).losses, losses)
        with pytest.raises(CheckpointError, match="data="):
            begin(2.0, data.flip(0))
    else:
        with pytest.raises(CheckpointError, match=r"process=.*log SNR"):
            begin(beta_max, data)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x10" + b"\0" * 7 + b'{"__metadata__":1'])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint: got .*file"):
        diffusion.load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"checkpoint: got .*missing"):
        diffusion.load_checkpoint(tmp_path / "missing")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    broken = lambda x, g: x * (math.nan if broken.calls.append(1) or len(broken.calls) > 7 else 1)  # type: ignore[attr-defined]
    broken.calls = []  # type: ignore[attr-defined]
    with pytest.raises(FloatingPointError, match=r"loss: got nan at step 7.*Lower lr"):
        train(checkpoint=path, checkpoint_every=5, transform=broken)
    assert diffusion.load_checkpoint(path)[1]["step"] == 5


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="denoiser: got a network without trainable parameters"):
        train(diffusion.Denoiser(lambda t, x: x, PROCESS))


def test_what_fit_returns_is_trained_further_once_it_requires_gradients() -> None:
    found = train(steps=2).denoiser
    with pytest.raises(ValueError, match=r"all frozen.*denoiser\.requires_grad_\(\)"):
        train(found, steps=2)
    train(found.requires_grad_(), steps=2)


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        ({"denoiser": torch.nn.Linear(2, 2)}, "denoiser: got Linear; accepted is a diffusion.Denoiser"),
        ({"data": [[0.0, 1.0]]}, "data: got list; accepted is a tensor"),
        ({"data": torch.zeros(200, 2).numpy()}, "data: got ndarray.*torch.from_numpy"),
        ({"data": torch.zeros(200, 2, dtype=torch.uint8)}, "data: got uint8; accepted is floating-point numbers"),
        ({"loss": "edm"}, r"loss: got 'edm'.*diffusion\.DenoisingLoss\('edm'\)"),
    ],
)
def test_an_argument_of_another_kind_is_named(mistake: dict[str, Any], text: str) -> None:
    arguments = {"denoiser": new_denoiser(), "data": torch.zeros(200, 2), "steps": 1, "progress": False, **mistake}
    with pytest.raises(TypeError, match=text):
        diffusion.fit(**arguments)
