"""The demo end to end, in its quick form, and what the command line says to mistakes; on own data: test_own_data.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion.__main__ import main
from diffusion.checkpoint import load_checkpoint
from diffusion.demo.digits import dequantised, load_digits
from diffusion.demo.two_sample import nearest_neighbour_accuracy
from diffusion.models.model import load_denoiser

PRODUCTS = ("samples.png", "trajectories.png", "loss.png", "report.json")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--quick", "--output", str(folder)]) == 0
    return folder


def report(folder: Path) -> dict[str, object]:
    return json.loads((folder / "report.json").read_text())


def test_demo_writes_its_four_files_and_a_checkpoint(demo: Path) -> None:
    assert {path.name for path in demo.iterdir()} == {*PRODUCTS, "checkpoint.safetensors"}
    found = report(demo)
    assert set(found["bits_per_dimension"]) == {"model", "gaussian", "mixture_of_10"}  # type: ignore[call-overload]
    assert "training images" in found["nearest_neighbour_accuracy"]  # type: ignore[operator]


def test_demo_starts_from_the_gaussian_and_its_bits_are_as_known(demo: Path) -> None:
    """20 steps of a tiny network leave the Gaussian's denoiser nearly as it was."""
    bits = report(demo)["bits_per_dimension"]
    gaussian, model = (bits[name]["held_out"] for name in ("gaussian", "model"))  # type: ignore[index]
    assert gaussian == pytest.approx(2.93, abs=0.1)
    assert model == pytest.approx(gaussian, abs=0.1)


def test_demo_with_the_same_seed_gives_the_same_figures_and_pictures(demo: Path, tmp_path: Path) -> None:
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 0
    first, second = report(demo), report(tmp_path)
    assert first.pop("timings") != second.pop("timings")
    assert first == second
    for name in PRODUCTS[:3]:
        assert (demo / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_demo_that_is_resumed_after_its_end_does_not_train_again(demo: Path) -> None:
    before = (demo / "checkpoint.safetensors").read_bytes()
    first = report(demo)["bits_per_dimension"]
    assert main(["demo", "--quick", "--resume", "--output", str(demo)]) == 0
    assert (demo / "checkpoint.safetensors").read_bytes() == before
    assert report(demo)["bits_per_dimension"] == first


def test_a_checkpoint_of_the_demo_is_sampled_and_evaluated_as_any_other(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, drawn, images = str(demo / "checkpoint.safetensors"), tmp_path / "new" / "drawn.npy", tmp_path / "x.npy"
    for sampler in ("euler_maruyama", "probability_flow"):
        options = ["--count", "4", "--steps", "5", "--sampler", sampler, "--overwrite"]
        assert main(["sample", checkpoint, "--output", str(drawn), *options]) == 0
        found = np.load(drawn)
        assert found.shape == (4, 1, 8, 8)
        assert found.max() <= 16
    np.save(images, load_digits().held_out[:, 0].numpy())
    capsys.readouterr()
    assert main(["likelihood", checkpoint, str(images), "--limit", "16", "--trace", "hutchinson"]) == 0
    text = capsys.readouterr().out
    bits = json.loads(text[text.index("{") :])["bits_per_dimension"]
    expected = report(demo)["bits_per_dimension"]["model"]["held_out"]  # type: ignore[index]
    assert bits["mean"] == pytest.approx(expected, abs=4 * bits["std_error"])


def test_a_checkpoint_gives_back_the_averaged_network(demo: Path) -> None:
    denoiser, config = load_denoiser(demo / "checkpoint.safetensors")
    average = load_checkpoint(demo / "checkpoint.safetensors")[0]
    for name, value in denoiser.state_dict().items():
        assert torch.equal(value, average[f"average/{name}"])
    assert (config.scaling.levels, config.shape) == (17, (1, 8, 8))
    assert not denoiser.training


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sample", "missing", "--output", "a.npy"], "checkpoint: got missing"),
        (["sample", "missing", "--output", "a.jpg"], "--output: got a.jpg"),
        (["demo", "--quick", "--steps", "0"], "steps: got 0"),
    ],
)
def test_mistakes_end_with_status_2_and_one_line(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert text in said


def test_an_unknown_sampler_is_named_on_the_command_line(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", str(demo / "checkpoint.safetensors"), "--output", "a.npy", "--sampler", "ddpm"]
    assert main(arguments) == 2
    assert "'euler_maruyama' or 'reverse_sde' or 'probability_flow'" in capsys.readouterr().err


def test_digits_are_split_once_and_for_all() -> None:
    digits = load_digits()
    assert (digits.train.shape, digits.held_out.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert int(digits.train.max()) == 16
    assert torch.equal(digits.train, load_digits().train)
    x = dequantised(digits.train, 0)
    assert -1 <= float(x.min()) < float(x.max()) <= 1


def test_nearest_neighbour_accuracy_is_half_for_one_distribution_and_one_for_two() -> None:
    a, b = torch.randn(400, 3), torch.randn(400, 3)
    assert nearest_neighbour_accuracy(a, b) == pytest.approx(0.5, abs=0.06)
    assert nearest_neighbour_accuracy(a, b + 100) == 1.0
    assert nearest_neighbour_accuracy(a, a + 1e-6) < 0.01  # a copy: the nearest is in the other set
    with pytest.raises(ValueError, match="a, b: got shapes"):
        nearest_neighbour_accuracy(a, b[:10])
