"""The pictures of the demo. Each function writes one PNG; the same data give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_loss", "draw_samples", "draw_trajectories"]

ENLARGED = 6
SHOWN_TIMES = (1.0, 0.6, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.0)


def draw_samples(path: Path, sheets: Mapping[str, Tensor]) -> None:
    """Sheets of images side by side, 8 to a row, each under its title.

    sheets : title -> images ``(n, 1, height, width)`` in [-1, 1]. They are enlarged by bicubic interpolation, which
    makes so few pixels easier to read; the real ones just as the drawn ones.
    """
    rows = max(-(-len(images) // 8) for images in sheets.values())
    figure = _figure(4.2 * len(sheets), 0.52 * rows + 0.6)
    for axes, (title, images) in zip(figure.subplots(1, len(sheets), squeeze=False)[0], sheets.items(), strict=True):
        larger = torch.nn.functional.interpolate(images, scale_factor=ENLARGED, mode="bicubic")
        axes.imshow(_tiled(larger, 8, ENLARGED).numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axes.set_title(title)
        axes.axis("off")
    _save(figure, path)


def draw_trajectories(path: Path, ways: Mapping[str, tuple[Tensor, Tensor]], shown: int = 4) -> None:
    """Ways from noise to images: rows of pictures at several times, and one pixel's value over time.

    ways : title -> (ts, ys) with falling times ``(T,)`` and states ``(T, batch, 1, height, width)``.
    """
    figure = _figure(6.4 * len(ways), 6.4)
    grid = figure.subplots(2, len(ways), squeeze=False, height_ratios=[3, 2])
    for column, (title, (ts, ys)) in enumerate(ways.items()):
        index = [int((ts - t).abs().argmin()) for t in SHOWN_TIMES]
        # row by row: a trajectory, from noise to image
        images = ys[index, :shown].transpose(0, 1).flatten(0, 1)
        top, bottom = grid[0][column], grid[1][column]
        top.imshow(_tiled(images, len(index)).numpy(), cmap="gray", vmin=-1.5, vmax=1.5, interpolation="nearest")
        top.set_title(f"{title}: from noise to digit")
        step = images.shape[-1] + 1
        top.set_xticks([step * (n + 0.5) for n in range(len(index))], [f"{t:g}" for t in SHOWN_TIMES])
        top.set_yticks([])
        top.set_xlabel("t")
        height, width = ys.shape[-2:]
        bottom.plot(ts.numpy(), ys[:, :, 0, height // 2, width // 2].numpy(), linewidth=1)
        bottom.set_xlim(1, 0)
        bottom.set_xlabel("t")
        bottom.set_ylabel(f"pixel ({height // 2}, {width // 2})")
        bottom.grid(alpha=0.3)
    _save(figure, path)


def draw_loss(path: Path, losses: Tensor, window: int = 50) -> None:
    """The loss of every step, and its mean over the last `window` steps."""
    figure = _figure(6.4, 4)
    axes = figure.subplots()
    steps = torch.arange(1, len(losses) + 1)
    total = torch.cat([torch.zeros(1, dtype=torch.float64), losses.double().cumsum(0)])
    first = (steps - window).clamp(min=0)
    axes.plot(steps.numpy(), losses.numpy(), color="0.75", linewidth=0.7, label="each step")
    mean = (total[steps] - total[first]) / (steps - first)
    axes.plot(steps.numpy(), mean.numpy(), label=f"mean of the last {window}")
    axes.set_xlabel("step")
    axes.set_ylabel("denoising loss")
    low, high = torch.quantile(losses.double(), torch.tensor([0.0, 0.99], dtype=torch.float64)).tolist()
    axes.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
    axes.set_title("Training")
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def _tiled(images: Tensor, columns: int, line: int = 1) -> Tensor:
    """One picture of many, ``(n, 1, height, width)``, with a light line of so many pixels between them."""
    n, _, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.ones(rows * (height + line) + line, columns * (width + line) + line)
    for k, image in enumerate(images[:, 0]):
        top, left = k // columns * (height + line) + line, k % columns * (width + line) + line
        sheet[top : top + height, left : left + width] = image
    return sheet


def _figure(width: float, height: float) -> Figure:
    """A figure with no display behind it and no state shared between figures."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=120, metadata={"Software": None})
