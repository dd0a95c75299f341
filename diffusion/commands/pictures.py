"""Pictures of samples and of their ways out of noise: images of any size, vectors of one or two components.

Each function writes one PNG to an open file; the same data give the same bytes.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from sdesolve.errors import message

__all__ = ["can_be_drawn", "draw_images", "draw_ways", "draw_points", "write_image"]

SMALLEST = 48
"""Images whose longer side is below so many pixels are enlarged."""
LINE = 1
PANELS = 8


def can_be_drawn(shape: tuple[int, ...]) -> None:
    """
    Raises
    ------
    ValueError : an example of this shape is no image in grey or colour, and no vector of one or two components.
    ImportError : a package that pictures are drawn by is missing.
    """
    for package in ("PIL", "matplotlib"):
        import_module(package)
    if not ((len(shape) == 3 and shape[0] in (1, 3)) or shape in ((1,), (2,))):
        accepted = "images in grey or colour, or vectors of one or two components, for a picture"
        raise ValueError(message("--output", f"samples of shape {shape}", accepted, "Write them to a .npy file."))


def write_image(file: BinaryIO, pixels: Tensor) -> None:
    """One image ``(c, h, w)`` of uint8, as it is."""
    from PIL import Image

    shown = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(shown[:, :, 0] if shown.shape[2] == 1 else np.ascontiguousarray(shown)).save(file, format="PNG")


def draw_images(file: BinaryIO, pixels: Tensor, columns: int | None = None) -> None:
    """A sheet of images ``(n, c, h, w)`` of uint8, row by row; without `columns` about as wide as it is high."""
    n, channels, height, width = pixels.shape
    columns = math.ceil(math.sqrt(n * height / width)) if columns is None else columns
    times = max(1, math.ceil(SMALLEST / max(height, width)))
    larger = pixels.repeat_interleave(times, 2).repeat_interleave(times, 3)
    height, width = height * times, width * times
    sheet = torch.full(
        (channels, -(-n // columns) * (height + LINE) + LINE, columns * (width + LINE) + LINE), 255, dtype=torch.uint8
    )
    for k, image in enumerate(larger):
        top, left = k // columns * (height + LINE) + LINE, k % columns * (width + LINE) + LINE
        sheet[:, top : top + height, left : left + width] = image
    write_image(file, sheet)


def draw_points(file: BinaryIO, points: Tensor) -> None:
    """Points ``(n, 2)`` in the plane, or a histogram of ``(n, 1)``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    if points.shape[1] == 1:
        axes.hist(points[:, 0].numpy(), bins=max(10, int(len(points) ** 0.5)), density=True, color="C0")
    else:
        axes.scatter(points[:, 0].numpy(), points[:, 1].numpy(), s=_dot(len(points)), linewidths=0, color="C0")
        axes.set_aspect("equal", adjustable="datalim")
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})


def draw_ways(file: BinaryIO, ts: Tensor, points: Tensor) -> None:
    """Ways from noise to data: the points at a few times, and lines between all of them.

    ts : falling, ``(T,)``. points : ``(T, n, 2)``, or ``(T, n, 1)``, which is drawn over the index of time.
    """
    from matplotlib.figure import Figure

    shown = torch.linspace(0, len(ts) - 1, min(PANELS, len(ts))).round().long().tolist()
    plane = points.shape[2] == 2
    figure = Figure(figsize=(3 * (len(shown) * plane + 1), 3.2), layout="constrained")
    panels = figure.subplots(1, len(shown) * plane + 1, squeeze=False)[0]
    for axes, k in zip(panels[:-1], shown, strict=False):
        axes.scatter(
            points[k, :, 0].numpy(), points[k, :, 1].numpy(), s=_dot(points.shape[1]), linewidths=0, color="C0"
        )
        axes.set_title(f"t = {float(ts[k]):.3g}")
    lines = panels[-1]
    lines.set_title("ways" if plane else "ways, over the index of time")
    some = points[:, :100].numpy()
    if plane:
        lines.plot(some[:, :, 0], some[:, :, 1], linewidth=0.4, alpha=0.6, color="0.5")
        lines.scatter(some[-1, :, 0], some[-1, :, 1], s=5, linewidths=0, color="C0", zorder=3)
        for axes in panels:
            axes.set_aspect("equal", adjustable="datalim")
    else:
        lines.plot(some[:, :, 0], linewidth=0.4, color="C0")
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})


def _dot(count: int) -> float:
    """Area of a marker, smaller where there are more."""
    return min(12.0, max(1.0, 4000 / count))
