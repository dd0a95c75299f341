"""``python -m diffusion sample MODEL --output FILE``: new data from a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.progress import Report, reporting

from ..denoiser import Denoiser
from ..grid import GRIDS
from ..models.model import ModelConfig, load_denoiser, span_of_times
from ..sample import sample
from ..samplers import SAMPLERS
from .files import check_outputs, replacing
from .options import add_common, device_of, positive
from .pictures import can_be_drawn, draw_images, draw_points, draw_ways, write_image

__all__ = ["add"]

BATCH, NUMBERS = 256, 2**20
"""Samples at once, and numbers in them, unless the user says how many."""
LEAST_NOISE = 1e-2
IMAGE_WAYS, POINT_WAYS = 8, 500
"""Trajectories that a picture of them shows, at most."""


def add(commands: Any) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "sample",
        help="draw new data from a model",
        description="Draw new data. Sample number i depends on the model, the sampler and the seed alone, not on "
        "--count or --batch-size (up to rounding).",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="file that `train` or `demo` wrote")
    command.add_argument(
        "--output",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="where to: .npy or .npz for an array in the data's units, .png for a picture, a name without an ending "
        "for a folder with one .png an image; one or several (required)",
    )
    command.add_argument("--overwrite", action="store_true", help="replace files that exist (default: an error)")
    command.add_argument("--count", type=positive, default=64, help="how many (default: %(default)s)")
    command.add_argument(
        "--batch-size", type=positive, help=f"how many at once (default: {BATCH}, down to 1 for large images)"
    )
    command.add_argument(
        "--trajectory",
        type=positive,
        metavar="K",
        help="draw the way of some samples out of noise too, at K + 1 times, into a picture beside the first FILE "
        "(default: none)",
    )
    solver = command.add_argument_group("sampler")
    solver.add_argument("--sampler", default="probability_flow", help=f"{', '.join(SAMPLERS)} (default: %(default)s)")
    solver.add_argument(
        "--steps", type=positive, help="how many (default: the sampler's; without one it controls its error)"
    )
    solver.add_argument("--eta", type=float, help="amount of noise, for samplers that have some (default: 1)")
    solver.add_argument("--method", help="of the solver, where the sampler leaves a choice (default: the sampler's)")
    solver.add_argument("--rtol", type=float, help="relative tolerance (default: the sampler's)")
    solver.add_argument("--atol", type=float, help="absolute tolerance (default: the sampler's)")
    grids = f"of the steps: {', '.join(GRIDS)} (default: uniform; karras for the process edm)"
    solver.add_argument("--grid", help=grids)
    solver.add_argument(
        "--t-min", type=float, help=f"where to stop (default: where the noise is {LEAST_NOISE:g} of the data)"
    )
    add_common(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draw the samples and write them."""
    way = None if options.trajectory is None else _beside(options.output[0])
    targets = [*options.output, *([] if way is None else [way])]
    folders = {path for path in options.output if not path.suffix}
    for path in options.output:
        if path.suffix not in (".npy", ".npz", ".png", ""):
            raise ValueError(message("--output", str(path), "a name that ends in .npy, .npz or .png, or has no ending"))
    device = device_of(options.device)
    denoiser, config = load_denoiser(options.model)
    if way is not None or any(path.suffix == ".png" for path in options.output):
        can_be_drawn(config.shape)
    if folders and (len(config.shape) != 3 or config.shape[0] not in (1, 3)):
        raise ValueError(message("--output", f"a folder for samples of shape {config.shape}", "images in a folder"))
    check_outputs(targets, options.overwrite, inputs=[options.model], folders=folders)

    drawing = _Drawing(denoiser.to(device), config, options)
    if way is not None and drawing.steps is not None and drawing.steps % options.trajectory:
        raise ValueError(message("--trajectory", repr(options.trajectory), f"a divisor of the {drawing.steps} steps"))
    size = options.batch_size or min(BATCH, max(1, NUMBERS // config.dims))
    samples: list[Tensor] = []
    try:
        with reporting(not options.quiet, "sampling") as report:
            for first in range(0, options.count, size):
                paths = list(range(first, min(first + size, options.count)))
                samples.append(drawing.samples(paths, _share(report, first, len(paths), options.count)).cpu())
    except (KeyboardInterrupt, ss.SolveError):
        if samples:
            print(f"stopped; keeping {sum(map(len, samples))} of {options.count} samples", file=sys.stderr)
            _write(options.output, torch.cat(samples), config)
        raise
    _write(options.output, torch.cat(samples), config)
    print(f"{options.count} samples in {', '.join(map(str, options.output))}")
    if way is not None:
        _write_way(way, *drawing.ways(options.trajectory), config)
        print(f"their way out of noise in {way}")


@dataclass(frozen=True)
class _Drawing:
    """What the options make of `diffusion.sample`."""

    denoiser: Denoiser
    config: ModelConfig
    options: argparse.Namespace

    def samples(self, paths: list[int], progress: Report | bool) -> Tensor:
        """Those with these trajectory ids, on the model's scale."""
        return self._sample(paths, self.steps, progress=progress)

    def ways(self, intervals: int) -> tuple[Tensor, Tensor]:
        """Times ``(K + 1,)`` and states ``(K + 1, n, *state)`` of the first few."""
        few = min(self.options.count, IMAGE_WAYS if len(self.config.shape) == 3 else POINT_WAYS)
        grid = "log_snr" if self.steps is None else None
        found = self._sample(list(range(few)), self.steps, grid, trajectory=intervals)
        return found.ts.cpu(), found.ys.cpu()

    def _sample(self, paths: list[int], steps: int | None, grid: str | None = None, **options: Any) -> Any:
        given = self.options
        chosen = {
            "eta": given.eta,
            "method": given.method,
            "grid": given.grid or grid,
            "steps": steps,
            "rtol": given.rtol,
            "atol": given.atol,
            "t_max": self.config.t_max,
        }
        return sample(
            self.denoiser,
            (len(paths), *self.config.shape),
            sampler=given.sampler,
            seed=given.seed,
            paths=paths,
            t_min=self._t_min,
            **{name: value for name, value in chosen.items() if value is not None},
            **options,
        )

    @property
    def _t_min(self) -> float:
        usual = span_of_times(self.denoiser.process, LEAST_NOISE)[0]
        return float(usual if self.options.t_min is None else self.options.t_min)

    @property
    def steps(self) -> int | None:
        """Those asked for, else those usual for the sampler; None where it controls its error."""
        usual = SAMPLERS[self.options.sampler].steps if self.options.sampler in SAMPLERS else None
        return usual if self.options.steps is None else int(self.options.steps)


def _share(report: Report | None, done: int, part: int, whole: int) -> Callable[[float], None] | bool:
    return False if report is None else lambda fraction: report((done + part * fraction) / whole)


def _beside(path: Path) -> Path:
    """Where the picture of trajectories goes."""
    return path / "trajectories.png" if not path.suffix else path.with_name(f"{path.stem}-trajectories.png")


def _write(outputs: list[Path], x: Tensor, config: ModelConfig) -> None:
    values = config.scaling.to_data(x)
    for path in outputs:
        if not path.suffix:
            digits = max(5, len(str(len(x) - 1)))
            for number, image in enumerate(_pixels(x, config)):
                with replacing(path / f"{number:0{digits}}.png") as file:
                    write_image(file, image)
            continue
        with replacing(path) as file:
            if path.suffix == ".npy":
                np.save(file, values.numpy(), allow_pickle=False)
            elif path.suffix == ".npz":
                np.savez_compressed(file, samples=values.numpy())
            elif len(config.shape) == 3:
                draw_images(file, _pixels(x, config))
            else:
                draw_points(file, values)


def _write_way(path: Path, ts: Tensor, ys: Tensor, config: ModelConfig) -> None:
    with replacing(path) as file:
        if len(config.shape) == 3:
            row_by_row = _pixels(ys.transpose(0, 1).flatten(0, 1), config)
            draw_images(file, row_by_row, columns=len(ts))
        else:
            draw_ways(file, ts, torch.stack([config.scaling.to_data(x) for x in ys]))


def _pixels(x: Tensor, config: ModelConfig) -> Tensor:
    """Images on the model's scale as 0 .. 255."""
    levels = config.scaling.levels
    shades = (x + 1) / 2 if levels is None else config.scaling.to_data(x).float() / (levels - 1)
    return (255 * shades.clamp(0, 1)).round().to(torch.uint8)
