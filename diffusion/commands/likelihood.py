"""``python -m diffusion likelihood MODEL DATA``: log-densities of data under a model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.progress import reporting

from ..checkpoint import load_checkpoint
from ..likelihood import log_likelihood
from ..models.data import Data, read_data
from ..models.model import ModelConfig, load_denoiser
from ..quantise import bits_per_dimension
from .files import check_outputs, replacing, write_json
from .options import add_common, add_data, device_of, positive
from .sample import BATCH, NUMBERS
from .train import split_of, split_rows

__all__ = ["add"]

EXACT = 64
AT_ONCE = 4096
"""Vector-Jacobian products times examples taken at once."""


def add(commands: Any) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "likelihood",
        help="log-densities of data under a model",
        description="Mean log-density of data by the probability flow: in nats an example, in the data's units, and in "
        "bits per dimension where the data have levels (an upper bound: one draw of the noise below them).",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="file that `train` or `demo` wrote")
    add_data(command, trained=True)
    command.add_argument("--held-out", action="store_true", help="only what `train` held out of DATA (default: all)")
    command.add_argument("--limit", type=positive, metavar="N", help="only the first N examples (default: all)")
    command.add_argument(
        "--output", type=Path, metavar="FILE", help=".json, for the report too (default: it is printed)"
    )
    command.add_argument(
        "--values", type=Path, metavar="FILE", help=".npy, for the nats of each example (default: none)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace files that exist (default: an error)")
    traces = f"exact or hutchinson (default: exact up to {EXACT} components)"
    command.add_argument("--trace", help=traces)
    command.add_argument("--probes", type=positive, help="for hutchinson (default: 1)")
    command.add_argument(
        "--batch-size", type=positive, help=f"examples at once (default: {BATCH}, down to 1 for large images)"
    )
    command.add_argument("--rtol", type=float, default=1e-4, help="relative tolerance (default: %(default)s)")
    command.add_argument("--atol", type=float, default=1e-4, help="absolute tolerance (default: %(default)s)")
    command.add_argument("--t-min", type=float, help="where the flow starts (default: as trained)")
    add_common(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluate, print the report and write what was asked for."""
    for name, path, ending in (("--output", options.output, ".json"), ("--values", options.values, ".npy")):
        if path is not None and path.suffix != ending:
            raise ValueError(message(name, str(path), f"a name that ends in {ending}"))
    device = device_of(options.device)
    denoiser, config = load_denoiser(options.model)
    values = _chosen(options, config)
    outputs = [path for path in (options.output, options.values) if path is not None]
    check_outputs(outputs, options.overwrite, inputs=[options.model, options.data])

    x = config.scaling.to_model(values, seed=options.seed)[: options.limit]
    denoiser.to(device)
    trace = options.trace or ("exact" if config.dims <= EXACT else "hutchinson")
    size = options.batch_size or min(BATCH, max(1, NUMBERS // config.dims))
    found: list[Tensor] = []
    evaluations = 0
    try:
        with reporting(not options.quiet, "likelihood") as report, torch.no_grad():
            for first in range(0, len(x), size):
                part = x[first : first + size]
                share = len(part) / len(x)
                one = log_likelihood(
                    denoiser,
                    part.to(device),
                    trace=trace,
                    probes=options.probes or 1,
                    seed=options.seed,
                    paths=list(range(first, first + len(part))),
                    t_min=_t_min(options, config),
                    t_max=config.t_max,
                    rtol=options.rtol,
                    atol=options.atol,
                    chunk=max(1, AT_ONCE // len(part)),
                    progress=False if report is None else _moved(report, first / len(x), share),
                )
                found.append(one.log_prob.double().cpu())
                evaluations = max(evaluations, int(one.stats.drift_evaluations.max()))
    except (KeyboardInterrupt, ss.SolveError):
        if found:
            print(f"stopped; keeping {sum(map(len, found))} of {len(x)} examples", file=sys.stderr)
            _write(options, config, torch.cat(found), trace, evaluations, len(x))
        raise
    _write(options, config, torch.cat(found), trace, evaluations, len(x))


def _chosen(options: argparse.Namespace, config: ModelConfig) -> Tensor:
    """The examples, all or those held out, checked against the model."""
    levels = config.scaling.levels
    data = read_data(options.data, key=options.key, levels=levels, channels=options.channels)
    if data.shape != config.shape or data.levels != levels:
        accepted = f"{_kind(config.shape, levels)}, as the model was trained on"
        raise ValueError(message("data", f"{options.data} with {_kind(data.shape, data.levels)}", accepted))
    values = data.values
    if options.held_out:
        values = values[_held_out(options, data)]
    return values


def _held_out(options: argparse.Namespace, data: Data) -> Tensor:
    split = split_of(load_checkpoint(options.model)[1], options.model)
    if not split["held_out"]:
        advice = "Train with --held-out FRACTION."
        raise ValueError(message("--held-out", f"{options.model}, which held nothing out", "one that did", advice))
    if split["examples"] != len(data.values):
        got = f"{options.data} with {len(data.values)} examples"
        raise ValueError(message("data", got, f"the {split['examples']} examples that `train` was given"))
    return split_rows(split)[1]


def _write(
    options: argparse.Namespace, config: ModelConfig, log_prob: Tensor, trace: str, evaluations: int, asked: int
) -> None:
    """`log_prob` is of x, on the model's scale."""
    nats = log_prob - config.scaling.log_volume(config.dims)
    levels = config.scaling.levels
    bits = None if levels is None else bits_per_dimension(log_prob, config.dims, levels=levels)
    report = {
        "model": str(options.model),
        "data": str(options.data),
        "examples": len(nats),
        "examples_asked_for": asked,
        "dimensions": config.dims,
        "nats": _summary(nats),
        "bits_per_dimension": None if bits is None else _summary(bits),
        "trace": trace,
        "probes": None if trace == "exact" else options.probes or 1,
        "evaluations": evaluations,
        "t_min": _t_min(options, config),
        "rtol": options.rtol,
        "atol": options.atol,
        "seed": options.seed,
    }
    if options.values is not None:
        with replacing(options.values) as file:
            np.save(file, nats.numpy(), allow_pickle=False)
    if options.output is not None:
        write_json(options.output, report)
    print(json.dumps(report, indent=2))


def _summary(values: Tensor) -> Mapping[str, float | None]:
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(values.mean()), "std_error": error}


def _t_min(options: argparse.Namespace, config: ModelConfig) -> float:
    usual = 1e-5 if config.t_min is None else config.t_min
    return float(usual if options.t_min is None else options.t_min)


def _moved(report: Any, start: float, share: float) -> Any:
    return lambda fraction: report(start + share * fraction)


def _kind(shape: tuple[int, ...], levels: int | None) -> str:
    what = "vectors" if len(shape) == 1 else "images"
    return f"{what} {shape} of {'real numbers' if levels is None else f'{levels} levels'}"
