"""The command line: ``python -m diffusion demo``, and ``train``, ``sample``, ``likelihood`` one by one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdesolve.errors import message

from .demo import DemoSettings, run_demo, train
from .digits import Digits, load_digits
from .figures import draw_samples
from .fit import TrainingInterrupted
from .likelihood import log_likelihood
from .models import load_denoiser
from .quantise import bits_per_dimension, dequantise, quantise
from .sample import SAMPLERS, sample

INTERRUPTED = 130
MISTAKE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for a mistake in the request, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except TrainingInterrupted as interrupt:
        print(f"\ninterrupted after {interrupt.step} steps", file=sys.stderr)
        if interrupt.checkpoint is not None:
            print(
                f"the training so far is in {interrupt.checkpoint}; "
                "give the same command with --resume to go on from there",
                file=sys.stderr,
            )
        return INTERRUPTED
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished before has been written", file=sys.stderr)
        return INTERRUPTED
    except ImportError as error:
        print(f"error: {error}; pip install 'sdesolve[diffusion]' brings what is missing", file=sys.stderr)
        return MISTAKE
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    result = argparse.ArgumentParser(prog="python -m diffusion", description=__doc__)
    commands = result.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train on handwritten digits, sample, evaluate: pictures and report")
    demo.add_argument("--output", type=Path, default=Path("out/demo"), help="folder (default: %(default)s)")
    demo.add_argument("--quick", action="store_true", help="everything once over, in seconds")
    _training_options(demo)
    demo.set_defaults(run=_demo)

    training = commands.add_parser("train", help="train a score network and keep it in a checkpoint")
    training.add_argument("checkpoint", type=Path, help="file to write")
    training.add_argument("--data", type=Path, help="8x8 images of levels 0 .. 16, .npy (default: the digits)")
    training.add_argument("--quick", action="store_true", help="a tiny network")
    _training_options(training)
    training.set_defaults(run=_train)

    sampling = commands.add_parser("sample", help="draw images from a checkpoint")
    sampling.add_argument("checkpoint", type=Path)
    sampling.add_argument("--output", type=Path, required=True, help=".npy for levels, .png for a sheet")
    sampling.add_argument("--count", type=int, default=64, help="number of images (default: %(default)s)")
    sampling.add_argument("--sampler", default="euler_maruyama", help=f"one of {', '.join(SAMPLERS)}")
    sampling.add_argument("--steps", type=int, help="number of steps (default: the sampler's)")
    sampling.add_argument("--seed", type=int, default=0)
    sampling.set_defaults(run=_sample)

    likelihood = commands.add_parser("likelihood", help="bits per dimension of images under a checkpoint")
    likelihood.add_argument("checkpoint", type=Path)
    likelihood.add_argument("--data", type=Path, help="images as for train (default: the held-out digits)")
    likelihood.add_argument("--limit", type=int, help="only the first images")
    likelihood.add_argument("--probes", type=int, default=2, help="Hutchinson probes (default: %(default)s)")
    likelihood.add_argument("--seed", type=int, default=0)
    likelihood.set_defaults(run=_likelihood)
    return result


def _training_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="of all randomness (default: %(default)s)")
    command.add_argument("--steps", type=int, help="training steps")
    command.add_argument("--resume", action="store_true", help="go on from the checkpoint of an earlier run")


def _settings(options: argparse.Namespace) -> DemoSettings:
    settings = DemoSettings.quick(options.seed) if options.quick else DemoSettings(seed=options.seed)
    return settings if options.steps is None else replace(settings, steps=options.steps)


def _demo(options: argparse.Namespace) -> None:
    run_demo(options.output, _settings(options), resume=options.resume)


def _train(options: argparse.Namespace) -> None:
    data = load_digits()
    if options.data is not None:
        data = Digits(_images(options.data), data.held_out)
    settings = _settings(options)
    settings = replace(settings, batch_size=min(settings.batch_size, len(data.train)))
    _, losses = train(data, settings, options.checkpoint, options.resume, True)
    print(f"{len(losses)} steps, last loss {float(losses[-100:].mean()):.4f}; kept in {options.checkpoint}")


def _sample(options: argparse.Namespace) -> None:
    if options.output.suffix not in (".npy", ".png"):
        raise ValueError(message("--output", str(options.output), "a file that ends in .npy or .png"))
    denoiser, config = load_denoiser(options.checkpoint)
    images = sample(
        denoiser,
        (options.count, config.channels, config.height, config.width),
        sampler=options.sampler,
        steps=options.steps,
        seed=options.seed,
        progress=True,
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.output.suffix == ".png":
        draw_samples(options.output, {options.sampler: images})
    else:
        np.save(options.output, quantise(images, config.levels).numpy().astype(np.uint8), allow_pickle=False)
    print(f"{options.count} images in {options.output}")


def _likelihood(options: argparse.Namespace) -> None:
    denoiser, config = load_denoiser(options.checkpoint)
    levels = load_digits().held_out if options.data is None else _images(options.data)
    x = dequantise(levels[: options.limit], config.levels, seed=options.seed)
    found = log_likelihood(
        denoiser,
        x,
        trace="hutchinson",
        probes=options.probes,
        seed=options.seed,
        rtol=1e-3,
        atol=1e-3,
        progress=True,
    )
    bits = bits_per_dimension(found.log_prob.double(), x[0].numel(), levels=config.levels)
    report = {
        "images": len(x),
        "bits_per_dimension": float(bits.mean()),
        "std_error": float(bits.std() / len(x) ** 0.5),
    }
    print(json.dumps(report, indent=2))


def _images(path: Path) -> Tensor:
    """Images ``(n, 8, 8)`` or ``(n, 1, 8, 8)`` from a .npy file, as ``(n, 1, 8, 8)``."""
    try:
        images = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(message("--data", f"{path} ({error})", "a file of numpy.save")) from error
    if not isinstance(images, np.ndarray) or images.shape[1:] not in ((8, 8), (1, 8, 8)) or not len(images):
        got = f"{path} with an array of shape {getattr(images, 'shape', None)}"
        raise ValueError(message("--data", got, "images (n, 8, 8) or (n, 1, 8, 8)"))
    return torch.from_numpy(images.reshape(-1, 1, 8, 8))


if __name__ == "__main__":
    sys.exit(main())
