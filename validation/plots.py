"""Figures of the report: all curves that name a figure, as one SVG that needs nothing outside itself."""

from __future__ import annotations

import multiprocessing
from base64 import b64encode
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from validation.check import Check, Curve

MARKERS = "osD^v<>Ph*"
CROWD = 8
"""Curves beside which their names stand, not within the axes."""
MANY = 16
"""Figures that are worth processes of their own: one takes about half a second, a process three."""


def figures(checks: Iterable[Check]) -> dict[str, list[Curve]]:
    """Curves by figure, in the order of the checks."""
    found: dict[str, list[Curve]] = {}
    for check in checks:
        for curve in check.curves:
            found.setdefault(curve.figure, []).append(curve)
    return found


def draw(title: str, curves: list[Curve]) -> Figure:
    """Points with their intervals, and the line of each curve; logarithmic axes where the curves say so. What many
    curves are stands beside them."""
    many = len(curves) > CROWD
    figure = Figure(figsize=(8.8 if many else 6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        # colours come again after ten curves, with other markers
        _draw_curve(axes, curve, f"C{number % 10}", MARKERS[(number + number // 10) % len(MARKERS)])
    if all(curve.log for curve in curves):
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(curves[0].x_label)
    axes.set_ylabel(curves[0].y_label)
    axes.grid(True, which="major", alpha=0.3)
    if many:
        figure.legend(fontsize=8, loc="outside right upper")
    else:
        axes.legend(fontsize=8)
    return figure


def _draw_curve(axes: Axes, curve: Curve, color: str, marker: str) -> None:
    x, y = np.asarray(curve.x), np.asarray(curve.y)
    bars = None
    if curve.low is not None and curve.high is not None:
        bars = np.clip([y - np.asarray(curve.low), np.asarray(curve.high) - y], 0, None)
    axes.errorbar(x, y, bars, fmt=marker, color=color, markersize=4.5, capsize=2, label=curve.label)
    if curve.line is not None:
        axes.plot(*curve.line, color=color, linewidth=1, alpha=0.8)


def images(named: Sequence[tuple[str, list[Curve]]], jobs: int = 1) -> list[str]:
    """Figures of (title, curves), each as a data URI; drawn in several processes where there are many."""
    if jobs == 1 or len(named) < MANY:
        return [inline_svg(*each) for each in named]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(inline_svg, *zip(*named, strict=True), chunksize=4))


def inline_svg(title: str, curves: list[Curve]) -> str:
    """A data URI: as an image, so that the identifiers inside one figure do not meet those of another."""
    buffer = BytesIO()
    draw(title, curves).savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + b64encode(buffer.getvalue()).decode()
