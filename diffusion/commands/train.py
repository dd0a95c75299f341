"""``python -m diffusion train DATA --output MODEL``: a model of a user's own data."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesolve.errors import message

from ..checkpoint import CheckpointError, load_checkpoint
from ..denoiser import Denoiser
from ..fit import fit
from ..loss import TIMES, WEIGHTINGS, DenoisingLoss
from ..models.data import Data, read_data
from ..models.model import COMPONENTS, ModelConfig, build_denoiser, config_of, gaussian_of, span_of_times
from ..models.named import PROCESSES, named_process, process_name
from ..models.scaling import Scaling
from ..prediction import PREDICTIONS
from ..prior import derived_seed
from .files import check_outputs
from .options import add_common, add_data, device_of, positive

__all__ = ["add"]

BATCH = 128
NUMBERS = 2**21
"""In a batch, at most, unless its size is given; but 8 examples are. A network keeps a hundred times as many."""
STEPS = 5000
DRAWS = 4096
"""Times and noises that the held-out loss is an average over, at least."""


def add(commands: Any) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "train",
        help="train a model on your own data",
        description="Train a diffusion model on vectors or images, and keep it in one file: weights as safetensors, "
        "what they mean as JSON. The file is also the checkpoint from which --resume goes on.",
    )
    add_data(command, trained=False)
    command.add_argument("--output", type=Path, required=True, metavar="MODEL", help="file to write (required)")
    over = command.add_mutually_exclusive_group()
    over.add_argument("--resume", action="store_true", help="go on from MODEL, with the same options (default: begin)")
    over.add_argument("--overwrite", action="store_true", help="replace MODEL if it exists (default: an error)")

    model = command.add_argument_group("model")
    processes = f"{', '.join(PROCESSES)}; with parameters as vp:beta_min=0.1,beta_max=15 (default: %(default)s)"
    model.add_argument("--process", default="vp", help=processes)
    predictions = f"{', '.join(PREDICTIONS)} (default: noise; flow for rectified-flow; edm with --no-gaussian)"
    model.add_argument("--prediction", help=predictions)
    model.add_argument(
        "--gaussian",
        action=argparse.BooleanOptionalAction,
        help="let the network correct the exact denoiser of the data's mean and covariance "
        f"(default: up to {COMPONENTS} components, unless --prediction edm)",
    )
    model.add_argument("--width", type=positive, help="of the network (default: 128 for vectors, 48 for images)")
    model.add_argument("--depth", type=positive, help="of the network (default: 3 for vectors, 4 for images)")
    model.add_argument("--dropout", type=float, default=0.1, help="in networks for images (default: %(default)s)")

    training = command.add_argument_group("training")
    training.add_argument("--loss", default="balanced", help=f"{', '.join(WEIGHTINGS)} (default: %(default)s)")
    times = f"how times are drawn: {', '.join(TIMES)} (default: %(default)s)"
    training.add_argument("--times", default="importance", help=times)
    length = training.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive, help=f"of training (default: {STEPS})")
    length.add_argument("--epochs", type=float, help=f"times over the data (default: as many as {STEPS} steps are)")
    training.add_argument(
        "--batch-size",
        type=int,
        help=f"examples a step (default: {BATCH}, or all if fewer; down to 8 for large images)",
    )
    training.add_argument("--lr", type=float, default=2e-3, help="highest learning rate (default: %(default)s)")
    training.add_argument("--ema", type=float, default=0.999, help="decay of averaged weights (default: %(default)s)")
    training.add_argument(
        "--checkpoint-every", type=positive, default=100, metavar="N", help="steps (default: %(default)s)"
    )
    training.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="share of the data to keep from training, for the loss at the end and `likelihood --held-out` "
        "(default: %(default)s)",
    )
    add_common(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train and keep the model."""
    import safetensors  # noqa: F401  # which is missing now rather than when the first checkpoint is written

    device = device_of(options.device)
    advice = "Give --resume to go on with its training, or --overwrite to replace it."
    if not 0 <= options.dropout < 1:
        raise ValueError(message("--dropout", repr(options.dropout), "a probability from 0 to below 1"))
    data = read_data(options.data, key=options.key, levels=options.levels, channels=options.channels)
    split = {"examples": len(data.values), "held_out": _count(options.held_out, len(data.values)), "seed": options.seed}
    rows, others = split_rows(split)
    train = Data(data.values[rows], data.levels)
    config, x = configured(options, train)
    loss = DenoisingLoss(options.loss, options.times, t_min=config.t_min or 1e-5, t_max=config.t_max)
    if options.resume and options.output.exists():
        check_same_model(options.output, config)
    check_outputs([options.output], options.overwrite or options.resume, advice, inputs=[options.data])

    torch.manual_seed(options.seed)
    gaussian = gaussian_of(x, config.scaling.variance_of_noise()) if config.gaussian else None
    denoiser = build_denoiser(config, gaussian).to(device)
    known = data.levels is None
    found = fit(
        denoiser,
        (x if known else train.values).to(device),
        steps=STEPS if options.steps is None and options.epochs is None else options.steps,
        epochs=options.epochs,
        batch_size=_usual_batch(config, len(rows)) if options.batch_size is None else options.batch_size,
        lr=options.lr,
        ema=options.ema,
        loss=loss,
        transform=None if known else lambda k, generator: config.scaling.to_model(k, generator=generator),
        seed=options.seed,
        checkpoint=options.output,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        facts={"model": asdict(config), "split": split},
        progress=not options.quiet,
    )
    print(f"{len(found.losses)} steps, loss {float(found.losses[-100:].mean()):.4f} over the last of them")
    if len(others):
        mean, error = held_out_loss(
            found.denoiser, loss, data.values[others].to(device), config.scaling.to_model, options.seed
        )
        print(f"held-out loss {mean:.4f} ± {error:.4f} over {len(others)} examples")
    print(f"kept in {options.output}")


def configured(options: argparse.Namespace, train: Data) -> tuple[ModelConfig, Tensor]:
    """The model that the options and the data ask for, and the data on its scale (levels in the middle of their
    intervals)."""
    scaling, dims = Scaling.fit(train), train.values[0].numel()
    middle = None if train.levels is None else -1 + (2 * train.values.float() + 1) / train.levels
    x = scaling.to_model(train.values) if middle is None else middle
    process = named_process(options.process)
    edm = options.prediction == "edm"
    gaussian = (dims <= COMPONENTS and not edm) if options.gaussian is None else options.gaussian
    usual = ("flow" if options.process.startswith("rectified-flow") else "noise") if gaussian else "edm"
    prediction = Denoiser(lambda t, x: x, process, options.prediction or usual).prediction
    vectors = len(train.shape) == 1
    t_min, t_max = span_of_times(process)
    config = ModelConfig(
        shape=train.shape,
        scaling=scaling,
        process=process_name(process),
        prediction=prediction,
        gaussian=gaussian,
        width=options.width or (128 if vectors else 48),
        depth=options.depth or (3 if vectors else 4),
        dropout=0.0 if vectors else options.dropout,
        sigma_data=float(x.std(correction=0)),
        t_min=t_min,
        t_max=t_max,
    )
    return config, x


def check_same_model(path: Path, config: ModelConfig) -> None:
    """
    Raises
    ------
    CheckpointError : the file holds another model, or none; the message says in what they differ.
    """
    there = config_of(load_checkpoint(path)[1], path)
    changed = [
        f"{f.name}={getattr(there, f.name)!r} there, {getattr(config, f.name)!r} here"
        for f in fields(ModelConfig)
        if getattr(there, f.name) != getattr(config, f.name)
    ]
    if changed:
        advice = "Give the data and options of the checkpoint, or another --output."
        raise CheckpointError(message("checkpoint", f"{path} ({'; '.join(changed)})", "one of the same model", advice))


def split_of(facts: Mapping[str, Any], path: object) -> dict[str, int]:
    """How the data were divided: numbers of examples in all and held out, and the seed.

    Raises
    ------
    CheckpointError : the facts are not those that `train` keeps.
    """
    split = facts.get("split", {"examples": 0, "held_out": 0, "seed": 0})
    names = ("examples", "held_out", "seed")
    if not isinstance(split, dict) or not all(type(split.get(name)) is int for name in names):
        raise CheckpointError(message("checkpoint", f"{path} with the split {split!r}", f"integers {', '.join(names)}"))
    if not 0 <= split["held_out"] <= split["examples"] or not 0 <= split["seed"] < 2**64:
        raise CheckpointError(message("checkpoint", f"{path} with the split {split!r}", "one that `train` has made"))
    return split


def split_rows(split: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Indices of the examples to train on and of those that are held out, in rising order; a function of the seed."""
    generator = torch.Generator().manual_seed(derived_seed(split["seed"], "held out"))
    order = torch.randperm(split["examples"], generator=generator)
    return order[split["held_out"] :].sort().values, order[: split["held_out"]].sort().values


def held_out_loss(
    denoiser: Denoiser, loss: DenoisingLoss, values: Tensor, to_model: Callable[..., Tensor], seed: int
) -> tuple[float, float]:
    """Mean and standard error over examples; each is looked at several times if there are few."""
    generator = torch.Generator(values.device).manual_seed(derived_seed(seed, "held-out loss"))
    passes = []
    with torch.no_grad():
        for _ in range(-(-DRAWS // len(values))):
            parts = [loss(denoiser, to_model(part, generator=generator), generator) for part in values.split(BATCH)]
            passes.append(torch.cat(parts).double().cpu())
    each = torch.stack(passes).mean(0)
    return float(each.mean()), float(each.std() / len(each) ** 0.5) if len(each) > 1 else float("nan")


def _count(fraction: float, examples: int) -> int:
    if not 0 <= fraction < 1:
        raise ValueError(message("--held-out", repr(fraction), "a fraction from 0 to below 1"))
    count = round(fraction * examples)
    if examples - count < 2:
        raise ValueError(message("data", f"{examples - count} examples to train on", "at least two"))
    return count


def _usual_batch(config: ModelConfig, examples: int) -> int:
    return min(BATCH, max(8, NUMBERS // config.dims), examples)
