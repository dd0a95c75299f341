"""The main job on real data: handwritten digits, from training to pictures and bits per dimension.

Run as ``python -m diffusion demo``. Every stage writes what it found before the next one begins.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import sdesolve as ss

from ..denoiser import Denoiser
from ..exact import Gaussian, GaussianMixture
from ..fit import fit
from ..likelihood import log_likelihood
from ..loss import DenoisingLoss
from ..models.model import ModelConfig, build_denoiser
from ..quantise import bits_per_dimension, quantise
from ..sample import sample
from .digits import LEVELS, Digits, dequantised, load_digits
from .figures import draw_loss, draw_samples, draw_trajectories
from .two_sample import nearest_neighbour_accuracy

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["DemoSettings", "run_demo"]


@dataclass(frozen=True)
class DemoSettings:
    """What the demo does; the defaults take about three and a half minutes on two cores."""

    seed: int = 0
    threads: int = 1  # two would gain a quarter on idle cores, and lose more than that on busy ones
    steps: int = 2100
    batch_size: int = 64
    lr: float = 3e-3
    ema: float = 0.995
    model: ModelConfig = field(default_factory=ModelConfig)
    samples: int = 360
    sde_steps: int = 100
    grid: str = "log_snr"
    sample_t_min: float = 1e-3
    held_out: int = 360
    probes: int = 2
    t_min: float = 1e-5
    ode_method: str = "bosh3"  # at these tolerances fewer evaluations than tsit5, and closer
    rtol: float = 1e-3
    atol: float = 1e-3
    copies: int = 8  # dequantised copies of the training images that the baselines are fitted to

    @classmethod
    def quick(cls, seed: int = 0) -> DemoSettings:
        """Everything once over, in seconds; the samples are no digits."""
        return cls(
            seed=seed,
            steps=20,
            batch_size=32,
            model=ModelConfig(width=8, depth=1),
            samples=64,
            sde_steps=20,
            held_out=32,
            rtol=1e-2,
            atol=1e-2,
            copies=2,
        )


def run_demo(
    output: Path, settings: DemoSettings, *, resume: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Train, sample, evaluate; write samples.png, trajectories.png, loss.png and report.json into `output`.

    Parameters
    ----------
    output : folder, made if missing. settings : see :class:`DemoSettings`.
    resume : go on with the training whose checkpoint is in the folder.
    console : where the progress bars and the table go; default standard output.

    Returns
    -------
    The report, as written to report.json. All but its section "timings" is a function of the settings (and of
    the machine, through rounding).
    """
    from rich.console import Console

    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        return _run(output, settings, resume, Console() if console is None else console)
    finally:
        torch.set_num_threads(threads)


def _run(output: Path, settings: DemoSettings, resume: bool, console: Console) -> dict[str, Any]:
    output.mkdir(parents=True, exist_ok=True)
    report = Report(output / "report.json", settings)
    data = load_digits()
    with stages(console) as stage:
        with report.timed("training"), stage("train the score network") as progress:
            denoiser, losses = train(data, settings, output / "checkpoint.safetensors", resume, progress)
        draw_loss(output / "loss.png", losses)
        report.add(training={"parameters": count(denoiser), "final_loss": float(losses[-100:].mean())})

        drawn = {}
        with report.timed("samples_sde"), stage(f"{settings.samples} samples, reverse SDE") as progress:
            drawn["reverse SDE"] = generate(denoiser, settings, "euler_maruyama", progress=progress)
        with report.timed("samples_flow"), stage(f"{settings.samples} samples, probability flow") as progress:
            drawn["probability flow"] = generate(denoiser, settings, "probability_flow", progress=progress)
        sheets = {f"{name}": images[:64] for name, images in drawn.items()}
        real = dequantised(data.held_out[:64], settings.seed)
        draw_samples(output / "samples.png", {**sheets, "held-out digits": real})

        with report.timed("trajectories"), stage("trajectories") as progress:
            draw_trajectories(output / "trajectories.png", trajectories(denoiser, settings, progress))

        with report.timed("baselines"), stage("baselines: Gaussian, 10-component mixture") as progress:
            bits = baseline_bits(data, settings, progress)
        with report.timed("likelihood"), stage("held-out likelihood") as progress:
            bits = {"model": model_bits(denoiser, data, settings, progress), **bits}
        report.add(bits_per_dimension=bits)

        with report.timed("two_sample"), stage("two-sample test") as progress:
            report.add(nearest_neighbour_accuracy=two_sample(drawn, data, settings, progress))
    console.print(table(report.content, output))
    return report.content


def train(
    data: Digits,
    settings: DemoSettings,
    checkpoint: Path,
    resume: bool,
    progress: bool | Callable[[float], None],
) -> tuple[Denoiser, Tensor]:
    """The trained denoiser with averaged weights, and the loss of every step."""
    torch.manual_seed(settings.seed)
    denoiser = build_denoiser(settings.model, training_gaussian(data, settings))
    found = fit(
        denoiser,
        data.train,
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        ema=settings.ema,
        loss=DenoisingLoss("balanced", "balanced", t_min=settings.t_min),
        transform=lambda k, generator: dequantised(k, generator=generator),
        seed=settings.seed,
        checkpoint=checkpoint,
        checkpoint_every=100,
        resume=resume,
        facts={"model": asdict(settings.model)},
        progress=progress,
    )
    return found.denoiser, found.losses


def generate(
    denoiser: Denoiser,
    settings: DemoSettings,
    sampler: str,
    count: int | None = None,
    trajectory: int | None = None,
    progress: bool | Callable[[float], None] = False,
) -> Any:
    """Images by one of the two samplers; image n is the same whatever the count."""
    options: dict[str, Any] = {"steps": settings.sde_steps, "grid": settings.grid}
    if sampler == "probability_flow":
        options = {"method": settings.ode_method, "rtol": settings.rtol, "atol": settings.atol}
        options |= {} if trajectory is None else {"grid": settings.grid}
    return sample(
        denoiser,
        (settings.samples if count is None else count, 1, 8, 8),
        sampler=sampler,
        t_min=settings.sample_t_min,
        seed=settings.seed,
        trajectory=trajectory,
        progress=progress,
        **options,
    )


def trajectories(
    denoiser: Denoiser, settings: DemoSettings, progress: Callable[[float], None]
) -> dict[str, tuple[Tensor, Tensor]]:
    """A few ways from noise to image by each sampler, from the same noise."""
    ways = {}
    for done, (title, sampler) in enumerate(
        {"reverse SDE": "euler_maruyama", "probability flow": "probability_flow"}.items(), start=1
    ):
        points = min(100, settings.sde_steps)
        way: ss.Solution = generate(denoiser, settings, sampler, count=4, trajectory=points)
        ways[title] = (way.ts, way.ys)
        progress(done / 2)
    return ways


def training_gaussian(data: Digits, settings: DemoSettings) -> Gaussian:
    """The full-covariance Gaussian of the dequantised training images."""
    return Gaussian.fit(training_copies(data, settings))


def training_copies(data: Digits, settings: DemoSettings) -> Tensor:
    """The training images several times, each time with fresh dequantisation noise, in float64."""
    return dequantised(data.train.repeat(settings.copies, 1, 1, 1), settings.seed + 1, dtype=torch.float64)


def held_out_images(data: Digits, settings: DemoSettings) -> Tensor:
    """The held-out images as every density is asked for them: one draw of dequantisation noise for all."""
    return dequantised(data.held_out[: settings.held_out], settings.seed + 2, dtype=torch.float64)


def model_bits(
    denoiser: Denoiser, data: Digits, settings: DemoSettings, progress: Callable[[float], None]
) -> dict[str, float]:
    x = held_out_images(data, settings).float()
    with torch.no_grad():
        found = log_likelihood(
            denoiser,
            x,
            trace="hutchinson",
            probes=settings.probes,
            seed=settings.seed,
            t_min=settings.t_min,
            method=settings.ode_method,
            rtol=settings.rtol,
            atol=settings.atol,
            progress=progress,
        )
    result = summary(found.log_prob)
    if found.std_error is not None:  # of the mean over images: the probes are independent
        nats = float(found.std_error.square().sum().sqrt()) / len(x)
        result["std_error_of_trace"] = nats / (64 * math.log(2))
    result["evaluations"] = int(found.stats.drift_evaluations.max())
    return result


def baseline_bits(
    data: Digits, settings: DemoSettings, progress: Callable[[float], None]
) -> dict[str, dict[str, float]]:
    """Bits per dimension of two densities that are fitted directly; with those of the training images
    beside."""
    from sklearn.mixture import GaussianMixture as Fitted

    train, held_out = training_copies(data, settings), held_out_images(data, settings)
    gaussian = Gaussian.fit(train)
    progress(0.1)
    fitted = Fitted(10, reg_covar=1e-3, random_state=settings.seed).fit(train.flatten(1).numpy())
    progress(0.9)
    mixture = GaussianMixture(
        torch.from_numpy(fitted.means_).reshape(-1, *train.shape[1:]),
        torch.from_numpy(fitted.covariances_),
        torch.from_numpy(fitted.weights_),
    )
    models: dict[str, GaussianMixture] = {"gaussian": gaussian, "mixture_of_10": mixture}
    return {
        name: {**summary(model.log_prob(held_out)), "train": summary(model.log_prob(train))["held_out"]}
        for name, model in models.items()
    }


def summary(log_prob: Tensor) -> dict[str, float]:
    """Mean bits per dimension over images, and its standard error over them."""
    bits = bits_per_dimension(log_prob.double(), 64, levels=LEVELS)
    return {"held_out": float(bits.mean()), "std_error": float(bits.std() / math.sqrt(len(bits)))}


def two_sample(
    drawn: Mapping[str, Tensor], data: Digits, settings: DemoSettings, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Nearest-neighbour accuracy against held-out images, at equal counts: of samples, and of training
    images."""
    n = min(settings.samples, len(data.held_out))
    held_out = data.held_out[:n]
    result: dict[str, Any] = {"images_in_each_set": n}
    for name, images in drawn.items():
        result[name] = nearest_neighbour_accuracy(quantise(images[:n], LEVELS), held_out)
    generator = torch.Generator().manual_seed(settings.seed)
    scores = []
    for trial in range(10):
        chosen = torch.randperm(len(data.train), generator=generator)[:n]
        scores.append(nearest_neighbour_accuracy(data.train[chosen], held_out))
        progress((trial + 1) / 10)
    spread = torch.tensor(scores, dtype=torch.float64)
    result["training images"] = float(spread.mean())
    result["training images, standard deviation over subsets"] = float(spread.std())
    return result


class Report:
    """report.json, written anew whenever something is added."""

    def __init__(self, path: Path, settings: DemoSettings) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "settings": asdict(settings),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "sdesolve": ss.__version__,
            },
            "timings": {},
        }

    def add(self, **sections: Any) -> None:
        self.content = {**self.content, **sections, "timings": self.content["timings"]}
        partial = self.path.with_name(f"{self.path.name}.partial")
        partial.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self.path)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.content["timings"][stage] = round(time.perf_counter() - start, 2)
        self.add()


@contextmanager
def stages(console: Console) -> Iterator[Callable[[str], Any]]:
    """A bar for each stage of the work; ``with stage(title) as progress`` takes finished fractions."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield lambda title: _stage(bars, title)


@contextmanager
def _stage(bars: Progress, title: str) -> Iterator[Callable[[float], None]]:
    task = bars.add_task(title, total=1.0)
    yield lambda fraction: bars.update(task, completed=fraction)
    bars.update(task, completed=1.0)


def count(denoiser: Denoiser) -> int:
    return sum(parameter.numel() for parameter in denoiser.parameters())


def table(content: Mapping[str, Any], output: Path) -> Any:
    """The figures of the report that a reader wants first."""
    from rich.table import Table

    title = f"Handwritten digits, 8x8, {LEVELS} levels"
    result = Table(title=title, caption=f"pictures and report in {output}")
    result.add_column("")
    result.add_column("figure", justify="right")
    result.add_column("remark")
    names = {
        "model": "score network, probability flow",
        "gaussian": "full-covariance Gaussian",
        "mixture_of_10": "mixture of 10 Gaussians",
    }
    for key, name in names.items():
        bits = content["bits_per_dimension"][key]
        remark = f"± {bits['std_error']:.3f} over images"
        if "train" in bits:
            remark += f"; training images {bits['train']:.3f}"
        if "std_error_of_trace" in bits:
            remark += f"; trace ± {bits['std_error_of_trace']:.4f}"
        result.add_row(f"held-out bits/dim: {name}", f"{bits['held_out']:.3f}", remark)
    result.add_section()
    scores = content["nearest_neighbour_accuracy"]
    spread = scores["training images, standard deviation over subsets"]
    for key, remark in {
        "reverse SDE": "0.5 is perfect",
        "probability flow": "0.5 is perfect",
        "training images": f"± {spread:.3f} over subsets",
    }.items():
        result.add_row(f"nearest-neighbour accuracy against held-out: {key}", f"{scores[key]:.3f}", remark)
    result.add_section()
    result.add_row("seconds in all", f"{sum(content['timings'].values()):.0f}", "")
    return result
