"""``python -m diffusion demo``: everything once, on handwritten digits."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..demo import DemoSettings, run_demo
from .options import seed

__all__ = ["add"]


def add(commands: Any) -> None:
    """The command and its options."""
    command = commands.add_parser("demo", help="train on handwritten digits, sample, evaluate: pictures and report")
    command.add_argument("--output", type=Path, default=Path("out/demo"), help="folder (default: %(default)s)")
    command.add_argument("--quick", action="store_true", help="everything once over, in seconds (default: in minutes)")
    command.add_argument("--seed", type=seed, default=0, help="of all randomness (default: %(default)s)")
    command.add_argument("--steps", type=int, help="training steps (default: 2100, quick 20)")
    command.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint of an earlier run (default: begin)"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the demo."""
    settings = DemoSettings.quick(options.seed) if options.quick else DemoSettings(seed=options.seed)
    settings = settings if options.steps is None else replace(settings, steps=options.steps)
    run_demo(options.output, settings, resume=options.resume)
