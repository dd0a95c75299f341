"""`train`, `sample` and `likelihood` on a user's own data: right figures, exact resumption, and errors that leave every
file as it was."""

import argparse
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

import diffusion
import sdesolve as ss
from diffusion.__main__ import main, parser
from diffusion.checkpoint import load_checkpoint, save_checkpoint
from diffusion.commands import sample as sampling
from diffusion.models.data import read_data

NUMBERS = np.random.default_rng(0)
POINTS = NUMBERS.normal(size=(400, 2)) @ np.array([[2.0, 1.0], [0.0, 0.3]]) + np.array([30.0, -1.0])
SMALL = ["--width", "8", "--depth", "1", "--quiet"]
STILL = ["--steps", "1", "--lr", "0", *SMALL]  # nothing is learned: the model is the Gaussian of the data


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "points.npy"
    np.save(path, POINTS)
    return path


@pytest.fixture(scope="module")
def model(points: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    assert main(["train", str(points), "--output", str(path), *STILL]) == 0
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 pictures in colour of 4x6 pixels, bright at one side."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(150):
        ramp = np.linspace(40, 200, 6)[None, :, None] + NUMBERS.normal(0, 10, (4, 6, 3))
        Image.fromarray(ramp.astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def picture_model(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "pictures.safetensors"
    assert main(["train", str(pictures), "--output", str(path), *STILL]) == 0
    return path


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    text = capsys.readouterr().out
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found


def test_likelihood_is_in_the_units_of_the_data(
    model: Path, points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the Gaussian that an untrained model is, by SciPy; the data are correlated and far from the model's scale."""
    files = ["--output", str(tmp_path / "r.json"), "--values", str(tmp_path / "v.npy")]
    assert main(["likelihood", str(model), str(points), "--quiet", "--rtol", "1e-6", "--atol", "1e-6", *files]) == 0
    expected = multivariate_normal(POINTS.mean(0), np.cov(POINTS.T, ddof=0)).logpdf(POINTS)
    found = np.load(tmp_path / "v.npy")
    assert np.allclose(found, expected, atol=2e-3)  # float32, and t_min
    report = said(capsys)
    assert report == json.loads((tmp_path / "r.json").read_text())
    assert report["nats"]["mean"] == pytest.approx(found.mean())
    assert report["nats"]["std_error"] == pytest.approx(found.std(ddof=1) / 20)
    assert (report["examples"], report["bits_per_dimension"], report["trace"]) == (400, None, "exact")


def test_bits_per_dimension_of_a_folder_of_pictures(
    picture_model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the Gaussian of the dequantised pictures: few, so shrunk; with the variance of uniform noise on each pixel."""
    limited = ["--trace", "exact", "--limit", "15", "--quiet"]
    assert main(["likelihood", str(picture_model), str(pictures), *limited]) == 0
    bits = said(capsys)["bits_per_dimension"]
    levels = read_data(pictures).values
    middle = (-1 + (2 * levels.double() + 1) / 256).flatten(1).numpy()
    covariance = ledoit_wolf(middle)[0] + (2 / 256) ** 2 / 12 * np.eye(72)
    x = diffusion.dequantise(levels, 256, seed=0)[:15].flatten(1).numpy()
    nats = multivariate_normal(middle.mean(0), covariance).logpdf(x)
    expected = -nats / (72 * np.log(2)) + 7
    assert bits["mean"] == pytest.approx(expected.mean(), abs=2e-3)
    assert bits["std_error"] == pytest.approx(expected.std(ddof=1) / 15**0.5, rel=0.02)


@pytest.mark.parametrize("sampler", ["probability_flow", "euler_maruyama"])
def test_samples_have_the_mean_and_covariance_of_the_data(model: Path, tmp_path: Path, sampler: str) -> None:
    path, n = tmp_path / "x.npz", 2000
    options = ["--count", str(n), "--sampler", sampler, "--quiet", "--batch-size", "2000"]
    steps = ["--steps", "200"] if sampler == "euler_maruyama" else []
    assert main(["sample", str(model), "--output", str(path), *options, *steps]) == 0
    x, covariance = np.load(path)["samples"], np.cov(POINTS.T, ddof=0)
    white = (x - POINTS.mean(0)) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert np.allclose(white.mean(0), 0, atol=4 / n**0.5 + 0.01)
    assert np.allclose(np.cov(white.T), np.eye(2), atol=4 * (2 / n) ** 0.5 + 0.02)


@pytest.mark.parametrize("sampler", ["probability_flow", "euler_maruyama"])
def test_a_sample_does_not_depend_on_batch_size_or_count(picture_model: Path, tmp_path: Path, sampler: str) -> None:
    drawn = []
    for count, size in ((7, 7), (7, 3), (5, 1)):
        options = ["--count", str(count), "--batch-size", str(size), "--steps", "10", "--sampler", sampler, "--quiet"]
        path = tmp_path / f"{count}-{size}.npy"
        assert main(["sample", str(picture_model), "--output", str(path), *options, "--seed", "3"]) == 0
        drawn.append(np.load(path).astype(int))
    assert drawn[0].shape == (7, 3, 4, 6)
    assert abs(drawn[0] - drawn[1]).max() <= 1  # rounding may move a level
    assert abs(drawn[0][:5] - drawn[2]).max() <= 1
    assert abs(drawn[0][0] - drawn[0][1]).max() > 3


def test_samples_become_arrays_sheets_folders_and_trajectories(picture_model: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("x.npy", "x.png", "folder")]
    options = ["--count", "5", "--steps", "6", "--trajectory", "3", "--quiet"]
    assert main(["sample", str(picture_model), "--output", *map(str, outputs), *options]) == 0
    x = np.load(outputs[0])
    assert x.dtype == np.uint8
    assert torch.equal(read_data(outputs[2]).values, torch.from_numpy(x))
    assert sorted(p.name for p in outputs[2].iterdir()) == [f"0000{k}.png" for k in range(5)]
    sheet = np.asarray(Image.open(outputs[1]))  # every pixel 8x8, two images of 48x32 to a row
    assert np.array_equal(sheet[1:33:8, 1:49:8].transpose(2, 0, 1), x[0])
    assert np.array_equal(sheet[1:33:8, 50:98:8].transpose(2, 0, 1), x[1])
    ways = np.asarray(Image.open(tmp_path / "x-trajectories.png"))
    assert ways.shape == (5 * 33 + 1, 4 * 49 + 1, 3)  # 5 images, each at 4 times
    assert np.array_equal(ways[34:66:8, 148:196:8].transpose(2, 0, 1), x[1])  # the last of its row is the sample


@pytest.mark.parametrize("process", ["vp", "edm"])
@pytest.mark.parametrize("steps", [[], ["--steps", "6"]])
def test_vectors_in_the_plane_are_drawn_with_their_ways(
    points: Path, tmp_path: Path, process: str, steps: list[str]
) -> None:
    model, picture = tmp_path / "m", tmp_path / "x.png"
    assert main(["train", str(points), "--output", str(model), "--process", process, *STILL]) == 0
    options = ["--output", str(picture), "--count", "20", "--trajectory", "3", "--quiet", *steps]
    assert main(["sample", str(model), *options]) == 0
    for path in (picture, tmp_path / "x-trajectories.png"):
        assert len(np.unique(np.asarray(Image.open(path)))) > 3


def test_a_training_killed_at_any_moment_resumes_to_the_same_bits(points: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = ["train", str(points), "--steps", "400", "--checkpoint-every", "20", "--batch-size", "32", *SMALL]
    program = [sys.executable, "-m", "diffusion", *command, "--output", str(killed)]
    process = subprocess.Popen(program, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not killed.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.communicate()[1]
    assert 0 < load_checkpoint(killed)[1]["step"] < 400
    assert main([*command, "--output", str(killed), "--resume"]) == 0
    assert main([*command, "--output", str(whole)]) == 0
    (a, facts_a), (b, facts_b) = load_checkpoint(whole), load_checkpoint(killed)
    assert facts_a == facts_b
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_ctrl_c_during_training_leaves_a_checkpoint_and_says_how_to_resume(
    points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, command = tmp_path / "m", ["train", str(points), "--steps", "9", *SMALL, "--output", str(tmp_path / "m")]
    loss, calls = diffusion.DenoisingLoss.__call__, []

    def pressed(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*given)

    monkeypatch.setattr(diffusion.DenoisingLoss, "__call__", pressed)
    assert main(command) == 130
    assert "--resume" in capsys.readouterr().err
    assert load_checkpoint(path)[1]["step"] == 4
    assert main([*command, "--resume"]) == 0
    assert load_checkpoint(path)[1]["step"] == 9


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ss.SolveError("stuck")], ids=["interrupt", "failure"])
def test_what_stops_in_the_middle_keeps_what_is_finished(
    model: Path,
    points: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: BaseException,
) -> None:
    def until(limit: int, function: Callable[..., Any]) -> Callable[..., Any]:
        calls: list[int] = []

        def limited(*given: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) > limit:
                raise stop
            return function(*given, **options)

        return limited

    status = 130 if isinstance(stop, KeyboardInterrupt) else 1
    monkeypatch.setattr(sampling, "sample", until(2, sampling.sample))
    path, options = tmp_path / "x.npy", ["--count", "10", "--batch-size", "3", "--steps", "2", "--quiet"]
    assert main(["sample", str(model), "--output", str(path), *options]) == status
    assert np.load(path).shape == (6, 2)
    assert "keeping 6 of 10 samples" in capsys.readouterr().err
    evaluating = diffusion.commands.likelihood
    monkeypatch.setattr(evaluating, "log_likelihood", until(1, evaluating.log_likelihood))
    options = ["--limit", "4", "--batch-size", "3", "--quiet", "--output", str(tmp_path / "r.json")]
    assert main(["likelihood", str(model), str(points), *options]) == status
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["examples"], report["examples_asked_for"]) == (3, 4)


def test_a_training_that_breaks_down_keeps_its_last_checkpoint(
    points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m"
    options = ["--steps", "9", "--lr", "1e30", "--checkpoint-every", "1", *SMALL]
    assert main(["train", str(points), "--output", str(path), *options]) == 1
    assert re.search("loss: got (nan|inf) at step", capsys.readouterr().err)
    assert load_checkpoint(path)[1]["step"] >= 1


def test_what_is_held_out_has_no_part_in_training_and_is_found_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = POINTS.copy(), POINTS.copy()
    _, held_out = diffusion.commands.train.split_rows({"examples": 400, "held_out": 40, "seed": 5})
    second[held_out] = 1e3 * NUMBERS.normal(size=(40, 2))
    weights = []
    for data in (first, second):
        np.save(tmp_path / "x.npy", data)
        command = ["train", str(tmp_path / "x.npy"), "--output", str(tmp_path / "m"), "--overwrite", "--seed", "5"]
        assert main([*command, "--held-out", "0.1", "--steps", "3", *SMALL]) == 0
        weights.append(load_checkpoint(tmp_path / "m")[0])
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    losses = re.findall(r"held-out loss (\S+) ± \S+ over 40 examples", capsys.readouterr().out)
    assert 10 * float(losses[0]) < float(losses[1])
    np.save(tmp_path / "x.npy", first)
    evaluate = ["likelihood", str(tmp_path / "m"), "--quiet", "--overwrite", "--values", str(tmp_path / "v.npy")]
    assert main([*evaluate, str(tmp_path / "x.npy"), "--held-out"]) == 0
    values = np.load(tmp_path / "v.npy")
    np.save(tmp_path / "h.npy", first[held_out])
    assert main([*evaluate, str(tmp_path / "h.npy")]) == 0
    assert np.allclose(np.load(tmp_path / "v.npy"), values, atol=1e-4)
    assert main([*evaluate, str(tmp_path / "h.npy"), "--held-out"]) == 2
    assert "the 400 examples" in capsys.readouterr().err


def test_parameters_of_the_command_line_reach_the_training(points: Path, tmp_path: Path) -> None:
    path = tmp_path / "m"
    options = ["--process", "subvp:beta_max=12", "--prediction", "v_prediction", "--loss", "min_snr", "--ema", "0.5"]
    assert main(["train", str(points), "--output", str(path), *options, "--epochs", "2", *SMALL]) == 0
    facts = load_checkpoint(path)[1]
    assert facts["model"]["process"] == "subvp:beta_min=0.1,beta_max=12.0"
    assert facts["settings"]["process"] == "SubVP(beta_min=0.1, beta_max=12.0)"
    assert facts["settings"]["prediction"] == "velocity"
    assert "weighting='min_snr', times='importance'" in facts["settings"]["loss"]
    assert (facts["settings"]["ema"], facts["settings"]["steps"]) == (0.5, 7)


def refused(arguments: list[str], kept: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said to a command that ends with status 2 and leaves a file, and its folder, as they were."""
    before, beside = kept.read_bytes(), sorted(kept.parent.iterdir())
    capsys.readouterr()
    assert main(arguments) == 2
    assert kept.read_bytes() == before
    assert sorted(kept.parent.iterdir()) == beside
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize("length", [0, 7, 8, 100, 0.5, 0.99, -1])
def test_a_checkpoint_cut_short_is_refused_and_left_alone(
    model: Path, points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], length: float
) -> None:
    whole, path = model.read_bytes(), tmp_path / "cut.safetensors"
    path.write_bytes(whole[: int(length * len(whole)) if 0 < length < 1 else int(length)])
    for arguments in (
        ["train", str(points), "--output", str(path), *STILL, "--resume"],
        ["sample", str(path), "--output", str(tmp_path / "x.npy")],
        ["likelihood", str(path), str(points), "--output", str(tmp_path / "r.json")],
    ):
        assert re.search(r"checkpoint: got .*cut.safetensors", refused(arguments, path, capsys))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ([], "without facts"),
        ({"model": "vp"}, "without a model to build"),
        ({"model": {"shape": [2.0]}}, r"without a model to build \(shape\[0\]: got 2.0"),
        ({"model": {"shape": [-1]}}, r"shape\[0\]: got -1"),
        ({"model": {"shape": []}}, r"shape: got \(\)"),
        ({"model": {"width": "x"}}, "width: got 'x'"),
        ({"model": {"shape": [3]}}, "scaling: got 2 shifts and 2 scales"),
        ({"model": {"process": "up"}}, "cannot be built .process: got 'up'"),
        ({"model": {"t_min": [1]}}, "t_min: got"),
        ({"model": {"scaling": {"levels": None, "shift": [0], "scale": [0]}}}, "scale: got"),
        ({"model": {"width": 16}}, "of another network"),
        ({"split": "x"}, "with the split 'x'"),
        ({"split": {}}, "with the split {}"),
        ({"split": {"examples": 3, "held_out": 9, "seed": 0}}, "with the split"),
        ({"settings": "x"}, "steps=None there"),
    ],
)
def test_a_checkpoint_whose_words_were_changed_is_refused_by_name(
    model: Path,
    points: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: Any,
    text: str,
) -> None:
    tensors, facts = diffusion.load_checkpoint(model)
    changed: Any = changes
    if isinstance(changes, dict):
        inner = {k: {**facts[k], **v} if k == "model" and isinstance(v, dict) else v for k, v in changes.items()}
        changed = {**facts, **inner}
    path, kind = tmp_path / "changed.safetensors", {"format": "diffusion-checkpoint-1", "facts": json.dumps(changed)}
    path.write_bytes(save(tensors, metadata=kind))
    name = "".join(changes)
    arguments = {
        "split": ["likelihood", str(path), str(points), "--held-out"],
        "settings": ["train", str(points), "--output", str(path), *STILL, "--resume"],
    }.get(name, ["sample", str(path), "--output", str(tmp_path / "x.npy")])
    assert re.search(text, refused(arguments, path, capsys))


def test_a_checkpoint_of_another_model_is_refused_and_left_alone(
    model: Path, points: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["--output", str(model), "--resume", *STILL]
    np.save(tmp_path / "x.npy", NUMBERS.normal(size=(400, 3)))
    for data in (tmp_path / "x.npy", pictures):
        assert "shape=(2,) there" in refused(["train", str(data), *train], model, capsys)
    for options, text in (
        (["--process", "ve"], "process='vp"),
        (["--prediction", "data"], "prediction='noise' there, 'data' here"),
        (["--width", "16"], "width=8 there, 16 here"),
        (["--batch-size", "9"], "batch_size=128 there, 9 here"),
    ):
        assert text in refused(["train", str(points), *train, *options], model, capsys)
    text = refused(["likelihood", str(model), str(pictures)], model, capsys)
    assert "images (3, 4, 6) of 256 levels; accepted is vectors (2,) of real numbers" in text


@pytest.mark.parametrize(
    "name", ["losses", "optimizer/0/exp_avg", "optimizer/0/step", "optimizer/99/step", "optimizer/x/step"]
)
def test_a_checkpoint_whose_tensors_were_changed_is_not_resumed(
    points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path, command = tmp_path / "m", ["train", str(points), "--output", str(tmp_path / "m"), *STILL]
    assert main(command) == 0
    tensors, facts = load_checkpoint(path)
    added = {**tensors, name: torch.zeros(3)}
    missing = {key: value for key, value in tensors.items() if key != name}
    for changed in (added, missing) if name in tensors else (added,):
        save_checkpoint(path, changed, facts)
        assert re.search("checkpoint: got .*(losses|moments)", refused([*command, "--resume"], path, capsys))


def test_nothing_is_written_over_unless_asked(
    model: Path, points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", str(points), "--output", str(model), *STILL]
    assert "Give --resume to go on" in refused(train, model, capsys)
    mine = tmp_path / "mine.npy"
    np.save(mine, np.arange(6))
    sample = ["sample", str(model), "--output", str(tmp_path / "x.npy"), str(mine), "--count", "3", "--quiet"]
    evaluate = ["likelihood", str(model), str(points), "--limit", "2", "--quiet", "--values", str(mine)]
    for command in (sample, evaluate):
        assert "mine.npy, which is there already" in refused(command, mine, capsys)
    assert main([*sample, "--overwrite"]) == 0
    assert np.load(mine).shape == (3, 2)
    for command, read in (
        (["train", str(mine), "--output", str(mine), "--overwrite", *STILL], mine),
        (["likelihood", str(model), str(points), "--overwrite", "--values", str(points)], points),
    ):
        assert "which is read by the same command" in refused(command, read, capsys)
    (tmp_path / "mine").mkdir()
    assert "which is a folder" in refused([*train[:3], str(tmp_path / "mine"), *STILL], mine, capsys)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "DATA", "--output", "NEW", "--process", "ddpm"], "process: got 'ddpm'; accepted is vp or subvp"),
        (["train", "DATA", "--output", "NEW", "--prediction", "x"], "prediction: got 'x'"),
        (["train", "DATA", "--output", "NEW", "--loss", "huber"], "weighting: got 'huber'; accepted is 'simple' or"),
        (["train", "DATA", "--output", "NEW", "--prediction", "edm", "--gaussian"], "prediction: got 'edm'"),
        (["train", "DATA", "--output", "NEW", "--epochs", "0"], "steps: got 0"),
        (["train", "DATA", "--output", "NEW", "--lr", "nan"], "lr: got nan"),
        (["train", "DATA", "--output", "NEW", "--dropout", "1"], "--dropout: got 1.0"),
        (["train", "DATA", "--output", "NEW", "--device", "meta"], "--device: got meta"),
        (["train", "DATA", "--output", "NEW", "--batch-size", "401"], "batch_size: got 401"),
        (["train", "DATA", "--output", "NEW", "--held-out", "1"], "--held-out: got 1.0"),
        (["train", "DATA", "--output", "NEW", "--held-out", "0.999"], "0 examples to train on"),
        (["train", "DATA", "--output", "NEW", "--device", "abacus"], "--device: got abacus"),
        (["train", "BROKEN", "--output", "MODEL", "--overwrite"], "NaN or infinite values"),
        (["train", "missing.npy", "--output", "MODEL", "--overwrite"], "data: got missing.npy"),
        (["sample", "MODEL", "--output", "x.jpg"], "--output: got x.jpg"),
        (["sample", "MODEL", "--output", "pictures"], "a folder for samples of shape (2,)"),
        (["sample", "MODEL", "--output", "NEW.npy", "--sampler", "ddpm"], "sampler: got 'ddpm'"),
        (["sample", "MODEL", "--output", "NEW.npy", "--eta", "1"], "eta: got 1.0"),
        (["sample", "MODEL", "--output", "NEW.npy", "--trajectory", "3", "--steps", "4"], "--trajectory: got 3"),
        (["sample", "DATA", "--output", "NEW.npy"], "checkpoint: got"),
        (["likelihood", "MODEL", "BROKEN"], "NaN or infinite values"),
        (["likelihood", "MODEL", "DATA", "--output", "r.txt"], "--output: got r.txt"),
        (["likelihood", "MODEL", "DATA", "--trace", "inexact"], "trace: got 'inexact'"),
        (["likelihood", "MODEL", "DATA", "--probes", "3"], "probes: got 3 for trace='exact'"),
        (["likelihood", "MODEL", "DATA", "--held-out"], "which held nothing out"),
    ],
)
def test_mistakes_end_with_status_2_one_line_and_no_file(
    arguments: list[str], text: str, model: Path, points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.npy"
    np.save(broken, np.array([[1.0, np.nan]]))
    names = {"DATA": points, "MODEL": model, "BROKEN": broken, "NEW": tmp_path / "m", "NEW.npy": tmp_path / "x.npy"}
    given = [str(names.get(argument, argument)) for argument in arguments]
    assert text in refused([*given, "--quiet"], model, capsys)
    assert list(tmp_path.iterdir()) == [broken]


def test_what_cannot_be_written_is_refused_before_anything_is_computed(
    model: Path, points: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.npy"
    kept.write_bytes(points.read_bytes())
    train, sample = ["train", str(kept), *STILL, "--output"], ["sample", str(model), "--quiet", "--output"]
    assert "kept.npy on the way there, which is no folder" in refused([*train, str(kept / "model")], kept, capsys)
    assert "cannot be written there" in refused([*train, str(tmp_path / (250 * "x"))], kept, capsys)
    assert "which is a device" in refused([*train, os.devnull, "--overwrite"], kept, capsys)
    twice = [str(tmp_path / "x.png"), str(tmp_path / "x-trajectories.png"), "--trajectory", "2"]
    for names in (twice, [str(tmp_path / "x.npy")] * 2):
        assert "for two things" in refused([*sample, *names], kept, capsys)
    picture = sorted(pictures.iterdir())[0]
    over = ["train", str(pictures), "--output", str(picture), "--overwrite", *STILL]
    assert "which is read by the same command" in refused(over, picture, capsys)


def test_a_file_that_does_not_fit_is_named_and_nothing_of_it_stays(
    points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = tmp_path / "m"
    train = ["train", str(points), "--output", str(kept), *STILL]
    assert main(train) == 0
    before = kept.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    assert main([*train, "--overwrite"]) == 1
    assert "No space left on device: " in (said := capsys.readouterr().err)
    assert str(kept) in said
    assert kept.read_bytes() == before
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (OSError("6000 requested and 992 written"), 1),
        (PermissionError(errno.EACCES, "Permission denied"), 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 1),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 1),
    ],
)
def test_a_full_disk_and_a_full_memory_are_failures_in_one_line_and_not_mistakes(
    points: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
) -> None:
    def fails(*given: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(diffusion.commands.train, "fit", fails)
    assert main(["train", str(points), "--output", str(tmp_path / "m"), *STILL]) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def options_of(command: str) -> list[argparse.Action]:
    found = next(action for action in parser()._actions if isinstance(action.choices, dict))
    return [action for action in found.choices[command]._actions if action.dest != "help"]  # type: ignore[index,union-attr]


@pytest.mark.parametrize("command", ["demo", "train", "sample", "likelihood"])
def test_every_option_has_a_help_text_that_says_its_default(command: str) -> None:
    for action in options_of(command):
        assert action.help
        if action.option_strings:
            assert "(required)" in action.help or "(default: " in action.help, action.option_strings


@pytest.mark.parametrize("command", [[], ["demo"], ["train"], ["sample"], ["likelihood"]])
def test_help_is_printed(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: python -m diffusion" in capsys.readouterr().out
