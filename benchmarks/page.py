"""docs/benchmarks.md, from the figures of a run and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from benchmarks.figures import Figures, all_targets, caption, milliseconds, stands_alone, title, verdict
from benchmarks.report import HEADS, LEGEND, first_calls, row
from benchmarks.work_precision import Curve, Diagram, diagrams

MACHINE = ("processor", "cpu_capability", "device", "cpus", "threads", "system", "machine")
NOT_VERSIONS = {*MACHINE, "date", "load_average"}

WORK = """\
order: at which the error should fall with the step. slope: at which it does. evaluations, ms: of drift and diffusion
along a path, and of a run, for the error named; `~` beyond the steps that were measured. a step: time of one step of
all paths, and of one path. Ours and torchsde run eagerly, diffrax compiled."""

HEAD = """\
# Benchmarks

Written by `python -m benchmarks --docs docs/benchmarks.md`; do not edit. The contenders of a case do the same work in
turn, in one process, on the same number of threads, and an answer that is not right wins nothing.
"""


def page(figures: Figures) -> str:
    """The whole page, in Markdown."""
    environment = figures["environment"]
    parts = [HEAD, *_interrupted(figures), "## Machine\n"]
    parts.append(_table(("", ""), [*_machine(environment), ("versions", _versions(environment))]))
    if any(case["targets"] for case in figures["cases"]):
        parts += ["## What it must show\n", _targets(figures)]
    sentences = list(first_calls(figures))
    if sentences:
        parts.append("\n".join(f"- {sentence}" for sentence in sentences) + "\n")
    parts += ["## Cases\n", f"{LEGEND} Medians are of {figures['settings']['repeats']} turns.\n"]
    parts += [_case(case) for case in figures["cases"] if stands_alone(case)]
    shown = list(diagrams(figures))
    if shown:
        parts += ["## Error against work\n", f"{WORK}\n", *map(_diagram, shown)]
    rows = [case for case in figures["cases"] if case["row"] is not None]
    parts += [_rows(table, list(cases)) for table, cases in groupby(rows, lambda case: case["row"]["table"])]
    sized = [case for case in figures["cases"] if case["size"] is not None]
    if sized:
        parts += ["## How cost grows\n", "Medians in milliseconds.\n"]
        parts += [_curve(group, list(cases)) for group, cases in groupby(sized, lambda case: case["size"]["group"])]
    return "\n".join(parts).rstrip() + "\n"


def _interrupted(figures: Figures) -> Iterator[str]:
    if figures["interrupted"]:
        yield "**The run was interrupted: these are the figures of the turns that were finished.**\n"


def _machine(environment: Figures) -> Iterator[tuple[str, str]]:
    yield "date", environment["date"]
    for key in MACHINE:
        if environment.get(key) is not None:
            yield key.replace("_", " "), str(environment[key])
    if environment.get("load_average") is not None:
        yield "load before", f"{environment['load_average']:.2f}"


def _versions(environment: Figures) -> str:
    return ", ".join(
        f"{key} {value}" for key, value in environment.items() if key not in NOT_VERSIONS and value is not None
    )


def _targets(figures: Figures) -> str:
    rows = (
        (
            title(case),
            target["contender"],
            target["against"],
            f"{target['at_least']:.3g}x",
            "" if target["measured"] is None else f"{target['measured']:.3g}x",
            verdict(target["holds"]),
        )
        for case, target in all_targets(figures)
    )
    return _table(("case", "contender", "against", "at least", "measured", ""), rows, numbers=(3, 4))


def _case(case: Figures) -> str:
    parts = [f"### {title(case)}\n"]
    if case["raised"] is not None:
        return parts[0] + f"\nCould not be made: {case['raised']}\n"
    rows = [(c["name"], *row(c), _answer(c)) for c in case["contenders"]]
    parts.append(_table(("", *HEADS, "answer"), rows, numbers=range(1, 1 + len(HEADS))))
    parts.append(f"{caption(case)}\n")
    parts += [f"- {c['name']}: {c['raised']}\n" for c in case["contenders"] if c["raised"] is not None]
    return "\n".join(parts)


def _answer(contender: Figures) -> str:
    if contender["status"] != "measured":
        return str(contender["status"])
    return "agrees" if contender["error"] is not None else ""


def _diagram(diagram: Diagram) -> str:
    """A row for each contender, those first that need the fewest evaluations."""
    goal = f"{diagram.goal:g}"
    heads = (
        "",
        "order",
        "slope",
        "least error",
        f"evaluations for {goal}",
        f"ms for {goal}",
        "us a step",
        "ns a step, path",
    )

    def evaluations(curve: Curve) -> tuple[float, bool] | None:
        return curve.work_for(diagram.goal, lambda point: point.evaluations)

    def cells(curve: Curve) -> Iterator[str]:
        time = curve.work_for(diagram.goal, lambda point: 1e3 * point.seconds)
        yield curve.name
        yield "" if curve.order is None else f"{curve.order:g}"
        yield "" if curve.slope is None else f"{curve.slope:.2f}"
        yield f"{curve.points[-1].error:.2g}"
        yield from map(_work, (evaluations(curve), time))
        yield f"{1e6 * curve.step:,.3g}"
        yield f"{1e9 * curve.step_and_path:,.3g}"

    ranked = sorted(diagram.curves, key=lambda curve: (evaluations(curve) or (float("inf"), True))[0])
    parts = [
        f"### {diagram.group}, {diagram.paths:,} paths\n",
        _table(heads, map(tuple, map(cells, ranked)), range(1, 8)),
    ]
    parts += [f"- {name}: {why}\n" for name, why in diagram.failed.items()]
    return "\n".join(parts)


def _work(found: tuple[float, bool] | None) -> str:
    if found is None:
        return ""
    value, beyond = found
    return f"{'~' if beyond else ''}{value:,.0f}" if value >= 100 else f"{'~' if beyond else ''}{value:.3g}"


def _rows(table: str, cases: Sequence[Figures]) -> str:
    """A row for each case, columns for each contender; the error of the last one, and its first call."""
    names = list(dict.fromkeys(c["name"] for case in cases for c in case["contenders"]))
    lines = []
    for case in cases:
        found = {c["name"]: c for c in case["contenders"]}
        last = found[names[-1]]
        error, first = last["error"], last["first_seconds"]
        lines.append(
            (
                case["row"]["head"],
                *(_median(found.get(name)) for name in names),
                "" if first is None else f"{first:.1f}",
                "" if error is None else f"{float(error):.1e}",
                _answer(last),
            )
        )
    heads = ("", *(f"{name} ms" for name in names), "first s", "error", "answer")
    notes = [
        f"- {title(case)}, {c['name']}: {c['raised']}\n" for case in cases for c in case["contenders"] if c["raised"]
    ]
    parts = [f"### {table}\n", _table(heads, lines, range(1, len(names) + 3)), f"{caption(cases[0])}\n", *notes]
    return "\n".join(parts)


def _curve(group: str, cases: Sequence[Figures]) -> str:
    """A row for each size, a column for each contender."""
    names = list(dict.fromkeys(c["name"] for case in cases for c in case["contenders"]))

    def table(cell: Callable[[Figures | None], str]) -> str:
        rows = []
        for case in cases:
            found = {c["name"]: c for c in case["contenders"]}
            rows.append((f"{case['size']['value']:,}", *(cell(found.get(name)) for name in names)))
        return _table((cases[0]["size"]["along"], *names), rows, numbers=range(len(names) + 1))

    shown = f"### {group}\n\n{table(_median)}"
    if cases[0]["size"].get("memory"):
        shown += f"\nPeak memory in MiB, beyond what was there before:\n\n{table(_peak)}"
    return shown


def _peak(contender: Figures | None) -> str:
    peak = None if contender is None else contender["peak_bytes"]
    return "" if peak is None else f"{peak / 2**20:,.3g}"


def _median(contender: Figures | None) -> str:
    if contender is None:
        return ""
    return milliseconds(contender["median"]) if contender["status"] == "measured" else str(contender["status"])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A Markdown table; the columns `numbers` are set to the right."""
    right = set(numbers)
    lines = [heads, ["---:" if i in right else "---" for i in range(len(heads))], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"
