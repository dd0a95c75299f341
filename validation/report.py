"""report.json and report.html of a run, complete or not."""

from __future__ import annotations

import json
import math
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, select_autoescape

import sdesolve
from sdesolve.versions import versions
from validation.check import Check
from validation.plots import figures, images
from validation.run import Run
from validation.significance import FALSE_ALARM
from validation.table import expected, measured, number

SCHEMA = 1
PACKAGES = ("torch", "numpy", "scipy", "matplotlib")


def environment() -> dict[str, Any]:
    """Versions of what the figures depend on."""
    return (
        {"sdesolve": sdesolve.__version__}
        | versions(PACKAGES)
        | {
            "system": platform.system(),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        }
    )


def as_json(run: Run, seconds: float) -> dict[str, Any]:
    """What report.json holds.

    Everything but ``environment`` and ``timings`` is the same for every run with the same settings on the same machine.
    """
    failed = sum(not check.passed for check in run.checks)
    return {
        "schema": SCHEMA,
        "settings": {"quick": run.settings.quick, "seed": run.settings.seed, "sections": run.sections},
        "summary": {
            "passed": run.passed,
            "checks": len(run.checks),
            "failed": failed,
            "interrupted": run.interrupted,
        },
        "checks": [_check(check) for check in run.checks],
        "environment": environment(),
        "timings": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "cases": [
                {"section": section, "case": case, "seconds": round(spent, 3)}
                for (section, case), spent in run.timings.items()
            ],
        },
    }


def _check(check: Check) -> dict[str, Any]:
    return _plain(
        {
            "name": check.name,
            "section": check.section,
            "what": check.what,
            "expected": check.expected,
            "criterion": check.criterion,
            "measured": check.measured,
            "interval": check.interval,
            "pass": check.passed,
            "error": check.error,
            "details": check.details,
        }
    )


def _plain(value: Any) -> Any:
    """The value with numbers of Python's own types; JSON knows no NaN and no infinity, which become text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _details(check: Check) -> str:
    """The figures behind a row, one name a line, in six digits."""
    return "\n".join(f"{name}: {_short(value)}" for name, value in check.details.items())


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_short, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def as_html(run: Run, seconds: float, jobs: int = 1) -> str:
    """The page: verdict, rows and figures by section, details of each check, environment, timings. jobs : processes
    that draw."""
    here = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=here, autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"expected": expected, "measured": measured, "number": number, "details": _details}
    found = {name: [check for check in run.checks if check.section == name] for name in run.sections}
    curves = {name: figures(checks) for name, checks in found.items()}
    drawn = iter(images([each for named in curves.values() for each in named.items()], jobs))
    sections = [
        {"name": name, "checks": checks, "images": [(title, next(drawn)) for title in curves[name]]}
        for name, checks in found.items()
        if checks
    ]
    return page.get_template("report.html.j2").render(
        run=run,
        sections=sections,
        failed=[check for check in run.checks if not check.passed],
        environment=environment(),
        seconds=seconds,
        timings=run.timings,
        false_alarm=FALSE_ALARM,
        at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def write_reports(run: Run, seconds: float, directory: Path, jobs: int = 1) -> list[Path]:
    """Write report.json and then report.html into a directory, which is made; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    data, page = directory / "report.json", directory / "report.html"
    data.write_text(json.dumps(as_json(run, seconds), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page.write_text(as_html(run, seconds, jobs), encoding="utf-8")
    return [data, page]
