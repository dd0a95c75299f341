"""Charts of a run: times relative to the best peer, and how cost grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, stands_alone, title
from benchmarks.work_precision import Curve, Diagram, Point, diagrams

COLOURS = {"ours": "tab:blue", "peer": "tab:orange", "hand": "tab:green", "floor": "tab:grey"}
LABELS = {"ours": "sdesolve", "peer": "peers", "hand": "written by hand", "floor": "floor"}
MARKERS = "osD^vPX*"

#: title, cases, unit, what is drawn of a contender
Panel = tuple[str, Sequence[Figures], str, Callable[[Figures], float]]


def plot(figures: Figures, folder: Path) -> list[Path]:
    """Draw what there is to draw into the folder; returns the files: ``relative.png``, ``scaling.png``,
    and ``work_precision_PROBLEM.png``."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    compared = [case for case in figures["cases"] if stands_alone(case) and _relative(case)]
    sized = [case for case in figures["cases"] if case["size"] is not None]
    if compared:
        rows = sum(len(_relative(case)) for case in compared)
        figure = Figure(figsize=(10, 1.2 + 0.24 * rows + 0.35 * len(compared)), layout="constrained")
        draw_relative(figure, compared)
        written.append(_save(figure, folder / "relative.png"))
    if sized:
        groups = [(name, list(cases)) for name, cases in groupby(sized, lambda case: case["size"]["group"])]
        figure = Figure(figsize=(10, 4 * ((len(_panels(groups)) + 1) // 2)), layout="constrained")
        draw_curves(figure, groups)
        written.append(_save(figure, folder / "scaling.png"))
    for diagram in diagrams(figures):
        figure = Figure(figsize=(14, 7), layout="constrained")
        draw_diagram(figure, diagram)
        written.append(_save(figure, folder / diagram.file))
    return written


def draw_relative(figure: Any, cases: Sequence[Figures]) -> None:
    """A row for each contender: its median over that of the case's best peer, with quartiles."""
    axes = figure.subplots()
    ticks, names, row = [], [], 0.0
    for case in cases:
        head = axes.text(0, -row, f" {title(case)}", transform=axes.get_yaxis_transform(), weight="bold", size=8)
        head.set(va="center", backgroundcolor="white")
        row += 1
        for contender, (low, middle, high) in _relative(case):
            colour = COLOURS[contender["role"]]
            axes.plot([low, high], [-row, -row], color=colour, linewidth=3, alpha=0.4, solid_capstyle="butt")
            axes.plot(middle, -row, "o", color=colour, markersize=6)
            axes.annotate(factor(middle), (middle, -row), (7, 0), textcoords="offset points", va="center", size=7)
            ticks.append(-row)
            names.append(contender["name"])
            row += 1
        row += 0.5
    axes.set_yticks(ticks, names, size=8)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.set_ylim(-row, 1)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("time / time of the fastest peer (left of the line: faster)")
    present = {c["role"] for case in cases for c, _ in _relative(case)}
    for role in (role for role in COLOURS if role in present):
        axes.plot([], [], "o", color=COLOURS[role], label=LABELS[role])
    figure.legend(loc="outside upper right", ncols=len(present), frameon=False)


def factor(value: float) -> str:
    """Three digits, without exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw_curves(figure: Any, groups: Sequence[tuple[str, Sequence[Figures]]]) -> None:
    """Median, and where wanted peak memory, against size for each contender, all logarithmic."""
    panels = _panels(groups)
    grid = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False)
    for axes, (group, cases, unit, value) in zip(grid.flat, panels, strict=False):
        names = dict.fromkeys((c["name"], c["role"]) for case in cases for c in case["contenders"])
        for marker, (name, role) in zip(MARKERS, names, strict=False):
            points = [
                (case["size"]["value"], value(c))
                for case in cases
                for c in case["contenders"]
                if c["name"] == name and c["status"] == "measured" and value(c)
            ]
            dashes = "--" if "eager" in name else "-"
            axes.plot(
                *zip(*points, strict=True), dashes, marker=marker, color=COLOURS[role], label=name
            ) if points else 0
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(group, size=9)
        axes.set_xlabel(cases[0]["size"]["along"])
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()


def draw_diagram(figure: Any, diagram: Diagram) -> None:
    """Error against evaluations, and against time; ours in colours, peers dashed, the best of each order first."""
    from matplotlib import colormaps

    axes: Sequence[Any] = figure.subplots(1, 2, sharey=True)
    works: Sequence[tuple[str, Callable[[Point], float | None]]] = (
        ("evaluations of drift and diffusion along a path", lambda point: point.evaluations),
        ("ms", lambda point: 1e3 * point.seconds),
    )
    ranked = sorted(diagram.curves, key=lambda curve: (curve.role, -(curve.order or 0), curve.points[-1].error))
    ours = [curve for curve in ranked if curve.role == "ours"]
    bright = colormaps["tab20"].colors  # type: ignore[attr-defined]
    colours = [*bright[:14], *bright[16:], *colormaps["Dark2"].colors[:-1]]  # type: ignore[attr-defined]

    def style(number: int, curve: Curve) -> dict[str, Any]:
        if curve.role == "ours":
            return {"color": colours[number % len(colours)], "marker": MARKERS[number % len(MARKERS)]}
        number -= len(ours)
        dashes = (0, (1, 1)) if curve.name.startswith("diffrax") else (0, (5, 2))
        grey = 0.2 + 0.5 * (number % 5) / 4
        return {"color": (grey,) * 3, "marker": MARKERS[number % len(MARKERS)], "linestyle": dashes, "markersize": 4}

    for place, (label, work) in zip(axes, works, strict=True):
        for number, curve in enumerate(ranked):
            points = [(w, point.error) for point in curve.points if (w := work(point)) is not None]
            if points:
                name = curve.name if curve.order is None else f"{curve.name}, {curve.order:g}"
                place.plot(*zip(*points, strict=True), linewidth=1.3, label=name, **style(number, curve))
        place.axhline(diagram.goal, color="black", linewidth=0.6)
        place.set(xscale="log", yscale="log", xlabel=label)
        place.grid(alpha=0.3)
    axes[0].set_ylabel("E|X - X^h|")
    figure.suptitle(f"{diagram.group}, {diagram.paths:,} paths (after a name: its order)", size=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=7)


def _panels(groups: Sequence[tuple[str, Sequence[Figures]]]) -> list[Panel]:
    panels: list[Panel] = []
    for group, cases in groups:
        panels.append((group, cases, "ms", lambda c: 1e3 * c["median"]))
        if cases[0]["size"].get("memory"):
            panels.append((group, cases, "peak memory, MiB", lambda c: (c["peak_bytes"] or 0) / 2**20))
    return panels


def _relative(case: Figures) -> list[tuple[Figures, tuple[float, float, float]]]:
    """Quartile, median, quartile over the best peer's median, for each contender whose answer is right."""
    best = next((c["median"] for c in case["contenders"] if c["name"] == case["best_peer"]), None)
    if best is None:
        return []
    return [
        (c, (c["quartiles"][0] / best, c["median"] / best, c["quartiles"][1] / best))
        for c in case["contenders"]
        if c["status"] == "measured"
    ]


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
